"""Who but its owner may write a file. Travels to hosts: standard library only.

Everybody is never accepted. A group is, when it is the owner's alone: where each user has a group
of the same name (Debian, Fedora), a umask of 002 makes every new file group-writable, and nobody
is let in by that. `fleet.agent_first` has a copy: it runs before anything can be imported.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os


def open_to(status: os.stat_result) -> str:
    """``everybody``, ``group NAME`` or, when only the owner may write it, nothing."""
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
