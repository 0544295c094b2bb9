"""Derived error bounds: what rounding can do to a sum of K products, per element, and comparisons in which NaN fails.

gamma_K = K*u/(1 - K*u), u the unit roundoff, bounds the relative error of a sum of K products in any order against the
sum of the absolute products (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gankernels.geometry import ConvGeometry
from gankernels.testing import oracle

__all__ = [
    "assert_close",
    "assert_same_bits",
    "conv_bound",
    "conv_transpose_bound",
    "conv_weight_bound",
    "fft_conv_bound",
    "fft_conv_transpose_bound",
    "fft_conv_weight_bound",
    "gamma",
    "matmul_bound",
    "rounding",
    "stored_bound",
    "sum_bound",
]

Array = NDArray[Any]


def rounding(dtype: DTypeLike) -> float:
    """Unit roundoff: half the spacing of 1.0."""
    return float(np.finfo(np.dtype(dtype)).eps) / 2


def gamma(count: int, dtype: DTypeLike) -> float:
    """gamma_K for K roundings in a row.

    Raises
    ------
    ValueError
        If K*u reaches 1, where the bound says nothing.
    """
    ku = count * rounding(dtype)
    if not ku < 1:
        raise ValueError(f"gamma: {count} roundings in {np.dtype(dtype)} have no bound")
    return ku / (1 - ku)


def _magnitude(a: Array) -> Array:
    return np.abs(a).astype(np.float64)


# Two roundings more than there are products: a bias, and the conversion of the reference to the dtype under test.
_SPARE = 2


def conv_bound(x: Array, w: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of every element of y = conv(x, w): C/groups * prod(K) products each."""
    return gamma(prod(g.w_shape[1:]) + _SPARE, dtype) * oracle.conv(_magnitude(x), _magnitude(w), g)


def conv_transpose_bound(y: Array, w: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of every element of x = conv_transpose(y, w): at most O/groups * prod(K) products each."""
    count = g.out_channels // g.groups * prod(g.kernel)
    return gamma(count + _SPARE, dtype) * oracle.conv_transpose(_magnitude(y), _magnitude(w), g)


def conv_weight_bound(x: Array, y: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of every element of w = conv_weight(x, y): N * prod(Y) products each."""
    return gamma(g.batch * prod(g.y) + _SPARE, dtype) * oracle.conv_weight(_magnitude(x), _magnitude(y), g)


# Convolution by FFT: |error| <= sum over channels of ||a||_2 ||b||_2 * u*(40*log2(n) + 3*K), n the padded volume, K the
# length of the sums of products. A pass of radix r rounds r + 4 times in a row, of radix 8 only 8 times, and the row
# sums of |DFT_r| are sqrt(r) times its 2-norm, so a forward transform errs by at most sum over passes of
# sqrt(2*r)*(r + 4)*u <= 15*u*log2(n) of ||a||_2 (r = 2, 3, 4, 5, 7; 8). By Parseval and Cauchy-Schwarz
# (1/n) * sum over frequencies of |A B| <= ||a||_2 ||b||_2: two forward transforms give 30, the inverse, whose every
# output is a sum of the products through sqrt(2)*(r + 4) <= 9*log2(r) roundings a pass, the rest; complex sums of K
# products give sqrt(2)*gamma_2K.
def _fft_factor(count: int, g: ConvGeometry, dtype: DTypeLike) -> float:
    # at most twice the shortest length that does not wrap
    padded = prod(2 * (x + max(0, *pair) + k + y) for x, pair, k, y in zip(g.x, g.padding, g.kernel, g.y, strict=True))
    return rounding(dtype) * (40 * float(np.log2(padded)) + 3 * (count + _SPARE))


def _channel_norms(a: Array, axis: int, groups: int) -> Array:
    """The 2-norm over space: (..., groups, channels/groups, ...) with `axis` split."""
    flat = a.astype(np.float64).reshape(*a.shape[:2], prod(a.shape[2:]))
    norm = np.sqrt((flat * flat).sum(2))
    return norm.reshape(*norm.shape[:axis], groups, norm.shape[axis] // groups, *norm.shape[axis + 1 :])


def _over_space(norms: Array, g: ConvGeometry) -> Array:
    return norms.reshape(*norms.shape, *(1,) * g.rank)


def fft_conv_bound(x: Array, w: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of conv(x, w) computed by FFT, (N, O, 1, ...): the same for all cells of an image's channel."""
    norms = np.einsum("ngc,goc->ngo", _channel_norms(x, 1, g.groups), _channel_norms(w, 0, g.groups))
    factor = _fft_factor(g.in_channels // g.groups * prod(g.stride), g, dtype)  # the phases are channels
    return factor * _over_space(norms.reshape(g.batch, g.out_channels), g)


def fft_conv_transpose_bound(y: Array, w: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of conv_transpose(y, w) computed by FFT, (N, C, 1, ...)."""
    norms = np.einsum("ngo,goc->ngc", _channel_norms(y, 1, g.groups), _channel_norms(w, 0, g.groups))
    factor = _fft_factor(g.out_channels // g.groups, g, dtype)
    return factor * _over_space(norms.reshape(g.batch, g.in_channels), g)


def fft_conv_weight_bound(x: Array, y: Array, g: ConvGeometry, dtype: DTypeLike) -> Array:
    """Largest error of conv_weight(x, y) computed by FFT, (O, C/groups, 1, ...)."""
    norms = np.einsum("ngc,ngo->goc", _channel_norms(x, 1, g.groups), _channel_norms(y, 1, g.groups))
    return _fft_factor(g.batch, g, dtype) * _over_space(norms.reshape(g.w_shape[:2]), g)


def matmul_bound(a: Array, b: Array, dtype: DTypeLike) -> Array:
    """Largest error of every element of a @ b."""
    bound: Array = gamma(a.shape[-1] + _SPARE, dtype) * (_magnitude(a) @ _magnitude(b))
    return bound


def sum_bound(x: Array, dtype: DTypeLike, axis: int | tuple[int, ...] | None = None, keepdims: bool = False) -> Array:
    """Largest error of a sum over `axis`."""
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    count = prod(x.shape[i] for i in axes)
    total: Array = _magnitude(x).sum(axis=axis, keepdims=keepdims)
    return gamma(count + _SPARE, dtype) * total


# Of 8 significant bits, to nearest.
_BFLOAT16_ROUNDING = 2.0**-8


def stored_bound(expected: Array, bound: Array) -> Array:
    """Largest error of what is `bound` away from `expected` at most when it is rounded to bfloat16 and stored."""
    wide: Array = bound + _BFLOAT16_ROUNDING * (_magnitude(expected) + bound)
    return wide


def assert_close(actual: Any, expected: Any, bound: Any, what: str = "") -> None:
    """Raise unless |actual - expected| <= bound for every element; NaN and inf only equal themselves.

    Parameters
    ----------
    actual, expected : array
        Of one shape; compared in float64.
    bound : float or array
        Broadcast to the shape.
    what : str
        For the message.

    Raises
    ------
    AssertionError
        With the coordinates and the numbers of the worst element.
    """
    a, e = np.asarray(actual), np.asarray(expected)
    if a.shape != e.shape:
        raise AssertionError(f"{what}: shape {a.shape}, expected {e.shape}")
    if a.size == 0:
        return
    a, e = a.astype(np.float64), e.astype(np.float64)
    limit = np.broadcast_to(np.asarray(bound, np.float64), a.shape)
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        error = np.where(same, 0.0, np.abs(a - e))
        bad = ~(error <= limit) & ~same  # written so that NaN fails
        excess = np.where(bad, np.where(np.isfinite(error / limit), error / limit, np.inf), -1.0)
    if bad.any():
        worst = tuple(int(i) for i in np.unravel_index(int(np.argmax(excess)), a.shape))
        raise AssertionError(
            f"{what}: {int(bad.sum())} of {a.size} elements are outside their bound; the worst at {worst}: "
            f"got {a[worst]!r}, expected {e[worst]!r}, error {error[worst]:.3e}, bound {limit[worst]:.3e}"
        )


def assert_same_bits(actual: Any, expected: Any, what: str = "") -> None:
    """Raise unless both arrays have the same dtype, shape and bytes.

    Raises
    ------
    AssertionError
        With the coordinates of the first difference.
    """
    a, e = np.ascontiguousarray(actual), np.ascontiguousarray(expected)
    if a.dtype != e.dtype or a.shape != e.shape:
        raise AssertionError(f"{what}: {a.dtype} {a.shape}, expected {e.dtype} {e.shape}")
    if a.tobytes() == e.tobytes():
        return
    width = a.dtype.itemsize
    differ = (a.reshape(-1).view(np.uint8).reshape(-1, width) != e.reshape(-1).view(np.uint8).reshape(-1, width)).any(1)
    first = tuple(int(i) for i in np.unravel_index(int(np.argmax(differ)), a.shape))
    raise AssertionError(
        f"{what}: {int(differ.sum())} of {a.size} elements differ, first at {first}: {a[first]!r} and {e[first]!r}"
    )
