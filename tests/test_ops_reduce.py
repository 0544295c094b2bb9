"""Sums, extremes, softmax, matrix products and normalisation: derived bounds, gradients, equal bits."""

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
from gankernels.testing.bounds import assert_close, assert_same_bits, gamma, matmul_bound, rounding, sum_bound
from gankernels.testing.gradcheck import check_gradients

DTYPES = (np.float32, np.float64)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


AXES: list[Any] = [None, 0, 1, -1, (0, 2), (1, 3), (0, 1, 2, 3), (-1, 0), []]


@pytest.mark.parametrize("keepdim", [False, True])
@pytest.mark.parametrize("dim", AXES, ids=repr)
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_stay_within_their_bound(dim: Any, keepdim: bool, dtype: Any) -> None:
    x = normal(3, 4, 2, 5).astype(dtype)
    axis = tuple(dim) if isinstance(dim, list) else dim
    wide = x.astype(np.float64)
    expected = wide.sum(axis=axis, keepdims=keepdim)
    bound = sum_bound(x, dtype, axis, keepdim)
    y = gk.tensor(x).sum(dim, keepdim)
    assert y.dtype == dtype
    assert_close(y.numpy(), expected, bound)
    count = x.size / max(expected.size, 1)
    assert_close(gk.tensor(x).mean(dim, keepdim).numpy(), expected / count, 1.1 * bound / count)
    strided = gk.from_array(np.asfortranarray(x)[:, ::-1])
    assert_close(
        strided.sum(dim, True).numpy(),
        wide[:, ::-1].sum(axis=axis, keepdims=True),
        sum_bound(x[:, ::-1], dtype, axis, True),
    )


def test_integers_and_masks_are_counted_in_int64() -> None:
    assert gk.tensor([True, True]).sum().item() == 2
    assert gk.tensor([2**62, 1]).sum().item() == 2**62 + 1
    assert gk.tensor([[1, 2], [3, 4]]).sum(0).tolist() == [4, 6]


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sums_of_integers_are_exact_with_equal_bits_on_every_isa_and_thread_count(dtype: Any) -> None:
    isa, threads = cpu.isa(), cpu.num_threads()
    shape = devices.extents(3, 50, 1037)
    x = np.random.default_rng(0).integers(-8, 9, shape).astype(dtype)
    r = normal(*shape).astype(dtype)
    try:
        per_isa: dict[str, bytes] = {}
        for name, n in devices.cpu_settings():
            cpu.set_isa(name)
            cpu.set_num_threads(n)
            for dim in (None, 0, 1, 2, (0, 2)):
                assert_same_bits(gk.tensor(x).sum(dim).numpy(), x.sum(axis=dim))
                bits = gk.tensor(r).sum(dim).numpy().tobytes()
                assert per_isa.setdefault(f"{name} {dim}", bits) == bits, f"{dim} on {name} with {n} threads"
            t = gk.tensor(r)
            for label, y in (("softmax", ops.softmax(t, 1)), ("norm", ops.instance_norm(t))):
                assert per_isa.setdefault(f"{name} {label}", y.numpy().tobytes()) == y.numpy().tobytes()
    finally:
        cpu.set_isa(isa)
        cpu.set_num_threads(threads)


@pytest.mark.parametrize("dim", [None, 0, -1, (0, 2)], ids=repr)
@pytest.mark.parametrize("unbiased", [True, False])
def test_variance_is_numpys_also_far_from_zero(dim: Any, unbiased: bool) -> None:
    x = normal(4, 3, 5) + 1e4
    e = x.var(axis=dim, ddof=int(unbiased))
    assert_close(gk.tensor(x).var(dim, unbiased).numpy(), e, 1e-10)
    assert_close(
        gk.tensor(x).std(dim, unbiased, keepdim=True).numpy(), x.std(axis=dim, ddof=int(unbiased), keepdims=True), 1e-10
    )


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t.var(), lambda t: t.var(1, False), lambda t: t.std((0, 1)), lambda t: t.norm(dim=2),
        lambda t: t.norm(), lambda t: t.max(), lambda t: t.max(1)[0], lambda t: t.min(0, True)[0],
        lambda t: t.min(), lambda t: t.amax((0, 2)),
        lambda t: t.amin(), lambda t: t.amin(-1, True), lambda t: ops.softmax(t, 1), lambda t: ops.softmax(t, -1),
        lambda t: ops.log_softmax(t, 0), lambda t: t.logsumexp(1), lambda t: t.logsumexp(-1, True),
        lambda t: ops.square(t).sum(1), lambda t: ops.tanh(t.mean(0)), lambda t: ops.layer_norm(t, (3, 4)),
        lambda t: ops.layer_norm(t, 4), lambda t: ops.instance_norm(t), lambda t: ops.group_norm(t.reshape(2, 6, 2), 3),
        lambda t: ops.batch_norm(t, None, None, training=True),
        lambda t: ops.batch_norm(t, gk.ones(3, dtype=np.float64), gk.full(3, 2.0, dtype=np.float64), training=False),
    ],
)  # fmt: skip
def test_the_gradients_of_reductions_hold_to_order_two(f: Any) -> None:
    check_gradients(f, [normal(2, 3, 4)], order=2, tolerance=2e-6)


@pytest.mark.parametrize("spatial", [(), (4,), (2, 3), (2, 2, 2)])
def test_the_gradients_of_normalisations_with_weights_hold_to_order_two(spatial: Any) -> None:
    x, w, b = normal(4, 3, *spatial), normal(3, seed=1), normal(3, seed=2)
    check_gradients(lambda *t: ops.batch_norm(t[0], None, None, t[1], t[2], training=True), [x, w, b], order=2)
    mean, var = gk.tensor(normal(3)), gk.tensor(normal(3) ** 2)
    check_gradients(lambda *t: ops.batch_norm(t[0], mean, var, t[1], t[2]), [x, w, b], order=2)
    if spatial:
        check_gradients(lambda *t: ops.instance_norm(*t), [x, w, b], order=2)
        check_gradients(lambda *t: ops.group_norm(t[0], 1, t[1], t[2]), [x, w, b], order=2)
        check_gradients(
            lambda *t: ops.layer_norm(t[0], spatial, t[1], t[2]), [x, normal(*spatial), normal(*spatial)], order=2
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_norm_updates_running_statistics_as_pytorch_defines_momentum(dtype: Any) -> None:
    x = (normal(6, 3, 4) * 2 + 5).astype(dtype)
    mean, var = gk.zeros(3, dtype=dtype), gk.ones(3, dtype=dtype)
    y = ops.batch_norm(gk.tensor(x), mean, var, training=True, momentum=0.25, eps=1e-3)
    wide = x.astype(np.float64)
    m, v = wide.mean((0, 2)), wide.var((0, 2))
    u = 100 * rounding(dtype)
    assert_close(y.numpy(), (wide - m[:, None]) / np.sqrt(v + 1e-3)[:, None], 10 * u)
    assert_close(mean.numpy(), 0.25 * m, u * np.abs(m))
    assert_close(var.numpy(), 0.75 + 0.25 * v * 24 / 23, u * (1 + v))
    before = mean.numpy().copy()
    ops.batch_norm(gk.tensor(x), mean, var, training=False)
    assert_same_bits(mean.numpy(), before)


def test_normalising_far_from_zero_keeps_its_digits() -> None:
    x = normal(8, 2, 50) + 1e3
    y = ops.batch_norm(gk.tensor(x.astype(np.float32)), None, None, training=True).numpy()
    wide = x.astype(np.float32).astype(np.float64)
    expected = (wide - wide.mean((0, 2), keepdims=True)) / np.sqrt(wide.var((0, 2), keepdims=True) + 1e-5)
    assert_close(y, expected, 8 * rounding(np.float32) * 1e3)  # x itself is known to this


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes_and_their_positions_are_numpys(dtype: Any) -> None:
    x = np.random.default_rng(0).integers(-3, 4, (4, 5, 3)).astype(dtype)
    for t in (gk.tensor(x), gk.tensor(x.astype(np.int64))):
        assert t.max().item() == x.max()
        assert t.min().item() == x.min()
        for dim in (0, 1, 2, -1):
            for name in ("max", "min"):
                values, index = getattr(t, name)(dim)
                assert_close(values.numpy(), getattr(x, name)(dim), 0)
                assert_same_bits(index.numpy(), getattr(x, f"arg{name}")(dim))
                assert_same_bits(getattr(t, f"arg{name}")(dim).numpy(), getattr(x, f"arg{name}")(dim))
            assert t.max(dim, True)[1].shape == t.max(dim, True)[0].shape
    assert_close(gk.tensor(x).amax((0, 2)).numpy(), x.max((0, 2)), 0)
    assert gk.tensor(x).argmax().item() == x.argmax()


STRIDED: list[Any] = [
    lambda t: ops.batch_norm(t, None, None, training=True), lambda t: ops.instance_norm(t),
    lambda t: ops.layer_norm(t, 5),
    lambda t: ops.layer_norm(t, (4, 5)), lambda t: ops.group_norm(t, 2), lambda t: ops.softmax(t, 1),
    lambda t: t.max(1)[0],
    lambda t: t.amin((0, 2)), lambda t: t.sum(1), lambda t: ops.index_select(t, 1, [1, 0]),
    lambda t: t @ t.transpose(1, 2),
    lambda t: ops.linear(t, gk.ones(3, 5, dtype=np.float64)), lambda t: t.logsumexp(0), lambda t: t.reshape(2, 20),
    lambda t: ops.batch_norm(t[:, :, :1], None, None, training=True), lambda t: t.reshape(8, 5)[[3, 1]],
]  # fmt: skip


@pytest.mark.parametrize("index", range(len(STRIDED)))
def test_strided_tensors_give_what_their_copies_give_also_backwards(index: int) -> None:
    f = STRIDED[index]
    for view in (normal(10, 4, 2).transpose(2, 1, 0)[:, ::-1, ::2], np.broadcast_to(normal(4, 1), (2, 4, 5))):
        strided, copied = gk.from_array(view, requires_grad=True), gk.tensor(view, requires_grad=True)
        y, e = f(strided), f(copied)
        assert_close(y.detach().numpy(), e.detach().numpy(), 1e-13)
        ct = normal(*y.shape[::-1], seed=3).transpose()
        (gy,), (ge,) = gk.grad(y, strided, gk.from_array(ct)), gk.grad(e, copied, gk.tensor(ct))
        assert_close(gy.numpy(), ge.numpy(), 1e-9 * (1 + np.abs(ge.numpy()).max()))


def test_ties_share_the_gradient_of_an_extreme_over_all_but_not_along_one_axis() -> None:
    x = gk.tensor([[1.0, 3.0, 3.0], [3.0, 0.0, 1.0]], requires_grad=True)
    third = np.float32(1) / np.float32(3)
    assert_close(gk.grad(x.max(), x)[0].numpy(), np.array([[0, third, third], [third, 0, 0]]), 0)
    assert gk.grad(x.amax(1).sum(), x)[0].tolist() == [[0, 0.5, 0.5], [1, 0, 0]]
    assert gk.grad(x.max(1)[0].sum(), x)[0].tolist() == [[0, 1, 0], [1, 0, 0]]


def test_nan_is_the_extreme() -> None:
    x = gk.tensor([1.0, np.nan, 2.0])
    assert np.isnan(x.max().item())
    assert np.isnan(x.min().item())
    assert x.max(0)[1].item() == 1


def test_the_norm_of_zero_has_gradient_zero() -> None:
    x = gk.zeros(2, 3, requires_grad=True)
    assert not gk.grad(x.norm(dim=1).sum(), x)[0].numpy().any()
    assert not gk.grad(x.std(1).sum(), x)[0].numpy().any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_does_not_overflow(dtype: Any) -> None:
    x = np.array([[1000.0, 1000.0, -1000.0], [-np.inf, 0.0, 1.0], [3.0, 1.0, 2.0]], dtype)
    wide = x.astype(np.float64)
    e = np.exp(wide - wide.max(1, keepdims=True))
    e /= e.sum(1, keepdims=True)
    u = 8 * rounding(dtype)
    assert_close(ops.softmax(gk.tensor(x), 1).numpy(), e, u * e + np.finfo(dtype).tiny)
    total = np.logaddexp.reduce(wide, axis=1)
    logs = wide - total[:, None]
    assert_close(
        ops.log_softmax(gk.tensor(x), 1).numpy(), logs, u * (1 + np.abs(logs)) + 4e-13
    )  # the reference loses that
    assert_close(ops.softmax(gk.tensor(x.T), 0).numpy(), e.T, u * e.T + np.finfo(dtype).tiny)
    assert_close(gk.tensor(x).logsumexp(1).numpy(), total, u * (1 + np.abs(total)))
    assert gk.tensor([-np.inf, -np.inf]).logsumexp(0).item() == -np.inf


SHAPES: list[tuple[tuple[int, ...], tuple[int, ...]]] = [
    ((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)),
    ((2, 3), (5, 3, 4)), ((4, 1, 2, 3), (5, 3, 2)), ((3,), (2, 3, 4)), ((2, 3, 4), (4,)), ((1, 1), (1, 1)),
    ((2, 0), (0, 3)), ((0, 2), (2, 3)), ((17, 65), (65, 33)), ((2, 31, 7), (2, 7, 19)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("a", "b"), SHAPES)
def test_matrix_products_stay_within_their_bound(a: Any, b: Any, dtype: Any) -> None:
    x, y = normal(*a).astype(dtype), normal(*b, seed=1).astype(dtype)
    expected = x.astype(np.float64) @ y.astype(np.float64)
    assert_close(ops.matmul(gk.tensor(x), gk.tensor(y)).numpy(), expected, matmul_bound(x, y, dtype))
    if x.ndim > 1 and y.ndim > 1:
        tx, ty = (gk.tensor(v.swapaxes(-1, -2)).transpose(-1, -2) for v in (x, y))
        assert_close((tx @ ty).numpy(), expected, matmul_bound(x, y, dtype))


@pytest.mark.parametrize(("a", "b"), [s for s in SHAPES[:-2] if 0 not in s[0]])
def test_the_gradients_of_matrix_products_hold_to_order_three(a: Any, b: Any) -> None:
    check_gradients(ops.matmul, [normal(*a), normal(*b, seed=1)], order=3)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40), st.sampled_from(DTYPES))
def test_matrix_products_of_integers_are_exact(M: int, K: int, N: int, dtype: Any) -> None:
    rng = np.random.default_rng(M * K * N)
    a, b = rng.integers(-9, 10, (M, K)).astype(dtype), rng.integers(-9, 10, (K, N)).astype(dtype)
    assert_same_bits(ops.matmul(gk.tensor(a), gk.tensor(b)).numpy() + 0.0, a @ b + 0.0)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (2, 4, 3)])
def test_linear_is_a_product_with_the_transposed_weight(shape: Any) -> None:
    x, w, b = normal(*shape), normal(5, 3, seed=1), normal(5, seed=2)
    bound = gamma(6, np.float64) * (np.abs(x) @ np.abs(w.T) + np.abs(b))
    assert_close(ops.linear(gk.tensor(x), gk.tensor(w), gk.tensor(b)).numpy(), x @ w.T + b, bound)
    check_gradients(ops.linear, [x, w, b], order=3)
