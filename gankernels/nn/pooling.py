"""Pooling layers; arguments as torch.nn. Each image may come without its batch axis."""

from __future__ import annotations

from typing import Any, ClassVar

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.geometry import IntOrInts, Padding, ints
from gankernels.nn import functional as F
from gankernels.nn.module import Module

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveAvgPool3d",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
]


class _MaxPool(Module):
    """Maximum over windows of x (N, C, *X), as torch.nn.MaxPool{rank}d.

    Parameters
    ----------
    kernel_size : int or {rank} ints
    stride : int or ints, optional
        kernel_size by default.
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
        Cells that never win.
    dilation : int or ints
    return_indices : bool
        Return the int64 flat positions too.
    ceil_mode : bool
    """

    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: Padding = 0,
        dilation: IntOrInts = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = ints(name, "kernel_size", kernel_size, self.rank, 1)
        self.stride = self.kernel_size if stride is None else ints(name, "stride", stride, self.rank, 1)
        self.dilation = ints(name, "dilation", dilation, self.rank, 1)
        self.padding, self.return_indices, self.ceil_mode = padding, return_indices, ceil_mode

    def _run(self, x: Tensor) -> Any:
        return ops.max_pool(
            x, self.kernel_size, self.stride, self.padding, self.dilation, self.ceil_mode, self.return_indices
        )

    def forward(self, input: Tensor) -> Any:
        return F.batched(type(self).__name__, input, self.rank, self._run)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class _AvgPool(Module):
    """Mean over windows of x (N, C, *X), as torch.nn.AvgPool{rank}d.

    Parameters
    ----------
    kernel_size : int or {rank} ints
    stride : int or ints, optional
        kernel_size by default.
    padding : int, ints, (low, high) pairs, "same", "same_lower" or "valid"
        Cells of value zero.
    ceil_mode : bool
    count_include_pad : bool
        Divide by the window's size, not by the cells inside the image.
    divisor_override : int, optional
        Divide by this.
    """

    rank: ClassVar[int]

    def __init__(
        self,
        kernel_size: IntOrInts,
        stride: IntOrInts | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = ints(name, "kernel_size", kernel_size, self.rank, 1)
        self.stride = self.kernel_size if stride is None else ints(name, "stride", stride, self.rank, 1)
        self.padding, self.ceil_mode = padding, ceil_mode
        self.count_include_pad, self.divisor_override = count_include_pad, divisor_override

    def _run(self, x: Tensor) -> Tensor:
        return ops.avg_pool(
            x,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )

    def forward(self, input: Tensor) -> Tensor:
        return F.batched(type(self).__name__, input, self.rank, self._run)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding!r}"


class _AdaptiveAvgPool(Module):
    """Mean over equal blocks so that {rank} spatial extents become output_size, which must divide them.

    Parameters
    ----------
    output_size : int or {rank} ints
        1 averages over the whole image.
    """

    rank: ClassVar[int]

    def __init__(self, output_size: IntOrInts) -> None:
        super().__init__()
        self.output_size = ints(type(self).__name__, "output_size", output_size, self.rank, 1)

    def forward(self, input: Tensor) -> Tensor:
        pool = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[self.rank - 1]
        return pool(input, self.output_size)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}"


class MaxPool1d(_MaxPool):
    rank = 1
    __doc__ = str(_MaxPool.__doc__).format(rank=1)


class MaxPool2d(_MaxPool):
    rank = 2
    __doc__ = str(_MaxPool.__doc__).format(rank=2)


class MaxPool3d(_MaxPool):
    rank = 3
    __doc__ = str(_MaxPool.__doc__).format(rank=3)


class AvgPool1d(_AvgPool):
    rank = 1
    __doc__ = str(_AvgPool.__doc__).format(rank=1)


class AvgPool2d(_AvgPool):
    rank = 2
    __doc__ = str(_AvgPool.__doc__).format(rank=2)


class AvgPool3d(_AvgPool):
    rank = 3
    __doc__ = str(_AvgPool.__doc__).format(rank=3)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    rank = 1
    __doc__ = str(_AdaptiveAvgPool.__doc__).format(rank=1)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    rank = 2
    __doc__ = str(_AdaptiveAvgPool.__doc__).format(rank=2)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    rank = 3
    __doc__ = str(_AdaptiveAvgPool.__doc__).format(rank=3)
