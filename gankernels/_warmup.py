"""Compile ahead: run a network once, so that the first training step does not wait for just-in-time kernels."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gankernels.autograd import Tensor, enable_grad, grad
from gankernels.backends import backend_of
from gankernels.dtypes import is_float
from gankernels.nn.module import Module
from gankernels.ops import Replay, square, zeros
from gankernels.ops.random import default_generator
from gankernels.ops.update import copy_

__all__ = ["warmup"]


def warmup(model: Module, *inputs: Any, orders: int = 1) -> float:
    """Run `model` once forward and backward, and leave it as it was.

    On the Numba backend this compiles the kernels that the network needs (0.3 to 1 s each, and 4 s for the one of the
    chains of replayed steps, once for a machine: they are kept on disk); on compiled backends it allocates memory.
    Parameters, buffers, gradients and the default random stream are the same afterwards.

    Parameters
    ----------
    model : Module
    *inputs : Tensor, or tuple of int
        What the model is called with; a shape stands for zeros on the model's device in the dtype of its parameters.
        Kernels do not depend on the batch size, except that convolutions of 65536 output positions or more (all images
        together) use others than smaller ones.
    orders : int
        0: values only; 1: also gradients; 2: also the gradient of a gradient penalty in the first input.

    Returns
    -------
    float
        Seconds that it took.

    Raises
    ------
    ValueError
        If orders is not 0, 1 or 2.

    Examples
    --------
    >>> import gankernels as gk
    >>> gk.warmup(gk.nn.Linear(3, 2), (8, 3)) > 0
    True
    """
    if orders not in (0, 1, 2):
        raise ValueError(f"warmup: orders must be 0, 1 or 2, got {orders!r}")
    started = time.perf_counter()
    parameters: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    given = [_as_input(model, x, watched=orders == 2) for x in inputs]
    with _unchanged(model), enable_grad():
        outputs = _tensors(model(*given))
        floats = [t for t in outputs if is_float(t.dtype) and t.requires_grad]
        if orders and floats:
            total = sum((square(t).mean() for t in floats[1:]), square(floats[0]).mean())
            if orders == 2 and given and given[0].requires_grad:
                total = total + square(grad(total, given[0], create_graph=True)[0]).mean()
            grad(total, parameters or given, allow_unused=True, retain_graph=False)
    if orders and floats:
        _replay_something(floats[0])
    for t in outputs:
        backend = backend_of(t.data)
        if hasattr(backend, "synchronize"):
            backend.synchronize()
    return time.perf_counter() - started


def _replay_something(like: Tensor) -> None:
    """Replayed steps need a kernel that others do not, on Numba (cuda_numba/chain.py)."""
    replay = Replay(lambda x: x * 2.0 + 1.0)
    for _ in range(3):  # two that record, and one that repeats them
        replay(zeros(1, dtype=like.dtype, device=like.device))


def _as_input(model: Module, x: Any, watched: bool) -> Tensor:
    if not isinstance(x, Tensor):
        first = next(iter(model.parameters()), None)
        x = zeros(*x) if first is None else zeros(*x, dtype=first.dtype, device=first.device)
    return Tensor(x.data, requires_grad=watched and is_float(x.dtype))


def _tensors(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    values = outputs.values() if isinstance(outputs, dict) else outputs if isinstance(outputs, (tuple, list)) else ()
    return [t for v in values for t in _tensors(v)]


@contextmanager
def _unchanged(model: Module) -> Iterator[None]:
    """Buffers and the default random stream are put back."""
    buffers = [(b, b.clone()) for b in model.buffers()]
    state = default_generator().state()
    try:
        yield
    finally:
        default_generator().restore(state)
        for buffer, before in buffers:
            copy_(buffer, before)
