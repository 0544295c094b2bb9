"""The one module that imports numba-cuda: decorators, and elementary functions that also hold in the simulator.

The simulator runs kernels as Python: there `math.exp(1000.0)` raises where a GPU gives infinity, so NumPy's functions
take the place of `math`'s.
"""

from __future__ import annotations

import importlib
import math
from typing import Any, TypeVar

import numpy as np

from gankernels._extras import require
from gankernels.backends.cuda_numba import simulator
from gankernels.backends.cuda_numba.available import is_simulated

__all__ = [
    "SIMULATED", "atan2", "cos", "cuda", "device", "erf", "exp", "expm1", "floor", "jit", "log", "log1p", "power",
    "sin", "sqrt", "tanh",
]  # fmt: skip

SIMULATED = is_simulated()
_module: Any = require("numba", extra="numba", purpose="the CUDA backend without a compiled module") and require(
    "numba.cuda", extra="numba", purpose="the CUDA backend without a compiled module"
)


class _Simulated:
    """`numba.cuda` as the running simulated kernel sees it, in functions of any module and in any of its threads."""

    def __init__(self) -> None:
        self.shared = simulator.shared
        self._context: Any = importlib.import_module("numba.cuda.simulator.kernel")._get_kernel_context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context() or _module, name)


cuda: Any = _Simulated() if SIMULATED else _module
Function = TypeVar("Function")

_CACHE = not SIMULATED


def jit(function: Function) -> Function:
    """A kernel, compiled at its first launch for the types of its arguments and kept on disk."""
    kernel: Function = _module.jit(function, cache=_CACHE)
    return kernel


def device(function: Function, forceinline: bool = False) -> Function:
    """A function for kernels; forced into them where it is given arrays that are to stay in registers."""
    if SIMULATED:
        return function
    found: Function = _module.jit(function, device=True, forceinline=forceinline)
    return found


_numpy = SIMULATED
exp: Any = np.exp if _numpy else math.exp
expm1: Any = np.expm1 if _numpy else math.expm1
log: Any = np.log if _numpy else math.log
log1p: Any = np.log1p if _numpy else math.log1p
sqrt: Any = np.sqrt if _numpy else math.sqrt
sin: Any = np.sin if _numpy else math.sin
cos: Any = np.cos if _numpy else math.cos
tanh: Any = np.tanh if _numpy else math.tanh
floor: Any = np.floor if _numpy else math.floor
atan2: Any = np.arctan2 if _numpy else math.atan2
power: Any = np.power if _numpy else math.pow
erf: Any = math.erf
