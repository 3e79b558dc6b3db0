"""The first stage: all that travels on the command line. Travels to hosts, without this text.

Run as ``python -I -S -c <this> ROOT DIGEST SIZE MODE``. It refuses a root that is not ours to
write, finds the agent as ``ROOT/agent/DIGEST.pyz`` or takes it from standard input (SIZE
bytes, deflated), publishes it (MODE ``keep``; ``memory`` writes nothing), and runs it.

Beside the agent lie its modules compiled for this very interpreter, guarded by their hash: a
zipped module keeps no bytecode, and compiling at every start costs more than all the rest.
A controller of the same interpreter sends them too.
"""

import os
import sys
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

MARK = b"\x00\xffWAIN\x01\n"


def sha(data: bytes) -> str:
    """The sha256 of bytes, without loading OpenSSL for it."""
    try:
        from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        from hashlib import sha256
    return str(sha256(data).hexdigest())


def fail(kind: str, what: str, hint: str = "") -> "NoReturn":
    """Say why not, as an answer the controller reads, and end."""
    import json

    text = json.dumps({"kind": kind, "what": what, "hint": hint}).encode()
    os.write(1, MARK + b"X" + len(text).to_bytes(4, "big") + text)
    raise SystemExit(0)


def open_to(status: os.stat_result) -> str:
    """Who but the owner may write it: see images/private.py."""
    if status.st_mode & 0o002:
        return "everybody"
    if not status.st_mode & 0o020:
        return ""
    import grp
    import pwd

    name = str(status.st_gid)
    try:
        group = grp.getgrgid(status.st_gid)
        name = group.gr_name
        owner = pwd.getpwuid(status.st_uid)
    except KeyError:
        return f"group {name}"
    alone = owner.pw_gid == status.st_gid and owner.pw_name == name
    return "" if alone and set(group.gr_mem) <= {name} else f"group {name}"


def check(root: str, uid: int) -> str:
    """The resolved root; the place, its owner and everything above it must be safe to use."""
    if not root.startswith("/") or os.path.normpath(root) != root:
        fail("root", f"root {root!a} is no absolute, plain path")
    path = os.path.realpath(root)
    top = path.strip("/").split("/")
    if len(top) < 2 or path in ("/usr/local", "/usr/lib", "/usr/bin", "/var/lib", "/var/tmp"):  # noqa: S108
        fail("root", f"root {path} is a place of the system", "name a folder of its own")
    at = path
    while True:
        try:
            status = os.lstat(at)
        except FileNotFoundError:
            status = None
        except OSError as error:
            fail("root", f"{at}: {error.strerror} (as uid {uid})")
        if status:
            if status.st_mode & 0o170000 != 0o040000:
                fail("root", f"{at} is no folder")
            if at == path and status.st_uid != uid:
                fail("root", f"{at} belongs to uid {status.st_uid}, this session is uid {uid}")
            if at != path and status.st_uid not in (0, uid):
                fail("root", f"{at}, above the root, belongs to uid {status.st_uid}")
            others = open_to(status)
            if others and (at == path or not status.st_mode & 0o1000):
                fail("root", f"{at} is writable by {others} (uid {status.st_uid})", "chmod go-w")
        if at == "/":
            break
        at = os.path.dirname(at)
    # What stands in a root that was open to others once may be theirs still.
    for name in ("agent", "objects", "manifests", "releases", "seals", "tmp", "state.json"):
        at = f"{path}/{name}"
        try:
            status = os.lstat(at)
        except OSError:
            continue
        plain = status.st_mode & 0o170000 in (0o040000, 0o100000)
        if status.st_uid not in (0, uid) or not plain or open_to(status):
            fail("root", f"{at} (uid {status.st_uid}) is a link, or others may write it")
    return path


def publish(folder: str, path: str, data: bytes, last: bool = True) -> None:
    """Write a file so that it is there whole or not at all; ``last``: also after a power cut."""
    os.makedirs(folder, 0o755, exist_ok=True)
    new = f"{path}.{os.getpid()}"
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    try:
        while data:
            data = data[os.write(file, data) :]
        if last:
            os.fsync(file)
        os.rename(new, path)
    except OSError:
        os.unlink(new)
        raise
    finally:
        os.close(file)
    if last:
        file = os.open(folder, os.O_RDONLY)
        os.fsync(file)
        os.close(file)


def take(size: int) -> bytes:
    """So many bytes from standard input; ends where the controller is gone."""
    parts = []
    while size:
        part = os.read(0, min(size, 65536))
        if not part:
            raise SystemExit(0)
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def is_sound(code: bytes) -> bool:
    """Whether modules are what was compiled."""
    return bool(code) and sha(code[64:]) == code[:64].decode("latin-1")


def load(path: str) -> bytes:
    """A file, or nothing."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError:
        return b""


def main() -> "NoReturn":
    """Find or take the agent, and run it."""
    root, digest, size, mode = sys.argv[1:5]
    if sys.version_info < (3, 9):
        fail("no-python", f"Python {sys.version.split()[0]} found, 3.9 or newer needed")
    os.umask(0o022)
    root = check(root, os.geteuid())
    folder = root + "/agent"
    path = f"{folder}/{digest}.pyz"
    data, code = load(path), b""
    tag = f"{sys.implementation.cache_tag}-{sys.hexversion:x}"
    if sha(data) != digest:
        # What is not kept is compiled: that costs a slow line less.
        asked = tag.encode() if mode == "keep" else b""
        os.write(1, MARK + b"N" + len(asked).to_bytes(4, "big") + asked)
        more = int.from_bytes(take(4), "big")
        data = zlib.decompress(take(int(size)))
        if more:
            code = zlib.decompress(take(more))
        if sha(data) != digest:
            fail("protocol", "the agent arrived damaged")
        if mode == "keep":
            try:
                publish(folder, path, data)
            except OSError as error:
                fail("io", f"{path}: {error.strerror} (as uid {os.geteuid()})")
    cached = f"{path[:-4]}.{tag}"
    new = is_sound(code)
    if not new:
        code = load(cached)
    if not new and not is_sound(code):
        import io
        import zipfile

        archive = zipfile.ZipFile(io.BytesIO(data))
        space: dict[str, Any] = {"__name__": "agent_loader"}
        exec(archive.read("fleet/agent_loader.py"), space)  # noqa: S102
        packed = space["pack"](space["compile_all"](archive))
        code, new = sha(packed).encode() + packed, True
    if new and mode == "keep":
        try:  # noqa: SIM105 - contextlib costs more than all this
            publish(folder, cached, code, last=False)  # its hash shows what a cut left
        except OSError:
            pass
    import marshal

    modules = marshal.loads(code[64:])
    space = {"__name__": "agent_loader"}
    exec(marshal.loads(modules["fleet.agent_loader"][0]), space)  # noqa: S102
    space["install"](modules)
    from fleet.agent import main

    status = main(root, digest, mode)
    # Taking apart all there is takes as long as a session with nothing to do.
    os._exit(status)


main()
