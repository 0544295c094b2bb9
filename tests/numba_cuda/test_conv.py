"""Convolutions of the Numba backend against the CPU: the same bits for integers, derived bounds for the rest."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba_pairs import DTYPES, both, integers, normals, poisoned, skip_module_without_device

from gankernels.geometry import ConvGeometry, conv_geometry, upsample_conv_geometry
from gankernels.testing.bounds import assert_close, conv_bound, conv_transpose_bound, conv_weight_bound, matmul_bound
from gankernels.testing.cases import Case, cases

skip_module_without_device()

# the simulator takes a millisecond for a hundred multiplications
SMALL = [c for op in ("conv", "conv_transpose") for c in cases(op, "edge") if c.flops < 100_000]


def all_three(g: ConvGeometry, dtype: Any, **options: Any) -> None:
    x, w, y = (integers(s, dtype, i) for i, s in enumerate((g.x_shape, g.w_shape, g.y_shape)))
    both("conv", [x, w], [poisoned(g.y_shape, dtype)], g.pod, 0, **options)
    both("conv_transpose", [y, w], [poisoned(g.x_shape, dtype)], g.pod, 0, **options)
    both("conv_weight", [x, y], [poisoned(g.w_shape, dtype)], g.pod, 0, **options)


@pytest.mark.parametrize("case", SMALL, ids=str)
def test_convolutions_have_the_bits_of_the_cpu_where_sums_are_exact(case: Case) -> None:
    assert isinstance(case.geometry, ConvGeometry)
    all_three(case.geometry, np.float32, strided=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_take_any_strides(dtype: Any) -> None:
    all_three(conv_geometry("test", (2, 4, 3, 4), (6, 2, 2, 3), (1, 2), ((1, 0), (0, 2)), (2, 1), 2), dtype)


@given(
    rank=st.integers(1, 3),
    groups=st.integers(1, 2),
    channels=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    draw=st.data(),
)
@settings(max_examples=12)
def test_drawn_geometries_have_the_bits_of_the_cpu(
    rank: int, groups: int, channels: tuple[int, int], draw: Any
) -> None:
    axis = st.tuples(*(st.integers(*limits) for limits in ((1, 5), (1, 3), (1, 3), (1, 2), (0, 2), (0, 2))))
    X, K, s, d, low, high = zip(*(draw.draw(axis) for _ in range(rank)), strict=True)
    X = tuple(max(x, v * (k - 1) + 1) for x, k, v in zip(X, K, d, strict=True))
    shape = (2, channels[0] * groups, *X)
    kernel, padding = (channels[1] * groups, channels[0], *K), tuple(zip(low, high, strict=True))
    all_three(conv_geometry("test", shape, kernel, s, padding, d, groups), np.float32, strided=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_convolutions_of_real_numbers_keep_the_bound(dtype: Any) -> None:
    g = conv_geometry("test", (2, 3, 5, 6), (4, 3, 3, 2), (2, 1), 1)
    x, w, y = (normals(s, dtype, i) for i, s in enumerate((g.x_shape, g.w_shape, g.y_shape)))
    # both sides err, hence twice the bound
    for name, inputs, shape, bound in (
        ("conv", [x, w], g.y_shape, conv_bound(x, w, g, dtype)),
        ("conv_transpose", [y, w], g.x_shape, conv_transpose_bound(y, w, g, dtype)),
        ("conv_weight", [x, y], g.w_shape, conv_weight_bound(x, y, g, dtype)),
    ):
        both(name, inputs, [poisoned(shape, dtype)], g.pod, 0, strided=False,
             check=lambda got, want, what, bound=bound: assert_close(got, want, 2 * bound, what))  # fmt: skip


def test_a_weight_gradient_is_summed_in_parts_in_a_fixed_order() -> None:
    g = conv_geometry("test", (9, 2, 20, 3), (3, 2, 2, 2))  # 9 * 19 * 2 positions: two parts
    x, y = normals(g.x_shape, np.float32), normals(g.y_shape, np.float32, 1)
    bound = 2 * conv_weight_bound(x, y, g, np.float32)
    both("conv_weight", [x, y], [poisoned(g.w_shape, np.float32)], g.pod, 0, strided=False,
         check=lambda got, want, what: assert_close(got, want, bound, what))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("x", "factors", "groups", "padding"),
    [((2, 3, 4), (3,), 1, 1), ((2, 2, 3, 4), (2, 3), 2, ((1, 0), (0, 2))), ((1, 2, 2, 3, 2), (2, 1, 3), 1, 1)],
)
def test_upsampling_convolutions_have_the_bits_of_the_cpu(
    x: tuple[int, ...], factors: tuple[int, ...], groups: int, padding: Any, dtype: Any
) -> None:
    w = (4, x[1] // groups) + (3,) * len(factors)
    g = upsample_conv_geometry("test", x, w, factors, padding, groups)
    a, b, c = (integers(s, dtype, i) for i, s in enumerate((g.x_shape, g.w_shape, g.y_shape)))
    both("upsample_conv", [a, b], [poisoned(g.y_shape, dtype)], g.pod, 0, strided=False)
    both("upsample_conv_transpose", [c, b], [poisoned(g.x_shape, dtype)], g.pod, 0, strided=False)
    both("upsample_conv_weight", [a, c], [poisoned(g.w_shape, dtype)], g.pod, 0, strided=False)


@pytest.mark.parametrize("case", cases("local_conv", "edge"), ids=str)
def test_unshared_convolutions_have_the_bits_of_the_cpu(case: Case) -> None:
    g, dtype = case.geometry, np.float32
    assert isinstance(g, ConvGeometry)
    flat = (*g.w_shape[:2], prod(g.y), prod(g.kernel))
    x, w, y = (integers(s, dtype, i) for i, s in enumerate((g.x_shape, flat, g.y_shape)))
    both("local_conv", [x, w], [poisoned(g.y_shape, dtype)], g.pod)
    both("local_conv_transpose", [y, w], [poisoned(g.x_shape, dtype)], g.pod)
    both("local_conv_weight", [x, y], [poisoned(flat, dtype)], g.pod)


@pytest.mark.parametrize("case", SMALL[3:10], ids=str)
def test_columns_have_the_bits_of_the_cpu(case: Case) -> None:
    g, dtype = case.geometry, np.float32
    assert isinstance(g, ConvGeometry)
    both("im2col", [normals(g.x_shape, dtype)], [poisoned(g.columns_shape, dtype)], g.pod)
    both("col2im", [integers(g.columns_shape, dtype)], [poisoned(g.x_shape, dtype)], g.pod)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 7, 3), (1, 20, 9, 2), (3, 4, 0, 5), (1, 3, 20, 17)], ids=str)
def test_matmul_has_the_bits_of_the_cpu_for_any_strides(shape: tuple[int, ...], dtype: Any) -> None:
    B, M, K, N = shape
    both("matmul", [integers((B, M, K), dtype), integers((B, K, N), dtype, 1)], [poisoned((B, M, N), dtype)], 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_of_real_numbers_keeps_the_bound(dtype: Any) -> None:
    a, b = normals((2, 5, 40), dtype), normals((2, 40, 9), dtype, 1)
    bound = 2 * matmul_bound(a, b, dtype)
    both("matmul", [a, b], [poisoned((2, 5, 9), dtype)], 0,
         check=lambda got, want, what: assert_close(got, want, bound, what))  # fmt: skip
