"""Hooks and health checks, run on the host. Travels to hosts.

A command runs through ``/bin/sh -c`` in a session of its own, with its standard input empty,
no descriptor of ours, and these placeholders replaced: ``{release}`` (resolved path of the
release), ``{root}``, ``{id}``. The deadline ends its whole process group; a service it started
and left behind within the deadline lives on. Output is kept to a limit, beginning and end, and
values from the env-file are masked in it.
"""

from __future__ import annotations

import os
import select
import time

from fleet import agent_state, agent_timer
from fleet.agent_errors import AgentError, image_id, number, text
from fleet.frames import Closed
from images.private import open_to

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from fleet.agent import Agent

    Request = dict[str, Any]
    Answer = dict[str, Any]

LIMIT = 32768  # bytes of output kept, from the beginning and from the end each
ALIVE = 2.0  # seconds between signs of life
GRACE = 0.3  # seconds between TERM and KILL
MARGIN = 2.0  # seconds a revert deadline is moved beyond a command's own
BODY = 2048  # bytes of an answer to a probe
MASKED = 4  # characters: shorter values of the env-file would mask half of any output


def run(agent: Agent, request: Request) -> Answer:
    """One command for one release; the revert deadline moves forward by the command's own."""
    command, seconds = text(request, "command"), number(request, "timeout")
    image = _release(agent, request)
    _push_deadline(agent.root, seconds)
    try:
        return run_command(
            agent.root, image, command, seconds, text(request, "env_file"), agent.source, agent
        )
    except Closed:
        # The controller is gone in the middle of a hook or check: do not wait out its deadline.
        armed = agent_timer.deadline(agent.root)
        if armed:
            agent_timer.set_deadline(agent.root, armed[0], 0.0, shorten=True)
        raise


def _release(agent: Agent, request: Request) -> str | None:
    """The release that is meant: the one named, else the one that is current, if any."""
    if request.get("id") is not None:
        return image_id(request)
    return agent_state.release_of(agent_state.read_link(agent.root)[0])


def _push_deadline(root: str, seconds: float) -> None:
    armed = agent_timer.deadline(root)
    if armed:
        agent_timer.set_deadline(root, armed[0], seconds + MARGIN)


def run_command(
    root: str,
    image: str | None,
    command: str,
    seconds: float,
    env_file: str,
    source: int,
    agent: Agent | None = None,
) -> Answer:
    """Run it and wait for it; ``source`` is watched for the controller's end, unless -1."""
    import subprocess

    values = {"root": root}
    if image:
        values.update(id=image, release=f"{root}/releases/{image}")
    elif "{release}" in command or "{id}" in command:
        raise AgentError("missing", "no release is current here")
    for name, value in values.items():
        command = command.replace("{" + name + "}", _quoted(value))
    settings = read_env_file(env_file)
    environment = {name: value for name, value in os.environ.items() if name[:6] != "PYTHON"}
    # A check must not leave files in the release it checks.
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment.update(settings)
    environment.update({f"WAIN_{name.upper()}": value for name, value in values.items()})
    began = time.monotonic()
    process = subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        # Preflight asks before a first roll-out has made the root.
        cwd=values.get("release") or (root if os.path.isdir(root) else "/"),
        env=environment,
        start_new_session=True,
    )
    output = _Output()
    try:
        timed_out = _watch(process, output, began + seconds, source, agent)
    except BaseException:
        _end(process)
        raise
    return {
        "status": process.returncode,
        "output": output.text(settings.values()),
        "seconds": round(time.monotonic() - began, 3),
        "timed_out": timed_out,
    }


def _quoted(value: str) -> str:
    plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./-+@%"
    if all(character in plain for character in value):
        return value
    return "'" + value.replace("'", "'\"'\"'") + "'"


def _watch(process: Any, output: _Output, end: float, source: int, agent: Agent | None) -> bool:
    """Until it ends or the deadline passes; True when it did. Raises Closed."""
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, False)
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    if source >= 0:
        poll.register(source, select.POLLIN)
    alive = time.monotonic() + ALIVE
    while process.poll() is None:
        now = time.monotonic()
        if now >= end:
            _end(process)
            output.take(pipe)
            return True
        if agent and now >= alive:
            agent.progress("Running a command", 0, 0)
            alive = now + ALIVE
        # A command that has closed its output still has to be waited for.
        for descriptor, event in poll.poll(min(end - now, 0.05) * 1000):
            if descriptor == pipe:
                if not output.take(pipe) and event & select.POLLHUP:
                    poll.unregister(pipe)
            elif agent and not agent.reader.fill():
                raise Closed(b"")
    output.take(pipe)
    process.stdout.close()
    return False


def _end(process: Any) -> None:
    """The whole group: asked first, then killed."""
    import signal

    for order, patience in ((signal.SIGTERM, GRACE), (signal.SIGKILL, 0.0)):
        try:
            os.killpg(process.pid, order)
        except ProcessLookupError:
            break
        end = time.monotonic() + patience
        while process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
    process.wait()


class _Output:
    """The beginning and the end of what a command writes."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""
        self._lost = 0

    def take(self, descriptor: int) -> bool:
        """What is there now; False at the end."""
        while True:
            try:
                data = os.read(descriptor, 65536)
            except BlockingIOError:
                return True
            if not data:
                return False
            room = LIMIT - len(self._head)
            self._head += data[:room]
            self._tail += data[room:]
            self._lost += max(0, len(self._tail) - LIMIT)
            self._tail = self._tail[-LIMIT:]

    def text(self, secrets: Any) -> str:
        """All that was kept, secrets masked."""
        hidden = _hidden(secrets)
        if not self._lost:
            return _masked((self._head + self._tail).decode("utf-8", "replace"), hidden)
        head = _masked(self._head.decode("utf-8", "replace"), hidden)
        tail = _masked(self._tail.decode("utf-8", "replace"), hidden)
        # What was left out may begin or end within a secret: half of one is not shown either.
        cut = max((_overlap(head, one) for one in hidden), default=0)
        skip = max((_overlap(one, tail) for one in hidden), default=0)
        head = head[: len(head) - cut] + "***" * bool(cut)
        return f"{head}\n[{self._lost} bytes left out]\n" + "***" * bool(skip) + tail[skip:]


def _hidden(settings: Any) -> list[str]:
    """The values to mask; the longest first, for one may hold another."""
    return sorted({one for one in settings if len(one) >= MASKED}, key=len, reverse=True)


def _masked(shown: str, hidden: list[str]) -> str:
    for secret in hidden:
        shown = shown.replace(secret, "***")
    return shown


def _overlap(before: str, after: str) -> int:
    """How many characters at the end of one text are the beginning of the other."""
    sizes = range(min(len(before), len(after)), 0, -1)
    return next((size for size in sizes if before.endswith(after[:size])), 0)


def read_env_file(path: str) -> dict[str, str]:
    """Host-local settings, one NAME=value a line, # comments, one pair of quotes taken off.

    Never sent anywhere. Raises AgentError when it cannot be read, or when somebody else may
    write it.
    """
    if not path:
        return {}
    try:
        with open(path, encoding="utf-8") as file:
            status = os.fstat(file.fileno())
            others = open_to(status)
            if status.st_uid not in (0, os.geteuid()):
                others = f"uid {status.st_uid}"
            if others:
                raise AgentError("io", f"env-file {path} may be written by others ({others})")
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        what = getattr(error, "strerror", None) or "it is not UTF-8"
        raise AgentError("io", f"env-file {path}: {what}") from None
    settings = {}
    for count, line in enumerate(lines, 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        name, value = name.strip(), value.strip()
        if not equals or not name.isidentifier():
            raise AgentError("io", f"env-file {path}:{count}: expected NAME=value")
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        settings[name] = value
    return settings


def http(agent: Agent, request: Request) -> Answer:
    """One GET; status 0 stands for any answer from 200 to 299. Redirects are not followed."""
    seconds, url = number(request, "timeout"), text(request, "url")
    _push_deadline(agent.root, seconds)
    settings = read_env_file(text(request, "env_file"))
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise AgentError("usage", f"no http address: {url[:100]!a}")
    import http.client

    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    began = time.monotonic()
    status, output, timed_out = 1, "", False
    try:
        line = kind(parts.hostname, parts.port, timeout=max(0.05, seconds))
        try:
            target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            line.request("GET", target, headers={"User-Agent": "wainwright", "Connection": "close"})
            answer = line.getresponse()
            status = 0 if 200 <= answer.status < 300 else 1
            body = answer.read(BODY).decode("utf-8", "replace")
            output = f"HTTP {answer.status} {answer.reason}\n{body}"
        finally:
            line.close()
    except TimeoutError:
        output, timed_out = "no answer in time", True
    except (OSError, http.client.HTTPException, ValueError) as error:
        output = getattr(error, "strerror", None) or str(error) or type(error).__name__
    hidden = _hidden(settings.values())
    output = _masked(output, hidden)
    cut = max((_overlap(output, one) for one in hidden), default=0)
    return {
        "status": status,
        "output": output[: len(output) - cut] + "***" * bool(cut),
        "seconds": round(time.monotonic() - began, 3),
        "timed_out": timed_out,
    }
