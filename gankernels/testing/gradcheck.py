"""Gradients against central differences along random directions, to any order, in float64.

As HIPS autograd's check_grads: the vjp of f is compared with a difference quotient, then the vjp itself, as a function
of the inputs and the cotangent, is checked in the same way. One direction per order costs two evaluations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.autograd import Tensor, grad
from gankernels.ops import tensor

__all__ = ["check_adjoint", "check_gradients"]

Function = Callable[..., Tensor]
Array = NDArray[Any]


def _inner(a: Array, b: Array) -> float:
    return float(np.vdot(a, b))


def check_gradients(
    f: Function,
    inputs: Sequence[Array],
    order: int = 2,
    eps: float = 1e-5,
    tolerance: float = 1e-6,
    seed: int = 0,
    name: str = "f",
) -> None:
    """Raise unless every derivative of f up to `order` agrees with central differences.

    Parameters
    ----------
    f : callable
        f(*tensors) -> Tensor, smooth within `eps` of the inputs.
    inputs : sequence of float64 arrays
    order : int
        1 checks the vjp, 2 also the vjp of the vjp, and so on.
    eps : float
        Half the step; the error of the quotient is of the order eps**2 + 1e-16/eps.
    tolerance : float
        Largest difference, relative to the norms of the factors.

    Raises
    ------
    AssertionError
        With the order at which it failed and both numbers.
    """
    rng = np.random.default_rng(seed)
    arrays = [np.array(a, np.float64) for a in inputs]
    _check(f, arrays, order, eps, tolerance, rng, name)


def _check(f: Function, arrays: list[Array], order: int, eps: float, tol: float, rng: Any, name: str) -> None:
    tensors = [tensor(a, requires_grad=True) for a in arrays]
    y = f(*tensors)
    ct = rng.standard_normal(y.shape)
    if not y.requires_grad:
        raise AssertionError(f"{name}: the output does not depend on any input")
    gradients = grad(y, tensors, tensor(ct), allow_unused=True)
    found = [np.zeros(a.shape) if g is None else g.cpu().numpy() for a, g in zip(arrays, gradients, strict=True)]
    for a, g in zip(arrays, found, strict=True):
        if g.shape != a.shape:
            raise AssertionError(f"{name}: a gradient has shape {g.shape}, its input {a.shape}")
    direction = [rng.standard_normal(a.shape) for a in arrays]

    def value(step: float) -> Array:
        moved = [tensor(a + step * d) for a, d in zip(arrays, direction, strict=True)]
        return f(*moved).detach().cpu().numpy()

    quotient = _inner(ct, (value(eps) - value(-eps)) / (2 * eps))
    along = sum(_inner(g, d) for g, d in zip(found, direction, strict=True))
    scale = sum(float(np.linalg.norm(g) * np.linalg.norm(d)) for g, d in zip(found, direction, strict=True))
    scale += float(np.linalg.norm(ct) * np.linalg.norm(y.detach().cpu().numpy())) + 1.0
    if not abs(along - quotient) <= tol * scale:
        raise AssertionError(f"{name}: the gradient gives {along!r} along a random direction, differences {quotient!r}")
    if order > 1:
        active = [i for i, g in enumerate(gradients) if g is not None]

        def pulled(*args: Tensor) -> Tensor:
            *xs, c = args
            leaves = [x if x.requires_grad else tensor(x, requires_grad=True) for x in xs]
            found = grad(f(*leaves), [leaves[i] for i in active], c, create_graph=True)
            total = None  # one number: every gradient against a fixed weight, so that all of them are checked at once
            for g, w in zip(found, weights, strict=True):
                part = (g * w).sum()
                total = part if total is None else total + part
            assert total is not None
            return total

        weights = [tensor(rng.standard_normal(arrays[i].shape)) for i in active]
        _check(pulled, [*arrays, ct], order - 1, eps, tol, rng, f"vjp of {name}")


def check_adjoint(
    forward: Function, adjoint: Function, x: Array, y_shape: Sequence[int], tolerance: float = 1e-12, seed: int = 0
) -> None:
    """Raise unless <y, forward(x)> = <adjoint(y), x> for a random y (float64).

    Raises
    ------
    AssertionError
        With both numbers.
    """
    y = np.random.default_rng(seed).standard_normal(tuple(y_shape))
    fx, ay = forward(tensor(x)).cpu().numpy(), adjoint(tensor(y)).cpu().numpy()
    if fx.shape != y.shape or ay.shape != np.shape(x):
        raise AssertionError(f"adjoint: shapes {fx.shape} and {ay.shape}, expected {y.shape} and {np.shape(x)}")
    left, right = _inner(y, fx), _inner(ay, np.asarray(x))
    scale = _inner(np.abs(y), np.abs(fx)) + _inner(np.abs(ay), np.abs(np.asarray(x)))
    if not abs(left - right) <= tolerance * scale:
        raise AssertionError(f"adjoint: <y, Ax> = {left!r}, <A'y, x> = {right!r}")
