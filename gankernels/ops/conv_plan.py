"""Which path a convolution takes on the CPU, and why: what csrc/cpu/conv_plan.cpp decides, made visible.

With Python logging at level DEBUG, the logger `gankernels.conv` says it once for every geometry that is computed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, IntOrInts, Padding, conv_geometry

__all__ = ["ConvPlan", "conv_plan", "log_plan", "plan"]

_SLOTS = ("x", "w", "y")
_NAMES = {number: name for name, number in CONV_ALGORITHMS.items()}
_logger = logging.getLogger("gankernels.conv")
_logged: set[tuple[Any, ...]] = set()


@dataclass(frozen=True)
class ConvPlan:
    """How one pass of a convolution is computed.

    Attributes
    ----------
    slot : str
        What is computed: "y" (forward), "x" (input gradient, transposed convolution) or "w" (weights gradient).
    path : str
        "batch", "rows", "channels", "im2col", "fft", or "bf16": "channels" with pairs of bfloat16 factors.
    costs : dict of str to float
        Predicted cost of every path that could be chosen, in multiply-adds of a vector; cheapest first.
    why : str
        One sentence.
    """

    slot: str
    path: str
    costs: dict[str, float]
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def plan(g: ConvGeometry, slot: str, algorithm: int, dtype: DTypeLike = np.float32) -> ConvPlan:
    """The plan of a checked geometry for an algorithm by its number."""
    asked = _NAMES[algorithm]
    native = cpu.native.conv_plan_float64 if np.dtype(dtype) == np.float64 else cpu.native.conv_plan_float32
    number, estimates = native(g.pod, _SLOTS.index(slot), algorithm)
    path, costs = _NAMES[number], {_NAMES[e[0]]: float(e[-1]) for e in estimates}
    others = ", ".join(f"{name} {cost:.3g}" for name, cost in costs.items() if name != path)
    if asked == path:
        why = "asked for by name"
    elif asked in ("fft", "rows"):
        why = f"{asked} was asked for and does not cover this geometry"
    elif asked.startswith("measured"):
        why = f"the fastest when it was measured, or predicted until then ({others or 'no other path'})"
    else:
        why = f"predicted to cost {costs[path]:.3g} multiply-adds of a vector, against {others or 'no other path'}"
    return ConvPlan(slot, path, costs, why)


def log_plan(g: ConvGeometry, slot: str, algorithm: int, array: Any) -> None:
    """Say once for every geometry which path it takes, if the logger listens."""
    if not _logger.isEnabledFor(logging.DEBUG) or not isinstance(array, np.ndarray):
        return
    key = (g.pod, slot, algorithm, array.dtype)
    if key in _logged:
        return
    _logged.add(key)
    name = {"y": "conv", "x": "conv_transpose", "w": "conv_weight"}[slot]
    shapes = f"x {g.x_shape} w {g.w_shape} stride {g.stride}"
    _logger.debug("%s %s %s -> %s", name, shapes, array.dtype, plan(g, slot, algorithm, array.dtype))


def conv_plan(
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    stride: IntOrInts = 1,
    padding: Padding = 0,
    dilation: IntOrInts = 1,
    groups: int = 1,
    *,
    slot: str = "y",
    algorithm: str = "auto",
    dtype: DTypeLike = np.float32,
) -> ConvPlan:
    """Which path a convolution takes on the CPU in use, and why.

    Parameters
    ----------
    x_shape : ints (N, C, *X)
    w_shape : ints (O, C/groups, *K)
    stride, padding, dilation, groups
        As for `conv`.
    slot : str
        "y": conv(x, w); "x": its gradient in x, which is a transposed convolution; "w": its gradient in w.
    algorithm : str
        A name of `set_conv_algorithm`. "auto" is what it is for values; gradients take "fast".
    dtype : float32 or float64

    Returns
    -------
    ConvPlan

    Raises
    ------
    ValueError
        If the shapes do not fit, or for an unknown slot or algorithm.

    Examples
    --------
    >>> import gankernels as gk
    >>> gk.conv_plan((16, 512, 8, 8), (1024, 512, 4, 4), stride=2, padding=1).path
    'channels'
    """
    if slot not in _SLOTS:
        raise ValueError(f"conv_plan: expected slot 'x', 'w' or 'y', got {slot!r}")
    if algorithm not in CONV_ALGORITHMS:
        raise ValueError(f"conv_plan: expected algorithm one of {', '.join(CONV_ALGORITHMS)}, got {algorithm!r}")
    g = conv_geometry("conv_plan", tuple(x_shape), tuple(w_shape), stride, padding, dilation, groups)
    return plan(g, slot, CONV_ALGORITHMS[algorithm], dtype)
