"""Pointwise kernels: accuracy in ulp against long double, special values, strides and broadcasting, equal bits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import devices
import numpy as np
import pytest
from devices import backend

import gankernels as gk
from gankernels.backends import cpu

Array = np.ndarray[Any, np.dtype[Any]]
LONG = np.longdouble
DTYPES = [np.float32, np.float64]

SPECIAL = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    np.inf,
    -np.inf,
    np.nan,
    1e-40,
    -1e-40,
    1e-310,
    5e-324,
    0.5,
    1.5,
    2.5,
    -0.5,
    88.7,
    89.0,
]
SPECIAL += [-87.4, -103.9, -104.1, 709.7, 709.8, -708.5, -745.1, -746.0, 1e30, -1e30, 3e38, 20.0, -20.0]


def softplus(x: Array) -> Array:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


# name, exact function in long double, ulp in float32 and float64
EXACT: list[tuple[str, Callable[[Array], Array], float, float]] = [
    ("negate", np.negative, 0, 0),
    ("absolute", np.abs, 0, 0),
    ("sign", np.sign, 0, 0),
    ("floor", np.floor, 0, 0),
    ("round", np.rint, 0, 0),
    ("sqrt", np.sqrt, 0.51, 0.51),
    ("square", np.square, 0.51, 0.51),
    ("reciprocal", lambda x: 1 / x, 0.51, 0.51),
    ("rsqrt", lambda x: 1 / np.sqrt(x), 1.5, 1.5),
    ("exp", np.exp, 0.6, 1.5),
    ("expm1", np.expm1, 0.6, 2.5),
    ("log", np.log, 0.6, 1.5),
    ("log1p", np.log1p, 0.6, 2.0),
    ("tanh", np.tanh, 0.6, 3.0),
    ("sigmoid", lambda x: np.where(x < 0, np.exp(np.minimum(x, 0)), 1) / (1 + np.exp(-np.abs(x))), 0.6, 3.0),
    ("softplus", softplus, 0.6, 3.0),
    ("sin", np.sin, 0.6, 1.0),
    ("cos", np.cos, 0.6, 1.0),
]


def sample(dtype: Any) -> Array:
    rng = np.random.default_rng(0)
    values = rng.normal(size=20000) * 10.0 ** rng.uniform(-12, 2.8, 20000)
    with np.errstate(over="ignore"):
        return np.concatenate([values, SPECIAL]).astype(dtype)


def ulps(actual: Array, expected: Array) -> Array:
    """Distance in units of the last place of the rounded expectation; infinite where one is finite and one is not."""
    with np.errstate(all="ignore"):
        rounded = expected.astype(actual.dtype)
        same = (actual == rounded) | (np.isnan(actual) & np.isnan(rounded))
        largest = np.finfo(actual.dtype).max
        spacing = np.spacing(np.minimum(np.abs(rounded), largest)).astype(LONG)
        return np.where(same, 0, np.abs(actual.astype(LONG) - expected) / spacing)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "exact", "tol32", "tol64"), EXACT, ids=[e[0] for e in EXACT])
def test_unary_is_accurate_to_the_last_places_for_all_magnitudes(
    every_isa: str, name: str, exact: Callable[[Array], Array], tol32: float, tol64: float, dtype: Any
) -> None:
    x = sample(dtype)
    with np.errstate(all="ignore"):
        expected = exact(x.astype(LONG))
    y = np.full_like(x, -7)
    backend.unary(name, x, y, 1.0, np.inf)
    error = ulps(y, expected)
    worst = np.nanargmax(error)
    assert not np.isnan(error).any()
    tolerance = tol32 if dtype is np.float32 else tol64
    if gk.get_default_device() != "cpu":  # its library says 2 units for each of at most two functions
        tolerance = max(tolerance, 4.0)
    assert error[worst] <= tolerance, (x[worst], y[worst], expected[worst])


@pytest.mark.parametrize("dtype", DTYPES)
def test_unary_with_parameters_follows_its_definition(every_isa: str, dtype: Any) -> None:
    x = sample(dtype)
    t = dtype
    with np.errstate(all="ignore"):
        cases = [
            ("affine", 1.7, -0.3, x * t(1.7) + t(-0.3)),
            ("power", 2.0, 0.0, x * x),
            ("power", 3.0, 0.0, x * x * x),
            ("power", 0.5, 0.0, np.sqrt(x)),
            ("power", -1.0, 0.0, 1 / x),
            ("power", 2.5, 0.0, np.power(x.astype(np.float64), 2.5).astype(dtype)),
            ("clamp", -0.5, 0.5, np.clip(x, t(-0.5), t(0.5))),
            ("clamp_mask", -0.5, 0.5, ((x >= t(-0.5)) & (x <= t(0.5))).astype(dtype)),
            ("leaky_relu", 0.2, 0.0, np.where(x > 0, x, t(0.2) * x)),
            ("leaky_relu", 0.0, 0.0, np.where(x <= 0, 0, x)),
            ("elu", 1.5, 0.0, np.where(x > 0, x, t(1.5) * np.expm1(x))),
        ]
    for name, p, q, expected in cases:
        y = np.full_like(x, -7)
        backend.unary(name, x, y, p, q)
        tol = 4 if name in ("elu", "power") else 0
        error = ulps(y, expected.astype(LONG))
        assert error.max() <= tol, (name, p, x[np.argmax(error)])


def test_softplus_is_linear_above_its_threshold() -> None:
    x = np.array([0.9, 1.1], np.float64)
    y = np.full_like(x, np.nan)
    backend.unary("softplus", x, y, 2.0, 2.0)
    assert y[1] == x[1]
    assert abs(y[0] - np.log1p(np.exp(1.8)) / 2) <= 1e-15


BINARY = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
    "atan2": np.arctan2,
    "power": np.power,
}
COMPARE = {
    "equal": np.equal,
    "not_equal": np.not_equal,
    "less": np.less,
    "less_equal": np.less_equal,
    "greater": np.greater,
    "greater_equal": np.greater_equal,
}


def operand_pairs(dtype: Any) -> list[tuple[Array, Array]]:
    """Contiguous, broadcast either way, permuted, reversed, stepped, constant, rank 0, empty, longer than a task."""
    rng = np.random.default_rng(1)
    a = np.abs(rng.normal(size=(3, 5, 4, 6, 7))).astype(dtype) + dtype(0.1)
    bias = rng.normal(size=5).astype(dtype)[:, None, None, None]
    channels_last = np.ascontiguousarray(a.transpose(0, 2, 3, 4, 1)).transpose(0, 4, 1, 2, 3)
    long = np.abs(rng.normal(size=40001)).astype(dtype)
    return [
        (a, a[::-1]),
        (a, np.broadcast_to(bias, a.shape)),
        (np.broadcast_to(np.abs(bias), a.shape), a),
        (channels_last, np.broadcast_to(bias, a.shape)),
        (a[:, :, ::-1, ::2, ::-3], a[:, :, :, ::2, ::3]),
        (a[..., :1] + np.zeros_like(a), np.broadcast_to(a[..., :1], a.shape)),
        (np.broadcast_to(dtype(2.0), (4, 3)), np.broadcast_to(dtype(3.0), (4, 3))),
        (np.array(2.0, dtype), np.array(3.0, dtype)),
        (a[:0], a[:0]),
        (long, long[::-1]),
    ]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BINARY)
def test_binary_walks_every_layout(every_isa: str, name: str, dtype: Any) -> None:
    library = 2 if gk.get_default_device() == "cpu" else 4  # units, of these two functions
    for a, b in operand_pairs(dtype):
        with np.errstate(all="ignore"):
            expected = BINARY[name](a.astype(np.float64), b.astype(np.float64)).astype(dtype)
        for y in (np.full(a.shape, np.nan, dtype), np.full(a.shape[::-1], np.nan, dtype).T):
            backend.binary(name, a, b, y)
            assert ulps(y, expected.astype(LONG)).max(initial=0) <= (library if name in ("atan2", "power") else 0)


@pytest.mark.parametrize("name", ["maximum", "minimum"])
def test_extrema_propagate_nan_from_either_side(every_isa: str, name: str) -> None:
    a = np.array([np.nan, 1.0, np.nan, np.inf], np.float32)
    b = np.array([1.0, np.nan, np.nan, -np.inf], np.float32)
    y = np.zeros_like(a)
    backend.binary(name, a, b, y)
    np.testing.assert_array_equal(y, BINARY[name](a, b))


@pytest.mark.parametrize("dtype", [*DTYPES, np.int64])
@pytest.mark.parametrize("name", COMPARE)
def test_compare_select_and_gate_walk_every_layout(every_isa: str, name: str, dtype: Any) -> None:
    for a, b in operand_pairs(np.float64 if dtype is np.int64 else dtype):
        if dtype is np.int64:
            a, b = (3 * a).astype(dtype), (3 * b).astype(dtype)
        chosen = np.zeros(a.shape, bool)
        backend.compare(name, a, b, chosen)
        np.testing.assert_array_equal(chosen, COMPARE[name](a, b))
        if dtype is np.int64:
            continue
        y = np.full(a.shape, np.nan, dtype)
        for mask in (chosen, chosen[::-1] if a.ndim else chosen):
            backend.select(mask, a, b, y)
            np.testing.assert_array_equal(y, np.where(mask, a, b))
        backend.gate(b, a, y, 0.2)
        np.testing.assert_array_equal(y, np.where(b > 0, a, dtype(0.2) * a))
        backend.copy(b, y)
        np.testing.assert_array_equal(y, b)


def test_a_closed_gate_and_a_rectifier_give_zero_at_infinity(every_isa: str) -> None:
    x = np.array([-np.inf, np.inf, np.nan], np.float32)
    y = np.full_like(x, -7)
    backend.unary("leaky_relu", x, y, 0.0)
    np.testing.assert_array_equal(y, np.array([0.0, np.inf, np.nan], np.float32))
    backend.gate(np.array([-1.0, 0.0, 1.0], np.float32), np.full(3, np.inf, np.float32), y, 0.0)
    np.testing.assert_array_equal(y, np.array([0.0, 0.0, np.inf], np.float32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fill_and_copy_reach_every_element_of_a_strided_output_and_no_other(dtype: Any) -> None:
    base = np.full((6, 7, 8), -7, dtype)
    target = base[::2, 1:6, ::-3]
    backend.fill(target, 2.5)
    assert (target == 2.5).all()
    assert (base == -7).sum() == base.size - target.size
    backend.copy(np.arange(target.size, dtype=dtype).reshape(target.shape), target)
    np.testing.assert_array_equal(target.ravel(), np.arange(target.size))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["exp", "log1p", "tanh", "sigmoid", "softplus", "rsqrt"])
def test_every_isa_and_thread_count_gives_the_same_bits(name: str, dtype: Any, thread_counts: tuple[int, ...]) -> None:
    x = np.tile(sample(dtype), 3)[1:]
    before, results = cpu.isa(), []
    for isa, n in devices.cpu_settings():
        cpu.set_isa(isa)
        gk.set_num_threads(n)
        y = np.full_like(x, -7)
        backend.unary(name, x, y, 1.0, 20.0)
        results.append(np.where(np.isnan(y), dtype(0), y).tobytes())
    cpu.set_isa(before)
    assert len(set(results)) == 1
