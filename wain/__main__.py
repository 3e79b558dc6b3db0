"""Where the command ``wain`` and ``python -m wain`` begin and end."""

import os
import sys


def start() -> int:
    """Run one command; the exit status. Ctrl-C counts from the first import on."""
    try:
        from wain.cli import main
    except KeyboardInterrupt:
        sys.stderr.write("wain: error: interrupted; nothing was begun\n")
        return 130
    status = main()
    _leave(status)
    return status


def _leave(status: int) -> None:
    """End the process here, where nothing is left to be done.

    Taking every module and object apart first is a fifth of the time of a thin environment.
    Returns, for Python to end in its own way, when a thread still works or an output fails.
    """
    import atexit

    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        return
    try:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except Exception:
        return
    os._exit(status)


if __name__ == "__main__":
    sys.exit(start())
