"""`wain env`: the environment of this folder, made or made again with whatever that takes.

With nothing to do this has to be fast, so what decides that (images.stamp) is all that is
imported before it is known that there is something to do.
"""

from __future__ import annotations

import argparse
import os
import time

from images.stamp import boot_id, changed_inputs, has_shared, read_stamp
from wain import __version__
from wain.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from images.stamp import Stamp

# pathlib is a good part of the time of a command with nothing to do.


def arguments(parser: argparse.ArgumentParser) -> None:
    """Where, from what, and how."""
    parser.add_argument("path", nargs="?", default="", metavar="PATH", help="default: .venv")
    parser.add_argument("--thin", action="store_true", help="share packages with the store")
    parser.add_argument("--image", default="", metavar="A", help="default: of this folder's lock")
    parser.add_argument("--target", default="", metavar="T", help="default: this machine's")
    parser.add_argument("--python", default="", metavar="EXE", help="the interpreter to run on")
    parser.add_argument("--locked", action="store_true", help="fail where a lock is out of date")
    parser.add_argument("--check", action="store_true", help="compare the files, change nothing")
    parser.add_argument("--deep", action="store_true", help="with --check: hash every file")
    parser.add_argument(
        "--force", action="store_true", help="make it anew; also where another tool made one"
    )


def run(args: argparse.Namespace, out: Output) -> int:
    """Nothing to do, check, or recreate."""
    began = time.monotonic()
    folder = os.path.realpath(args.directory)
    wish = request(args)
    path = place(folder, args.path or ".venv")
    stamp = read_stamp(path)
    quick = not args.check and not args.force
    if quick and stamp is not None and is_current(stamp, path, folder, wish):
        return report(out, stamp, path, False, began)
    from wain import env_recreate

    return env_recreate.run(args, out, folder, wish, began)


def request(args: argparse.Namespace) -> str:
    """What was asked for, as one line: the same line on the same inputs is the same wish."""
    mode = "thin" if args.thin else ""
    return f"{__version__}|{args.image}|{args.target}|{args.python}|{mode}"


def place(folder: str, path: str) -> str:
    """The absolute path of an environment: real folders above it, its own name as given."""
    parent, name = os.path.split(os.path.normpath(os.path.join(folder, path)))
    return f"{os.path.realpath(parent).rstrip('/')}/{name}"


def is_current(stamp: Stamp, path: str, folder: str, wish: str) -> bool:
    """Whether an environment is what would be made now, by its stamp alone."""
    return (
        stamp.prefix == path
        and stamp.project == folder
        and stamp.request == wish
        and stamp.boot == boot_id()
        and has_shared(stamp)
        and not changed_inputs(stamp)
    )


def report(out: Output, stamp: Stamp, path: str, changed: bool, began: float) -> int:
    """Say what stands there now."""
    seconds = round(time.monotonic() - began, 3)
    if not changed:
        out.say(f"{path}: up to date, image {stamp.image[:12]}, {stamp.mode}")
    out.result(
        {
            "path": path,
            "image": stamp.image,
            "mode": stamp.mode,
            "changed": changed,
            "files": int(stamp.files),
            "seconds": seconds,
        }
    )
    return 0
