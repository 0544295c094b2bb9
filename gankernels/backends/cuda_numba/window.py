"""Pooling windows over (N, C, D, H, W): maximum and mean, with adjoints that gather, so every cell has one writer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.arrays import empty, flat, flats
from gankernels.backends.cuda_numba.columns import output_of
from gankernels.backends.cuda_numba.launch import elements, launch, scalar_type, unravel, volume
from gankernels.backends.cuda_numba.pointwise import fill
from gankernels.backends.cuda_numba.shim import cuda, device, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["average_window", "gather_window", "max_window", "scatter_window", "spread_window"]

Ints = tuple[int, ...]


class _Window(NamedTuple):
    """gk::WindowGeometry by name (csrc/core/geometry.hpp)."""

    batch: int
    channels: int
    x: Ints
    kernel: Ints
    y: Ints
    stride: Ints
    dilation: Ints
    low: Ints
    high: Ints
    count_include_pad: int
    divisor_override: int

    @property
    def for_kernels(self) -> Ints:
        """Channels, then seven numbers for each axis, the rule of the divisor last."""
        axes = zip(self.x, self.kernel, self.y, self.stride, self.dilation, self.low, self.high, strict=True)
        return (self.channels, *(v for axis in axes for v in axis), self.count_include_pad, self.divisor_override)


@lru_cache(maxsize=512)
def _window(pod: Ints) -> Ints:
    return _Window(*pod[:2], *(pod[i : i + 3] for i in range(2, 23, 3)), *pod[23:]).for_kernels  # type: ignore[arg-type]


# Positions in that tuple; an axis starts at 1 + 7*axis.
_X, _K, _Y, _S, _E, _LOW, _HIGH, _AXIS, _INCLUDE, _OVERRIDE = 1, 2, 3, 4, 5, 6, 7, 7, 22, 23


@device
def first_tap(g: Ints, axis: int, p: int) -> int:
    """The first tap of output p inside the image."""
    at = axis * _AXIS
    e = g[at + _E]
    return min(g[at + _K], max(0, (g[at + _LOW] - p * g[at + _S] + e - 1) // e))


@device
def end_tap(g: Ints, axis: int, p: int, padded: int) -> int:
    """One beyond the last tap of output p inside the image (padded: at its high end)."""
    at = axis * _AXIS
    room = g[at + _X] + padded * g[at + _HIGH] - (p * g[at + _S] - g[at + _LOW])
    e = g[at + _E]
    return 0 if room <= 0 else min(g[at + _K], (room + e - 1) // e)


@device
def divisor(g: Ints, d: int, h: int, w: int) -> float:
    """What the sum at an output is divided by; a window that sees no cell has the value 0, whatever the divisor."""
    if g[_OVERRIDE] != 0:
        return np.float64(g[_OVERRIDE])
    if g[_INCLUDE] != 0:
        cells = end_tap(g, 0, d, 1) * end_tap(g, 1, h, 1) * end_tap(g, 2, w, 1)
    else:
        cells = max(0, end_tap(g, 0, d, 0) - first_tap(g, 0, d))
        cells *= max(0, end_tap(g, 1, h, 0) - first_tap(g, 1, h))
        cells *= max(0, end_tap(g, 2, w, 0) - first_tap(g, 2, w))
    return np.float64(max(1, cells))


@lru_cache(maxsize=4)
def _forward_kernel(T: Any, is_max: bool) -> Any:
    lowest = T(-np.inf)

    def window_kernel(x: Any, y: Any, index: Any, n: int, g: Any, sx: Any, sy: Any, si: Any) -> None:
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, w = unravel(i, g[_Y], g[_AXIS + _Y], g[2 * _AXIS + _Y])
            image = rest // g[0]
            c = rest - image * g[0]
            start = sx[0] + image * sx[1] + c * sx[2]
            x0 = d * g[_S] - g[_LOW]
            x1 = h * g[_AXIS + _S] - g[_AXIS + _LOW]
            x2 = w * g[2 * _AXIS + _S] - g[2 * _AXIS + _LOW]
            first_d, first_h, first_w = first_tap(g, 0, d), first_tap(g, 1, h), first_tap(g, 2, w)
            best = lowest
            total = 0.0
            where = ((x0 + first_d * g[_E]) * g[_AXIS + _X] + x1 + first_h * g[_AXIS + _E]) * g[2 * _AXIS + _X]
            where += x2 + first_w * g[2 * _AXIS + _E]
            for kd in range(first_d, end_tap(g, 0, d, 0)):
                a = x0 + kd * g[_E]
                for kh in range(first_h, end_tap(g, 1, h, 0)):
                    b = x1 + kh * g[_AXIS + _E]
                    for kw in range(first_w, end_tap(g, 2, w, 0)):
                        e = x2 + kw * g[2 * _AXIS + _E]
                        v = x[start + a * sx[3] + b * sx[4] + e * sx[5]]
                        if is_max:
                            if v > best or v != v:
                                best = v
                                where = (a * g[_AXIS + _X] + b) * g[2 * _AXIS + _X] + e
                        else:
                            total += np.float64(v)
            at = sy[0] + image * sy[1] + c * sy[2] + d * sy[3] + h * sy[4] + w * sy[5]
            if is_max:
                y[at] = best
                index[si[0] + image * si[1] + c * si[2] + d * si[3] + h * si[4] + w * si[5]] = where
            else:
                y[at] = T(total / divisor(g, d, h, w))

    return jit(window_kernel)


def max_window(x: DeviceArray, y: DeviceArray, index: DeviceArray, pod: Ints) -> None:
    """y = maximum of every window, index (int64) its flat position; the first wins, NaN counts as the maximum."""
    memory = flats(x, y, index)
    if y.size:
        launch(_forward_kernel(scalar_type(x), True), *elements(y.size), *memory, y.size, _window(pod), volume(x),
               volume(y), volume(index))  # fmt: skip


def average_window(x: DeviceArray, y: DeviceArray, pod: Ints) -> None:
    """y = mean of every window."""
    source, target = flats(x, y)
    if y.size:
        launch(_forward_kernel(scalar_type(x), False), *elements(y.size), source, target, target, y.size, _window(pod),
               volume(x), volume(y), volume(y))  # fmt: skip


@lru_cache(maxsize=2)
def _spread_kernel(T: Any) -> Any:
    zero = T(0)

    def spread_kernel(y: Any, x: Any, n: int, g: Any, sx: Any, sy: Any) -> None:
        """Shares are added in the order of the outputs."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, w = unravel(i, g[_X], g[_AXIS + _X], g[2 * _AXIS + _X])
            image = rest // g[0]
            c = rest - image * g[0]
            start = sy[0] + image * sy[1] + c * sy[2]
            total = zero
            for kd in range(g[_K] - 1, -1, -1):
                pd = output_of(d + g[_LOW], kd * g[_E], g[_S], g[_Y])
                if pd < 0:
                    continue
                for kh in range(g[_AXIS + _K] - 1, -1, -1):
                    ph = output_of(h + g[_AXIS + _LOW], kh * g[_AXIS + _E], g[_AXIS + _S], g[_AXIS + _Y])
                    if ph < 0:
                        continue
                    for kw in range(g[2 * _AXIS + _K]):
                        pw = output_of(w + g[2 * _AXIS + _LOW], kw * g[2 * _AXIS + _E], g[2 * _AXIS + _S],
                                       g[2 * _AXIS + _Y])  # fmt: skip
                        if pw >= 0:
                            v = np.float64(y[start + pd * sy[3] + ph * sy[4] + pw * sy[5]])
                            total += T(v / divisor(g, pd, ph, pw))
            x[sx[0] + image * sx[1] + c * sx[2] + d * sx[3] + h * sx[4] + w * sx[5]] = total

    return jit(spread_kernel)


def spread_window(y: DeviceArray, x: DeviceArray, pod: Ints) -> None:
    """The adjoint of average_window."""
    source, target = flats(y, x)
    if x.size:
        launch(_spread_kernel(scalar_type(x)), *elements(x.size), source, target, x.size, _window(pod), volume(x),
               volume(y))  # fmt: skip


# ---- the cell that was picked --------------------------------------------------------------------------------------
@device
def cell(flat_position: int, X: Ints, s: Ints) -> int:
    """Offset of a flat position of the D*H*W image."""
    _, d, h, w = unravel(flat_position, X[0], X[1], X[2])
    return d * s[3] + h * s[4] + w * s[5]


@jit
def gather_window_kernel(
    x: Any, index: Any, y: Any, n: int, C: int, P: int, X: Any, Y: Any, sx: Any, si: Any, sy: Any
) -> None:
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        row = i // P
        p = i - row * P
        image = row // C
        c = row - image * C
        at = index[si[0] + image * si[1] + c * si[2] + cell(p, Y, si)]
        y[sy[0] + image * sy[1] + c * sy[2] + cell(p, Y, sy)] = x[sx[0] + image * sx[1] + c * sx[2] + cell(at, X, sx)]


def _extents(a: DeviceArray) -> Ints:
    return (1,) * (5 - a.ndim) + a.shape[2:]


def _volume_of(extents: Ints) -> int:
    return extents[0] * extents[1] * extents[2]


def gather_window(x: DeviceArray, index: DeviceArray, y: DeviceArray) -> None:
    """y[n,c,p] = x[n,c,index[n,c,p]]; spatial axes are flattened."""
    memory = flats(x, index, y)
    if y.size:
        X, Y = _extents(x), _extents(y)
        launch(gather_window_kernel, *elements(y.size), *memory, y.size, y.shape[1], _volume_of(Y), X, Y, volume(x),
               volume(index), volume(y))  # fmt: skip


@jit
def link_kernel(index: Any, heads: Any, following: Any, n: int, C: int, P: int, XV: int, Y: Any, si: Any) -> None:
    """Lists of the outputs that picked each cell. Their order depends on the schedule; no sum does."""
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        row = i // P
        p = i - row * P
        image = row // C
        at = index[si[0] + image * si[1] + (row - image * C) * si[2] + cell(p, Y, si)]
        following[i] = cuda.atomic.exch(heads, row * XV + at, p)


@lru_cache(maxsize=2)
def _scatter_kernel(T: Any) -> Any:
    zero = T(0)

    def scatter_window_kernel(y: Any, heads: Any, following: Any, x: Any, n: int, C: int, P: int, XV: int, X: Any,
                              Y: Any, sx: Any, sy: Any) -> None:  # fmt: skip
        """Each cell walks its list as often as it has entries and adds the smallest output not added so far."""
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            row = i // XV
            image = row // C
            c = row - image * C
            start = sy[0] + image * sy[1] + c * sy[2]
            total = zero
            last = -1
            while True:
                smallest = P
                p = heads[i]
                while p >= 0:
                    if p > last and p < smallest:
                        smallest = p
                    p = following[row * P + p]
                if smallest == P:
                    break
                last = smallest
                total += y[start + cell(last, Y, sy)]
            x[sx[0] + image * sx[1] + c * sx[2] + cell(i - row * XV, X, sx)] = total

    return jit(scatter_window_kernel)


def scatter_window(y: DeviceArray, index: DeviceArray, x: DeviceArray) -> None:
    """x[n,c,q] = sum of y[n,c,p] over the outputs p with index[n,c,p] = q, in the order of p."""
    fy, fi, fx = flats(y, index, x)
    if not x.size:
        return
    if not y.size:
        fill(x, 0.0)
        return
    X, Y = _extents(x), _extents(y)
    P, XV, C = _volume_of(Y), _volume_of(X), x.shape[1]
    heads = empty((x.size,), np.int64)
    fill(heads, -1)
    following = flat(empty((y.size,), np.int64))
    launch(link_kernel, *elements(y.size), fi, flat(heads), following, y.size, C, P, XV, Y, volume(index))
    launch(_scatter_kernel(scalar_type(x)), *elements(x.size), fy, flat(heads), following, fx, x.size, C, P, XV, X, Y,
           volume(x), volume(y))  # fmt: skip
