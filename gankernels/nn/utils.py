"""What is done to parameters between the backward pass and the step: clipping of gradients and of weights."""

from __future__ import annotations

import math
from collections.abc import Iterable

from gankernels import ops
from gankernels.autograd import Tensor, no_grad
from gankernels.ops import update

__all__ = ["clip_grad_norm_", "clip_grad_value_", "clip_parameters_", "parameters_to_vector"]


def _several(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    return [parameters] if isinstance(parameters, Tensor) else list(parameters)


def _with_gradient(parameters: Tensor | Iterable[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """(parameter, gradient) pairs. Gradients may share memory with one another, so they are replaced, not changed."""
    return [(p, p.grad.detach()) for p in _several(parameters) if p.grad is not None]


@no_grad()
def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor], max_norm: float, norm_type: float = 2.0, error_if_nonfinite: bool = False
) -> float:
    """Scale all gradients together so that their norm is at most max_norm.

    Parameters
    ----------
    norm_type : float
        2 or math.inf.

    Returns
    -------
    float
        The norm before.
    """
    if norm_type not in (2, math.inf):
        raise ValueError(f"clip_grad_norm_: norm_type must be 2 or inf, got {norm_type}")
    pairs = _with_gradient(parameters)
    if norm_type == 2:
        total = math.sqrt(sum(ops.items([ops.sum(ops.square(g)) for _, g in pairs])))
    else:
        total = max(ops.items([ops.amax(ops.abs(g)) for _, g in pairs]), default=0.0)
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(f"clip_grad_norm_: the norm of the gradients is {total}")
    factor = max_norm / (total + 1e-6)
    if not factor >= 1.0:
        for p, g in pairs:
            p.grad = g * factor
    return total


@no_grad()
def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Limit every element of the gradients to [-clip_value, clip_value]."""
    for p, g in _with_gradient(parameters):
        p.grad = ops.clamp(g, -clip_value, clip_value)


def clip_parameters_(parameters: Tensor | Iterable[Tensor], min: float, max: float) -> None:
    """Limit every weight to [min, max] (Wasserstein GAN with clipping, Arjovsky et al. 2017)."""
    for p in _several(parameters):
        update.clamp_(p, min, max)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """All parameters one after the other as one tensor (P,)."""
    return ops.cat([p.reshape(-1) for p in parameters])
