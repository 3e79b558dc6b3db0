"""`wain image …`: each action's module is imported only when that action runs."""

from __future__ import annotations

import argparse
import importlib
from typing import Any, cast

from wain.cli import EXIT_CODES, global_options
from wain.output import Output

# action -> (module, one line of help)
ACTIONS: dict[str, tuple[str, str]] = {
    "build": ("wain.image_build", "assemble the image of each target from its lock"),
    "list": ("wain.image_names", "list the images in the store"),
    "show": ("wain.image_names", "show one image: target, packages, size"),
    "tag": ("wain.image_names", "give an image another name"),
    "untag": ("wain.image_names", "take a name away"),
    "gc": ("wain.image_names", "remove images and objects that nothing uses"),
    "diff": ("wain.image_diff", "compare two images, by package and then by file"),
    "verify": ("wain.image_verify", "hash an image's objects again, repair the bad ones"),
    "export": ("wain.image_bundle", "write an image to one file"),
    "import": ("wain.image_bundle", "read an image from such a file"),
    "sign": ("wain.image_sign", "sign an image with an OpenSSH key"),
    "trust": ("wain.image_trust", "say whose signatures count"),
    "sbom": ("wain.image_sbom", "write an image's bill of materials (CycloneDX JSON)"),
}


class _Lazy(argparse.ArgumentParser):
    """A parser that gets its arguments, and its module, when it is first used."""

    def __init__(self, *, action: str = "", **options: Any) -> None:
        self._action = action
        self._filled = False
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if not self._filled:
            self._filled = True
            module = importlib.import_module(ACTIONS[self._action][0])
            adder = getattr(module, f"arguments_{self._action}", None) or module.arguments
            adder(self)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> Any:
        self.exit(2, f"wain: error: {message} (see {self.prog} --help)\n")


def arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each action."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", parser_class=_Lazy)
    for name, (_, text) in ACTIONS.items():
        actions.add_parser(
            name,
            action=name,
            parents=cast(Any, [global_options()]),
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    parser.set_defaults(show_help=parser.print_help)


def run(args: argparse.Namespace, out: Output) -> int:
    """Run one action; its module was imported when its arguments were read."""
    if not args.action:
        args.show_help()
        return 2
    module = importlib.import_module(ACTIONS[args.action][0])
    runner = getattr(module, f"run_{args.action}", None) or module.run
    return int(runner(args, out))
