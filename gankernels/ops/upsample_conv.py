"""Nearest upsampling and the convolution after it as one trilinear form <y, conv(upsample_nearest(x, factors), w)>.

Taps that read one cell of the small image are summed beforehand (csrc/cpu/upsample_conv.cpp), so no slot needs the
large image: K*f multiply-adds of an axis become K + f - 1, in all three passes, exactly up to rounding.
"""

from __future__ import annotations

from typing import Any

from gankernels.autograd import Form, Tensor
from gankernels.backends import backend_of
from gankernels.geometry import IntOrInts, Padding, UpsampleConvGeometry, upsample_conv_geometry
from gankernels.ops.common import empty_like, product_operands
from gankernels.ops.conv import algorithm_code, check_bias, conv, rounds
from gankernels.ops.epilogue import Epilogue, Finish, call, opened
from gankernels.ops.window import upsample_nearest

__all__ = ["unfused_upsample_conv", "upsample_conv"]


def _open_y(x: Any, w: Any, g: UpsampleConvGeometry, finish: Finish | None = None) -> Any:
    y = empty_like(x, g.y_shape)
    call("upsample_conv", x, w, y, g.pod, algorithm_code(), finish=finish)
    return y


def _open_x(w: Any, y: Any, g: UpsampleConvGeometry) -> Any:
    x = empty_like(y, g.x_shape)
    backend_of(y).upsample_conv_transpose(y, w, x, g.pod, algorithm_code())
    return x


def _open_w(x: Any, y: Any, g: UpsampleConvGeometry) -> Any:
    w = empty_like(x, g.w_shape)
    backend_of(x).upsample_conv_weight(x, y, w, g.pod, algorithm_code())
    return w


_upsample_conv = Form("upsample_conv", x=_open_x, w=_open_w, y=_open_y)


def upsample_conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    factors: IntOrInts = 2,
    padding: Padding = 0,
    groups: int = 1,
    *,
    after: Epilogue | None = None,
) -> Tensor:
    """conv(upsample_nearest(x, factors), w, bias, padding=padding, groups=groups) without the large image.

    Equal to the composition `unfused_upsample_conv` up to rounding, derivatives too: taps that read the same cell of x
    are added before they are multiplied.

    Parameters
    ----------
    x : Tensor (N, C, *X)
        The small image, 1 to 3 spatial axes.
    w : Tensor (O, C/groups, *K)
    bias : Tensor (O,), optional
    factors : int or ints
        How often every cell is repeated along each axis.
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
        Of the large image, as in conv.
    groups : int
    after : Epilogue, optional
        Activation and dropout of the result, in the same pass.

    Returns
    -------
    Tensor (N, O, *Y), Y = X*factors + low + high - K + 1

    Raises
    ------
    TypeError
        If the dtypes are not one of float32 and float64.
    ValueError
        If the shapes do not fit.

    Examples
    --------
    >>> import gankernels as gk
    >>> gk.ops.upsample_conv(gk.ones(1, 2, 3, 3), gk.ones(4, 2, 3, 3), factors=2, padding=1).shape
    (1, 4, 6, 6)
    """
    x, w, bias = product_operands("upsample_conv", bias, rounds(), x=x, w=w)
    g = upsample_conv_geometry("upsample_conv", x.shape, w.shape, factors, padding, groups)
    check_bias("upsample_conv", bias, g.conv.out_channels)
    return opened(_upsample_conv, "y", g, bias, after, x=x, w=w)


def unfused_upsample_conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    factors: IntOrInts = 2,
    padding: Padding = 0,
    groups: int = 1,
) -> Tensor:
    """The composition that upsample_conv fuses."""
    return conv(upsample_nearest(x, factors), w, bias, padding=padding, groups=groups)
