"""The part of `wain env` that has something to do: find or build the image, check it out.

Whatever is missing is made by the commands a user would give: `wain lock`, `wain build`,
`wain image build`. Which image that led to is remembered in ``.wain/recipes/`` with the inputs
it was made from, so that a removed environment comes back without any of them.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from images.errors import DifferenceError, UsageError, WainError
from images.interpreter import machine_problem, python_of, running_interpreter
from images.layout import SuspectError
from images.render import Interpreter
from images.stamp import (
    NAME,
    Input,
    Stamp,
    boot_id,
    changed_inputs,
    load_stamp,
    read_input,
    read_stamp,
    write_stamp,
)
from wain.env import is_current, place, report
from wain.output import Output

if TYPE_CHECKING:
    from builder.spec import BuildSpec, TargetSpec
    from images.environment import Editable, Recreated
    from images.manifest import Manifest
    from images.store import Store

# Paths are str, as in images/.


def run(args: argparse.Namespace, out: Output, folder: str, wish: str, began: float) -> int:
    """Check, or make the environment what it should be."""
    spec = None
    path = place(folder, args.path) if args.path else ""
    if not path:
        # With an image named, a folder needs no wain.toml: it may be on the far side of an
        # air gap, with nothing but the store.
        spec = _spec(folder, optional=bool(args.image))
        path = place(folder, spec.env_path if spec else ".venv")
    stamp = read_stamp(path)
    if args.check:
        return _check(args, out, path, stamp, wish, folder, began)
    if stamp is not None and not args.force:
        if is_current(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
        if _survived(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
    from images.environment import check_place

    check_place(path, args.force)
    return _make(args, out, spec, path, folder, wish, began)


def _spec(folder: str, optional: bool = False) -> BuildSpec | None:
    from builder.spec import load_spec

    if optional and not os.path.exists(f"{folder}/wain.toml"):
        return None
    return load_spec(folder)


def _survived(stamp: Stamp, path: str, folder: str, wish: str) -> bool:
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


def _store(root: str) -> Store:
    from images.store import Store

    return Store(root)


def _drift(stamp: Stamp, path: str, deep: bool, out: Output | None) -> list[tuple[str, str, str]]:
    from images.environment import check

    store = _store(stamp.store)
    interpreter = Interpreter(stamp.executable, stamp.version, stamp.base)
    found = check(
        store,
        store.manifest(stamp.image),
        stamp,
        path,
        interpreter,
        deep,
        out.progress if out else None,
    )
    return [(one.path, one.owner, one.what) for one in found]


def _check(
    args: argparse.Namespace,
    out: Output,
    path: str,
    stamp: Stamp | None,
    wish: str,
    folder: str,
    began: float,
) -> int:
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
        out.say(f"{owner if owner != '-' else '(the environment itself)'}: {count} files differ")
        for name, its_owner, what in drift:
            if its_owner == owner:
                out.say(f"  {what:8} {name}")
    if stale:
        out.say(f"would be made anew, changed since: {', '.join(stale)}")
    ok = not drift and not stale
    report(out, stamp, path, False, began) if ok else None
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


def _make(
    args: argparse.Namespace,
    out: Output,
    spec: BuildSpec | None,
    path: str,
    folder: str,
    wish: str,
    began: float,
) -> int:
    from images import environment
    from images.catalog import Catalog, default_store
    from images.swap import alone

    catalog = Catalog(_store(default_store()), folder)
    store = catalog.store

    def waiting() -> None:
        out.say(f"{path}: another wain is making this environment, waiting for it")

    with alone(catalog.roots.folder, path, waiting):
        stamp = read_stamp(path)
        if stamp is not None and not args.force and is_current(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
        if args.image:
            target = args.target or _target_here(catalog.candidates(args.image), catalog)
            image_id = catalog.resolve(args.image, target)
            names: list[str] = [".wain/tags.json"]
        else:
            if spec is None:
                spec = _spec(folder)
                assert spec is not None
            recipe = _recipe(folder, args.target)
            known = None if args.force else load_stamp(recipe)
            if known is not None and known.store == store.root and _usable(known, store, folder):
                image_id, names = known.image, [one.path for one in known.inputs]
            else:
                image_id, names = _build(args, out, spec, catalog.project)
        mode = "thin" if args.thin else spec.env_mode if spec else "thick"
        header = environment.image_header(store, image_id, mode)
        interpreter = _interpreter(header, args.python, path)
        editable = _editable(out, spec, args, image_id, store, interpreter, path)
        names = list(dict.fromkeys([*names, interpreter.executable]))
        inputs = tuple(read_input(folder, name) for name in names)

        if stamp is not None and not args.force and editable is None:
            same = (stamp.image, stamp.mode, stamp.prefix, stamp.executable, stamp.editable,
                    stamp.boot)  # fmt: skip
            if same == (image_id, mode, path, interpreter.executable, "", boot_id()):
                _stamp_again(stamp, folder, wish, inputs, path)
                if not args.image:
                    _remember(folder, args.target, stamp)
                return report(out, stamp, path, False, began)

        def recreate() -> Recreated:
            return environment.recreate(
                store, image_id if header.image_id != image_id else header, path, interpreter,
                mode=mode, force=args.force, editable=editable, project=folder, request=wish,
                inputs=inputs, on_progress=out.progress,
            )  # fmt: skip

        try:
            done = recreate()
        except SuspectError as error:
            _repair(out, catalog, store.manifest(image_id), error)
            done = recreate()
        fresh = read_stamp(path)
        assert fresh is not None
        if not args.image:
            _remember(folder, args.target, fresh)
    _say(out, done)
    return report(out, fresh, path, True, began)


def _stamp_again(
    stamp: Stamp, folder: str, wish: str, inputs: tuple[Input, ...], path: str
) -> None:
    """The inputs changed and led to the same image (a comment, a new file of the same bytes)."""
    stamp.project, stamp.request, stamp.inputs = folder, wish, inputs
    try:
        write_stamp(f"{path}/{NAME}", stamp)
    except OSError as error:
        raise WainError(f"{path}/{NAME}", error.strerror or str(error)) from None


def _recipe(folder: str, target: str) -> str:
    return f"{folder}/.wain/recipes/{target or '-'}"


def _usable(known: Stamp, store: Store, folder: str) -> bool:
    """Whether a remembered image is still here and still what its inputs lead to."""
    from wain import __version__

    return (
        known.project == folder
        and known.request.partition("|")[0] == __version__
        and os.path.exists(f"{store.manifest_folder}/{known.image}")
        and not changed_inputs(known)
    )


def _remember(folder: str, target: str, stamp: Stamp) -> None:
    from images.catalog import make_state_folder

    try:
        make_state_folder(f"{folder}/.wain")
        os.makedirs(f"{folder}/.wain/recipes", exist_ok=True)
        write_stamp(_recipe(folder, target), stamp)
    except OSError:
        # It only saves time; a folder that cannot be written still gets its environment.
        return


def _target_here(candidates: Mapping[str, str], catalog: object) -> str:
    """The target among an image's that runs on this machine."""
    from images.catalog import Catalog

    assert isinstance(catalog, Catalog)
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


def _choose(spec: BuildSpec, name: str) -> TargetSpec:
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


def _build(
    args: argparse.Namespace, out: Output, spec: BuildSpec, folder: str
) -> tuple[str, list[str]]:
    """Lock where there is no lock, then build the image; its id and the files that decide it."""
    from builder.env_inputs import deciding_files, lock_problem
    from builder.wheels import MissingWheelError

    target = _choose(spec, args.target)
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


def _interpreter(manifest: Manifest, program: str, path: str) -> Interpreter:
    wanted = python_of(manifest)
    name, running = running_interpreter()
    if not program and name == wanted:
        return running
    from builder.interpreter import find

    if program:
        from builder.env_inputs import interpreter_at

        return interpreter_at(program, wanted)
    found = find(wanted)
    if found is None:
        raise WainError(path, f"no Python {wanted} on this machine", "install it, or say --python")
    return found


def _editable(
    out: Output,
    spec: BuildSpec | None,
    args: argparse.Namespace,
    image_id: str,
    store: Store,
    interpreter: Interpreter,
    path: str,
) -> Editable | None:
    """The project's editable files, where the project is in the image and editing is wanted."""
    if spec is None or not spec.project or not spec.editable or args.image:
        return None
    from builder.editable import build_editable

    target = _choose(spec, args.target).name
    manifest = store.manifest(image_id)
    return build_editable(spec, target, manifest, interpreter, path, out.progress)


def _repair(out: Output, catalog: object, manifest: Manifest, error: SuspectError) -> None:
    """Damaged objects: make them again from the wheels, or fail with what is damaged."""
    from builder.repair import repair_objects
    from images.catalog import Catalog
    from images.store import Bad
    from wain.image_verify import wheel_folders

    assert isinstance(catalog, Catalog)
    out.warn(f"{error.what}; making them again from the wheels")
    bad = [Bad(key, "changed", catalog.store.object_path(*key)) for key in error.keys]
    with catalog.store.writing():
        images = {manifest.image_id: manifest}
        if repair_objects(catalog, images, bad, wheel_folders(catalog), out.progress):
            raise error


def _say(out: Output, done: Recreated) -> None:
    """What was done, and by which kind of link; a fallback is a warning."""
    for part in (done.checkout, done.shared):
        if part is not None and part.fallback:
            hint = "a store on the same file system (WAIN_STORE) would link them"
            out.warn(f"{part.copied} files were copied, not linked: {part.fallback}; {hint}")
    if done.placed == "renamed":
        out.warn(f"{done.path}: this file system cannot exchange two folders, it was renamed twice")
    if done.leftover:
        out.warn(f"{done.leftover}: could not be removed")
    ways = []
    for part in (done.checkout, done.shared):
        if part is not None:
            ways += [
                f"{count} {way}"
                for way, count in zip(
                    ("reflinked", "hard-linked", "copied"), part[1:4], strict=True
                )
                if count
            ]
    verb = {"new": "made", "exchanged": "replaced", "renamed": "replaced"}[done.placed]
    out.say(f"{done.path}: {verb}, image {done.image[:12]}, {done.mode}, {done.files} files"
            f" ({', '.join(ways) or 'nothing to link'})")  # fmt: skip
