"""Publishing what is ready while the rest is still computed, in a thread of its own."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

from images.store import Batch

# So many objects are worth a barrier of their own.
_STEP = 300


class Publisher:
    """Publishes a batch in steps. What was begun ends with the ``with`` block, also after an error.

    One step begins when the one before it has ended well: the first error is raised by the
    next call, or at the end of the block, and nothing is published after it.
    """

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._thread = ThreadPoolExecutor(1, "publish")
        self._error: BaseException | None = None
        self._last: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._thread.shutdown()
        if error is None:
            self._check()

    def begin(self, then: Callable[[], None]) -> None:
        """Publish what was added so far, and call ``then`` when it is."""
        self._submit(self._batch.publish_so_far)
        self._submit(then)

    def more(self) -> None:
        """Publish what was added since, if that is much and nothing else is on its way."""
        self._check()
        idle = self._last is None or self._last.done()
        if idle and len(self._batch) >= _STEP:
            self._submit(self._batch.publish_so_far)

    def finish(self) -> None:
        """Publish all that is left and make its names last; returns at once."""
        self._check()
        self._submit(self._batch.publish)

    def _submit(self, work: Callable[[], None]) -> None:
        self._last = self._thread.submit(self._guarded, work)

    def _guarded(self, work: Callable[[], None]) -> None:
        if self._error is None:
            try:
                work()
            except BaseException as error:
                self._error = error

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
