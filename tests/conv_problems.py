"""Convolutions on random numbers, what a float64 loop over taps makes of them, and awkward views of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from hypothesis import strategies as st

from gankernels import _cpu
from gankernels.geometry import ConvGeometry, conv_geometry

AUTOMATIC, DIRECT, IM2COL, CHANNELS, BF16, BATCH, ROWS = 0, 1, 2, 5, 7, 12, 13
Array = np.ndarray[Any, np.dtype[Any]]


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


EMPTY = {
    "batch": geometry((0, 3, 5, 6), (4, 3, 3, 3)),
    "input channels": geometry((2, 0, 5, 6), (4, 0, 3, 3)),
    "output channels": geometry((2, 3, 5, 6), (0, 3, 3, 3)),
    "extent": geometry((2, 3, 0, 6), (4, 3, 2, 3), padding=1),
}


def cell(g: ConvGeometry, axis: int, k: int) -> tuple[slice, slice]:
    """Outputs of an axis that see x through tap k, and the cells that they see."""
    e = g.dilation[axis] * k - g.padding[axis][0]
    s = g.stride[axis]
    first = max(0, -(e // s))
    last = min(g.y[axis] - 1, (g.x[axis] - 1 - e) // s)
    if last < first:
        return slice(0, 0), slice(0, 0)
    return slice(first, last + 1), slice(s * first + e, s * last + e + 1, s)


def taps(g: ConvGeometry) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...], tuple[slice, ...]]]:
    for k in product(*map(range, g.kernel)):
        pairs = [cell(g, axis, i) for axis, i in enumerate(k)]
        if all(p.stop > p.start for p, _ in pairs):
            yield k, tuple(p for p, _ in pairs), tuple(x for _, x in pairs)


def grouped(a: Array, groups: int, axis: int) -> Array:
    return a.reshape(*a.shape[:axis], groups, a.shape[axis] // groups, *a.shape[axis + 1 :])


def oracle(slot: str, g: ConvGeometry, x: Array, w: Array, y: Array, local: bool = False) -> Array:
    """The trilinear form with one slot open, one tap at a time."""
    x, w, y = (grouped(x, g.groups, 1), grouped(w, g.groups, 0), grouped(y, g.groups, 1))
    x, w, y = (np.zeros_like(a) if name == slot else a for name, a in (("x", x), ("w", w), ("y", y)))
    if local:
        w = w.reshape(*w.shape[:3], *g.y, *g.kernel)
    e = "gocP" if local else "goc"
    for k, p, q in taps(g):
        xs, ys = x[(..., *q)], y[(..., *p)]
        ws = w[(slice(None),) * 3 + p + k] if local else w[(..., *k)]
        positions = ys.shape[3:]
        xf, yf = (a.reshape(*a.shape[:3], int(np.prod(positions))) for a in (xs, ys))
        wf = ws.reshape(*ws.shape[:3], int(np.prod(positions))) if local else ws
        if slot == "y":
            ys += np.einsum(f"{e},ngcP->ngoP", wf, xf, optimize=True).reshape(ys.shape)
        elif slot == "x":
            xs += np.einsum(f"{e},ngoP->ngcP", wf, yf, optimize=True).reshape(xs.shape)
        else:
            ws += np.einsum(f"ngoP,ngcP->{e}", yf, xf, optimize=True).reshape(ws.shape)
    return {
        "x": x.reshape(g.x_shape),
        "w": w.reshape(g.local_w_shape if local else g.w_shape),
        "y": y.reshape(g.y_shape),
    }[slot]


@dataclass
class Problem:
    g: ConvGeometry
    x: Array
    w: Array
    y: Array
    local: bool = False

    def flat(self, w: Array) -> Array:
        """Unshared weights as kernels take them: (O, C/groups, positions, taps)."""
        return w.reshape(*w.shape[:2], int(np.prod(self.g.y)), int(np.prod(self.g.kernel)))

    def kernel(self, slot: str) -> Any:
        name = {"y": "conv", "x": "conv_transpose", "w": "conv_weight"}[slot]
        return getattr(_cpu, "local_" + name if self.local else name)

    def run(self, slot: str, algorithm: int = AUTOMATIC) -> Array:
        out = np.full_like(getattr(self, slot), np.nan)
        w = self.w if slot != "w" else out
        if self.local:
            w = self.flat(w)
            assert slot != "w" or np.shares_memory(w, out) or w.size == 0
        tail = () if self.local else (algorithm,)
        arguments = {"y": (self.x, w, out), "x": (self.y, w, out), "w": (self.x, self.y, w)}[slot]
        self.kernel(slot)(*arguments, self.g.pod, *tail)
        return out

    def expected(self, slot: str) -> Array:
        x, w, y = (a.astype(np.float64) for a in (self.x, self.w, self.y))
        return oracle(slot, self.g, x, w, y, self.local)

    def bound(self, slot: str, u: float) -> Array:
        """gamma_K * form(|x|, |w|, |y|); K is the number of products in the longest sum."""
        g = self.g
        size = {
            "y": g.in_channels // g.groups * np.prod(g.kernel),
            "x": g.out_channels // g.groups * np.prod(g.kernel),
            "w": g.batch * np.prod(g.y),
        }[slot]
        gamma = (size + 1) * u / (1 - (size + 1) * u)
        x, w, y = (np.abs(a.astype(np.float64)) for a in (self.x, self.w, self.y))
        return gamma * oracle(slot, g, x, w, y, self.local)


def fill(
    g: ConvGeometry, dtype: Any = np.float32, seed: int = 0, integers: bool = False, local: bool = False
) -> Problem:
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...]) -> Array:
        return (rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)).astype(dtype)

    return Problem(g, draw(g.x_shape), draw(g.local_w_shape if local else g.w_shape), draw(g.y_shape), local)


@st.composite
def geometries(draw: Callable[[Any], Any], largest: int = 9) -> ConvGeometry:
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    groups, c, o = draw(st.sampled_from([1, 1, 1, 2, 3])), draw(st.integers(1, 5)), draw(st.integers(1, 10))
    x, k, s, d = axes(1, largest), axes(1, 4), axes(1, 3), axes(1, 3)
    pairs = []
    for X, K, D in zip(x, k, d, strict=True):
        low, high = draw(st.integers(0, 4)), draw(st.integers(0, 4))
        pairs.append((low, high + max(0, D * (K - 1) + 1 - X - low - high)))
    batch = draw(st.sampled_from([1, 2, 3, 5, 8, 16, 17, 19]))
    return geometry((batch, c * groups, *x), (o * groups, c, *k), stride=s, padding=pairs, dilation=d, groups=groups)


def awkward(a: Array) -> Array:
    """A view that is reversed, permuted and with gaps."""
    big = np.full([2 * n for n in a.shape[::-1]], np.nan, a.dtype)
    view = big.T[tuple(slice(None, None, -2) for _ in a.shape)]
    view[...] = a
    return view


def assert_views_serve(p: Problem, slot: str, *tail: int) -> None:
    """The kernel of a slot reads and writes awkward views, and nothing between their elements."""
    w, want = p.w, p.expected(slot).astype(np.float32)
    if p.local:
        w, want = p.flat(w), p.flat(want) if slot == "w" else want
    x, w, y, out = (awkward(a) for a in (p.x, w, p.y, np.full_like(want, np.nan)))
    arguments = {"y": (x, w, out), "x": (y, w, out), "w": (x, y, out)}[slot]
    p.kernel(slot)(*arguments, p.g.pod, *tail)
    np.testing.assert_array_equal(out, want)
    assert np.isnan(out.base[::2]).all(), "cells between the elements were written"
