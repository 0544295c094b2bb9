"""What the kernels must compute, as plainly as it can be said: loops over kernel taps in NumPy, in the inputs' dtype.

Slow on purpose, and written without looking at the kernels: call it in float64 to judge them.
"""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.geometry import ConvGeometry, WindowGeometry

__all__ = [
    "average_window",
    "col2im",
    "conv",
    "conv_transpose",
    "conv_weight",
    "im2col",
    "local_conv",
    "local_conv_transpose",
    "local_conv_weight",
    "max_window",
    "spread_window",
    "sum_blocks",
    "upsample_nearest",
]

Array = NDArray[Any]


def _taps(g: ConvGeometry | WindowGeometry) -> Any:
    """Every kernel tap with the slices of (output, input) cells that it connects; padding is left out."""
    for k in product(*map(range, g.kernel)):
        out, inp = [], []
        for i, X, Y, s, d, (low, _) in zip(k, g.x, g.y, g.stride, g.dilation, g.padding, strict=True):
            first = d * i - low  # input cell of output 0
            begin = max(0, -(first // s))  # first output whose input cell is inside
            end = min(Y, (X - 1 - first) // s + 1)
            out.append(slice(begin, max(begin, end)))
            inp.append(slice(first + begin * s, max(first + begin * s, first + (end - 1) * s + 1), s))
        if all(o.stop > o.start for o in out):
            yield k, (slice(None), slice(None), *out), (slice(None), slice(None), *inp)


def _split(a: Array, axis: int, groups: int) -> Array:
    return a.reshape(a.shape[:axis] + (groups, a.shape[axis] // groups) + a.shape[axis + 1 :])


def conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    """y (N, O, *Y) from x (N, C, *X), w (O, C/groups, *K)."""
    y = np.zeros(g.y_shape, x.dtype)
    for k, out, inp in _taps(g):
        part = np.einsum("ngc...,goc->ngo...", _split(x[inp], 1, g.groups), _split(w[(...,) + k], 0, g.groups))
        y[out] += part.reshape(y[out].shape)
    return y


def conv_transpose(y: Array, w: Array, g: ConvGeometry) -> Array:
    """x (N, C, *X) from y (N, O, *Y), w (O, C/groups, *K): the adjoint of conv in x."""
    x = np.zeros(g.x_shape, y.dtype)
    for k, out, inp in _taps(g):
        part = np.einsum("ngo...,goc->ngc...", _split(y[out], 1, g.groups), _split(w[(...,) + k], 0, g.groups))
        x[inp] += part.reshape(x[inp].shape)
    return x


def conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    """w (O, C/groups, *K) from x (N, C, *X), y (N, O, *Y): the adjoint of conv in w."""
    w = np.zeros(g.w_shape, x.dtype)
    for k, out, inp in _taps(g):
        lines = [_split(a.reshape(*a.shape[:2], prod(a.shape[2:])), 1, g.groups) for a in (x[inp], y[out])]
        part = np.einsum("ngcp,ngop->goc", *lines)
        w[(...,) + k] = part.reshape(g.w_shape[:2])
    return w


def local_conv(x: Array, w: Array, g: ConvGeometry) -> Array:
    """y from x and unshared weights w (O, C/groups, *Y, *K)."""
    y = np.zeros(g.y_shape, x.dtype)
    for k, out, inp in _taps(g):
        part = np.einsum("ngc...,goc...->ngo...", _split(x[inp], 1, g.groups), _split(w[(...,) + k][out], 0, g.groups))
        y[out] += part.reshape(y[out].shape)
    return y


def local_conv_transpose(y: Array, w: Array, g: ConvGeometry) -> Array:
    """The adjoint of local_conv in x."""
    x = np.zeros(g.x_shape, y.dtype)
    for k, out, inp in _taps(g):
        part = np.einsum("ngo...,goc...->ngc...", _split(y[out], 1, g.groups), _split(w[(...,) + k][out], 0, g.groups))
        x[inp] += part.reshape(x[inp].shape)
    return x


def local_conv_weight(x: Array, y: Array, g: ConvGeometry) -> Array:
    """The adjoint of local_conv in w."""
    w = np.zeros(g.local_w_shape, x.dtype)
    for k, out, inp in _taps(g):
        part = np.einsum("ngc...,ngo...->goc...", _split(x[inp], 1, g.groups), _split(y[out], 1, g.groups))
        w[out + k] = part.reshape(part.shape[0] * part.shape[1], *part.shape[2:])
    return w


def im2col(x: Array, g: ConvGeometry) -> Array:
    """cols (N, C*K, P), P output positions."""
    cols = np.zeros((g.batch, g.in_channels, *g.kernel, *g.y), x.dtype)
    for k, out, inp in _taps(g):
        cols[(slice(None),) * 2 + k][out] = x[inp]
    return cols.reshape(g.columns_shape)


def col2im(cols: Array, g: ConvGeometry) -> Array:
    """The adjoint of im2col: overlapping columns are summed."""
    cols = cols.reshape(g.batch, g.in_channels, *g.kernel, *g.y)
    x = np.zeros(g.x_shape, cols.dtype)
    for k, out, inp in _taps(g):
        x[inp] += cols[(slice(None),) * 2 + k][out]
    return x


def upsample_nearest(x: Array, factors: tuple[int, ...]) -> Array:
    """Repeat every cell of x (N, C, *X)."""
    for axis, f in enumerate(factors):
        x = np.repeat(x, f, axis=axis + 2)
    return x


def sum_blocks(y: Array, factors: tuple[int, ...]) -> Array:
    """Sum blocks of `factors` cells: the adjoint of upsample_nearest."""
    shape = list(y.shape[:2])
    for n, f in zip(y.shape[2:], factors, strict=True):
        shape += [n // f, f]
    total: Array = y.reshape(shape).sum(axis=tuple(range(3, len(shape), 2)))
    return total


def max_window(x: Array, g: WindowGeometry) -> tuple[Array, Array]:
    """Maximum of every window and its flat position in the image; the first one wins, NaN counts as the maximum."""
    y = np.full(g.y_shape, -np.inf, x.dtype)
    index = np.full(g.y_shape, -1, np.int64)
    position = np.broadcast_to(np.arange(prod(g.x)).reshape(g.x), g.x_shape)
    for _, out, inp in _taps(g):
        v = x[inp]
        better = (index[out] < 0) | (v > y[out]) | (np.isnan(v) & ~np.isnan(y[out]))
        y[out] = np.where(better, v, y[out])
        index[out] = np.where(better, position[inp], index[out])
    return y, index


def _divisors(g: WindowGeometry, dtype: Any) -> Array:
    if g.divisor_override:
        return np.full(g.y, g.divisor_override, dtype)
    counts = []
    for X, K, Y, s, d, (low, high) in zip(g.x, g.kernel, g.y, g.stride, g.dilation, g.padding, strict=True):
        lower, upper = (-low, X + high) if g.count_include_pad else (0, X)
        cells = np.arange(Y)[:, None] * s - low + d * np.arange(K)
        counts.append(((cells >= lower) & (cells < upper)).sum(1))
    total = np.ones((), dtype)
    for n in counts:
        total = np.multiply.outer(total, n.astype(dtype))
    return total


def average_window(x: Array, g: WindowGeometry) -> Array:
    """Mean of every window; the divisor follows count_include_pad and divisor_override."""
    y = np.zeros(g.y_shape, x.dtype)
    for _, out, inp in _taps(g):
        y[out] += x[inp]
    return y / _divisors(g, x.dtype)


def spread_window(y: Array, g: WindowGeometry) -> Array:
    """The adjoint of average_window."""
    y = y / _divisors(g, y.dtype)
    x = np.zeros(g.x_shape, y.dtype)
    for _, out, inp in _taps(g):
        x[inp] += y[out]
    return x
