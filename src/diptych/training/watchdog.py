"""Ends a run in which nothing moves any more: with a sentence that says where it hangs, and the stacks of all threads.

A run hangs when none of its processes has made progress for `patience` seconds. It is not enough that one of them
stands still, as the others do while the first one evaluates. So the processes tell each other once in a while how long
they have stood still, in a thread and over a group of their own; who has died is noticed in the same way. Where a
library holds Python's lock, so that no thread runs, a timer of `faulthandler` ends the process.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import torch.distributed as dist

from diptych.training.distributed import Place

_SECONDS = 5.0  # that a process gets to end by itself, and to write stacks
_running: Watchdog | None = None


def now(phase: str = "", detail: Callable[[], str] = str) -> None:
    """Tells that something has moved in this process, and what it does from now on, unless that is the same.

    `detail` is called, in another thread, where the run hangs: it may say more of what is waited for.
    """
    if _running:
        _running.now(phase, detail)


class Watchdog:
    """Watches over a run while the context lasts; `patience` 0 does nothing.

    When the run hangs the stacks of all threads of this process, and of its data workers, are appended to
    `out/stacks-RANK.txt`, and the process ends with exit code 1.
    """

    def __init__(self, patience: float, out: Path) -> None:
        self.patience, self.out = patience, out
        self.rank = int(os.environ.get("RANK", "0"))
        self._interval = max(min(patience / 4, 10.0), 0.05)  # between two looks
        self._phase, self._moved = "beginning", time.monotonic()
        self._detail: Callable[[], str] = str
        self._others: Place | None = None
        self._left, self._failed = threading.Event(), False
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Watchdog:
        return self

    def begin(self, place: Place) -> None:
        """Watches from now on; every process must call it.

        Not before the processes have met: the first one must find the folder of a new run empty.
        """
        global _running
        if not self.patience:
            return
        if place.world > 1:
            group = dist.new_group(backend="gloo", timeout=timedelta(seconds=self.patience))
            self._others = replace(place, control=group)
        self.out.mkdir(parents=True, exist_ok=True)
        self._path = self.out / f"stacks-{self.rank}.txt"
        self._file = self._path.open("a", encoding="utf-8")
        if hasattr(faulthandler, "register"):  # data workers inherit it: the signal makes them write their stacks
            faulthandler.register(signal.SIGUSR1, file=self._file)
        _running = self
        self._set_timer()
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        global _running
        if self._thread.ident is None:  # it was never begun
            return
        self.now("waiting for the other processes to end")
        self._failed = error is not None
        self._left.set()
        self._thread.join(_SECONDS if self._failed else None)
        _running = None
        faulthandler.cancel_dump_traceback_later()
        if hasattr(faulthandler, "register"):
            faulthandler.unregister(signal.SIGUSR1)
        self._file.close()
        if not self._path.stat().st_size:
            self._path.unlink()

    def now(self, phase: str = "", detail: Callable[[], str] = str) -> None:
        """As the function `now`."""
        if phase:
            self._phase, self._detail = phase, detail
        self._moved = time.monotonic()

    def _set_timer(self) -> None:
        """Sets anew what ends the process when this thread cannot run any more."""
        faulthandler.dump_traceback_later(self.patience + 2 * _SECONDS, exit=True, file=self._file)

    def _watch(self) -> None:
        while True:
            left = self._left.wait(self._interval)
            self._set_timer()
            states = self._states(left)
            failed = any(state["failed"] for state in states)
            if failed and not self._left.wait(_SECONDS):
                os._exit(1)  # the one that failed says why
            if failed or all(state["left"] for state in states):
                return
            if all(state["age"] > self.patience for state in states if not state["left"]):
                self._end(self._hangs(states))

    def _states(self, left: bool) -> list[dict[str, Any]]:
        """How long each process has stood still, and in what."""
        age = time.monotonic() - self._moved
        phase = self._phase + (self._detail() if age > self.patience / 2 else "")
        mine = {"age": age, "phase": phase, "left": left, "failed": self._failed}
        if not self._others:
            return [mine]
        try:
            return self._others.collect(mine)
        except RuntimeError:  # the group's way to say that a connection is closed, or that its time is over
            self._end(
                f"another process of the run has died, or has not answered for {self.patience:g} seconds, while this "
                f"one ({self.rank}) was {phase}: the same command goes on from the last checkpoint.",
                by=min(self.rank, 1),
            )

    def _hangs(self, states: list[dict[str, Any]]) -> str:
        phases: dict[str, list[str]] = {}
        for rank, state in enumerate(states):
            phases.setdefault(state["phase"], []).append(str(rank))
        where = [f"process {', '.join(ranks)} was {phase}" for phase, ranks in phases.items()]
        words = "; ".join(where) if len(states) > 1 else f"it was {states[0]['phase']}"
        return (
            f"the run hangs: nothing has moved for {self.patience:g} seconds (--patience) while {words}. Stacks of all "
            f"threads are in {self.out}/stacks-*.txt; the same command goes on from the last checkpoint."
        )

    def _end(self, sentence: str, by: int = 0) -> NoReturn:
        """Writes the stacks and ends the process; process `by` says why."""
        print(f"\n{sentence}", file=self._file, flush=True)
        faulthandler.dump_traceback(self._file, all_threads=True)
        for worker in multiprocessing.active_children() if hasattr(faulthandler, "register") else ():
            print(f"\ndata worker {worker.pid}:", file=self._file, flush=True)
            os.kill(worker.pid or 0, signal.SIGUSR1)
            time.sleep(0.2)
        if self.rank == by:
            print(f"\ndiptych: {sentence}", file=sys.stderr, flush=True)
        os._exit(1)
