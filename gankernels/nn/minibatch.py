"""Minibatch discrimination (Salimans et al., NeurIPS 2016, section 3.2): how close an image is to its batch.

M_i = x_i T with T (A, B, C); o(x_i)_b = sum over j of exp(-|M_ib - M_jb|_1). A generator that collapses gives large o.
"""

from __future__ import annotations

from typing import Any

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.nn import init
from gankernels.nn.linear import count, new_parameter
from gankernels.nn.module import Module
from gankernels.nn.parameter import Parameter
from gankernels.ops.random import Generator

__all__ = ["MinibatchDiscrimination", "minibatch_closeness"]


def minibatch_closeness(features: Tensor) -> Tensor:
    """o (N, B) from features f (N, B, C): o[i, b] = sum over j of exp(-sum over c of |f[i,b,c] - f[j,b,c]|).

    The image itself counts 1. Needs memory for N*N*B*C numbers.
    """
    if features.ndim != 3:
        raise ValueError(f"minibatch_closeness: expected features (N, B, C), got shape {features.shape}")
    N, B, C = features.shape
    distance = ops.sum(ops.abs(features.reshape(N, 1, B, C) - features.reshape(1, N, B, C)), 3)
    return ops.sum(ops.exp(-distance), 1)


class MinibatchDiscrimination(Module):
    """Features that compare each image with the others of the batch.

    CaloGAN's variant is `MinibatchDiscrimination(A, 10, 10, bias=True, concatenate=False)`: its Dense3D(10, 10) and
    minibatch_discriminator.

    Parameters
    ----------
    in_features : int
        A.
    num_kernels, kernel_dim : int
        B and C.
    bias : bool
        Add one to M; it cancels in the differences and is there for files that hold one.
    concatenate : bool
        Return [x, o] (N, A + B) instead of o (N, B).
    include_self : bool
        Count the image itself (adds 1), as the paper's formula and CaloGAN do.
    generator : Generator, optional
        Stream of the initial values (Glorot uniform of the matrix A x B*C).

    Attributes
    ----------
    weight : Parameter (in_features, num_kernels, kernel_dim)
    bias : Parameter (num_kernels, kernel_dim) or None
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        num_kernels: int,
        kernel_dim: int,
        bias: bool = False,
        concatenate: bool = True,
        include_self: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        name = "MinibatchDiscrimination"
        self.in_features = count(name, "in_features", in_features)
        self.num_kernels = count(name, "num_kernels", num_kernels)
        self.kernel_dim = count(name, "kernel_dim", kernel_dim)
        self.concatenate, self.include_self = concatenate, include_self
        self.weight = new_parameter((in_features, num_kernels, kernel_dim), dtype, device)
        self.register_parameter("bias", new_parameter((num_kernels, kernel_dim), dtype, device) if bias else None)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw new initial values."""
        bound = (6.0 / (self.in_features + self.num_kernels * self.kernel_dim)) ** 0.5
        init.uniform_(self.weight, -bound, bound, generator)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        if input.ndim != 2 or input.shape[1] != self.in_features:
            raise ValueError(
                f"MinibatchDiscrimination: expected an input (N, {self.in_features}), got shape {input.shape}"
            )
        matrix = self.weight.reshape(self.in_features, self.num_kernels * self.kernel_dim)
        features = ops.matmul(input, matrix).reshape(input.shape[0], self.num_kernels, self.kernel_dim)
        o = minibatch_closeness(features if self.bias is None else features + self.bias)
        if not self.include_self:
            o = o - 1.0
        return ops.cat([input, o], 1) if self.concatenate else o

    def extra_repr(self) -> str:
        return f"{self.in_features}, num_kernels={self.num_kernels}, kernel_dim={self.kernel_dim}"
