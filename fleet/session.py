"""The controller's end of the agent's verbs, typed.

A session is one connection: it starts the agent, gets its hello, and asks for one verb after
another. Every wait has a deadline; a host that does not answer in time is a HostError like any
other, and closing the session is the order to stop.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from types import TracebackType
from typing import Any

from fleet import agent_json, payload
from fleet.errors import HostError, printable
from fleet.frames import CHUNK, Closed, FrameError, Reader, frame
from fleet.transport import Channel, Transport
from images.manifest import Manifest

__all__ = ["Facts", "HostError", "HostState", "Pending", "RunResult", "Session"]

Key = tuple[str, bool]


@dataclass(frozen=True, slots=True)
class Proof:
    """What a host gets to check an image's signature itself.

    ``signers`` is the text of a trust or allowed_signers file, ``fleet`` the fleet a plain list
    stands for, ``name`` the image's, ``signature`` the signed statements (may be empty).
    """

    name: str
    fleet: str
    signers: str
    signature: str
    required: bool


Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """A switch that waits for its confirmation. ``armed``: its revert timer lives."""

    to: str
    back: str | None
    generation: int
    armed: bool
    by: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class HostState:
    """Where a host stands. Image ids are 64 hex digits; the generation orders everything.

    ``foreign`` says what stands in the place of ``current`` that is not ours, else empty.
    ``confirmed`` is in the order of confirmation. ``last`` is the last change: generation,
    what (confirmed, reverted, rolled back, adopted), id, reason.
    """

    generation: int
    current: str | None
    previous: str | None
    pending: Pending | None
    releases: tuple[str, ...]
    confirmed: tuple[str, ...]
    quarantined: Mapping[str, str]
    foreign: str
    last: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a host said in its hello. Sizes in bytes; -1 inodes: the file system has no limit."""

    python_version: str
    executable: str
    base_prefix: str
    implementation: str
    abi: str
    magic: str
    machine: str
    libc: tuple[str, str]
    free_bytes: int
    free_inodes: int
    uid: int
    user: str
    root: str
    root_exists: bool
    clock: float
    clock_skew: float
    kill_user_processes: bool
    state: HostState
    settled: str


@dataclass(frozen=True, slots=True)
class RunResult:
    """A command or a probe on the host. status 0 is success; output is as the host sent it."""

    status: int
    output: str
    seconds: float
    timed_out: bool

    @property
    def ok(self) -> bool:
        """Whether it succeeded in time."""
        return self.status == 0 and not self.timed_out


@dataclass(frozen=True, slots=True)
class HostDrift:
    """One difference of a release; what: missing, added, content, size, mode, type."""

    path: str
    package: str
    what: str


class Session:
    """One connection to one root of one host; use as a context manager.

    ``by`` (who, rollout, plan, reason, ticket) goes into the host's lock and history with
    every verb. ``bytes_sent`` counts packs and manifests, ``bytes_overhead`` everything else.
    """

    facts: Facts

    def __init__(self, transport: Transport, channel: Channel, timeout: float) -> None:
        self.name = transport.name
        self.timeout = timeout
        self.by: dict[str, str] = {}
        self.on_progress: Progress | None = None
        self.bytes_sent = 0
        self.bytes_overhead = 0
        self._channel = channel
        self._deadline = time.monotonic() + timeout
        self._reader = Reader(lambda size: channel.read(size, self._deadline))
        self._open = True

    @classmethod
    def open(
        cls,
        transport: Transport,
        root: str,
        python: str,
        *,
        timeout: float = 60.0,
        connect_timeout: float | None = None,
        become: Iterable[str] = (),
        keep: bool = True,
        by: Mapping[str, str] | None = None,
    ) -> Session:
        """Connect, start the agent, take its hello. Raises HostError.

        ``timeout`` (seconds) is the deadline of every verb that does not name its own. With
        ``keep=False`` nothing is written on the host: no agent published, nothing settled.
        """
        argv = [*become, *payload.command(python, root, keep=keep)]
        deadline = time.monotonic() + (timeout if connect_timeout is None else connect_timeout)
        channel = transport.open(argv, deadline)
        session = cls(transport, channel, timeout)
        session.by = dict(by or {})
        session.bytes_overhead += sum(len(word) + 3 for word in argv)
        try:
            session.facts = _facts(session._hello(python))
        except BaseException:
            session.close()
            raise
        return session

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session; the agent stops."""
        if self._open:
            self._open = False
            self._channel.close()

    # The line

    def _hello(self, python: str) -> dict[str, Any]:
        noise = b""
        try:
            self._within(self.timeout)
            noise = self._reader.mark()
            kind, data = self._reader.next()
            if kind == b"N":
                deflated = payload.payload().deflated
                self.bytes_overhead += len(deflated)
                self._channel.write(deflated, self._deadline)
                self._reader.mark()
                kind, data = self._reader.next()
            while kind == b"P":
                kind, data = self._reader.next()
        except Closed as error:
            raise self._not_started(python, noise or error.args[0]) from None
        except FrameError as error:
            raise HostError(self.name, "protocol", str(error)) from None
        except TimeoutError:
            raise self._late("hello") from None
        except OSError as error:
            raise self._died("hello", error) from None
        answer = self._parse(data)
        if kind == b"X":
            raise self._refusal(answer)
        return answer

    def push_deadline(self, seconds: float) -> None:
        """What is under way may take so much longer from now on: it is slow, not dead."""
        self._within(seconds)

    def _within(self, seconds: float) -> None:
        self._deadline = time.monotonic() + seconds

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            answer = agent_json.loads(data)
        except ValueError as error:
            raise HostError(self.name, "protocol", f"a damaged answer: {error}") from None
        if not isinstance(answer, dict):
            raise HostError(self.name, "protocol", "an answer of another shape")
        return answer

    def _refusal(self, answer: Mapping[str, Any]) -> HostError:
        kind = str(answer.get("kind", "protocol"))
        what, hint = (printable(str(answer.get(name, ""))) for name in ("what", "hint"))
        data = answer.get("data")
        return HostError(self.name, kind, what, hint, data if isinstance(data, dict) else None)

    def _not_started(self, python: str, noise: bytes) -> HostError:
        status, said = self._channel.status(), printable(self._channel.stderr(), 200)
        shown = printable(noise.decode("utf-8", "replace"), 120)
        detail = "; ".join(text for text in (said, shown and f"it said: {shown}") if text)
        if status is not None and (status in (126, 127) or status < 0 or said or status):
            what = f"{python} did not start the agent (exit {status})"
            return HostError(self.name, "no-python", f"{what}: {detail}" if detail else what)
        what = "the host ended the session before the agent answered"
        return HostError(self.name, "protocol", f"{what}: {detail}" if detail else what)

    def _late(self, verb: str) -> HostError:
        return HostError(self.name, "timeout", f"no answer to {verb} within its deadline")

    def _died(self, verb: str, error: Exception | None = None) -> HostError:
        status, said = self._channel.status(), printable(self._channel.stderr(), 200)
        parts = ["the agent or the connection ended"]
        if status is not None and status < 0:
            parts.append(f"signal {-status}")
        elif status:
            parts.append(f"exit {status}")
        if error is not None and str(error):
            parts.append(printable(str(error), 100))
        if said:
            parts.append(said)
        return HostError(self.name, "agent-died", f"{', '.join(parts)}, during {verb}")

    def _ask(
        self,
        verb: str,
        request: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        stream: Iterable[bytes] | None = None,
    ) -> tuple[dict[str, Any], bytes]:
        """One verb: request, bytes that belong to it, answer, bytes that belong to that."""
        line: dict[str, Any] = {"verb": verb, "by": self.by, **(request or {})}
        if stream is not None:
            line["bytes"] = True
        if not self._open:
            raise HostError(self.name, "agent-died", f"the session was over before {verb}")
        self._within(self.timeout if timeout is None else timeout)
        try:
            head = frame(b"J", agent_json.dumps(line))
            self.bytes_overhead += len(head)
            self._channel.write(head, self._deadline)
            early = self._send_stream(stream) if stream is not None else None
            return self._answer(early)
        except TimeoutError:
            self.close()
            raise self._late(verb) from None
        except (Closed, OSError, FrameError) as error:
            kept = error if isinstance(error, OSError) else None
            if isinstance(error, FrameError):
                raise HostError(self.name, "protocol", str(error)) from None
            died = self._last_words() or self._died(verb, kept)
            self.close()
            raise died from None
        except HostError:
            raise
        except BaseException:
            # In the middle of a request, so nothing more can be said on this line.
            self.close()
            raise

    def _send_stream(self, stream: Iterable[bytes]) -> tuple[bytes, bytes] | None:
        """Bytes in frames; stops early, with the answer, when the host refuses them."""
        for piece in stream:
            for at in range(0, len(piece), CHUNK):
                part = piece[at : at + CHUNK]
                self._channel.write(frame(b"B", part), self._deadline)
                self.bytes_sent += len(part)
                self.bytes_overhead += 5
            while self._channel.ready():
                kind, data = self._reader.next()
                if kind != b"P":
                    self._channel.write(frame(b"E"), self._deadline)
                    return kind, data
                self._show(data)
        self._channel.write(frame(b"E"), self._deadline)
        return None

    def _answer(self, early: tuple[bytes, bytes] | None) -> tuple[dict[str, Any], bytes]:
        kind, data = early or self._reader.next()
        while kind == b"P":
            self._show(data)
            kind, data = self._reader.next()
        answer = self._parse(data)
        if kind == b"X":
            raise self._refusal(answer)
        parts = []
        if answer.get("body"):
            kind, data = self._reader.next()
            while kind == b"B":
                parts.append(data)
                kind, data = self._reader.next()
        return answer, b"".join(parts)

    def _last_words(self) -> HostError | None:
        """A refusal the agent sent before it went, when writing to it failed."""
        try:
            self._within(1.0)
            while True:
                kind, data = self._reader.next()
                if kind == b"X":
                    return self._refusal(self._parse(data))
        except (TimeoutError, Closed, OSError, FrameError):
            return None

    def _show(self, data: bytes) -> None:
        if self.on_progress:
            title, done, total = agent_json.loads(data)
            self.on_progress(printable(str(title), 60), int(done), int(total))

    # Staging

    def begin(
        self,
        manifest: Manifest,
        *,
        delta: bytes | None = None,
        base: str | None = None,
        proof: Proof | None = None,
    ) -> list[Key]:
        """Give the host a manifest, whole or as a delta to ``base``; the objects it lacks.

        ``delta`` is what images.delta made of both. Sorted as Manifest.objects(). Kind `base`:
        the host has no such base, send it whole. Kind `signature`: the host refuses ``proof``,
        or its absence.
        """
        sent = zlib.compress(manifest.to_bytes(), 6) if delta is None else delta
        request: dict[str, Any] = {"id": manifest.image_id}
        if delta is not None:
            request["base"] = base
        if proof is not None:
            request["proof"] = asdict(proof)
        _, bits = self._ask("begin", request, stream=_pieces(sent))
        keys = list(manifest.objects())
        if len(bits) != (len(keys) + 7) // 8:
            raise HostError(self.name, "protocol", "a list of missing objects of another length")
        return [key for at, key in enumerate(keys) if bits[at >> 3] & (0x80 >> (at & 7))]

    def send_pack(self, pieces: Iterable[bytes], *, timeout: float | None = None) -> int:
        """Send a pack (see fleet/pack.py); how many objects the host took."""
        answer, _ = self._ask("pack", {}, timeout=timeout, stream=pieces)
        return int(answer["objects"])

    def checkout(self, image_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Make the release on disk: files, made (or already there), how files were placed."""
        return self._ask("checkout", {"id": image_id}, timeout=timeout)[0]

    def verify(
        self, image_id: str, deep: bool = False, *, timeout: float | None = None
    ) -> list[HostDrift]:
        """Where a release differs from its manifest: by stat, or by every byte."""
        answer, _ = self._ask("verify", {"id": image_id, "deep": deep}, timeout=timeout)
        return [HostDrift(*(str(part) for part in row)) for row in answer["drift"]]

    def repair(
        self, image_id: str, paths: Iterable[str], *, timeout: float | None = None
    ) -> list[Key]:
        """Put paths of a release right; objects to send first, if any (then ask again)."""
        request = {"id": image_id, "paths": list(paths)}
        answer, _ = self._ask("repair", request, timeout=timeout)
        return [(str(sha256), bool(executable)) for sha256, executable in answer["missing"]]

    # Switching

    def switch(
        self,
        image_id: str,
        expect_current: str | None,
        generation: int,
        revert_after: float,
        hooks: Iterable[str] = (),
        *,
        hook_timeout: float = 60.0,
        env_file: str = "",
    ) -> int:
        """Arm the revert timer, then make the release current; the new generation.

        Refused (kind `moved`) unless the host is where the caller saw it. ``hooks`` run on the
        host for the release that is active again after a way back.
        """
        request = {
            "id": image_id,
            "expect_current": expect_current,
            "generation": generation,
            "revert_after": revert_after,
            "hooks": list(hooks),
            "hook_timeout": hook_timeout,
            "env_file": env_file,
        }
        return int(self._ask("switch", request)[0]["generation"])

    def extend(self, generation: int, seconds: float) -> None:
        """Move the revert deadline to at least so many seconds from now."""
        self._ask("extend", {"generation": generation, "seconds": seconds})

    def run(
        self, command: str, timeout: float, *, env_file: str = "", image_id: str | None = None
    ) -> RunResult:
        """One command on the host, for the current release or the one named."""
        request = {"command": command, "timeout": timeout, "env_file": env_file, "id": image_id}
        return _result(self._ask("run", request, timeout=timeout + self.timeout)[0])

    def http(self, url: str, timeout: float) -> RunResult:
        """One GET from the host; success is any answer from 200 to 299."""
        request = {"url": url, "timeout": timeout}
        return _result(self._ask("http", request, timeout=timeout + self.timeout)[0])

    def confirm(self, generation: int) -> int:
        """Keep what was switched to and disarm; on a new session than the switch's."""
        return int(self._ask("confirm", {"generation": generation})[0]["generation"])

    def revert(
        self, generation: int, reason: str, *, timeout: float | None = None
    ) -> list[tuple[str, int, Any]]:
        """Go back from an unconfirmed switch; what the hooks of the way back did."""
        request = {"generation": generation, "reason": reason}
        answer, _ = self._ask("revert", request, timeout=timeout)
        return [(str(command), int(status), more) for command, status, more in answer["hooks"]]

    def rollback(
        self,
        to: str | None,
        expect_current: str | None,
        *,
        generation: int | None = None,
        deep: bool = False,
        timeout: float | None = None,
    ) -> tuple[str, int]:
        """Switch to a release confirmed once, default the previous; its id, the generation."""
        request: dict[str, Any] = {"expect_current": expect_current, "deep": deep}
        if to is not None:
            request["to"] = to
        if generation is not None:
            request["generation"] = generation
        answer, _ = self._ask("rollback", request, timeout=timeout)
        return str(answer["id"]), int(answer["generation"])

    # Looking after

    def prune(
        self, keep: int, pins: Iterable[str] = (), *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Remove what nobody needs: removed (ids), objects, bytes."""
        return self._ask("prune", {"keep": keep, "pins": list(pins)}, timeout=timeout)[0]

    def quarantine(self, image_id: str, reason: str) -> None:
        """Refuse an image on this host from now on."""
        self._ask("quarantine", {"id": image_id, "reason": reason})

    def clear(self, image_id: str, reason: str) -> str:
        """Take an image again; why it was refused."""
        return str(self._ask("clear", {"id": image_id, "reason": reason})[0]["was"])

    def history(self, count: int = 20) -> list[dict[str, Any]]:
        """The last lines of the host's history, oldest first."""
        return list(self._ask("history", {"count": count})[0]["lines"])

    def processes(self) -> list[tuple[str, int]]:
        """Release (or ``current``) and pid of every process seen running from the root."""
        answer, _ = self._ask("processes")
        return [(str(image), int(pid)) for image, pid in answer["processes"]]

    def adopt(self) -> str:
        """Accept what stands in the place of ``current``; what that was."""
        return str(self._ask("adopt")[0]["adopted"])

    def forget(self, *, force: bool = False) -> list[str]:
        """Remove everything of ours from the root; the names that are left there."""
        return list(self._ask("forget", {"force": force})[0]["left"])


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), CHUNK):
        yield data[at : at + CHUNK]


def _result(answer: Mapping[str, Any]) -> RunResult:
    return RunResult(
        int(answer["status"]), str(answer["output"]), float(answer["seconds"]),
        bool(answer["timed_out"]),
    )  # fmt: skip


def _facts(hello: Mapping[str, Any]) -> Facts:
    python, state = hello["python"], hello["state"]
    pending = state["pending"]
    if pending:
        pending = Pending(
            pending["to"], pending["back"], pending["generation"], pending["armed"],
            pending["by"] or {},
        )  # fmt: skip
    return Facts(
        python_version=python["version"],
        executable=python["executable"],
        base_prefix=python["base_prefix"],
        implementation=python["implementation"],
        abi=python["abi"],
        magic=python["magic"],
        machine=hello["machine"],
        libc=(hello["libc"][0], hello["libc"][1]),
        free_bytes=hello["free"][0],
        free_inodes=hello["free"][1],
        uid=hello["uid"],
        user=hello["user"],
        root=hello["root"]["path"],
        root_exists=hello["root"]["exists"],
        clock=hello["clock"],
        clock_skew=hello["clock"] - time.time(),
        kill_user_processes=hello["kill_user_processes"],
        settled=hello["settled"],
        state=HostState(
            generation=state["generation"],
            current=state["current"],
            previous=state["previous"],
            pending=pending,
            releases=tuple(state["releases"]),
            confirmed=tuple(state["confirmed"]),
            quarantined=state["quarantined"],
            foreign=state["foreign"],
            last=state["last"],
        ),
    )
