"""Pooling and nearest-neighbour upsampling: linear maps with their adjoints; max pooling with its argmax frozen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor, record
from gankernels.backends import backend_of
from gankernels.geometry import IntOrInts, Padding, WindowGeometry, ints, window_geometry
from gankernels.ops.common import check_float, empty_like

__all__ = ["avg_pool", "max_pool", "sum_blocks", "upsample_nearest"]


# ---- upsampling ----------------------------------------------------------------------------------------------------
def _upsample(x: Any, factors: tuple[int, ...]) -> Any:
    y = empty_like(x, (*x.shape[:2], *(n * f for n, f in zip(x.shape[2:], factors, strict=True))))
    backend_of(x).upsample_nearest(x, y)
    return y


def _sum_blocks(y: Any, factors: tuple[int, ...]) -> Any:
    x = empty_like(y, (*y.shape[:2], *(n // f for n, f in zip(y.shape[2:], factors, strict=True))))
    backend_of(y).sum_blocks(y, x)
    return x


_blocks = Form("upsample_nearest", x=_sum_blocks, y=_upsample)


def _check_volume(op: str, x: Tensor) -> int:
    check_float(op, x=x)
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"{op}: expected (N, C, *X) with 1 to 3 spatial axes, got shape {x.shape}")
    return x.ndim - 2


def upsample_nearest(x: Tensor, factors: IntOrInts) -> Tensor:
    """x (N, C, *X) with every cell repeated `factors` times along each spatial axis."""
    rank = _check_volume("upsample_nearest", x)
    return _blocks.open("y", ints("upsample_nearest", "factors", factors, rank, 1), x=x)


def sum_blocks(y: Tensor, factors: IntOrInts) -> Tensor:
    """Sums over blocks of `factors` cells of y (N, C, *Y): the adjoint of upsample_nearest."""
    rank = _check_volume("sum_blocks", y)
    f = ints("sum_blocks", "factors", factors, rank, 1)
    if any(n % k for n, k in zip(y.shape[2:], f, strict=True)):
        raise ValueError(f"sum_blocks: extents {y.shape[2:]} are not multiples of factors {f}")
    return _blocks.open("x", f, y=y)


# ---- average -------------------------------------------------------------------------------------------------------
def _average(x: Any, g: WindowGeometry) -> Any:
    y = empty_like(x, g.y_shape)
    backend_of(x).average_window(x, y, g.pod)
    return y


def _spread(y: Any, g: WindowGeometry) -> Any:
    x = empty_like(y, g.x_shape)
    backend_of(y).spread_window(y, x, g.pod)
    return x


_average_form = Form("avg_pool", x=_spread, y=_average)


def avg_pool(
    x: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Mean over windows of x (N, C, *X), as torch.nn.functional.avg_pool1d/2d/3d."""
    _check_volume("avg_pool", x)
    g = window_geometry(
        "avg_pool", x.shape, kernel_size, stride, padding, 1, ceil_mode, count_include_pad, divisor_override
    )
    return _average_form.open("y", g, x=x)


# ---- maximum -------------------------------------------------------------------------------------------------------
def _gather(x: Any, p: tuple[Any, tuple[int, ...]]) -> Any:
    y = empty_like(x, p[0].shape)
    backend_of(x).gather_window(x, p[0], y)
    return y


def _scatter(y: Any, p: tuple[Any, tuple[int, ...]]) -> Any:
    x = empty_like(y, p[1])
    backend_of(y).scatter_window(y, p[0], x)
    return x


_picked = Form("max_pool", x=_scatter, y=_gather)


def max_pool(
    x: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts | None = None,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Maximum over windows of x (N, C, *X), as torch.nn.functional.max_pool1d/2d/3d.

    Returns
    -------
    Tensor (N, C, *Y), or with return_indices also an int64 Tensor of flat positions in the image
        The first maximum wins; NaN counts as the maximum.
    """
    _check_volume("max_pool", x)
    g = window_geometry("max_pool", x.shape, kernel_size, stride, padding, dilation, ceil_mode)
    y, index = max_with_index(x, g)
    return (y, Tensor(index)) if return_indices else y


def max_with_index(x: Tensor, g: WindowGeometry) -> tuple[Tensor, Any]:
    """Window maxima as a Tensor, and the array of their flat positions."""
    backend = backend_of(x.data)
    y = empty_like(x.data, g.y_shape)
    index = backend.empty(g.y_shape, np.int64)
    backend.max_window(x.data, y, index, g.pod)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [_picked.open("x", (index, x.shape), y=ct)]

    return record("max_pool", y, (x,), rule), index
