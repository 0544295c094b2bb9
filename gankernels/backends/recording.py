"""What happens beside the kernels while their calls are recorded: counters, steps in Python, and what forbids it.

The backends' recordings hold the kernel calls; a Capture holds the rest that is needed to repeat them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Capture", "active", "again", "capturing", "drawn", "forbid", "mine", "unrecorded"]


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
        id of a random stream to (stream, its seed, its first counter in this pass, the counter after the last).
    """

    def __init__(self, recording: Any) -> None:
        self.recording = recording
        self.thread = threading.get_ident()
        self.problem: str | None = None
        self.steps: list[tuple[int, Callable[[], Any]]] = []
        self.counters: dict[int, tuple[Any, int, int, int]] = {}

    def streams(self) -> list[tuple[Any, int, int, int]]:
        """(random stream, its seed, its first counter, the counter after the last) of every stream drawn from."""
        return list(self.counters.values())

    def difference(self, other: Capture) -> str | None:
        """Why the other pass was not a repetition of this one."""
        mine, theirs = ([(id(s), seed, after - first) for s, seed, first, after in c.streams()] for c in (self, other))
        if mine != theirs:
            return "other random streams were drawn from the second time, or as far"
        if len({seed for _, seed, _ in mine}) < len(mine):
            return "two random streams have one seed"
        reason = self.recording.difference(other.recording)
        if reason:
            return str(reason)
        if [at for at, _ in self.steps] != [at for at, _ in other.steps]:
            return "other steps in Python the second time"
        return None


#: The capture in progress, of whichever thread, or None.
active: Capture | None = None
_turn = threading.Lock()


def mine() -> Capture | None:
    """The capture in progress in this thread."""
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
    capture = mine()
    if capture is not None and capture.problem is None:
        capture.problem = reason


def drawn(stream: Any, first: int, after: int) -> None:
    """Note that a random stream (with `seed` and `offset`) gave the counters from `first` to `after`."""
    capture = mine()
    if capture is not None:
        began = capture.counters[id(stream)][2] if id(stream) in capture.counters else first
        capture.counters[id(stream)] = (stream, stream.seed, began, after)


@contextmanager
def unrecorded() -> Iterator[None]:
    """What is made inside is made once: it outlives the recording and is not part of it."""
    global active
    capture = mine()
    if capture is None:
        yield
        return
    capture.recording.stop()
    active = None
    try:
        yield
    finally:
        active = capture
        capture.recording.start()


def again(step: Callable[[], Any]) -> Any:
    """Do something in Python now, unrecorded, and at this place of every repetition."""
    capture = mine()
    if capture is None:
        return step()
    capture.steps.append((len(capture.recording), step))
    try:
        with unrecorded():
            return step()
    finally:
        if any(stream.offset != after for stream, _, _, after in capture.streams()):
            forbid("a step in Python draws random numbers")
