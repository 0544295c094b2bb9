"""Layers as Keras makes them: its initialisers by name, zero biases, its batch norm; shared by the 3DGAN recipes."""

from __future__ import annotations

from typing import Any

from gankernels import nn
from gankernels.geometry import Padding
from gankernels.ops import Generator

__all__ = ["LEAK", "conv", "dense", "norm"]

LEAK = 0.3  # Keras's LeakyReLU; PyTorch's is 0.01


def conv(
    i: int, o: int, kernel: tuple[int, int, int], padding: Padding, rng: Generator, init: str, bias: bool = True
) -> nn.Conv3d:
    """A Conv3D from i to o channels."""
    layer = nn.Conv3d(i, o, kernel, padding=padding, bias=bias, generator=rng)
    nn.init.init_by_name(layer.weight, init, rng)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def dense(i: int, o: int, rng: Generator) -> nn.Linear:
    """A Dense layer with glorot_uniform."""
    layer = nn.Linear(i, o, generator=rng)
    nn.init.init_by_name(layer.weight, "glorot_uniform", rng)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def norm(channels: int, eps: float = 1e-3) -> Any:
    """A BatchNormalization over channels; Keras's momentum 0.99 is 0.01 in PyTorch's meaning."""
    return nn.BatchNorm3d(channels, eps=eps, momentum=0.01)
