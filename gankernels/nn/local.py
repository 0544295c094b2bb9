"""Locally connected layers: convolutions with a kernel of its own for every output position (CaloGAN, LAGAN)."""

from __future__ import annotations

import math
from math import prod
from typing import Any, ClassVar

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.geometry import IntOrInts, Padding, conv_geometry, ints
from gankernels.nn import init
from gankernels.nn.functional import batched
from gankernels.nn.linear import count, new_parameter
from gankernels.nn.module import Module
from gankernels.nn.parameter import Parameter
from gankernels.ops.random import Generator

__all__ = ["LocallyConnected1d", "LocallyConnected2d", "LocallyConnected3d"]


class _LocallyConnected(Module):
    """Unshared convolution of x (N, C, *input_size), as Keras's LocallyConnected layers.

    Parameters
    ----------
    in_channels, out_channels : int
    input_size : int or {rank} ints
        Spatial extents of the input, which fix the number of weights.
    kernel_size, stride, dilation : int or {rank} ints
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
    groups : int
    bias : bool
    device : str, optional
        "cpu".
    dtype : numpy dtype, optional
        float32 (default) or float64.
    generator : Generator, optional
        Stream of the initial values: uniform within 1/sqrt(fan_in), as PyTorch's convolutions.

    Attributes
    ----------
    weight : Parameter (out_channels, in_channels/groups, *output_size, *kernel_size)
    bias : Parameter (out_channels, *output_size) or None
    output_size : tuple of int
    """

    rank: ClassVar[int]
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        input_size: IntOrInts,
        kernel_size: IntOrInts,
        stride: IntOrInts = 1,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        groups: int = 1,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name, rank = type(self).__name__, self.rank
        self.in_channels = count(name, "in_channels", in_channels)
        self.out_channels = count(name, "out_channels", out_channels)
        self.groups = count(name, "groups", groups)
        self.input_size = ints(name, "input_size", input_size, rank, 1)
        self.kernel_size = ints(name, "kernel_size", kernel_size, rank, 1)
        self.stride = ints(name, "stride", stride, rank, 1)
        self.dilation = ints(name, "dilation", dilation, rank, 1)
        self.padding = padding
        g = conv_geometry(
            name,
            (1, self.in_channels, *self.input_size),
            (self.out_channels, self.in_channels // self.groups, *self.kernel_size),
            self.stride,
            padding,
            self.dilation,
            self.groups,
        )
        self.output_size = g.y
        self.weight = new_parameter(g.local_w_shape, dtype, device)
        self.register_parameter("bias", new_parameter((self.out_channels, *g.y), dtype, device) if bias else None)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw new initial values."""
        bound = 1.0 / math.sqrt(self.in_channels // self.groups * prod(self.kernel_size))
        for p in self.parameters():
            init.uniform_(p, -bound, bound, generator)

    def _run(self, x: Tensor) -> Tensor:
        return ops.local_conv(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def forward(self, input: Tensor) -> Tensor:
        return batched(type(self).__name__, input, self.rank, self._run)

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, input_size={self.input_size}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding!r}, bias={self.bias is not None}"
        )


class LocallyConnected1d(_LocallyConnected):
    rank = 1
    __doc__ = str(_LocallyConnected.__doc__).format(rank=1)


class LocallyConnected2d(_LocallyConnected):
    rank = 2
    __doc__ = str(_LocallyConnected.__doc__).format(rank=2)


class LocallyConnected3d(_LocallyConnected):
    rank = 3
    __doc__ = str(_LocallyConnected.__doc__).format(rank=3)
