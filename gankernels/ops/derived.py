"""Operations made of others, under PyTorch's names: they differentiate as what they are made of, to any order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gankernels.autograd import Tensor
from gankernels.backends.device_array import DeviceArray
from gankernels.dtypes import is_float
from gankernels.geometry import is_int
from gankernels.ops.common import axes, axis_index, cast, in_float32, to_host
from gankernels.ops.creation import ones, zeros
from gankernels.ops.pointwise import abs, compare, floor, log, neg, where
from gankernels.ops.reduce import Dim
from gankernels.ops.shape import broadcast_to, cat, index, reshape, transpose

__all__ = [
    "allclose", "ceil", "chunk", "flip", "isfinite", "isinf", "isnan", "items", "log2", "log10", "masked_fill", "prod",
    "repeat", "split", "t", "tile", "unbind",
]  # fmt: skip


# ---- element by element --------------------------------------------------------------------------------------------
def ceil(x: Tensor) -> Tensor:
    """The smallest whole number not below x; its gradient is 0."""
    return neg(floor(neg(x)))


def log2(x: Tensor) -> Tensor:
    """Logarithm to base 2."""
    return log(x) * (1.0 / math.log(2.0))


def log10(x: Tensor) -> Tensor:
    """Logarithm to base 10."""
    return log(x) * (1.0 / math.log(10.0))


def isnan(x: Tensor) -> Tensor:
    """bool: x is not a number."""
    return compare("not_equal", x, x)


def isinf(x: Tensor) -> Tensor:
    """bool: x is infinite, of either sign."""
    if not is_float(x.dtype):
        return zeros(x.shape, dtype=np.bool_, device=x.device)
    return compare("equal", abs(x), math.inf)


def isfinite(x: Tensor) -> Tensor:
    """bool: x is neither infinite nor NaN."""
    if not is_float(x.dtype):
        return ones(x.shape, dtype=np.bool_, device=x.device)
    return compare("less", abs(x), math.inf)


def masked_fill(x: Tensor, mask: Tensor, value: Any) -> Tensor:
    """value (a number or a tensor without axes) where mask (bool) holds, else x; broadcast."""
    return where(mask, value, x)


def allclose(a: Tensor, b: Tensor, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False) -> bool:
    """True if |a - b| <= atol + rtol*|b| everywhere."""
    for name, operand in (("a", a), ("b", b)):
        if not isinstance(operand, Tensor):
            raise TypeError(f"allclose: {name} must be a Tensor, got {type(operand).__name__}")
    return bool(np.allclose(to_host(a.data), to_host(b.data), rtol, atol, equal_nan))


def items(tensors: Sequence[Tensor]) -> list[float]:
    """The numbers of tensors of one element and dtype each; a device is waited for once and not for each."""
    if len(tensors) > 1 and type(tensors[0].data) is DeviceArray:
        numbers: list[float] = cat([reshape(t.detach(), 1) for t in tensors]).tolist()
        return numbers
    return [t.item() for t in tensors]


# ---- products ------------------------------------------------------------------------------------------------------
def _along(axis: int, part: slice) -> tuple[slice, ...]:
    return (*(slice(None),) * axis, part)


@in_float32
def prod(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Product along an axis (of all elements if None), in pairs; its gradient holds at zeros too."""
    if dim is None:
        return prod(reshape(x, -1) if x.data.size else reshape(x, 0), 0)
    axis = axis_index("prod", dim, x.ndim)
    if not is_float(x.dtype):
        x = cast(x, np.int64)
    if x.ndim == 0:
        return x
    kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    if x.shape[axis] == 0:
        x = ones(kept, dtype=x.dtype, device=x.device)
    while (n := x.shape[axis]) > 1:
        half = n // 2
        pairs = index(x, _along(axis, slice(half))) * index(x, _along(axis, slice(half, 2 * half)))
        x = cat([pairs, index(x, _along(axis, slice(2 * half, n)))], axis) if n % 2 else pairs
    return x if keepdim else reshape(x, *kept[:axis], *kept[axis + 1 :])


# ---- arrangement ---------------------------------------------------------------------------------------------------
def t(x: Tensor) -> Tensor:
    """A matrix transposed (a view); a tensor of fewer axes as it is."""
    if x.ndim > 2:
        raise ValueError(f"t: expected at most 2 axes, got shape {x.shape}; permute takes any order")
    return transpose(x, 0, 1) if x.ndim == 2 else x


def _counts(op: str, given: tuple[Any, ...]) -> tuple[int, ...]:
    counts = tuple(given[0]) if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
    if not all(is_int(n) and n >= 0 for n in counts):
        raise ValueError(f"{op}: expected ints of at least 0, got {counts}")
    return counts


def repeat(x: Tensor, *sizes: Any) -> Tensor:
    """x that many times along each axis; more sizes than axes make new leading axes."""
    counts = _counts("repeat", sizes)
    if len(counts) < x.ndim:
        raise ValueError(f"repeat: expected at least {x.ndim} sizes for shape {x.shape}, got {counts}")
    x = reshape(x, *(1,) * (len(counts) - x.ndim), *x.shape)
    for axis, count in enumerate(counts):
        if count != 1:
            head, n, tail = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
            apart = broadcast_to(reshape(x, *head, 1, n, *tail), (*head, count, n, *tail))
            x = reshape(apart, *head, count * n, *tail)
    return x


def tile(x: Tensor, *dims: Any) -> Tensor:
    """repeat, with 1 for the leading axes that have no size."""
    counts = _counts("tile", dims)
    return repeat(x, (*(1,) * (x.ndim - len(counts)), *counts))


def flip(x: Tensor, *dims: Any) -> Tensor:
    """x in reverse order along the axes `dims` (a view)."""
    wanted: Dim = dims[0] if len(dims) == 1 else dims
    turned = axes("flip", wanted, x.ndim)
    return index(x, tuple(slice(None, None, -1) if i in turned else slice(None) for i in range(x.ndim)))


def split(x: Tensor, split_size: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Parts of `split_size` along an axis, the last one smaller if need be, or of the extents given (views)."""
    axis = _divisible("split", x, dim)
    n = x.shape[axis]
    if not isinstance(split_size, Sequence):
        (size,) = _counts("split", (split_size,))
        if size < 1:
            raise ValueError(f"split: split_size must be at least 1, got {size}")
        starts = range(0, n, size) if n else range(1)
        sizes = tuple(min(size, n - start) for start in starts)
    else:
        sizes = _counts("split", (split_size,))
        if sum(sizes) != n:
            raise ValueError(f"split: the extents {sizes} must add up to {n}, axis {axis} of shape {x.shape}")
    ends = np.cumsum(sizes, dtype=np.int64).tolist()
    return tuple(index(x, _along(axis, slice(end - size, end))) for size, end in zip(sizes, ends, strict=True))


def chunk(x: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """At most `chunks` parts of equal extent along an axis, the last one smaller if need be (views)."""
    axis = _divisible("chunk", x, dim)
    if not is_int(chunks) or chunks < 1:
        raise ValueError(f"chunk: chunks must be an int of at least 1, got {chunks!r}")
    return split(x, max(1, -(-x.shape[axis] // chunks)), axis)


def unbind(x: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, without it (views)."""
    axis = _divisible("unbind", x, dim)
    return tuple(index(x, (*(slice(None),) * axis, i)) for i in range(x.shape[axis]))


def _divisible(op: str, x: Tensor, dim: int) -> int:
    if x.ndim == 0:
        raise ValueError(f"{op}: a tensor without axes cannot be divided")
    return axis_index(op, dim, x.ndim)
