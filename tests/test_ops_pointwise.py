"""Element by element: values against NumPy in both dtypes, gradients to order 2 (3 for the linear ones), promotion."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import devices
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.backends import cpu
from gankernels.testing.bounds import assert_close, assert_same_bits
from gankernels.testing.gradcheck import check_gradients

DTYPES = (np.float32, np.float64)
# Last places that a function may be off: correctly rounded for arithmetic, a few for what is approximated.
EXACT, ULPS = 0.5, 4.0

erf = np.vectorize(math.erf)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def positive(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).uniform(0.2, 3.0, shape)


UNARY: list[tuple[str, Callable[..., Any], Callable[..., Any], float]] = [
    ("neg", np.negative, normal, EXACT),
    ("abs", np.abs, normal, EXACT),
    ("sign", np.sign, normal, EXACT),
    ("exp", np.exp, normal, ULPS),
    ("expm1", np.expm1, normal, ULPS),
    ("log", np.log, positive, ULPS),
    ("log1p", np.log1p, positive, ULPS),
    ("sqrt", np.sqrt, positive, EXACT),
    ("rsqrt", lambda x: 1 / np.sqrt(x), positive, ULPS),
    ("reciprocal", lambda x: 1 / x, positive, EXACT),
    ("square", np.square, normal, EXACT),
    ("sin", np.sin, normal, ULPS),
    ("cos", np.cos, normal, ULPS),
    ("tanh", np.tanh, normal, ULPS),
    ("sigmoid", lambda x: 1 / (1 + np.exp(-x)), normal, ULPS),
    ("erf", erf, normal, ULPS),
    ("floor", np.floor, normal, EXACT),
    ("round", np.round, normal, EXACT),
    ("relu", lambda x: np.maximum(x, 0), normal, EXACT),
    ("leaky_relu", lambda x: np.where(x > 0, x, np.float64(0.01) * x), normal, 1.5),
    ("elu", lambda x: np.where(x > 0, x, np.expm1(x)), normal, ULPS),
    ("softplus", lambda x: np.logaddexp(0, x), normal, ULPS),
    ("logsigmoid", lambda x: -np.logaddexp(0, -x), normal, ULPS),
    ("gelu", lambda x: x * (1 + erf(x / math.sqrt(2))) / 2, positive, 2 * ULPS),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "expected", "draw", "ulps"), UNARY, ids=[u[0] for u in UNARY])
def test_functions_agree_with_numpy_to_the_last_places(
    name: str, expected: Any, draw: Any, ulps: float, dtype: Any
) -> None:
    for x in (draw(7, 33).astype(dtype), (draw(5, 6) * 3).astype(dtype).T, draw(1).astype(dtype).reshape(())):
        y = getattr(ops, name)(gk.from_array(x)).numpy()
        e = expected(x.astype(np.float64))
        assert y.dtype == dtype
        assert y.shape == x.shape
        assert_close(y, e.astype(dtype), (ulps + 0.5) * np.spacing(np.abs(e).astype(dtype)), name)


@pytest.mark.parametrize("name", [u[0] for u in UNARY if u[0] not in ("sign", "floor", "round")])
def test_the_gradients_of_functions_hold_to_order_two(name: str) -> None:
    draw = next(u[2] for u in UNARY if u[0] == name)
    x = draw(3, 4)
    x[np.abs(x) < 0.05] += 0.2  # away from the kink
    check_gradients(lambda t: getattr(ops, name)(t), [x], order=2, name=name)


@pytest.mark.parametrize("name", ["sign", "floor", "round"])
def test_functions_of_steps_have_no_gradient(name: str) -> None:
    x = gk.tensor(normal(3), requires_grad=True)
    assert gk.grad(getattr(ops, name)(x).sum(), x, allow_unused=True) == (None,)


@pytest.mark.parametrize("name", ["exp", "tanh", "sigmoid", "softplus", "log1p", "expm1", "erf", "logsigmoid", "elu"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_functions_at_the_ends_of_the_number_line(name: str, dtype: Any) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, 88.0, -88.0, 1e-30, 700.0, -700.0], dtype)
    if name == "log1p":
        x = x[x != -np.inf]
        x = x[~(x < -1)]
    expected = next(u[1] for u in UNARY if u[0] == name)
    with np.errstate(all="ignore"):
        e = expected(x.astype(np.float64)).astype(dtype)
        y = getattr(ops, name)(gk.tensor(x)).numpy()
    # below the smallest normal number a result may be flushed to zero
    spacing = np.nan_to_num(np.spacing(np.abs(e)), nan=0.0, posinf=0.0)
    assert_close(y, e, np.maximum(5 * spacing, 2 * np.finfo(dtype).tiny), name)


BINARY: list[tuple[str, Any, Any, float]] = [
    ("add", np.add, normal, EXACT),
    ("sub", np.subtract, normal, EXACT),
    ("mul", np.multiply, normal, EXACT),
    ("div", np.divide, positive, EXACT),
    ("maximum", np.maximum, normal, EXACT),
    ("minimum", np.minimum, normal, EXACT),
    ("pow", np.power, positive, ULPS),
    ("atan2", np.arctan2, normal, ULPS),
]


@st.composite
def broadcast_shapes(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    full = tuple(draw(st.lists(st.integers(0, 4), max_size=4)))

    def some(shape: tuple[int, ...]) -> tuple[int, ...]:
        kept = tuple(1 if draw(st.booleans()) else n for n in shape)
        return kept[draw(st.integers(0, len(kept))) :]

    return some(full), some(full)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "expected", "draw", "ulps"), BINARY, ids=[b[0] for b in BINARY])
@given(shapes=broadcast_shapes())
def test_arithmetic_broadcasts_as_numpy(
    name: str, expected: Any, draw: Any, ulps: float, dtype: Any, shapes: Any
) -> None:
    a, b = (np.asarray(draw(*s, seed=i)).astype(dtype) for i, s in enumerate(shapes))
    y = getattr(ops, name)(gk.tensor(a), gk.tensor(b)).numpy()
    e = expected(a.astype(np.float64), b.astype(np.float64))
    assert_close(y, e.astype(dtype), (ulps + 0.5) * np.spacing(np.abs(e).astype(dtype)), name)


@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((2, 1, 4), (3, 1)), ((3,), ()), ((1, 1), (2, 3))])
@pytest.mark.parametrize(("name", "draw"), [(b[0], b[2]) for b in BINARY])
def test_the_gradients_of_arithmetic_hold_to_order_two(name: str, draw: Any, shapes: Any) -> None:
    inputs = [np.asarray(draw(*s, seed=i)) for i, s in enumerate(shapes)]
    check_gradients(lambda a, b: getattr(ops, name)(a, b), inputs, order=3 if name in ("add", "mul") else 2, name=name)


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_on_either_side_behave_as_in_numpy(dtype: Any) -> None:
    x = positive(3, 5).astype(dtype)
    t = gk.tensor(x)
    two = dtype(2.7)
    for y, e in (
        (t + 2.7, x + two), (2.7 + t, two + x), (t - 2.7, x - two), (2.7 - t, two - x), (t * 2.7, x * two),
        (2.7 * t, two * x), (t / 2.7, x / two), (2.7 / t, two / x), (-t, -x), (abs(-t), x), (t / 3, x / dtype(3)),
    ):  # fmt: skip
        assert y.dtype == dtype
        assert_same_bits(y.numpy(), e)
    for y, e in ((t**2, x**2), (t**-1.5, x ** dtype(-1.5)), (t**0.5, np.sqrt(x)), (2.7**t, two**x)):
        assert_close(y.numpy(), e, 6 * np.spacing(e))
    for y in (
        t + np.float64(1),
        np.float64(1) + t,
        np.float32(1) * t,
        1 + t,
        t * np.ones(5, dtype),
        np.ones(5, dtype) * t,
    ):
        assert isinstance(y, gk.Tensor)
        assert y.dtype == dtype


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t + 2.0, lambda t: 2.0 - t, lambda t: t * -3.0, lambda t: t / 3.0, lambda t: 2.0 / t, lambda t: t**3,
        lambda t: t**-2, lambda t: t**0.5, lambda t: 2.0**t, lambda t: ops.clamp(t, 0.5, 2.0),
        lambda t: t.clamp(min=1.0),
        lambda t: ops.maximum(t, 1.0), lambda t: ops.minimum(1.0, t), lambda t: ops.where(t > 1, t * t, 3.0),
        lambda t: ops.softplus(t, beta=3.0, threshold=2.0), lambda t: ops.elu(t - 1.5, 0.7), lambda t: t.clone() ** 2,
        lambda t: ops.leaky_relu(t - 1.5, 0.3), lambda t: t**1, lambda t: t.to(np.float64),
    ],
)  # fmt: skip
def test_the_gradients_with_numbers_hold_to_order_two(f: Any) -> None:
    x = positive(3, 4)
    for kink in (0.5, 1.0, 1.5, 2.0, 2 / 3):
        x[np.abs(x - kink) < 0.03] += 0.07
    check_gradients(f, [x], order=2)


# ---- dtypes --------------------------------------------------------------------------------------------------------
def test_dtypes_are_promoted_as_pytorch_promotes_them() -> None:
    f32, f64 = gk.zeros(2), gk.zeros(2, dtype=np.float64)
    i64, boolean = gk.zeros(2, dtype=np.int64), gk.zeros(2, dtype=np.bool_)
    assert (f32 + f64).dtype == np.float64
    assert (i64 + f32).dtype == np.float32
    assert (boolean * f64).dtype == np.float64
    assert (boolean + i64).dtype == np.int64
    assert (i64 + 1).dtype == np.int64
    assert (i64 + 1.5).dtype == np.float32
    assert (boolean + 1).dtype == np.int64
    assert (i64 / 2).dtype == np.float32
    assert (i64 / i64).dtype == np.float32
    assert (f32 + 1e-300).dtype == np.float32
    assert (f64 * np.float32(2)).dtype == np.float64


def test_large_integers_are_not_rounded() -> None:
    big = 2**62 + 1
    t = gk.tensor([big])
    assert (t + 1).item() == big + 1
    assert (t - 1).item() == big - 1
    assert (t * 1).item() == big
    assert (t == big).item() is True
    assert (t == big - 1).item() is False


def test_comparisons_agree_with_numpy_also_for_nan() -> None:
    a = np.array([1.0, 2.0, np.nan, 2.0, np.inf])
    b = np.array([2.0, 2.0, 2.0, np.nan, np.inf])
    for x, y in ((a, b), (a.astype(np.float32), b.astype(np.float32)), (np.array([3, -1]), np.array([3, 2]))):
        s, t = gk.tensor(x), gk.tensor(y)
        for ours, theirs in (
            (s < t, x < y), (s <= t, x <= y), (s > t, x > y), (s >= t, x >= y), (s == t, x == y), (s != t, x != y),
            (s < 2, x < 2), (s.__ge__(2), x >= 2), (s == 2, x == 2), (s > 0.5, x > 0.5),
        ):  # fmt: skip
            assert ours.dtype == np.bool_
            assert_same_bits(ours.numpy(), theirs)


def test_comparison_with_something_else_is_not_equal() -> None:
    t = gk.zeros(2)
    assert (t == None) is False  # noqa: E711
    assert (t != "zeros") is True


def test_masks_combine() -> None:
    a, b = gk.tensor([True, True, False]), gk.tensor([True, False, False])
    assert (a & b).tolist() == [True, False, False]
    assert (a | b).tolist() == [True, True, False]
    assert (~a).tolist() == [False, False, True]
    with pytest.raises(TypeError, match="expected bool tensors, got float32"):
        a & gk.zeros(3)


def test_where_takes_numbers_and_broadcasts() -> None:
    c = gk.tensor([[True], [False]])
    assert ops.where(c, 1.0, gk.zeros(3)).tolist() == [[1, 1, 1], [0, 0, 0]]
    assert ops.where(c, gk.tensor([1, 2]), 0).dtype == np.int64
    assert ops.where(c, 1.0, 0.0).dtype == np.float32
    inputs = [normal(2, 3), normal(3, seed=1)]
    check_gradients(lambda a, b: ops.where(c, a, b), inputs, order=3)


def test_the_gradient_of_a_chosen_branch_ignores_nan_in_the_other() -> None:
    x = gk.tensor([-1.0, 4.0], requires_grad=True)
    (g,) = gk.grad(ops.where(x > 0, x * 2.0, ops.sqrt(ops.abs(x))).sum(), x)
    assert g.tolist() == [-0.5, 2.0]


def test_relu_of_infinities_and_nan() -> None:
    x = gk.tensor([np.inf, -np.inf, np.nan])
    assert_close(ops.relu(x).numpy(), [np.inf, 0.0, np.nan], 0)


def test_scalar_division_is_division() -> None:
    x = gk.tensor(np.arange(1, 200, dtype=np.float32))
    assert_same_bits((x / 49).numpy(), x.numpy() / np.float32(49))
    assert (gk.tensor([1e-44]) / 1e-44).item() == 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_isa_and_thread_count_gives_equal_bits_for_exact_functions(dtype: Any) -> None:
    isa, threads = cpu.isa(), cpu.num_threads()
    x, z = normal(37, 1001).astype(dtype), positive(37, 1001).astype(dtype)
    found: dict[str, bytes] = {}
    try:
        for name, n in devices.cpu_settings():
            cpu.set_isa(name)
            cpu.set_num_threads(n)
            a, b = gk.tensor(x), gk.tensor(z)
            for label, y in (
                ("affine", a * 1.0 + 0.5), ("mul", a * b), ("div", a / b), ("sqrt", b.sqrt()),
                ("gate", ops.relu(a)),
                ("leaky", ops.leaky_relu(a, 0.25)), ("max", ops.maximum(a, b)), ("clamp", ops.clamp(a, -1, 1)),
                ("less", a < b), ("where", ops.where(a > 0, a, b)), ("add column", a + b[:, :1]),
            ):  # fmt: skip
                bits = y.numpy().tobytes()
                assert found.setdefault(label, bits) == bits, f"{label} on {name} with {n} threads"
    finally:
        cpu.set_isa(isa)
        cpu.set_num_threads(threads)


# ---- dropout -------------------------------------------------------------------------------------------------------
def test_dropout_keeps_its_mask_in_every_derivative() -> None:
    check_gradients(lambda x: ops.dropout(x, 0.4, generator=gk.Generator(5)), [normal(4, 6)], order=3)
    check_gradients(lambda x: ops.square(ops.dropout(x, 0.4, generator=gk.Generator(5))), [normal(4, 6)], order=2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout_scales_what_it_keeps(dtype: Any) -> None:
    y = ops.dropout(gk.ones(100, 100, dtype=dtype), 0.25, generator=gk.Generator(1)).numpy()
    assert set(np.unique(y)) == {dtype(0), dtype(1) / dtype(0.75)}
    assert abs((y == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 1e4)
    assert not ops.dropout(gk.ones(10), 1.0).numpy().any()
    x = gk.ones(3)
    assert ops.dropout(x, 0.5, training=False) is x


def test_dropout_of_a_view_and_of_its_copy_are_equal() -> None:
    x = gk.tensor(normal(6, 5)).transpose(0, 1)
    a, b = (ops.dropout(t, 0.5, generator=gk.Generator(3)) for t in (x, gk.tensor(x)))
    assert_same_bits(a.numpy(), b.numpy())


def test_a_generator_continues_from_its_state() -> None:
    g = gk.Generator(7)
    g.normal((5,))
    state = g.state()
    first = g.uniform((9,)).numpy()
    g.restore(state)
    assert_same_bits(g.uniform((9,)).numpy(), first)
    assert first.min() >= 0
    assert first.max() < 1
    after = g.offset
    second = g.uniform((9,)).numpy()
    assert not set(first.tolist()) & set(second.tolist())
    assert_same_bits(gk.Generator(7, after).uniform((9,)).numpy(), second)
    x = gk.ones(50)
    assert not np.array_equal(ops.dropout(x, 0.5, generator=g).numpy(), ops.dropout(x, 0.5, generator=g).numpy())
    big = gk.Generator(1).normal((100_000,), np.float64).numpy()
    assert abs(big.mean()) < 5 / math.sqrt(1e5)
    assert abs(big.std() - 1) < 5 / math.sqrt(2e5)
