"""Which image an environment is made from: a named one, a remembered one, or one built now."""

from __future__ import annotations

import argparse
import importlib
import os

from images.errors import DifferenceError, UsageError, WainError
from images.home import make_state_folder
from images.interpreter import machine_problem, running_interpreter
from images.stamp import Stamp, changed_inputs, load_stamp, write_stamp
from wain import __version__
from wain.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from builder.spec import BuildSpec, TargetSpec
    from images.catalog import Catalog


def recipe_path(folder: str, target: str) -> str:
    """Where the stamp of the last environment made for a target is kept."""
    return f"{folder}/.wain/recipes/{target or '-'}"


class Settings:
    """What a project's files say about its environment: path as configured, mode, editable."""

    __slots__ = ("editable", "mode", "path")

    def __init__(self, path: str, mode: str, editable: bool) -> None:
        self.path = path
        self.mode = mode
        self.editable = editable

    def to_line(self) -> str:
        """As it is kept with a recipe."""
        return f"{__version__}|recipe|{self.mode}|{'editable' if self.editable else ''}|{self.path}"

    @classmethod
    def of(cls, spec: BuildSpec) -> Settings:
        """What a configuration says."""
        return cls(spec.env_path, spec.env_mode, bool(spec.project) and spec.editable)


def recall(folder: str, target: str) -> tuple[Stamp, Settings] | None:
    """The recipe for a target, when it is of this wain and all its inputs are what they were."""
    known = load_stamp(recipe_path(folder, target))
    if known is None or known.project != folder or changed_inputs(known):
        return None
    parts = known.request.split("|", 4)
    if parts[:2] != [__version__, "recipe"] or len(parts) != 5:
        return None
    return known, Settings(parts[4], parts[2], parts[3] == "editable")


def remember(folder: str, target: str, stamp: Stamp, settings: Settings) -> None:
    """Keep which image these inputs led to, so that the next time nothing is built."""
    stamp.request = settings.to_line()
    try:
        make_state_folder(f"{folder}/.wain")
        os.makedirs(f"{folder}/.wain/recipes", exist_ok=True)
        write_stamp(recipe_path(folder, target), stamp)
    except OSError:
        # It only saves time; a folder that cannot be written still gets its environment.
        return


def target_here(candidates: Mapping[str, str], catalog: Catalog) -> str:
    """The target among an image's that runs on this machine."""
    fitting = []
    for name, image_id in candidates.items():
        target = catalog.document(image_id).target
        if not machine_problem(target.platform):
            fitting.append((target.python == running_interpreter()[0], name))
    if len(fitting) > 1:
        fitting = [one for one in fitting if one[0]] or fitting
    if len(fitting) == 1:
        return fitting[0][1]
    what = "several targets run on this machine" if fitting else "no target runs on this machine"
    raise UsageError("--target", what, f"there are: {', '.join(sorted(candidates))}")


def choose_target(spec: BuildSpec, name: str) -> TargetSpec:
    """The target to build an environment for on this machine."""
    if name:
        return spec.chosen_targets([name])[0]
    if len(spec.targets) == 1:
        return spec.targets[0]
    running = running_interpreter()[0]
    fitting = [one for one in spec.targets
               if not one.platform or not machine_problem(one.platform)]  # fmt: skip
    same = [one for one in fitting if (one.python or running) == running]
    chosen = same if len(same) == 1 else fitting
    if len(chosen) == 1:
        return chosen[0]
    what = "several targets run on this machine" if chosen else "no target runs on this machine"
    names = ", ".join(one.name for one in (chosen or spec.targets))
    raise UsageError("--target", what, f"say which: {names}")


def build(
    args: argparse.Namespace, out: Output, spec: BuildSpec, folder: str
) -> tuple[str, list[str]]:
    """Lock where there is no lock, then build the image; its id and the files that decide it."""
    from builder.env_inputs import deciding_files, lock_problem
    from builder.wheels import MissingWheelError

    target = choose_target(spec, args.target)
    problem = lock_problem(spec, target)
    if problem:
        if args.locked:
            raise DifferenceError(spec.lock_path(target.name), problem, "wain lock")
        out.say(f"{os.path.relpath(spec.lock_path(target.name), folder)}: {problem}, locking")
        _command(out, "wain.lock", folder, ["--target", target.name])
    words = ["--target", target.name]
    try:
        result = _command(out, "wain.image_build", folder, words)
    except MissingWheelError:
        _command(out, "wain.build", folder, words)
        result = _command(out, "wain.image_build", folder, words)
    images = result.get("images")
    if not isinstance(images, dict) or target.name not in images:
        raise WainError(folder, f"no image was built for target {target.name}")
    image_id = str(images[target.name]["id"])
    return image_id, deciding_files(spec, target)


def _command(out: Output, module_name: str, folder: str, words: list[str]) -> Mapping[str, object]:
    """Run another command of wain as a part of this one; its JSON document."""
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(add_help=False)
    (getattr(module, "arguments_build", None) or module.arguments)(parser)
    inner = _Inner(out)
    options = parser.parse_args(words)
    options.directory = folder
    runner = getattr(module, "run_build", None) or module.run
    code = runner(options, inner)
    if code:
        raise WainError(folder, f"{module_name.replace('.', ' ')} ended with exit code {code}")
    return inner.document


class _Inner(Output):
    """An output that shows what it is told and keeps the document."""

    def __init__(self, out: Output) -> None:
        super().__init__(json=out.json, quiet=out.quiet, verbose=out.verbose)
        self.document: Mapping[str, object] = {}

    def result(self, document: Mapping[str, object]) -> None:
        self.document = document
