"""The CUDA backend: the kernels of gankernels._cuda on DeviceArrays, under the names of csrc/core/kernels.inc.

Every kernel writes into a given output and returns before the device is done: all work is in one stream, in order.
Importing this module opens no driver; `why_not()` asks it.
"""

from __future__ import annotations

from importlib import import_module
from math import prod
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gankernels import dtypes
from gankernels.backends import kernels, recording
from gankernels.backends.device_array import DeviceArray

name = "cuda"
native: Any = None
_import_error = ""
try:
    native = import_module("gankernels._cuda")
except ImportError as error:
    _import_error = str(error)

#: Arrays of bfloat16 are taken by every kernel of floats.
stores_bfloat16 = True
_DTYPES = {np.dtype(t) for t in (np.float32, np.float64, np.int64, np.bool_)}


def why_not() -> str | None:
    """Why this backend cannot be used here, or None if it can."""
    if native is None:
        try:
            info = import_module("gankernels._build_info")
        except ModuleNotFoundError:
            return "this copy of gankernels has no build record (gankernels._build_info)"
        return f"gankernels._cuda does not load: {_import_error}" if info.cuda_built else str(info.cuda_reason)
    return native.device_problem() or None


def _this() -> ModuleType:
    return import_module(__name__)


# ---- the kernels of csrc/core/kernels.inc and epilogues.inc, `Memory` and `Recording` --------------------------------
def _fit(a: DeviceArray, y: DeviceArray) -> DeviceArray:
    """a as a view of y's shape."""
    return a if a.shape == y.shape else a.broadcast_to(y.shape)


globals().update(kernels.compiled(native, _fit))
# those of csrc/cuda/epilogue.hpp, which no other backend has
conv_moments = getattr(native, "conv_moments", None)
conv_transpose_moments = getattr(native, "conv_transpose_moments", None)
upsample_conv_moments = getattr(native, "upsample_conv_moments", None)
if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """One of these."""


# ---- arrays --------------------------------------------------------------------------------------------------------
def empty(shape: tuple[int, ...], dtype: DTypeLike) -> DeviceArray:
    """An uninitialised array.

    Raises
    ------
    MemoryError
        If the device has not that much memory; the message says what is held and what would fit.
    """
    dtype = dtypes.named(dtype)
    if dtype not in _DTYPES and not dtypes.is_bfloat16(dtype):
        raise TypeError(f"a CUDA array holds bfloat16, float32, float64, int64 or bool, not {dtype}")
    return DeviceArray(native.Buffer(prod(shape) * dtype.itemsize), tuple(shape), dtype, _this())


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> DeviceArray:
    """An array of one value."""
    y = empty(shape, dtype)
    native.fill(y, float(value))
    return y


def cast(x: DeviceArray, dtype: DTypeLike) -> DeviceArray:
    """A copy in another dtype."""
    y = empty(x.shape, dtype)
    native.cast(x, y)
    return y


def contiguous(x: DeviceArray) -> DeviceArray:
    """x itself if it is row-major without gaps, else a copy that is."""
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    native.copy(x, y)
    return y


def from_host(x: NDArray[Any]) -> DeviceArray:
    """A copy of a NumPy array on the device."""
    source = np.ascontiguousarray(x).reshape(x.shape)
    y = empty(x.shape, x.dtype)
    if source.size:
        native.upload(y.ptr, source.ctypes.data, source.nbytes)
    return y


def to_host(x: DeviceArray) -> NDArray[Any]:
    """A copy of a device array as a NumPy array; waits for the device."""
    recording.forbid("values of a tensor were read")
    source = contiguous(x)
    y = np.empty(x.shape, x.dtype)
    if y.size:
        native.download(y.ctypes.data, source.ptr, y.nbytes)
    return y


# ---- the device ----------------------------------------------------------------------------------------------------
def synchronize() -> None:
    """Wait until the device has done everything that was asked of it."""
    native.synchronize()


def stream() -> int:
    """The stream of all work, by the number that other libraries know it by."""
    return int(native.stream())


def wait_for_stream(other: int) -> None:
    """What is queued on another stream comes before what is asked of the device next; the host does not wait."""
    native.wait_for_stream(other)


def make_stream_wait(other: int) -> None:
    """What was asked of the device so far comes before the next work of another stream; the host does not wait."""
    native.make_stream_wait(other)


def memory_stats() -> dict[str, int]:
    """Bytes in use and reserved, their peaks, the limit, and counts of allocations."""
    return dict(native.memory_stats())


def reset_peak_memory() -> None:
    """Start the peaks of `memory_stats` anew."""
    native.reset_peak_memory()


def set_memory_limit(nbytes: int | None) -> None:
    """Reserve no more than this many bytes of the device; None is no limit."""
    native.set_memory_limit(nbytes or 0)


def empty_cache() -> None:
    """Give memory that no array uses back to the device."""
    native.empty_cache()


def device_info() -> dict[str, Any]:
    """Name, compute capability, memory (bytes), driver and runtime version, and whether all of it is emulated."""
    return {**native.device(), "emulated": bool(native.emulated)}
