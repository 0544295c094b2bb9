"""Shapes of convolutions and windows: every argument is checked here, once, with the caller's numbers in the message.

The letters: N batch, C input channels, O output channels, X input extents, K kernel extents, Y output extents.
Native code receives `pod`, a flat tuple of integers in the order of csrc/core/geometry.hpp, and trusts it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from operator import index
from typing import Any, Literal

__all__ = [
    "MAX_ELEMENTS",
    "ConvGeometry",
    "IntOrInts",
    "Padding",
    "UpsampleConvGeometry",
    "WindowGeometry",
    "conv_geometry",
    "conv_transpose_geometry",
    "ints",
    "is_int",
    "padding_pairs",
    "upsample_conv_geometry",
    "window_geometry",
]

IntOrInts = int | Sequence[int]
Padding = int | Sequence[int] | Sequence[tuple[int, int]] | Literal["same", "valid", "same_lower"]
Ints = tuple[int, ...]
Pairs = tuple[tuple[int, int], ...]

# Largest element count of one operand: the square of any such count still fits the int64 arithmetic of the kernels.
MAX_ELEMENTS = 2**46
_MAX_EXTENT = 2**31 - 1


def is_int(value: Any) -> bool:
    """True for integers of Python and NumPy, False for bool, floats and arrays with axes."""
    try:
        index(value)
    except TypeError:
        return False
    return not isinstance(value, bool) and type(value).__name__ not in ("bool_", "bool")


def ints(op: str, name: str, value: Any, rank: int, minimum: int = 0) -> Ints:
    """One integer for every spatial axis, from an integer or a sequence of `rank` (or one) integers."""
    values = (value,) * rank if is_int(value) else tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) == 1:
        values = values * rank
    if len(values) != rank or not all(is_int(v) for v in values):
        raise TypeError(f"{op}: {name} must be an int or {rank} ints, got {value!r}")
    values = tuple(int(v) for v in values)
    if any(v < minimum for v in values):
        raise ValueError(f"{op}: {name} must be at least {minimum} on every axis, got {value!r}")
    if any(v > _MAX_EXTENT for v in values):
        raise ValueError(f"{op}: {name} must be at most {_MAX_EXTENT} on every axis, got {value!r}")
    return values


def padding_pairs(op: str, padding: Any, x: Ints, kernel: Ints, stride: Ints, dilation: Ints) -> Pairs:
    """Cells added below and above every spatial axis.

    Parameters
    ----------
    padding : int, ints, (low, high) pairs, or a name
        "valid" adds nothing. "same" gives Y = ceil(X / stride); where the total is odd the extra cell goes to the high
        end, which is what PyTorch's "same" (stride 1 only), Keras's "same" and ONNX SAME_UPPER do, for even kernels
        too. "same_lower" puts it at the low end (ONNX SAME_LOWER).
    """
    rank = len(kernel)
    if isinstance(padding, str):
        if padding == "valid":
            return ((0, 0),) * rank
        if padding not in ("same", "same_lower"):
            raise ValueError(
                f"{op}: padding must be an int, ints, (low, high) pairs, 'same', 'same_lower' or 'valid', "
                f"got {padding!r}"
            )
        pairs = []
        for X, K, s, d in zip(x, kernel, stride, dilation, strict=True):
            total = max((-(-X // s) - 1) * s + d * (K - 1) + 1 - X, 0)
            small, large = total // 2, total - total // 2
            pairs.append((small, large) if padding == "same" else (large, small))
        return tuple(pairs)
    if isinstance(padding, Sequence) and any(isinstance(p, Sequence) for p in padding):
        if len(padding) != rank or not all(
            isinstance(p, Sequence) and len(p) == 2 and all(map(is_int, p)) for p in padding
        ):
            raise TypeError(f"{op}: padding as pairs must be {rank} pairs (low, high) of ints, got {padding!r}")
        pairs = [(int(p[0]), int(p[1])) for p in padding]
        if any(v < 0 or v > _MAX_EXTENT for p in pairs for v in p):
            raise ValueError(f"{op}: padding must be between 0 and {_MAX_EXTENT}, got {padding!r}")
        return tuple(pairs)
    return tuple((p, p) for p in ints(op, "padding", padding, rank))


def _check_count(op: str, name: str, shape: Ints) -> None:
    if prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{op}: {name} would have shape {shape}, {prod(shape)} elements; the limit is {MAX_ELEMENTS}")


def _pad3(values: Sequence[int], fill: int) -> Ints:
    return (fill,) * (3 - len(values)) + tuple(values)


@dataclass(frozen=True)
class ConvGeometry:
    """y[n,o,p] = sum over c, k of w[o,c,k] * x[n, c, stride*p + dilation*k - low], zero outside x.

    All tuples have one entry per spatial axis (1 to 3). `padding` holds (low, high) pairs.
    """

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    x: Ints
    kernel: Ints
    y: Ints
    stride: Ints
    dilation: Ints
    padding: Pairs

    @property
    def rank(self) -> int:
        return len(self.x)

    @property
    def x_shape(self) -> Ints:
        return (self.batch, self.in_channels, *self.x)

    @property
    def w_shape(self) -> Ints:
        return (self.out_channels, self.in_channels // self.groups, *self.kernel)

    @property
    def y_shape(self) -> Ints:
        return (self.batch, self.out_channels, *self.y)

    @property
    def local_w_shape(self) -> Ints:
        """Unshared weights: one kernel for every output position."""
        return (self.out_channels, self.in_channels // self.groups, *self.y, *self.kernel)

    @property
    def columns_shape(self) -> Ints:
        return (self.batch, self.in_channels * prod(self.kernel), prod(self.y))

    @property
    def flops(self) -> int:
        """Multiply-adds counted as two, padding included."""
        return 2 * prod(self.y_shape) * prod(self.w_shape[1:])

    @cached_property
    def pod(self) -> Ints:
        """The members of gk::ConvGeometry in order."""
        low = _pad3([p[0] for p in self.padding], 0)
        return (self.batch, self.in_channels, self.out_channels, self.groups, *_pad3(self.x, 1), *_pad3(self.kernel, 1),
                *_pad3(self.y, 1), *_pad3(self.stride, 1), *_pad3(self.dilation, 1), *low)  # fmt: skip


def _check_channels(op: str, x_shape: Ints, w_shape: Ints, groups: Any, rank: int, x_name: str) -> int:
    if rank not in (1, 2, 3):
        raise ValueError(f"{op}: expected 1, 2 or 3 spatial axes, got {x_name} of shape {x_shape}")
    if len(w_shape) != rank + 2:
        raise ValueError(
            f"{op}: {x_name} has {len(x_shape)} axes {x_shape}, so w must have {rank + 2}, got shape {w_shape}"
        )
    if not is_int(groups) or int(groups) < 1:
        raise ValueError(f"{op}: groups must be an int of at least 1, got {groups!r}")
    if any(k < 1 for k in w_shape[2:]):
        raise ValueError(f"{op}: every kernel extent must be at least 1, got w of shape {w_shape}")
    return int(groups)


def conv_geometry(
    op: str,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> ConvGeometry:
    """Geometry of y = conv(x, w) from x (N, C, *X) and w (O, C/groups, *K)."""
    x_shape, w_shape = tuple(x_shape), tuple(w_shape)
    rank = len(x_shape) - 2
    groups = _check_channels(op, x_shape, w_shape, groups, rank, "x")
    N, C, *X = x_shape
    O, c, *K = w_shape
    if C % groups or O % groups:
        raise ValueError(
            f"{op}: groups={groups} must divide the {C} channels of x and the {O} of w (shapes {x_shape}, {w_shape})"
        )
    if c * groups != C:
        raise ValueError(f"{op}: x has {C} channels, w expects {c * groups} (w.shape={w_shape}, groups={groups})")
    s, d = ints(op, "stride", stride, rank, 1), ints(op, "dilation", dilation, rank, 1)
    pairs = padding_pairs(op, padding, tuple(X), tuple(K), s, d)
    Y = []
    for X_, K_, s_, d_, (low, high) in zip(X, K, s, d, pairs, strict=True):
        room = X_ + low + high - (d_ * (K_ - 1) + 1)
        if room < 0:
            raise ValueError(
                f"{op}: kernel {tuple(K)} with dilation {d} does not fit into x of extents {tuple(X)} padded "
                f"by {pairs}; "
                f"an axis has {X_ + low + high} cells and needs {d_ * (K_ - 1) + 1}"
            )
        Y.append(room // s_ + 1)
    g = ConvGeometry(N, C, O, groups, tuple(X), tuple(K), tuple(Y), s, d, pairs)
    for name, shape in (("x", g.x_shape), ("w", g.w_shape), ("y", g.y_shape)):
        _check_count(op, name, shape)
    return g


def conv_transpose_geometry(
    op: str,
    y_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: IntOrInts = 1,
    padding: Padding = 0,
    output_padding: IntOrInts = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> ConvGeometry:
    """Geometry whose open slot is x: x = conv_transpose(y, w), y (N, O, *Y) the input and w (O, C/groups, *K).

    The result has extents (Y - 1)*stride - low - high + dilation*(K - 1) + output_padding + 1, as PyTorch's layers.
    "same" gives X = Y * stride (Keras).
    """
    y_shape, w_shape = tuple(y_shape), tuple(w_shape)
    rank = len(y_shape) - 2
    groups = _check_channels(op, y_shape, w_shape, groups, rank, "the input")
    N, O, *Y = y_shape
    if w_shape[0] != O:
        raise ValueError(
            f"{op}: the input has {O} channels, w expects {w_shape[0]} (w.shape={w_shape}, groups={groups})"
        )
    if O % groups:
        raise ValueError(f"{op}: groups={groups} must divide the {O} channels of the input")
    C, K = w_shape[1] * groups, w_shape[2:]
    s, d = ints(op, "stride", stride, rank, 1), ints(op, "dilation", dilation, rank, 1)
    extra = ints(op, "output_padding", output_padding, rank)
    if any(e >= max(s_, d_) for e, s_, d_ in zip(extra, s, d, strict=True)):
        raise ValueError(
            f"{op}: output_padding must be smaller than stride or dilation, "
            f"got {extra} with stride {s} and dilation {d}"
        )
    if isinstance(padding, str) and padding != "valid":
        pairs = padding_pairs(op, padding, tuple(y * t for y, t in zip(Y, s, strict=True)), K, s, d)
        X = [y * t + e for y, t, e in zip(Y, s, extra, strict=True)]
    else:
        pairs = padding_pairs(op, padding, (0,) * rank, K, s, d)
        X = [(y - 1) * t - low - high + v * (k - 1) + e + 1
             for y, t, v, k, e, (low, high) in zip(Y, s, d, K, extra, pairs, strict=True)]  # fmt: skip
    if any(x < 0 for x in X):
        raise ValueError(
            f"{op}: the output would have extents {tuple(X)} "
            f"(input {tuple(Y)}, kernel {K}, stride {s}, padding {pairs})"
        )
    g = ConvGeometry(N, C, O, groups, tuple(X), K, tuple(Y), s, d, pairs)
    for name, shape in (("the output", g.x_shape), ("w", g.w_shape), ("the input", g.y_shape)):
        _check_count(op, name, shape)
    return g


@dataclass(frozen=True)
class UpsampleConvGeometry:
    """y = conv(upsample_nearest(x, factors), w): `conv` is the convolution on the large image (stride, dilation 1)."""

    conv: ConvGeometry
    factors: Ints

    @property
    def x(self) -> Ints:
        """Extents of the small image."""
        return tuple(n // f for n, f in zip(self.conv.x, self.factors, strict=True))

    @property
    def x_shape(self) -> Ints:
        return (self.conv.batch, self.conv.in_channels, *self.x)

    @property
    def w_shape(self) -> Ints:
        return self.conv.w_shape

    @property
    def y_shape(self) -> Ints:
        return self.conv.y_shape

    @property
    def merged(self) -> Ints:
        """Taps on the small image, all phases together: the sums of taps that fall into one cell of it."""
        return tuple(k + f - 1 for k, f in zip(self.conv.kernel, self.factors, strict=True))

    @cached_property
    def pod(self) -> Ints:
        """The members of gk::UpsampleConvGeometry in order."""
        return (*self.conv.pod, *_pad3(self.factors, 1))


def upsample_conv_geometry(
    op: str,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    factors: IntOrInts,
    padding: Padding = 0,
    groups: int = 1,
) -> UpsampleConvGeometry:
    """Geometry of y = conv(upsample_nearest(x, factors), w) from the small x (N, C, *X) and w (O, C/groups, *K)."""
    x_shape, w_shape = tuple(x_shape), tuple(w_shape)
    rank = len(x_shape) - 2
    groups = _check_channels(op, x_shape, w_shape, groups, rank, "x")
    f = ints(op, "factors", factors, rank, 1)
    large = (*x_shape[:2], *(n * s for n, s in zip(x_shape[2:], f, strict=True)))
    g = UpsampleConvGeometry(conv_geometry(op, large, w_shape, 1, padding, 1, groups), f)
    _check_count(op, "the sums of taps", (*g.w_shape[:2], *g.merged))
    return g


@dataclass(frozen=True)
class WindowGeometry:
    """A pooling window over the spatial axes of every (n, c) image; tuples have one entry per spatial axis."""

    batch: int
    channels: int
    x: Ints
    kernel: Ints
    y: Ints
    stride: Ints
    dilation: Ints
    padding: Pairs
    count_include_pad: bool = True
    divisor_override: int = 0

    @property
    def x_shape(self) -> Ints:
        return (self.batch, self.channels, *self.x)

    @property
    def y_shape(self) -> Ints:
        return (self.batch, self.channels, *self.y)

    @cached_property
    def pod(self) -> Ints:
        """The members of gk::WindowGeometry in order."""
        low, high = _pad3([p[0] for p in self.padding], 0), _pad3([p[1] for p in self.padding], 0)
        return (self.batch, self.channels, *_pad3(self.x, 1), *_pad3(self.kernel, 1), *_pad3(self.y, 1),
                *_pad3(self.stride, 1), *_pad3(self.dilation, 1), *low, *high,
                int(self.count_include_pad), self.divisor_override)  # fmt: skip


def window_geometry(
    op: str,
    x_shape: Sequence[int],
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> WindowGeometry:
    """Geometry of a pooling over x (N, C, *X); stride defaults to kernel_size, ceil_mode as PyTorch defines it."""
    x_shape = tuple(x_shape)
    rank = len(x_shape) - 2
    if rank not in (1, 2, 3):
        raise ValueError(f"{op}: expected 1, 2 or 3 spatial axes, got x of shape {x_shape}")
    N, C, *X = x_shape
    K = ints(op, "kernel_size", kernel_size, rank, 1)
    s = K if stride is None else ints(op, "stride", stride, rank, 1)
    d = ints(op, "dilation", dilation, rank, 1)
    pairs = padding_pairs(op, padding, tuple(X), K, s, d)
    if not isinstance(padding, str):
        for (low, high), k in zip(pairs, K, strict=True):
            if 2 * low > k or 2 * high > k:
                raise ValueError(
                    f"{op}: padding must be at most half the kernel, got padding {pairs} with kernel_size {K}"
                )
    if divisor_override is not None and (
        not is_int(divisor_override) or divisor_override == 0 or abs(divisor_override) > _MAX_EXTENT
    ):
        raise ValueError(
            f"{op}: divisor_override must be a nonzero int of at most {_MAX_EXTENT}, got {divisor_override!r}"
        )
    Y = []
    for X_, K_, s_, d_, (low, high) in zip(X, K, s, d, pairs, strict=True):
        room = X_ + low + high - (d_ * (K_ - 1) + 1)
        if room < 0 or X_ == 0:
            raise ValueError(
                f"{op}: window {K} with dilation {d} does not fit into x of extents {tuple(X)} padded by {pairs}"
            )
        if d_ > X_ and K_ > 1 and low:
            raise ValueError(
                f"{op}: dilation {d} is larger than x of extents {tuple(X)}: with padding {pairs} a window "
                "could hold no cell at all"
            )
        count = (-(-room // s_) if ceil_mode else room // s_) + 1
        if ceil_mode and (count - 1) * s_ >= X_ + low:  # the last window must begin inside the input or its low padding
            count -= 1
        Y.append(count)
    g = WindowGeometry(N, C, tuple(X), K, tuple(Y), s, d, pairs, bool(count_include_pad), int(divisor_override or 0))
    _check_count(op, "x", g.x_shape)
    _check_count(op, "y", g.y_shape)
    return g
