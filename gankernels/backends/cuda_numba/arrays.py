"""Memory: blocks from the driver, kept in lists by size for the next array; transfers; conversions.

All work is queued on one stream, so a block can be handed out again as soon as nobody refers to it.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gankernels.backends import cuda_numba, recording
from gankernels.backends.cuda_numba import launch as launching
from gankernels.backends.cuda_numba import simulator
from gankernels.backends.cuda_numba.launch import elements, launch, locate, loop_of, scalar_type, strides_of
from gankernels.backends.cuda_numba.shim import SIMULATED, cuda, jit
from gankernels.backends.cuda_numba.simulator import SimulatedMemory
from gankernels.backends.device_array import DeviceArray, host_view

__all__ = [
    "Buffer", "Pool", "address_of", "cast", "contiguous", "empty", "empty_cache", "empty_like", "flat", "flats",
    "from_host", "full", "is_memory", "memory_stats", "owned_by", "span", "synchronize", "to_host", "upload",
]  # fmt: skip

_SMALL, _LARGE = 512, 1 << 21  # granularity in bytes of blocks below and above 1 MiB
_stats = {"allocated_bytes": 0, "peak_allocated_bytes": 0, "reserved_bytes": 0, "driver_allocations": 0}
_array_type = SimulatedMemory if SIMULATED else cuda.cudadrv.devicearray.DeviceNDArray


class Pool:
    """Blocks from the driver, in lists by size for the next array."""

    def __init__(self) -> None:
        self.free: dict[int, list[Any]] = {}
        self.reserved = 0

    def take(self, nbytes: int) -> Any:
        """A block of that size."""
        waiting = self.free.get(nbytes)
        if waiting:
            return waiting.pop()
        block = _allocate(nbytes)
        self.reserved += nbytes
        _stats["reserved_bytes"] += nbytes
        _stats["driver_allocations"] += 1
        return block

    def bytes(self) -> int:
        """What was taken from the driver."""
        return self.reserved

    def clear(self) -> None:
        """Give free blocks back to the driver."""
        for size, blocks in self.free.items():
            self.reserved -= size * len(blocks)
            _stats["reserved_bytes"] -= size * len(blocks)
        self.free.clear()

    def __del__(self) -> None:
        if _stats is not None:  # None while Python shuts down
            self.clear()


_common = Pool()


def _block_size(nbytes: int) -> int:
    step = _SMALL if nbytes <= 1 << 20 else _LARGE
    return max(1, -(-nbytes // step)) * step


class Buffer:
    """Device memory owned by whoever refers to this object; goes back to its pool afterwards."""

    __slots__ = ("block", "host", "nbytes", "pool", "ptr")

    def __init__(self, nbytes: int, pool: Pool | None = None) -> None:
        active = launching.this_thread.recording
        self.pool = pool or (_common if active is None else active.memory)
        self.nbytes = _block_size(nbytes)
        self.block = self.pool.take(self.nbytes)
        self.host: NDArray[np.uint8] | None = self.block if isinstance(self.block, np.ndarray) else None
        self.ptr = int(self.block.__cuda_array_interface__["data"][0]) if self.host is None else self.host.ctypes.data
        if active is not None and self.pool is active.memory:
            active.note_block(self.ptr, self.nbytes, self.block)
        _stats["allocated_bytes"] += self.nbytes
        _stats["peak_allocated_bytes"] = max(_stats["peak_allocated_bytes"], _stats["allocated_bytes"])

    def __del__(self) -> None:
        if hasattr(self, "block") and _stats is not None:  # None while Python shuts down
            _stats["allocated_bytes"] -= self.nbytes
            self.pool.free.setdefault(self.nbytes, []).append(self.block)


def _in_host_memory() -> bool:
    return SIMULATED or launching.is_recording()  # what is recorded does not run, so there may be no GPU


def _host_block(nbytes: int) -> NDArray[np.uint8]:
    """Aligned to 256 bytes as what a driver gives."""
    room = np.empty(nbytes + 255, np.uint8)
    start = -room.ctypes.data % 256
    return room[start : start + nbytes]


def _allocate(nbytes: int) -> Any:
    try:
        block = _host_block(nbytes) if _in_host_memory() else cuda.device_array(nbytes, np.uint8)
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error).upper() and not isinstance(error, MemoryError):
            raise
        empty_cache()
        try:
            block = cuda.device_array(nbytes, np.uint8)
        except Exception:
            raise MemoryError(
                f"the GPU has no {nbytes} bytes left; {_stats['allocated_bytes']} bytes are in use by arrays"
            ) from error
    return block


def memory_stats() -> dict[str, int]:
    """Bytes in use by arrays, their maximum, bytes taken from the driver, and how often it was asked."""
    return dict(_stats)


def empty_cache() -> None:
    """Give free blocks back to the driver."""
    _common.clear()


def synchronize() -> None:
    """Wait until the GPU has done all that was queued."""
    if not launching.is_recording():
        cuda.synchronize()


# ---- what kernels receive ------------------------------------------------------------------------------------------
def flat(a: DeviceArray) -> Any:
    """The memory between the lowest and the highest element of `a` as a flat array of Numba's.

    Raises
    ------
    TypeError
        If `a` is not an array on the GPU.
    """
    if type(a) is not DeviceArray:
        raise TypeError(f"a kernel of the CUDA backend was given a {type(a).__name__}; expected an array on 'cuda'")
    native = a.native
    if isinstance(native, (_array_type, np.ndarray)):
        return native
    origin, strides = strides_of(a)
    count = 1 + sum(abs(s) * (n - 1) for n, s in zip(a.shape, strides, strict=True)) if a.size else 0
    a.native = native = _window(a.buffer, a.offset - origin * a.dtype.itemsize if count else 0, count, a.dtype)
    return native


def _window(buffer: Any, offset: int, count: int, dtype: np.dtype[Any]) -> Any:
    host = getattr(buffer, "host", None)
    if not count:  # never read; a pointer to somewhere
        return _placeholder(dtype)
    if host is not None:
        window = np.ndarray((count,), dtype, buffer=host, offset=offset)
        return window if launching.is_recording() else SimulatedMemory(window, buffer)
    description = {
        "shape": (count,), "typestr": dtype.str, "data": (buffer.ptr + offset, False), "version": 3,
    }  # fmt: skip
    return cuda.from_cuda_array_interface(description, owner=buffer, sync=False)


@lru_cache(maxsize=8)
def _placeholder(dtype: np.dtype[Any]) -> Any:
    return flat(_lasting((1,), dtype))


def flats(*arrays: DeviceArray) -> tuple[Any, ...]:
    """`flat` of each."""
    return tuple(map(flat, arrays))


def upload(values: NDArray[Any]) -> Any:
    """A table of numbers for kernels; hold it in a cache."""
    return simulator.table(values) if SIMULATED else flat(_filled(_lasting(values.shape, values.dtype), values))


def is_memory(argument: Any) -> bool:
    """Whether a kernel's argument is what `flat` gives."""
    return isinstance(argument, _array_type)


def address_of(memory: Any) -> int:
    """Where memory given to kernels begins."""
    if SIMULATED:
        return int(memory.values.ctypes.data)
    return int(memory.__cuda_array_interface__["data"][0])


def owned_by(memory: Any, owner: Any) -> Any:
    """Memory given to kernels that keeps something else alive."""
    if SIMULATED:
        return SimulatedMemory(memory.values, owner)
    return cuda.from_cuda_array_interface(memory.__cuda_array_interface__, owner=owner, sync=False)


def span(begin: int, end: int, dtype: np.dtype[Any], owner: Any) -> Any:
    """All memory between two addresses, whatever lies there, for a kernel that goes by addresses."""
    count = (end - begin) // dtype.itemsize
    if SIMULATED:
        window = np.ctypeslib.as_array((ctypes.c_uint8 * (count * dtype.itemsize)).from_address(begin))
        return SimulatedMemory(window.view(dtype), owner)
    description = {"shape": (count,), "typestr": dtype.str, "data": (begin, False), "version": 3}
    return cuda.from_cuda_array_interface(description, owner=owner, sync=False)


# ---- arrays --------------------------------------------------------------------------------------------------------
def empty(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """An uninitialised array; MemoryError if the GPU has no room for it."""
    kind = np.dtype(dtype)
    return DeviceArray(Buffer(prod(shape) * kind.itemsize), tuple(shape), kind, cuda_numba)


def _lasting(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """As `empty`, for what outlives a recording."""
    kind = np.dtype(dtype)
    return DeviceArray(Buffer(prod(shape) * kind.itemsize, _common), tuple(shape), kind, cuda_numba)


def empty_like(a: DeviceArray, shape: tuple[int, ...] | None = None) -> DeviceArray:
    """An uninitialised array of the same dtype (and shape)."""
    return empty(a.shape if shape is None else shape, a.dtype)


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> DeviceArray:
    """An array of one value."""
    from gankernels.backends.cuda_numba.pointwise import fill

    y = empty(shape, dtype)
    fill(y, value)
    return y


def from_host(x: NDArray[Any]) -> DeviceArray:
    """A copy on the GPU; x may be reused on return."""
    y = _filled(empty(x.shape, x.dtype), x)
    if launching.this_thread.recording is not None:
        launching.this_thread.recording.note_host(y.ptr)
    return y


def _filled(y: DeviceArray, x: NDArray[Any]) -> DeviceArray:
    if y.size and y.buffer.host is not None:
        host_view(y)[...] = x
    elif y.size:
        flat(y).copy_to_device(np.ascontiguousarray(x).reshape(-1))
    return y


def to_host(x: DeviceArray) -> NDArray[Any]:
    """A copy in host memory; waits for the kernels before it."""
    recording.forbid("values of a tensor were read")
    if not x.size:
        return np.empty(x.shape, x.dtype)
    if getattr(x.buffer, "host", None) is not None:
        return host_view(x).copy()
    found: NDArray[Any] = flat(contiguous(x)).copy_to_host().reshape(x.shape)
    return found


def contiguous(x: DeviceArray) -> DeviceArray:
    """x itself if it is row-major without gaps, else a copy that is."""
    if x.flags.c_contiguous:
        return x
    from gankernels.backends.cuda_numba.pointwise import copy

    y = empty(x.shape, x.dtype)
    copy(x, y)
    return y


@lru_cache(maxsize=16)
def _cast_kernel(to: Any, is_bool: bool) -> Any:
    def cast_kernel(x: Any, y: Any, loop: Any) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            v = x[locate(i, loop, 1, 2)]
            y[locate(i, loop, 2, 2)] = (v != 0) if is_bool else to(v)

    return jit(cast_kernel)


def cast(x: DeviceArray, dtype: DTypeLike) -> DeviceArray:
    """A copy in another dtype; floats are cut to integers toward zero, and anything but 0 is True."""
    y = empty(x.shape, dtype)
    if x.size:
        kernel = _cast_kernel(scalar_type(y), y.dtype == np.bool_)
        loop = loop_of(x, y)
        launch(kernel, *elements(loop[0]), flat(x), flat(y), loop)
    return y
