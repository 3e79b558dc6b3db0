"""Where the members of a wheel would be installed, and whether they may (W2, W3, W5, W9, W10)."""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Iterable

from wheelhouse.metadata import script_name_problem
from wheelhouse.text import shown
from wheelhouse.zipcheck import Member, Refused

SCHEMES = ("purelib", "platlib", "headers", "scripts", "data")
_SITE = "{site-packages}"
# What an environment is made of. A wheel that brings one of these would replace it.
_RESERVED = re.compile(
    r"(?:bin|Scripts)/pythonw?[0-9.]*t?(?:\.exe)?|pyvenv\.cfg|(?:lib|lib64)/python[^/]*(?:/.*)?"
    r"|(?:lib|lib64)",
    re.IGNORECASE,
)
_DIST_INFO = re.compile(r"[^/]+\.(?:dist|egg)-info(?:/.*)?", re.IGNORECASE)


def check_layout(members: list[Member], dist_info: str, scripts: Iterable[str]) -> None:
    """Refuse members that are no plain files, leave their place, or meet in one path.

    ``scripts`` are the names the entry points make in ``bin``. Raises :class:`Refused`.
    """
    data_folder = dist_info.removesuffix(".dist-info") + ".data"
    owners: dict[str, tuple[str, str]] = {}
    files: dict[str, str] = {}
    for member in members:
        _check_mode(member)
        path = _installed(member, data_folder)
        if not member.is_folder:
            files[member.name] = path
            _claim(owners, path, f"member {shown(member.name)}")
    for name in scripts:
        _claim(owners, f"bin/{name}", f"script {shown(name)} of entry_points.txt")
    folders = {folder for path, _ in owners.values() for folder in _parents(path)}
    folders.update(
        _installed(member, data_folder).rstrip("/") for member in members if member.is_folder
    )
    for path, owner in owners.values():
        if path in folders:
            raise Refused("W5", f"{owner} is a file where another member needs a folder")


def _check_mode(member: Member) -> None:
    """Only plain files and folders, and no set-id bits."""
    kind = stat.S_IFMT(member.mode)
    if kind not in (0, stat.S_IFDIR if member.is_folder else stat.S_IFREG):
        raise Refused("W3", f"member {shown(member.name)} is a {_kind(kind)}")
    if member.is_folder:
        if member.size:
            raise Refused("W5", f"folder {shown(member.name)} holds {member.size} bytes")
    elif member.mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise Refused(
            "W3",
            f"member {shown(member.name)} has mode {stat.S_IMODE(member.mode):04o}, with a "
            f"set-id or sticky bit",
        )


def _kind(kind: int) -> str:
    names = {
        stat.S_IFLNK: "symbolic link",
        stat.S_IFIFO: "named pipe",
        stat.S_IFCHR: "character device",
        stat.S_IFBLK: "block device",
        stat.S_IFSOCK: "socket",
        stat.S_IFDIR: "folder without a slash at the end of its name",
        stat.S_IFREG: "file with a slash at the end of its name",
    }
    return names.get(kind, f"file of the unknown kind {kind:#o}")


def _installed(member: Member, data_folder: str) -> str:
    """The path under the prefix an installer gives this member."""
    top, _, rest = member.name.partition("/")
    if not top.lower().endswith(".data"):
        return f"{_SITE}/{member.name}"
    if top != data_folder:
        raise Refused("W9", f"folder {shown(top)} is not this wheel's, expected {data_folder}")
    scheme, _, path = rest.partition("/")
    if not rest:
        return _SITE
    if scheme not in SCHEMES:
        raise Refused(
            "W9", f"member {shown(member.name)} is in no known scheme ({', '.join(SCHEMES)})"
        )
    if not path:
        if member.is_folder:
            return _SITE
        raise Refused(
            "W9", f"member {shown(member.name)} is a file where a scheme's folder belongs"
        )
    if scheme in ("purelib", "platlib"):
        if _DIST_INFO.fullmatch(path):
            raise Refused("W2", f"member {shown(member.name)} would write into a .dist-info folder")
        return f"{_SITE}/{path}"
    if scheme == "scripts":
        if "/" not in path and script_name_problem(path):
            raise Refused("W2", f"member {shown(member.name)} would replace {shown('bin/' + path)}")
        return f"bin/{path}"
    if scheme == "headers":
        return f"{{include}}/{path}"
    if _RESERVED.fullmatch(path.rstrip("/") if not member.is_folder else path):
        raise Refused("W2", f"member {shown(member.name)} would write to {shown(path)}")
    return path


def _claim(owners: dict[str, tuple[str, str]], path: str, owner: str) -> None:
    """Note who installs ``path``; two names that some file systems hold for one are a clash."""
    key = path if path.isascii() else unicodedata.normalize("NFC", path)
    key = key.casefold()
    known = owners.get(key)
    if known is None:
        owners[key] = (path, owner)
        return
    if known[0] == path:
        raise Refused("W5", f"{known[1]} and {owner} are installed at one path")
    raise Refused("W5", f"{known[1]} and {owner} differ only in case or Unicode form")


def _parents(path: str) -> Iterable[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path
