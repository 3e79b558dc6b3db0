"""Figures of fleets over a real sshd on loopback addresses, against rsync over ssh."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.pairs import Action, Figure, Fresh, command, cpu_of_children, nothing, paired
from bench.report import Result
from bench.tried_set import PACKAGES, WAIN, project
from tests.support.sshd import Sshd, serving

HOSTS = 64
PARALLEL = 32
SMALL = ["Django", "requests"]


def measure(folder: Path) -> list[Result]:
    """All figures of this section."""
    folder.mkdir(parents=True)
    results: list[Result] = []
    for name, packages, bound in (("small", SMALL, 0.6), ("large", PACKAGES, 0.4)):
        here = folder / name
        here.mkdir()
        (here / "sshd").mkdir()
        with serving(here / "sshd", HOSTS) as server:
            yard = _Yard(here, server, packages)
            results += yard.many_hosts(name, bound)
            if name == "large":
                results += yard.one_host()
        shutil.rmtree(here, ignore_errors=True)
    results += [_frozen(folder / "frozen"), _memory(folder / "memory"), _query(folder / "query")]
    return results


class _Yard:
    """A project with an image, its fleet of sshd hosts, and a plain tree of it for rsync."""

    def __init__(self, folder: Path, server: Sshd, packages: list[str]) -> None:
        self._folder = folder
        self._server = server
        self._project = folder / "set"
        self._store = {"WAIN_STORE": str(folder / "store")}
        self._tree = folder / "tree"
        project(self._project, packages, store=folder / "store")
        command([*WAIN, "-C", str(self._project), "env", str(self._tree)], **self._store)()
        self._rolled_back = False
        self._fleet(HOSTS)

    def _fleet(self, count: int, root: object = "app", name: str = "h") -> None:
        text = self._server.fleet_toml(f"[rollout]\nparallel = {PARALLEL}\n")
        head, _, hosts = text.partition("[[host]]")
        blocks = hosts.split("[[host]]")[:count]
        # A table ends where the next begins: the hosts stand before [rollout].
        top, _, rollout = head.partition("[rollout]")
        body = "".join(f"[[host]]{block}\n" for block in blocks).replace('/app"', f'/{root}"')
        body = body.replace('name = "h', f'name = "{name}')
        (self._project / "fleet.toml").write_text(f"{top}\n{body}\n[rollout]{rollout}\n")

    def _wain(self, *words: str) -> Action:
        return command([*WAIN, "-C", str(self._project), "fleet", *words], **self._store)

    def _json(self, *words: str) -> dict[str, Any]:
        result = subprocess.run(
            [*WAIN, "-C", str(self._project), "fleet", *words, "--json"],
            env={**os.environ, **self._store},
            stdout=subprocess.PIPE,
            check=True,
        )
        document: dict[str, Any] = json.loads(result.stdout)
        return document

    def _rsync(
        self, tree: Path, hosts: Sequence[int], *options: str, to: object = "rsync"
    ) -> Action:
        server = self._server
        shell = shlex.join(
            [
                *["ssh", "-F", "/dev/null", "-p", str(server.port), "-i", str(server.key)],
                *["-o", f"UserKnownHostsFile={server.known_hosts}", "-o", "BatchMode=yes"],
            ]
        )

        def one(number: int) -> None:
            place = Path(server.root(number)).parent / str(to)
            address = f"{server.user}@{server.address(number)}:{place}/"
            command(["rsync", *options, "-e", shell, f"{tree}/", address])()

        def act() -> None:
            with ThreadPoolExecutor(PARALLEL) as pool:
                list(pool.map(one, hosts))

        return act

    def many_hosts(self, name: str, bound: float) -> list[Result]:
        hosts = range(1, HOSTS + 1)
        self._wain("rollout", "set", "--yes")()
        self._rsync(self._tree, hosts, "-a")()
        again = self._wain("rollout", "set", "--yes")
        idle = paired(
            f"Nothing to do, {HOSTS} hosts, {name} image",
            ("wain fleet rollout", nothing, again),
            ("rsync -a", nothing, self._rsync(self._tree, hosts, "-a")),
            runs=5,
            bound=bound,
        )
        if name != "small":
            return [idle]
        cpu = statistics.median(cpu_of_children(again) for _ in range(5))
        start = statistics.median(cpu_of_children(self._wain("--help")) for _ in range(5))
        self._bump()
        self._wain("rollout", "set:bumped", "--yes")()
        back = paired(
            f"Rollback of {HOSTS} hosts",
            ("wain fleet rollback", nothing, self._wain("rollback", "--yes")),
            ("nothing to do", nothing, self._nothing_to_do),
            runs=5,
            bound=1.4,
        )
        per_host = 1000 * (cpu - start) / HOSTS
        return [idle, Figure("Controller CPU per host, nothing to do", per_host, "ms", 25.0), back]

    def _nothing_to_do(self) -> None:
        """A roll-out of the image that runs now: rollbacks go to and fro between two tags."""
        self._rolled_back = not self._rolled_back
        self._wain("rollout", "set:before" if self._rolled_back else "set:bumped", "--yes")()

    def _bump(self) -> None:
        """Tag what runs `before`; move one package and tag that image `bumped`."""
        tag = ["image", "tag", "set", "before"]
        command([*WAIN, "-C", str(self._project), *tag], **self._store)()
        requirements = self._project / "requirements.txt"
        lines = [line for line in requirements.read_text().split() if line != "requests"]
        requirements.write_text("\n".join([*lines, "requests==2.32.3"]) + "\n")
        for words in (["lock"], ["build"], ["image", "build", "--tag", "bumped"]):
            command([*WAIN, "-C", str(self._project), *words], **self._store)()

    def one_host(self) -> list[Result]:
        """One host, with a root and a tree of fresh names for each run."""
        root, tree = Fresh(Path("first")), Fresh(Path("rsync"))

        def empty_root() -> None:
            root()
            self._fleet(1, root, name=f"{root}-")

        def unplanned() -> None:
            """And no pack of another roll-out is there, or of a plan."""
            empty_root()
            shutil.rmtree(self._folder / "store" / "packs", ignore_errors=True)

        def planned() -> None:
            empty_root()
            self._wain("plan", "set")()

        first = paired(
            "First roll-out to one host",
            ("wain fleet rollout", unplanned, self._wain("rollout", "set", "--yes")),
            ("rsync -az", tree, self._rsync(self._tree, [1], "-az", to=tree)),
            runs=9,
            bound=1.0,
        )
        after_plan = paired(
            "First roll-out to one host, after its plan",
            ("wain fleet rollout", planned, self._wain("rollout", "set", "--yes")),
            ("rsync -az", tree, self._rsync(self._tree, [1], "-az", to=tree)),
            runs=5,
            bound=1.0,
        )
        self._bump()
        bumped = self._folder / "bumped"
        command([*WAIN, "-C", str(self._project), "env", str(bumped)], **self._store)()

        def root_of_before() -> None:
            empty_root()
            self._wain("rollout", "set:before", "--yes")()

        root_of_before()
        document = self._json("rollout", "set:bumped", "--yes")
        (host,) = document["hosts"].values()
        changed = _compressed_change(self._tree, bumped)
        new, base = Fresh(Path("bumped")), f"--link-dest=../{tree}"
        link_dest = self._rsync(bumped, [1], "-az", base, to=new)
        change = paired(
            "One package bumped",
            ("wain fleet rollout", root_of_before, self._wain("rollout", "set:bumped", "--yes")),
            ("rsync -az --link-dest", new, link_dest),
            runs=5,
            bound=0.8,
        )
        return [
            first,
            after_plan,
            change,
            Figure(
                "One package bumped: bytes sent over the compressed size of what changed",
                host["bytes_sent"] / changed,
                "×",
                bound=1.1,
                note=f"{host['bytes_sent']} bytes sent, {changed} bytes compressed",
            ),
        ]


def _compressed_change(before: Path, after: Path) -> int:
    """Compressed size of the regular files that are new or changed, in bytes."""
    size = 0
    for base, _, names in os.walk(after):
        for name in names:
            path = Path(base, name)
            other = before / path.relative_to(after)
            if path.is_symlink() or not path.is_file():
                continue
            data = path.read_bytes()
            if not other.is_file() or other.read_bytes() != data:
                size += len(zlib.compress(data, 6))
    return size


def _local_fleet(folder: Path, count: int, settings: str) -> Path:
    """A small project with `count` local hosts."""
    here = folder / "project"
    project(here, ["six"], store=folder / "store")
    interpreter = json.dumps(os.path.realpath(sys.executable))
    hosts = "".join(
        f'[[host]]\nname = "h{n}"\nroot = "{folder}/hosts/h{n}"\n' for n in range(1, count + 1)
    )
    (here / "fleet.toml").write_text(
        f'transport = "local"\npython = {interpreter}\n{hosts}\n[rollout]\n{settings}'
    )
    return here


def _frozen(folder: Path) -> Figure:
    """One host of eight is stopped in the middle of a health check and never answers."""
    deadline = 5.0
    here = _local_fleet(folder, 8, f'max-failures = 8\nstep-timeout = "{deadline:.0f}s"\n')
    marker = folder / "frozen.pid"
    script = f"case {{release}} in */h3/*) echo $PPID > {marker}; kill -STOP $PPID;; esac"
    with (here / "fleet.toml").open("a") as file:
        file.write(f"health = [{json.dumps(script)}]\n")
    begun = time.monotonic()
    result = subprocess.run(
        [*WAIN, "-C", str(here), "fleet", "rollout", "set", "--yes", "--json"],
        env={**os.environ, "WAIN_STORE": str(folder / "store")},
        capture_output=True,
        check=False,
    )
    seconds = time.monotonic() - begun
    if marker.exists():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(marker.read_text()), signal.SIGKILL)
    document = json.loads(result.stdout)
    hosts = document["hosts"]
    done = sum(host["state"] == "succeeded" for host in hosts.values())
    if done != 7 or hosts["h3"]["state"] not in ("failed", "reverted", "unreachable"):
        raise RuntimeError(f"unexpected states: {hosts}")
    report = subprocess.run(
        [*WAIN, "-C", str(here), "fleet", "report", document["rollout"], "-q", "--json"],
        env={**os.environ, "WAIN_STORE": str(folder / "store")},
        capture_output=True,
        check=True,
    )
    steps = json.loads(report.stdout)["markdown"].partition("### h3:")[2].splitlines()
    health = next(line for line in steps if line.startswith("| health |"))
    late = float(health.split("|")[3]) - deadline
    return Figure(
        "One frozen host of eight: its verdict after its deadline",
        late,
        "s",
        bound=1.0,
        note=f"the other seven finished; the whole roll-out took {seconds:.1f} s",
    )


def _memory(folder: Path) -> Figure:
    """Peak memory of the controller with 1,000 local hosts against 50."""
    peaks = []
    for count in (50, 1000):
        here = _local_fleet(folder / str(count), count, f"parallel = {PARALLEL}\n")
        argv = [*WAIN, "-C", str(here), "fleet", "rollout", "set", "--yes", "-q"]
        environment = {**os.environ, "WAIN_STORE": str(folder / str(count) / "store")}
        process = subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"roll-out to {count} hosts ended with {status}")
        peaks.append(_own_peak(usage))
        _remove(folder / str(count))
    return Figure(
        "Peak memory of the controller, 1,000 hosts over 50",
        peaks[1] / peaks[0],
        "×",
        bound=1.5,
        note=f"{peaks[0] / 1e6:.0f} MB with 50, {peaks[1] / 1e6:.0f} MB with 1,000",
    )


def _own_peak(usage: resource.struct_rusage) -> int:
    return usage.ru_maxrss * 1024


def _query(folder: Path) -> Figure:
    """`query` over a journal of 25,000 hosts and 40 images."""
    from bench.large_journal import fill

    here = _local_fleet(folder, 1, "")
    fill(here / ".wain" / "fleet.db", hosts=25_000, images=40)
    argv = [*WAIN, "-C", str(here), "fleet", "query", "requests<2.32", "--json"]
    act = command(argv, WAIN_STORE=str(folder / "store"))
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - begun)
    return Figure("Query, 25,000 hosts and 40 images", statistics.median(seconds), "s", bound=1.0)


def _remove(path: Path) -> None:
    for base, folders, _ in os.walk(path):
        for name in folders:
            if not os.path.islink(os.path.join(base, name)):
                os.chmod(os.path.join(base, name), 0o755)
    shutil.rmtree(path, ignore_errors=True)
