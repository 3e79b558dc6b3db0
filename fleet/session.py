"""The controller's end of the agent's verbs, typed.

A session is one connection: it starts the agent, gets its hello, and asks for one verb after
another. Every wait has a deadline; a host that does not answer in time is a HostError like any
other, and closing the session is the order to stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar

from fleet import payload
from fleet.errors import HostError
from fleet.facts import (
    Facts,
    HostDrift,
    HostState,
    Pending,
    Proof,
    RunResult,
    drift_of,
    facts_of,
    image_in,
    key_of,
    number_in,
    record_in,
    run_result,
    status_in,
    text_in,
)
from fleet.frames import CHUNK
from fleet.line import Line
from fleet.pack import packed_manifest
from fleet.packing import Key
from fleet.transport import Transport
from images.manifest import Manifest

__all__ = [
    "Facts", "HostDrift", "HostError", "HostState", "Pending", "Proof", "RunResult", "Session",
]  # fmt: skip

R = TypeVar("R")
# A host ends a command that is late within agent_run.GRACE; its answer may take until here
# after the command's own deadline. Seconds.
REPLY = 0.75


class Session(Line):
    """One connection to one root of one host; use as a context manager."""

    facts: Facts

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

        ``timeout`` (seconds) is the deadline of every verb that does not name its own,
        ``connect_timeout`` that of the connection and of the hello, each. With
        ``keep=False`` nothing is written on the host: no agent published, nothing settled.
        """
        argv = [*become, *payload.command(python, root, keep=keep)]
        patience = timeout if connect_timeout is None else connect_timeout
        channel = transport.open(argv, monotonic() + patience)
        session = cls(transport.name, channel, timeout)
        session.by = dict(by or {})
        session.bytes_overhead += sum(len(word) + 3 for word in argv)
        try:
            session.facts = facts_of(session.hello(python, patience))
        except (LookupError, TypeError, ValueError, AttributeError):
            session.close()
            raise HostError(transport.name, "protocol", "a hello of another shape") from None
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

    def _read(self, verb: str, answer: Mapping[str, Any], read: Callable[[Any], R]) -> R:
        """What `read` finds in an answer. A host that sent something else: kind `protocol`."""
        try:
            return read(answer)
        except (LookupError, TypeError, ValueError, AttributeError):
            what = f"an answer to {verb} of another shape"
            raise HostError(self.name, "protocol", what) from None

    # Staging

    def begin(
        self,
        manifest: Manifest,
        *,
        delta: bytes | None = None,
        base: str | None = None,
        proof: Proof | None = None,
        name: str = "",
    ) -> list[Key]:
        """Give the host a manifest, whole or as a delta to ``base``; the objects it lacks.

        ``delta`` is what images.delta made of both. Sorted as Manifest.objects(). Kind `base`:
        the host has no such base, send it whole. Kind `signature`: the host refuses ``proof``,
        or its absence. Kind `root`: it is the root of an application of another ``name``.
        """
        sent = packed_manifest(manifest) if delta is None else delta
        request: dict[str, Any] = {"id": manifest.image_id, "name": name}
        if delta is not None:
            request["base"] = base
        if proof is not None:
            request["proof"] = asdict(proof)
        answer, bits = self.ask("begin", request, stream=_pieces(sent))
        self.zstd = self._read("begin", answer, lambda a: bool(a["zstd"]))
        keys = list(manifest.objects())
        if len(bits) != (len(keys) + 7) // 8:
            raise HostError(self.name, "protocol", "a list of missing objects of another length")
        return [key for at, key in enumerate(keys) if bits[at >> 3] & (0x80 >> (at & 7))]

    def send_pack(self, pieces: Iterable[bytes], *, timeout: float | None = None) -> int:
        """Send a pack of all that is missing (see fleet/packing.py); how many the host took."""
        answer, _ = self.ask("pack", {}, timeout=timeout, stream=pieces)
        left = self._read("pack", answer, lambda a: number_in(a["missing"]))
        if left:
            raise HostError(self.name, "object", f"{left} objects were not in the pack")
        return self._read("pack", answer, lambda a: number_in(a["objects"]))

    def checkout(self, image_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Make the release on disk: files, made (or already there), how files were placed."""
        answer, _ = self.ask("checkout", {"id": image_id}, timeout=timeout)
        return self._read("checkout", answer, record_in)

    def verify(
        self,
        image_id: str,
        deep: bool = False,
        *,
        timeout: float | None = None,
    ) -> list[HostDrift]:
        """Where a release differs from its manifest: by stat, or by every byte."""
        request = {"id": image_id, "deep": deep}
        answer, _ = self.ask("verify", request, timeout=timeout)
        return self._read("verify", answer, lambda a: [drift_of(row) for row in a["drift"]])

    def repair(
        self, image_id: str, paths: Iterable[str], *, timeout: float | None = None
    ) -> list[Key]:
        """Put paths of a release right; objects to send first, if any (then ask again)."""
        request = {"id": image_id, "paths": list(paths)}
        answer, _ = self.ask("repair", request, timeout=timeout)
        return self._read("repair", answer, lambda a: [key_of(row) for row in a["missing"]])

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
        answer, _ = self.ask("switch", request)
        return self._read("switch", answer, _generation)

    def extend(self, generation: int, seconds: float) -> None:
        """Move the revert deadline to at least so many seconds from now."""
        self.ask("extend", {"generation": generation, "seconds": seconds})

    def run(
        self, command: str, timeout: float, *, env_file: str = "", image_id: str | None = None
    ) -> RunResult:
        """One command on the host, for the current release or the one named."""
        request = {"command": command, "timeout": timeout, "env_file": env_file, "id": image_id}
        answer, _ = self.ask("run", request, timeout=timeout + REPLY)
        return self._read("run", answer, run_result)

    def http(self, url: str, timeout: float, *, env_file: str = "") -> RunResult:
        """One GET from the host; success is any answer from 200 to 299."""
        request = {"url": url, "timeout": timeout, "env_file": env_file}
        answer, _ = self.ask("http", request, timeout=timeout + REPLY)
        return self._read("http", answer, run_result)

    def confirm(self, generation: int) -> int:
        """Keep what was switched to and disarm; on a new session than the switch's."""
        answer, _ = self.ask("confirm", {"generation": generation})
        return self._read("confirm", answer, _generation)

    def revert(
        self, generation: int, reason: str, *, timeout: float | None = None
    ) -> list[tuple[str, int, Any]]:
        """Go back from an unconfirmed switch; what the hooks of the way back did."""
        request = {"generation": generation, "reason": reason}
        answer, _ = self.ask("revert", request, timeout=timeout)
        return self._read("revert", answer, lambda a: [_hook(row) for row in a["hooks"]])

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
        answer, _ = self.ask("rollback", request, timeout=timeout)
        return self._read("rollback", answer, lambda a: (image_in(a["id"]), _generation(a)))

    # Looking after

    def prune(
        self, keep: int, pins: Iterable[str] = (), *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Remove what nobody needs: removed (ids), objects, bytes."""
        answer, _ = self.ask("prune", {"keep": keep, "pins": list(pins)}, timeout=timeout)
        return self._read("prune", answer, _pruned)

    def quarantine(self, image_id: str, reason: str) -> None:
        """Refuse an image on this host from now on."""
        self.ask("quarantine", {"id": image_id, "reason": reason})

    def clear(self, image_id: str, reason: str) -> str:
        """Take an image again; why it was refused."""
        answer, _ = self.ask("clear", {"id": image_id, "reason": reason})
        return self._read("clear", answer, lambda a: text_in(a["was"]))

    def history(self, count: int = 20) -> list[dict[str, Any]]:
        """The last lines of the host's history, oldest first."""
        answer, _ = self.ask("history", {"count": count})
        return self._read("history", answer, lambda a: [record_in(line) for line in a["lines"]])

    def processes(self) -> list[tuple[str, int]]:
        """Release (or ``current``) and pid of every process seen running from the root."""
        answer, _ = self.ask("processes")
        return self._read(
            "processes", answer,
            lambda a: [(text_in(image), number_in(pid)) for image, pid in a["processes"]],
        )  # fmt: skip

    def adopt(self, names: Iterable[str] = ()) -> str:
        """Accept what stands in the place of ``current``, or a root of none of ``names``.

        What that was; empty when there was nothing to accept.
        """
        answer, _ = self.ask("adopt", {"names": list(names)})
        return self._read("adopt", answer, lambda a: text_in(a["adopted"]))

    def forget(self, *, force: bool = False) -> list[str]:
        """Remove everything of ours from the root; the names that are left there."""
        answer, _ = self.ask("forget", {"force": force})
        return self._read("forget", answer, lambda a: [text_in(name) for name in a["left"]])


def _generation(answer: Mapping[str, Any]) -> int:
    return number_in(answer["generation"])


def _hook(row: Any) -> tuple[str, int, Any]:
    command, status, more = row
    return text_in(command), status_in(status), text_in(more) if isinstance(more, str) else more


def _pruned(answer: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "removed": [image_in(image) for image in answer["removed"]],
        "objects": number_in(answer["objects"]),
        "bytes": number_in(answer["bytes"]),
    }


def _pieces(data: bytes) -> Iterator[bytes]:
    for at in range(0, len(data), CHUNK):
        yield data[at : at + CHUNK]
