"""Saving while training goes on: the run stands still only until what is saved was copied into memory."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from diptych.training import checkpoint, snapshot
from diptych.training.snapshot import Snapshot
from diptych.training.state import Run


class Saver:
    """Writes checkpoints in a thread of its own, one save after the other. The context ends when the last is written.

    What fails in the thread is raised by the next call of `save`, `check` or `wait`, or at the end of the context,
    unless another error ends it.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saving")
        self._under_way: Future[None] | None = None
        self._snapshot: Snapshot | None = None

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()  # waits
        if error is None:
            self.wait()

    def save(self, run: Run, folders: Sequence[Path]) -> None:
        """Begins to save a run, into each of the folders in turn, after the save that is under way.

        Raises:
            SaveFailed: that one failed.
        """
        self.wait()
        self._snapshot = snapshot.take(run, self._snapshot)
        self._under_way = self._thread.submit(_write, self._snapshot, folders)

    def check(self) -> None:
        """Raises SaveFailed if a save has failed meanwhile."""
        if self._under_way and self._under_way.done():
            self.wait()

    def wait(self) -> None:
        """Returns when everything is written; raises SaveFailed if it could not be."""
        under_way, self._under_way = self._under_way, None
        if under_way:
            under_way.result()


def _write(taken: Snapshot, folders: Sequence[Path]) -> None:
    for folder in folders:
        checkpoint.write(taken, folder)
