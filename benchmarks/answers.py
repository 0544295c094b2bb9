"""Do both sides compute the same? Asked before anything is timed.

The bounds hold for norms of whole layers. Two float32 computations of a chain of `depth` layers whose longest sum has K
terms differ by about 2 depth sqrt(K) u, u = 2^-24. A step adds activations within that of zero that take the other side
of a (leaky) ReLU: one changes the gradient of a layer with M cells by 1/sqrt(M); two are allowed for. Where the loss
itself is badly conditioned (the measured angle of images that are nearly uniform), PyTorch in float32 differs from
itself in float64 by more than that: then ours may be as far from the float64 step as PyTorch's is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
U32 = 2.0**-24
U16 = 2.0**-8  # bfloat16


class WrongAnswer(AssertionError):
    """Ours and the rival differ by more than rounding."""


def chain_bound(depth: int, longest: int) -> float:
    """Relative difference that rounding explains."""
    return 2.0 * depth * float(np.sqrt(longest)) * U32


def step_bound(depth: int, longest: int, cells: int) -> float:
    """The same for the gradients of a step; `cells` are those of the smallest layer in the batch."""
    return chain_bound(depth, longest) + 2.0 / float(np.sqrt(cells))


def relative(got: Array, want: Array) -> float:
    """Norm of the difference over that of the expected."""
    got, want = got.astype(np.float64).ravel(), want.astype(np.float64).ravel()
    return float(np.linalg.norm(got - want) / max(float(np.linalg.norm(want)), 1e-300))


def same_images(what: str, got: Array, want: Array, bound: float) -> float:
    """The relative difference of generated images; raises WrongAnswer above the bound."""
    if got.shape != want.shape:
        raise WrongAnswer(f"{what}: images {got.shape}, the rival has {want.shape}")
    error = relative(got, want)
    if not (error <= bound):
        raise WrongAnswer(f"{what}: images differ from the rival's by {error:.1e}, expected at most {bound:.1e}")
    return error


def _by_layer(before: Mapping[str, Array], after: Mapping[str, Array]) -> dict[tuple[str, bool], Array]:
    """Movement of each layer's parameters, and of its statistics, as one vector."""
    parts: dict[tuple[str, bool], list[Array]] = defaultdict(list)
    for name, value in before.items():
        layer, _, leaf = name.rpartition(".")
        parts[layer, leaf.startswith("running")].append((after[name].astype(np.float64) - value).ravel())
    return {key: np.concatenate(values) for key, values in parts.items()}


def same_step(
    what: str,
    before: Mapping[str, Array],
    ours: Mapping[str, Array],
    rival: Mapping[str, Array],
    bound: float,
    exact: Callable[[], Mapping[str, Array]] | None = None,
) -> float:
    """The largest relative difference between how a step moved a layer; raises WrongAnswer above the bound.

    Parameters
    ----------
    before, ours, rival : dict of array
        Weights and statistics before the step and after it. They are stored in float32: a movement far below their size
        is known to u |weight| only.
    exact : callable, optional
        The rival's step in float64, asked for only if the bound is exceeded: then ours may be as far from it as the
        rival's is.
    """
    if before.keys() != rival.keys():
        raise WrongAnswer(f"{what}: other names: {sorted(before.keys() ^ rival.keys())}")
    got, want = _by_layer(before, ours), _by_layer(before, rival)
    stored = _by_layer({k: np.zeros_like(v) for k, v in before.items()}, before)
    true: dict[tuple[str, bool], Array] | None = None
    worst = 0.0
    for key, expected in want.items():
        moved = float(np.linalg.norm(expected))
        error = float(np.linalg.norm(got[key] - expected))
        rounding = 4.0 * U32 * float(np.linalg.norm(stored[key]))
        allowed = bound * moved + rounding
        if not (error <= allowed) and exact is not None:
            true = _by_layer(before, exact()) if true is None else true
            error = float(np.linalg.norm(got[key] - true[key]))
            allowed = max(allowed, float(np.linalg.norm(expected - true[key])))
        if not (error <= allowed):
            raise WrongAnswer(
                f"{what}: a step moves layer {key[0]} by {moved:.2e}, ours differs by {error:.1e}, "
                f"expected at most {allowed:.1e}"
            )
        worst = max(worst, max(error - rounding, 0.0) / max(moved, 1e-300))
    return worst
