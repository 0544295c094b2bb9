"""Nearest upsampling, its adjoint, and both fused with the convolution that follows.

On one axis, output q of conv(upsample_nearest(x, f), w) reads small cell floor((q + k - pad)/f) through tap k. Taps
that fall into one cell are summed beforehand: what is left is the adjoint of a convolution of stride f with K + f - 1
sums (csrc/cpu/upsample_conv.cpp), hence f dense convolutions on the small image.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import empty, flat
from gankernels.backends.cuda_numba.convolution import conv, conv_transpose, conv_weight
from gankernels.backends.cuda_numba.launch import elements, launch, scalar_type, unravel, volume
from gankernels.backends.cuda_numba.plan import Conv, split_pod
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["sum_blocks", "upsample_conv", "upsample_conv_transpose", "upsample_conv_weight", "upsample_nearest"]

Ints = tuple[int, ...]


# ---- repeated cells ------------------------------------------------------------------------------------------------
@jit
def upsample_kernel(x: Any, y: Any, n: int, Y: Any, f: Any, sx: Any, sy: Any) -> None:
    """Y: C, D, H, W of y."""
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        rest, d, h, w = unravel(i, Y[1], Y[2], Y[3])
        image = rest // Y[0]
        c = rest - image * Y[0]
        value = x[sx[0] + image * sx[1] + c * sx[2] + d // f[0] * sx[3] + h // f[1] * sx[4] + w // f[2] * sx[5]]
        y[sy[0] + image * sy[1] + c * sy[2] + d * sy[3] + h * sy[4] + w * sy[5]] = value


@lru_cache(maxsize=2)
def _sum_blocks_kernel(T: Any) -> Any:
    def sum_blocks_kernel(y: Any, x: Any, n: int, X: Any, f: Any, sx: Any, sy: Any) -> None:
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, w = unravel(i, X[1], X[2], X[3])
            image = rest // X[0]
            c = rest - image * X[0]
            start = sy[0] + image * sy[1] + c * sy[2] + d * f[0] * sy[3] + h * f[1] * sy[4] + w * f[2] * sy[5]
            total = 0.0
            for a in range(f[0]):
                for b in range(f[1]):
                    for e in range(f[2]):
                        total += np.float64(y[start + a * sy[3] + b * sy[4] + e * sy[5]])
            x[sx[0] + image * sx[1] + c * sx[2] + d * sx[3] + h * sx[4] + w * sx[5]] = T(total)

    return jit(sum_blocks_kernel)


def _spatial(a: DeviceArray) -> Ints:
    return (1,) * (5 - a.ndim) + a.shape[2:]


def _factors(x: DeviceArray, y: DeviceArray) -> Ints:
    return tuple(m // n for n, m in zip(_spatial(x), _spatial(y), strict=True))


def upsample_nearest(x: DeviceArray, y: DeviceArray) -> None:
    """y (N, C, *f*X): every cell of x (N, C, *X) repeated."""
    source, target = flat(x), flat(y)
    if y.size:
        launch(upsample_kernel, *elements(y.size), source, target, y.size, (y.shape[1], *_spatial(y)), _factors(x, y),
               volume(x), volume(y))  # fmt: skip


def sum_blocks(y: DeviceArray, x: DeviceArray) -> None:
    """x (N, C, *X): sums over blocks of cells of y (N, C, *f*X)."""
    source, target = flat(y), flat(x)
    if x.size:
        launch(_sum_blocks_kernel(scalar_type(x)), *elements(x.size), source, target, x.size,
               (x.shape[1], *_spatial(x)), _factors(x, y), volume(x), volume(y))  # fmt: skip


# ---- with the convolution ------------------------------------------------------------------------------------------
def _strided(g: Conv, f: Ints) -> Conv:
    """The convolution of stride f whose image is our output: its slot x is our y, its slot y our x."""
    return Conv(
        g.batch, g.out_channels, g.in_channels, g.groups, g.y,
        tuple(k + s - 1 for k, s in zip(g.kernel, f, strict=True)),
        tuple(n // s for n, s in zip(g.x, f, strict=True)),
        f, g.dilation, tuple(k - 1 - p for k, p in zip(g.kernel, g.pad, strict=True)),
    )  # fmt: skip


@lru_cache(maxsize=512)
def _geometries(pod: Ints) -> tuple[Conv, Ints, Conv, Ints]:
    """The convolution, the factors, the one of stride f, and its pod."""
    g, f = split_pod(pod[:22]), pod[22:]
    s = _strided(g, f)
    return g, f, s, (*s[:4], *(v for part in s[4:] for v in part))


@lru_cache(maxsize=2)
def _merge_kernel(T: Any) -> Any:
    zero = T(0)

    def merge_kernel(
        a: Any, b: Any, n: int, channels: Any, A: Any, B: Any, last: Any, f: Any, sa: Any, sb: Any
    ) -> None:
        """b[q, p, j] = sum of a[p of q's group, q in its group, k] over last - j <= k < last - j + f on every axis.

        channels: rows of b, columns of b, rows of b in a group; A, B: extents in space; last: K - 1.
        """
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            rest, d, h, w = unravel(i, B[0], B[1], B[2])
            q = rest // channels[1]
            p = rest - q * channels[1]
            group = q // channels[2]
            start = sa[0] + (group * channels[1] + p) * sa[1] + (q - group * channels[2]) * sa[2]
            total = zero
            for kd in range(max(0, last[0] - d), min(A[0], last[0] - d + f[0])):
                for kh in range(max(0, last[1] - h), min(A[1], last[1] - h + f[1])):
                    for kw in range(max(0, last[2] - w), min(A[2], last[2] - w + f[2])):
                        total += a[start + kd * sa[3] + kh * sa[4] + kw * sa[5]]
            b[sb[0] + q * sb[1] + p * sb[2] + d * sb[3] + h * sb[4] + w * sb[5]] = total

    return jit(merge_kernel)


def _merge(a: DeviceArray, b: DeviceArray, g: Conv, f: Ints) -> None:
    """The sums of taps; they are their own adjoint, with rows and columns of channels exchanged."""
    source, target = flat(a), flat(b)
    if b.size:
        last = tuple(k - 1 for k in g.kernel)
        channels = (*b.shape[:2], b.shape[0] // g.groups)
        launch(_merge_kernel(scalar_type(b)), *elements(b.size), source, target, b.size, channels, _spatial(a),
               _spatial(b), last, f, volume(a), volume(b))  # fmt: skip


def _merged(w: DeviceArray, g: Conv, f: Ints, s: Conv) -> DeviceArray:
    v = empty((s.out_channels, s.in_channels // s.groups, *s.kernel), w.dtype)
    _merge(w, v, g, f)
    return v


def upsample_conv(x: DeviceArray, w: DeviceArray, y: DeviceArray, pod: Ints, algorithm: int = 0) -> None:
    """y = conv(upsample_nearest(x, factors), w)."""
    g, f, s, strided = _geometries(pod)
    conv_transpose(x, _merged(w, g, f, s), y, strided)


def upsample_conv_transpose(y: DeviceArray, w: DeviceArray, x: DeviceArray, pod: Ints, algorithm: int = 0) -> None:
    """The adjoint of upsample_conv in x."""
    g, f, s, strided = _geometries(pod)
    conv(y, _merged(w, g, f, s), x, strided)


def upsample_conv_weight(x: DeviceArray, y: DeviceArray, w: DeviceArray, pod: Ints, algorithm: int = 0) -> None:
    """The adjoint of upsample_conv in w."""
    g, f, s, strided = _geometries(pod)
    v = empty((s.out_channels, s.in_channels // s.groups, *s.kernel), w.dtype)
    conv_weight(y, x, v, strided)
    _merge(v, w, g, f)
