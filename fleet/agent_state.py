"""What a host remembers: ``state.json``, the link ``current``, the history. Travels to hosts.

``state.json`` is replaced whole (temporary, sync, rename, sync of the folder); its generation
counts every change of ``current`` and orders everything: no clock does. Fields:

==============  ====================================================================
format          1; any other is refused
generation      counts switches, reverts, rollbacks
current         the text of the link as the last settled change left it, or null
previous        the text of the link before that, or null
pending         an unconfirmed switch (see agent_switch), or null
name            the application that has this root: the name its images have, or empty
seen            image id -> generation at which it was last switched to
confirmed       image id -> generation at which it was confirmed
staged          image id -> generation at which it was checked out
quarantined     image id -> reason
last            the last change: generation, what, id, reason
made            image id -> the interpreter its release was made for
trust           whose signatures count: required, text (see agent_trust), or empty
proven          image id -> name, epoch, counter of its proven statement
accepted        name -> epoch, counter, image id of the newest that was confirmed
==============  ====================================================================

A link's text is ``releases/<id>`` for a release; any other text is something adopted.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from fleet import agent_json
from fleet.agent_errors import AgentError, is_image_id
from images import durable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    State = dict[str, Any]

FORMAT = 1
PRIVATE = 0o600  # reasons, and what hooks said: only for who rolls out here
_FIELDS: dict[str, tuple[Any, Any]] = {
    "generation": (int, 0),
    "current": ((str, type(None)), None),
    "previous": ((str, type(None)), None),
    "pending": ((dict, type(None)), None),
    "name": (str, ""),
    "seen": (dict, {}),
    "confirmed": (dict, {}),
    "staged": (dict, {}),
    "quarantined": (dict, {}),
    "last": (dict, {}),
    "made": (dict, {}),
    "trust": (dict, {}),
    "proven": (dict, {}),
    "accepted": (dict, {}),
}


def load(root: str) -> State:
    """The state of a root; a fresh one where there is none. Raises AgentError `format`."""
    path = f"{root}/state.json"
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return {"format": FORMAT, **{name: _copy(value) for name, (_, value) in _FIELDS.items()}}
    try:
        state = agent_json.loads(data)
        found = state["format"]
    except (ValueError, KeyError, TypeError):
        raise AgentError("format", f"{path} is damaged", "move it away, then adopt") from None
    if found != FORMAT:
        raise AgentError(
            "format",
            f"{path}: format {str(found)[:20]!a} found, this wain reads {FORMAT}",
            "use the release of wain that wrote it",
        )
    for name, (kind, value) in _FIELDS.items():
        if not isinstance(state.setdefault(name, _copy(value)), kind):
            raise AgentError("format", f"{path}: a wrong value for {name}")
    return state  # type: ignore[no-any-return]


def _copy(value: Any) -> Any:
    return dict(value) if isinstance(value, dict) else value


def save(root: str, state: State) -> None:
    """Replace the state so that it lasts. Raises OSError; the old one then stands."""
    path = f"{root}/state.json"
    temporary = f"{path}.new"
    # A dead session may have left it; the lock is ours, so nobody is writing it now.
    durable.discard(temporary)
    durable.write_file(path, agent_json.dumps(state) + b"\n", temporary, PRIVATE)


def save_in_need(root: str, state: State) -> None:
    """As `save`, for the end of a change: on a full disk, what can be made anew gives its room."""
    try:
        save(root, state)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        for folder in ("agent", "seals"):
            for name in os.listdir(f"{root}/{folder}") if os.path.isdir(f"{root}/{folder}") else ():
                # The agent itself and its timer stay; its bytecode and the seals go.
                if is_image_id(name[:64]) and not name.endswith(".pyz"):
                    durable.discard(f"{root}/{folder}/{name}")
        save(root, state)


def link_of(image: str) -> str:
    """The text of ``current`` for a release."""
    return f"releases/{image}"


def release_of(link: str | None) -> str | None:
    """The image id a link's text names; None for none and for something adopted."""
    if link is None or not link.startswith("releases/") or not is_image_id(link[9:]):
        return None
    return link[9:]


def read_link(root: str) -> tuple[str | None, str]:
    """The text of ``current`` and, when it is no link at all, what it is instead."""
    path = f"{root}/current"
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None, ""
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path), ""
    return None, "a folder" if stat.S_ISDIR(status.st_mode) else "a file"


def foreign(root: str, state: State) -> str:
    """What stands in the place of ``current`` that this state does not account for, or ""."""
    link, other = read_link(root)
    if other:
        return f"current is {other}"
    known = {state["current"]}
    if state["pending"]:
        known = {state["pending"].get("back"), link_of(str(state["pending"].get("to")))}
    if link not in known:
        wanted = " or ".join(sorted(str(text) for text in known if text)) or "nothing"
        found = f"a link to {link}" if link is not None else "missing"
        return f"current is {found}, where {wanted} was left"
    if link is not None and release_of(link) and not os.path.isdir(f"{root}/{link}"):
        return f"current is a dangling link to {link}"
    return ""


def set_link(root: str, link: str | None) -> None:
    """Point ``current`` somewhere else in one step, and make it last. Raises OSError."""
    path = f"{root}/current"
    if link is None:
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
    else:
        temporary = f"{path}.new"
        durable.discard(temporary)
        os.symlink(link, temporary)
        os.rename(temporary, path)
    durable.sync_folder(root)


def releases(root: str) -> list[str]:
    """The image ids that are checked out, sorted."""
    # Never none for a folder that cannot be read: pruning would remove what they need.
    try:
        names = os.listdir(f"{root}/releases")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if is_image_id(name))


def record(root: str, state: State, what: str, request: dict[str, Any], **more: Any) -> None:
    """Append one line to history.jsonl and sync it. A full disk costs the line, not the switch."""
    by = request.get("by")
    line = {
        "generation": state["generation"],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "what": what,
        **more,
        "by": by if isinstance(by, dict) else {},
    }
    data = agent_json.dumps(line) + b"\n"
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(f"{root}/history.jsonl", flags, PRIVATE)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                data = b"\n" + data  # a line that was cut short stays alone
            durable.write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        return
