"""Ctrl-C and SIGTERM: the step is finished and the run saved; a second one stops at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

asked = threading.Event()
"""set where another process got the signal for this one"""


class Interrupt:
    """Within the context the first signal only makes `requested` true; the second raises KeyboardInterrupt.

    `said` is called at the first one. Outside the main thread, where Python hands out no signals, only `asked` counts.
    """

    def __init__(self, said: Callable[[str], None]) -> None:
        self._received = False
        self._said = said
        self._before: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run is to be saved and to stop."""
        return self._received or asked.is_set()

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        self._said("finishing this step, then saving; once more stops at once and loses what was not saved")
