"""What happens beside the kernels while their calls are recorded: counters, steps in Python, and what forbids it.

The backends' recordings hold the kernel calls; a Capture holds the rest that is needed to repeat them. Those of
backends with graphs have `step()`, which makes a recording of a step's calls.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Capture", "Step", "active", "again", "capturing", "drawn", "forbid", "mine", "unrecorded"]


@dataclass
class Step:
    """What Python has to do between the kernel calls.

    Attributes
    ----------
    at : int
        Before which one.
    run : callable
    due : callable
        Whether it is to be done this time.
    calls : object or None
        The backend's recording of its kernel calls if they are part of a graph; the step is run before it then.
    """

    at: int
    run: Callable[[], Any]
    due: Callable[[], bool]
    calls: Any

    def deferred(self) -> Any:
        """Run it without its kernels: the recording of their calls."""
        capture = Capture(self.calls.step(deferred=True), "deferred step")
        with capturing(capture):
            self.run()
        return capture.recording


class Capture:
    """One pass through a function, or through a step in Python whose kernel calls are part of a graph.

    Parameters
    ----------
    recording : object
        Of the backend: start(), stop(), len().
    what : {"function", "step", "deferred step"}

    Attributes
    ----------
    problem : str or None
        Why the pass cannot be repeated by its kernel calls.
    steps : list of Step
    counters : dict
        id of a random stream to (stream, its seed, its first counter in this pass, the counter after the last).
    """

    def __init__(self, recording: Any, what: Literal["function", "step", "deferred step"] = "function") -> None:
        self.recording, self.what = recording, what
        self.thread = threading.get_ident()
        self.problem: str | None = None
        self.steps: list[Step] = []
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
        if [step.at for step in self.steps] != [step.at for step in other.steps]:
            return "other steps in Python the second time"
        return None


#: The capture in progress, of whichever thread, or None.
active: Capture | None = None
_turn = threading.Lock()


def mine() -> Capture | None:
    """The capture in progress in this thread."""
    return active if active is not None and active.thread == threading.get_ident() else None


@contextmanager
def capturing(capture: Capture) -> Iterator[None]:
    """Record this thread's kernel calls until the block ends; captures of several threads take turns."""
    with _turn, _into(capture):
        yield


@contextmanager
def _into(capture: Capture) -> Iterator[None]:
    global active
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
    if capture is not None and capture.what == "deferred step":
        raise RuntimeError(f"Replay: {reason} in a steady step, before the graph of which it is a part")
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


def again(step: Callable[[], Any], *, due: Callable[[], bool] = lambda: True, steady: bool = False) -> Any:
    """Do something in Python now, unrecorded, and at this place of every repetition.

    Parameters
    ----------
    step : callable
    due : callable
        Whether it is to be done this time; now, too.
    steady : bool
        Its kernels are mostly the same on the same arrays, with other numbers (learning rates, counts), and it reads no
        values of tensors: on a GPU they are part of the graph, which has those numbers in its memory.

    Returns
    -------
    object
        What the step returns now; None if it is not due.
    """
    capture = mine()
    if capture is None or capture.what != "function":
        return step() if due() else None
    recording_of_step = getattr(capture.recording, "step", None)  # where there are graphs
    calls = recording_of_step() if steady and recording_of_step is not None else None
    noted = Step(len(capture.recording), step, due, calls)
    capture.steps.append(noted)
    if not due():
        return None
    try:
        with unrecorded():
            if noted.calls is None:
                return step()
            own = Capture(noted.calls, "step")
            with _into(own):
                result = step()
            if own.problem is not None or own.counters:
                noted.calls = None
            return result
    finally:
        if any(stream.offset != after for stream, _, _, after in capture.streams()):
            forbid("a step in Python draws random numbers")
