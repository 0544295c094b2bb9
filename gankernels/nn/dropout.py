"""Dropout from counters (Srivastava et al., JMLR 2014): the mask is recomputed, never stored."""

from __future__ import annotations

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.nn.module import Module
from gankernels.ops.random import Generator

__all__ = ["Dropout", "GaussianNoise"]


class Dropout(Module):
    """Zero each element with probability p when training and scale the others by 1/(1 - p).

    Parameters
    ----------
    p : float
    inplace : bool
        Accepted; changes nothing.
    generator : Generator, optional
        Stream of the masks; the default one otherwise.
    """

    def __init__(self, p: float = 0.5, inplace: bool = False, *, generator: Generator | None = None) -> None:
        super().__init__()
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"Dropout: p must be between 0 and 1, got {p}")
        self.p, self.inplace, self.generator = float(p), inplace, generator

    def forward(self, input: Tensor) -> Tensor:
        return ops.dropout(input, self.p, self.training, self.generator)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class GaussianNoise(Module):
    """Add normal noise of standard deviation std when training (Keras's layer of this name)."""

    def __init__(self, std: float, *, generator: Generator | None = None) -> None:
        super().__init__()
        if not std >= 0:
            raise ValueError(f"GaussianNoise: std must not be negative, got {std}")
        self.std, self.generator = float(std), generator

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or not self.std:
            return input
        noise = ops.randn(input.shape, dtype=input.dtype, device=input.device, generator=self.generator)
        return input + noise * self.std

    def extra_repr(self) -> str:
        return f"std={self.std}"
