"""The other kernels of the Numba backend against the CPU, in several layouts and across the borders of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numba_pairs import DTYPES, both, integers, normals, poisoned, skip_module_without_device

from gankernels.backends import cpu, cuda_numba
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY
from gankernels.geometry import WindowGeometry, conv_geometry, upsample_conv_geometry
from gankernels.testing.bounds import assert_same_bits, rounding
from gankernels.testing.cases import Case, cases

skip_module_without_device()

SHAPE = (3, 5, 7)
SPECIAL = [
    np.nan,
    np.inf,
    -np.inf,
    0.0,
    -0.0,
    0.5,
    -0.5,
    1.5,
    2.5,
    -2.5,
    1e30,
    -1e30,
    1e-30,
    90.0,
    -90.0,
    750.0,
    -750.0,
]


# ---- element by element --------------------------------------------------------------------------------------------
EXACT = {"negate", "absolute", "sign", "sqrt", "rsqrt", "reciprocal", "square", "floor", "round", "clamp", "clamp_mask",
         "leaky_relu", "affine"}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_element_agree_with_the_cpu(op: str, dtype: Any) -> None:
    big = 1e300 if dtype is np.float64 else 1e38
    x = np.array([*SPECIAL, big, *np.linspace(-3, 3, 30)], dtype)
    if op in ("sin", "cos"):
        x = x[np.abs(np.nan_to_num(x)) < 1e4]
    # two correctly rounded steps where the formula is elementary, else a few units in the last place on either side
    check = None if op in EXACT else 16 * rounding(dtype)
    p, q = {"affine": (2.0, 1.0), "leaky_relu": (0.25, 0.0)}.get(op, (0.5 if op == "softplus" else 1.5, 2.0))
    both("unary", [x], [poisoned(x.shape, dtype)], p, q, before=(op,), check=check)


@pytest.mark.parametrize("p", [2.0, 3.0, 0.5, -0.5, -1.0])
def test_powers_with_a_formula_of_their_own_have_the_bits_of_the_cpu(p: float) -> None:
    x = np.array([-2.0, -0.0, 0.0, 0.3, 7.0, np.inf, np.nan], np.float32)
    both("unary", [x], [poisoned(x.shape, np.float32)], p, 0.0, before=("power",))


def test_a_slope_of_zero_gives_zero_at_minus_infinity() -> None:
    x = np.array([-np.inf, -1.0, 0.0, 2.0, np.inf, np.nan], np.float32)
    both("unary", [x], [poisoned(x.shape, np.float32)], 0.0, 0.0, before=("leaky_relu",))
    for slope in (0.0, 0.5):
        both("gate", [x, normals(x.shape, np.float32)], [poisoned(x.shape, np.float32)], slope)


@pytest.mark.parametrize("op", BINARY)
def test_functions_of_two_elements_agree_with_the_cpu(op: str) -> None:
    a, b = normals(SHAPE, np.float32), normals(SHAPE, np.float32, 1)
    a.flat[:4], b.flat[2:6] = np.nan, np.nan
    check = 8 * rounding(np.float32) if op in ("power", "atan2") else None
    both("binary", [np.abs(a) if op == "power" else a, b], [poisoned(SHAPE, np.float32)], before=(op,), check=check)


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("op", COMPARE)
def test_comparisons_agree_with_the_cpu(op: str, dtype: Any) -> None:
    a, b = integers(SHAPE, dtype), integers(SHAPE, dtype, 1)
    both("compare", [a, b], [np.zeros(SHAPE, np.bool_)], before=(op,))


@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "maximum", "minimum", "power"])
def test_integers_wrap_as_on_the_cpu(op: str) -> None:
    a = np.array([0, 1, -3, 2**62, -(2**63), 2**63 - 1, 7], np.int64)
    b = np.array([0, 5, 3, 2, 1, 2, 21], np.int64)
    both("binary", [a, b], [np.full(a.shape, -9)], before=(op,))


def test_operands_are_broadcast_and_may_be_the_result() -> None:
    x = cuda_numba.from_host(np.arange(6, dtype=np.float32).reshape(2, 3))
    column = cuda_numba.from_host(np.array([[10.0], [20.0]], np.float32))
    cuda_numba.binary("add", x, column, x)
    cuda_numba.unary("square", x, x)
    expected = (np.arange(6).reshape(2, 3) + [[10], [20]]) ** 2
    np.testing.assert_array_equal(cuda_numba.to_host(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_copies_choices_and_fills_take_every_type(dtype: Any) -> None:
    x, y = integers(SHAPE, dtype), integers(SHAPE, dtype, 1)
    both("copy", [x], [np.zeros(SHAPE, dtype)])
    both("select", [integers(SHAPE, np.bool_, 2), x, y], [np.zeros(SHAPE, dtype)])
    both("fill", [], [np.zeros(SHAPE, dtype)], 1)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_parts_are_copied_as_one_by_one(dtype: Any) -> None:
    shapes = [(2, 3), (2, 3, 4), (5,), (0, 2), (2, 3, 4), (1,), (4, 2), (3, 3), (2,), (6, 2), (40,)]
    sources = [integers(shape, dtype, i) for i, shape in enumerate(shapes)]
    given = [cuda_numba.from_host(a) for a in sources]
    given[1], sources[1] = (a.transpose(2, 0, 1) for a in (given[1], sources[1]))  # two axes that do not merge
    given[4], sources[4] = (a.transpose(2, 1, 0) for a in (given[4], sources[4]))  # three
    given[6], sources[6] = (a[::-2] for a in (given[6], sources[6]))
    given[7], sources[7] = given[7][:1].broadcast_to((3, 3)), np.broadcast_to(sources[7][:1], (3, 3))
    whole = cuda_numba.full((2 * sum(a.size for a in sources),), 0, dtype)
    targets, at = [], 0
    for a in given:
        step = 2 if a.ndim == 1 else 1
        targets.append(whole[at : at + a.size * step : step].reshape(a.shape))
        at += a.size * step
    cuda_numba.copy_parts(given, targets, whole)
    for want, target in zip(sources, targets, strict=True):
        np.testing.assert_array_equal(cuda_numba.to_host(target), want)
    assert np.count_nonzero(cuda_numba.to_host(whole)) == sum(np.count_nonzero(a) for a in sources)


@pytest.mark.parametrize("target", [np.float32, np.float64, np.int64, np.bool_])
@pytest.mark.parametrize("source", [np.float32, np.float64, np.int64, np.bool_])
def test_casts_agree_with_the_cpu(source: Any, target: Any) -> None:
    x = (normals((4, 9), np.float64) * 3).astype(source)[:, ::2]
    assert_same_bits(cuda_numba.to_host(cuda_numba.cast(cuda_numba.from_host(x), target)), cpu.cast(x, target))


# ---- windows -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("case", cases("max_pool", "edge"), ids=str)
def test_maxima_and_their_positions_have_the_bits_of_the_cpu(case: Case) -> None:
    g = case.geometry
    assert isinstance(g, WindowGeometry)
    x = integers(g.x_shape, np.float32)
    if x.size:
        x.flat[::11], x.flat[5::13] = np.nan, -np.inf
    y, index = both("max_window", [x], [poisoned(g.y_shape, np.float32), np.full(g.y_shape, -9)], g.pod, strided=False)
    both("gather_window", [x, index], [poisoned(g.y_shape, np.float32)])
    both("scatter_window", [normals(y.shape, np.float32), index], [poisoned(g.x_shape, np.float32)])


@pytest.mark.parametrize("case", cases("avg_pool", "edge"), ids=str)
def test_means_and_their_adjoint_have_the_bits_of_the_cpu(case: Case) -> None:
    g = case.geometry
    assert isinstance(g, WindowGeometry)
    both("average_window", [normals(g.x_shape, np.float32)], [poisoned(g.y_shape, np.float32)], g.pod, strided=False)
    both("spread_window", [normals(g.y_shape, np.float32)], [poisoned(g.x_shape, np.float32)], g.pod, strided=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "factors"), [((2, 3, 4), (3,)), ((2, 2, 3, 4), (2, 3)), ((1, 2, 2, 3, 2), (2, 1, 3))]
)
def test_upsampling_and_its_adjoint_have_the_bits_of_the_cpu(
    shape: tuple[int, ...], factors: tuple[int, ...], dtype: Any
) -> None:
    large = (*shape[:2], *(n * f for n, f in zip(shape[2:], factors, strict=True)))
    both("upsample_nearest", [normals(shape, dtype)], [poisoned(large, dtype)])
    both("sum_blocks", [normals(large, dtype)], [poisoned(shape, dtype)])


# ---- sums ----------------------------------------------------------------------------------------------------------
SUMS = [((4, 6, 5), (4, 1, 5)), ((4, 6, 5), (1, 1, 1)), ((4, 6, 5), (4, 6, 1)), ((4, 6, 5), (1, 6, 5)),
        ((3, 300), (3, 1)), ((3, 200), (1, 200)), ((), ()), ((3, 0, 2), (3, 1, 2)), ((3000,), (1,))]  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize(("shape", "kept"), SUMS, ids=str)
def test_sums_have_the_bits_of_the_cpu_where_they_are_exact(
    shape: tuple[int, ...], kept: tuple[int, ...], dtype: Any
) -> None:
    both("sum", [integers(shape, dtype)], [np.full(kept, -9, dtype)], strided=np.prod(shape) < 1000)


def test_sums_are_added_in_double_and_let_no_nan_vanish() -> None:
    x = np.full(3000, 0.1, np.float32)
    total = both("sum", [x], [poisoned((1,), np.float32)], strided=False)[0]
    assert total[0] == np.float32(float(x[0]) * x.size)
    x[2999] = np.nan
    both("sum", [x], [poisoned((1,), np.float32)], strided=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax_agrees_with_the_cpu(name: str, dtype: Any) -> None:
    x = normals((6, 37), dtype) * 30 + 1000
    x[1], x[2, 3], x[3, 5] = -np.inf, np.inf, np.nan
    both(name, [x], [poisoned(x.shape, dtype)], check=16 * rounding(dtype) * (1 if name == "softmax" else 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2, 5), (4, 3, 90), (2, 2, 300)], ids=str)
def test_normalisation_agrees_with_the_cpu(shape: tuple[int, ...], dtype: Any) -> None:
    u, C = rounding(dtype), shape[1]
    x = normals(shape, dtype) + dtype(100)
    mean, variance = both("channel_moments", [x], [poisoned((C,), dtype) for _ in range(2)], check=4 * u)
    both(
        "channel_affine",
        [integers(shape, dtype), integers((C,), dtype), integers((C,), dtype)],
        [poisoned(shape, dtype)],
    )
    rstd = (1 / np.sqrt(variance + 1e-5)).astype(dtype)
    inputs = [x, normals(shape, dtype, 1), mean, rstd, normals((C,), dtype, 3)]
    # x - mean keeps 100*u of x's digits, and the sums of 600 elements are within a few of them
    outputs = [poisoned(shape, dtype), poisoned((C,), dtype), poisoned((C,), dtype)]
    both("batch_norm_backward", inputs, outputs, check=400 * u)


# ---- rows, random numbers, epilogue --------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_rows_are_gathered_and_scattered_in_index_order(dtype: Any) -> None:
    index = np.array([1, 0, 3, 3, 1, 3])
    both("gather_rows", [integers((4, 5), dtype), index], [np.zeros((6, 5), dtype)])
    if np.dtype(dtype).kind == "f":
        both("scatter_rows", [normals((6, 5), dtype), index], [poisoned((4, 5), dtype)])


SEEDS = [(0, 0), (7, (1 << 64) - 3), ((1 << 64) - 1, (1 << 32) - 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("seed", "offset"), SEEDS)
def test_random_numbers_are_those_of_the_cpu(seed: int, offset: int, dtype: Any) -> None:
    both("random_uniform", [], [poisoned((3, 7, 3), dtype)], seed, offset)
    both("random_normal", [], [poisoned((3, 7, 3), dtype)], seed, offset, check=8 * rounding(dtype))
    for p in (0.0, 0.4, 1.0):
        both("dropout", [normals((3, 7, 3), dtype)], [poisoned((3, 7, 3), dtype)], p, seed, offset)


EPILOGUES = [(1.0, 0.0), (0.0, 0.0), (0.25, 0.0), (0.25, 0.4), (1.0, 0.4)]
FOLLOWED = {  # kernel: shapes of its arrays, what else it takes
    "conv_epilogue": ((3, 2, 7), (4, 2, 3), (3, 4, 5), (conv_geometry("test", (3, 2, 7), (4, 2, 3)).pod, 0)),
    "conv_transpose_epilogue": ((3, 4, 5), (4, 2, 3), (3, 2, 7), (conv_geometry("test", (3, 2, 7), (4, 2, 3)).pod, 0)),
    "upsample_conv_epilogue": (
        (2, 2, 4), (3, 2, 3), (2, 3, 8), (upsample_conv_geometry("test", (2, 2, 4), (3, 2, 3), 2, 1).pod, 0)
    ),
    "matmul_epilogue": ((1, 4, 3), (1, 3, 5), (1, 4, 5), (0,)),
}  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FOLLOWED)
@pytest.mark.parametrize(("slope", "p"), EPILOGUES)
def test_what_follows_a_convolution_or_a_product_agrees_with_the_cpu(
    slope: float, p: float, name: str, dtype: Any
) -> None:
    *inputs, shape, rest = FOLLOWED[name]
    a, b = (integers(s, dtype, i) for i, s in enumerate(inputs))
    for bias in (integers((shape[2 if "matmul" in name else 1],), dtype, 2), np.zeros(0, dtype)):
        expected, y = poisoned(shape, dtype), cuda_numba.from_host(poisoned(shape, dtype))
        getattr(cpu, name)(a, b, expected, *rest, bias, slope, p, 3, 4)
        given = [cuda_numba.from_host(v) for v in (a, b)]
        getattr(cuda_numba, name)(*given, y, *rest, cuda_numba.from_host(bias), slope, p, 3, 4)
        assert_same_bits(cuda_numba.to_host(y), expected, name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 5), (3, 2, 7)], ids=str)
@pytest.mark.parametrize(("slope", "p"), EPILOGUES)
def test_the_gradient_of_an_epilogue_agrees_with_the_cpu(
    slope: float, p: float, shape: tuple[int, ...], dtype: Any
) -> None:
    y, ct = integers(shape, dtype), integers(shape, dtype, 1)
    for channels in (shape[1], 0):
        outputs = [poisoned(shape, dtype), poisoned((channels,), dtype)]
        both("epilogue_backward", [y, ct], outputs, slope, p, strided=False, check=8 * rounding(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("slope", "p"), EPILOGUES)
def test_a_normalisation_with_an_epilogue_agrees_with_the_cpu(slope: float, p: float, dtype: Any) -> None:
    shape, u = (3, 2, 7), rounding(dtype)
    x, ct = integers(shape, dtype), integers(shape, dtype, 1)
    columns = [integers((2,), dtype, i) for i in range(2, 5)]
    y = both("norm_epilogue", [x, *columns[:2]], [poisoned(shape, dtype)], slope, p, 3, 4, strided=False)[0]
    outputs = [poisoned(shape, dtype), poisoned((2,), dtype), poisoned((2,), dtype)]
    both("norm_epilogue_backward", [x, y, ct, *columns], outputs, slope, p, strided=False, check=400 * u)
