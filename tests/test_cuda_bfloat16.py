"""The kernels of the compiled CUDA backend on arrays that are stored as bfloat16.

Nothing but the store may round to bfloat16. Hence a result has the bits of the same kernel in float32 on the same
numbers, rounded; and it lies between the roundings of what float64 gives less and plus the error bound of float32.
Where float64 gives a number of bfloat16 that leaves this number alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_cuda_kernels import on_device

from gankernels.backends import cpu, cuda, kernels
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY
from gankernels.geometry import conv_geometry, window_geometry

pytest.importorskip("ml_dtypes")  # NumPy's arrays of it
if cuda.why_not() is not None:
    pytest.skip(f"cuda cannot be used: {cuda.why_not()}", allow_module_level=True)

BF16, F32, F64 = cuda.empty((0,), "bfloat16").dtype, np.dtype(np.float32), np.dtype(np.float64)
Array = np.ndarray[Any, np.dtype[Any]]
EPS, TINY = 2.0**-24, 2.0**-148  # of float32: a rounding, and a few of the smallest steps
SEED, COUNTER = 2**40 + 7, 2**33 + 5
SPECIAL = np.array([0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 2.0**-133, -(2.0**-130)])


def numbers(*shape: int, seed: int = 0, dtype: Any = BF16) -> Array:
    """Normal numbers of all sizes from 0.001 to 1000."""
    rng = np.random.default_rng(seed)
    return np.asarray(rng.normal(size=shape) * 10.0 ** rng.uniform(-3, 3, shape), dtype)


def even(*shape: int, seed: int = 0, dtype: Any = BF16) -> Array:
    """Normal numbers around 0, of one size."""
    return np.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def nans(*shape: int, dtype: Any = BF16) -> Array:
    return np.full(shape, np.nan, dtype)


def wide(x: Array) -> Array:
    return x.astype(F64)


def layouts(make: Callable[..., Array] = numbers) -> list[Array]:
    """Contiguous (whole packs or not), permuted, stepped, reversed, misaligned, broadcast, one element, none."""
    a = make(3, 5, 4, 8)
    return [
        make(2061),
        a,
        a.transpose(3, 1, 0, 2),
        a[:, ::-1, ::2, 1::3],
        a[1:, :, :, 4:],
        a.reshape(-1)[3:],
        np.broadcast_to(a[..., :1], a.shape),
        make(),
        a[:0],
    ]


def called(
    kernel: str, dtype: Any, inputs: list[Array], outputs: list[Array], *rest: Any, before: Any = (), first: int = 0
) -> list[Array]:
    """The outputs of a call on the same numbers stored as dtype; `first` outputs come before the inputs."""

    def stored(x: Array) -> Any:
        return on_device(x if dtype == BF16 or x.dtype not in (BF16, F32) else x.astype(dtype))

    device = [stored(y) for y in outputs]
    getattr(cuda, kernel)(*before, *device[:first], *map(stored, inputs), *device[first:], *rest)
    return [cuda.to_host(y) for y in device]


def assert_same(actual: Array, expected: Array) -> None:
    np.testing.assert_array_equal(wide(actual), wide(expected))
    signs = np.signbit(wide(actual)) == np.signbit(wide(expected))
    assert (signs | np.isnan(wide(actual))).all()


def rounded(x: Array, dtype: Any) -> Array:
    return wide(x.astype(F32).astype(dtype))


def check(
    kernel: str,
    inputs: list[Array],
    outputs: list[Array],
    *rest: Any,
    before: Any = (),
    first: int = 0,
    sizes: Any = None,
) -> list[Array]:
    """Compare the outputs with those of float32 and float64; gives them.

    sizes : list of arrays, optional
        For every output, the size of what its elements are sums of; else of these themselves.
    """
    found, single, double = (
        called(kernel, dtype, inputs, outputs, *rest, before=before, first=first) for dtype in (BF16, F32, F64)
    )
    for i, (y, of32, of64) in enumerate(zip(found, single, double, strict=True)):
        if y.dtype not in (BF16, F32):
            np.testing.assert_array_equal(y, of64)
            continue
        with np.errstate(all="ignore"):
            assert_same(y, of32.astype(y.dtype))
            error = np.where(np.isfinite(of64), 16 * EPS * (np.abs(of64) if sizes is None else sizes[i]) + TINY, 0)
            low, high = rounded(of64 - error, y.dtype), rounded(of64 + error, y.dtype)
            fine = ((wide(y) >= low) & (wide(y) <= high)) | (np.isnan(wide(y)) & np.isnan(of64))
        assert fine.all(), (kernel, before, y[~fine][:3], of64[~fine][:3])
    return found


# ---- storing -------------------------------------------------------------------------------------------------------
def test_a_number_is_rounded_to_nearest_ties_to_even_and_nan_stays_nan() -> None:
    high = np.array([0x0000, 0x0001, 0x3F80, 0x3F81, 0x7F7F, 0x7F80, 0x7FFF, 0x8000, 0xBF80, 0xFF7F], np.uint32)
    low = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = (high[:, None] << 16 | low).ravel().view(F32)
    y = cuda.to_host(cuda.cast(cuda.from_host(x), BF16))
    with np.errstate(all="ignore"):
        assert_same(y, x.astype(BF16))
    back = cuda.to_host(cuda.cast(cuda.from_host(y), F32))
    assert_same(back, y)
    for other in (F64, np.dtype(np.int64), np.dtype(np.bool_)):
        whole = np.arange(-20, 21).astype(BF16)
        there = cuda.cast(cuda.from_host(whole), other)
        np.testing.assert_array_equal(cuda.to_host(there), wide(whole).astype(other))
        np.testing.assert_array_equal(cuda.to_host(cuda.cast(there, BF16)), wide(whole).astype(other).astype(BF16))


def test_copies_choices_and_gates_keep_the_numbers_in_every_layout() -> None:
    for a in layouts():
        b = numbers(*a.shape, seed=1)
        condition = np.random.default_rng(2).integers(0, 2, a.shape).astype(bool)
        assert_same(check("copy", [a], [nans(*a.shape)])[0], a)
        assert_same(check("copy", [a], [nans(*a.shape[::-1]).T])[0], a)
        assert_same(check("select", [condition, a, b], [nans(*a.shape)])[0], np.where(condition, a, b))
        assert_same(check("fill", [], [nans(*a.shape)], 0.3)[0], np.full(a.shape, 0.3, BF16))
        for slope in (0.0, 0.2, 1.0):
            check("gate", [a, b], [nans(*a.shape)], slope)


# ---- pointwise -----------------------------------------------------------------------------------------------------
PARAMETERS: dict[str, list[tuple[float, float]]] = {
    "affine": [(0.75, -1.5)],
    "power": [(p, 0.0) for p in (2.0, 3.0, 0.5, -0.5, -1.0, 2.5)],
    "clamp": [(-0.3, 1.3)],
    "clamp_mask": [(-1.0, 1.0)],
    "leaky_relu": [(0.0, 0.0), (0.2, 0.0)],
    "elu": [(0.75, 0.0)],
    "softplus": [(1.5, 20.0)],
}


@pytest.mark.parametrize("op", UNARY)
def test_unary_operations_are_rounded_once(op: str) -> None:
    x = np.concatenate([even(509), numbers(40), SPECIAL]).astype(BF16)  # 558: the last pack of 8 is not full
    for p, q in PARAMETERS.get(op, [(0.0, 0.0)]):
        for view in (x, x[::-1], x[1:]):
            size = [np.abs(wide(view) * p) + abs(q)] if op == "affine" else None
            with np.errstate(invalid="ignore"):
                check("unary", [view], [nans(*view.shape)], p, q, before=(op,), sizes=size)


@pytest.mark.parametrize("op", BINARY)
def test_binary_operations_are_rounded_once_in_every_layout(op: str) -> None:
    make = even if op == "power" else numbers  # no power that only double holds
    for a in [*layouts(make), np.repeat(SPECIAL, len(SPECIAL)).astype(BF16)]:
        b = np.tile(SPECIAL, len(SPECIAL)).astype(BF16) if a.size == len(SPECIAL) ** 2 else make(*a.shape, seed=1)
        for left, right in ((a, b), (b, a)):
            check("binary", [left, right], [nans(*a.shape)], before=(op,))


@pytest.mark.parametrize("op", COMPARE)
def test_comparisons_are_those_of_the_numbers(op: str) -> None:
    for a in [*layouts(), np.repeat(SPECIAL, len(SPECIAL)).astype(BF16)]:
        b = np.tile(SPECIAL, len(SPECIAL)).astype(BF16) if a.size == len(SPECIAL) ** 2 else numbers(*a.shape, seed=1)
        check("compare", [a, b], [np.zeros(a.shape, bool)], before=(op,))


# ---- sums ----------------------------------------------------------------------------------------------------------
SUMS = [
    ((1029,), (1,)),
    ((9001,), (1,)),  # chunks, then their join
    ((37, 70), (37, 1)),
    ((300, 37), (1, 37)),
    ((6, 5, 4, 7, 3), (6, 1, 4, 1, 3)),
    ((4, 1, 5), (4, 1, 5)),
    ((0, 3), (1, 3)),
]


@pytest.mark.parametrize(("shape", "result"), SUMS, ids=str)
def test_sums_are_rounded_once_over_any_axes(shape: tuple[int, ...], result: tuple[int, ...]) -> None:
    x = numbers(*shape)
    axes = tuple(i for i, n in enumerate(result) if n == 1)
    exact = wide(x).sum(axes, keepdims=True)
    size = [np.abs(exact) + 1e-7 * np.abs(wide(x)).sum(axes, keepdims=True)]  # all but the result is double
    for view, y in ((x, nans(*result)), (np.ascontiguousarray(x.T).T, nans(*result[::-1]).T)):
        check("sum", [view], [y], sizes=size)


def test_small_numbers_are_not_lost_in_a_large_sum() -> None:
    x = np.concatenate([np.ones(4096), np.full(256, 0.125)]).astype(BF16)  # 256 + 1 is 256 in bfloat16
    assert float(check("sum", [x], [nans(1)])[0][0]) == 4128
    blocks = np.ones((1, 1, 520, 2), BF16)
    assert float(check("sum_blocks", [blocks], [nans(1, 1, 1, 2)])[0][0, 0, 0, 1]) == 520
    index = np.zeros(600, np.int64)
    np.testing.assert_array_equal(check("scatter_rows", [np.ones((600, 5), BF16), index], [nans(2, 5)])[0][0], 600)
    at = index.reshape(1, 1, 600)
    assert float(check("scatter_window", [np.ones((1, 1, 600), BF16), at], [nans(1, 1, 3)])[0][0, 0, 0]) == 600


@pytest.mark.parametrize("columns", [1, 7, 129, 300])
def test_softmax_is_rounded_once(columns: int) -> None:
    x = (5 * even(5, columns)).astype(BF16)
    x[3, columns // 2] = np.nan
    spread = np.nanmax(wide(x)) - np.nanmin(wide(x)) + 4  # an error of x - max is one of its exponential
    for view in (x, np.asfortranarray(x)):
        p = wide(called("softmax", F64, [view], [nans(*x.shape)])[0])
        y = check("softmax", [view], [nans(*x.shape)], sizes=[spread * np.nan_to_num(p)])[0]
        check("log_softmax", [view], [nans(*x.shape)], sizes=[np.full(x.shape, spread)])
        assert np.isnan(wide(y[3])).all()
        assert not np.isnan(wide(y[:3])).any()


# ---- normalisation: what belongs to channels is float32 ------------------------------------------------------------
def along(v: Array) -> Array:
    return np.abs(wide(v))[:, None]


def gradient_sizes(x: Array, t: Array, mean: Array, rstd: Array, weight: Array) -> list[Array]:
    """What gx, gweight and gbias are sums of, for cotangents t of the normalised elements."""
    t, distance = np.abs(wide(t)), np.abs(wide(x) - wide(mean)[:, None])
    count, a = x.shape[0] * x.shape[2], along(weight) * along(rstd)
    by_x = (t * distance).sum((0, 2))
    slope = a * along(rstd) ** 2 * by_x[:, None] / count
    return [a * t + slope * distance + a * along(t.sum((0, 2))) / count, by_x * np.abs(wide(rstd)), t.sum((0, 2))]


@pytest.mark.parametrize("shape", [(5, 3, 77), (130, 6, 1), (3, 4, 9), (2, 2, 2056), (0, 2, 3)])
def test_batch_normalisation_is_rounded_once(shape: tuple[int, ...]) -> None:
    x, ct, C = (wide(even(*shape)) * 4 + 100).astype(BF16), even(*shape, seed=1), shape[1]
    scale, shift = (even(C, seed=seed, dtype=F32) for seed in (2, 3))
    for view in (x, np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)):
        mean, variance = check("channel_moments", [view], [nans(C, dtype=F32), nans(C, dtype=F32)])
        if x.size:
            np.testing.assert_allclose(mean, wide(x).mean((0, 2)), rtol=4 * EPS)
            np.testing.assert_allclose(variance, wide(x).var((0, 2)), rtol=4 * EPS)
        size = [np.abs(wide(x)) * along(scale) + along(shift)]
        check("channel_affine", [view, scale, shift], [nans(*shape)], sizes=size)
        mean, rstd = np.nan_to_num(mean), (1 / np.sqrt(np.nan_to_num(variance) + F32.type(1e-3))).astype(F32)
        outputs = [nans(*shape), nans(C, dtype=F32), nans(C, dtype=F32)]
        sizes = gradient_sizes(x, ct, mean, rstd, scale) if x.size else None
        check("batch_norm_backward", [view, ct, mean, rstd, scale], outputs, sizes=sizes)


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("shape", [(3, 2, 4), (5, 3, 1), (2, 3, 1027)])
def test_a_joined_normalisation_is_rounded_once_and_marks_what_it_keeps(shape: tuple[int, ...], p: float) -> None:
    x, ct, C = even(*shape), even(*shape, seed=1), shape[1]
    x.flat[:9:2] = 0.0
    scale, shift, mean, rstd, weight = (even(C, seed=seed, dtype=F32) for seed in range(2, 7))
    shift[0] = 0.0
    size = np.abs(wide(x)) * along(scale) + along(shift)
    y = check("norm_epilogue", [x, scale, shift], [nans(*shape)], 0.2, p, SEED, COUNTER, sizes=[2 * size])[0]
    dropped = (wide(y) == 0) & ~np.signbit(wide(y))
    if p > 0:
        ones = called("dropout", F32, [np.ones(shape, F32)], [nans(*shape, dtype=F32)], p, SEED, COUNTER)[0]
        np.testing.assert_array_equal(dropped, ones == 0)
    outputs = [nans(*shape), nans(C, dtype=F32), nans(C, dtype=F32)]
    sizes = [4 * s for s in gradient_sizes(x, ct, mean, rstd, weight)]
    check("norm_epilogue_backward", [x, y, ct, mean, rstd, weight], outputs, 0.2, p, sizes=sizes)
    size = 4 * np.abs(wide(ct))
    for gbias, also in (([nans(C, dtype=F32)], [size.sum((0, 2))]), ([np.zeros(0, F32)], [np.zeros(0)])):
        check("epilogue_backward", [y, ct], [nans(*shape), *gbias], 0.2, p, sizes=[size, *also])


def test_a_kept_element_is_marked_also_where_only_bfloat16_has_no_number_for_it() -> None:
    x = np.full((1, 1, 40), 2.0**-133, BF16)  # a quarter of it is a number of float32
    quarter, none = np.full(1, 0.25, F32), np.zeros(1, F32)
    y = wide(called("norm_epilogue", BF16, [x, quarter, none], [nans(1, 1, 40)], 1.0, 0.4, SEED, COUNTER)[0])
    ones = called("dropout", F32, [np.ones(x.shape, F32)], [nans(*x.shape, dtype=F32)], 0.4, SEED, COUNTER)[0]
    assert (y == 0).all()
    np.testing.assert_array_equal(np.signbit(y), ones != 0)


# ---- windows, columns, rows ----------------------------------------------------------------------------------------
WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 37), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ((2, 3, 9, 10), {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1, "dilation": (1, 2)}),
    ((2, 2, 5, 6, 7), {"kernel_size": (2, 3, 3), "stride": (1, 2, 1), "padding": 1, "count_include_pad": False}),
]


@pytest.mark.parametrize(("shape", "options"), WINDOWS, ids=lambda v: str(v)[:20])
def test_pooling_is_exact_or_rounded_once(shape: tuple[int, ...], options: dict[str, Any]) -> None:
    g = window_geometry("test", shape, **options)
    x, ct = numbers(*shape), numbers(*g.y_shape, seed=1)
    x.flat[[5, 30]] = np.nan, np.inf
    for view in (x, np.asfortranarray(x)):
        _, index = check("max_window", [view], [nans(*g.y_shape), np.zeros(g.y_shape, np.int64)], g.pod)
        check("gather_window", [view, index], [nans(*g.y_shape)])
        check("average_window", [view], [nans(*g.y_shape)], g.pod, sizes=[spans(view, g, "average_window")])
        for output in (nans(*shape), np.asfortranarray(nans(*shape))):
            size = called("scatter_window", F64, [abs(ct), index], [nans(*shape)])[0]
            check("scatter_window", [ct, index], [output], sizes=[size])
            check("spread_window", [ct], [output], g.pod, sizes=[spans(ct, g, "spread_window")])


def spans(x: Array, g: Any, kernel: str) -> Array:
    """What a linear kernel sums, where that is finite."""
    size = np.where(np.isfinite(wide(x)), np.abs(wide(x)), 0)
    shape = g.y_shape if kernel == "average_window" else g.x_shape
    return np.asarray(called(kernel, F64, [size], [nans(*shape, dtype=F64)], g.pod)[0])


def test_upsampling_is_exact_and_block_sums_are_rounded_once() -> None:
    for small, factors in [((2, 3, 5), (4,)), ((2, 3, 5, 3), (2, 3)), ((2, 1, 3, 4, 5), (2, 3, 1))]:
        large = (*small[:2], *(n * f for n, f in zip(small[2:], factors, strict=True)))
        x, y = numbers(*small), numbers(*large, seed=1)
        check("upsample_nearest", [x], [nans(*large)])
        for view in (y, np.asfortranarray(y)):
            check("sum_blocks", [view], [nans(*small)], sizes=[called("sum_blocks", F64, [abs(y)], [nans(*small)])[0]])


def test_columns_are_copied_and_their_sums_rounded_once() -> None:
    for shape, kernel, options in [
        ((2, 3, 7, 9), (3, 2), {"stride": (2, 1), "padding": 1}),
        ((1, 2, 5, 4, 6), (2, 3, 3), {"padding": 1, "dilation": (2, 1, 1)}),
    ]:
        g = conv_geometry("test", shape, (1, shape[1], *kernel), **options)
        columns = (shape[0], shape[1] * int(np.prod(kernel)), int(np.prod(g.y_shape[2:])))
        check("im2col", [numbers(*shape)], [nans(*columns)], g.pod)
        cols = numbers(*columns)
        for view in (cols, np.asfortranarray(cols)):
            size = called("col2im", F64, [abs(cols)], [nans(*shape)], g.pod)
            check("col2im", [view], [nans(*shape)], g.pod, sizes=size)


def test_rows_are_copied_and_their_sums_rounded_once() -> None:
    index = np.random.default_rng(0).integers(0, 7, 75)
    for columns in (1, 5, 130):
        check("gather_rows", [numbers(7, columns), index], [nans(75, columns)])
        rows = numbers(75, columns)
        for view in (rows, np.asfortranarray(rows)):
            size = called("scatter_rows", F64, [abs(rows), index], [nans(7, columns)])
            check("scatter_rows", [view, index], [nans(7, columns)], sizes=size)


# ---- every kernel -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [*kernels.KERNELS, *kernels.EPILOGUES])
def test_every_kernel_of_floats_takes_bfloat16(name: str) -> None:
    overloads = [len(re.findall(r"(?m)^\d+\. ", getattr(module.native, name).__doc__)) for module in (cpu, cuda)]
    assert overloads[1] - overloads[0] == (9 if name == "cast" else 1)


# ---- random numbers ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("offset", [0, (1 << 32) - 3])
def test_random_numbers_are_those_of_float32_rounded(offset: int) -> None:
    for y in (nans(1029), nans(1031)[1:], nans(7, 30), nans(30, 7).T, nans(0)):
        for kernel in ("random_uniform", "random_normal"):
            found, single = (called(kernel, dtype, [], [y], SEED, offset)[0] for dtype in (BF16, F32))
            if kernel == "random_uniform":  # stays below 1
                single = np.minimum(single, 1 - 2.0**-8)
            assert_same(found, single.astype(BF16))
    for x in (numbers(1029), np.asfortranarray(numbers(9, 31)), numbers(44)[1:]):
        for p in (0.0, 0.3, 1.0):
            check("dropout", [x], [nans(*x.shape)], p, SEED, offset)


# ---- optimizers ----------------------------------------------------------------------------------------------------
NONE = np.zeros(0, BF16)
STEPS: list[tuple[Any, ...]] = [
    ("sgd_step", [NONE], 0.1, 0.0, 0.0, 0.01, False, 1),
    ("sgd_step", [nans(1031)], 0.1, 0.9, 0.1, 0.01, True, 1),
    ("sgd_step", [0], 0.1, 0.9, 0.1, 0.0, False, 2),
    ("adam_step", [1, 2], 4.0, 0.5, 0.999, 1e-8, 0.01, True, 3),
    ("adam_step", [1, 2], 4.0, 0.9, 0.999, 1e-8, 0.01, False, 1),
    ("rmsprop_step", [1, NONE, NONE], 1.0, 0.9, 1e-7, 0.0, 0.0, False),
    ("rmsprop_step", [20, 2, 0], 1.0, 0.9, 1e-7, 0.1, 0.5, True),
    ("lerp", [], 0.25),
    ("lerp", [], 0.75),
]


@pytest.mark.parametrize("which", range(len(STEPS)))
def test_an_optimizer_step_rounds_what_it_stores_and_computes_with_what_it_found(which: int) -> None:
    kernel, given, *rest = STEPS[which]
    n = 1031
    states = [a if isinstance(a, np.ndarray) else (a + np.abs(wide(even(n, seed=a)))).astype(BF16) for a in given]
    p, g = even(n), even(n, seed=7)
    size = [np.full(a.size, 64.0) for a in (p, *states)]  # of the largest term of all sums of a step
    check(kernel, [g], [p, *states], *rest, first=1, sizes=size)
