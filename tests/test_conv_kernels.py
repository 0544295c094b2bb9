"""Native convolution kernels against a float64 loop over taps, each other, and the adjoint identities."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from conv_problems import (
    AUTOMATIC,
    BATCH,
    BF16,
    CHANNELS,
    DIRECT,
    EMPTY,
    IM2COL,
    ROWS,
    Problem,
    assert_views_serve,
    fill,
    geometries,
    geometry,
    oracle,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from gankernels import _cpu
from gankernels.backends.opcodes import MATMUL_PRECISIONS
from gankernels.geometry import ConvGeometry, conv_transpose_geometry
from gankernels.ops.conv_plan import plan

pytestmark = pytest.mark.cpu_only


def assert_close(p: Problem, slot: str, algorithm: int = AUTOMATIC) -> None:
    got, want = p.run(slot, algorithm), p.expected(slot)
    bound = p.bound(slot, np.finfo(got.dtype).eps / 2)
    wrong = ~(np.abs(got - want) <= bound)
    assert not wrong.any(), (
        f"{slot} of {p.g}: {wrong.sum()} of {wrong.size} elements out of bounds, first at {np.argwhere(wrong)[0]}"
    )


GEOMETRIES = {
    "dense 3-D": geometry((3, 4, 5, 6, 7), (8, 4, 3, 3, 3), padding=1),
    "odd channels": geometry((5, 3, 4, 5, 6), (7, 3, 2, 3, 2), padding="same"),
    "wide": geometry((2, 20, 6, 7), (22, 20, 3, 3), padding=1),
    "one channel": geometry((17, 1, 6, 9, 8), (32, 1, 3, 3, 3), padding="same"),
    "to one channel": geometry((16, 6, 6, 6, 6), (1, 6, 2, 2, 2)),
    "strided": geometry((4, 5, 9, 11), (6, 5, 3, 3), stride=2, padding=1),
    "stride over kernel": geometry((3, 4, 17, 19), (4, 4, 2, 2), stride=(5, 4)),
    "dilated": geometry((4, 3, 12, 14), (5, 3, 3, 3), dilation=(2, 3), padding=2),
    "strided and dilated": geometry(
        (3, 2, 11, 12, 13), (4, 2, 2, 3, 2), stride=(2, 3, 2), dilation=(3, 2, 4), padding=2
    ),
    "groups": geometry((6, 6, 8, 9), (9, 2, 3, 3), groups=3, padding=1),
    "depthwise": geometry((3, 8, 9, 9), (8, 1, 3, 3), groups=8, padding=1),
    "1-D": geometry((9, 4, 50), (6, 4, 7), padding=3),
    "pointwise": geometry((3, 10, 5, 5), (12, 10, 1, 1)),
    "uneven padding": geometry((2, 3, 6, 5), (4, 3, 4, 4), padding=[(3, 0), (0, 2)]),
    "kernel over x": geometry((3, 2, 2, 3), (3, 2, 5, 6), padding=4),
    "extent one": geometry((33, 2, 1, 1, 1), (3, 2, 1, 3, 5), padding=(0, 1, 2)),
    "many channels": geometry((3, 70, 6, 7), (75, 70, 3, 3), padding=1),
    "many channels, strided groups": geometry((2, 80, 9, 8), (72, 40, 3, 4), stride=2, padding=(2, 1), groups=2),
    "many channels, dilated taps": geometry((1, 34, 4, 9, 7), (50, 34, 2, 3, 2), dilation=(1, 2, 3), padding=(1, 2, 0)),
    "few outputs": geometry((2, 64, 3, 4, 6), (8, 64, 3, 3, 2), padding="same"),
    "few outputs, odd channels": geometry((3, 37, 5, 4), (4, 37, 3, 2), padding=1),
    "few outputs, folded odd channels": geometry((2, 5, 6, 7), (2, 5, 3, 3), padding=1),
    "few outputs, blocks of channels": geometry((1, 301, 3, 4), (3, 301, 2, 1), padding=(1, 0)),
    "few outputs, groups": geometry((3, 21, 6, 5), (6, 7, 3, 2), groups=3, stride=(1, 2), padding=1),
    "few inputs, strided groups": geometry((2, 6, 7, 6), (66, 3, 4, 3), groups=2, stride=2, padding=1),
    "only padding": geometry((2, 2, 3), (2, 2, 2), padding=7, stride=4, dilation=3),
    "transposed": conv_transpose_geometry("test", (3, 5, 4, 5, 4), (5, 6, 4, 4, 4), stride=2, padding=1),
    "many channels, transposed": conv_transpose_geometry("test", (2, 52, 4, 3), (52, 66, 4, 4), stride=2, padding=1),
    "output padding": conv_transpose_geometry("test", (2, 4, 5, 4), (4, 3, 3, 2), stride=(3, 2), output_padding=(2, 1)),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("algorithm", [BATCH, ROWS, IM2COL, CHANNELS])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_slot_stays_within_the_derived_bound(name: str, algorithm: int, slot: str, dtype: Any) -> None:
    assert_close(fill(GEOMETRIES[name], dtype), slot, algorithm)


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_integer_sums_are_the_same_bits_on_every_isa_thread_count_and_path(
    name: str, slot: str, restore_knobs: None
) -> None:
    p = fill(GEOMETRIES[name], integers=True)
    want = p.expected(slot).astype(np.float32)
    paths = (AUTOMATIC, DIRECT, BATCH, ROWS, IM2COL, CHANNELS, BF16)  # the integers have fewer than 8 bits
    for isa, threads, algorithm in product(_cpu.isa_present(), (1, 2, 3), paths):
        _cpu.set_isa(isa)
        _cpu.set_num_threads(threads)
        np.testing.assert_array_equal(
            p.run(slot, algorithm), want, err_msg=f"{isa}, {threads} threads, path {algorithm}"
        )


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("algorithm", [BATCH, ROWS, CHANNELS])
@pytest.mark.parametrize(
    "name",
    [
        "dense 3-D",
        "one channel",
        "strided and dilated",
        "transposed",
        "groups",
        "many channels, strided groups",
        "few outputs",
        "few outputs, groups",
    ],
)
def test_real_sums_are_the_same_bits_for_any_thread_count(
    name: str, algorithm: int, slot: str, restore_knobs: None
) -> None:
    p = fill(GEOMETRIES[name])
    results = []
    for threads in (1, 2, 3):
        _cpu.set_num_threads(threads)
        results.append(p.run(slot, algorithm))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("slot", ["y", "x"])
@pytest.mark.parametrize("algorithm", [BATCH, ROWS, CHANNELS])
def test_an_image_has_the_same_bits_in_every_batch(algorithm: int, slot: str) -> None:
    whole = fill(geometry((40, 3, 7, 9, 10), (6, 3, 3, 2, 4), padding=1))
    want = whole.run(slot, algorithm)
    for batch in range(1, 40):
        g = replace(whole.g, batch=batch)
        part = Problem(g, whole.x[:batch], whole.w, whole.y[:batch])
        np.testing.assert_array_equal(part.run(slot, algorithm), want[:batch], err_msg=f"batch {batch}")


@pytest.mark.parametrize("algorithm", [BATCH, CHANNELS])
@pytest.mark.parametrize("batch", range(1, 41))
def test_the_weights_gradient_is_right_for_every_batch(batch: int, algorithm: int) -> None:
    p = fill(geometry((batch, 2, 5, 4, 9), (3, 2, 3, 2, 3), padding=1), integers=True)
    np.testing.assert_array_equal(p.run("w", algorithm), p.expected("w").astype(np.float32))


@pytest.mark.parametrize("slot", ["y", "x"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_lanes_of_images_and_of_places_sum_in_one_order(name: str, slot: str) -> None:
    p = fill(GEOMETRIES[name])
    if plan(p.g, slot, ROWS).path == "rows":
        np.testing.assert_array_equal(p.run(slot, ROWS), p.run(slot, BATCH))


@settings(max_examples=60, deadline=None)
@given(g=geometries(), seed=st.integers(0, 99))
def test_any_geometry_is_right_in_every_slot_and_path(g: ConvGeometry, seed: int) -> None:
    p = fill(g, seed=seed, integers=True)
    for slot in "yxw":
        want = p.expected(slot).astype(np.float32)
        np.testing.assert_array_equal(p.run(slot, BATCH), want, err_msg=f"{slot} batch {g}")
        np.testing.assert_array_equal(p.run(slot, ROWS), want, err_msg=f"{slot} rows {g}")
        np.testing.assert_array_equal(p.run(slot, IM2COL), want, err_msg=f"{slot} im2col {g}")
        np.testing.assert_array_equal(p.run(slot, CHANNELS), want, err_msg=f"{slot} channels {g}")


@settings(max_examples=30, deadline=None)
@given(g=geometries(), seed=st.integers(0, 99))
def test_the_three_slots_are_adjoints(g: ConvGeometry, seed: int) -> None:
    p = fill(g, np.float64, seed, integers=True)
    through_y, through_x, through_w = (float((getattr(p, slot) * p.run(slot)).sum()) for slot in "yxw")
    assert through_y == through_x
    assert through_y == through_w


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("algorithm", [BATCH, ROWS, IM2COL, CHANNELS])
def test_views_with_any_strides_are_read_and_written(slot: str, algorithm: int) -> None:
    assert_views_serve(fill(GEOMETRIES["strided"], integers=True), slot, algorithm)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", [n for n in GEOMETRIES if n.startswith("few outputs")])
def test_what_is_not_finite_reaches_only_the_sums_that_contain_it(
    name: str, value: float, dtype: Any, restore_knobs: None
) -> None:
    p = fill(GEOMETRIES[name], dtype, integers=True)
    p.w[p.w == 0] = 1
    p.x[0, -1, 0, -1] = value
    p.x[-1, 0, -1] = value
    with np.errstate(invalid="ignore"):  # inf - inf
        want = p.expected("y").astype(dtype)
    assert np.isfinite(want).any()
    for isa in _cpu.isa_present():
        _cpu.set_isa(isa)
        np.testing.assert_array_equal(p.run("y", CHANNELS), want, err_msg=isa)


HUGE = {
    "stride 2^31-1": geometry((2, 3, 5, 6), (4, 3, 2, 2), stride=2**31 - 1),
    "padding 10^6": geometry((1, 1, 4), (2, 1, 3), padding=10**6, stride=10**5),
    "padding and stride 2^30": geometry((2, 2, 4, 3), (2, 2, 1, 2), padding=2**30, stride=2**30),
    "dilation 10^6": geometry((1, 1, 4), (2, 1, 3), padding=10**6, dilation=10**6),
    "kernel 10^4": geometry((1, 1, 4), (1, 1, 10**4), padding=10**4 - 3),
    "wide padding": geometry((1, 1, 4), (1, 1, 3), padding=10**5),
    "transposed by 1000": conv_transpose_geometry("test", (1, 1, 3, 1), (1, 1, 3, 3), stride=1000, padding=(500, 0)),
}


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("name", HUGE)
def test_huge_parameters_cost_no_more_than_the_cells_they_touch(name: str, slot: str) -> None:
    p = fill(HUGE[name], integers=True)
    for algorithm in (BATCH, ROWS, CHANNELS):
        np.testing.assert_array_equal(p.run(slot, algorithm), p.expected(slot).astype(np.float32))


@pytest.mark.parametrize("algorithm", [BATCH, ROWS, IM2COL, CHANNELS])
@pytest.mark.parametrize("g", EMPTY.values(), ids=EMPTY)
def test_zero_sizes_give_zeros(g: ConvGeometry, algorithm: int) -> None:
    p = fill(g)
    for slot in "yxw":
        np.testing.assert_array_equal(p.run(slot, algorithm), p.expected(slot).astype(np.float32))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (1, 16, 64, 1), (1, 1, 300, 5), (2, 3, 4, 5), (3, 20, 600, 50), (1, 129, 257, 100), (1, 7, 0, 3),
     (1, 600, 3, 17), (3, 37, 77, 3), (1, 5, 40, 130), (2, 100, 64, 1), (1, 3, 130, 90),
     (0, 2, 2, 2), (40, 8, 8, 8), (1, 13, 9, 200), (1, 10, 33, 96)],
)  # fmt: skip
def test_matmul_is_exact_on_integers_for_any_layout(shape: tuple[int, ...], dtype: Any, restore_knobs: None) -> None:
    B, M, K, N = shape
    rng = np.random.default_rng(1)
    a = rng.integers(-4, 5, (B, M, K)).astype(dtype)
    b = rng.integers(-4, 5, (B, K, N)).astype(dtype)
    want = a @ b
    turned = lambda m: np.ascontiguousarray(m.transpose(0, 2, 1)).transpose(0, 2, 1)
    gapped = lambda m: np.repeat(np.repeat(m, 2, 1), 3, 2)[:, ::2, ::3]
    for isa, threads in product(_cpu.isa_present(), (1, 3)):
        _cpu.set_isa(isa)
        _cpu.set_num_threads(threads)
        for left, right in product((a, turned(a), gapped(a)), (b, turned(b), gapped(b))):
            for out in (
                np.full_like(want, np.nan),
                turned(np.full_like(want, np.nan)),
                gapped(np.full_like(want, np.nan)),
            ):
                _cpu.matmul(left, right, out, MATMUL_PRECISIONS["full"])
                np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(1, 1031, 5, 1024), (2, 1030, 3, 1040)])
def test_large_products_of_a_short_inner_extent_are_exact_on_integers(
    shape: tuple[int, ...], dtype: Any, restore_knobs: None
) -> None:
    B, M, K, N = shape
    rng = np.random.default_rng(1)
    a = rng.integers(-4, 5, (B, K, M)).astype(dtype).transpose(0, 2, 1)
    b = rng.integers(-4, 5, (B, K, N)).astype(dtype)
    want = a @ b
    for isa, threads in product(_cpu.isa_present(), (1, 3)):
        _cpu.set_isa(isa)
        _cpu.set_num_threads(threads)
        for left in (a, np.ascontiguousarray(a)):
            out = np.full((B, M, N + 16), np.nan, dtype)[:, :, :N]
            _cpu.matmul(left, b, out, MATMUL_PRECISIONS["full"])
            np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("name", GEOMETRIES)
def test_col2im_is_the_adjoint_of_im2col(name: str) -> None:
    g = GEOMETRIES[name]
    rng = np.random.default_rng(2)
    x = rng.integers(-3, 4, g.x_shape).astype(np.float64)
    cols = rng.integers(-3, 4, g.columns_shape).astype(np.float64)
    columns, back = np.full_like(cols, np.nan), np.full_like(x, np.nan)
    _cpu.im2col(x, columns, g.pod)
    _cpu.col2im(cols, back, g.pod)
    assert (columns * cols).sum() == (x * back).sum()
    w = rng.integers(-3, 4, g.w_shape).astype(np.float64)
    if g.groups == 1:
        y = w.reshape(w.shape[0], -1) @ columns
        np.testing.assert_array_equal(y.reshape(g.y_shape), oracle("y", g, x, w, np.zeros(g.y_shape)))
