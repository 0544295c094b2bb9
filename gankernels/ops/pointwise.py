"""Element by element: arithmetic with broadcasting, activations, comparisons. Names and formulas as PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor, pointwise, record
from gankernels.backends import backend_of
from gankernels.dtypes import is_float
from gankernels.ops.common import (
    as_tensor,
    broadcast_array,
    cast,
    check_float,
    empty_like,
    is_scalar,
    promote,
    same_device,
    scalar_beside,
)
from gankernels.ops.shape import sum_to

# Python's builtins of these names are not used in this file.
__all__ = [
    "abs", "add", "atan2", "clamp", "compare", "cos", "div", "elu", "erf", "exp", "expm1", "floor", "gelu",
    "leaky_relu", "log", "log1p", "logsigmoid", "maximum", "minimum", "mul", "neg", "pow",
    "reciprocal", "relu", "round", "rsqrt", "sigmoid", "sign", "sin", "softplus", "sqrt", "square", "sub", "tanh",
    "where",
]  # fmt: skip


def _unary(op: str) -> Any:
    def kernel(x: Any, p: float = 0.0, q: float = 0.0) -> Any:
        y = empty_like(x)
        backend_of(x).unary(op, x, y, p, q)
        return y

    return kernel


def _broadcast_shape(op: str, a: Tensor, b: Tensor) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(a.shape, b.shape)
    except ValueError:
        raise ValueError(f"{op}: shapes {a.shape} and {b.shape} cannot be broadcast together") from None


def _binary_array(op: str, a: Tensor, b: Tensor) -> Any:
    shape = a.shape if a.shape == b.shape else _broadcast_shape(op, a, b)
    out = empty_like(a.data, shape)
    backend_of(a.data).binary(op, a.data, b.data, out)
    return out


def _numbers(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of one dtype; a number takes the dtype of the tensor beside it."""
    if is_scalar(b):
        a = as_tensor(op, "the first operand", a)
        b = scalar_beside(a, b)
    elif is_scalar(a):
        b = as_tensor(op, "the second operand", b)
        a = scalar_beside(b, a)
    return promote(op, a, b)


def _affine_fits(t: Any, number: Any) -> bool:
    return is_scalar(number) and isinstance(t, Tensor) and is_float(t.dtype)


# ---- one scalar operand: x*p + q -----------------------------------------------------------------------------------
_affine_kernel = _unary("affine")


def _affine(x: Any, scale: float, shift: float) -> Tensor:
    t = as_tensor("add", "the operand", x)
    y = _affine_kernel(t.data, float(scale), float(shift))
    return record("affine", y, (t,), lambda ct, _: [_affine(ct, scale, 0.0)])


# ---- arithmetic ----------------------------------------------------------------------------------------------------
def add(a: Any, b: Any) -> Tensor:
    """a + b, broadcast."""
    if _affine_fits(a, b):
        return _affine(a, 1.0, b)
    if _affine_fits(b, a):
        return _affine(b, 1.0, a)
    a, b = _numbers("add", a, b)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [sum_to(ct, t.shape) if wanted else None for t, wanted in zip((a, b), want, strict=True)]

    return record("add", _binary_array("add", a, b), (a, b), rule)


def sub(a: Any, b: Any) -> Tensor:
    """a - b, broadcast."""
    if _affine_fits(a, b):
        return _affine(a, 1.0, -float(b))
    if _affine_fits(b, a):
        return _affine(b, -1.0, a)
    a, b = _numbers("sub", a, b)
    if a.dtype == np.bool_:
        raise TypeError("sub: bool tensors cannot be subtracted; use ~ for the complement, or .to() first")

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [sum_to(ct, a.shape) if want[0] else None, neg(sum_to(ct, b.shape)) if want[1] else None]

    return record("sub", _binary_array("subtract", a, b), (a, b), rule)


def mul(a: Any, b: Any) -> Tensor:
    """a * b, broadcast."""
    if _affine_fits(a, b):
        return _affine(a, b, 0.0)
    if _affine_fits(b, a):
        return _affine(b, a, 0.0)
    a, b = _numbers("mul", a, b)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [
            sum_to(mul(ct, other), t.shape) if wanted else None
            for t, other, wanted in zip((a, b), (b, a), want, strict=True)
        ]

    return record("mul", _binary_array("multiply", a, b), (a, b), rule)


def div(a: Any, b: Any) -> Tensor:
    """a / b, broadcast; integers become float32."""
    a, b = _numbers("div", a, b)
    if not is_float(a.dtype):
        a, b = cast(a, np.float32), cast(b, np.float32)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        by_b = div(ct, b)
        ga = sum_to(by_b, a.shape) if want[0] else None
        return [ga, neg(sum_to(mul(by_b, div(a, b)), b.shape)) if want[1] else None]

    return record("div", _binary_array("divide", a, b), (a, b), rule)


def _extremum(name: str, a: Any, b: Any) -> Tensor:
    a, b = _numbers(name, a, b)
    loses = ("less", "greater") if name == "maximum" else ("greater", "less")

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        tie = compare("equal", a, b).to(ct.dtype) * 0.5  # ties share, as PyTorch
        return [
            sum_to(mul(ct, 1.0 - tie - compare(less, a, b).to(ct.dtype)), t.shape) if wanted else None
            for t, less, wanted in zip((a, b), loses, want, strict=True)
        ]

    return record(name, _binary_array(name, a, b), (a, b), rule)


def maximum(a: Any, b: Any) -> Tensor:
    """The larger of a and b, broadcast; NaN if either is NaN."""
    return _extremum("maximum", a, b)


def minimum(a: Any, b: Any) -> Tensor:
    """The smaller of a and b, broadcast; NaN if either is NaN."""
    return _extremum("minimum", a, b)


def neg(x: Tensor) -> Tensor:
    """-x."""
    return _affine(x, -1.0, 0.0)


def pow(a: Any, b: Any) -> Tensor:
    """a ** b, broadcast; b a number or a tensor."""
    if _affine_fits(a, b):
        return square(a) if b == 2 else _power(a, float(b))
    a, b = _numbers("pow", a, b)
    if not is_float(a.dtype) and compare("less", b, 0).any():
        raise ValueError("pow: integers cannot be raised to negative powers; convert with .to() first")

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        grads: list[Tensor | None] = [None, None]
        if want[0]:  # b*a**(b - 1) is 0 where b is 0, also at a = 0
            constant = compare("equal", b, 0)
            grads[0] = sum_to(where(constant, 0.0, mul(mul(ct, b), pow(a, b - 1.0))), a.shape)
        if want[1]:  # a**b*log(a) is 0 where a is 0 and b >= 0
            flat = _logical_and(compare("equal", a, 0), compare("greater_equal", b, 0))
            grads[1] = sum_to(where(flat, 0.0, mul(mul(ct, pow(a, b)), log(a))), b.shape)
        return grads

    return record("pow", _binary_array("power", a, b), (a, b), rule)


def atan2(a: Any, b: Any) -> Tensor:
    """The angle of the point (b, a), in rad."""
    a, b = _numbers("atan2", a, b)
    check_float("atan2", a=a, b=b)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        scaled = div(ct, add(square(a), square(b)))
        ga = sum_to(mul(scaled, b), a.shape) if want[0] else None
        return [ga, neg(sum_to(mul(scaled, a), b.shape)) if want[1] else None]

    return record("atan2", _binary_array("atan2", a, b), (a, b), rule)


# ---- functions of one element: the derivative as an operation of (x, y) --------------------------------------------
Function = Callable[..., Tensor]


def _float_pointwise(name: str, op: str, derivative: Any, doc: str | None = None) -> Function:
    raw = pointwise(name, _unary(op), derivative)

    def function(x: Tensor, *params: float) -> Tensor:
        check_float(name, x=x)
        return raw(x, *params)

    function.__name__ = name
    function.__doc__ = doc
    return function


def _zero_slope(x: Tensor, y: Tensor, *_: float) -> None:
    return None


abs: Function = _float_pointwise("abs", "absolute", lambda x, y: sign(x), "|x|; its gradient at 0 is 0.")
sign: Function = _float_pointwise("sign", "sign", _zero_slope, "-1, 0 or 1 by the sign of x; its gradient is 0.")
floor: Function = _float_pointwise(
    "floor", "floor", _zero_slope, "The largest whole number not above x; its gradient is 0."
)
round: Function = _float_pointwise(
    "round", "round", _zero_slope, "The nearest whole number, halves to the even one; its gradient is 0."
)
exp: Function = _float_pointwise("exp", "exp", lambda x, y: y, "e to the power x.")
expm1: Function = _float_pointwise("expm1", "expm1", lambda x, y: y + 1.0, "exp(x) - 1, accurate near 0.")
log: Function = _float_pointwise("log", "log", lambda x, y: reciprocal(x), "Natural logarithm; -inf at 0, NaN below.")
log1p: Function = _float_pointwise("log1p", "log1p", lambda x, y: reciprocal(x + 1.0), "log(1 + x), accurate near 0.")
sqrt: Function = _float_pointwise(
    "sqrt", "sqrt", lambda x, y: reciprocal(y) * 0.5, "Square root; NaN below 0, an infinite gradient at 0."
)
rsqrt: Function = _float_pointwise("rsqrt", "rsqrt", lambda x, y: mul(y, square(y)) * -0.5, "1/sqrt(x).")
reciprocal: Function = _float_pointwise("reciprocal", "reciprocal", lambda x, y: neg(square(y)), "1/x.")
square: Function = _float_pointwise("square", "square", lambda x, y: x * 2.0, "x * x.")
sin: Function = _float_pointwise("sin", "sin", lambda x, y: cos(x), "Sine of x in rad.")
cos: Function = _float_pointwise("cos", "cos", lambda x, y: neg(sin(x)), "Cosine of x in rad.")
tanh: Function = _float_pointwise("tanh", "tanh", lambda x, y: 1.0 - square(y), "Hyperbolic tangent.")
sigmoid: Function = _float_pointwise("sigmoid", "sigmoid", lambda x, y: mul(y, 1.0 - y), "1/(1 + exp(-x)).")
erf: Function = _float_pointwise(
    "erf",
    "erf",
    lambda x, y: exp(neg(square(x))) * (2.0 / math.sqrt(math.pi)),
    "The error function, 2/sqrt(pi) times the integral of exp(-t^2) from 0 to x.",
)
_power: Function = _float_pointwise("pow", "power", lambda x, y, p: _power(x, p - 1.0) * p if p else None)
_softplus: Function = _float_pointwise(
    "softplus", "softplus", lambda x, y, beta, threshold: _steep(x * beta, threshold)
)
_clamp: Function = _float_pointwise("clamp", "clamp", lambda x, y, lo, hi: Tensor(_unary("clamp_mask")(x.data, lo, hi)))
# alpha*exp(x) below zero, 1 above: y + alpha is alpha*exp(x) where x <= 0
_elu: Function = _float_pointwise("elu", "elu", lambda x, y, alpha: where(x > 0, 1.0, y + alpha))


def _steep(x: Tensor, threshold: float) -> Tensor:
    slope = sigmoid(x)
    return slope if threshold == math.inf else where(x > threshold, 1.0, slope)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + exp(beta*x)) / beta; x itself where beta*x > threshold."""
    return _softplus(x, float(beta), float(threshold))


def elu(x: Tensor, alpha: float = 1.0) -> Tensor:
    """x where x > 0, else alpha*(exp(x) - 1)."""
    return _elu(x, float(alpha))


def gelu(x: Tensor) -> Tensor:
    """x * (1 + erf(x/sqrt 2)) / 2."""
    return mul(x, erf(x * math.sqrt(0.5)) * 0.5 + 0.5)


def logsigmoid(x: Tensor) -> Tensor:
    """log(1/(1 + exp(-x))), without overflow."""
    return neg(softplus(neg(x), 1.0, math.inf))


def clamp(x: Tensor, min: float | None = None, max: float | None = None) -> Tensor:
    """x limited to [min, max]; either may be None."""
    if min is None and max is None:
        raise ValueError("clamp: at least one of min and max is needed")
    for name, bound in (("min", min), ("max", max)):
        if bound is not None and not is_scalar(bound):
            raise TypeError(
                f"clamp: {name} must be a number, got {type(bound).__name__}; maximum and minimum take tensors"
            )
    return _clamp(x, -math.inf if min is None else float(min), math.inf if max is None else float(max))


# ---- (leaky) ReLU: the derivative is a gate that reads the sign of x, so no mask is stored -------------------------
def _gate_kernel(x: Any, p: tuple[Any, float]) -> Any:
    reference, slope = p
    y = empty_like(x)
    backend_of(x).gate(reference, x, y, slope)
    return y


_gate = Form("gate", x=_gate_kernel, y=_gate_kernel)  # self-adjoint


def gate(ct: Tensor, reference: Any, slope: float) -> Tensor:
    """ct where the array `reference` > 0, else slope * ct."""
    return _gate.open("y", (reference, slope), x=ct)


_leaky_kernel = _unary("leaky_relu")
_clamp_kernel = _unary("clamp")


def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Tensor:
    """x where x > 0, else negative_slope * x."""
    check_float("leaky_relu", x=x)
    slope = float(negative_slope)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [gate(ct, x.data, slope)]

    return record("leaky_relu", _leaky_kernel(x.data, slope), (x,), rule)


def relu(x: Tensor) -> Tensor:
    """x where x > 0, else 0."""
    check_float("relu", x=x)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [gate(ct, x.data, 0.0)]

    return record("relu", _clamp_kernel(x.data, 0.0, math.inf), (x,), rule)  # 0 * -inf would be NaN


# ---- comparison and choice -----------------------------------------------------------------------------------------
def compare(op: str, a: Any, b: Any) -> Tensor:
    """A bool tensor: `op` is one of equal, not_equal, less, less_equal, greater, greater_equal."""
    a, b = _numbers(op, a, b)
    shape = _broadcast_shape(op, a, b)
    backend = backend_of(a.data)
    out = backend.empty(shape, np.bool_)
    backend.compare(op, a.data, b.data, out)
    return Tensor(out)


def _logical_and(a: Tensor, b: Tensor) -> Tensor:
    return Tensor(_binary_array("minimum", a, b))


def where(condition: Tensor, a: Any, b: Any) -> Tensor:
    """a where condition (bool) holds, else b; broadcast."""
    if not isinstance(condition, Tensor) or condition.dtype != np.bool_:
        raise TypeError(
            f"where: condition must be a bool Tensor, got {getattr(condition, 'dtype', type(condition).__name__)}"
        )
    if is_scalar(a) and is_scalar(b):
        a = Tensor(backend_of(condition.data).full((), a, np.float32))
    a, b = _numbers("where", a, b)
    if type(a.data) is not type(condition.data):
        same_device("where", condition=condition, a=a)
    try:
        shape = np.broadcast_shapes(condition.shape, a.shape, b.shape)
    except ValueError:
        raise ValueError(
            f"where: shapes {condition.shape}, {a.shape} and {b.shape} cannot be broadcast together"
        ) from None
    out = empty_like(a.data, shape)
    backend_of(a.data).select(*(broadcast_array(v, shape) for v in (condition.data, a.data, b.data)), out)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        zero = scalar_beside(ct, 0.0)
        ga = sum_to(where(condition, ct, zero), a.shape) if want[0] else None
        return [ga, sum_to(where(condition, zero, ct), b.shape) if want[1] else None]

    return record("where", out, (a, b), rule)
