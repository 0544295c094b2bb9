"""Losses as functions, with PyTorch's arguments; its deprecated size_average and reduce may only be None."""

from __future__ import annotations

import math

import numpy as np

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.dtypes import is_float
from gankernels.ops.common import check_float, same_device, scalar_beside, to_host, wide
from gankernels.ops.loss import bce

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "cross_entropy",
    "huber_loss",
    "l1_loss",
    "mse_loss",
    "nll_loss",
    "reduce_loss",
    "smooth_l1_loss",
]


def check_reduction(op: str, reduction: str, size_average: None = None, reduce: None = None) -> None:
    """Raise unless reduction is "none", "mean" or "sum", and PyTorch's deprecated two are None."""
    for name, value in (("size_average", size_average), ("reduce", reduce)):
        if value is not None:
            raise ValueError(f"{op}: {name}={value!r} is not supported; expected None, and reduction says it")
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{op}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def reduce_loss(op: str, loss: Tensor, reduction: str) -> Tensor:
    """The losses of the elements, their mean or their sum."""
    check_reduction(op, reduction)
    if reduction == "none":
        return loss
    return ops.mean(loss) if reduction == "mean" else ops.sum(loss)


def _of_one_shape(op: str, input: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Both, checked; float32 where autocast made them bfloat16."""
    check_float(op, input=input)
    check_float(op, target=target)
    input, target = wide(input), wide(target)
    check_float(op, input=input, target=target)
    if input.shape != target.shape:
        raise ValueError(f"{op}: input has shape {input.shape}, target {target.shape}; they must be equal")
    return input, target


def mse_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """(input - target)^2."""
    check_reduction("mse_loss", reduction, size_average, reduce)
    input, target = _of_one_shape("mse_loss", input, target)
    return reduce_loss("mse_loss", ops.square(input - target), reduction)


def l1_loss(
    input: Tensor, target: Tensor, size_average: None = None, reduce: None = None, reduction: str = "mean"
) -> Tensor:
    """|input - target|."""
    check_reduction("l1_loss", reduction, size_average, reduce)
    input, target = _of_one_shape("l1_loss", input, target)
    return reduce_loss("l1_loss", ops.abs(input - target), reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """Half the square below delta, delta*(|input - target| - delta/2) above."""
    input, target = _of_one_shape("huber_loss", input, target)
    if not delta > 0:
        raise ValueError(f"huber_loss: delta must be positive, got {delta}")
    distance = ops.abs(input - target)
    near = ops.clamp(distance, max=delta)
    return reduce_loss("huber_loss", near * (distance - near * 0.5), reduction)


def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """huber_loss divided by beta; l1_loss where beta is 0."""
    check_reduction("smooth_l1_loss", reduction, size_average, reduce)
    if beta == 0:
        return l1_loss(input, target, reduction=reduction)
    if not beta > 0:
        raise ValueError(f"smooth_l1_loss: beta must not be negative, got {beta}")
    return huber_loss(input, target, reduction=reduction, delta=beta) * (1.0 / beta)


def binary_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """-(t*log(p) + (1 - t)*log(1 - p)), the logarithms limited to -100.

    Parameters
    ----------
    input : Tensor
        Probabilities between 0 and 1.
    target : Tensor
        Of input's shape, between 0 and 1.
    weight : Tensor, optional
        Factor of each element's loss; broadcast.

    Raises
    ------
    ValueError
        If a probability is outside [0, 1] or is NaN.
    """
    check_reduction("binary_cross_entropy", reduction, size_average, reduce)
    input, target = _of_one_shape("binary_cross_entropy", input, target)
    if input.data.size:
        low, high = float(ops.amin(input.detach())), float(ops.amax(input.detach()))
        if not (low >= 0.0 and high <= 1.0):
            raise ValueError(f"binary_cross_entropy: input must lie between 0 and 1, got {low} to {high}")
    loss = bce(input, target)
    return reduce_loss("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """pos_weight*t*softplus(-x) + (1 - t)*softplus(x): no overflow and no cancellation at large logits.

    Parameters
    ----------
    input, target : Tensor
        Logits, and targets between 0 and 1, of one shape.
    weight, pos_weight : Tensor, optional
        Factors of each element's loss, and of the positive part; broadcast.
    """
    check_reduction("binary_cross_entropy_with_logits", reduction, size_average, reduce)
    input, target = _of_one_shape("binary_cross_entropy_with_logits", input, target)
    positive = target if pos_weight is None else target * pos_weight
    loss = positive * ops.softplus(-input, 1.0, math.inf) + (1.0 - target) * ops.softplus(input, 1.0, math.inf)
    return reduce_loss("binary_cross_entropy_with_logits", loss if weight is None else loss * weight, reduction)


def _classes_last(op: str, input: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """input (C,), (N, C) or (N, C, *D) as rows (M, C), and the shape of what belongs to them."""
    check_float(op, input=input)
    input = wide(input)
    if input.ndim == 0:
        raise ValueError(f"{op}: input must be (C,), (N, C) or (N, C, *D), got a tensor without axes")
    if input.ndim == 1:
        return input.reshape(1, input.shape[0]), ()
    shape = (input.shape[0], *input.shape[2:])
    if input.ndim > 2:
        input = input.permute(0, *range(2, input.ndim), 1)
    return input.reshape(int(np.prod(shape, dtype=np.int64)), input.shape[-1]), shape


def _class_weights(op: str, weight: Tensor | None, classes: int) -> None:
    if weight is not None and weight.shape != (classes,):
        raise ValueError(f"{op}: weight has shape {weight.shape}, expected ({classes},)")


def _picked(
    op: str, rows: Tensor, shape: tuple[int, ...], target: Tensor, weight: Tensor | None, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """(rows[i, target[i]], the factor of each row: its class's weight, 0 where ignored)."""
    if not isinstance(target, Tensor) or target.dtype != np.int64:
        raise TypeError(f"{op}: target must hold int64 class indices, got {getattr(target, 'dtype', type(target))}")
    if target.shape != shape:
        raise ValueError(f"{op}: target has shape {target.shape}, expected {shape}")
    same_device(op, input=rows, target=target)
    M, C = rows.shape
    chosen = to_host(target.data).reshape(-1)
    kept = chosen != ignore_index
    chosen = np.where(kept, chosen, 0)
    if chosen.size and (chosen.min() < 0 or chosen.max() >= C):
        raise IndexError(f"{op}: target {int(chosen.min())}..{int(chosen.max())} is out of range for {C} classes")
    factor = ops.tensor(kept, dtype=rows.dtype, device=rows.device)
    if weight is not None:
        factor = factor * ops.index_select(weight.detach(), 0, chosen)
    return ops.index_select(rows.reshape(M * C), 0, np.arange(M) * C + chosen), factor


def _weighted(op: str, loss: Tensor, total: Tensor, shape: tuple[int, ...], reduction: str) -> Tensor:
    check_reduction(op, reduction)
    if reduction == "none":
        return loss.reshape(shape)
    return ops.sum(loss) if reduction == "sum" else ops.sum(loss) / total


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> Tensor:
    """-input at the target class; the mean is weighted by the classes' weights.

    Parameters
    ----------
    input : Tensor (C,), (N, C) or (N, C, *D)
        Log-probabilities.
    target : Tensor of int64, (), (N,) or (N, *D)
    weight : Tensor (C,), optional
    ignore_index : int
        Targets that count nothing.
    """
    check_reduction("nll_loss", reduction, size_average, reduce)
    rows, shape = _classes_last("nll_loss", input)
    _class_weights("nll_loss", weight, rows.shape[1])
    picked, factor = _picked("nll_loss", rows, shape, target, weight, ignore_index)
    return _weighted("nll_loss", -picked * factor, ops.sum(factor), shape, reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """nll_loss of log_softmax(input).

    Parameters
    ----------
    input : Tensor (C,), (N, C) or (N, C, *D)
        Logits.
    target : Tensor
        int64 classes (), (N,) or (N, *D), or class probabilities of input's shape and dtype.
    weight : Tensor (C,), optional
    ignore_index : int
        Class indices that count nothing.
    label_smoothing : float
        Share of the target that is spread evenly over all classes.
    """
    check_reduction("cross_entropy", reduction, size_average, reduce)
    op = "cross_entropy"
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"{op}: label_smoothing must be between 0 and 1, got {label_smoothing}")
    rows, shape = _classes_last(op, input)
    C = rows.shape[1]
    _class_weights(op, weight, C)
    logp = ops.log_softmax(rows, 1)
    if is_float(target.dtype):
        if target.shape != input.shape:
            raise ValueError(f"{op}: class probabilities have shape {target.shape}, expected {input.shape}")
        wanted = _classes_last(op, target)[0] * (1.0 - label_smoothing) + label_smoothing / C
        loss = -ops.sum(logp * (wanted if weight is None else wanted * weight), 1)
        return _weighted(op, loss, scalar_beside(rows, rows.shape[0]), shape, reduction)
    picked, factor = _picked(op, logp, shape, target, weight, ignore_index)
    loss = -picked * factor
    if label_smoothing:
        kept = (target.reshape(-1) != ignore_index).to(rows.dtype)
        even = -ops.sum(logp if weight is None else logp * weight, 1) * kept
        loss = loss * (1.0 - label_smoothing) + even * (label_smoothing / C)
    return _weighted(op, loss, ops.sum(factor), shape, reduction)
