"""Normalisation layers: batch (Ioffe and Szegedy, 2015), layer, instance and group; arguments as torch.nn.

`momentum` is the weight of the new statistics, as in PyTorch: Keras's momentum 0.99 is 0.01 here. Keras's eps is 1e-3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.nn import init
from gankernels.nn.functional import batched
from gankernels.nn.linear import count, new_parameter
from gankernels.nn.module import Module
from gankernels.nn.parameter import Parameter
from gankernels.ops import update
from gankernels.ops.epilogue import Epilogue

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "GroupNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
    "LayerNorm",
]


class _Affine(Module):
    """weight (ones) and bias (zeros) of one shape, or neither."""

    weight: Parameter | None
    bias: Parameter | None

    def _affine(self, shape: tuple[int, ...], weight: bool, bias: bool, device: str | None, dtype: Any) -> None:
        self.register_parameter("weight", new_parameter(shape, dtype, device) if weight else None)
        self.register_parameter("bias", new_parameter(shape, dtype, device) if bias else None)
        if self.weight is not None:
            init.ones_(self.weight)


class _BatchNorm(_Affine):
    """Normalise every channel over the batch and the positions, as torch.nn.BatchNorm{rank}d.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float or None
        Weight of the new statistics; None gives the plain average of all batches so far.
    affine : bool
    bias : bool
        Without it an affine layer only scales.
    track_running_stats : bool
        Without them the batch's statistics are used in evaluation too.

    Attributes
    ----------
    weight, bias : Parameter (num_features,) or None
    running_mean, running_var : Tensor (num_features,) or None
    num_batches_tracked : int64 Tensor () or None
    """

    ranks: ClassVar[tuple[int, ...]]
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_features = count(type(self).__name__, "num_features", num_features)
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.track_running_stats = track_running_stats
        self._affine((num_features,), affine, affine and bias, device, dtype)
        dtype = np.dtype(np.float32 if dtype is None else dtype)
        track = track_running_stats
        self.register_buffer("running_mean", ops.zeros(num_features, dtype=dtype, device=device) if track else None)
        self.register_buffer("running_var", ops.ones(num_features, dtype=dtype, device=device) if track else None)
        self.register_buffer("num_batches_tracked", ops.zeros((), dtype=np.int64, device=device) if track else None)

    def forward(self, input: Tensor) -> Tensor:
        return self._run(input)

    @property
    def _uses_batch(self) -> bool:
        """Are values normalised by the statistics of their batch?"""
        return self.training or self.running_mean is None

    def _run(self, input: Tensor, after: Epilogue | None = None, moments: list[Any] | None = None) -> Tensor:
        if input.ndim not in self.ranks or input.shape[1] != self.num_features:
            axes = " or ".join(map(str, self.ranks))
            raise ValueError(
                f"{type(self).__name__}: expected an input of {axes} axes with {self.num_features} channels, "
                f"got shape {input.shape}"
            )
        momentum = self.momentum
        if self.training and self.num_batches_tracked is not None:
            update.add_(self.num_batches_tracked, 1)
            if momentum is None:
                momentum = 1.0 / self.num_batches_tracked.item()
        return ops.batch_norm(
            input,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self._uses_batch,
            0.0 if momentum is None else momentum,
            self.eps,
            after=after,
            moments=moments,
        )

    def reset_running_stats(self) -> None:
        """Forget the statistics: mean 0, variance 1, no batches."""
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            update.fill_(self.num_batches_tracked, 0)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(_BatchNorm):
    ranks = (2, 3)
    __doc__ = str(_BatchNorm.__doc__).format(rank=1)


class BatchNorm2d(_BatchNorm):
    ranks = (4,)
    __doc__ = str(_BatchNorm.__doc__).format(rank=2)


class BatchNorm3d(_BatchNorm):
    ranks = (5,)
    __doc__ = str(_BatchNorm.__doc__).format(rank=3)


class LayerNorm(_Affine):
    """Normalise over the last axes `normalized_shape`, as torch.nn.LayerNorm."""

    def __init__(
        self,
        normalized_shape: int | Sequence[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        self._affine(shape, elementwise_affine, elementwise_affine and bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return ops.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(_Affine):
    """Normalise every group of channels of every image, as torch.nn.GroupNorm."""

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.num_groups = count("GroupNorm", "num_groups", num_groups)
        self.num_channels = count("GroupNorm", "num_channels", num_channels)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: num_groups={num_groups} must divide num_channels={num_channels}")
        self.eps, self.affine = eps, affine
        self._affine((num_channels,), affine, affine and bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        return ops.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class _InstanceNorm(_Affine):
    """Normalise every channel of every image over its positions, as torch.nn.InstanceNorm{rank}d.

    Parameters
    ----------
    num_features : int
        Channels.
    eps : float
    momentum : float
        Accepted for PyTorch's argument order; there are no running statistics to weigh.
    affine : bool
    bias : bool
        Without it an affine layer only scales.
    track_running_stats : bool
        Only False: an instance's statistics are its own.
    """

    rank: ClassVar[int]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if track_running_stats:
            raise ValueError(f"{type(self).__name__}: track_running_stats=True is not supported")
        self.num_features = count(type(self).__name__, "num_features", num_features)
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.track_running_stats = track_running_stats
        self._affine((num_features,), affine, affine and bias, device, dtype)

    def _run(self, x: Tensor) -> Tensor:
        return ops.instance_norm(x, self.weight, self.bias, self.eps)

    def forward(self, input: Tensor) -> Tensor:
        return batched(type(self).__name__, input, self.rank, self._run)

    def extra_repr(self) -> str:
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"


class InstanceNorm1d(_InstanceNorm):
    rank = 1
    __doc__ = str(_InstanceNorm.__doc__).format(rank=1)


class InstanceNorm2d(_InstanceNorm):
    rank = 2
    __doc__ = str(_InstanceNorm.__doc__).format(rank=2)


class InstanceNorm3d(_InstanceNorm):
    rank = 3
    __doc__ = str(_InstanceNorm.__doc__).format(rank=3)
