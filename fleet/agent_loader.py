"""The agent's modules as bytecode, and the importer that finds them. Travels to hosts.

``modules`` maps a dotted name to its marshalled code and whether it is a package. Each one is
unmarshalled when it is first imported, so a verb that is not used costs nothing.
"""

from __future__ import annotations

import marshal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any
    from zipfile import ZipFile

    Modules = dict[str, tuple[bytes, bool]]


def compile_all(archive: ZipFile) -> Modules:
    """Compile every module of the shipped archive."""
    modules: Modules = {}
    for path in sorted(archive.namelist()):
        name = path[:-3].replace("/", ".")
        package = name.endswith(".__init__")
        if package:
            name = name[: -len(".__init__")]
        source, place = archive.read(path), f"<agent>/{path}"
        code = compile(source, place, "exec", dont_inherit=True, optimize=0)
        modules[name] = (marshal.dumps(code), package)
    return modules


def pack(modules: Modules) -> bytes:
    """All modules as one text of bytes for the file beside the agent."""
    return marshal.dumps(modules)


class Importer:
    """Finds and runs the agent's modules."""

    def __init__(self, modules: Modules) -> None:
        self._modules = modules

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The importer protocol's question: is it one of ours?"""
        if name not in self._modules:
            return None
        from _frozen_importlib import ModuleSpec

        return ModuleSpec(name, self, is_package=self._modules[name][1])  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """The importer protocol: the usual kind of module will do."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Run a module's code in its own space."""
        exec(marshal.loads(self._modules[module.__name__][0]), module.__dict__)  # noqa: S102, S302


def install(modules: Modules) -> None:
    """Make the modules importable, ahead of anything else."""
    sys.meta_path.insert(0, Importer(modules))
