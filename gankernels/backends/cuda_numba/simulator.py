"""What Numba's simulator needs to run our kernels fast enough for tests, and to catch what a GPU would not forgive."""

from __future__ import annotations

import importlib
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedArrays", "SimulatedMemory", "running", "shared", "table"]

_one_at_a_time = threading.Lock()  # the simulator knows one kernel


class SimulatedMemory:
    """A flat array for a simulated kernel; an index outside of it raises, a negative one too."""

    __slots__ = ("owner", "values")

    def __init__(self, values: NDArray[Any], owner: Any) -> None:
        self.values = values
        self.owner = owner

    @property
    def size(self) -> int:
        """Elements."""
        return self.values.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the elements."""
        return self.values.dtype

    def __getitem__(self, i: int) -> Any:
        if i < 0:
            raise IndexError(f"a kernel read element {i} of an array")
        return self.values[i]

    def __setitem__(self, i: int, value: Any) -> None:
        if i < 0:
            raise IndexError(f"a kernel wrote element {i} of an array")
        self.values[i] = value


class SharedArrays:
    """`cuda.shared` of a simulated kernel: one array for each line that asks for it, full of NaN before it is written,
    as Numba's own are not.
    """

    def __init__(self) -> None:
        self._arrays: dict[Any, NDArray[Any]] = {}

    def array(self, shape: Any, dtype: Any) -> NDArray[Any]:
        """The block's array of the calling line."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lineno)
        if key not in self._arrays:
            self._arrays[key] = np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1, dtype)
        return self._arrays[key]

    def clear(self) -> None:
        """Forget the arrays, before another block."""
        self._arrays.clear()


shared = SharedArrays()


def table(values: NDArray[Any]) -> tuple[Any, ...]:
    """A table for kernels: Python's numbers are faster than NumPy's."""
    return tuple(values.tolist())


# ---- blocks --------------------------------------------------------------------------------------------------------
class _Index(NamedTuple):
    x: int
    y: int
    z: int


@cache
def _has_barrier(function: Any) -> bool:
    """Whether a kernel, or a function that it calls, waits for the other threads of its block."""
    code = function.__code__
    if "syncthreads" in code.co_names:
        return True
    found = [function.__globals__.get(name) for name in code.co_names]
    found += [cell.cell_contents for cell in function.__closure__ or ()]
    return any(_has_barrier(f) for f in found if isinstance(f, FunctionType))


class _Lane(threading.Thread):
    """A thread for blocks with barriers, one block after another: it runs while it has the turn, which it passes on at
    every barrier and at the end.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.turn = threading.Lock()
        self.turn.acquire()
        self.following = self.turn  # whose turn is next
        self.start()

    def begin(self, kernel: Callable[[], None], thread: _Index, block: _Index) -> None:
        """Be this thread of this block."""
        self.kernel, self.is_done, self.is_given_up = kernel, False, False
        self.error: Exception | None = None
        self.threadIdx, self.blockIdx = thread, block  # where Numba's simulator looks for them

    def run(self) -> None:
        while True:
            self.turn.acquire()
            try:
                if not self.is_given_up:
                    self.kernel()
            except Exception as error:
                self.error = error
            self.is_done = True
            self.following.release()

    def syncthreads(self) -> None:
        self.following.release()
        self.turn.acquire()
        if self.is_given_up:
            raise RuntimeError("another thread of the block failed")


_lanes: list[_Lane] = []


class _Block:
    """A block of a simulated kernel, in place of numba.cuda.simulator.kernel.BlockManager: one thread at a time runs up
    to the next barrier. Numba's own starts all at once and polls them, which takes a hundred times as long.

    Whatever needs a barrier and has none is read before it is written in one of the orders: they turn around with
    every barrier and every block.
    """

    def __init__(self, kernel: Callable[..., None], grid: Any, block: tuple[int, int, int], debug: bool) -> None:
        self.kernel, self.extents = kernel, block

    def run(self, at: tuple[int, int, int], *arguments: Any) -> None:
        """Run all threads of the block at this place in the grid."""
        shared.clear()
        block = _Index(*at)
        threads = [_Index(*reversed(i)) for i in np.ndindex(*reversed(self.extents))]
        if sum(block) % 2:
            threads.reverse()
        if _has_barrier(self.kernel):
            self._take_turns(threads, block, arguments)
            return
        here: Any = threading.current_thread()
        here.blockIdx = block
        for i in threads:
            here.threadIdx = i
            self.kernel(*arguments)

    def _take_turns(self, threads: list[_Index], block: _Index, arguments: tuple[Any, ...]) -> None:
        while len(_lanes) < len(threads):
            _lanes.append(_Lane())
        lanes = _lanes[: len(threads)]
        for lane, thread in zip(lanes, threads, strict=True):
            lane.begin(lambda: self.kernel(*arguments), thread, block)
        back = threading.Lock()
        back.acquire()
        failed: _Lane | None = None
        try:
            while lanes:
                for lane, following in zip(lanes, [*(lane.turn for lane in lanes[1:]), back], strict=True):
                    lane.following, lane.is_given_up = following, failed is not None
                lanes[0].turn.release()
                back.acquire()
                failed = failed or next((lane for lane in lanes if lane.error), None)
                lanes = [lane for lane in reversed(lanes) if not lane.is_done]
        except BaseException:  # from outside: the threads are left where they stand
            _lanes.clear()
            raise
        if failed is not None and failed.error is not None:
            raise type(failed.error)(f"thread {failed.threadIdx}, block {block}: {failed.error}") from failed.error


@contextmanager
def running() -> Iterator[None]:
    """While a kernel runs: NumPy must not warn of what arithmetic on a GPU does silently."""
    with _one_at_a_time:
        importlib.import_module("numba.cuda.simulator.kernel").BlockManager = _Block  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
