"""The host's end of a session: it says hello, then does one verb after another. Travels to hosts.

1. Standard input and output are moved aside first, so that nothing a hook or a library prints
   can end up between frames.
2. Hello goes out unasked: a host with nothing to do costs one connection and one answer.
3. A verb that changes anything takes the host's lock first and keeps it until the session ends,
   or until a switch is made: from then on the pending record and the armed timer guard the host.
4. The end of input is the order to stop. Nothing stays resident but an armed revert timer.

Verbs are functions ``(agent, request) -> answer`` in ``agent_*.py``, imported when first used.
No threads here.
"""

from __future__ import annotations

import gc
import os
import sys

from fleet import agent_json
from fleet.agent_errors import AgentError, answer_of
from fleet.frames import CHUNK, MARK, Closed, FrameError, Reader, frame
from images.errors import WainError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from fleet.agent_look import Look
    from fleet.agent_stage import Early
    from images.manifest import Manifest
    from images.render import Interpreter
    from images.store import Store
    from images.worklist import WorkList

    Request = dict[str, Any]
    Answer = dict[str, Any]

# Seconds without a word after which a session that holds the lock is taken for lost: a peer that
# vanished without closing its line would else keep everybody out for hours.
SILENCE = 600

# verb: module, and whether it changes anything below the root (and so takes the lock)
VERBS = {
    "begin": ("agent_stage", True),
    "pack": ("agent_pack", True),
    "checkout": ("agent_stage", True),
    "verify": ("agent_verify", False),
    "repair": ("agent_verify", True),
    "switch": ("agent_switch", True),
    "confirm": ("agent_switch", True),
    "revert": ("agent_switch", True),
    "rollback": ("agent_switch", True),
    "extend": ("agent_switch", False),
    "run": ("agent_run", False),
    "http": ("agent_run", False),
    "prune": ("agent_keep", True),
    "quarantine": ("agent_keep", True),
    "clear": ("agent_keep", True),
    "adopt": ("agent_keep", True),
    "forget": ("agent_keep", True),
    "history": ("agent_keep", False),
    "processes": ("agent_keep", False),
}


class Agent:
    """One session on one root: the line to the controller, the lock, what was staged."""

    def __init__(self, root: str, digest: str, source: int, sink: int) -> None:
        self.root = root
        self.digest = digest
        self.source = source
        self._sink = sink
        self.reader = Reader(self._read)
        self.lock = -1
        self.owed = False  # whether bytes of the request are still to be read
        self.name = ""  # of the image that was begun
        self.staged: dict[str, Manifest] = {}
        self.packed: dict[str, bytes] = {}  # manifests as they came whole
        self.prepared: dict[str, tuple[WorkList, Look]] = {}
        self.early: dict[str, Early] = {}
        self.fresh: set[str] = set()  # names of the objects that this session has written
        self.wanted: dict[tuple[str, bool], int] = {}
        self._store: Store | None = None

    def _read(self, size: int) -> bytes:
        if self.lock >= 0:
            import select

            if not select.select([self.source], [], [], SILENCE)[0]:
                raise Closed("nothing was heard for too long")
        return os.read(self.source, size)

    @property
    def store(self) -> Store:
        """The objects and manifests below the root."""
        if self._store is None:
            from images.store import Store

            self._store = Store(self.root)
        return self._store

    def release(self, image_id: str) -> str:
        """Where a release is, or would be."""
        return f"{self.root}/releases/{image_id}"

    def manifest(self, image_id: str) -> Manifest:
        """The manifest this session has checked, else the stored one, checked again."""
        if image_id not in self.staged:
            from images.store import StoreError

            try:
                self.staged[image_id] = self.store.manifest(image_id)
            except StoreError as error:
                raise AgentError("missing", str(error)) from None
        return self.staged[image_id]

    def interpreter_of(self, image_id: str) -> Interpreter:
        """What a release was made for, while that is still there; else what runs this.

        An update of the host's Python to another patch release is no drift.
        """
        from fleet import agent_state
        from images.render import Interpreter

        made = agent_state.load(self.root)["made"].get(image_id)
        if made and os.access(made[0], os.X_OK):
            return Interpreter(*made)
        return self.interpreter()

    @staticmethod
    def interpreter() -> Interpreter:
        """What runs this, resolved: a shim linked as bin/python would be no environment."""
        from images.render import Interpreter

        if not sys.executable:
            raise AgentError("no-python", "this Python does not know where it is")
        version = ".".join(map(str, sys.version_info[:3]))
        return Interpreter(os.path.realpath(sys.executable), version, sys.base_prefix)

    def send(self, kind: bytes, value: Any) -> None:
        """One frame to the controller. Raises OSError when it is gone."""
        data = memoryview(frame(kind, agent_json.dumps(value)))
        while data:
            data = data[os.write(self._sink, data) :]

    def progress(self, title: str, done: int, total: int) -> None:
        """A sign of life while a verb takes its time."""
        self.send(b"P", [title, done, total])

    def stream(self) -> Iterator[bytes]:
        """The bytes that follow a request, in pieces of at most 1 MiB."""
        yield from self.reader.body()
        self.owed = False

    def take_lock(self, request: Request) -> None:
        """The host's lock, if this session does not hold it. Raises AgentError `locked`."""
        if self.lock < 0:
            from fleet.agent_lock import acquire

            os.makedirs(self.root, 0o755, exist_ok=True)
            self.lock = acquire(self.root, request)

    def free_lock(self) -> None:
        """Give the lock back."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def serve(agent: Agent) -> int:
    """Requests until the end of input; the exit status."""
    while True:
        try:
            kind, payload = agent.reader.next()
        except Closed:
            return 0
        if kind != b"J":
            raise FrameError("expected a request")
        request = agent_json.loads(payload)
        agent.owed = bool(request.get("bytes"))
        _guarded(agent, _perform, request)
        if agent.owed:
            # The verb failed before it had read them all.
            for _ in agent.stream():
                continue


def _perform(agent: Agent, request: Request) -> Answer:
    name = request.get("verb")
    if name not in VERBS:
        raise AgentError("usage", f"unknown verb {str(name)[:40]!a}")
    module, changes = VERBS[name]
    if changes:
        agent.take_lock(request)
    # Absolute, and through the importer: the archive has no other way in.
    verb = __import__(f"fleet.{module}", fromlist=[name])
    answer: Answer = getattr(verb, name)(agent, request)
    return answer


def _guarded(agent: Agent, action: Callable[..., Answer], *arguments: Any) -> Answer:
    """Do it and send the answer, or the error as data. Returns what was sent."""
    try:
        answer, kind = action(agent, *arguments), b"J"
    except (Closed, FrameError):
        raise
    except WainError as error:
        answer, kind = answer_of(error), b"X"
    except OSError as error:
        what = f"{error.filename or agent.root}: {error.strerror or error}"
        what += f" (as uid {os.geteuid()})"
        answer, kind = {"kind": "io", "what": what, "hint": ""}, b"X"
    except Exception as error:
        place = error.__traceback__
        while place and place.tb_next:
            place = place.tb_next
        line = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "?"
        what = f"{type(error).__name__}: {error} at {line}"
        answer, kind = {"kind": "agent-died", "what": what, "hint": ""}, b"X"
    body = answer.pop("body", None)
    if body is not None:
        answer["body"] = True
    agent.send(kind, answer)
    if body is not None:
        for at in range(0, len(body), CHUNK):
            os_write(agent, frame(b"B", body[at : at + CHUNK]))
        os_write(agent, frame(b"E"))
    return answer


def os_write(agent: Agent, data: bytes) -> None:
    """Raw bytes to the controller."""
    view = memoryview(data)
    while view:
        view = view[os.write(agent._sink, view) :]


def main(root: str, digest: str, mode: str) -> int:
    """Serve one session on standard input and output."""
    # A session is short, and what it makes by the ten thousand lives as long as it does.
    gc.disable()
    source, sink = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    agent = Agent(root, digest, source, sink)
    try:
        os_write(agent, MARK)
        from fleet.agent_hello import hello

        answer = _guarded(agent, hello, mode == "keep")
        return 1 if "kind" in answer else serve(agent)
    except (Closed, BrokenPipeError, ConnectionError):
        return 1
    except FrameError as error:
        agent.send(b"X", {"kind": "protocol", "what": str(error), "hint": ""})
        return 1
