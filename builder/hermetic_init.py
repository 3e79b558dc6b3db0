"""The sandbox's first process: isolates itself, runs one command, outlives none of it.

Started as ``python -I -S -c … builder.hermetic_init`` by :mod:`builder.hermetic`, with the
order as JSON on stdin and a pipe for its one JSON answer. Standard library only.

Three levels. ``namespaces``: own mounts (a root that holds the compiler, the interpreter and
the build folder, and nothing else), own process ids, own empty network. ``landlock``: the
kernel's file rules and a system call filter, for containers that may not make namespaces.
``none``: only the limits, the cleared environment and the end of every descendant.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
import time
from typing import Any, NoReturn

from builder import syscalls

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu")
# Of /etc only what compilers and the loader read: index passwords may lie in the rest.
ETC = ("ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "os-release", "mime.types")
DEVICES = ("null", "zero", "full", "random", "urandom")
MAX_FILE = 8 << 30
MAX_PROCESSES = 4096
SETUP_FAILED = 125


def main() -> NoReturn:
    """Read the order, carry it out, answer, end."""
    order = json.loads(sys.stdin.buffer.read())
    answer = os.fdopen(order["answer"], "w")
    os.set_inheritable(order["answer"], False)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.umask(0o022)
    try:
        result = _namespaces(order) if order["level"] == "namespaces" else _plain(order)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        result = {"setup": f"{error.strerror}{place}"}
    json.dump(result, answer)
    answer.close()
    os._exit(0)


# --- namespaces ------------------------------------------------------------------------------


def _namespaces(order: dict[str, Any]) -> dict[str, Any]:
    _die_with_parent(signal.SIGKILL)
    uid, gid = os.getuid(), os.getgid()
    if uid != 0:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"{uid} {uid} 1")
        _write("/proc/self/gid_map", f"{gid} {gid} 1")
    syscalls.unshare(
        syscalls.CLONE_NEWNS
        | syscalls.CLONE_NEWPID
        | syscalls.CLONE_NEWNET
        | syscalls.CLONE_NEWIPC
        | syscalls.CLONE_NEWUTS
    )
    failed_in, failed_out = os.pipe()
    started = time.monotonic()
    first = os.fork()
    if first == 0:
        os.close(failed_in)
        _first_process(order, failed_out)
    os.close(failed_out)
    timed_out = not _wait_until(first, started + order["deadline"])
    if timed_out:
        # The end of the first process of a PID namespace is the end of all of them.
        os.kill(first, signal.SIGKILL)
    _, status = os.waitpid(first, 0)
    with os.fdopen(failed_in) as stream:
        failure = stream.read()
    if failure and not timed_out:
        return {"setup": failure}
    return {"status": os.waitstatus_to_exitcode(status), "timed_out": timed_out}


def _first_process(order: dict[str, Any], failed: int) -> NoReturn:
    """PID 1: mounts, starts the command as somebody else, reaps, and ends with it."""
    os.set_inheritable(failed, False)
    try:
        _die_with_parent(signal.SIGKILL)
        _mounts(order)
        with contextlib.suppress(OSError):
            socket.sethostname("build")
        worker = os.fork()
        if worker == 0:
            _command(order, failed)
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        os.write(failed, f"{error.strerror}{place}".encode())
        os._exit(SETUP_FAILED)
    os.close(failed)
    while True:
        ended, status = os.wait()
        if ended == worker:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _mounts(order: dict[str, Any]) -> None:
    root = order["root"]
    private = syscalls.MS_NOSUID | syscalls.MS_NODEV
    syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("none", root, "tmpfs", private, "mode=755,size=64m")
    # These first: what is readable may lie in the real /tmp.
    for inside, folder in order["writable"]:
        os.makedirs(root + inside, exist_ok=True)
        syscalls.mount(folder, root + inside, "", syscalls.MS_BIND)
        syscalls.mount("none", root + inside, "", _remount(root + inside) | private)
    for path in dict.fromkeys((*SYSTEM, *order["readable"])):
        _readable(path, root)
    _etc(root, order["uid"], order["gid"])
    os.makedirs(root + "/proc")
    try:
        syscalls.mount("proc", root + "/proc", "proc", private | syscalls.MS_NOEXEC)
    except OSError:
        # Some containers mask parts of /proc and so forbid a new one. In a user namespace
        # the old one shows nothing of other processes' environments either.
        if order["uid"] == 0 or os.getuid() == 0:
            raise
        syscalls.mount("/proc", root + "/proc", "", syscalls.MS_BIND | syscalls.MS_REC)
    _devices(root)
    syscalls.pivot_root(root)
    syscalls.mount("none", "/", "", syscalls.MS_REMOUNT | syscalls.MS_RDONLY | private)


def _readable(path: str, root: str) -> None:
    if not os.path.exists(path) or os.path.lexists(root + path):
        return
    if os.path.islink(path):
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        os.symlink(os.readlink(path), root + path)
        return
    _bind(path, root + path)
    for point in _mount_points(root + path):
        flags = _remount(point) | syscalls.MS_RDONLY | syscalls.MS_NOSUID
        syscalls.mount("none", point, "", flags)


def _bind(source: str, place: str) -> None:
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
    syscalls.mount(source, place, "", syscalls.MS_BIND | syscalls.MS_REC)


def _mount_points(path: str) -> list[str]:
    points = []
    with open("/proc/self/mountinfo", "rb") as lines:
        for line in lines:
            point = _unescaped(line.split()[4])
            if point == path or point.startswith(path + "/"):
                points.append(point)
    return points


def _unescaped(field: bytes) -> str:
    for code, byte in ((b"\\040", b" "), (b"\\011", b"\t"), (b"\\012", b"\n"), (b"\\134", b"\\")):
        field = field.replace(code, byte)
    return os.fsdecode(field)


def _remount(point: str) -> int:
    """The flags of a remount that keeps what a mount already forbids (it must, when locked)."""
    now = os.statvfs(point).f_flag
    flags = syscalls.MS_REMOUNT | syscalls.MS_BIND
    for seen, flag in (
        (os.ST_RDONLY, syscalls.MS_RDONLY),
        (os.ST_NOSUID, syscalls.MS_NOSUID),
        (os.ST_NODEV, syscalls.MS_NODEV),
        (os.ST_NOEXEC, syscalls.MS_NOEXEC),
        (os.ST_NOATIME, syscalls.MS_NOATIME),
        (os.ST_NODIRATIME, syscalls.MS_NODIRATIME),
        (os.ST_RELATIME, syscalls.MS_RELATIME),
    ):
        if now & seen:
            flags |= flag
    return flags


def _etc(root: str, uid: int, gid: int) -> None:
    os.makedirs(root + "/etc", exist_ok=True)
    for name in ETC:
        _readable(f"/etc/{name}", root)
    _write(f"{root}/etc/passwd", f"build:x:{uid}:{gid}:build:/build/home:/bin/sh\n")
    _write(f"{root}/etc/group", f"build:x:{gid}:\n")
    _write(f"{root}/etc/hosts", "127.0.0.1 localhost\n")


def _devices(root: str) -> None:
    os.makedirs(root + "/dev/shm")  # noqa: S108
    os.chmod(root + "/dev/shm", 0o1777)  # noqa: S103, S108
    syscalls.mount("none", root + "/dev/shm", "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV)  # noqa: S108
    for name in DEVICES:
        if os.path.exists(f"/dev/{name}"):
            _bind(f"/dev/{name}", f"{root}/dev/{name}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"{root}/dev/{name}")


# --- without namespaces ----------------------------------------------------------------------


class _Told(BaseException):
    """SIGTERM: whoever ordered the command has given up on it, or is gone."""


def _tell(number: int, frame: object) -> NoReturn:
    raise _Told


def _plain(order: dict[str, Any]) -> dict[str, Any]:
    with contextlib.suppress(OSError):
        syscalls.become_subreaper()
    signal.signal(signal.SIGTERM, _tell)
    _die_with_parent(signal.SIGTERM)
    failed_in, failed_out = os.pipe()
    os.set_inheritable(failed_out, False)
    started = time.monotonic()
    told = False
    worker = os.fork()
    if worker == 0:
        os.close(failed_in)
        try:
            _command(order, failed_out)
        except OSError as error:
            place = f" ({error.filename})" if error.filename else ""
            os.write(failed_out, f"{error.strerror}{place}".encode())
        os._exit(SETUP_FAILED)
    os.close(failed_out)
    try:
        timed_out = not _wait_until(worker, started + order["deadline"])
    except _Told:
        timed_out = told = True
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    _, status = os.waitpid(worker, 0)
    _end_descendants()
    with os.fdopen(failed_in) as stream:
        failure = stream.read()
    if failure and not timed_out:
        return {"setup": failure}
    if told:
        return {"stopped": True}
    return {"status": os.waitstatus_to_exitcode(status), "timed_out": timed_out}


def _end_descendants() -> None:
    """Kill what the command left behind: as the subreaper, this process inherits all of it."""
    while True:
        for child in _children(os.getpid()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children(parent: int) -> list[int]:
    """Every descendant, by the parent ids in /proc."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
    found: list[int] = []
    wave = {parent}
    while wave:
        wave = {pid for pid, above in parents.items() if above in wave}
        found.extend(wave)
    return found


# --- the command itself ----------------------------------------------------------------------


def _command(order: dict[str, Any], failed: int) -> NoReturn:
    """Become the build's user and the command; comes back only by an exception."""
    # Not of use to the command: the kernel closes it, and so says that exec succeeded.
    os.set_inheritable(failed, False)
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, order.get("max_file", MAX_FILE))
    if order["level"] == "namespaces":
        _limit(resource.RLIMIT_NPROC, MAX_PROCESSES)
    syscalls.drop_capabilities()
    if os.getuid() == 0 and order["uid"] != 0:
        os.setgroups([])
        os.setresgid(order["gid"], order["gid"], order["gid"])
        os.setresuid(order["uid"], order["uid"], order["uid"])
    with contextlib.suppress(OSError):
        syscalls.no_new_privileges()
    os.chdir(order["folder"])
    if order["level"] == "landlock":
        writable = [folder for _, folder in order["writable"]]
        writable += [f"/dev/{name}" for name in ("null", "zero", "full")]
        readable = [*SYSTEM, *(f"/etc/{name}" for name in ETC), "/etc/passwd", "/etc/group"]
        readable += ["/proc", *(f"/dev/{name}" for name in DEVICES), *order["readable"]]
        syscalls.landlock(readable, writable)
        syscalls.deny_sockets(allow_unix=os.getuid() != order["owner"])
    os.execve(order["command"][0], order["command"], order["environment"])


def _die_with_parent(number: int) -> None:
    with contextlib.suppress(OSError):
        syscalls.die_with_parent(number)


def _limit(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(kind, (value, value))


def _wait_until(pid: int, deadline: float) -> bool:
    """Whether ``pid`` ended before ``deadline`` (monotonic seconds); it is not reaped."""
    try:
        handle = os.pidfd_open(pid)
    except (AttributeError, OSError):
        while time.monotonic() < deadline:
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return True
            time.sleep(0.02)
        return False
    import select

    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
    finally:
        os.close(handle)


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
