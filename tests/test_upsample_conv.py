"""Upsampling fused with the convolution after it: loops over taps within derived bounds, equal bits, gradients, nn."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import devices
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gankernels as gk
from gankernels import nn, ops
from gankernels.backends import cpu
from gankernels.geometry import UpsampleConvGeometry, upsample_conv_geometry
from gankernels.testing import oracle
from gankernels.testing.bounds import assert_close, assert_same_bits, conv_weight_bound, gamma
from gankernels.testing.gradcheck import check_gradients

pytestmark = pytest.mark.usefixtures("restore_knobs")
ALGORITHMS = ("direct", "im2col")
DTYPES = (np.float32, np.float64)
Arguments = tuple[str, tuple[int, ...], tuple[int, ...], dict[str, Any]]

CASES: list[Arguments] = [
    ("1d", (2, 3, 5), (4, 3, 3), {"factors": 2, "padding": 1}),
    ("1d one cell", (1, 1, 1), (1, 1, 1), {"factors": 5}),
    ("2d uneven", (3, 4, 4, 5), (6, 2, 3, 4), {"factors": (2, 3), "padding": ((2, 0), (3, 5)), "groups": 2}),
    ("2d factor one", (2, 3, 5, 4), (2, 3, 3, 2), {"factors": (1, 2), "padding": "same"}),
    ("2d kernel of one tap", (2, 3, 3, 3), (2, 3, 1, 1), {"factors": (3, 2)}),
    ("2d factor beyond the kernel", (2, 2, 2, 3), (3, 2, 2, 3), {"factors": (7, 4), "padding": "same_lower"}),
    ("2d padding wider than the kernel", (2, 2, 2, 3), (3, 2, 2, 2), {"factors": 2, "padding": (5, 3)}),
    ("2d outputs that see padding only", (2, 2, 1, 2), (2, 2, 1, 2), {"factors": (3, 2), "padding": ((4, 6), (0, 5))}),
    ("2d kernel larger than the image", (2, 2, 1, 2), (3, 2, 5, 4), {"factors": 2, "padding": 2}),
    ("2d no cells", (2, 2, 0, 3), (3, 2, 2, 2), {"factors": 2, "padding": 2}),
    ("2d depthwise", (2, 5, 3, 3), (10, 1, 3, 3), {"factors": 2, "padding": 1, "groups": 5}),
    ("3d no image", (0, 3, 3, 3, 3), (4, 3, 3, 3, 3), {"factors": 2}),
    ("3d 17 images", (17, 3, 2, 3, 2), (9, 3, 2, 3, 3), {"factors": (2, 1, 3), "padding": 1}),
    ("G25 2 reduced", (2, 64, 2, 3, 4), (6, 64, 6, 5, 8), {"factors": 2, "padding": (2, 2, 0)}),
    ("G25 3 reduced", (3, 6, 4, 4, 3), (6, 6, 3, 3, 8), {"factors": (2, 2, 3), "padding": (1, 0, 3)}),
    ("G51 1 reduced", (1, 8, 2, 2, 3), (8, 8, 6, 6, 8), {"factors": 6}),
]  # fmt: skip
every_case = pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=pytest.mark.much_work if c[0].endswith(("reduced", "17 images")) else (), id=c[0])
        for c in CASES
    ],
)


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def integers(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(-3, 4, shape)


def three_slots(function: Any, x: Any, w: Any, ct: Any, args: dict[str, Any]) -> list[Any]:
    """y and the gradients of <ct, y> in x and w, as arrays."""
    tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
    y = function(tx, tw, **args)
    return [t.numpy() for t in (y.detach(), *gk.grad(y, [tx, tw], gk.tensor(ct)))]


def expected(x: Any, w: Any, ct: Any, g: UpsampleConvGeometry) -> list[Any]:
    """The same by loops over taps of the large image."""
    large = oracle.upsample_nearest(x, g.factors)
    return [
        oracle.conv(large, w, g.conv),
        oracle.sum_blocks(oracle.conv_transpose(ct, w, g.conv), g.factors),
        oracle.conv_weight(large, ct, g.conv),
    ]


def bounds(x: Any, w: Any, ct: Any, g: UpsampleConvGeometry, dtype: Any) -> list[Any]:
    """Roundings on the way of one product into y, x and w, times the sum of magnitudes.

    A sum of taps has at most prod(min(K, f)) terms; an output of one phase adds ceil((K + f - 1)/f) of these sums per
    axis and channel, a cell of x all K + f - 1; an element of w adds the products of conv_weight in another order.
    """
    y, gx, _ = expected(abs(x), abs(w), abs(ct), g)
    summed = prod(min(k, f) for k, f in zip(g.conv.kernel, g.factors, strict=True))
    phase = prod(-(-m // f) for m, f in zip(g.merged, g.factors, strict=True))
    inputs, outputs = g.w_shape[1], g.w_shape[0] // g.conv.groups
    return [
        gamma(inputs * phase + summed + 2, dtype) * y,
        gamma(outputs * prod(g.merged) + summed + 2, dtype) * gx,
        conv_weight_bound(oracle.upsample_nearest(x, g.factors), ct, g.conv, dtype),
    ]


# ---- values --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@every_case
def test_the_fused_passes_stay_within_their_bounds(case: Arguments, algorithm: str, dtype: Any) -> None:
    ops.set_conv_algorithm(algorithm)
    _, x_shape, w_shape, args = case
    g = upsample_conv_geometry("case", x_shape, w_shape, **args)
    x, w, ct = (normal(*s, seed=i).astype(dtype) for i, s in enumerate((x_shape, w_shape, g.y_shape)))
    wide = [a.astype(np.float64) for a in (x, w, ct)]
    found = three_slots(ops.upsample_conv, x, w, ct, args)
    for name, a, e, bound in zip("yxw", found, expected(*wide, g), bounds(*wide, g, dtype), strict=True):
        assert a.dtype == dtype
        assert_close(a, e, bound, name)


@pytest.mark.parametrize("dtype", DTYPES)
@every_case
def test_integer_inputs_give_the_bits_of_the_unfused_composition_everywhere(case: Arguments, dtype: Any) -> None:
    _, x_shape, w_shape, args = case
    g = upsample_conv_geometry("case", x_shape, w_shape, **args)
    x, w, ct = (integers(*s, seed=i).astype(dtype) for i, s in enumerate((x_shape, w_shape, g.y_shape)))
    ops.set_conv_algorithm("direct")
    want = three_slots(ops.unfused_upsample_conv, x, w, ct, args)
    for (isa, threads), algorithm in product(devices.cpu_settings(), ALGORITHMS):
        cpu.set_isa(isa)
        cpu.set_num_threads(threads)
        ops.set_conv_algorithm(algorithm)
        for name, a, e in zip("yxw", three_slots(ops.upsample_conv, x, w, ct, args), want, strict=True):
            assert_same_bits(a + 0.0, e + 0.0, f"{name} on {isa}, {threads} threads, {algorithm}")


@pytest.mark.cpu_only
@every_case
def test_the_kernels_write_every_element_of_their_outputs(case: Arguments) -> None:
    _, x_shape, w_shape, args = case
    g = upsample_conv_geometry("case", x_shape, w_shape, **args)
    x, w, y = (normal(*s, seed=i) for i, s in enumerate((x_shape, w_shape, g.y_shape)))
    fresh = [np.full_like(a, np.nan) for a in (y, x, w)]
    cpu.upsample_conv(x, w, fresh[0], g.pod, 0)
    cpu.upsample_conv_transpose(y, w, fresh[1], g.pod, 0)
    cpu.upsample_conv_weight(x, y, fresh[2], g.pod, 0)
    assert all(np.isfinite(a).all() for a in fresh)


@pytest.mark.cpu_only
def test_results_do_not_depend_on_the_thread_count() -> None:
    x, w, ct = (normal(*s).astype(np.float32) for s in ((5, 6, 3, 4, 3), (7, 6, 4, 3, 5), (5, 7, 3, 6, 5)))
    found = []
    for threads in (1, 2, 3):
        cpu.set_num_threads(threads)
        found.append(three_slots(ops.upsample_conv, x, w, ct, {"factors": 2, "padding": ((0, 0), (0, 0), (2, 1))}))
    for other in found[1:]:
        for name, a, b in zip("yxw", found[0], other, strict=True):
            assert_same_bits(a, b, name)


@pytest.mark.cpu_only
def test_strided_inputs_give_the_same_as_contiguous_ones() -> None:
    x = gk.from_array(normal(5, 6, 3, 4).transpose(2, 3, 1, 0)[:, :, ::-1, ::2])
    w = gk.from_array(normal(3, 2, 2, 4).transpose(3, 2, 1, 0))
    assert not x.data.flags.c_contiguous
    assert not w.data.flags.c_contiguous
    assert_same_bits(
        ops.upsample_conv(x, w, factors=(2, 3), padding=1, groups=2).numpy(),
        ops.upsample_conv(gk.tensor(x), gk.tensor(w), factors=(2, 3), padding=1, groups=2).numpy(),
    )


def test_a_bias_is_added_to_every_position_of_its_channel() -> None:
    x, w, b = (gk.tensor(normal(*s)) for s in ((2, 3, 4, 5), (3, 3, 2, 2), (3,)))
    plain = ops.upsample_conv(x, w) + b.reshape(1, 3, 1, 1)
    assert_same_bits(ops.upsample_conv(x, w, b).numpy(), plain.numpy())


# ---- identities ----------------------------------------------------------------------------------------------------
@st.composite
def problems(draw: Any) -> tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    groups, N, c, o = (draw(st.integers(1, 3)) for _ in range(4))
    X, K, f, low, high = each(1, 3), each(1, 4), each(1, 4), each(0, 3), each(0, 3)
    pairs = [(a, max(b, k - x * s - a)) for a, b, k, x, s in zip(low, high, K, X, f, strict=True)]
    return (N, groups * c, *X), (groups * o, c, *K), {"factors": f, "padding": tuple(pairs), "groups": groups}


@given(problems(), st.sampled_from(ALGORITHMS))
def test_the_three_slots_are_adjoint_and_agree_with_the_loops(problem: Any, algorithm: str) -> None:
    ops.set_conv_algorithm(algorithm)
    x_shape, w_shape, args = problem
    g = upsample_conv_geometry("drawn", x_shape, w_shape, **args)
    x, w, y = (normal(*s, seed=i) for i, s in enumerate((x_shape, w_shape, g.y_shape)))
    found = three_slots(ops.upsample_conv, x, w, y, args)
    for name, a, e, bound in zip("yxw", found, expected(x, w, y, g), bounds(x, w, y, g, np.float64), strict=True):
        assert_close(a, e, bound, name)
    products = [(y * found[0]).sum(), (x * found[1]).sum(), (w * found[2]).sum()]
    assert_close(products, [products[0]] * 3, 1e-13 * (abs(y) * expected(abs(x), abs(w), abs(y), g)[0]).sum())


# ---- gradients -----------------------------------------------------------------------------------------------------
GRADIENTS: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 4), (2, 3, 3), {"factors": 2, "padding": 1}),
    ((2, 4, 2, 3), (4, 2, 2, 3), {"factors": (2, 3), "padding": ((0, 1), (2, 1)), "groups": 2}),
    ((1, 2, 2, 2, 2), (2, 2, 2, 3, 2), {"factors": (1, 2, 3), "padding": "same"}),
]


@pytest.mark.parametrize(("x", "w", "args"), GRADIENTS)
def test_the_gradients_hold_to_order_three(x: Any, w: Any, args: Any) -> None:
    inputs = [normal(*x), normal(*w, seed=1), normal(w[0], seed=2)]
    check_gradients(lambda a, b, c: ops.upsample_conv(a, b, c, **args), inputs, order=3)


def test_a_gradient_penalty_is_that_of_the_unfused_composition() -> None:
    found = []
    for function in (ops.upsample_conv, ops.unfused_upsample_conv):
        x, w = gk.tensor(normal(2, 2, 3, 3), requires_grad=True), gk.tensor(normal(3, 2, 3, 3), requires_grad=True)
        (slope,) = gk.grad(ops.tanh(function(x, w, factors=2)).sum(), [x], create_graph=True)
        found.append(gk.grad(ops.square(slope).sum(), [w])[0].numpy())
    assert np.abs(found[1]).max() > 1e-3
    assert_close(found[0], found[1], 1e-12 * np.abs(found[1]).max())


# ---- Sequential ----------------------------------------------------------------------------------------------------
def network(**conv: Any) -> nn.Sequential:
    gk.manual_seed(3)
    return nn.Sequential(
        nn.Upsample(scale_factor=2), nn.Conv2d(4, 6, 3, dtype=np.float64, **conv), nn.BatchNorm2d(6, dtype=np.float64)
    )


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows by one entry for every fused operation from now on."""
    made: list[str] = []
    real = ops.upsample_conv

    def counted(*args: Any, **kwargs: Any) -> gk.Tensor:
        made.append("upsample_conv")
        return real(*args, **kwargs)

    monkeypatch.setattr(ops, "upsample_conv", counted)
    return made


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("conv", [{"padding": "same"}, {"padding": ((0, 2), (1, 0)), "groups": 2, "bias": False}])
def test_sequential_gives_the_same_fused_and_unfused(conv: Any, training: bool, monkeypatch: Any) -> None:
    made = calls(monkeypatch)
    x, found = normal(3, 4, 5, 6), []
    for enabled in (True, False):
        gk.set_fusion(enabled)
        model = network(**conv).train(training)
        y = model(gk.tensor(x))
        y.square().sum().backward()
        found.append([y.detach().numpy(), *(p.grad.numpy() for p in model.parameters()), *model.state_dict().values()])
        assert len(made) == 1  # the first time only
    for a, b in zip(*(map(np.asarray, side) for side in found), strict=True):
        # the norms multiply the rounding of 36 products by at most the spread of the activations
        assert_close(a, b, 1e-11 * (1 + np.abs(b).max()))


def test_the_state_dict_of_a_fused_pair_keeps_its_names() -> None:
    assert list(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(1, 1, 3)).state_dict()) == ["1.weight", "1.bias"]


def test_upsample_by_size_is_fused_and_slices_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls(monkeypatch)
    model = nn.Sequential(nn.Upsample(size=(6, 9)), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Upsample(scale_factor=2))
    x = gk.tensor(normal(1, 2, 3, 3).astype(np.float32))
    assert model(x).shape == (1, 3, 8, 14)
    assert len(made) == 1
    assert model[:1](x).shape == (1, 2, 6, 9)
    assert len(made) == 1
    with pytest.raises(ValueError, match="must be a multiple"):
        model(gk.ones(1, 2, 4, 3))


@pytest.mark.parametrize(
    ("conv", "x"),
    [
        (nn.Conv2d(2, 3, 3, stride=2), (1, 2, 4, 4)),
        (nn.Conv2d(2, 3, 2, dilation=(1, 2)), (1, 2, 4, 4)),
        (nn.Conv2d(70, 60, 3), (1, 70, 2, 2)),  # more kernels than the cells repay
        (nn.ConvTranspose2d(2, 3, 3), (1, 2, 4, 4)),
    ],
)
def test_other_neighbours_run_one_by_one(conv: nn.Module, x: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls(monkeypatch)
    up = nn.Upsample(scale_factor=2)
    assert_same_bits(nn.Sequential(up, conv)(gk.ones(*x)).detach().numpy(), conv(up(gk.ones(*x))).detach().numpy())
    assert not made


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_modules_with_hooks_run_by_themselves(which: int, register: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made, seen = calls(monkeypatch), []
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(1, 1, 3))
    handle = getattr(model[which], register)(lambda *args: seen.append(args[0]))
    model(gk.ones(1, 1, 4))
    assert seen == [model[which]]
    assert not made
    handle.remove()
    model(gk.ones(1, 1, 4))
    assert len(seen) == 1
    assert len(made) == 1


def test_a_subclass_with_its_own_forward_runs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Doubled(nn.Conv1d):
        def forward(self, input: gk.Tensor) -> gk.Tensor:
            return super().forward(input) * 2

    made = calls(monkeypatch)
    model = nn.Sequential(nn.Upsample(scale_factor=2), Doubled(1, 1, 3), nn.Upsample(scale_factor=2))
    model(gk.ones(1, 1, 4))
    assert not made


def test_a_normalised_weight_is_the_one_that_is_used() -> None:
    model = nn.Sequential(nn.Upsample(scale_factor=2), nn.spectral_norm(nn.Conv1d(1, 2, 3))).eval()
    x = gk.ones(1, 1, 4)
    assert_same_bits(model(x).detach().numpy(), model[1](model[0](x)).detach().numpy())


# ---- errors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("args", "error", "message"),
    [
        (((2, 3, 4), (2, 2, 3), {}), ValueError, "upsample_conv: x has 3 channels, w expects 2"),
        (((2, 3, 4), (2, 3, 3), {"factors": 0}), ValueError, "upsample_conv: factors must be at least 1"),
        (((2, 3, 4), (2, 3, 3), {"factors": 1.5}), TypeError, "upsample_conv: factors must be an int or 1 ints"),
        (((2, 3, 4), (2, 3, 3), {"factors": (2, 2)}), TypeError, "upsample_conv: factors must be an int or 1 ints"),
        (((2, 3, 4), (2, 3, 9), {}), ValueError, "upsample_conv: kernel .* does not fit"),
        (((2, 3, 4), (2, 3, 3, 3), {}), ValueError, "so w must have 3"),
        (((2, 3), (2, 3), {}), ValueError, "expected 1, 2 or 3 spatial axes"),
        (((2, 3, 4), (2, 3, 3), {"groups": 2}), ValueError, "groups=2 must divide"),
        (((2**10, 2**10, 4), (2, 2**10, 3), {"factors": 2**30}), ValueError, "elements; the limit is"),
        (((1, 1, 1), (2**20, 1, 1), {"factors": 2**27}), ValueError, "the limit is"),
    ],
)
def test_wrong_arguments_are_named(args: Any, error: type[Exception], message: str) -> None:
    x, w, kwargs = args
    zero = np.zeros(1, np.float32)
    with pytest.raises(error, match=message):
        ops.upsample_conv(gk.from_array(np.broadcast_to(zero, x)), gk.from_array(np.broadcast_to(zero, w)), **kwargs)


def test_dtypes_must_agree_and_a_bias_must_fit() -> None:
    with pytest.raises(TypeError, match="upsample_conv: w has dtype float64"):
        ops.upsample_conv(gk.ones(1, 1, 3), gk.ones(1, 1, 3, dtype=np.float64))
    with pytest.raises(ValueError, match=r"upsample_conv: bias has shape \(2,\), expected \(1,\)"):
        ops.upsample_conv(gk.ones(1, 1, 3), gk.ones(1, 1, 3), gk.ones(2))
    with pytest.raises(TypeError, match="set_fusion: expected True or False"):
        gk.set_fusion(1)  # type: ignore[arg-type]
