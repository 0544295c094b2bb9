"""Changes in place: optimizer steps, moving averages, copies. Nothing here is recorded; each bumps `tensor.version`.

The parameter must be contiguous; gradients of any strides are accepted (a strided one is copied first).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from gankernels.autograd import Tensor
from gankernels.backends import backend_of
from gankernels.backends.recording import again
from gankernels.ops.common import copy_parts, same_device, scalar_beside
from gankernels.ops.creation import zeros_like

__all__ = [
    "adam_step", "add_", "clamp_", "copy_", "copy_parts_", "fill_", "lerp_", "rmsprop_step", "sgd_step",
    "zero_gradients",
]  # fmt: skip


def _target(op: str, p: Tensor, *others: Tensor) -> None:
    if not p.data.flags.c_contiguous:
        raise ValueError(f"{op}: the tensor to change must be contiguous, got shape {p.shape} with strides")
    for t in others:
        if type(t.data) is not type(p.data):
            same_device(op, **{"the tensor to change": p, "the other": t})
        if t.data.shape != p.data.shape or t.data.dtype != p.data.dtype:
            raise ValueError(
                f"{op}: expected shape {p.shape} and dtype {p.dtype}, got shape {t.shape} and dtype {t.dtype}"
            )


def _gradient(op: str, p: Tensor, g: Tensor, *states: Tensor | None) -> Any:
    """The gradient's array, contiguous."""
    _target(op, p, g)
    for t in states:
        if t is not None and type(t.data) is not type(p.data):
            same_device(op, **{"the tensor to change": p, "the optimizer's state": t})
    return g.data if g.data.flags.c_contiguous else backend_of(g.data).contiguous(g.data)


def sgd_step(
    p: Tensor,
    g: Tensor,
    momentum_buffer: Tensor | None,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: bool,
    step: int,
) -> None:
    """One step of torch.optim.SGD on p; `step` counts from 1. momentum_buffer: p's shape, None without momentum."""
    backend = backend_of(p.data)
    array = _gradient("sgd_step", p, g, momentum_buffer)
    buffer = backend.empty((0,), p.dtype) if momentum_buffer is None else momentum_buffer.data
    backend.sgd_step(p.data, array, buffer, lr, momentum, dampening, weight_decay, nesterov, step)
    p.version += 1


def adam_step(
    p: Tensor,
    g: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    step: int,
) -> None:
    """One step of torch.optim.Adam on p (decoupled: AdamW); `step` counts from 1."""
    array = _gradient("adam_step", p, g, exp_avg, exp_avg_sq)
    backend_of(p.data).adam_step(
        p.data, array, exp_avg.data, exp_avg_sq.data, lr, beta1, beta2, eps, weight_decay, decoupled, step
    )
    p.version += 1


def rmsprop_step(
    p: Tensor,
    g: Tensor,
    square_avg: Tensor,
    momentum_buffer: Tensor | None,
    grad_avg: Tensor | None,
    lr: float,
    alpha: float,
    eps: float,
    weight_decay: float,
    momentum: float,
) -> None:
    """One step of torch.optim.RMSprop on p; centred where grad_avg is given."""
    backend = backend_of(p.data)
    array = _gradient("rmsprop_step", p, g, square_avg, momentum_buffer, grad_avg)
    none = backend.empty((0,), p.dtype)
    buffer = none if momentum_buffer is None else momentum_buffer.data
    average = none if grad_avg is None else grad_avg.data
    backend.rmsprop_step(
        p.data, array, square_avg.data, buffer, average, lr, alpha, eps, weight_decay, momentum, grad_avg is not None
    )
    p.version += 1


def zero_gradients(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Forget their gradients, or fill them with zeros; repetitions of a recorded function do it again."""
    after = [(p, None if set_to_none else zeros_like(p)) for p in parameters if p.grad is not None]

    def clear() -> None:
        for p, g in after:
            p.grad = g

    again(clear, steady=True)


def lerp_(a: Tensor, b: Tensor, t: float) -> Tensor:
    """a += (b - a)*t, the step of an exponential moving average; returns a."""
    _target("lerp_", a, b)
    backend = backend_of(a.data)
    backend.lerp(a.data, backend.contiguous(b.data), float(t))
    a.version += 1
    return a


def copy_(a: Tensor, b: Tensor) -> Tensor:
    """a = b for every element, same shape and dtype; returns a."""
    _target("copy_", a, b)
    backend_of(a.data).copy(b.data, a.data)
    a.version += 1
    return a


def copy_parts_(whole: Tensor, parts: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """parts[i] = sources[i], same shapes and dtype; the parts are views of `whole`."""
    for part, source in zip(parts, sources, strict=True):
        _target("copy_parts_", part, source)
        part.version += 1
    copy_parts([t.data for t in sources], [t.data for t in parts], whole.data)
    whole.version += 1


def fill_(a: Tensor, value: float) -> Tensor:
    """a = value for every element; returns a."""
    backend_of(a.data).fill(a.data, float(value))
    a.version += 1
    return a


def add_(a: Tensor, value: float) -> Tensor:
    """a += value for every element; returns a."""
    number = scalar_beside(a, int(value) if a.dtype.kind == "i" else value)
    backend_of(a.data).binary("add", a.data, number.data, a.data)
    a.version += 1
    return a


def clamp_(a: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """a limited to [min, max] in place, as the weights of a Wasserstein critic with clipping; returns a."""
    if min is None and max is None:
        raise ValueError("clamp_: at least one of min and max is needed")
    low, high = -math.inf if min is None else float(min), math.inf if max is None else float(max)
    backend_of(a.data).unary("clamp", a.data, a.data, low, high)
    a.version += 1
    return a
