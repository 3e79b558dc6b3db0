"""`wain env --check`, and whether an environment is what its stamp says."""

from __future__ import annotations

import argparse

from images.errors import DifferenceError, WainError
from images.render import Interpreter
from images.stamp import NAME, Stamp, boot_id, changed_inputs, write_stamp
from images.store import Store
from wain.env import is_current, report
from wain.output import Output


def survived(stamp: Stamp, path: str, folder: str, wish: str) -> bool:
    """Whether an environment from before the last reboot is whole; then it is stamped anew.

    It was not flushed to disk when it was made: a power cut may have cut files short.
    """
    same_boot, stamp.boot = stamp.boot, boot_id()
    if same_boot == stamp.boot or not is_current(stamp, path, folder, wish):
        return False
    try:
        if _drift(stamp, path, False, None):
            return False
        write_stamp(f"{path}/{NAME}", stamp)
    except (WainError, OSError):
        return False
    return True


def _drift(stamp: Stamp, path: str, deep: bool, out: Output | None) -> list[tuple[str, str, str]]:
    from images import environment

    store = Store(stamp.store)
    interpreter = Interpreter(stamp.executable, stamp.version, stamp.base)
    found = environment.check(
        store,
        store.manifest(stamp.image),
        stamp,
        path,
        interpreter,
        deep,
        out.progress if out else None,
    )
    return [(one.path, one.owner, one.what) for one in found]


def check(
    args: argparse.Namespace,
    out: Output,
    path: str,
    stamp: Stamp | None,
    wish: str,
    folder: str,
    began: float,
) -> int:
    """Compare files and inputs; exit 3 when either differs. Raises DifferenceError for none."""
    if stamp is None:
        raise DifferenceError(path, "is no environment that wain made", "wain env makes it")
    drift = _drift(stamp, path, args.deep, out)
    stale = changed_inputs(stamp)
    if stamp.prefix != path:
        stale.append(f"its path (was {stamp.prefix})")
    if stamp.request != wish or stamp.project != folder:
        stale.append("what was asked for")
    packages: dict[str, int] = {}
    for _, owner, _ in drift:
        packages[owner] = packages.get(owner, 0) + 1
    for owner, count in sorted(packages.items()):
        out.say(
            f"{owner if owner != '-' else '(the environment itself)'}: {count} "
            f"{'file differs' if count == 1 else 'files differ'}"
        )
        for name, its_owner, what in drift:
            if its_owner == owner:
                out.say(f"  {what:8} {name}")
    if stale:
        out.say(f"would be made anew, changed since: {', '.join(stale)}")
    ok = not drift and not stale
    if ok:
        report(out, stamp, path, False, began)
    out.result(
        {
            "path": path,
            "image": stamp.image,
            "mode": stamp.mode,
            "changed": False,
            "files": int(stamp.files),
            "ok": ok,
            "drift": [
                {"path": name, "package": owner, "what": what} for name, owner, what in drift
            ],
            "inputs": stale,
        }
    )
    return 0 if ok else 3
