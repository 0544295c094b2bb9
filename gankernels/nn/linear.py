"""Linear and Embedding."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.dtypes import is_float, named
from gankernels.nn import init
from gankernels.nn.module import Module
from gankernels.nn.parameter import Parameter
from gankernels.nn.torch_names import embedding, refuse
from gankernels.ops import update
from gankernels.ops.random import Generator, default_generator

__all__ = ["Embedding", "Linear", "count", "new_parameter"]


def count(op: str, name: str, value: Any, minimum: int = 1) -> int:
    """An int argument of at least `minimum`."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < minimum:
        raise ValueError(f"{op}: {name} must be an int of at least {minimum}, got {value!r}")
    return int(value)


def new_parameter(shape: tuple[int, ...], dtype: Any, device: str | None) -> Parameter:
    """A parameter of zeros."""
    dtype = named(np.float32 if dtype is None else dtype)
    if not is_float(dtype):
        raise TypeError(f"parameter: dtype must be float32, float64 or (on a GPU) bfloat16, got {dtype}")
    return Parameter(ops.zeros(shape, dtype=dtype, device=device))


class Linear(Module):
    """y = x weight^T + bias, as torch.nn.Linear.

    Parameters
    ----------
    in_features, out_features : int
    bias : bool
    device : str, optional
        "cpu".
    dtype : numpy dtype, optional
        float32 (default) or float64.
    generator : Generator, optional
        Stream of the initial values: uniform within 1/sqrt(in_features), as PyTorch's default.

    Attributes
    ----------
    weight : Parameter (out_features, in_features)
    bias : Parameter (out_features,) or None
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        self.in_features = count("Linear", "in_features", in_features)
        self.out_features = count("Linear", "out_features", out_features)
        self.weight = new_parameter((self.out_features, self.in_features), dtype, device)
        self.register_parameter("bias", new_parameter((self.out_features,), dtype, device) if bias else None)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw new initial values."""
        bound = 1.0 / math.sqrt(self.in_features)
        for p in self.parameters():
            init.uniform_(p, -bound, bound, generator)

    def forward(self, input: Tensor) -> Tensor:
        return ops.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """A table of vectors looked up by integer, as torch.nn.Embedding.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
    padding_idx : int, optional
        A row that starts at zero and receives no gradient.
    max_norm, norm_type, scale_grad_by_freq, sparse
        Accepted at PyTorch's defaults only.
    generator : Generator, optional
        Stream of the initial values (standard normal).

    Attributes
    ----------
    weight : Parameter (num_embeddings, embedding_dim)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        norm_type: float = 2.0,
        scale_grad_by_freq: bool = False,
        sparse: bool = False,
        *,
        device: str | None = None,
        dtype: Any = None,
        generator: Generator | None = None,
    ) -> None:
        super().__init__()
        refuse(
            "Embedding", max_norm=(max_norm, None), norm_type=(norm_type, 2.0),
            scale_grad_by_freq=(scale_grad_by_freq, False), sparse=(sparse, False),
        )  # fmt: skip
        self.num_embeddings = count("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = count("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None:
            if not -self.num_embeddings <= padding_idx < self.num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx {padding_idx} is out of range for {self.num_embeddings} embeddings"
                )
            padding_idx %= self.num_embeddings
        self.padding_idx = padding_idx
        self.weight = new_parameter((self.num_embeddings, self.embedding_dim), dtype, device)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw new initial values."""
        init.normal_(self.weight, generator=generator or default_generator())
        if self.padding_idx is not None:
            update.fill_(self.weight.detach()[self.padding_idx], 0.0)

    def forward(self, input: Tensor) -> Tensor:
        return embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
