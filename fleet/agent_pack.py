"""Taking a pack: objects out of a compressed stream, into the store. Travels to hosts.

Unpacking, hashing and writing are shared by a process a core; this one only hands out the
blocks. Only objects that were asked for, with the size the manifest says and the bytes their
name says, are taken. What has arrived whole when the line ends is published.
"""

from __future__ import annotations

import os
import time

from fleet.agent_errors import AgentError, answer_of
from fleet.agent_stage import drop_early, place_early, prepare
from fleet.agent_unpack import Blocks, take
from fleet.frames import Closed
from images import durable
from images.errors import WainError
from images.forks import Fed, can_fork
from images.layout import object_name
from images.parallel import cores

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from threading import Thread
    from typing import Any

    from fleet.agent import Agent
    from images.batch import Batch

    Key = tuple[str, bool]
    Request = dict[str, Any]
    Answer = dict[str, Any]

BATCH_BYTES = 256 << 20  # after so many, what arrived is published
FLUSH_BYTES = 64 << 20  # after so many, the disk begins to take them while more arrive
ALONE = 4 << 20  # bytes: up to here another process costs more than it saves


def pack(agent: Agent, request: Request) -> Answer:
    """Take the objects that are missing; each is kept once it has arrived whole."""
    sizes = dict(agent.wanted)
    blocks = Blocks(agent.stream())
    total = sum(sizes.values())
    count = size = 0
    problem: Exception | None = None
    while not (blocks.ended or problem):
        try:
            with agent.store.batch() as batch, _Flushing(batch) as flushing:
                pieces = _watched(agent, blocks, flushing, total)
                takers = _takers(batch, agent.wanted) if total > ALONE else None
                if takers:
                    prepare(agent)
                    taken, problem = _shared(takers, batch, agent.wanted, pieces)
                else:
                    taken, problem = take(batch, agent.wanted, (piece for _, piece in pieces))
                agent.fresh.update([object_name(*key) for key in taken])
                if takers and blocks.ended and not problem:
                    flushing.wait()
                    place_early(agent, batch)
        except BaseException:
            # What could not be made to last is not to be used.
            agent.fresh.clear()
            drop_early(agent)
            raise
        count += len(taken)
        size += sum(sizes[key] for key in taken)
    if problem:
        raise problem
    return {"objects": count, "size": size, "missing": len(agent.wanted)}


def _watched(
    agent: Agent, blocks: Blocks, flushing: _Flushing, total: int
) -> Iterator[tuple[bool, bytes]]:
    """The blocks of one batch; the controller hears from time to time that they still arrive."""
    shown, flushed = time.monotonic(), blocks.plain
    for begins, piece in blocks.upto(blocks.plain + BATCH_BYTES):
        now = time.monotonic()
        if now > shown + 0.5:
            shown = now
            agent.progress("Receiving", min(blocks.plain, total), total)
        if blocks.plain >= flushed + FLUSH_BYTES:
            flushed = blocks.plain
            flushing.begin()
        yield begins, piece


def _takers(batch: Batch, wanted: dict[Key, int]) -> Fed | None:
    """A process a core that takes objects out of blocks; None where that is not possible."""

    def work(source: int) -> tuple[list[Key], list[tuple[Key, str]], Answer | None]:
        taken, problem = take(batch, wanted, iter(lambda: os.read(source, 1 << 18), b""))
        answer = answer_of(problem) if isinstance(problem, WainError) else None
        return taken, batch.staged(), answer

    if cores() < 2 or not can_fork():
        return None
    try:
        return Fed(work, cores())
    except OSError:
        return None  # no more processes for this user


def _shared(
    takers: Fed, batch: Batch, wanted: dict[Key, int], pieces: Iterator[tuple[bool, bytes]]
) -> tuple[list[Key], Exception | None]:
    """As `take`, by several processes that stage into the same batch."""
    taken: list[Key] = []
    problem: Exception | None = None
    try:
        sink = -1
        try:
            for begins, piece in pieces:
                if begins:
                    sink = takers.idlest()
                if sink < 0:
                    raise AgentError("object", "the pack begins within an object")
                try:
                    durable.write_all(sink, piece)
                except BrokenPipeError:
                    break  # it gave up, and says why
        except (Closed, WainError) as error:
            problem = error
        for theirs, staged, answer in takers.results():
            taken += theirs
            batch.adopt(staged)
            if answer and not problem:
                problem = AgentError(answer["kind"], answer["what"], answer["hint"])
    finally:
        takers.stop()
    for key in taken:
        wanted.pop(key, None)
    return taken, problem


class _Flushing:
    """Has a batch written to the disk in a thread, so that its barrier finds little left to do."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._thread: Thread | None = None

    def __enter__(self) -> _Flushing:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def wait(self) -> None:
        """Until no thread is left."""
        if self._thread:
            self._thread.join()

    def begin(self) -> None:
        """Once more, unless the last time is not over."""
        import threading

        if not (self._thread and self._thread.is_alive()):
            self._thread = threading.Thread(target=self._batch.flush, daemon=True)
            self._thread.start()
