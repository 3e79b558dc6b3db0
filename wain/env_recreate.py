"""The part of `wain env` that has something to do: find or build the image, check it out.

Whatever is missing is made by the commands a user would give: `wain lock`, `wain build`,
`wain image build`. Which image that led to is remembered in ``.wain/recipes/`` with the inputs
it was made from, so that a removed environment comes back without any of them.
"""

from __future__ import annotations

import argparse
import os

from images.errors import WainError
from images.home import default_store, open_store
from images.interpreter import python_of, running_interpreter
from images.layout import SuspectError
from images.render import Interpreter
from images.stamp import (
    NAME,
    Input,
    Stamp,
    boot_id,
    has_shared,
    read_input,
    read_stamp,
    write_stamp,
)
from wain.env import is_current, place, report
from wain.env_image import Settings, build, choose_target, recall, remember, target_here
from wain.output import Output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from builder.spec import BuildSpec
    from images.environment import Editable, Recreated
    from images.manifest import Manifest
    from images.store import Store
    from images.survey import Survey

# Paths are str, as in images/.


def run(args: argparse.Namespace, out: Output, folder: str, wish: str, began: float) -> int:
    """Check, or make the environment what it should be."""
    wanted = _Wanted(args, folder)
    path = place(folder, args.path or wanted.settings.path)
    stamp = read_stamp(path)
    if args.check:
        from wain.env_check import check

        return check(args, out, path, stamp, wish, folder, began)
    if stamp is not None and not args.force:
        if is_current(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
        from wain.env_check import survived

        if survived(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
    survey = _survey(args, wanted)
    try:
        from images.environment import check_place

        check_place(path, args.force)
        return _make(args, out, wanted, path, folder, wish, began, survey)
    finally:
        if survey:
            survey.stop()


def _survey(args: argparse.Namespace, wanted: _Wanted) -> Survey | None:
    """Begin to look at the shared checkout a thin environment will use, if that is known.

    Half of the time of making one goes into that; here nearly nothing is imported yet.
    """
    known = wanted.kept_in(default_store())
    if not known or not (args.thin or wanted.settings.mode == "thin"):
        return None
    place = f"{os.path.abspath(default_store())}/checkouts/{known[0]}"
    if wanted.settings.editable or not os.path.isdir(place):
        return None
    from images.survey import Survey

    return Survey(place)


class _Wanted:
    """What the project says: as it was remembered while nothing changed, else read again."""

    def __init__(self, args: argparse.Namespace, folder: str) -> None:
        self._args = args
        self._folder = folder
        self._spec: BuildSpec | None = None
        self._settings: Settings | None = None
        self._known: Stamp | None = None
        if not args.force and not args.image:
            known = recall(folder, args.target)
            if known is not None:
                self._known, self._settings = known

    @property
    def spec(self) -> BuildSpec:
        """The configuration; reading it is a good part of making a thin environment."""
        if self._spec is None:
            from builder.spec import load_spec

            self._spec = load_spec(self._folder)
        return self._spec

    @property
    def settings(self) -> Settings:
        """Path, mode, and whether the project is editable. Raises what load_spec raises."""
        if self._settings is None:
            # With an image named, a folder needs no wain.toml: it may be on the far side of an
            # air gap, with nothing but the store.
            if self._args.image and not os.path.exists(f"{self._folder}/wain.toml"):
                self._settings = Settings(".venv", "thick", False)
            else:
                self._settings = Settings.of(self.spec)
        return self._settings

    def kept_in(self, store: str) -> tuple[str, list[str]] | None:
        """The remembered image when it is in this store, and the inputs that led to it."""
        known = self._known
        if known is None or known.store != os.path.abspath(store):
            return None
        if not os.path.exists(f"{known.store}/manifests/{known.image}"):
            return None
        return known.image, [one.path for one in known.inputs]


def _make(
    args: argparse.Namespace,
    out: Output,
    wanted: _Wanted,
    path: str,
    folder: str,
    wish: str,
    began: float,
    survey: Survey | None,
) -> int:
    from images import environment
    from images.roots import Roots
    from images.swap import alone

    store = open_store()

    def waiting() -> None:
        out.say(f"{path}: another wain is making this environment, waiting for it")

    with alone(Roots(store).folder, path, waiting):
        stamp = read_stamp(path)
        if stamp is not None and not args.force and is_current(stamp, path, folder, wish):
            return report(out, stamp, path, False, began)
        if args.image:
            from images.catalog import Catalog

            catalog = Catalog(store, folder)
            target = args.target or target_here(catalog.candidates(args.image), catalog)
            image_id = catalog.resolve(args.image, target)
            names = [".wain/tags.json"]
        else:
            image_id, names = wanted.kept_in(store.root) or build(args, out, wanted.spec, folder)
        mode = "thin" if args.thin else wanted.settings.mode
        header, work = environment.image_header(store, image_id, mode)
        interpreter = _interpreter(header, args.python, path)
        editable = None
        if wanted.settings.editable and not args.image:
            editable = _editable(out, wanted.spec, args.target, image_id, store, interpreter, path)
        names = list(dict.fromkeys([*names, interpreter.executable]))
        inputs = tuple(read_input(folder, name) for name in names)

        if stamp is not None and has_shared(stamp) and not args.force and editable is None:
            same = (stamp.image, stamp.mode, stamp.prefix, stamp.executable, stamp.editable,
                    stamp.boot)  # fmt: skip
            if same == (image_id, mode, path, interpreter.executable, "", boot_id()):
                _stamp_again(stamp, folder, wish, inputs, path)
                if not args.image:
                    remember(folder, args.target, stamp, wanted.settings)
                return report(out, stamp, path, False, began)

        def recreate() -> Recreated:
            return environment.recreate(
                store, image_id if header.image_id != image_id else header, path, interpreter,
                mode=mode, force=args.force, editable=editable, project=folder, request=wish,
                inputs=inputs, on_progress=out.progress, survey=survey, work=work,
            )  # fmt: skip

        try:
            done = recreate()
        except SuspectError as error:
            _repair(out, store, folder, store.manifest(image_id), error)
            done = recreate()
        fresh = read_stamp(path)
        assert fresh is not None
        if not args.image:
            remember(folder, args.target, fresh, wanted.settings)
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
    spec: BuildSpec,
    target: str,
    image_id: str,
    store: Store,
    interpreter: Interpreter,
    path: str,
) -> Editable | None:
    """The project's editable files, where it has any."""
    from builder.editable import build_editable

    target = choose_target(spec, target).name
    manifest = store.manifest(image_id)
    return build_editable(spec, target, manifest, interpreter, path, out.progress)


def _repair(
    out: Output, store: Store, folder: str, manifest: Manifest, error: SuspectError
) -> None:
    """Damaged objects: make them again from the wheels, or fail with what is damaged."""
    from builder.repair import repair_objects
    from images.catalog import Catalog
    from images.store import Bad
    from wain.image_verify import wheel_folders

    out.warn(f"{error.what}; making them again from the wheels")
    catalog = Catalog(store, folder)
    bad = [Bad(key, "changed", store.object_path(*key)) for key in error.keys]
    with store.writing():
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
    parts = [part for part in (done.checkout, done.shared) if part is not None]
    counts = [sum(numbers) for numbers in zip(*(part[1:4] for part in parts), strict=True)]
    names = zip(counts, ("reflinked", "hard-linked", "copied"), strict=True)
    ways = [f"{count} {way}" for count, way in names if count]
    verb = {"new": "made", "exchanged": "replaced", "renamed": "replaced"}[done.placed]
    out.say(f"{done.path}: {verb}, image {done.image[:12]}, {done.mode}, {done.files} files"
            f" ({', '.join(ways) or 'nothing to link'})")  # fmt: skip
