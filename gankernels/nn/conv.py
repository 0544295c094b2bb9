"""Convolution layers. Weights (O, C/groups, *K), transposed (I, O/groups, *K), as torch.nn."""

from __future__ import annotations

import math
from math import prod
from typing import Any, ClassVar

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.geometry import IntOrInts, Padding, ints, padding_pairs
from gankernels.nn import init
from gankernels.nn.functional import batched
from gankernels.nn.linear import count, new_parameter
from gankernels.nn.module import Module
from gankernels.nn.parameter import Parameter
from gankernels.ops.epilogue import Epilogue
from gankernels.ops.random import Generator

__all__ = ["Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"]


class _ConvNd(Module):
    rank: ClassVar[int]
    weight: Parameter
    bias: Parameter | None
    hidden = False  # in training, its outputs are seen by the next layers only: see ops.hidden_values

    def _build(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts,
        padding: Padding,
        dilation: IntOrInts,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: str | None,
        dtype: Any,
        generator: Generator | None,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        name, rank = type(self).__name__, self.rank
        self.in_channels = count(name, "in_channels", in_channels)
        self.out_channels = count(name, "out_channels", out_channels)
        self.groups = count(name, "groups", groups)
        if self.in_channels % groups or self.out_channels % groups:
            raise ValueError(
                f"{name}: groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_mode != "zeros":
            raise ValueError(f"{name}: padding_mode {padding_mode!r} is not supported; expected 'zeros'")
        self.kernel_size = ints(name, "kernel_size", kernel_size, rank, 1)
        self.stride = ints(name, "stride", stride, rank, 1)
        self.dilation = ints(name, "dilation", dilation, rank, 1)
        padding_pairs(name, padding, self.kernel_size, self.kernel_size, self.stride, self.dilation)  # checks it
        self.padding = padding
        first, second = (self.in_channels, self.out_channels) if transposed else (self.out_channels, self.in_channels)
        self.weight = new_parameter((first, second // groups, *self.kernel_size), dtype, device)
        self.register_parameter("bias", new_parameter((self.out_channels,), dtype, device) if bias else None)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw new initial values: uniform within 1/sqrt(fan_in), PyTorch's default."""
        bound = 1.0 / math.sqrt(prod(self.weight.shape[1:]))
        for p in self.parameters():
            init.uniform_(p, -bound, bound, generator)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}", f"kernel_size={self.kernel_size}", f"stride={self.stride}"]
        if self.padding != 0:
            parts.append(f"padding={self.padding!r}")
        if self.dilation != (1,) * self.rank:
            parts.append(f"dilation={self.dilation}")
        if self.groups != 1:
            parts.append(f"groups={self.groups}")
        if self.bias is None:
            parts.append("bias=False")
        return ", ".join(parts)


class _Conv(_ConvNd):
    """Cross-correlation of x (N, C, *X), as torch.nn.Conv{rank}d.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or {rank} ints
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
    groups : int
    bias : bool
    padding_mode : str
        "zeros".
    device : str, optional
        "cpu".
    dtype : numpy dtype, optional
        float32 (default) or float64.
    generator : Generator, optional
        Stream of the initial values.

    Attributes
    ----------
    weight : Parameter (out_channels, in_channels/groups, *kernel_size)
    bias : Parameter (out_channels,) or None
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        self._build(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                    device, dtype, generator)  # fmt: skip

    def _run(self, x: Tensor, after: Epilogue | None = None) -> Tensor:
        return ops.conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups, after=after)

    def forward(self, input: Tensor) -> Tensor:
        with ops.hidden_values(self.hidden and self.training):
            return batched(type(self).__name__, input, self.rank, self._run)


class _ConvTranspose(_ConvNd):
    """The adjoint of a convolution, as torch.nn.ConvTranspose{rank}d.

    Parameters
    ----------
    in_channels, out_channels : int
    kernel_size, stride, dilation : int or {rank} ints
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
        What the convolution it is the adjoint of adds; "same" gives outputs of stride times the input.
    output_padding : int or ints
        Cells added at the high end of the output.
    groups : int
    bias : bool
    padding_mode : str
        "zeros".
    device : str, optional
        "cpu".
    dtype : numpy dtype, optional
        float32 (default) or float64.
    generator : Generator, optional
        Stream of the initial values.

    Attributes
    ----------
    weight : Parameter (in_channels, out_channels/groups, *kernel_size)
    bias : Parameter (out_channels,) or None
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        output_padding: IntOrInts = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: IntOrInts = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        self._build(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode,
                    device, dtype, generator, transposed=True)  # fmt: skip
        self.output_padding = ints(type(self).__name__, "output_padding", output_padding, self.rank)

    def _run(self, x: Tensor, after: Epilogue | None = None) -> Tensor:
        return ops.conv_transpose(x, self.weight, self.bias, self.stride, self.padding, self.output_padding,
                                  self.groups, self.dilation, after=after)  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        with ops.hidden_values(self.hidden and self.training):
            return batched(type(self).__name__, input, self.rank, self._run)

    def extra_repr(self) -> str:
        extra = "" if self.output_padding == (0,) * self.rank else f", output_padding={self.output_padding}"
        return super().extra_repr() + extra


class Conv1d(_Conv):
    rank = 1
    __doc__ = str(_Conv.__doc__).format(rank=1)


class Conv2d(_Conv):
    rank = 2
    __doc__ = str(_Conv.__doc__).format(rank=2)


class Conv3d(_Conv):
    rank = 3
    __doc__ = str(_Conv.__doc__).format(rank=3)


class ConvTranspose1d(_ConvTranspose):
    rank = 1
    __doc__ = str(_ConvTranspose.__doc__).format(rank=1)


class ConvTranspose2d(_ConvTranspose):
    rank = 2
    __doc__ = str(_ConvTranspose.__doc__).format(rank=2)


class ConvTranspose3d(_ConvTranspose):
    rank = 3
    __doc__ = str(_ConvTranspose.__doc__).format(rank=3)
