"""Where the command ``wain`` and ``python -m wain`` begin."""

import sys


def start() -> int:
    """Run one command; the exit status. Ctrl-C counts from the first import on."""
    try:
        from wain.cli import main
    except KeyboardInterrupt:
        sys.stderr.write("wain: error: interrupted; nothing was begun\n")
        return 130
    return main()


if __name__ == "__main__":
    sys.exit(start())
