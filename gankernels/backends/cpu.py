"""The CPU backend: the kernels of gankernels._cpu on NumPy arrays, under the names of csrc/core/kernels.inc.

Every kernel writes into a given output. Arrays may be strided; nothing is cast or copied here.
"""

from __future__ import annotations

import os
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    native: Any = import_module("gankernels._cpu")
except ImportError as error:
    raise ImportError(
        "gankernels: the compiled module gankernels._cpu is missing or does not load "
        f"({error}). Python found a source checkout; start it in another folder once the package is installed: "
        "pip install ."
    ) from None

from gankernels.backends import recording
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY

Array = NDArray[Any]

name = "cpu"
_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
_MAX_THREADS = 1024
_SMALL_BYTES = 1024  # smaller arrays are made faster by NumPy, and never cost a page fault

# ---- one line per kernel of kernels.inc ----------------------------------------------------------------------------
conv = native.conv
conv_transpose = native.conv_transpose
conv_weight = native.conv_weight
upsample_conv = native.upsample_conv
upsample_conv_transpose = native.upsample_conv_transpose
upsample_conv_weight = native.upsample_conv_weight
local_conv = native.local_conv
local_conv_transpose = native.local_conv_transpose
local_conv_weight = native.local_conv_weight
im2col = native.im2col
col2im = native.col2im
matmul = native.matmul
upsample_nearest = native.upsample_nearest
sum_blocks = native.sum_blocks
max_window = native.max_window
gather_window = native.gather_window
scatter_window = native.scatter_window
average_window = native.average_window
spread_window = native.spread_window
gate = native.gate
select = native.select
fill = native.fill
sum = native.sum
softmax = native.softmax
log_softmax = native.log_softmax
channel_moments = native.channel_moments
channel_affine = native.channel_affine
batch_norm_backward = native.batch_norm_backward
gather_rows = native.gather_rows
scatter_rows = native.scatter_rows
random_uniform = native.random_uniform
random_normal = native.random_normal
dropout = native.dropout
sgd_step = native.sgd_step
adam_step = native.adam_step
rmsprop_step = native.rmsprop_step
lerp = native.lerp

# ---- optional: a backend without them runs the operations that they join --------------------------------------------
conv_epilogue = native.conv_epilogue
conv_transpose_epilogue = native.conv_transpose_epilogue
upsample_conv_epilogue = native.upsample_conv_epilogue
matmul_epilogue = native.matmul_epilogue
epilogue_backward = native.epilogue_backward
norm_epilogue = native.norm_epilogue
norm_epilogue_backward = native.norm_epilogue_backward
Recording, Memory = native.Recording, native.Memory


def _fit(a: Array, y: Array) -> Array:
    """a (NumPy scalars too) as a view of y's shape."""
    return a if type(a) is np.ndarray and a.shape == y.shape else np.broadcast_to(a, y.shape)


def unary(op: str, x: Array, y: Array, p: float = 0.0, q: float = 0.0) -> None:
    """y = op(x; p, q) for every element."""
    native.unary(UNARY[op], x, y, p, q)


def binary(op: str, a: Array, b: Array, y: Array) -> None:
    """y = op(a, b) for every element; a and b are broadcast to y's shape."""
    native.binary(BINARY[op], _fit(a, y), _fit(b, y), y)


def compare(op: str, a: Array, b: Array, y: Array) -> None:
    """y (bool) = op(a, b) for every element; a and b are broadcast to y's shape."""
    native.compare(COMPARE[op], _fit(a, y), _fit(b, y), y)


def copy(x: Array, y: Array) -> None:
    """y = x for every element; x is broadcast to y's shape."""
    native.copy(_fit(x, y), y)


# ---- arrays --------------------------------------------------------------------------------------------------------
def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """An uninitialised array; MemoryError if it is larger than this machine's memory, whatever it may overcommit."""
    size = prod(shape) * np.dtype(dtype).itemsize
    if size > _MEMORY_BYTES:
        raise MemoryError(f"an array of shape {tuple(shape)} takes {size} bytes, this machine has {_MEMORY_BYTES}")
    return (
        native.empty(shape, np.dtype(dtype))
        if size > _SMALL_BYTES or recording.active is not None
        else np.empty(shape, dtype)
    )


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike) -> Array:
    """An array of one value."""
    y = empty(shape, dtype)
    native.fill(y, value)
    return y


def cast(x: Array, dtype: DTypeLike) -> Array:
    """A copy in another dtype: float32, float64, int64 or bool."""
    y = empty(x.shape, dtype)
    native.cast(x, y)
    return y


def contiguous(x: Array) -> Array:
    """x itself if it is row-major without gaps, else a copy that is."""
    if x.flags.c_contiguous:
        return x
    y = empty(x.shape, x.dtype)
    copy(x, y)
    return y


def from_host(x: Array) -> Array:
    """An array of this backend from a NumPy array."""
    return x


def to_host(x: Array) -> Array:
    """A NumPy array from an array of this backend; shares memory."""
    recording.forbid("values of a tensor were read")
    return x


def memory_stats() -> dict[str, int]:
    """Bytes of arrays that exist and the most there were, bytes kept for arrays to come, blocks made and used again.

    Arrays of up to 1 KiB are NumPy's own and not counted.
    """
    stats: dict[str, int] = native.memory_stats()
    return stats


def empty_cache() -> None:
    """Give memory that is kept for arrays to come back to the operating system."""
    native.empty_cache()


# ---- knobs ---------------------------------------------------------------------------------------------------------
num_threads = native.num_threads
isa = native.isa
isa_present = native.isa_present
isa_compiled = native.isa_compiled


def has_bf16_products() -> bool:
    """True if the instruction set in use multiplies pairs of bfloat16 numbers."""
    return bool(native.has_bf16_products())


def set_num_threads(n: int) -> None:
    """Run kernels on n threads; results do not depend on it."""
    if isinstance(n, bool) or not hasattr(n, "__index__") or not 1 <= n <= _MAX_THREADS:
        raise ValueError(f"set_num_threads: expected an int from 1 to {_MAX_THREADS}, got {n!r}")
    native.set_num_threads(int(n))


def set_isa(name: str) -> None:
    """Use one of `isa_present()` from now on (for tests and benchmarks)."""
    if name not in isa_present():
        raise ValueError(f"set_isa: {name!r} is not available here; present: {', '.join(isa_present())}")
    native.set_isa(name)


def _environment_problem() -> str | None:
    wanted, threads = os.environ.get("GANKERNELS_ISA"), os.environ.get("GANKERNELS_NUM_THREADS")
    if wanted and wanted not in isa_present():
        return f"GANKERNELS_ISA is {wanted!r}; this machine and build have: {', '.join(isa_present())}"
    if threads and not (threads.isdigit() and 1 <= int(threads) <= _MAX_THREADS):
        return f"GANKERNELS_NUM_THREADS is {threads!r}; expected an integer from 1 to {_MAX_THREADS}"
    return None


#: What is wrong with the environment variables, or None. The first operation raises it, importing does not.
problem = _environment_problem()
