"""The part of `wain env` that has something to do: find or build the image, check it out.

Whatever is missing is made by the commands a user would give: `wain lock`, `wain build`,
`wain image build`. Which image that led to is remembered in ``.wain/recipes/`` with the inputs
it was made from, so that a removed environment comes back without any of them.
"""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from images.errors import WainError
from images.interpreter import python_of, running_interpreter
from images.layout import SuspectError
from images.render import Interpreter
from images.stamp import (
    NAME,
    Input,
    Stamp,
    boot_id,
    load_stamp,
    read_input,
    read_stamp,
    write_stamp,
)
from wain.env import is_current, place, report
from wain.env_check import check, survived
from wain.env_image import build, choose_target, is_usable, recipe_path, remember, target_here
from wain.output import Output

if TYPE_CHECKING:
    from builder.spec import BuildSpec
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
        return check(args, out, path, stamp, wish, folder, began)
    if stamp is not None and not args.force:
        if is_current(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
        if survived(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
    from images.environment import check_place

    check_place(path, args.force)
    return _make(args, out, spec, path, folder, wish, began)


def _spec(folder: str, optional: bool = False) -> BuildSpec | None:
    from builder.spec import load_spec

    if optional and not os.path.exists(f"{folder}/wain.toml"):
        return None
    return load_spec(folder)


def _store(root: str) -> Store:
    from images.store import Store

    return Store(root)


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
            target = args.target or target_here(catalog.candidates(args.image), catalog)
            image_id = catalog.resolve(args.image, target)
            names: list[str] = [".wain/tags.json"]
        else:
            if spec is None:
                spec = _spec(folder)
                assert spec is not None
            recipe = recipe_path(folder, args.target)
            known = None if args.force else load_stamp(recipe)
            if known is not None and known.store == store.root and is_usable(known, store, folder):
                image_id, names = known.image, [one.path for one in known.inputs]
            else:
                image_id, names = build(args, out, spec, catalog.project)
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
                    remember(folder, args.target, stamp)
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
            remember(folder, args.target, fresh)
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

    target = choose_target(spec, args.target).name
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
