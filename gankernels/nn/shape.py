"""Layers that change the shape: Flatten, Unflatten, Reshape, Upsample, zero padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.geometry import IntOrInts, padding_pairs
from gankernels.nn.functional import interpolate, whole_factors
from gankernels.nn.module import Module
from gankernels.nn.torch_names import refuse

__all__ = ["Flatten", "Reshape", "Unflatten", "Upsample", "ZeroPad1d", "ZeroPad2d", "ZeroPad3d"]


class Flatten(Module):
    """Merge the axes start_dim to end_dim; by default all but the batch axis."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return ops.flatten(input, self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split axis `dim` into the extents `unflattened_size`; one of them may be -1."""

    def __init__(self, dim: int, unflattened_size: Sequence[int]) -> None:
        super().__init__()
        self.dim, self.unflattened_size = dim, tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        dim = self.dim + input.ndim if self.dim < 0 else self.dim
        return input.reshape(*input.shape[:dim], *self.unflattened_size, *input.shape[dim + 1 :])

    def extra_repr(self) -> str:
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"


class Reshape(Module):
    """Give every image of the batch the extents `shape` (the batch axis is kept), as Keras's Reshape."""

    def __init__(self, *shape: Any) -> None:
        super().__init__()
        self.shape = tuple(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)

    def forward(self, input: Tensor) -> Tensor:
        return input.reshape(input.shape[0], *self.shape)

    def extra_repr(self) -> str:
        return ", ".join(map(str, self.shape))


class Upsample(Module):
    """Repeat cells, as torch.nn.Upsample(mode="nearest").

    Parameters
    ----------
    size : int or ints, optional
        Output extents, multiples of the input's.
    scale_factor : int or ints, optional
        Whole numbers.
    mode : str
        "nearest".
    align_corners : None
        For PyTorch's other modes.
    recompute_scale_factor : bool, optional
        Changes nothing: the factors are whole.
    """

    def __init__(
        self,
        size: IntOrInts | None = None,
        scale_factor: Any = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        refuse("Upsample", align_corners=(align_corners, None))
        if mode != "nearest":
            raise ValueError(f"Upsample: mode {mode!r} is not supported; expected 'nearest'")
        if (size is None) == (scale_factor is None):
            raise ValueError(f"Upsample: give one of size and scale_factor, got {size!r} and {scale_factor!r}")
        if scale_factor is not None:
            whole_factors("Upsample", scale_factor, None)
        self.size, self.scale_factor, self.mode = size, scale_factor, mode

    def forward(self, input: Tensor) -> Tensor:
        return interpolate(input, self.size, self.scale_factor, self.mode)

    def extra_repr(self) -> str:
        how = f"size={self.size}" if self.scale_factor is None else f"scale_factor={self.scale_factor}"
        return f"{how}, mode={self.mode!r}"


class _ZeroPad(Module):
    """Zeros around the last {rank} axes.

    Parameters
    ----------
    padding : int, flat ints or (low, high) pairs
        Flat ints are (low, high) of the last axis, then of the one before it, as in PyTorch; pairs are one per axis
        in the order of the axes, as in the convolutions.
    """

    rank: ClassVar[int]

    def __init__(self, padding: Any) -> None:
        super().__init__()
        name, rank = type(self).__name__, self.rank
        flat = isinstance(padding, Sequence) and not any(isinstance(p, Sequence) for p in padding)
        if flat:
            if len(padding) != 2 * rank or any(isinstance(p, bool) or not isinstance(p, int) for p in padding):
                raise TypeError(f"{name}: padding must be an int, {2 * rank} ints or {rank} pairs, got {padding!r}")
            self.padding = tuple(padding)
        else:
            one = (1,) * rank
            pairs = padding_pairs(name, padding, one, one, one, one)
            self.padding = tuple(v for pair in reversed(pairs) for v in pair)

    def forward(self, input: Tensor) -> Tensor:
        return ops.pad(input, self.padding)

    def extra_repr(self) -> str:
        return str(self.padding)


class ZeroPad1d(_ZeroPad):
    rank = 1
    __doc__ = str(_ZeroPad.__doc__).format(rank=1)


class ZeroPad2d(_ZeroPad):
    rank = 2
    __doc__ = str(_ZeroPad.__doc__).format(rank=2)


class ZeroPad3d(_ZeroPad):
    rank = 3
    __doc__ = str(_ZeroPad.__doc__).format(rank=3)
