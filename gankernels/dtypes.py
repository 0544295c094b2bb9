"""The dtypes of arrays: NumPy's, and bfloat16, which NumPy does not have."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["bfloat16", "computed", "is_bfloat16", "is_float", "named"]


@cache
def bfloat16() -> np.dtype[Any]:
    """The dtype of arrays on a device that hold bfloat16: 8 bits of precision, the exponents of float32.

    That of the package ml_dtypes, which prints and compares as "bfloat16"; without the package two bytes by this name,
    which is all that a device needs. On the host such tensors become float32.
    """
    try:
        return np.dtype(import_module("ml_dtypes").bfloat16)
    except ImportError:
        return np.dtype([("bfloat16", np.uint16)])


def is_bfloat16(dtype: np.dtype[Any]) -> bool:
    """Whether this is the dtype of bfloat16."""
    return dtype.kind == "V" and (dtype.name == "bfloat16" or dtype.names == ("bfloat16",))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether numbers with a fraction are held: float32, float64 or bfloat16."""
    return dtype.kind == "f" or is_bfloat16(dtype)


def computed(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What kernels of such arrays compute in: float32 for bfloat16, else the dtype itself."""
    return np.dtype(np.float32) if is_bfloat16(dtype) else dtype


def named(dtype: Any) -> np.dtype[Any]:
    """A dtype from what names it, "bfloat16" too; TypeError if nothing is called so."""
    return bfloat16() if isinstance(dtype, str) and dtype == "bfloat16" else np.dtype(dtype)
