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

from gankernels._extras import require

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


class _Block:
    """A block of a simulated kernel, in place of numba.cuda.simulator.kernel.BlockManager: its threads are coroutines
    that run one after another, each up to the next barrier. Numba's own starts threads of the operating system and
    polls them, which takes hundreds of times as long.

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
        library = require("greenlet", extra="numba", purpose="blocks with barriers in Numba's simulator")
        here: Any = threading.current_thread()  # where the simulator looks for these
        here.blockIdx, here.syncthreads = block, library.getcurrent().switch
        lanes = [(library.greenlet(self.kernel), i) for i in threads]
        begun = False
        try:
            while lanes:
                for lane, i in lanes:  # up to the next barrier, or to the end
                    here.threadIdx = i
                    lane.switch(*() if begun else arguments)
                begun = True
                lanes = [(lane, i) for lane, i in reversed(lanes) if not lane.dead]
        except Exception as error:
            raise type(error)(f"thread {here.threadIdx}, block {block}: {error}") from error
        finally:
            for lane, _ in lanes:
                if not lane.dead:
                    lane.throw()  # ends it where it waits


@contextmanager
def running() -> Iterator[None]:
    """While a kernel runs: NumPy must not warn of what arithmetic on a GPU does silently."""
    with _one_at_a_time:
        importlib.import_module("numba.cuda.simulator.kernel").BlockManager = _Block  # type: ignore[attr-defined]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
