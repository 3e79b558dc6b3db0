"""The command line: finds the command, imports that one module, turns errors into exit codes.

Start-up is part of what users feel (`wain env` with nothing to do), so a command's module is
imported only when that command runs, and nothing here imports a third-party package.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import os
import sys

from wain.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

# name -> (module, one line of help); the order is the order of the main job.
COMMANDS: dict[str, tuple[str, str]] = {
    "init": ("wain.init", "write a commented wain.toml from what the folder has"),
    "lock": ("wain.lock", "resolve every target and write locks/"),
    "build": ("wain.build", "fill the wheelhouse: fetch wheels by hash, build sdists"),
    "image": ("wain.image", "build, list, show, compare, verify, move and sign images"),
    "env": ("wain.env", "recreate the environment of this folder"),
    "fleet": ("wain.fleet", "check, plan, roll out, roll back, verify and query hosts"),
    "wheelhouse": ("wain.wheelhouse_commands", "list, add, verify, explain and serve wheels"),
    "store": ("wain.store", "verify the store of objects"),
    "demo": ("wain.demo", "the whole story on this machine, with five local hosts"),
}

EXIT_CODES = """\
exit codes:
    0  done, or nothing to do
    1  failed
    2  wrong usage or configuration
    3  a check found a difference (--check, verify)
    4  roll-out halted or reverted
    5  some hosts unreachable, the rest done
    6  locked by someone else (who, since when, why)
  130  interrupted
"""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse makes one for each argument; left alone it asks the terminal each time."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_width())


@functools.cache
def _width() -> int:
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns) - 2
    try:
        return os.get_terminal_size().columns - 2 or 78
    except (AttributeError, ValueError, OSError):
        return 78


class Parser(argparse.ArgumentParser):
    """argparse, but its errors have the one form all of wain's errors have."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Formatter, **options})

    def error(self, message: str) -> NoReturn:
        """One line, exit 2."""
        print(f"{self.prog.split()[0]}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(2)


_GLOBAL = Parser(add_help=False, argument_default=argparse.SUPPRESS)
_GLOBAL.add_argument("-C", dest="directory", metavar="DIR", help="work in DIR")
_GLOBAL.add_argument("--json", action="store_true", help="one JSON document on stdout")
_GLOBAL.add_argument("-q", dest="quiet", action="store_true", help="only errors and results")
_GLOBAL.add_argument("-v", dest="verbose", action="store_true", help="say more; tracebacks too")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the process's exit status (see `EXIT_CODES`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    _restore_pipe_signal()
    # What is imported, and the thousands of tuples of a manifest, all live on: at the default
    # threshold looking through them again and again takes a third of the time.
    gc.set_threshold(100_000, 20, 20)
    parser, args = None, None
    out = Output(
        json="--json" in words,
        quiet="-q" in words,
        verbose="-v" in words,
    )
    try:
        parser = _build_parser(*_command_in(words))
        args = parser.parse_args(words)
        out.configure(
            json=getattr(args, "json", False),
            quiet=getattr(args, "quiet", False),
            verbose=getattr(args, "verbose", False),
        )
        args.directory = getattr(args, "directory", ".")
        if not os.path.isdir(args.directory):  # noqa: PTH112 - pathlib costs start-up
            out.error(f"{args.directory}: no such folder (-C)")
            return 2
        code = int(args.run(args, out))
        out.finish()
    except SystemExit as stop:
        return int(stop.code or 0)
    except KeyboardInterrupt:
        out.finish()
        out.error("interrupted; nothing half-done is active, the same command again continues")
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; what was to be done has its own records.
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 1
    except Exception as error:  # the one place where errors become exit codes
        return _fail(error, out)
    return code


def _fail(error: Exception, out: Output) -> int:
    out.finish()
    code = getattr(error, "exit_code", None)
    if isinstance(code, int):
        out.error(str(error))
    elif isinstance(error, OSError):
        place = error.filename if error.filename is not None else "system"
        out.error(f"{place}: {error.strerror or error}")
    else:
        out.error(f"internal: {type(error).__name__}: {error} (-v shows where)")
    if out.verbose:
        import traceback

        traceback.print_exception(error, file=sys.stderr)
    return code if isinstance(code, int) else 1


def _command_in(words: Sequence[str]) -> tuple[str, bool]:
    """The command among the words: the first that is no option and no value of -C.

    And whether it is all that the line is about: not with an option before it, which may ask
    for help on all commands.
    """
    skip = False
    for at, word in enumerate(words):
        if skip:
            skip = False
        elif word == "-C":
            skip = True
        elif not word.startswith("-"):
            return word, at in (0, 2)
    return "", False


def _build_parser(command: str, alone: bool) -> argparse.ArgumentParser:
    """The parser with the options of `command` only: other modules stay unimported.

    With `alone` it knows no other command: making the others is a tenth of the time of a
    `wain env` with nothing to do.
    """
    parser = Parser(
        prog="wain",
        parents=[_GLOBAL],
        description="Reproducible Python environments from wheels, rolled out to fleets.",
        epilog=EXIT_CODES,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    parser.set_defaults(run=_no_command(parser))
    # Without prog, argparse would format a usage text to find it.
    commands = parser.add_subparsers(
        metavar="COMMAND", dest="command", prog="wain", parser_class=Parser
    )
    for name, (module_name, help_text) in COMMANDS.items():
        if alone and command in COMMANDS and name != command:
            continue
        own = commands.add_parser(
            name,
            parents=[_GLOBAL],
            help=help_text,
            description=help_text[0].upper() + help_text[1:] + ".",
            epilog=EXIT_CODES,
        )
        if name == command:
            module = importlib.import_module(module_name)
            module.arguments(own)
            if own.get_default("run") is None:
                own.set_defaults(run=module.run)
    return parser


def global_options() -> Parser:
    """The options every command takes: a parent parser for sub-commands of a group."""
    return _GLOBAL


def _no_command(
    parser: argparse.ArgumentParser,
) -> Callable[[argparse.Namespace, Output], int]:
    def run(args: argparse.Namespace, out: Output) -> int:
        if args.version:
            from wain import __version__

            out.say(f"wain {__version__}")
            out.result({"version": __version__})
            return 0
        parser.print_help()
        return 2

    return run


def _restore_pipe_signal() -> None:
    """A closed pipe is an exception here, not a silent death in the middle of a roll-out."""
    import signal

    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
