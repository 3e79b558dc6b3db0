"""One connection to an agent: its hello, one question after another, deadlines, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fleet import agent_json, payload
from fleet.errors import HostError, last_words, printable
from fleet.frames import CHUNK, Closed, FrameError, Reader, frame
from fleet.transport import Channel

MAX_BODY = 64 << 20
"""Bytes that belong to one answer; a host that sends more is refused, whatever its deadline."""

MAX_PROGRESS = 10_000
"""Signs of life before the hello: each moves the deadline, so there is an end to them."""

Progress = Callable[[str, int, int], None]


class Line:
    """Frames to and from one agent. ``timeout`` (seconds) is the deadline of a question.

    ``by`` (who, rollout, plan, reason, ticket) goes into the host's lock and history with
    every verb. ``bytes_sent`` counts packs and manifests, ``bytes_overhead`` everything else.
    ``zstd``: whether the host reads it, known once a manifest was given to it.
    """

    def __init__(self, name: str, channel: Channel, timeout: float) -> None:
        self.name = name
        self.timeout = timeout
        self.by: dict[str, str] = {}
        self.on_progress: Progress | None = None
        self.bytes_sent = 0
        self.bytes_overhead = 0
        self.zstd = False
        self._channel = channel
        self._within(timeout)
        self._reader = Reader(lambda size: channel.read(size, self._deadline))
        self._open = True

    def close(self) -> None:
        """End the session; the agent stops."""
        if self._open:
            self._open = False
            self._channel.close()

    def hello(self, python: str, seconds: float) -> dict[str, Any]:
        """The agent's hello, after sending it the agent itself if it lacks that.

        Within ``seconds``, unless the host says that it goes back from something first.
        """
        noise = b""
        try:
            self._within(seconds)
            noise = self._reader.mark()
            kind, data = self._reader.next()
            if kind == b"N":
                shipped = payload.shipment(data.decode("ascii", "replace"))
                self.bytes_overhead += len(shipped)
                self._channel.write(shipped, self._deadline)
                self._reader.mark()
                kind, data = self._reader.next()
            for _ in range(MAX_PROGRESS):
                if kind != b"P":
                    break
                self._within(self.timeout)
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
        self._patience = seconds
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
        status, said = self._channel.status(), last_words(self._channel.stderr(), 200)
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
        status, said = self._channel.status(), last_words(self._channel.stderr(), 200)
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

    def ask(
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
            size = 0
            while kind == b"B":
                size += len(data)
                if size > MAX_BODY:
                    raise FrameError(f"an answer of more than {MAX_BODY} bytes (endless data)")
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
        """A sign of life: what is under way may take as long again."""
        self._within(self._patience)
        if self.on_progress:
            try:
                title, done, total = agent_json.loads(data)
                numbers = int(done), int(total)
            except (ValueError, TypeError, OverflowError):
                raise FrameError("a damaged sign of life") from None
            self.on_progress(printable(str(title), 60), *numbers)
