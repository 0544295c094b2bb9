"""How kernels are started: arrays as flat memory plus a tuple of strides, grids computed once for every shape.

A kernel of elements receives `loop`, one tuple of ints: (n, origin of every operand, then for every axis from the
innermost out: extent, stride of every operand), in elements. Axes are reordered and merged first, as the CPU does
(csrc/cpu/strided.hpp), so most loops have one axis; Numba compiles a kernel for every length of the tuple.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from gankernels.backends.cuda_numba import simulator
from gankernels.backends.cuda_numba.shim import SIMULATED, device
from gankernels.backends.device_array import DeviceArray

if TYPE_CHECKING:
    from gankernels.backends.cuda_numba.recorded import Recording

__all__ = [
    "THREADS", "Recorder", "Start", "ceil_div", "elements", "is_recording", "launch", "locate", "loop_of",
    "merged", "recording", "scalar_type", "strides_of", "this_thread", "unravel", "volume",
]  # fmt: skip

Ints = tuple[int, ...]
Recorder = Callable[[Any, tuple[Any, ...]], None]


def _threads() -> int:
    given = os.environ.get("GANKERNELS_NUMBA_SIM_THREADS", "16")
    if given not in ("4", "8", "16", "32", "64"):
        raise ValueError(f"GANKERNELS_NUMBA_SIM_THREADS is {given!r}; expected a power of two from 4 to 64")
    return int(given)


#: Threads of a block, a power of two. The simulator starts a Python thread for each, hence few there.
THREADS = _threads() if SIMULATED else 256
_MAX_BLOCKS = 3 if SIMULATED else 1 << 20  # more elements than that are walked in strides of the grid

_recorder: Recorder | None = None


class _ThisThread(threading.local):
    recording: Recording | None = None  # that launches are added to while they run


this_thread = _ThisThread()


def recording(recorder: Recorder | None) -> None:
    """From now on hand (kernel, arguments) to `recorder` instead of running kernels; None: run them again."""
    global _recorder
    _recorder = recorder


def is_recording() -> bool:
    """Whether kernels are recorded instead of run."""
    return _recorder is not None


class Start:
    """A kernel with its grid, ready to be called with arguments: Numba's work for a grid is done once."""

    __slots__ = ("call", "grid", "kernel")

    def __init__(self, kernel: Any, blocks: int | Ints, threads: int) -> None:
        self.kernel, self.grid = kernel, (blocks, threads)
        self.call = self._simulated
        if not SIMULATED:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Numba says of every small grid that it does not fill a GPU
                self.call = kernel[blocks, threads]

    def _simulated(self, *arguments: Any) -> None:
        with simulator.running():
            self.kernel[self.grid](*arguments)

    def __call__(self, *arguments: Any) -> None:
        """Queue the kernel on the default stream."""
        self.call(*arguments)


@lru_cache(maxsize=4096)
def start(kernel: Any, blocks: int | Ints, threads: int) -> Start:
    """The kernel with this grid, from the cache."""
    return Start(kernel, blocks, threads)


def launch(kernel: Any, blocks: int | Ints, threads: int, *arguments: Any) -> None:
    """Queue a kernel on the default stream."""
    if _recorder is not None:
        _recorder(kernel, arguments)
        return
    ready = start(kernel, blocks, threads)
    if this_thread.recording is not None:
        this_thread.recording.add(kernel.__name__, ready, arguments)
    ready.call(*arguments)


def ceil_div(a: int, b: int) -> int:
    """a/b rounded up."""
    return -(-a // b)


@lru_cache(maxsize=4096)
def elements(n: int) -> tuple[int, int]:
    """Blocks and threads of a kernel that walks n elements."""
    return max(1, min(ceil_div(n, THREADS), _MAX_BLOCKS)), THREADS


def scalar_type(a: DeviceArray) -> Any:
    """The NumPy type of the elements, for which kernels are made."""
    return a.dtype.type


@lru_cache(maxsize=4096)
def _strides(shape: Ints, strides: Ints, itemsize: int) -> tuple[int, Ints]:
    inside = [s // itemsize for s in strides]
    origin = sum(-(n - 1) * s for n, s in zip(shape, inside, strict=True) if s < 0 and n > 1)
    return origin, tuple(0 if n == 1 else s for n, s in zip(shape, inside, strict=True))


def strides_of(a: DeviceArray) -> tuple[int, Ints]:
    """Position of the first element in `arrays.flat(a)`, and the strides, both in elements."""
    return _strides(a.shape, a.strides, a.dtype.itemsize)


def volume(a: DeviceArray) -> Ints:
    """(origin, strides of N, C, D, H, W): missing spatial axes are leading ones of extent 1."""
    origin, strides = strides_of(a)
    return (origin, *strides[:2], *(0,) * (5 - a.ndim), *strides[2:])


def merged(axes: Sequence[Ints], operands: int) -> tuple[int, Ints]:
    """Number of elements, and the axes (extent, stride of every operand), given from the outermost in, here from the
    innermost out. Neighbours that every operand walks as one axis are one. At least one axis remains.
    """
    found: list[Ints] = []
    for axis in axes:
        last = found[-1] if found else None
        if last is not None and all(o == s * axis[0] for o, s in zip(last[1:], axis[1:], strict=True)):
            found[-1] = (last[0] * axis[0], *axis[1:])
        else:
            found.append(axis)
    found = found or [(1, *(0,) * operands)]
    return prod(axis[0] for axis in found), tuple(v for axis in reversed(found) for v in axis)


@lru_cache(maxsize=4096)
def _loop(keep_order: bool, shape: Ints, operands: tuple[tuple[int, Ints], ...]) -> Ints:
    axes = [(n, *(strides[i] for _, strides in operands)) for i, n in enumerate(shape) if n != 1]
    if not keep_order:
        axes.sort(key=lambda axis: [abs(s) for s in axis[:0:-1]], reverse=True)  # the output's first
    count, loop = merged(axes, len(operands))
    return (count, *(origin for origin, _ in operands), *loop)


def loop_of(*arrays: DeviceArray, keep_order: bool = False) -> Ints:
    """The loop over arrays of one shape; `keep_order` walks elements in row-major order."""
    return _loop(keep_order, arrays[0].shape, tuple(_strides(a.shape, a.strides, a.dtype.itemsize) for a in arrays))


@device
def locate(i: int, loop: Ints, operand: int, operands: int) -> int:
    """Position of element i of one operand (counted from 1) of a loop over so many."""
    at = loop[operand]
    rank = (len(loop) - 1 - operands) // (operands + 1)
    for axis in range(rank):
        first = 1 + operands + axis * (operands + 1)
        if axis == rank - 1:
            at += i * loop[first + operand]
        else:
            outer = i // loop[first]
            at += (i - outer * loop[first]) * loop[first + operand]
            i = outer
    return at


@device
def unravel(i: int, D: int, H: int, W: int) -> tuple[int, int, int, int]:
    """What is outside of the images of D*H*W cells, and the cell, of flat position i."""
    row = i // W
    plane = row // H
    image = plane // D
    return image, plane - image * D, row - plane * H, i - row * W
