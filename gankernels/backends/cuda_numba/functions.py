"""The pointwise operations as functions of one dtype, by the names of gankernels/backends/opcodes.py.

Formulas and edge cases are those of csrc/cpu/isa/pointwise.inl; elementary functions are the GPU's own (libdevice).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.shim import (
    atan2,
    cos,
    device,
    erf,
    exp,
    expm1,
    floor,
    log,
    log1p,
    power,
    sin,
    sqrt,
    tanh,
)

__all__ = ["UNARY_NAMES", "binary_function", "compare_function", "gate_function", "unary_function", "unary_name"]

Unary = Callable[[Any, float, float], Any]
Binary = Callable[[Any, Any], Any]

_WHOLE = 4503599627370496.0  # 2^52: doubles from here on are integers, so adding it rounds, halves to the even one


def _plain(T: Any) -> dict[str, Unary]:
    """One expression each."""
    zero, one = T(0), T(1)
    return {
        "negate": lambda x, p, q: -x,
        "absolute": lambda x, p, q: -x if x < zero else x + zero,
        "sign": lambda x, p, q: one if x > zero else (-one if x < zero else x + zero),
        "exp": lambda x, p, q: exp(x),
        "expm1": lambda x, p, q: expm1(x),
        "log1p": lambda x, p, q: log1p(x),
        "reciprocal": lambda x, p, q: one / x,
        "square": lambda x, p, q: x * x,
        "cube": lambda x, p, q: x * x * x,
        "sin": lambda x, p, q: sin(x),
        "cos": lambda x, p, q: cos(x),
        "tanh": lambda x, p, q: tanh(x),
        "erf": lambda x, p, q: T(erf(x)),
        "floor": lambda x, p, q: T(floor(x)),
        "affine": lambda x, p, q: x * T(p) + T(q),
        "power": lambda x, p, q: T(power(x, T(p))),
        "clamp_mask": lambda x, p, q: one if x >= T(p) and x <= T(q) else zero,
        "relu": lambda x, p, q: zero if x <= zero else x,
        "leaky_relu": lambda x, p, q: x if x > zero else T(p) * x,
        "elu": lambda x, p, q: x if x > zero else T(p) * expm1(x),
    }


def _longer(T: Any) -> dict[str, Unary]:
    """More than one expression."""
    zero, one, infinity, nan = T(0), T(1), T(np.inf), T(np.nan)

    def root(x: Any, p: float, q: float) -> Any:
        return sqrt(x) if x >= zero else (nan if x < zero else x)

    def inverse_root(x: Any, p: float, q: float) -> Any:
        return one / sqrt(x) if x >= zero else (nan if x < zero else x)

    def logarithm(x: Any, p: float, q: float) -> Any:
        return log(x) if x > zero else (-infinity if x == zero else nan)

    def clamp(x: Any, p: float, q: float) -> Any:
        raised = T(p) if x < T(p) else x
        return T(q) if raised > T(q) else raised

    def sigmoid(x: Any, p: float, q: float) -> Any:
        e = exp(-x if x >= zero else x)
        return (one if x >= zero else e) / (one + e)

    def round_even(x: Any, p: float, q: float) -> Any:
        v = np.float64(x)
        if not abs(v) < _WHOLE:  # NaN too
            return x
        near = (v + _WHOLE) - _WHOLE if v >= 0.0 else (v - _WHOLE) + _WHOLE
        return T(near) if near != 0.0 else x * zero  # keeps the sign of zero

    def softplus(x: Any, p: float, q: float) -> Any:
        z = p * np.float64(x)
        soft = ((z if z > 0.0 else 0.0) + log1p(exp(-abs(z)))) / p
        return x if z > q else T(soft)

    return {
        "sqrt": root, "rsqrt": inverse_root, "log": logarithm, "clamp": clamp, "sigmoid": sigmoid,
        "round": round_even, "softplus": softplus,
    }  # fmt: skip


_POWERS = {2.0: "square", 0.5: "sqrt", -0.5: "rsqrt", -1.0: "reciprocal", 3.0: "cube"}


#: The functions of one element.
UNARY_NAMES = (*_plain(np.float64), *_longer(np.float64))


def unary_name(op: str, p: float) -> str:
    """The function of an operation: powers with a formula of their own, and slopes of zero (0 at -inf, not NaN)."""
    if op == "power":
        return _POWERS.get(p, op)
    return "relu" if op == "leaky_relu" and p == 0.0 else op


@lru_cache(maxsize=256)
def unary_function(name: str, T: Any) -> Any:
    """f(x, p, q) of one of UNARY_NAMES."""
    return device({**_plain(T), **_longer(T)}[name])


_BINARY: dict[str, Binary] = {
    "add": lambda a, b: a + b,
    "subtract": lambda a, b: a - b,
    "multiply": lambda a, b: a * b,
    "divide": lambda a, b: a / b,
    "maximum": lambda a, b: a if a > b or a != a else b,
    "minimum": lambda a, b: a if a < b or a != a else b,
    "power": lambda a, b: power(a, b),
    "atan2": lambda a, b: atan2(a, b),
}
_BOOL: dict[str, Binary] = {
    "add": lambda a, b: a or b,
    "maximum": lambda a, b: a or b,
    "multiply": lambda a, b: a and b,
    "minimum": lambda a, b: a and b,
}


def _whole_power(a: Any, b: Any) -> Any:
    result, base, exponent = np.int64(1), a, b
    while exponent > 0:
        if exponent & 1:
            result = result * base
        base = base * base
        exponent >>= 1
    return result


@lru_cache(maxsize=64)
def binary_function(op: str, T: Any) -> Any:
    """f(a, b) of two floats, integers (which wrap) or bools."""
    if T is np.int64 and op == "power":
        return device(_whole_power)
    return device((_BOOL if T is np.bool_ else _BINARY)[op])


_COMPARE: dict[str, Binary] = {
    "equal": lambda a, b: a == b,
    "not_equal": lambda a, b: a != b,
    "less": lambda a, b: a < b,
    "less_equal": lambda a, b: a <= b,
    "greater": lambda a, b: a > b,
    "greater_equal": lambda a, b: a >= b,
}


@lru_cache(maxsize=8)
def compare_function(op: str) -> Any:
    """f(a, b), a bool."""
    return device(_COMPARE[op])


@lru_cache(maxsize=4)
def gate_function(T: Any, is_zero: bool) -> Any:
    """f(reference, x, slope): x where reference > 0, else slope*x; a slope of zero is a plain zero."""
    zero = T(0)

    def gate(reference: Any, x: Any, slope: float) -> Any:
        return x if reference > zero else (zero if is_zero else T(slope) * x)

    return device(gate)
