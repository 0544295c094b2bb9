"""Initial values in place: PyTorch's functions, and Keras's and PyTorch's initialisers by name.

Glorot and Bengio, AISTATS 2010; He et al., ICCV 2015; LeCun et al., 1998; Saxe et al., ICLR 2014.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from gankernels.autograd import Tensor, no_grad
from gankernels.ops import update
from gankernels.ops.creation import tensor, zeros_like
from gankernels.ops.pointwise import where
from gankernels.ops.random import Generator, default_generator

__all__ = [
    "calculate_gain",
    "constant_",
    "glorot_normal_",
    "glorot_uniform_",
    "he_normal_",
    "he_uniform_",
    "init_by_name",
    "kaiming_normal_",
    "kaiming_uniform_",
    "lecun_normal_",
    "lecun_uniform_",
    "normal_",
    "ones_",
    "orthogonal_",
    "trunc_normal_",
    "uniform_",
    "xavier_normal_",
    "xavier_uniform_",
    "zeros_",
]

# Standard deviation of a standard normal cut at two: Keras divides by it, so that the result has the wanted one.
_TRUNCATED_STD = 0.87962566103423978


def _set(t: Tensor, values: Tensor) -> Tensor:
    return update.copy_(t, Tensor(values.data))


def uniform_(t: Tensor, a: float = 0.0, b: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform numbers in [a, b)."""
    with no_grad():
        return _set(t, (generator or default_generator()).uniform(t.shape, t.dtype, t.device) * (b - a) + a)


def normal_(t: Tensor, mean: float = 0.0, std: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal numbers."""
    with no_grad():
        return _set(t, (generator or default_generator()).normal(t.shape, t.dtype, t.device) * std + mean)


def constant_(t: Tensor, val: float) -> Tensor:
    """One value everywhere."""
    return update.fill_(t, val)


def zeros_(t: Tensor) -> Tensor:
    """0 everywhere."""
    return update.fill_(t, 0.0)


def ones_(t: Tensor) -> Tensor:
    """1 everywhere."""
    return update.fill_(t, 1.0)


def _erfinv(x: Tensor) -> Tensor:
    """Inverse error function of float64 numbers: Giles's polynomials (2010) and two Newton steps."""
    central = (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503,
               -0.00417768164, 0.246640727, 1.50140941)  # fmt: skip
    tail = (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613,
            0.00943887047, 1.00167406, 2.83297682)  # fmt: skip
    w = -((1.0 - x) * (1.0 + x)).log()
    near, far = w - 2.5, w.sqrt() - 3.0
    p, q = zeros_like(x), zeros_like(x)
    for a, b in zip(central, tail, strict=True):
        p, q = p * near + a, q * far + b
    inside = w < 5.0
    y = where(inside, p, q) * x
    for _ in range(2):
        y = y - (y.erf() - x) * (y * y).exp() * (math.sqrt(math.pi) / 2)
    return y


def trunc_normal_(
    t: Tensor,
    mean: float = 0.0,
    std: float = 1.0,
    a: float = -2.0,
    b: float = 2.0,
    generator: Generator | None = None,
) -> Tensor:
    """Normal numbers cut at the absolute bounds a and b, by inversion of the distribution function."""
    if not a < b or not std > 0:
        raise ValueError(f"trunc_normal_: expected a < b and std > 0, got a={a}, b={b}, std={std}")
    low, high = (math.erf((v - mean) / std / math.sqrt(2)) for v in (a, b))
    with no_grad():
        u = (generator or default_generator()).uniform(t.shape, np.float64, t.device) * (high - low) + low
        u = u.clamp(-1 + 2**-53, 1 - 2**-53)
        return _set(t, (_erfinv(u) * (std * math.sqrt(2)) + mean).clamp(a, b).to(t.dtype))


def _fans(op: str, t: Tensor) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight (O, I, *K), as PyTorch counts them."""
    if t.ndim < 2:
        raise ValueError(f"{op}: fans need a tensor of at least two axes (O, I, *K), got shape {t.shape}")
    field = prod(t.shape[2:])
    return t.shape[1] * field, t.shape[0] * field


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """PyTorch's recommended gain of an activation."""
    slope = 0.01 if param is None else float(param)
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2), "selu": 0.75, "leaky_relu": math.sqrt(2 / (1 + slope * slope))}
    plain = ("linear", "sigmoid", *(f"conv{T}{d}d" for T in ("", "_transpose") for d in (1, 2, 3)))
    if nonlinearity in gains:
        return gains[nonlinearity]
    if nonlinearity in plain:
        return 1.0
    raise ValueError(f"calculate_gain: nonlinearity {nonlinearity!r} is not one of {', '.join([*gains, *plain])}")


def xavier_uniform_(t: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Uniform with standard deviation gain*sqrt(2/(fan_in + fan_out))."""
    bound = gain * math.sqrt(6 / sum(_fans("xavier_uniform_", t)))
    return uniform_(t, -bound, bound, generator)


def xavier_normal_(t: Tensor, gain: float = 1.0, generator: Generator | None = None) -> Tensor:
    """Normal with standard deviation gain*sqrt(2/(fan_in + fan_out))."""
    return normal_(t, 0.0, gain * math.sqrt(2 / sum(_fans("xavier_normal_", t))), generator)


def _kaiming_std(op: str, t: Tensor, a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"{op}: mode must be 'fan_in' or 'fan_out', got {mode!r}")
    return calculate_gain(nonlinearity, a) / math.sqrt(max(1, _fans(op, t)[mode == "fan_out"]))


def kaiming_uniform_(
    t: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Uniform with standard deviation gain/sqrt(fan); `a` is the slope of leaky_relu."""
    bound = math.sqrt(3) * _kaiming_std("kaiming_uniform_", t, a, mode, nonlinearity)
    return uniform_(t, -bound, bound, generator)


def kaiming_normal_(
    t: Tensor,
    a: float = 0,
    mode: str = "fan_in",
    nonlinearity: str = "leaky_relu",
    generator: Generator | None = None,
) -> Tensor:
    """Normal with standard deviation gain/sqrt(fan); `a` is the slope of leaky_relu."""
    return normal_(t, 0.0, _kaiming_std("kaiming_normal_", t, a, mode, nonlinearity), generator)


def orthogonal_(t: Tensor, gain: float = 1, generator: Generator | None = None) -> Tensor:
    """Rows (or columns, whichever are fewer) of the weight as a matrix (O, rest) orthonormal, times gain."""
    if t.ndim < 2:
        raise ValueError(f"orthogonal_: expected at least two axes, got shape {t.shape}")
    rows, columns = t.shape[0], prod(t.shape[1:])
    z = (generator or default_generator()).normal((max(rows, columns), min(rows, columns)), np.float64, "cpu")
    q, r = np.linalg.qr(z.numpy())
    q = q * np.sign(np.diagonal(r))
    q = q.T if rows < columns else q
    return _set(t, tensor(q.reshape(t.shape) * gain, dtype=t.dtype, device=t.device))


def _variance_scaling(scale: float, fan: str, kind: str) -> Callable[..., Tensor]:
    """Keras's VarianceScaling on weights (O, I, *K)."""

    def fill(t: Tensor, generator: Generator | None = None) -> Tensor:
        fan_in, fan_out = _fans("variance scaling", t)
        variance = scale / max(1.0, fan_in if fan == "in" else (fan_in + fan_out) / 2)
        if kind == "uniform":
            bound = math.sqrt(3 * variance)
            return uniform_(t, -bound, bound, generator)
        std = math.sqrt(variance) / _TRUNCATED_STD
        return trunc_normal_(t, 0.0, std, -2 * std, 2 * std, generator)

    fill.__doc__ = f"Keras: {kind}, variance {scale:g}/fan, fan {fan}; normal means cut at two standard deviations."
    return fill


glorot_uniform_ = _variance_scaling(1.0, "average", "uniform")
glorot_normal_ = _variance_scaling(1.0, "average", "normal")
he_uniform_ = _variance_scaling(2.0, "in", "uniform")
he_normal_ = _variance_scaling(2.0, "in", "normal")
lecun_uniform_ = _variance_scaling(1.0, "in", "uniform")
lecun_normal_ = _variance_scaling(1.0, "in", "normal")


def _torch_default(t: Tensor, generator: Generator | None = None) -> Tensor:
    return kaiming_uniform_(t, math.sqrt(5), generator=generator)


def _without_generator(fill: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda t, generator=None: fill(t)


_BY_NAME: dict[str, Any] = {
    "glorot_uniform": glorot_uniform_,
    "glorot_normal": glorot_normal_,
    "he_uniform": he_uniform_,
    "he_normal": he_normal_,
    "lecun_uniform": lecun_uniform_,
    "lecun_normal": lecun_normal_,
    "xavier_uniform": xavier_uniform_,
    "xavier_normal": xavier_normal_,
    "kaiming_uniform": kaiming_uniform_,
    "kaiming_normal": kaiming_normal_,
    "orthogonal": orthogonal_,
    "torch": _torch_default,
    "zeros": _without_generator(zeros_),
    "ones": _without_generator(ones_),
}


def init_by_name(t: Tensor, name: str, generator: Generator | None = None) -> Tensor:
    """Fill a tensor by one of the names that Keras and PyTorch use ("torch": PyTorch's default for layers).

    Raises
    ------
    ValueError
        If the name is not known; the message lists those that are.
    """
    if name not in _BY_NAME:
        raise ValueError(f"init_by_name: {name!r} is not one of {', '.join(_BY_NAME)}")
    filled: Tensor = _BY_NAME[name](t, generator=generator)
    return filled
