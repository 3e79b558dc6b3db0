"""The few Linux calls the build sandbox needs that Python 3.11 does not have.

Standard library only: this runs in the sandbox's first process. Every function raises
``OSError`` with the kernel's reason. Values are those of the Linux UAPI headers.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Iterable

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x00020000, 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_NOATIME, MS_NODIRATIME, MS_BIND, MS_REC, MS_PRIVATE = 1024, 2048, 4096, 16384, 1 << 18
MS_RELATIME = 1 << 21
MNT_DETACH = 2

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP = 1, 36, 38, 22
_PR_CAPBSET_DROP = 24
_SECCOMP_MODE_FILTER = 2

_LANDLOCK_CREATE, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT = 444, 445, 446
_LANDLOCK_VERSION = 1
_RULE_PATH_BENEATH = 1
_FS_EXECUTE, _FS_WRITE_FILE, _FS_READ_FILE, _FS_READ_DIR = 1, 2, 4, 8
_FS_TRUNCATE, _FS_IOCTL_DEV = 1 << 14, 1 << 15
_FS_READ = _FS_EXECUTE | _FS_READ_FILE | _FS_READ_DIR
_FS_FILE_ONLY = _FS_EXECUTE | _FS_WRITE_FILE | _FS_READ_FILE | _FS_TRUNCATE | _FS_IOCTL_DEV
# How many file access rights each Landlock ABI version knows.
_FS_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}

# machine: (audit architecture, socket, pivot_root)
_MACHINES = {"x86_64": (0xC000003E, 41, 155), "aarch64": (0xC00000B7, 198, 41)}
_IO_URING_SETUP = 425
_X32_BIT = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def _prctl(option: int, value: object, what: str) -> None:
    try:
        call = _libc.prctl
    except AttributeError:
        raise OSError(38, os.strerror(38), what) from None
    mode = ctypes.byref(value) if isinstance(value, ctypes.Structure) else 0
    number = _SECCOMP_MODE_FILTER if isinstance(value, ctypes.Structure) else value
    _checked(call(option, number, mode, 0, 0), what)


def unshare(flags: int) -> None:
    """Move this process (for PIDs: its children) into new namespaces."""
    _checked(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        kind.encode() or None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )
    _checked(result, f"mount {target}")


def pivot_root(folder: str) -> None:
    """Make ``folder`` (a mount point) the root, and let go of the old one."""
    os.chdir(folder)
    _checked(_libc.syscall(_machine()[2], b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir("/")


def die_with_parent(number: int) -> None:
    """This signal for this process when the thread that started it ends."""
    _prctl(_PR_SET_PDEATHSIG, number, "PR_SET_PDEATHSIG")


def become_subreaper() -> None:
    """Orphans among this process's descendants become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "PR_SET_CHILD_SUBREAPER")


def no_new_privileges() -> None:
    """No set-uid program gives anything from here on."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, "PR_SET_NO_NEW_PRIVS")


def drop_capabilities() -> None:
    """No program this process starts gets a capability, even as root."""
    for number in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, number, "PR_CAPBSET_DROP")
        except OSError:
            return


def _machine() -> tuple[int, int, int]:
    try:
        return _MACHINES[platform.machine()]
    except KeyError:
        raise OSError(38, "not known for this machine", platform.machine()) from None


def deny_sockets(allow_unix: bool) -> None:
    """No socket but (where allowed) a Unix one from here on; needs no_new_privileges().

    socketpair(2) stays, so that process pools work. System calls of another architecture
    would go around the numbers checked here: they fail.
    """
    audit, socket, _ = _machine()
    allow, refuse = 0x7FFF0000, 0x00050000 | 101  # ENETUNREACH
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    program = [
        (load, 0, 0, 4),
        (equal, 1, 0, audit),
        (give, 0, 0, 0x00050000 | 38),  # ENOSYS
        (load, 0, 0, 0),
        (at_least, 5, 0, _X32_BIT),
        (equal, 4, 0, _IO_URING_SETUP),
        (equal, 0, 2, socket),
        (load, 0, 0, 16),
        (equal, 0, 1, 1 if allow_unix else 0xFFFFFFFF),
        (give, 0, 0, allow),
        (give, 0, 0, refuse),
    ]
    code = b"".join(struct.pack("=HBBI", *step) for step in program)
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))

    whole = Program(len(program), ctypes.cast(buffer, ctypes.c_void_p))
    _prctl(_PR_SET_SECCOMP, whole, "seccomp")


def landlock_version() -> int:
    """The kernel's Landlock ABI version; 0 where there is none."""
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE, None, 0, _LANDLOCK_VERSION)))


def landlock(readable: Iterable[str], writable: Iterable[str]) -> None:
    """From here on only files beneath these paths can be opened, the latter also written.

    Needs no_new_privileges(). Paths that do not exist are left out. From ABI 4 on, TCP is
    refused as well; from ABI 6 on, signals and abstract sockets to the outside too.
    """
    version = landlock_version()
    if version < 1:
        raise OSError(38, os.strerror(38), "landlock")
    rights = (1 << _FS_RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("=Q", rights)
    if version >= 4:
        attributes += struct.pack("=Q", 3)
    if version >= 6:
        attributes += struct.pack("=Q", 3)
    rules = _checked(
        _libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0),
        "landlock_create_ruleset",
    )
    try:
        for paths, allowed in ((readable, _FS_READ), (writable, rights)):
            for path in paths:
                _landlock_path(rules, path, allowed & rights)
        _checked(_libc.syscall(_LANDLOCK_RESTRICT, rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)


def _landlock_path(rules: int, path: str, allowed: int) -> None:
    try:
        handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not os.path.isdir(path):
            allowed &= _FS_FILE_ONLY
        rule = struct.pack("=Qi", allowed, handle)
        _checked(
            _libc.syscall(_LANDLOCK_ADD_RULE, rules, _RULE_PATH_BENEATH, rule, 0),
            "landlock_add_rule",
        )
    finally:
        os.close(handle)
