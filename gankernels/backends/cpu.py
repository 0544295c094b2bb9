"""The CPU backend: the kernels of gankernels._cpu on NumPy arrays, under the names of csrc/core/kernels.inc.

Every kernel writes into a given output. Arrays may be strided; nothing is cast or copied here.
"""

from __future__ import annotations

import os
from importlib import import_module
from math import prod
from typing import TYPE_CHECKING, Any

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

from gankernels.backends import kernels, recording

Array = NDArray[Any]

name = "cpu"
_MEMORY_BYTES = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 2**63
_MAX_THREADS = 1024
_SMALL_BYTES = 1024  # smaller arrays are made faster by NumPy, and never cost a page fault


# ---- the kernels of csrc/core/kernels.inc and epilogues.inc, `Memory` and `Recording` --------------------------------
def _fit(a: Array, y: Array) -> Array:
    """a (NumPy scalars too) as a view of y's shape."""
    return a if type(a) is np.ndarray and a.shape == y.shape else np.broadcast_to(a, y.shape)


globals().update(kernels.compiled(native, _fit))
if TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """One of these."""


conv_gradients = native.conv_gradients


def conv_gradients_share(pod: Any, algorithm: int, dtype: DTypeLike) -> bool:
    """Whether conv_gradients (conv_transpose and conv_weight of one y, the same bits) has less to do than the two."""
    of = native.conv_gradients_share_float64 if np.dtype(dtype) == np.float64 else native.conv_gradients_share_float32
    return bool(of(pod, algorithm))


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
    native.copy(x, y)
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


def why_no_tiles() -> str | None:
    """Why "amx" is not among `isa_present()`; None if it is."""
    return native.why_no_tiles() or None


def tiles_are_emulated() -> bool:
    """True if the products of "amx" are those of a model, for tests: never chosen unless asked for."""
    return bool(native.tiles_are_emulated)


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
