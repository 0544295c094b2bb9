"""The functions of torch.nn.functional: the operations of gankernels.ops by dimension, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.geometry import IntOrInts, Padding, ints
from gankernels.nn.loss_functions import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    huber_loss,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from gankernels.nn.torch_names import (
    batch_norm,
    dropout,
    elu,
    embedding,
    gelu,
    group_norm,
    instance_norm,
    layer_norm,
    leaky_relu,
    linear,
    log_softmax,
    logsigmoid,
    normalize,
    pad,
    refuse,
    relu,
    sigmoid,
    softmax,
    softplus,
    tanh,
)

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
    "avg_pool1d",
    "avg_pool2d",
    "avg_pool3d",
    "batch_norm",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "cross_entropy",
    "dropout",
    "elu",
    "embedding",
    "gelu",
    "group_norm",
    "huber_loss",
    "instance_norm",
    "interpolate",
    "l1_loss",
    "layer_norm",
    "leaky_relu",
    "linear",
    "local_conv1d",
    "local_conv2d",
    "local_conv3d",
    "log_softmax",
    "logsigmoid",
    "max_pool1d",
    "max_pool2d",
    "max_pool3d",
    "mse_loss",
    "nll_loss",
    "normalize",
    "pad",
    "relu",
    "sigmoid",
    "smooth_l1_loss",
    "softmax",
    "softplus",
    "tanh",
    "upsample",
]


def batched(op: str, x: Tensor, rank: int, run: Callable[[Tensor], Any]) -> Any:
    """run(x) for x (N, C, *X), or for one image x (C, *X) without its batch axis, as PyTorch's layers accept it."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: the input must be a Tensor, got {type(x).__name__}; gankernels.tensor makes one")
    if x.ndim == rank + 2:
        return run(x)
    if x.ndim != rank + 1:
        raise ValueError(f"{op}: expected an input of {rank + 2} axes (N, C, *X) or {rank + 1} (C, *X), got {x.shape}")
    y = run(x.reshape(1, *x.shape))
    return tuple(t.reshape(t.shape[1:]) for t in y) if isinstance(y, tuple) else y.reshape(y.shape[1:])


def _conv(rank: int) -> Callable[..., Tensor]:
    name = f"conv{rank}d"

    def function(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
    ) -> Tensor:
        return batched(name, input, rank, lambda x: ops.conv(x, weight, bias, stride, padding, dilation, groups))

    return _named(function, name, f"Cross-correlation over {rank} spatial axes; see gankernels.ops.conv.")


def _conv_transpose(rank: int) -> Callable[..., Tensor]:
    name = f"conv_transpose{rank}d"

    def function(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        output_padding: IntOrInts = 0,
        groups: int = 1,
        dilation: IntOrInts = 1,
    ) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return ops.conv_transpose(x, weight, bias, stride, padding, output_padding, groups, dilation)

        return batched(name, input, rank, run)

    return _named(function, name, f"Transposed convolution over {rank} axes; see gankernels.ops.conv_transpose.")


def _local_conv(rank: int) -> Callable[..., Tensor]:
    name = f"local_conv{rank}d"

    def function(
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
    ) -> Tensor:
        return batched(name, input, rank, lambda x: ops.local_conv(x, weight, bias, stride, padding, dilation, groups))

    return _named(function, name, f"Convolution over {rank} axes with unshared weights; see gankernels.ops.local_conv.")


def _max_pool(rank: int) -> Callable[..., Any]:
    name = f"max_pool{rank}d"

    def function(
        input: Tensor,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        def run(x: Tensor) -> Any:
            return ops.max_pool(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

        return batched(name, input, rank, run)

    return _named(function, name, f"Maximum over windows of {rank} axes; see gankernels.ops.max_pool.")


def _avg_pool(rank: int) -> Callable[..., Tensor]:
    name = f"avg_pool{rank}d"

    def function(
        input: Tensor,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Tensor:
        def run(x: Tensor) -> Tensor:
            return ops.avg_pool(x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)

        return batched(name, input, rank, run)

    return _named(function, name, f"Mean over windows of {rank} axes; see gankernels.ops.avg_pool.")


def _adaptive_avg_pool(rank: int) -> Callable[..., Tensor]:
    name = f"adaptive_avg_pool{rank}d"

    def function(input: Tensor, output_size: IntOrInts) -> Tensor:
        size = ints(name, "output_size", output_size, rank, 1)

        def run(x: Tensor) -> Tensor:
            if any(n % s for n, s in zip(x.shape[2:], size, strict=True)):
                raise ValueError(f"{name}: output_size {size} must divide the extents {x.shape[2:]}")
            return ops.avg_pool(x, tuple(n // s for n, s in zip(x.shape[2:], size, strict=True)))

        return batched(name, input, rank, run)

    return _named(function, name, "Mean over equal blocks; output_size must divide the input's extents.")


def _named(function: Callable[..., Any], name: str, doc: str) -> Callable[..., Any]:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = doc
    return function


conv1d, conv2d, conv3d = _conv(1), _conv(2), _conv(3)
conv_transpose1d, conv_transpose2d, conv_transpose3d = _conv_transpose(1), _conv_transpose(2), _conv_transpose(3)
local_conv1d, local_conv2d, local_conv3d = _local_conv(1), _local_conv(2), _local_conv(3)
max_pool1d, max_pool2d, max_pool3d = _max_pool(1), _max_pool(2), _max_pool(3)
avg_pool1d, avg_pool2d, avg_pool3d = _avg_pool(1), _avg_pool(2), _avg_pool(3)
adaptive_avg_pool1d, adaptive_avg_pool2d = _adaptive_avg_pool(1), _adaptive_avg_pool(2)
adaptive_avg_pool3d = _adaptive_avg_pool(3)


def interpolate(
    input: Tensor,
    size: IntOrInts | None = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Repeat the cells of input (N, C, *X), as torch.nn.functional.interpolate(mode="nearest").

    Parameters
    ----------
    size : int or ints, optional
        Output extents: multiples of the input's.
    scale_factor : int or ints, optional
        Whole numbers (2.0 counts as one). Give exactly one of size and scale_factor.
    mode : str
        "nearest".
    align_corners, antialias : None, False
        For PyTorch's other modes.
    recompute_scale_factor : bool, optional
        Changes nothing: the factors are whole.

    Raises
    ------
    ValueError
        If the mode is another one, or a factor is not a whole number of at least 1.
    """
    refuse("interpolate", align_corners=(align_corners, None), antialias=(antialias, False))
    if mode != "nearest":
        raise ValueError(f"interpolate: mode {mode!r} is not supported; expected 'nearest'")
    if (size is None) == (scale_factor is None):
        raise ValueError(f"interpolate: give one of size and scale_factor, got {size!r} and {scale_factor!r}")
    return ops.upsample_nearest(input, upsample_factors("interpolate", input, size, scale_factor))


upsample = interpolate


def upsample_factors(op: str, input: Tensor, size: IntOrInts | None, scale_factor: Any) -> tuple[int, ...]:
    """How often each cell of input (N, C, *X) is repeated on every axis, by whichever of the two is given."""
    rank = input.ndim - 2
    if scale_factor is not None:
        return whole_factors(op, scale_factor, rank)
    target = ints(op, "size", size, rank, 1)
    if any(n == 0 or s % n for s, n in zip(target, input.shape[2:], strict=True)):
        raise ValueError(
            f"{op}: size {target} must be a multiple of the input's extents {input.shape[2:]} on every axis"
        )
    return tuple(s // n for s, n in zip(target, input.shape[2:], strict=True))


def whole_factors(op: str, scale_factor: Any, rank: int | None) -> tuple[int, ...]:
    """scale_factor as whole numbers, `rank` of them if it is given."""
    several = isinstance(scale_factor, (tuple, list))
    values = list(scale_factor) if several else [scale_factor]
    for v in values:
        if isinstance(v, bool) or not isinstance(v, (int, float)) or v != int(v) or v < 1:
            raise ValueError(f"{op}: scale_factor must be whole and at least 1 on every axis, got {scale_factor!r}")
    factors = tuple(int(v) for v in values)
    return factors if rank is None else ints(op, "scale_factor", factors if several else factors[0], rank, 1)
