"""Convolutions: values against a loop over taps within derived bounds, adjoints, gradients to order 3, equal bits."""

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
from gankernels.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry
from gankernels.testing import oracle
from gankernels.testing.bounds import (
    assert_close,
    assert_same_bits,
    conv_bound,
    conv_transpose_bound,
    conv_weight_bound,
    rounding,
)
from gankernels.testing.cases import Case, cases
from gankernels.testing.gradcheck import check_gradients

pytestmark = pytest.mark.usefixtures("restore_knobs")
ALGORITHMS = ("direct", "im2col")
DTYPES = (np.float32, np.float64)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def conv_of(case: Case) -> ConvGeometry:
    assert isinstance(case.geometry, ConvGeometry)
    return case.geometry


# ---- values --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", cases("conv"), ids=str)
def test_conv_and_its_adjoints_stay_within_their_bounds(case: Case, algorithm: str, dtype: Any) -> None:
    ops.set_conv_algorithm(algorithm)
    g = conv_of(case)
    x, w = case.inputs(dtype)
    ct = normal(*g.y_shape, seed=1).astype(dtype)
    wide = [a.astype(np.float64) for a in (x, w, ct)]
    tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
    y = ops.conv(tx, tw, **case.arguments)
    gx, gw = gk.grad(y, [tx, tw], gk.tensor(ct))
    assert_close(y.detach().numpy(), oracle.conv(wide[0], wide[1], g), conv_bound(x, w, g, dtype), "y")
    assert_close(gx.numpy(), oracle.conv_transpose(wide[2], wide[1], g), conv_transpose_bound(ct, w, g, dtype), "x")
    assert_close(gw.numpy(), oracle.conv_weight(wide[0], wide[2], g), conv_weight_bound(x, ct, g, dtype), "w")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("case", cases("conv_transpose"), ids=str)
def test_conv_transpose_stays_within_its_bound(case: Case, algorithm: str, dtype: Any) -> None:
    ops.set_conv_algorithm(algorithm)
    g = conv_of(case)
    y, w = case.inputs(dtype)
    expected = oracle.conv_transpose(y.astype(np.float64), w.astype(np.float64), g)
    x = ops.conv_transpose(gk.tensor(y), gk.tensor(w), **case.arguments)
    assert_close(x.numpy(), expected, conv_transpose_bound(y, w, g, dtype))


@pytest.mark.parametrize("case", cases("local_conv"), ids=str)
def test_unshared_convolution_and_its_adjoints_agree_with_the_loop_over_taps(case: Case) -> None:
    g = conv_of(case)
    x, w = case.inputs()
    ct = normal(*g.y_shape, seed=1)
    tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
    y = ops.local_conv(tx, tw, **case.arguments)
    gx, gw = gk.grad(y, [tx, tw], gk.tensor(ct))
    tolerance = 200 * rounding(np.float64)
    assert_close(y.detach().numpy(), oracle.local_conv(x, w, g), tolerance * oracle.local_conv(abs(x), abs(w), g))
    assert_close(
        gx.numpy(), oracle.local_conv_transpose(ct, w, g), tolerance * oracle.local_conv_transpose(abs(ct), abs(w), g)
    )
    assert_close(
        gw.numpy(), oracle.local_conv_weight(x, ct, g), tolerance * oracle.local_conv_weight(abs(x), abs(ct), g)
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_a_bias_is_added_to_every_position_of_its_channel(op: str, algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    x, w, b = gk.tensor(normal(2, 3, 4, 5)), gk.tensor(normal(3, 3, 2, 2)), gk.tensor(normal(3, seed=2))
    function = getattr(ops, op)
    assert_same_bits(function(x, w, b, 1).numpy(), (function(x, w, None, 1) + b.reshape(1, 3, 1, 1)).numpy())


@pytest.mark.cpu_only
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strided_inputs_give_the_same_as_contiguous_ones(algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    x = normal(5, 6, 3, 4)
    strided = gk.from_array(x.transpose(2, 3, 1, 0)[:, :, ::-1, ::2])
    w = gk.from_array(normal(3, 2, 4, 5).transpose(3, 2, 1, 0))
    assert not strided.data.flags.c_contiguous
    y = ops.conv(strided, w, padding=1)
    expected = ops.conv(gk.tensor(strided), gk.tensor(w), padding=1)
    assert_same_bits(y.numpy(), expected.numpy())
    wide = ops.conv(gk.ones(1, 4, 1, 1, dtype=np.float64).expand(2, 4, 5, 6), w)
    assert_same_bits(wide.numpy(), ops.conv(gk.ones(2, 4, 5, 6, dtype=np.float64), w).numpy())


# ---- the same bits everywhere --------------------------------------------------------------------------------------
def every_setting() -> list[tuple[str, int, str]]:
    return [(isa, threads, a) for isa, threads in devices.cpu_settings() for a in ALGORITHMS]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", [c for c in cases("conv") if c.flops], ids=str)
@pytest.mark.much_work
def test_integer_inputs_give_equal_bits_on_every_isa_thread_count_and_algorithm(case: Case, dtype: Any) -> None:
    g = conv_of(case)
    x, w = case.inputs(dtype, integers=True)
    ct = np.random.default_rng(1).integers(-3, 4, g.y_shape).astype(dtype)
    expected = [oracle.conv(x, w, g), oracle.conv_transpose(ct, w, g), oracle.conv_weight(x, ct, g)]
    for isa, threads, algorithm in every_setting():
        cpu.set_isa(isa)
        cpu.set_num_threads(threads)
        ops.set_conv_algorithm(algorithm)
        tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
        y = ops.conv(tx, tw, **case.arguments)
        for name, t, e in zip("yxw", (y.detach(), *gk.grad(y, [tx, tw], gk.tensor(ct))), expected, strict=True):
            assert_same_bits(t.numpy() + 0.0, e + 0.0, f"{name} on {isa}, {threads} threads, {algorithm}")


@pytest.mark.parametrize("case", cases("conv", "full"), ids=str)
@pytest.mark.much_work
def test_the_layers_of_3dgan_give_equal_bits_for_integers_by_both_algorithms(case: Case) -> None:
    x, w = (a[:3] if i == 0 else a for i, a in enumerate(case.inputs(np.float32, integers=True)))  # three images
    found = []
    for algorithm in ALGORITHMS:
        ops.set_conv_algorithm(algorithm)
        tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
        y = ops.conv(tx, tw, **case.arguments)
        ct = gk.tensor(np.random.default_rng(1).integers(-3, 4, y.shape).astype(np.float32))
        found.append([y.detach(), *gk.grad(y, [tx, tw], ct)])
    for name, a, b in zip("yxw", *found, strict=True):
        assert float(np.abs(a.numpy()).max()) < 2**24  # every partial sum was exact
        assert_same_bits(a.numpy() + 0.0, b.numpy() + 0.0, name)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.cpu_only
def test_results_do_not_depend_on_the_thread_count(algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    case = next(c for c in cases("conv") if c.name == "D25 3 reduced")
    found = []
    for threads in (1, 2, 3):
        cpu.set_num_threads(threads)
        x, w = (gk.tensor(a, requires_grad=True) for a in case.inputs(np.float32))
        y = ops.conv(x, w, **case.arguments)
        found.append([y.detach(), *gk.grad((y * y).sum(), [x, w])])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert_same_bits(a.numpy(), b.numpy())


# ---- identities ----------------------------------------------------------------------------------------------------
@st.composite
def geometries(draw: Any) -> ConvGeometry:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups = draw(st.integers(1, 3))
    N, c, o = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    K, s, d, Y, low = each(1, 3), each(1, 3), each(1, 3), each(1, 4), each(0, 2)
    extra = tuple(draw(st.integers(0, max(a, b) - 1)) for a, b in zip(s, d, strict=True))
    reach = [(y - 1) * t + e * (k - 1) + 1 for y, t, e, k in zip(Y, s, d, K, strict=True)]
    high = tuple(draw(st.integers(0, max(0, min(2, n - lo - 1)))) for n, lo in zip(reach, low, strict=True))
    low = tuple(min(a, max(0, n - b - 1)) for n, a, b in zip(reach, low, high, strict=True))
    pairs = tuple(zip(low, high, strict=True))
    return conv_transpose_geometry("drawn", (N, groups * o, *Y), (groups * o, c, *K), s, pairs, extra, d, groups)


def arguments(g: ConvGeometry) -> dict[str, Any]:
    return {"stride": g.stride, "padding": g.padding, "dilation": g.dilation, "groups": g.groups}


@given(geometries(), st.sampled_from(ALGORITHMS))
def test_the_three_slots_of_conv_are_adjoint(g: ConvGeometry, algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    x, w, y = (normal(*s, seed=i) for i, s in enumerate((g.x_shape, g.w_shape, g.y_shape)))
    extra = tuple(X - ((Y - 1) * s - lo - hi + d * (K - 1) + 1) for X, Y, s, (lo, hi), d, K in zip(
        g.x, g.y, g.stride, g.padding, g.dilation, g.kernel, strict=True))  # fmt: skip
    back = ops.conv_transpose(gk.tensor(y), gk.tensor(w), output_padding=extra, **arguments(g))
    assert back.shape == g.x_shape
    if conv_geometry("conv", g.x_shape, g.w_shape, **arguments(g)).y != g.y:
        return  # an output_padding of a stride or more leaves room for another output
    forward = ops.conv(gk.tensor(x), gk.tensor(w), **arguments(g)).numpy()
    weight = ops.conv_weight(gk.tensor(x), gk.tensor(y), g.kernel, **arguments(g)).numpy()
    products = [(y * forward), (x * back.numpy()), (w * weight)]
    bound = 1e-13 * (np.abs(y) * oracle.conv(np.abs(x), np.abs(w), g)).sum()
    assert_close([p.sum() for p in products], [products[0].sum()] * 3, bound)


@given(geometries())
def test_im2col_and_a_matrix_product_are_conv(g: ConvGeometry) -> None:
    x, w = gk.tensor(normal(*g.x_shape)), gk.tensor(normal(*g.w_shape, seed=1))
    del_groups = {k: v for k, v in arguments(g).items() if k != "groups"}
    cols = ops.im2col(x, g.kernel, **del_groups)
    y = ops.conv(x, w, **arguments(g))
    N, O, c = g.batch, g.out_channels // g.groups, g.w_shape[1]
    size = int(np.prod(g.kernel))
    product = ops.matmul(w.reshape(1, g.groups, O, c * size), cols.reshape(N, g.groups, c * size, -1))
    assert_close(product.reshape(y.shape).numpy(), y.numpy(), 1e-13 * (1 + np.abs(y.numpy())))


@given(geometries())
def test_col2im_is_the_adjoint_of_im2col(g: ConvGeometry) -> None:
    args = {k: v for k, v in arguments(g).items() if k != "groups"}
    x = normal(*g.x_shape)
    cols = ops.im2col(gk.tensor(x), g.kernel, **args)
    c = normal(*cols.shape, seed=1)
    back = ops.col2im(gk.tensor(c), g.x, g.kernel, **args)
    assert back.shape == g.x_shape
    assert_close((back.numpy() * x).sum(), (cols.numpy() * c).sum(), 1e-12 * (1 + np.abs(c).sum()))


# ---- gradients -----------------------------------------------------------------------------------------------------
GRADIENT_ARGUMENTS: list[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ("conv", (2, 3, 6), (2, 3, 3), {"stride": 2, "padding": 1}),
    ("conv", (2, 4, 5, 4), (4, 2, 2, 3), {"padding": ((0, 1), (2, 1)), "dilation": (2, 1), "groups": 2}),
    ("conv", (1, 2, 3, 4, 3), (2, 2, 2, 2, 2), {"stride": (1, 2, 1), "padding": "same"}),
    ("conv_transpose", (2, 3, 3), (3, 2, 3), {"stride": 2, "padding": 1, "output_padding": 1}),
    ("conv_transpose", (1, 4, 2, 3), (4, 2, 2, 2), {"stride": (2, 1), "groups": 2, "dilation": (1, 2)}),
    ("conv_transpose", (1, 2, 2, 2, 2), (2, 1, 2, 2, 2), {"stride": 2, "padding": "same"}),
    ("local_conv", (2, 2, 4), (3, 2, 3, 2), {}),
    ("local_conv", (1, 2, 3, 3), (2, 1, 2, 2, 2, 2), {"groups": 2}),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(("op", "x", "w", "args"), GRADIENT_ARGUMENTS)
@pytest.mark.much_work
def test_the_gradients_of_convolutions_hold_to_order_three(op: str, x: Any, w: Any, args: Any, algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    check_gradients(lambda a, b: getattr(ops, op)(a, b, **args), [normal(*x), normal(*w, seed=1)], order=3, name=op)


@pytest.mark.parametrize(("op", "x", "w", "args"), [g for g in GRADIENT_ARGUMENTS if g[0] != "local_conv"])
def test_the_gradients_of_biases_hold_to_order_three(op: str, x: Any, w: Any, args: Any) -> None:
    channels = w[0] if op == "conv" else w[1] * args.get("groups", 1)

    def f(a: gk.Tensor, b: gk.Tensor, c: gk.Tensor) -> gk.Tensor:
        return ops.square(getattr(ops, op)(a, b, c, **args))

    check_gradients(f, [normal(*x), normal(*w, seed=1), normal(channels, seed=2)], order=2, name=op)
    inputs = [normal(*x), normal(*w, seed=1), normal(channels, seed=2)]
    check_gradients(lambda a, b, c: getattr(ops, op)(a, b, c, **args), inputs, order=3, name=op)


def test_the_gradients_of_conv_weight_and_of_columns_hold_to_order_three() -> None:
    check_gradients(
        lambda a, b: ops.conv_weight(a, b, (3, 2), stride=(1, 2), padding=1),
        [normal(2, 2, 4, 4), normal(2, 3, 4, 3, seed=1)],
        order=3,
    )
    check_gradients(lambda a: ops.im2col(a, 2, stride=2, padding=1), [normal(2, 3, 4, 3)], order=3)
    check_gradients(lambda a: ops.col2im(a, (4, 3), 2, padding=1), [normal(2, 8, 20)], order=3)


def test_the_bias_of_an_unshared_convolution_has_one_number_per_position() -> None:
    x, w, b = normal(2, 2, 5), normal(3, 2, 4, 2, seed=1), normal(3, 4, seed=2)
    y = ops.local_conv(gk.tensor(x), gk.tensor(w), gk.tensor(b))
    assert_same_bits(y.numpy(), ops.local_conv(gk.tensor(x), gk.tensor(w)).numpy() + b)
    check_gradients(ops.local_conv, [x, w, b], order=3)
