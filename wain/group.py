"""Commands with actions (`wain fleet …`, `wain image …`): only the action that runs is imported.

A group is a table: action -> (module, one line of help). The module has ``arguments_<action>``
or ``arguments``, and ``run_<action>`` or ``run``.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from typing import Any, cast

from wain.cli import EXIT_CODES, Parser, global_options
from wain.output import Output

Actions = Mapping[str, tuple[str, str]]


class _Lazy(Parser):
    """A parser that gets its arguments, and its module, when it is first used."""

    def __init__(self, *, action: str = "", actions: Actions | None = None, **options: Any) -> None:
        self._action = action
        self._module = (actions or {}).get(action, ("", ""))[0]
        super().__init__(**options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._module:
            module, self._module = importlib.import_module(self._module), ""
            adder = getattr(module, f"arguments_{self._action}", None) or module.arguments
            adder(self)
        return super().parse_known_args(args, namespace)


def arguments(parser: argparse.ArgumentParser, actions: Actions) -> None:
    """One sub-command for each action."""
    choices = parser.add_subparsers(metavar="ACTION", dest="action", parser_class=_Lazy)
    for name, (_, text) in actions.items():
        choices.add_parser(
            name,
            action=name,
            actions=actions,
            parents=cast(Any, [global_options()]),
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=EXIT_CODES,
        )
    parser.set_defaults(show_help=parser.print_help)


def run(args: argparse.Namespace, out: Output, actions: Actions) -> int:
    """Run one action; its module was imported when its arguments were read."""
    if not args.action:
        args.show_help()
        return 2
    module = importlib.import_module(actions[args.action][0])
    runner = getattr(module, f"run_{args.action}", None) or module.run
    return int(runner(args, out))
