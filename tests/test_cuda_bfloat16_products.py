"""Convolutions and products of device arrays that hold bfloat16, against float64 on the same inputs.

Products of bfloat16 are exact in float32, and so are sums of small integers: what is stored must then be the exact sum
rounded once. A sum, a part of one or a column that was rounded on the way shows in the bits.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from test_cuda_conv_kernels import GEOMETRIES, SLOTS, expected, geometry, whole_barriers
from test_cuda_epilogue import CONVOLUTIONS, COUNTER, SEED
from test_cuda_moments import check as check_moments

from gankernels import dtypes
from gankernels.backends import cuda
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.geometry import ConvGeometry, upsample_conv_geometry
from gankernels.testing import bounds, oracle

__all__ = ["whole_barriers"]  # a fixture

pytest.importorskip("ml_dtypes")  # NumPy's arrays of it
BF16, F32 = dtypes.bfloat16(), np.float32
Array = np.ndarray[Any, np.dtype[Any]]
OUTPUTS = {"conv": "y", "conv_transpose": "x", "conv_weight": "w"}
INPUTS = {"conv": "xw", "conv_transpose": "yw", "conv_weight": "xy"}


def shape_of(g: Any, letter: str) -> tuple[int, ...]:
    shape: tuple[int, ...] = getattr(g, letter + "_shape")
    return shape


def integers(*shapes: tuple[int, ...], largest: int = 3) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.integers(-largest, largest + 1, s).astype(F32) for s in shapes]


def stored(exact: Array) -> Array:
    """Sums that float32 holds exactly, rounded once."""
    assert not (np.abs(exact) >= 2**24).any()
    return exact.astype(F32).astype(BF16).astype(F32)


def on_device(kernel: str, arrays: tuple[Array, ...], shape: tuple[int, ...], *rest: Any) -> Array:
    """What a kernel writes, as float32."""
    out = cuda.from_host(np.full(shape, np.nan, BF16))
    getattr(cuda, kernel)(*(cuda.from_host(a.astype(BF16)) for a in arrays), out, *rest)
    result: Array = cuda.to_host(out).astype(F32)
    return result


def run(slot: str, g: ConvGeometry, a: Array, b: Array, algorithm: str = "auto") -> Array:
    return on_device(slot, (a, b), shape_of(g, OUTPUTS[slot]), g.pod, CONV_ALGORITHMS[algorithm])


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_is_the_exact_sum_rounded_once(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    a, b = integers(*(shape_of(g, letter) for letter in INPUTS[slot]))
    want = stored(expected(slot, g, a, b))
    for algorithm in ("auto", "im2col"):
        np.testing.assert_array_equal(run(slot, g, a, b, algorithm), want, err_msg=algorithm)


@pytest.mark.parametrize("slot", SLOTS)
def test_no_name_of_a_path_changes_the_precision(slot: str) -> None:
    g = GEOMETRIES["strided"]
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape_of(g, letter)).astype(F32) for letter in INPUTS[slot])
    first = run(slot, g, a, b)
    for algorithm in ("direct", "tf32", "bf16"):
        bounds.assert_same_bits(run(slot, g, a, b, algorithm), first, algorithm)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", ["1-D", "3-D, an odd tile", "strided and dilated", "transposed", "groups"])
def test_sums_of_reals_stay_within_the_bound_of_float32_and_one_rounding(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(shape_of(g, letter)).astype(BF16).astype(F32) for letter in INPUTS[slot])
    want = expected(slot, g, a, b)
    # the cores' own sums may cut digits where float32 arithmetic rounds them: twice the error of a rounded sum
    limit = bounds.stored_bound(want, 2 * getattr(bounds, slot + "_bound")(a, b, g, F32))
    for algorithm in ("auto", "im2col"):
        bounds.assert_close(run(slot, g, a, b, algorithm), want, limit, algorithm)


LONG = {  # sums of positive numbers: parts of them need more than 8 bits, and in bfloat16 they would stop growing
    "parts along k": ("conv_weight", geometry((5, 2, 16, 33), (17, 2, 2, 3), padding=1)),
    "parts along k, few lines": ("conv", geometry((1, 301, 3, 3), (18, 301, 2, 1))),
    "taps beside channels": ("conv", geometry((1, 301, 9), (4, 301, 5), padding=2)),
    "taps beside channels, transposed": ("conv_transpose", geometry((1, 4, 9), (301, 4, 5), stride=2)),
    "two parts": ("conv", geometry((1, 301, 3), (18, 301, 1))),
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_sum_is_added_in_float32(name: str) -> None:
    slot, g = LONG[name]
    rng = np.random.default_rng(4)
    a, b = (rng.integers(1, 20, shape_of(g, letter)).astype(F32) for letter in INPUTS[slot])
    want = stored(expected(slot, g, a, b))
    for algorithm in ("auto", "im2col"):
        np.testing.assert_array_equal(run(slot, g, a, b, algorithm), want, err_msg=algorithm)


def awkward(x: Array) -> Any:
    """Reversed axes in a wider array: permuted, with gaps."""
    wide = cuda.from_host(np.ascontiguousarray(np.repeat(x.T, 2, axis=-1)).astype(BF16))
    return wide.transpose(tuple(range(x.ndim))[::-1])[::2]


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("slot", SLOTS)
def test_views_with_any_strides_are_read_and_written(slot: str, algorithm: str) -> None:
    g = GEOMETRIES["groups"]
    a, b = integers(*(shape_of(g, letter) for letter in INPUTS[slot]))
    out = awkward(np.full(shape_of(g, OUTPUTS[slot]), np.nan, F32))
    getattr(cuda, slot)(awkward(a), awkward(b), out, g.pod, CONV_ALGORITHMS[algorithm])
    np.testing.assert_array_equal(cuda.to_host(out).astype(F32), stored(expected(slot, g, a, b)))


@pytest.mark.parametrize(
    "name", ["1-D", "2-D same, even kernel", "strided", "strided and dilated", "groups", "no cell"]
)
def test_unshared_weights_give_the_exact_sum_rounded_once(name: str) -> None:
    g = GEOMETRIES[name]
    w_shape = (*g.w_shape[:2], prod(g.y), prod(g.kernel))
    x, w, y = integers(g.x_shape, w_shape, g.y_shape)
    shaped = w.reshape(*g.w_shape[:2], *g.y, *g.kernel)
    for kernel, arrays, given, shape in (
        ("local_conv", (x, w), (x, shaped), g.y_shape),
        ("local_conv_transpose", (y, w), (y, shaped), g.x_shape),
        ("local_conv_weight", (x, y), (x, y), w_shape),
    ):
        want = stored(getattr(oracle, kernel)(*given, g).reshape(shape))
        np.testing.assert_array_equal(on_device(kernel, arrays, shape, g.pod), want, err_msg=kernel)


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("factors", [(2, 1, 3), (1, 2, 2)])
def test_upsampling_and_convolution_in_one_give_the_exact_sum_rounded_once(
    factors: tuple[int, ...], algorithm: str
) -> None:
    g = upsample_conv_geometry("test", (2, 4, 3, 3, 4), (6, 2, 3, 2, 4), factors, padding=(1, 0, 2), groups=2)
    x, w, y = integers(g.x_shape, g.w_shape, g.y_shape)
    large = oracle.upsample_nearest(x, factors)
    for kernel, arrays, want in (
        ("upsample_conv", (x, w), oracle.conv(large, w, g.conv)),
        ("upsample_conv_transpose", (y, w), oracle.sum_blocks(oracle.conv_transpose(y, w, g.conv), factors)),
        ("upsample_conv_weight", (x, y), oracle.conv_weight(large, y, g.conv)),
    ):
        got = on_device(kernel, arrays, want.shape, g.pod, CONV_ALGORITHMS[algorithm])
        np.testing.assert_array_equal(got, stored(want), err_msg=kernel)


def test_taps_that_fall_into_one_small_cell_are_rounded_as_factors_are() -> None:
    g = upsample_conv_geometry("test", (2, 3, 4, 5), (5, 3, 3, 4), (2, 3), padding=1, groups=1)
    rng = np.random.default_rng(2)
    x, w, y = (rng.standard_normal(s).astype(BF16).astype(F32) for s in (g.x_shape, g.w_shape, g.y_shape))
    large = oracle.upsample_nearest(x, (2, 3))
    want, sums = (oracle.conv(form(large).astype(float), form(w).astype(float), g.conv) for form in (np.array, np.abs))
    limit = bounds.stored_bound(want, 2.0**-8 * sums + 2 * bounds.conv_bound(large, w, g.conv, F32))
    code = CONV_ALGORITHMS["auto"]
    bounds.assert_close(on_device("upsample_conv", (x, w), g.y_shape, g.pod, code), want, limit)
    want = oracle.conv_weight(large.astype(float), y.astype(float), g.conv)
    limit = bounds.stored_bound(want, 2 * bounds.conv_weight_bound(large, y, g.conv, F32))
    bounds.assert_close(on_device("upsample_conv_weight", (x, y), g.w_shape, g.pod, code), want, limit)


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 3, 4, 5), (1, 130, 20, 70), (1, 13, 9, 200), (1, 5, 700, 1), (1, 7, 0, 3), (0, 2, 2, 2)],
)
def test_matmul_is_the_exact_sum_rounded_once_for_any_layout(shape: tuple[int, ...]) -> None:
    B, M, K, N = shape
    a, b = integers((B, M, K), (B, K, N), largest=9)
    plain = lambda m: cuda.from_host(m.astype(BF16))
    turned = lambda m: plain(np.ascontiguousarray(m.transpose(0, 2, 1))).transpose((0, 2, 1))
    for left in (plain, turned):
        for right in (plain, turned):
            for result in (plain, turned):
                out = result(np.full((B, M, N), np.nan, F32))
                cuda.matmul(left(a), right(b), out, MATMUL_PRECISIONS["full"])
                np.testing.assert_array_equal(cuda.to_host(out).astype(F32), stored(a @ b))


# Slopes and scales by powers of two keep integers exact: only the store rounds.
FOLLOWING = {"bias": (True, 1.0, 0.0), "all": (True, 0.25, 0.5), "relu, dropout": (False, 0.0, 0.5)}


def finished(exact: Array, bias: Array, slope: float, p: float, channel_axis: int) -> Array:
    """What an epilogue makes of exact sums; where dropout kept a zero it is -0."""
    column = bias.reshape(-1, *(1,) * (exact.ndim - 1 - channel_axis)) if bias.size else 0.0
    y = exact + column
    y = np.where(y > 0, y, slope * y)
    if p == 0.0:
        return stored(y)
    ones, mask = cuda.from_host(np.ones(y.size, F32)), cuda.from_host(np.empty(y.size, F32))
    cuda.dropout(ones, mask, p, SEED, COUNTER)
    kept = cuda.to_host(mask).reshape(y.shape) != 0
    y = stored(y / (1.0 - p))
    return np.where(kept, np.where(y == 0, F32(-0.0), y), F32(0.0))


def assert_same_values(got: Array, want: Array, marked: bool) -> None:
    np.testing.assert_array_equal(got, want)
    if marked:
        np.testing.assert_array_equal(np.signbit(got), np.signbit(want))


@pytest.mark.parametrize("what", FOLLOWING)
@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_an_epilogue_works_on_the_sum_before_it_is_rounded(name: str, algorithm: str, what: str) -> None:
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    with_bias, slope, p = FOLLOWING[what]
    a, b, bias = integers(*shapes, (out[1] if with_bias else 0,))
    sums = cuda.from_host(np.full(out, np.nan, F32))
    code = CONV_ALGORITHMS[algorithm]
    getattr(cuda, kernel)(cuda.from_host(a), cuda.from_host(b), sums, pod, code)
    want = finished(cuda.to_host(sums), bias, slope, p, 1)
    last = (cuda.from_host(bias), slope, p, SEED, COUNTER)
    got = on_device(kernel + "_epilogue", (a, b), out, pod, code, *last)
    assert_same_values(got, want, p > 0)


@pytest.mark.parametrize("algorithm", ["auto", "im2col"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_are_those_of_what_is_stored(name: str, algorithm: str) -> None:
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    rng = np.random.default_rng(5)
    a, b, bias = (rng.standard_normal(s).astype(F32) for s in (*shapes, out[1]))
    last = (cuda.from_host(bias), 0.2, 0.0, 0, 0)  # dropout has rounded already
    mean, variance = (cuda.from_host(np.full(out[1], np.nan, F32)) for _ in range(2))
    y = on_device(kernel + "_moments", (a, b), out, pod, CONV_ALGORITHMS[algorithm], mean, variance, *last)
    check_moments(y, cuda.to_host(mean), cuda.to_host(variance))
    plain = on_device(kernel + "_epilogue", (a, b), out, pod, CONV_ALGORITHMS[algorithm], *last)
    bounds.assert_same_bits(y, plain, "without moments")


@pytest.mark.parametrize("what", FOLLOWING)
@pytest.mark.parametrize("shape", [(1, 37, 130, 9), (1, 3, 400, 20), (1, 130, 5, 7), (1, 4, 0, 8)])
def test_the_epilogue_of_a_product_works_on_the_sum_before_it_is_rounded(shape: tuple[int, ...], what: str) -> None:
    B, M, K, N = shape
    with_bias, slope, p = FOLLOWING[what]
    a, b, bias = integers((B, M, K), (B, K, N), (N if with_bias else 0,), largest=9)
    last = (cuda.from_host(bias), slope, p, SEED, COUNTER)
    got = on_device("matmul_epilogue", (a, b), (B, M, N), MATMUL_PRECISIONS["bf16"], *last)
    assert_same_values(got, finished(a @ b, bias, slope, p, 2), p > 0)


@pytest.mark.skipif(not cuda.native.emulated, reason="a GPU does not say that a barrier is missing")
def test_every_missing_barrier_is_reported(whole_barriers: None) -> None:
    g = GEOMETRIES["3-D, an odd tile"]
    a, b = integers(g.x_shape, g.w_shape)
    run("conv", g, a, b)
    sites = [s for s in cuda.native.emulator_barriers() if s.startswith("gemm.")]
    assert len(sites) == 3
    for site in sites:
        cuda.native.emulator_skip_barrier(site)
        with pytest.raises(RuntimeError, match="emulator: "):
            run("conv", g, a, b)
