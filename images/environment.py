"""Environments on this machine: an image made real at a path, in place of what was there.

Order: everything is written beside the place, the stamp last; the names are exchanged; what
was there before is removed. A cut at any moment leaves the old environment or the new one, and
leftovers that the next run removes.
"""

from __future__ import annotations

import os
from collections import namedtuple
from contextlib import ExitStack, contextmanager
from hashlib import sha256

from images import durable
from images.errors import UsageError, WainError
from images.interpreter import machine_problem
from images.layout import SuspectError
from images.manifest import Entry, Manifest
from images.place import FOLDER_MODE, WAYS, write_own
from images.render import Interpreter, prefix_problem
from images.roots import Roots
from images.stamp import NAME, Input, Stamp, boot_id
from images.store import Store
from images.survey import LIST, Survey
from images.swap import put_in_place, remove_tree, staging
from images.thin import (
    CACHE,
    INDEX,
    PATH_FILE,
    find_shared,
    is_read_only,
    path_file,
    shared_checkout,
    split,
)
from images.tree import Checkout, Drift, checkout, scan
from images.worklist import WORK_LISTS, WorkList

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import NamedTuple

    Progress = Callable[[str, int, int], None]

    class Editable(NamedTuple):
        """A project's own files in the place of its entries in the image.

        ``owner`` is the normalised name whose entries are left out; ``files`` maps paths below
        the prefix to ``(bytes, executable)``.
        """

        owner: str
        files: Mapping[str, tuple[bytes, bool]]

    class Recreated(NamedTuple):
        """What was done. ``placed`` is ``new``, ``exchanged`` or ``renamed``."""

        path: str
        image: str
        mode: str
        files: int
        checkout: Checkout
        shared: Checkout | None
        placed: str
        leftover: str
else:
    # typing would be a twentieth of the time of a thin environment.
    Editable = namedtuple("Editable", "owner files")
    Recreated = namedtuple("Recreated", "path image mode files checkout shared placed leftover")


# uv leaves this empty file in every environment it looks at.
UV_LOCK = ".lock"


def check_place(path: str, force: bool = False) -> None:
    """Raise UsageError unless an environment may be made (or replaced) there.

    A folder that wain did not make is left alone; *force* lets it replace an environment
    that another tool made, never anything else.
    """
    problem = prefix_problem(path)
    if problem:
        raise UsageError(ascii(path), problem)
    if not os.path.lexists(path):
        return
    if os.path.ismount(path):
        what = "is a mount point, which nothing can be put in the place of"
        raise UsageError(path, what, "name a folder below it")
    if os.path.islink(path) or not os.path.isdir(path):
        what = "is a symbolic link" if os.path.islink(path) else "is a file"
        raise UsageError(path, f"{what}, not an environment", "remove it, or name another path")
    try:
        # A damaged stamp, as after a power cut, is ours as well.
        if os.path.isfile(f"{path}/{NAME}") or not os.listdir(path):
            return
    except OSError as error:
        raise UsageError(path, f"cannot be looked at: {error.strerror or error}") from None
    if not os.path.isfile(f"{path}/pyvenv.cfg") or os.path.exists(f"{path}/.git"):
        what = "is a folder that wain did not make, and no environment"
        raise UsageError(path, what, "it stays untouched; name another path")
    if not force:
        what = "is an environment that another tool made"
        raise UsageError(path, what, "--force replaces it")


def recreate(
    store: Store,
    image: Manifest | str,
    path: str,
    interpreter: Interpreter,
    *,
    mode: str = "thick",
    force: bool = False,
    editable: Editable | None = None,
    link: tuple[str, ...] = WAYS,
    project: str = "",
    request: str = "",
    inputs: tuple[Input, ...] = (),
    on_progress: Progress | None = None,
    survey: Survey | None = None,
    work: WorkList | None = None,
) -> Recreated:
    """Make the environment at *path* (absolute, real folders above it) from an image or its id.

    *mode* is ``thick`` or ``thin``; for the latter a *survey* of its shared checkout may have
    begun before, for the former its kept *work* list may be given. *project*, *request* and
    *inputs* go into the stamp.
    Raises SuspectError for objects that were changed, UsageError for a place that is not
    ours, WainError for what fails; the environment that was there is then still there. The
    caller holds ``swap.alone(roots.folder, path)``.
    """
    check_place(path, force)
    if f"{os.path.realpath(path)}/".startswith(f"{os.path.realpath(store.root)}/"):
        raise UsageError(path, "is inside the store", "name another path")
    without = editable.owner if editable else ""
    image_id = image if isinstance(image, str) else image.image_id

    def whole() -> Manifest:
        manifest = store.manifest(image) if isinstance(image, str) else image
        return _without(manifest, without)

    roots = Roots(store)
    with roots.adding(), store.writing(), _readable_errors(path), ExitStack() as stack:
        extras: dict[str, tuple[bytes, bool]] = dict(editable.files) if editable else {}
        name, sharing, shared_done = "", None, None
        if mode == "thin":
            name = shared_name(image_id, without)
            sharing = stack.enter_context(
                shared_checkout(store, whole, name, interpreter, link, on_progress, survey)
            )
            shared = sharing.shared
            todo: Manifest | WorkList = shared.own
            platform, files = shared.own.platform, shared.files
            lines = path_file(f"{shared.folder}/{shared.site}", path, shared.bytecode)
            extras[f"{shared.site}/{PATH_FILE}"] = (lines, False)
        else:
            fresh = (None if without else work) or WorkList.of(whole())
            todo = fresh
            platform, files = fresh.rest.platform, fresh.files
        problem = machine_problem(platform)
        if problem:
            raise WainError(path, problem)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        stamp = Stamp(
            image=image_id,
            mode=mode,
            prefix=path,
            executable=interpreter.executable,
            version=interpreter.version,
            base=interpreter.base_prefix,
            files=str(files),
            store=store.root,
            checkout=name,
            editable=without,
            project=project,
            request=request,
            boot=boot_id(),
            inputs=inputs,
            extras=tuple(
                (name, sha256(data).hexdigest()) for name, (data, _) in sorted(extras.items())
            ),
        )
        with staging(path) as staged:

            def make(todo: Manifest | WorkList) -> Checkout:
                return checkout(
                    todo, store, staged, path, interpreter,
                    link=link, fsync=False, on_progress=on_progress,
                )  # fmt: skip

            try:
                done = make(todo)
            except SuspectError:
                if todo is not work:
                    raise
                done = make(whole())  # it says whose files the changed objects are
            if mode != "thin" and not without and not work:
                _keep(store, image_id, fresh)
            for name, (data, executable) in extras.items():
                _make_parents(staged, name)
                write_own(f"{staged}/{name}", data, executable)
            write_own(f"{staged}/{NAME}", stamp.to_bytes(), False)
            # Before the names change: a root of an environment that is not there yet is
            # harmless, an environment without a root is not.
            roots.register("environment", path)
            if sharing:
                shared_done = sharing.settle()
            check_place(path, force)
            placed = put_in_place(staged, path)
            leftover = ""
            if os.path.lexists(staged) and not remove_tree(staged):
                leftover = staged
    return Recreated(path, image_id, mode, files, done, shared_done, placed, leftover)


def _make_parents(root: str, name: str) -> None:
    """The folders above a file, with check-out's mode whatever the umask. Raises OSError."""
    parts = name.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        folder = "/".join([root, *parts[:count]])
        if not os.path.isdir(folder):
            os.mkdir(folder)
            os.chmod(folder, FOLDER_MODE)


@contextmanager
def _readable_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = os.fsdecode(error.filename) if error.filename else path
        raise WainError(place, error.strerror or str(error)) from None


def shared_name(image_id: str, without: str = "") -> str:
    """What the shared checkout of an image is called, *without* an editable project's files."""
    return f"{image_id}.without-{without}" if without else image_id


def image_header(store: Store, image_id: str, mode: str) -> tuple[Manifest, WorkList | None]:
    """A manifest with the image's header and some or all of its entries; its kept work list."""
    if mode == "thin":
        shared = find_shared(store, shared_name(image_id))
        return (shared.own if shared else store.manifest(image_id)), None
    try:
        with open(_work_list(store, image_id), "rb") as stream:
            work = WorkList.parse(stream.read())
    except OSError:
        work = None
    return (work.rest if work else store.manifest(image_id)), work


def _work_list(store: Store, image_id: str) -> str:
    return f"{store.root}/{WORK_LISTS}/{image_id}"


def _keep(store: Store, image_id: str, work: WorkList) -> None:
    """Keep a work list for the next time; it only saves time, so nothing waits for the disk."""
    path = _work_list(store, image_id)
    temporary = f"{path}.{os.getpid()}"
    try:
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        with open(temporary, "wb") as stream:
            stream.write(work.to_bytes())
        os.replace(temporary, path)
    except OSError:
        durable.discard(temporary)


def _without(manifest: Manifest, owner: str) -> Manifest:
    if not owner:
        return manifest
    entries: list[Entry] = [entry for entry in manifest.entries if entry.owner != owner]
    return manifest.part(entries)


def check(
    store: Store,
    manifest: Manifest,
    stamp: Stamp,
    path: str,
    interpreter: Interpreter,
    deep: bool = False,
    on_progress: Progress | None = None,
) -> list[Drift]:
    """Where the files of an environment differ from its image, sorted by path.

    Bytecode that Python wrote for files that are not the image's (an editable project's, or
    all when the image has no bytecode) is no difference. Differences in the shared checkout
    of a thin environment are named by their full path.
    """
    wanted = _without(manifest, stamp.editable)
    shared: list[Entry] = []
    if stamp.mode == "thin":
        own, shared = split(wanted)
        wanted = manifest.part(own)
    extras = dict(stamp.extras)
    known = {NAME, CACHE, UV_LOCK, *extras}
    for name in extras:
        while "/" in name:
            name = name.rpartition("/")[0]
            known.add(name)
    drift = [
        one
        for one in scan(
            path, wanted, path, interpreter, deep,
            store=store, ignore=known, on_progress=on_progress,
        )
        if not (one.what == "added" and _is_harmless(one.path, manifest, extras))
    ]  # fmt: skip
    for name, digest in extras.items():
        try:
            with open(f"{path}/{name}", "rb") as stream:
                if sha256(stream.read()).hexdigest() != digest:
                    drift.append(Drift(name, stamp.editable or "-", "content"))
        except OSError:
            drift.append(Drift(name, stamp.editable or "-", "missing"))
    if shared:
        place = f"{store.root}/checkouts/{stamp.checkout}"
        if not os.path.isdir(place):
            drift.append(Drift(place, "-", "missing"))
        else:
            part = manifest.part(shared)
            for one in scan(
                place, part, place, interpreter, deep, store=store, ignore={INDEX, LIST}
            ):
                if one.what != "mode" or not is_read_only(f"{place}/{one.path}"):
                    drift.append(Drift(f"{place}/{one.path}", one.owner, one.what))
    return sorted(drift)


def _is_harmless(path: str, manifest: Manifest, extras: Mapping[str, str]) -> bool:
    folder, _, name = path.rpartition("/")
    if name == "__pycache__" or folder.endswith("__pycache__"):
        if not any(entry.path.endswith(".pyc") for entry in manifest.entries):
            return True
        if name.endswith(".pyc"):
            source = f"{folder.rpartition('/')[0]}/{name.partition('.')[0]}.py"
            return source in extras
    return False


__all__ = [
    "Editable",
    "Recreated",
    "check",
    "check_place",
    "image_header",
    "recreate",
]
