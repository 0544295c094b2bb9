"""SIGINT and SIGTERM ask for a stop at the next step boundary; a second one ends the process at once.

The handler sets a flag and nothing else: no lock, no output, no file is touched inside it.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["EXIT_CODE", "StopSignals"]

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: stopped and saved, run again to go on


class StopSignals:
    """Context manager: `received` is the name of the first signal, or None.

    Outside the main thread, where Python cannot set handlers, it never receives anything.
    """

    def __init__(self, signals: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.signals = signals
        self.received: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        self.received = None
        if threading.current_thread() is threading.main_thread():
            for s in self.signals:
                self._before[s] = signal.signal(s, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for s, handler in self._before.items():
            signal.signal(s, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is None:
            self.received = signal.Signals(number).name
            return
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
