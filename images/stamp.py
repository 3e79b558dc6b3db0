"""The note an environment carries: what it was made from. Read at every start, so it is fast.

A text of ``key value`` lines in ``<environment>/.wain-env``; it is not part of the image. The
inputs are compared by stat first: a file with the size, inode, mtime and ctime it had when it
was read is the same file; otherwise, or when it was read within two seconds of its last change
(a later write may then show the same time), its bytes are hashed.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

NAME = ".wain-env"
_MAGIC = "wain-env 1"
_RACY_NS = 2_000_000_000


class Input:
    """One input file: path relative to the project, sha256 of its bytes, and its stat."""

    __slots__ = ("path", "sha256", "signature")

    def __init__(self, path: str, sha256: str, signature: str) -> None:
        self.path = path
        self.sha256 = sha256
        self.signature = signature


class Stamp:
    """What an environment was made from.

    mode is ``thick`` or ``thin``; checkout the name of the shared checkout (thin) or empty;
    project the folder its inputs are relative to, or empty; boot the kernel's boot id: what
    was written before a reboot is looked at once more. ``request`` is the image and target
    that were asked for, as text. ``extras`` are files that wain put there besides the image's,
    as (path, sha256).
    """

    __slots__ = (
        "base", "boot", "checkout", "editable", "executable", "extras", "files", "image", "inputs",
        "mode", "prefix", "project", "request", "store", "version",
    )  # fmt: skip

    def __init__(
        self,
        *,
        image: str,
        mode: str,
        prefix: str,
        executable: str,
        version: str,
        base: str,
        store: str,
        checkout: str = "",
        editable: str = "",
        project: str = "",
        request: str = "",
        boot: str = "",
        files: str = "0",
        inputs: Iterable[Input] = (),
        extras: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.image = image
        self.mode = mode
        self.prefix = prefix
        self.executable = executable
        self.version = version
        self.base = base
        self.files = files
        self.store = store
        self.checkout = checkout
        self.editable = editable
        self.project = project
        self.request = request
        self.boot = boot
        self.inputs = tuple(inputs)
        self.extras = tuple(extras)

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        lines = [_MAGIC]
        lines += [f"{key} {getattr(self, key)}" for key in _FIELDS]
        lines += [f"input {one.sha256} {one.signature} {one.path}" for one in self.inputs]
        lines += [f"extra {digest} {path}" for path, digest in self.extras]
        return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


_FIELDS = (
    "image", "mode", "prefix", "executable", "version", "base", "store", "checkout",
    "editable", "project", "request", "boot", "files",
)  # fmt: skip


def read_stamp(environment: str) -> Stamp | None:
    """The stamp of an environment; None when there is none that can be read."""
    return load_stamp(f"{environment}/{NAME}")


def load_stamp(path: str) -> Stamp | None:
    """The stamp in a file; None when there is none that can be read."""
    try:
        with open(path, "rb") as stream:
            return parse_stamp(stream.read())
    except OSError:
        return None


def parse_stamp(data: bytes) -> Stamp | None:
    """The stamp that these bytes are; None when they are none."""
    lines = data.decode("utf-8", "surrogateescape").split("\n")
    if lines[0] != _MAGIC or lines[-1]:
        return None
    fields: dict[str, str] = {}
    inputs = []
    extras = []
    for line in lines[1:-1]:
        key, _, value = line.partition(" ")
        if key == "input":
            parts = value.split(" ", 2)
            if len(parts) != 3:
                return None
            inputs.append(Input(parts[2], parts[0], parts[1]))
        elif key == "extra":
            digest, _, name = value.partition(" ")
            extras.append((name, digest))
        else:
            fields[key] = value
    if sorted(fields) != sorted(_FIELDS):
        return None
    return Stamp(inputs=inputs, extras=extras, **fields)


def read_input(project: str, path: str) -> Input:
    """An input as it is now; a file that is not there is an input too (sha256 ``-``)."""
    from hashlib import sha256

    try:
        with open(os.path.join(project, path), "rb") as stream:
            status = os.fstat(stream.fileno())
            data = stream.read()
    except OSError:
        return Input(path, "-", "-")
    return Input(path, sha256(data).hexdigest(), _signature(status))


def _signature(status: os.stat_result) -> str:
    import time

    newest = max(status.st_mtime_ns, status.st_ctime_ns)
    if time.time_ns() - newest < _RACY_NS:
        return "-"
    return f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"


def changed_inputs(stamp: Stamp) -> list[str]:
    """The inputs that are not what they were."""
    changed = []
    for one in stamp.inputs:
        try:
            status = os.stat(os.path.join(stamp.project, one.path))
        except OSError:
            if one.sha256 != "-":
                changed.append(one.path)
            continue
        found = f"{status.st_size}:{status.st_ino}:{status.st_mtime_ns}:{status.st_ctime_ns}"
        if found != one.signature and read_input(stamp.project, one.path).sha256 != one.sha256:
            changed.append(one.path)
    return changed


def has_shared(stamp: Stamp) -> bool:
    """Whether the shared checkout of a thin environment is there; true for a thick one."""
    return not stamp.checkout or os.path.exists(f"{stamp.store}/checkouts/{stamp.checkout}")


def write_stamp(path: str, stamp: Stamp) -> None:
    """Write a stamp to a file, in one step. Raises OSError."""
    temporary = f"{path}.{os.getpid()}"
    with open(temporary, "wb") as stream:
        stream.write(stamp.to_bytes())
    os.replace(temporary, path)


def boot_id() -> str:
    """The kernel's id of this boot; empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""
