"""A device that is not there: the contract of a CUDA backend kept with host memory and the CPU's kernels.

What it is for: its arrays cannot be read by NumPy, its kernels refuse NumPy arrays, and fresh memory is poisoned, so
that an operation which forgets that its data may be on a device fails here as it would on a GPU.
"""

from __future__ import annotations

import ctypes
from math import prod
from typing import Any

import numpy as np

from gankernels.backends import cpu, registry
from gankernels.backends.device_array import DeviceArray

name = "cuda"
POISON = 0xFF  # NaN in every float, -1 in every index

launches: dict[str, int] = {}
reads = 0  # copies to the host, each of which would stall a GPU
held = {"bytes": 0}


class Memory:
    """Memory whose bytes only this file reads: `host` is None, as on a real device."""

    host = None

    def __init__(self, nbytes: int) -> None:
        self.nbytes = 0
        aligned = cpu.empty((nbytes + 256,), np.uint8)
        self._bytes = aligned[-aligned.ctypes.data % 256 :][: max(nbytes, 1)]  # as a GPU's allocations are
        self._bytes.fill(POISON)
        self.ptr, self.nbytes = self._bytes.ctypes.data, nbytes
        held["bytes"] += nbytes

    def __del__(self, held: dict[str, int] = held) -> None:  # bound now: module names are gone when Python ends
        held["bytes"] -= self.nbytes


def why_not() -> str | None:
    return None


def _this() -> Any:
    import sys

    return sys.modules[__name__]


def _bytes_of(buffer: Any) -> Any:
    if isinstance(buffer, Memory):
        return buffer._bytes
    return np.ctypeslib.as_array((ctypes.c_uint8 * buffer.nbytes).from_address(buffer.ptr))


def _native(op: str, value: Any) -> Any:
    if isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"{op}: got a NumPy array of shape {value.shape}, expected arrays on the device")
    if type(value) is not DeviceArray:
        return value
    if value.native is None:
        whole = _bytes_of(value.buffer)
        first = value.offset if value.size else 0
        value.native = np.ndarray(value.shape, value.dtype, buffer=whole, offset=first, strides=value.strides)
    return value.native


def _kernel(op: str) -> Any:
    function = getattr(cpu, op)

    def run(*arguments: Any, **named: Any) -> None:
        native = [_native(op, a) for a in arguments]
        launches[op] = launches.get(op, 0) + 1
        function(*native, **{k: _native(op, a) for k, a in named.items()})

    run.__name__ = op
    return run


for _op in (*registry.KERNELS, *registry.EPILOGUES):
    globals()[_op] = _kernel(_op)


def empty(shape: tuple[int, ...], dtype: Any) -> DeviceArray:
    dtype = np.dtype(dtype)
    return DeviceArray(Memory(prod(shape) * dtype.itemsize), tuple(shape), dtype, _this())


def full(shape: tuple[int, ...], value: float, dtype: Any) -> DeviceArray:
    y = empty(shape, dtype)
    _this().fill(y, value)
    return y


def cast(x: DeviceArray, dtype: Any) -> DeviceArray:
    y = empty(x.shape, dtype)
    cpu.native.cast(_native("cast", x), _native("cast", y))
    launches["cast"] = launches.get("cast", 0) + 1
    return y


def contiguous(x: DeviceArray) -> DeviceArray:
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    _this().copy(x, y)
    return y


def from_host(x: Any) -> DeviceArray:
    if not isinstance(x, np.ndarray):
        raise TypeError(f"from_host: expected a NumPy array, got {type(x).__name__}")
    y = empty(x.shape, x.dtype)
    np.copyto(_native("from_host", y), x)
    return y


def to_host(x: DeviceArray) -> Any:
    global reads
    if type(x) is not DeviceArray:
        raise TypeError(f"to_host: expected an array on the device, got {type(x).__name__}")
    reads += 1
    return _native("to_host", x).copy()


def synchronize() -> None:
    """Nothing is ever outstanding."""


def empty_cache() -> None:
    """Nothing is cached."""


def memory_stats() -> dict[str, int]:
    return {"allocated_bytes": held["bytes"]}
