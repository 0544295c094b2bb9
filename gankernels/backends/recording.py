"""What happens beside the kernels while their calls are recorded: counters, steps in Python, and what forbids it.

The backends' recordings hold the kernel calls; a Capture holds the rest that is needed to repeat them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

__all__ = ["Capture", "active", "again", "capturing", "drawn", "forbid"]


class Capture:
    """One pass through a function.

    Parameters
    ----------
    recording : object
        Of the backend: start(), stop(), len().

    Attributes
    ----------
    problem : str or None
        Why the pass cannot be repeated by its kernel calls.
    steps : list of (int, callable)
        What Python has to do between the kernel calls: before which one, and what.
    counters : dict
        id of a random stream to (stream, its first counter in this pass, the counter after it).
    """

    def __init__(self, recording: Any) -> None:
        self.recording = recording
        self.thread = threading.get_ident()
        self.problem: str | None = None
        self.steps: list[tuple[int, Callable[[], Any]]] = []
        self.counters: dict[int, tuple[Any, int, int]] = {}


#: The capture in progress, of whichever thread, or None.
active: Capture | None = None
_turn = threading.Lock()


def _mine() -> Capture | None:
    return active if active is not None and active.thread == threading.get_ident() else None


@contextmanager
def capturing(capture: Capture) -> Any:
    """Record this thread's kernel calls until the block ends; captures of several threads take turns."""
    global active
    with _turn:
        active = capture
        capture.recording.start()
        try:
            yield
        finally:
            capture.recording.stop()
            active = None


def forbid(reason: str) -> None:
    """Say that what happens now depends on more than the kernel calls; nothing if no capture is in progress."""
    capture = _mine()
    if capture is not None and capture.problem is None:
        capture.problem = reason


def drawn(stream: Any, first: int, after: int) -> None:
    """Note that a random stream (with `seed` and `offset`) gave the counters from `first` to `after`."""
    capture = _mine()
    if capture is not None:
        before = capture.counters.get(id(stream), (stream, first, first))[1]
        capture.counters[id(stream)] = (stream, before, after)


def again(step: Callable[[], Any]) -> Any:
    """Do something in Python now, unrecorded, and at this place of every repetition."""
    capture = _mine()
    if capture is None:
        return step()
    global active
    capture.steps.append((len(capture.recording), step))
    capture.recording.stop()
    active = None
    try:
        return step()
    finally:
        active = capture
        capture.recording.start()
