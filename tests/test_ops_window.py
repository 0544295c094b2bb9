"""Pooling and upsampling: values against a loop over taps, gradients to order 3, identities, NaN, equal bits."""

from __future__ import annotations

from typing import Any

import devices
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.backends import cpu
from gankernels.geometry import WindowGeometry
from gankernels.testing import oracle
from gankernels.testing.bounds import assert_close, assert_same_bits, gamma
from gankernels.testing.cases import Case, cases
from gankernels.testing.gradcheck import check_adjoint, check_gradients

DTYPES = (np.float32, np.float64)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def window_of(case: Case) -> WindowGeometry:
    assert isinstance(case.geometry, WindowGeometry)
    return case.geometry


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("max_pool"), ids=str)
def test_max_pool_gives_the_maxima_and_their_first_positions(case: Case, dtype: Any) -> None:
    g = window_of(case)
    x = np.random.default_rng(0).integers(-3, 3, g.x_shape).astype(dtype)  # many ties
    x[..., 0] = np.where(x[..., 0] > 1, np.nan, x[..., 0])
    y, index = ops.max_pool(gk.tensor(x), return_indices=True, **case.arguments)
    values, positions = oracle.max_window(x, g)
    assert_close(y.numpy(), values, 0)
    real = ~np.isnan(values)
    assert_same_bits(index.numpy()[real], positions[real])
    picked = (
        np.take_along_axis(x.reshape(*x.shape[:2], -1), index.numpy().reshape(*x.shape[:2], -1), 2) if x.size else x
    )
    if x.size:
        assert_close(picked.reshape(y.shape), values, 0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", cases("avg_pool"), ids=str)
def test_avg_pool_and_its_adjoint_stay_within_their_bounds(case: Case, dtype: Any) -> None:
    g = window_of(case)
    (x,) = case.inputs(dtype)
    ct = normal(*g.y_shape, seed=1).astype(dtype)
    t = gk.tensor(x, requires_grad=True)
    y = ops.avg_pool(t, **case.arguments)
    (gx,) = gk.grad(y, t, gk.tensor(ct))
    bound = gamma(int(np.prod(g.kernel)) + 3, dtype)
    wide, wide_ct = x.astype(np.float64), ct.astype(np.float64)
    assert_close(y.detach().numpy(), oracle.average_window(wide, g), bound * oracle.average_window(abs(wide), g))
    assert_close(gx.numpy(), oracle.spread_window(wide_ct, g), bound * oracle.spread_window(abs(wide_ct), g))


@pytest.mark.parametrize("case", [c for c in cases() if c.op.endswith("pool") and c.flops], ids=str)
def test_the_gradients_of_pooling_hold_to_order_three(case: Case) -> None:
    (x,) = case.inputs()
    x = np.random.default_rng(0).permutation(x.size).reshape(x.shape) / 7.0  # no ties within a step
    check_gradients(lambda t: getattr(ops, case.op)(t, **case.arguments), [x], order=3, name=case.name)
    check_gradients(lambda t: ops.square(getattr(ops, case.op)(t, **case.arguments)), [x / 50], order=2, name=case.name)


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    factors=st.lists(st.integers(1, 3), min_size=3, max_size=3),
    dtype=st.sampled_from(DTYPES),
)
def test_upsampling_repeats_and_sum_blocks_is_its_adjoint(shape: Any, factors: Any, dtype: Any) -> None:
    f = tuple(factors[: len(shape)])
    x = normal(2, 3, *shape).astype(dtype)
    y = ops.upsample_nearest(gk.tensor(x), f)
    assert_same_bits(y.numpy(), oracle.upsample_nearest(x, f))
    z = normal(*y.shape, seed=1).astype(dtype)
    total = ops.sum_blocks(gk.tensor(z), f)
    wide = z.astype(np.float64)
    bound = gamma(int(np.prod(f)) + 1, dtype) * oracle.sum_blocks(abs(wide), f)
    assert_close(total.numpy(), oracle.sum_blocks(wide, f), bound)
    forward = lambda t: ops.upsample_nearest(t, f)
    check_adjoint(forward, lambda t: ops.sum_blocks(t, f), x.astype(np.float64), y.shape)


def test_averaging_what_was_upsampled_gives_it_back() -> None:
    x = np.random.default_rng(0).integers(-9, 9, (2, 3, 4, 5, 3)).astype(np.float32)
    y = ops.avg_pool(ops.upsample_nearest(gk.tensor(x), (2, 2, 4)), (2, 2, 4))
    assert_same_bits(y.numpy() + 0.0, x + 0.0)


@pytest.mark.parametrize("factors", [3, (2, 1, 3)])
def test_the_gradients_of_upsampling_hold_to_order_three(factors: Any) -> None:
    check_gradients(lambda t: ops.upsample_nearest(t, factors), [normal(1, 2, 2, 3, 2)], order=3)
    f = (factors,) * 3 if isinstance(factors, int) else factors
    check_gradients(lambda t: ops.sum_blocks(t, factors), [normal(1, 2, *(2 * n for n in f))], order=3)


def test_nan_passes_through_max_pooling() -> None:
    x = gk.tensor([[[1.0, np.nan, 3.0, 2.0, 0.0, 1.0]]])
    y, index = ops.max_pool(x, 2, return_indices=True)
    assert_close(y.numpy(), [[[np.nan, 3.0, 1.0]]], 0)
    assert index.tolist() == [[[1, 2, 5]]]


def test_windows_of_minus_infinity_have_that_maximum() -> None:
    y, index = ops.max_pool(gk.full((1, 1, 4), -np.inf), 2, return_indices=True)
    assert y.tolist() == [[[-np.inf, -np.inf]]]
    assert index.tolist() == [[[0, 2]]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_isa_and_thread_count_gives_equal_bits(dtype: Any) -> None:
    isa, threads = cpu.isa(), cpu.num_threads()
    x = np.random.default_rng(0).integers(-4, 5, (5, 6, 8, 8, 8)).astype(dtype)
    found: dict[str, bytes] = {}
    try:
        for name, n in devices.cpu_settings():
            cpu.set_isa(name)
            cpu.set_num_threads(n)
            t = gk.tensor(x, requires_grad=True)
            maximum, average = ops.max_pool(t, 3, 2, 1), ops.avg_pool(t, 2)
            results = {
                "max": maximum, "average": average, "up": ops.upsample_nearest(t, (2, 1, 3)),
                "blocks": ops.sum_blocks(t, 2), "scatter": gk.grad((maximum * 3.0).sum(), t)[0],
                "spread": gk.grad((average * 3.0).sum(), t)[0],
            }  # fmt: skip
            for label, y in results.items():
                bits = y.detach().numpy().tobytes()
                assert found.setdefault(label, bits) == bits, f"{label} on {name} with {n} threads"
    finally:
        cpu.set_isa(isa)
        cpu.set_num_threads(threads)


def test_strided_inputs_give_the_same_as_contiguous_ones() -> None:
    strided = gk.from_array(normal(8, 6, 3, 2).transpose(3, 2, 0, 1)[:, :, ::-1])
    copied = gk.tensor(strided)
    for f in (
        lambda t: ops.max_pool(t, 2), lambda t: ops.avg_pool(t, 3, 1, 1), lambda t: ops.upsample_nearest(t, 2),
        lambda t: ops.sum_blocks(t, 2),
    ):  # fmt: skip
        assert_same_bits(f(strided).numpy(), f(copied).numpy())
