"""A roll-out played on scratch clones on this machine, before a real host sees it.

For every pair of images in the plan: a folder of this machine gets the release hosts have now,
then the new one with the plan's health commands, then goes back; each time the release is
hashed. The real transport, agent and steps are used. Left out, and said so: commands after the
switch (they would restart something here) and URLs (nothing serves here).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fleet.contact import open_session
from fleet.errors import HostError
from fleet.host_run import HostRun
from fleet.inventory import Host, Settings
from fleet.journal import StepRow
from fleet.plan import SWITCH, HostPlan, Plan
from fleet.result import hosts_text
from fleet.rollback import roll_back
from fleet.steps import SUCCEEDED, Job, Outcome
from fleet.wanted import Comparisons, Wanted

Say = Callable[[str], None]


@dataclass
class Clone:
    """One pair of images, how many hosts it stands for, and what happened."""

    before: str | None
    after: str
    hosts: int
    steps: list[dict[str, Any]] = field(default_factory=list)
    problem: str = ""

    @property
    def ok(self) -> bool:
        """Whether the way there and back worked."""
        return not self.problem

    def document(self) -> dict[str, Any]:
        """As kept and shown."""
        return {**asdict(self), "ok": self.ok}


class _Stop(Exception):
    """A clone failed; ``args[0]`` says how."""


def rehearse(
    plan: Plan,
    wanted: Mapping[str, Wanted],
    images: Comparisons,
    settings: Settings,
    folder: Path,
    by: Mapping[str, str],
    say: Say = lambda text: None,
) -> list[Clone]:
    """Play every pair of images of `plan` in a scratch folder below `folder`."""
    pairs: dict[tuple[str | None, str], int] = {}
    for host in plan.hosts:
        if host.action == SWITCH and host.image:
            pair = (host.current, host.image)
            pairs[pair] = pairs.get(pair, 0) + 1
    clones = []
    with tempfile.TemporaryDirectory(prefix="rehearsal-", dir=folder) as scratch:
        for at, ((before, after), count) in enumerate(pairs.items(), 1):
            clone = Clone(before, after, count)
            way = f"{_short(before)} → {_short(after)}"
            say(f"clone {at} of {len(pairs)}: {way}, for {hosts_text(count)}")
            root = Path(scratch) / str(at) / "root"
            root.parent.mkdir(mode=0o755)
            try:
                _play(clone, wanted[after], images, settings, str(root), by)
            except _Stop as stop:
                clone.problem = str(stop)
            except HostError as error:
                clone.problem = error.what
            say(f"  {clone.problem or 'there and back, both verified'}")
            clones.append(clone)
            _remove(root.parent)
    return clones


def left_out(settings: Settings, hosts: Iterable[Host]) -> list[str]:
    """What a rehearsal does not run, or does not have."""
    found = [f"after-switch: {command}" for command in settings.after_switch]
    found += [f"health: {check.text}" for check in settings.health if check.http]
    return found + [
        f"env-file: {path}" for path in sorted({h.env_file or "" for h in hosts}) if path
    ]


def _play(
    clone: Clone, wanted: Wanted, images: Comparisons, settings: Settings, root: str,
    by: Mapping[str, str],
) -> None:  # fmt: skip
    python = _interpreter(wanted.needs.python)
    host = Host("clone", root, python, transport="local")
    checks = tuple(check for check in settings.health if check.command)
    bare = replace(settings, after_switch=(), health=(), soak=0.0, bandwidth=None)

    def note(host: str, step: str, row: StepRow | None) -> None:
        if row is not None:
            clone.steps.append(asdict(row))

    def job(using: Settings) -> Job:
        return Job(using, by, note)

    if clone.before is not None:
        manifest, document = images.manifest(clone.before), images.document(clone.before)
        if manifest is None or document is None:
            raise _Stop(f"image {clone.before[:12]} is not in this machine's store")
        current = Wanted("now", document, manifest, replace(
            wanted.needs, python=manifest.python, abi=manifest.abi, platform=manifest.platform
        ))  # fmt: skip
        _demand("the release of now", _run(job(bare), host, current, images, None, 0))
    generation = 0 if clone.before is None else 1
    outcome = _run(
        job(replace(bare, health=checks)), host, wanted, images, clone.before, generation
    )
    _demand("the new release", outcome)
    _verified(job(bare), host, clone.after)
    if clone.before is not None:
        _demand("the way back", roll_back(job(bare), host))
        _verified(job(bare), host, clone.before)


def _run(
    job: Job, host: Host, wanted: Wanted, images: Comparisons, current: str | None,
    generation: int,
) -> Outcome:  # fmt: skip
    plan = HostPlan(host.name, SWITCH, wanted.id, current, None, generation)
    return HostRun(job, host, plan, wanted, images).run()


def _demand(what: str, outcome: Outcome) -> None:
    if outcome.state != SUCCEEDED:
        raise _Stop(f"{what}: {outcome.state}: {outcome.error}")


def _verified(job: Job, host: Host, image: str) -> None:
    with open_session(host, job.settings, by=job.by) as session:
        drift = session.verify(image, deep=True)
    # What a health check compiles or writes into its release shows up on real hosts too.
    bad = [one for one in drift if one.what != "added"]
    if bad:
        raise _Stop(f"{image[:12]} differs: {bad[0].path} ({bad[0].what}), {len(bad)} in all")


def _interpreter(minor: str) -> str:
    """An interpreter of this machine for clones; a release resolves it anyway."""
    if minor == "{}.{}".format(*sys.version_info[:2]):
        return sys.executable
    found = shutil.which(f"python{minor}")
    if found is None:
        raise _Stop(f"there is no python{minor} on this machine to run the image")
    return found


def _remove(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o755)
    shutil.rmtree(folder)


def _short(image: str | None) -> str:
    return image[:12] if image else "nothing"


def evidence(plan: Plan, clones: Sequence[Clone], left: Sequence[str]) -> dict[str, Any]:
    """What is kept with the plan's digest; ``left`` was left out."""
    return {
        "plan": plan.digest,
        "images": dict(plan.images),
        "clones": [clone.document() for clone in clones],
        "left_out": list(left),
    }
