"""What Numba's simulator needs to run our kernels fast enough for tests, and to catch what a GPU would not forgive."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SharedArrays", "SimulatedMemory", "running", "shared", "table"]

_SWITCH_S = 1e-6
_one_at_a_time = threading.Lock()  # the simulator knows one kernel


class SimulatedMemory:
    """A flat array for a simulated kernel; an index outside of it raises, a negative one too."""

    __slots__ = ("owner", "values")

    def __init__(self, values: NDArray[Any], owner: Any) -> None:
        self.values = values
        self.owner = owner

    def __getitem__(self, i: int) -> Any:
        if i < 0:
            raise IndexError(f"a kernel read element {i} of an array")
        return self.values[i]

    def __setitem__(self, i: int, value: Any) -> None:
        if i < 0:
            raise IndexError(f"a kernel wrote element {i} of an array")
        self.values[i] = value


class SharedArrays:
    """`cuda.shared` of a simulated kernel: one array for each line that asks for it, full of NaN before it is written.

    Numba's own may give two threads of a block different arrays, if they ask at the same time.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._arrays: dict[Any, NDArray[Any]] = {}

    def array(self, shape: Any, dtype: Any) -> NDArray[Any]:
        """The block's array of the calling line."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lineno)
        with self._lock:
            if key not in self._arrays:
                self._arrays[key] = np.full(shape, np.nan if np.dtype(dtype).kind == "f" else -1, dtype)
            return self._arrays[key]

    def clear(self) -> None:
        """Forget the arrays, before another kernel."""
        self._arrays.clear()


shared = SharedArrays()


def table(values: NDArray[np.int64]) -> tuple[int, ...]:
    """A table for kernels: Python's numbers are faster than NumPy's."""
    return tuple(values.tolist())


@contextmanager
def running() -> Iterator[None]:
    """While a kernel runs: NumPy must not warn of what arithmetic on a GPU does silently, and the loop of the simulator
    that waits for its threads must not keep the interpreter from them.
    """
    with _one_at_a_time:
        shared.clear()
        before = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                yield
        finally:
            sys.setswitchinterval(before)
