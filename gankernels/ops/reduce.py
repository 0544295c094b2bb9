"""Reductions over axes in a fixed order: the same bits at any thread count. Arguments as PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gankernels.autograd import Tensor, pointwise, record
from gankernels.backends import backend_of
from gankernels.dtypes import is_float
from gankernels.geometry import window_geometry
from gankernels.ops.common import axes, axis_index, cast, check_float, contiguous, empty_like, in_float32, wide
from gankernels.ops.pointwise import abs, compare, exp, log, maximum, minimum, mul, neg, reciprocal, square, where
from gankernels.ops.shape import sum_to
from gankernels.ops.window import max_with_index

__all__ = ["amax", "amin", "log_softmax", "logsumexp", "max", "mean", "min", "norm", "softmax", "std", "sum", "var"]

Dim = int | Sequence[int] | None


class Extreme(NamedTuple):
    """The largest or smallest elements along an axis, and where they are (int64)."""

    values: Tensor
    indices: Tensor


def _kept_shape(x: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(1 if i in dims else n for i, n in enumerate(x.shape))


def _dropped_shape(x: Tensor, dims: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for i, n in enumerate(x.shape) if i not in dims)


def sum(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Sum over the axes `dim` (all if None). bool and int64 tensors are counted in int64."""
    dims, x = axes("sum", dim, x.ndim), wide(x)
    if not is_float(x.dtype):
        return _counted(cast(x, np.int64), dims, keepdim)
    kept = sum_to(x, _kept_shape(x, dims))
    return kept if keepdim else kept.reshape(_dropped_shape(x, dims))


def _counted(x: Tensor, dims: tuple[int, ...], keepdim: bool) -> Tensor:
    """Sums of int64."""
    total = empty_like(x.data, _kept_shape(x, dims))
    backend_of(x.data).sum(x.data, total)
    return Tensor(total if keepdim else total.reshape(_dropped_shape(x, dims)))


@in_float32
def mean(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Mean over the axes `dim` (all if None)."""
    check_float("mean", x=x)
    count = prod(x.shape[i] for i in axes("mean", dim, x.ndim))
    return sum(x, dim, keepdim) / (count if count else float("nan"))


@in_float32
def var(
    x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Variance over the axes `dim`, in two passes; divided by n - correction: 1 if unbiased, else 0, or as given."""
    check_float("var", x=x)
    dims = axes("var", dim, x.ndim)
    count = prod(x.shape[i] for i in dims) - (int(unbiased) if correction is None else correction)
    total = sum(square(x - mean(x, dims, True)), dims, keepdim)
    return total / (count if count > 0 else float("nan"))


def _root_kernel(x: Any) -> Any:
    y = empty_like(x)
    backend_of(x).unary("sqrt", x, y, 0.0, 0.0)
    return y


def _root_slope(x: Tensor, y: Tensor) -> Tensor:
    zero = compare("equal", y, 0)
    return where(zero, 0.0, reciprocal(where(zero, 1.0, y)) * 0.5)


# The square root of a sum of squares: where it is 0 its gradient is 0, a subgradient, as PyTorch's norm and std.
_root = pointwise("root", _root_kernel, _root_slope)


@in_float32
def std(
    x: Tensor, dim: Dim = None, unbiased: bool = True, keepdim: bool = False, *, correction: float | None = None
) -> Tensor:
    """Square root of the variance."""
    return _root(var(x, dim, unbiased, keepdim, correction=correction))


@in_float32
def norm(x: Tensor, p: float | str = 2.0, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The p-norm over the axes `dim`, p 1, 2 ("fro") or infinity; the gradient at the zero vector is 0.

    Raises
    ------
    ValueError
        If p is another number.
    """
    check_float("norm", x=x)
    if p in (2, "fro"):
        return _root(sum(square(x), dim, keepdim))
    if p == 1:
        return sum(abs(x), dim, keepdim)
    if p == float("inf"):
        return amax(abs(x), dim, keepdim)
    raise ValueError(f"norm: p={p!r} is not supported; expected 1, 2, 'fro' or inf")


def _max_along(op: str, x: Tensor, axis: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """Maximum along one axis as a pooling window that spans it."""
    if x.shape[axis] == 0:
        raise ValueError(f"{op}: axis {axis} of shape {x.shape} is empty, it has no maximum")
    order = (*(i for i in range(x.ndim) if i != axis), axis)
    rest = tuple(x.shape[i] for i in order[:-1])
    n = x.shape[axis]
    lines = x.permute(*order).reshape(1, prod(rest), n)
    y, index = max_with_index(lines, window_geometry(op, lines.shape, n))
    shape = _kept_shape(x, (axis,)) if keepdim else rest
    return y.reshape(shape), Tensor(contiguous(index).reshape(shape))


def max(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The maximum of all elements, (values, indices) along one axis, or maximum(x, dim) if dim is a Tensor.

    All maxima share the gradient of the first form equally, the first one takes that of the second, as PyTorch.
    """
    return maximum(x, dim) if isinstance(dim, Tensor) else _extreme("max", x, dim, keepdim)


def min(x: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The minimum of all elements, (values, indices) along one axis, or minimum(x, dim) if dim is a Tensor."""
    return minimum(x, dim) if isinstance(dim, Tensor) else _extreme("min", x, dim, keepdim)


def _extreme(op: str, x: Tensor, dim: int | None, keepdim: bool) -> Any:
    if not is_float(x.dtype):
        return _integer_extreme(op, x, dim, keepdim)
    if dim is None:
        return _shared_extreme(op, x, None, False)
    axis = axis_index(op, dim, x.ndim)
    if x.ndim == 0:
        return Extreme(x, Tensor(backend_of(x.data).full((), 0, np.int64)))
    if op == "max":
        return Extreme(*_max_along(op, x, axis, keepdim))
    values, indices = _max_along(op, neg(x), axis, keepdim)
    return Extreme(neg(values), indices)


def _integer_extreme(op: str, x: Tensor, dim: int | None, keepdim: bool) -> Any:
    """Through float64, which holds integers up to 2**53 exactly; no gradient."""
    if x.data.size == 0:
        raise ValueError(f"{op}: a tensor of shape {x.shape} has no {op}imum")
    numbers = cast(x, np.float64)
    if dim is None:
        return cast(_shared_extreme(op, numbers, None, False), x.dtype)
    values, indices = _extreme(op, numbers, dim, keepdim)
    return Extreme(cast(values, x.dtype), indices)


def _shared_extreme(op: str, x: Tensor, dim: Dim, keepdim: bool) -> Tensor:
    """max or min over several axes; every element that attains it takes an equal share of the gradient."""
    dims = axes(op, dim, x.ndim)
    top = Tensor(x.data) if op.endswith("max") else neg(Tensor(x.data))
    for axis in dims:
        top = _max_along(op, top, axis, True)[0]
    kept = top if op.endswith("max") else neg(top)
    shape = kept.shape if keepdim else _dropped_shape(x, dims)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        attains = compare("equal", Tensor(x.data), kept).to(ct.dtype)
        return [mul(ct.reshape(kept.shape), attains / sum(attains, dims, True))]

    return record(op, kept.data.reshape(shape), (x,), rule)


def amax(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Maximum over the axes `dim` (all if None)."""
    check_float("amax", x=x)
    return _shared_extreme("amax", x, dim, keepdim)


def amin(x: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """Minimum over the axes `dim` (all if None)."""
    check_float("amin", x=x)
    return _shared_extreme("amin", x, dim, keepdim)


# ---- softmax: kernels on rows --------------------------------------------------------------------------------------
def _softmax_rows(kernel: str, x: Tensor, rule: Any) -> Tensor:
    data = contiguous(x.data)
    y = empty_like(data)
    getattr(backend_of(data), kernel)(data, y)
    return record(kernel, y, (x,), rule, keep_output=True)


def _on_rows(op: str, x: Tensor, dim: int, function: Any) -> Tensor:
    check_float(op, x=x)
    axis = axis_index(op, dim, x.ndim)
    order = (*(i for i in range(x.ndim) if i != axis), axis)
    moved = x.permute(*order) if x.ndim else x.reshape(1)
    rows = function(moved.reshape(prod(moved.shape[:-1]), moved.shape[-1])).reshape(moved.shape)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return rows.permute(*back) if x.ndim else rows.reshape(())


def _softmax2(x: Tensor) -> Tensor:
    def rule(ct: Tensor, want: Sequence[bool], y: Tensor) -> list[Tensor | None]:
        weighted = mul(ct, y)
        return [weighted - mul(y, sum(weighted, -1, True))]

    return _softmax_rows("softmax", x, rule)


def _log_softmax2(x: Tensor) -> Tensor:
    def rule(ct: Tensor, want: Sequence[bool], y: Tensor) -> list[Tensor | None]:
        return [ct - mul(exp(y), sum(ct, -1, True))]

    return _softmax_rows("log_softmax", x, rule)


def softmax(x: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """exp(x) / sum(exp(x)) along an axis, without overflow."""
    return _on_rows("softmax", wide(x) if dtype is None else cast(x, dtype), dim, _softmax2)


def log_softmax(x: Tensor, dim: int = -1, dtype: Any = None) -> Tensor:
    """Logarithm of softmax along an axis, without overflow."""
    return _on_rows("log_softmax", wide(x) if dtype is None else cast(x, dtype), dim, _log_softmax2)


@in_float32
def logsumexp(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """log(sum(exp(x))) along an axis, without overflow."""
    check_float("logsumexp", x=x)
    peak = _shared_extreme("max", Tensor(x.data), axis_index("logsumexp", dim, x.ndim), True)
    top = where(compare("less", abs(peak), float("inf")), peak, 0.0)
    total = log(sum(exp(x - top), dim, True)) + top
    return total if keepdim else total.reshape(_dropped_shape(x, axes("logsumexp", dim, x.ndim)))
