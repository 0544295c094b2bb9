"""Operations under the argument names, order and defaults of torch.nn.functional; what is not supported is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.ops.random import Generator

__all__ = [
    "batch_norm", "dropout", "elu", "embedding", "gelu", "group_norm", "implicit_dim", "instance_norm", "layer_norm",
    "leaky_relu", "linear", "log_softmax", "logsigmoid", "normalize", "pad", "relu", "sigmoid", "softmax", "softplus",
    "tanh",
]  # fmt: skip


def refuse(op: str, **given: tuple[Any, Any]) -> None:
    """Raise for the first argument, given as (value, the only one supported), whose value is another one."""
    for name, (value, only) in given.items():
        if value is not only and (only is None or value != only):
            raise ValueError(f"{op}: {name}={value!r} is not supported; expected {only!r}")


def _not_in_place(op: str, inplace: bool) -> None:
    if inplace:
        raise ValueError(f"{op}: inplace=True is not supported: operations do not change their input; use its result")


# ---- activations ---------------------------------------------------------------------------------------------------
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """input where it is positive, else 0; inplace=True is refused."""
    _not_in_place("relu", inplace)
    return ops.relu(input)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """input where it is positive, else negative_slope * input; inplace=True is refused."""
    _not_in_place("leaky_relu", inplace)
    return ops.leaky_relu(input, negative_slope)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """input where it is positive, else alpha*(exp(input) - 1); inplace=True is refused."""
    _not_in_place("elu", inplace)
    return ops.elu(input, alpha)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """input * (1 + erf(input/sqrt 2)) / 2; approximate="tanh" is refused."""
    refuse("gelu", approximate=(approximate, "none"))
    return ops.gelu(input)


def tanh(input: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return ops.tanh(input)


def sigmoid(input: Tensor) -> Tensor:
    """1/(1 + exp(-input))."""
    return ops.sigmoid(input)


def logsigmoid(input: Tensor) -> Tensor:
    """log(1/(1 + exp(-input))), without overflow."""
    return ops.logsigmoid(input)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta*input)) / beta; input itself where beta*input > threshold."""
    return ops.softplus(input, beta, threshold)


def implicit_dim(ndim: int) -> int:
    """The axis of a softmax without `dim`, as PyTorch chooses it: 0 for 0, 1 or 3 axes, otherwise 1."""
    return 0 if ndim in (0, 1, 3) else 1


def softmax(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """exp(input) / sum(exp(input)) along axis `dim`, computed in `dtype` if it is given.

    Without `dim` it is PyTorch's (deprecated) choice: axis 0 of 0, 1 or 3 axes, otherwise axis 1. Better give it.
    """
    return ops.softmax(input, implicit_dim(input.ndim) if dim is None else dim, dtype)


def log_softmax(input: Tensor, dim: int | None = None, *, dtype: Any = None) -> Tensor:
    """Logarithm of softmax along axis `dim`; without it the axis is chosen as softmax does."""
    return ops.log_softmax(input, implicit_dim(input.ndim) if dim is None else dim, dtype)


# ---- layers --------------------------------------------------------------------------------------------------------
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input (*, K) times weight (N, K) transposed, plus bias (N,)."""
    return ops.linear(input, weight, bias)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    generator: Generator | None = None,
) -> Tensor:
    """Zero each element with probability p and scale the others by 1/(1 - p); input itself when not training."""
    _not_in_place("dropout", inplace)
    return ops.dropout(input, p, training, generator)


def embedding(
    input: Any,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Rows of weight (V, D) at the integers `input` of any shape S: (*S, D).

    Row padding_idx receives no gradient. max_norm, norm_type, scale_grad_by_freq and sparse: PyTorch's defaults only.
    """
    refuse(
        "embedding", max_norm=(max_norm, None), norm_type=(norm_type, 2.0),
        scale_grad_by_freq=(scale_grad_by_freq, False), sparse=(sparse, False),
    )  # fmt: skip
    if padding_idx is None:
        return ops.embedding(input, weight)
    rows = weight.shape[0]
    if not -rows <= padding_idx < rows:
        raise ValueError(f"embedding: padding_idx {padding_idx} is out of range for {rows} embeddings")
    live = np.ones((rows, 1), np.bool_)
    live[padding_idx] = False
    return ops.embedding(input, ops.where(ops.tensor(live, device=weight.device), weight, weight.detach()))


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """input with cells of `value` (None: 0) around it; pad is (low, high) of the last axis, then the one before it."""
    return ops.pad(input, pad, mode, 0.0 if value is None else value)


# ---- normalisation -------------------------------------------------------------------------------------------------
def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise every channel of input (N, C, *) over the batch and the positions; see gankernels.ops.batch_norm."""
    return ops.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise every channel of every image of input (N, C, *) over its positions; weight and bias (C,).

    Raises
    ------
    ValueError
        For running statistics, or use_input_stats=False: an instance's statistics are its own.
    """
    for name, running in (("running_mean", running_mean), ("running_var", running_var)):
        if running is not None:
            raise ValueError(f"instance_norm: {name} is not supported; expected None")
    refuse("instance_norm", use_input_stats=(use_input_stats, True))
    return ops.instance_norm(input, weight, bias, eps)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise every group of channels of every image of input (N, C, *); weight and bias (C,)."""
    return ops.group_norm(input, num_groups, weight, bias, eps)


def layer_norm(
    input: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise input over its last axes `normalized_shape`; weight and bias of that shape."""
    return ops.layer_norm(input, normalized_shape, weight, bias, eps)


def normalize(input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """input divided by its p-norm along an axis, the norm at least eps; p is 1, 2 or infinity."""
    if p not in (1, 2, math.inf):
        raise ValueError(f"normalize: p={p!r} is not supported; expected 1, 2 or inf")
    return input / ops.clamp(ops.norm(input, p, dim, True), eps)
