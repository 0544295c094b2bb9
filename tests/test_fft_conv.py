"""FFT convolution against the float64 oracle within a bound by norms, exactly on integers, and against direct."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry
from gankernels.testing import bounds, oracle

pytestmark = [pytest.mark.cpu_only, pytest.mark.usefixtures("restore_knobs")]
FFT, DIRECT = CONV_ALGORITHMS["fft"], CONV_ALGORITHMS["direct"]
SLOTS = ("y", "x", "w")
RNG = np.random.default_rng(7)
Array = np.ndarray[Any, np.dtype[Any]]
KERNEL = {"y": cpu.conv, "x": cpu.conv_transpose, "w": cpu.conv_weight}
ORACLE = {"y": oracle.conv, "x": oracle.conv_transpose, "w": oracle.conv_weight}
BOUND = {"y": bounds.fft_conv_bound, "x": bounds.fft_conv_transpose_bound, "w": bounds.fft_conv_weight_bound}


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


def filled(slot: str, g: ConvGeometry) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return {"y": (g.x_shape, g.w_shape), "x": (g.y_shape, g.w_shape), "w": (g.x_shape, g.y_shape)}[slot]


def draw(
    slot: str, g: ConvGeometry, dtype: Any = np.float32, seed: int = 0, integers: bool = False
) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    make = lambda shape: rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    a, b = (make(shape).astype(dtype) for shape in filled(slot, g))
    return a, b


def run(slot: str, g: ConvGeometry, a: Array, b: Array, algorithm: int = FFT) -> Array:
    """The open slot, poisoned with NaN beforehand."""
    out = np.full({"y": g.y_shape, "x": g.x_shape, "w": g.w_shape}[slot], np.nan, a.dtype)
    KERNEL[slot](a, b, out, g.pod, algorithm)
    return out


def expected(slot: str, g: ConvGeometry, a: Array, b: Array) -> Array:
    return ORACLE[slot](a.astype(np.float64), b.astype(np.float64), g)


def assert_within_the_norms(slot: str, g: ConvGeometry, a: Array, b: Array) -> None:
    got = run(slot, g, a, b)
    bounds.assert_close(got, expected(slot, g, a, b), BOUND[slot](a, b, g, a.dtype), f"{slot} of {g}")


GEOMETRIES = {
    "dense 3-D": geometry((16, 4, 5, 6, 7), (8, 4, 3, 3, 3), padding=1),
    "a shower layer": geometry((16, 3, 9, 10, 9), (5, 3, 5, 5, 5), padding=2),
    "one channel": geometry((17, 1, 6, 9, 8), (18, 1, 3, 3, 3), padding="same"),
    "to one channel": geometry((19, 6, 6, 5, 6), (1, 6, 2, 2, 2)),
    "odd channels": geometry((20, 3, 4, 5, 6), (7, 3, 2, 3, 2), padding="same"),
    "wide": geometry((33, 20, 6, 7), (22, 20, 3, 3), padding=1),
    "groups": geometry((16, 6, 8, 9), (9, 2, 3, 3), groups=3, padding=1),
    "1-D": geometry((16, 4, 50), (6, 4, 7), padding=3),
    "1-D with one cell": geometry((9, 2, 1), (3, 2, 3), padding=1),
    "kernel over x": geometry((16, 2, 2, 3), (3, 2, 5, 6), padding=4),
    "full padding": geometry((16, 2, 4, 5), (3, 2, 3, 4), padding=[(2, 2), (3, 3)]),
    "uneven padding": geometry((16, 3, 6, 5), (4, 3, 4, 4), padding=[(3, 0), (0, 2)]),
    "padding beyond the kernel": geometry((16, 2, 4, 5), (3, 2, 2, 3), padding=[(9, 1), (0, 7)]),
    "extent one": geometry((33, 2, 1, 1, 1), (3, 2, 1, 3, 5), padding=(0, 1, 2)),
    "pointwise": geometry((16, 5, 5, 5), (6, 5, 1, 1)),
    "stride": geometry((16, 3, 9, 8), (4, 3, 3, 3), stride=2, padding=1),
    "strides that leave cells unseen": geometry((5, 2, 11, 9, 8), (6, 2, 2, 3, 5), stride=(3, 1, 2), padding=(0, 1, 3)),
    "a stride beyond the kernel": geometry((17, 3, 10, 9), (2, 3, 2, 1), stride=4),
    "stride and groups": geometry((16, 6, 8, 9), (9, 2, 4, 4), stride=2, groups=3, padding=1),
    "transposed stride": conv_transpose_geometry("test", (3, 5, 4, 5, 4), (5, 3, 4, 4, 3), stride=2, padding=1),
    "long rows": geometry((3, 2, 5000), (3, 2, 100), padding=50),
    "long strided rows": geometry((2, 1, 9000), (2, 1, 7), stride=2, padding=[(2, 900)]),
    "huge padding": geometry((16, 1, 4), (2, 1, 3), padding=2000),
    "long columns": geometry((2, 2, 3000, 6), (3, 2, 30, 5), padding=(20, 2)),
    "transposed": conv_transpose_geometry("test", (16, 5, 4, 5, 4), (5, 3, 4, 2, 3), padding=1),
    **{f"length {n}": geometry((8, 1, n - 2, 1), (1, 1, 3, 1), padding=(2, 0)) for n in range(3, 37)},
    **{
        f"row of {n}": geometry((8, 1, 3, n - 2), (1, 1, 1, 3), padding=(0, 2)) for n in (7, 8, 15, 27, 35, 56, 64, 189)
    },
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_slot_stays_within_the_bound_by_norms_on_every_isa(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    for isa, dtype in product(cpu.isa_present(), (np.float32, np.float64)):
        cpu.set_isa(isa)
        assert_within_the_norms(slot, g, *draw(slot, g, dtype))


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_rounded_sums_of_integers_are_exact_so_that_no_tap_is_lost(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    a, b = draw(slot, g, integers=True)
    want = expected(slot, g, a, b)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        np.testing.assert_array_equal(np.rint(run(slot, g, a, b)), want, err_msg=isa)


@pytest.mark.parametrize("slot", SLOTS)
def test_the_typical_error_is_below_a_millionth_of_the_largest_output(slot: str) -> None:
    g = GEOMETRIES["a shower layer"]
    a, b = draw(slot, g)
    got, want = run(slot, g, a, b), expected(slot, g, a, b)
    assert np.abs(got - want).max() <= 1e-6 * np.abs(want).max()
    assert (got != run(slot, g, a, b, DIRECT)).any(), "FFT was not used"


@st.composite
def geometries(draw: Callable[[Any], Any]) -> ConvGeometry:
    rank = draw(st.integers(1, 3))
    axes = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(rank))
    groups, c, o = draw(st.sampled_from([1, 1, 2])), draw(st.integers(1, 5)), draw(st.integers(1, 10))
    x, k = axes(1, 9), axes(1, 5)
    pairs = []
    for X, K in zip(x, k, strict=True):
        low, high = draw(st.integers(0, 6)), draw(st.integers(0, 6))
        pairs.append((low, high + max(0, K - X - low - high)))
    batch = draw(st.integers(1, 20))
    return geometry((batch, c * groups, *x), (o * groups, c, *k), padding=pairs, groups=groups)


@settings(max_examples=60, deadline=None)
@given(g=geometries(), seed=st.integers(0, 99))
def test_any_geometry_is_right_in_every_slot(g: ConvGeometry, seed: int) -> None:
    for slot in SLOTS:
        a, b = draw(slot, g, seed=seed, integers=True)
        np.testing.assert_array_equal(np.rint(run(slot, g, a, b)), expected(slot, g, a, b), err_msg=f"{slot} {g}")


@settings(max_examples=30, deadline=None)
@given(g=geometries(), seed=st.integers(0, 99))
def test_the_three_slots_are_adjoints(g: ConvGeometry, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w, y = (rng.standard_normal(shape) for shape in (g.x_shape, g.w_shape, g.y_shape))
    sums = [
        float((y * run("y", g, x, w)).sum()),
        float((x * run("x", g, y, w)).sum()),
        float((w * run("w", g, x, y)).sum()),
    ]
    largest = float((np.abs(y) * oracle.conv(np.abs(x), np.abs(w), g)).sum())
    assert max(sums) - min(sums) <= 1e-12 * largest


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("batch", range(1, 21))
def test_every_batch_is_right(batch: int, slot: str) -> None:
    g = geometry((batch, 2, 5, 4, 6), (3, 2, 3, 2, 3), padding=1)
    a, b = draw(slot, g, integers=True)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        np.testing.assert_array_equal(np.rint(run(slot, g, a, b)), expected(slot, g, a, b), err_msg=isa)


@pytest.mark.parametrize("slot", SLOTS)
def test_spectra_that_are_held_a_few_images_at_a_time_add_up(slot: str) -> None:
    g = geometry((208, 32, 4, 4), (1, 32, 3, 3), padding=50)  # 25 MiB for 16 images, 256 MiB at a time
    a, b = draw(slot, g, integers=True)
    np.testing.assert_array_equal(np.rint(run(slot, g, a, b)), expected(slot, g, a, b))


@pytest.mark.parametrize("slot", SLOTS)
def test_spectra_of_volumes_that_outgrow_the_caches_are_right(slot: str) -> None:
    g = geometry((16, 5, 28, 28, 28), (5, 5, 2, 3, 3), padding=(0, 1, 1))  # 9 MiB, 16 frequencies along W
    a, b = draw(slot, g, integers=True)
    want = expected(slot, g, a, b)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        np.testing.assert_array_equal(np.rint(run(slot, g, a, b)), want, err_msg=isa)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", ["dense 3-D", "one channel", "odd channels", "groups", "1-D"])
def test_the_bits_are_the_same_for_any_thread_count(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    a, b = draw(slot, g)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        results = []
        for threads in (1, 2, 3):
            cpu.set_num_threads(threads)
            results.append(run(slot, g, a, b))
        bounds.assert_same_bits(results[0], results[1])
        bounds.assert_same_bits(results[0], results[2])


@pytest.mark.parametrize("slot", ["y", "x"])
def test_images_seven_decades_apart_do_not_disturb_each_other(slot: str) -> None:
    g = geometry((16, 3, 7, 8, 7), (4, 3, 3, 3, 3), padding=1)
    a, b = draw(slot, g)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        plain = run(slot, g, a, b)
        scales = np.float32(2.0) ** np.linspace(0, -24, 16).round().astype(np.float32).reshape(16, 1, 1, 1, 1)
        np.testing.assert_array_equal(run(slot, g, a * scales, b), plain * scales)


@pytest.mark.parametrize("slot", SLOTS)
def test_showers_whose_cells_span_seven_decades_stay_within_the_bound(slot: str) -> None:
    g = geometry((16, 2, 12, 11, 12), (3, 2, 5, 5, 5), padding=2)
    a, b = draw(slot, g)
    distance = np.sqrt(sum((i - n / 2) ** 2 for i, n in zip(np.indices(g.x), g.x, strict=True)))
    shower = (10.0 ** (-7 * distance / distance.max())).astype(np.float32)
    a = np.abs(a) * shower * (np.random.default_rng(1).random(a.shape) < 0.5).astype(np.float32)
    assert_within_the_norms(slot, g, a, b)


@pytest.mark.parametrize("slot", SLOTS)
def test_zeros_give_exact_zeros(slot: str) -> None:
    g = GEOMETRIES["a shower layer"]
    a, b = draw(slot, g)
    np.testing.assert_array_equal(run(slot, g, np.zeros_like(a), b), 0)
    np.testing.assert_array_equal(run(slot, g, a, np.zeros_like(b)), 0)
    if slot != "w":
        a[5] = 0
        out = run(slot, g, a, b)
        np.testing.assert_array_equal(out[5], 0)
        assert np.abs(out[4]).max() > 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("slot", ["y", "x"])
def test_what_is_not_finite_spoils_its_own_image_only(slot: str, value: float) -> None:
    g = GEOMETRIES["a shower layer"]
    a, b = draw(slot, g)
    want = run(slot, g, a, b)
    a[3, 1, 2, 2, 2] = value
    got = run(slot, g, a, b)
    assert np.isnan(got[3]).all()
    others = np.arange(16) != 3
    bounds.assert_same_bits(got[others], want[others])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_spoils_the_weights_of_its_channel_only(value: float) -> None:
    g = GEOMETRIES["a shower layer"]
    x, y = draw("w", g)
    x[3, 1, 2, 2, 2] = value
    got = run("w", g, x, y)
    assert np.isnan(got[:, 1]).all()
    assert np.isfinite(got[:, [0, 2]]).all()


@pytest.mark.parametrize("channels", [(1, 3), (3, 1), (6, 9), (17, 2)])
def test_lanes_that_images_and_channels_share_do_not_disturb_each_other(channels: tuple[int, int]) -> None:
    c, o = channels
    g = geometry((5, c, 5, 4, 6), (o, c, 3, 3, 3), padding=1)
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        for slot in ("y", "x"):
            a, b = draw(slot, g)
            want = run(slot, g, a, b)
            a[3, -1, 2, 2, 2] = np.nan
            got = run(slot, g, a, b)
            assert np.isnan(got[3]).all()
            bounds.assert_same_bits(np.delete(got, 3, 0), np.delete(want, 3, 0), isa)
        x, y = draw("w", g)
        want = run("w", g, x, y)
        y[2, -1, 1, 1, 1] = np.inf
        got = run("w", g, x, y)
        assert np.isnan(got[-1]).all()
        bounds.assert_same_bits(got[:-1], want[:-1], isa)


NOT_COVERED = {
    "dilation": geometry((16, 3, 9, 8), (4, 3, 3, 3), dilation=2, padding=2),
    "long kernels": geometry((16, 1, 1600), (1, 1, 600)),
    "too many pairs of channels": geometry((16, 2048, 1, 1), (2048, 2048, 1, 1)),
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", NOT_COVERED)
def test_what_fft_does_not_cover_is_computed_directly(name: str, slot: str) -> None:
    g = NOT_COVERED[name]
    a, b = draw(slot, g)
    bounds.assert_same_bits(run(slot, g, a, b), run(slot, g, a, b, DIRECT))


@pytest.mark.parametrize(
    "g",
    [
        geometry((0, 3, 5, 6), (4, 3, 3, 3)),
        geometry((16, 0, 5, 6), (4, 0, 3, 3)),
        geometry((16, 3, 5, 6), (0, 3, 3, 3)),
        geometry((16, 3, 0, 6), (4, 3, 2, 3), padding=1),
    ],
    ids=["batch", "input channels", "output channels", "extent"],
)
def test_zero_sizes_give_zeros(g: ConvGeometry) -> None:
    for slot in SLOTS:
        a, b = draw(slot, g)
        np.testing.assert_array_equal(run(slot, g, a, b), expected(slot, g, a, b))


@pytest.mark.parametrize("slot", SLOTS)
def test_views_with_any_strides_are_read_and_written(slot: str) -> None:
    g = GEOMETRIES["dense 3-D"]

    def awkward(a: Array) -> Array:  # reversed, permuted and with gaps
        view = np.full([2 * n for n in a.shape[::-1]], np.nan, a.dtype).T[tuple(slice(None, None, -2) for _ in a.shape)]
        view[...] = a
        return view

    a, b = draw(slot, g)
    want = run(slot, g, a, b)
    out = awkward(np.full_like(want, np.nan))
    KERNEL[slot](awkward(a), awkward(b), out, g.pod, FFT)
    bounds.assert_same_bits(out, want)
    assert np.isnan(out.base[::2]).all(), "cells between the elements were written"


def test_gradients_of_a_layer_agree_with_the_direct_path() -> None:
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((16, 3, 6, 6, 6)), rng.standard_normal((4, 3, 3, 3, 3))
    results = []
    for name in ("direct", "fft"):
        gk.set_conv_algorithm(name)
        tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
        (gx,) = gk.grad((ops.conv(tx, tw, padding=1) ** 2).sum(), [tx], create_graph=True)
        results.append([gx.detach().numpy(), gk.grad((gx**2).sum(), [tw])[0].numpy()])
    for direct, fft in zip(*results, strict=True):
        assert np.abs(direct - fft).max() <= 1e-13 * np.abs(direct).max()
        assert (direct != fft).any(), "FFT was not used"


def _kernel_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    calls: list[tuple[str, int]] = []
    for name in ("conv", "conv_transpose", "conv_weight"):
        kernel = getattr(cpu, name)

        def noted(*arguments: Any, name: str = name, kernel: Any = kernel) -> None:
            calls.append((name, arguments[-1]))
            kernel(*arguments)

        monkeypatch.setattr(cpu, name, noted)
    return calls


def test_auto_is_direct_for_values_and_fast_for_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _kernel_calls(monkeypatch)
    x, w = (gk.tensor(RNG.standard_normal(s), True) for s in ((2, 2, 6, 6), (3, 2, 3, 3)))
    (gx,) = gk.grad(ops.conv(x, w).sum(), x, create_graph=True)
    (gx * gx).sum().backward()
    ops.conv_transpose(gk.tensor(RNG.standard_normal((2, 3, 4, 4))), w.detach())
    auto, fast = CONV_ALGORITHMS["auto"], CONV_ALGORITHMS["fast"]
    assert calls[0] == ("conv", auto)
    assert calls[-1] == ("conv_transpose", auto)
    assert len(calls) > 3
    assert {code for _, code in calls[1:-1]} == {fast}


@pytest.mark.parametrize("batch", [16, 17])
def test_fast_takes_fft_where_it_pays_and_direct_elsewhere(batch: int) -> None:
    for channels, kernel in (((8, 8), 5), ((1, 1), 5), ((8, 8), 2)):
        g = conv_geometry(
            "conv", (batch, channels[0], 12, 12, 12), (channels[1], channels[0], *(kernel,) * 3), padding=1
        )
        x, y = (RNG.standard_normal(s).astype(np.float32) for s in (g.x_shape, g.y_shape))
        found = {}
        for name in ("direct", "fft", "fast"):
            found[name] = np.full(g.w_shape, np.nan, np.float32)
            cpu.conv_weight(x, y, found[name], g.pod, CONV_ALGORITHMS[name])
        assert np.array_equal(found["fast"], found["fft"]) == (channels == (8, 8) and kernel == 5)
        assert not np.array_equal(found["fft"], found["direct"])
