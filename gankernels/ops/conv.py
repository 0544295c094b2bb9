"""Convolution: one trilinear form <y, conv(x, w)> with three open slots, shared and unshared weights, and its columns.

conv opens y, conv_transpose opens x, conv_weight opens w; the derivative of each, at every order, is another of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import prod
from typing import Any

from gankernels.autograd import Form, Tensor, compute_dtype, is_differentiating
from gankernels.backends import backend_of
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, IntOrInts, Padding, conv_geometry, conv_transpose_geometry, ints, is_int
from gankernels.ops.common import cast, check_float, check_shape, empty_like, product_operands
from gankernels.ops.conv_plan import log_plan
from gankernels.ops.epilogue import Epilogue, Finish, call, opened

__all__ = [
    "col2im",
    "conv",
    "conv_algorithm",
    "conv_transpose",
    "conv_weight",
    "hidden_values",
    "im2col",
    "local_conv",
    "set_conv_algorithm",
    "using_conv_algorithm",
]

_algorithm = "auto"
_UNSEEN = {"auto": "fast", "measured": "measured_fast", "bf16_auto": "bf16_fast"}
_ROUNDED = {"auto": "bf16_auto", "fast": "bf16_fast", "measured": "bf16_auto", "measured_fast": "bf16_fast"}
_state = threading.local()


def set_conv_algorithm(name: str) -> None:
    """Choose how convolutions are computed from now on.

    Parameters
    ----------
    name : str
        "auto": "direct" for values; for gradients (whatever a backward pass computes) and for `hidden_values` "fast".
        "direct": every cell is its sum of products: "batch", "rows" or "channels", whichever is predicted to be
        faster (`conv_plan` says which and why), or columns where there are few cells and many weights.
        "batch": images, or pieces of few images, in the vector lanes.
        "rows": neighbouring cells of one image in the vector lanes, for few images and short sums; what has a
        stride along its rows, and gradients of weights, take another path of "direct".
        "channels": output channels in the vector lanes, for wide layers and small batches.
        "im2col": explicit columns and a matrix product, the plain reference.
        "fft": products of spectra, channels of images in the vector lanes.
        "fast": as "direct", and "fft" where that is predicted to be faster still.
        "measured": as "direct", by the clock: the first call for a geometry tries every path, the process remembers the
        fastest. So two runs can differ in the last bits. Gradients and `hidden_values` take "measured_fast".
        "measured_fast": the same with "fft" among the paths.
        "bf16": "channels" with float32 factors rounded to 8 bits, summed in float32: errors near 8e-3 of the products.
        Where the processor has no such products, "bf16_auto".
        "bf16_auto": "bf16" or the paths of "direct" on rounded factors, whichever is predicted to be faster; what
        "auto" and "measured" are within `autocast("bfloat16")`. Gradients and `hidden_values` take "bf16_fast".
        "bf16_fast": the same, and plain float32 "fft" where that is predicted to be faster still.
        "tf32": on a GPU, factors rounded to 11 bits (errors near 1e-3) on tensor cores; the CPU computes "auto".

    On a GPU "auto", "fast", "measured", "fft", "direct", "batch", "rows" and "channels" are plain float32 arithmetic,
    and every "bf16" runs on tensor cores.

    Notes
    -----
    "direct", "batch", "rows", "channels" and "im2col" have an error relative to the products summed in each cell. "fft"
    has an absolute floor: about 3e-7 (float32) of the largest output of the same image, in every cell of that image
    (`testing.bounds.fft_conv_bound`). So cells that lie six decades below the maximum are noise, and zeros inside an
    image become noise of that size; images that are all zeros stay zeros, and images do not disturb each other. A NaN
    or an infinity makes all outputs of its image NaN, in the weights all outputs of the channels that they reach, and
    in a weights gradient all weights of the channel.

    "fft" covers every stride, every extent (large volumes piece by piece, so that spectra stay below 512 MiB) and
    kernels up to a few hundred cells long; what is dilated is computed by "direct".
    """
    global _algorithm
    if name not in CONV_ALGORITHMS:
        raise ValueError(f"set_conv_algorithm: expected one of {', '.join(CONV_ALGORITHMS)}, got {name!r}")
    _algorithm = name


def conv_algorithm() -> str:
    """The name given to set_conv_algorithm."""
    return _algorithm


@contextmanager
def using_conv_algorithm(name: str) -> Iterator[None]:
    """set_conv_algorithm for a block; the one before is used again after it."""
    before = conv_algorithm()
    set_conv_algorithm(name)
    try:
        yield
    finally:
        set_conv_algorithm(before)


@contextmanager
def hidden_values(on: bool = True) -> Iterator[None]:
    """What convolutions give in this thread until the block ends is seen by the next layer only, or not.

    Then "auto" may take FFT for it: its noise, an absolute floor near 3e-7 of the largest value, is below what training
    notices, while the cells of an image that leaves the network must be zero where they should be.
    """
    before = getattr(_state, "hidden", False)
    _state.hidden = on
    try:
        yield
    finally:
        _state.hidden = before


def algorithm_code() -> int:
    """The algorithm by number: what "auto" and "measured" are for gradients and hidden values, and within autocast."""
    unseen = is_differentiating() or getattr(_state, "hidden", False)
    name = _UNSEEN.get(_algorithm, _algorithm) if unseen else _algorithm
    return CONV_ALGORITHMS[_ROUNDED.get(name, name) if compute_dtype() == "bfloat16" else name]


def rounds() -> bool:
    """Whether convolutions may round what they multiply to bfloat16: no algorithm was named that does not."""
    return _algorithm in _ROUNDED or _algorithm.startswith("bf16")


def _open_y(x: Any, w: Any, g: ConvGeometry, finish: Finish | None = None) -> Any:
    y = empty_like(x, g.y_shape)
    algorithm = algorithm_code()
    log_plan(g, "y", algorithm, y)
    call("conv", x, w, y, g.pod, algorithm, finish=finish)
    return y


def _open_x(w: Any, y: Any, g: ConvGeometry, finish: Finish | None = None) -> Any:
    x = empty_like(y, g.x_shape)
    algorithm = algorithm_code()
    log_plan(g, "x", algorithm, x)
    call("conv_transpose", y, w, x, g.pod, algorithm, finish=finish)
    return x


def _open_w(x: Any, y: Any, g: ConvGeometry) -> Any:
    w = empty_like(x, g.w_shape)
    algorithm = algorithm_code()
    log_plan(g, "w", algorithm, w)
    backend_of(x).conv_weight(x, y, w, g.pod, algorithm)
    return w


_conv = Form("conv", x=_open_x, w=_open_w, y=_open_y)


@_conv.together("x", "w")
def _open_x_and_w(x: Any, w: Any, y: Any, g: ConvGeometry) -> tuple[Any, Any] | None:
    """Where both go through the spectra of y, they are computed once."""
    backend, algorithm = backend_of(y), algorithm_code()
    share = getattr(backend, "conv_gradients_share", None)
    if share is None or not share(g.pod, algorithm, y.dtype):
        return None
    gx, gw = empty_like(y, g.x_shape), empty_like(y, g.w_shape)
    for slot in ("x", "w"):
        log_plan(g, slot, algorithm, y)
    backend.conv_gradients(x, w, y, gx, gw, g.pod, algorithm)
    return gx, gw


def _flat_local(w: Any, g: ConvGeometry) -> Any:
    """w (O, C/g, *Y, *K) as (O, C/g, P, K): a view when w is contiguous."""
    return backend_of(w).contiguous(w).reshape(*w.shape[:2], prod(g.y), prod(g.kernel))


def _local_y(x: Any, w: Any, g: ConvGeometry) -> Any:
    y = empty_like(x, g.y_shape)
    backend_of(x).local_conv(x, _flat_local(w, g), y, g.pod)
    return y


def _local_x(w: Any, y: Any, g: ConvGeometry) -> Any:
    x = empty_like(y, g.x_shape)
    backend_of(y).local_conv_transpose(y, _flat_local(w, g), x, g.pod)
    return x


def _local_w(x: Any, y: Any, g: ConvGeometry) -> Any:
    w = empty_like(x, g.local_w_shape)
    backend_of(x).local_conv_weight(x, y, _flat_local(w, g), g.pod)
    return w


_local = Form("local_conv", x=_local_x, w=_local_w, y=_local_y)


def check_bias(op: str, bias: Tensor | None, channels: int) -> None:
    if bias is not None and bias.shape != (channels,):
        raise ValueError(f"{op}: bias has shape {bias.shape}, expected ({channels},)")


def conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    after: Epilogue | None = None,
) -> Tensor:
    """Cross-correlation in 1, 2 or 3 dimensions, as torch.nn.functional.conv1d/2d/3d.

    Parameters
    ----------
    x : Tensor (N, C, *X)
    w : Tensor (O, C/groups, *K)
    bias : Tensor (O,), optional
    stride, dilation : int or ints
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
        See gankernels.geometry.padding_pairs.
    groups : int
    after : Epilogue, optional
        Activation and dropout of the result, in the same pass.

    Returns
    -------
    Tensor (N, O, *Y), Y = floor((X + low + high - dilation*(K - 1) - 1)/stride) + 1

    Raises
    ------
    TypeError
        If the dtypes are not one of float32 and float64.
    ValueError
        If the shapes do not fit.
    """
    x, w, bias = product_operands("conv", bias, rounds(), x=x, w=w)
    g = conv_geometry("conv", x.shape, w.shape, stride, padding, dilation, groups)
    check_bias("conv", bias, g.out_channels)
    return opened(_conv, "y", g, bias, after, x=x, w=w)


def conv_transpose(
    y: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    output_padding: IntOrInts = 0,
    groups: int = 1,
    dilation: IntOrInts = 1,
    *,
    after: Epilogue | None = None,
) -> Tensor:
    """The adjoint of conv in x, as torch.nn.functional.conv_transpose1d/2d/3d (argument order too).

    Parameters
    ----------
    y : Tensor (N, O, *Y)
        The input.
    w : Tensor (O, C/groups, *K)
    bias : Tensor (C,), optional
    after : Epilogue, optional
        Activation and dropout of the result, in the same pass.

    Returns
    -------
    Tensor (N, C, *X), X = (Y - 1)*stride - low - high + dilation*(K - 1) + output_padding + 1
    """
    y, w, bias = product_operands("conv_transpose", bias, rounds(), input=y, w=w)
    g = conv_transpose_geometry("conv_transpose", y.shape, w.shape, stride, padding, output_padding, dilation, groups)
    check_bias("conv_transpose", bias, g.in_channels)
    return opened(_conv, "x", g, bias, after, w=w, y=y)


def _spatial_rank(op: str, name: str, x: Tensor) -> int:
    if not 3 <= x.ndim <= 5:
        raise ValueError(f"{op}: expected {name} (N, C, *X) with 1 to 3 spatial axes, got shape {x.shape}")
    return x.ndim - 2


def conv_weight(
    x: Tensor,
    y: Tensor,
    kernel_size: IntOrInts,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """The adjoint of conv in w: the gradient of <y, conv(x, w)> with respect to w (O, C/groups, *K).

    Parameters
    ----------
    x : Tensor (N, C, *X)
    y : Tensor (N, O, *Y)
    """
    x, y, _ = product_operands("conv_weight", None, rounds(), x=x, y=y)
    rank = _spatial_rank("conv_weight", "x", x)
    kernel = ints("conv_weight", "kernel_size", kernel_size, rank, 1)
    if y.ndim != x.ndim or not is_int(groups) or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"conv_weight: x {x.shape} and y {y.shape} do not fit with groups={groups}")
    g = conv_geometry(
        "conv_weight", x.shape, (y.shape[1], x.shape[1] // groups, *kernel), stride, padding, dilation, groups
    )
    if g.y_shape != y.shape:
        raise ValueError(f"conv_weight: y has shape {y.shape}, this geometry gives {g.y_shape}")
    return _conv.open("w", g, x=x, y=y)


def local_conv(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None = None,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution with unshared weights: a kernel of its own for every output position (locally connected layer).

    Parameters
    ----------
    x : Tensor (N, C, *X)
    w : Tensor (O, C/groups, *Y, *K)
    bias : Tensor (O, *Y), optional
        One number per channel and position, as Keras's LocallyConnected layers.
    """
    x, w, bias = product_operands("local_conv", bias, x=x, w=w)
    rank = x.ndim - 2
    if rank not in (1, 2, 3) or w.ndim != 2 + 2 * rank:
        raise ValueError(
            f"local_conv: x has shape {x.shape}, so w must have {2 + 2 * rank} axes (O, C/groups, *Y, *K), "
            f"got {w.shape}"
        )
    shared_shape = (*w.shape[:2], *w.shape[2 + rank :])
    g = conv_geometry("local_conv", x.shape, shared_shape, stride, padding, dilation, groups)
    if g.local_w_shape != w.shape:
        raise ValueError(f"local_conv: w has shape {w.shape}, expected (O, C/groups, *Y, *K) = {g.local_w_shape}")
    if bias is not None and bias.shape != (g.out_channels, *g.y):
        raise ValueError(f"local_conv: bias has shape {bias.shape}, expected {(g.out_channels, *g.y)}")
    out = _local.open("y", g, x=x, w=w)
    return out if bias is None else out + cast(bias, out.dtype).reshape(1, *bias.shape)


def _columns(x: Any, g: ConvGeometry) -> Any:
    cols = empty_like(x, g.columns_shape)
    backend_of(x).im2col(x, cols, g.pod)
    return cols


def _images(cols: Any, g: ConvGeometry) -> Any:
    x = empty_like(cols, g.x_shape)
    backend_of(cols).col2im(cols, x, g.pod)
    return x


_im2col = Form("im2col", x=_images, cols=_columns)


def _column_geometry(
    op: str, x_shape: Sequence[int], kernel_size: IntOrInts, stride: Any, padding: Any, dilation: Any
) -> ConvGeometry:
    kernel = ints(op, "kernel_size", kernel_size, len(x_shape) - 2, 1)
    one_channel = conv_geometry(op, (x_shape[0], 1, *x_shape[2:]), (1, 1, *kernel), stride, padding, dilation)
    g = replace(one_channel, in_channels=x_shape[1])
    check_shape(op, g.columns_shape)
    return g


def im2col(
    x: Tensor, kernel_size: IntOrInts, stride: IntOrInts = 1, padding: Padding = 0, dilation: IntOrInts = 1
) -> Tensor:
    """The patches of x (N, C, *X) as columns (N, C*prod(K), P), as torch.nn.functional.unfold, in 1 to 3 dimensions."""
    check_float("im2col", x=x)
    _spatial_rank("im2col", "x", x)
    return _im2col.open("cols", _column_geometry("im2col", x.shape, kernel_size, stride, padding, dilation), x=x)


def col2im(
    cols: Tensor,
    output_size: Sequence[int],
    kernel_size: IntOrInts,
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
) -> Tensor:
    """The adjoint of im2col: overlapping patches are summed into (N, C, *output_size), as torch.nn.functional.fold."""
    check_float("col2im", cols=cols)
    if not isinstance(output_size, (tuple, list)) or not 1 <= len(output_size) <= 3:
        raise TypeError(f"col2im: output_size must be 1 to 3 ints, got {output_size!r}")
    output_size = ints("col2im", "output_size", output_size, len(output_size))
    kernel = ints("col2im", "kernel_size", kernel_size, len(output_size), 1)
    if cols.ndim != 3 or cols.shape[1] % prod(kernel):
        raise ValueError(f"col2im: cols must be (N, C*{prod(kernel)}, P) for kernel {kernel}, got shape {cols.shape}")
    shape = (cols.shape[0], cols.shape[1] // prod(kernel), *output_size)
    g = _column_geometry("col2im", shape, kernel, stride, padding, dilation)
    if g.columns_shape != cols.shape:
        raise ValueError(
            f"col2im: cols have shape {cols.shape}, output_size {tuple(output_size)} needs {g.columns_shape}"
        )
    return _im2col.open("x", g, cols=cols)
