"""Shape arithmetic of convolutions and windows, against counting by hand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gankernels.geometry import conv_geometry, conv_transpose_geometry, ints, is_int, padding_pairs, window_geometry
from gankernels.testing.cases import CASES, cases

small = st.integers(1, 6)


@given(X=st.integers(1, 20), K=small, s=small, d=st.integers(1, 3), low=st.integers(0, 7), high=st.integers(0, 7))
def test_the_output_extent_counts_the_places_where_the_kernel_fits(
    X: int, K: int, s: int, d: int, low: int, high: int
) -> None:
    places = [p for p in range(-low, X + high, s) if p + d * (K - 1) < X + high]
    if not places:
        with pytest.raises(ValueError, match="does not fit into x"):
            conv_geometry("conv", (1, 1, X), (1, 1, K), s, ((low, high),), d)
        return
    assert conv_geometry("conv", (1, 1, X), (1, 1, K), s, ((low, high),), d).y == (len(places),)


@given(X=st.integers(1, 20), K=small, s=small, d=st.integers(1, 3), name=st.sampled_from(["same", "same_lower"]))
def test_same_padding_gives_the_ceiling_and_differs_by_at_most_one_cell(
    X: int, K: int, s: int, d: int, name: str
) -> None:
    g = conv_geometry("conv", (1, 1, X), (1, 1, K), s, name, d)
    assert g.y == (-(-X // s),)
    ((low, high),) = g.padding
    assert 0 <= (high - low if name == "same" else low - high) <= 1


def test_the_extra_cell_of_same_is_at_the_high_end_and_of_same_lower_at_the_low_end() -> None:
    assert padding_pairs("conv", "same", (8,), (4,), (1,), (1,)) == ((1, 2),)
    assert padding_pairs("conv", "same_lower", (8,), (4,), (1,), (1,)) == ((2, 1),)
    assert padding_pairs("conv", "valid", (8,), (4,), (1,), (1,)) == ((0, 0),)


@given(Y=st.integers(1, 9), K=small, s=small, d=st.integers(1, 3), p=st.integers(0, 3), e=st.integers(0, 5))
def test_conv_of_the_transposed_extent_gives_the_extent_back(Y: int, K: int, s: int, d: int, p: int, e: int) -> None:
    if e >= s:
        return
    X = (Y - 1) * s - 2 * p + d * (K - 1) + e + 1
    if X < 1:
        return
    g = conv_transpose_geometry("conv_transpose", (1, 1, Y), (1, 1, K), s, p, e, d)
    assert g.x == (X,)
    assert conv_geometry("conv", (1, 1, X), (1, 1, K), s, p, d).y == (Y,)


@given(X=st.integers(1, 20), K=small, s=small, d=st.integers(1, 3), half=st.integers(0, 3))
def test_in_ceil_mode_every_window_begins_inside_and_every_cell_is_covered(
    X: int, K: int, s: int, d: int, half: int
) -> None:
    p = min(half, K // 2)
    if d > X or X + 2 * p < d * (K - 1) + 1:
        return
    floor = window_geometry("max_pool", (1, 1, X), K, s, p, d).y[0]
    g = window_geometry("max_pool", (1, 1, X), K, s, p, d, ceil_mode=True)
    assert floor <= g.y[0] <= floor + 1
    assert (g.y[0] - 1) * s < X + p
    for first in (i * s - p for i in range(g.y[0])):
        assert any(0 <= first + d * k < X for k in range(K))


def test_the_stride_of_a_window_is_its_size_unless_given() -> None:
    assert window_geometry("avg_pool", (1, 1, 9, 9), (2, 3)).stride == (2, 3)
    assert window_geometry("avg_pool", (1, 1, 9, 9), 3, 1).y == (7, 7)


def test_geometries_of_rank_one_and_two_fill_the_leading_axes() -> None:
    g = conv_geometry("conv", (2, 3, 7), (4, 3, 2), 2, ((1, 0),))
    assert g.pod == (2, 3, 4, 1, 1, 1, 7, 1, 1, 2, 1, 1, 4, 1, 1, 2, 1, 1, 1, 0, 0, 1)
    assert g.rank == 1
    assert g.columns_shape == (2, 6, 4)


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], object()])
def test_only_integers_are_integers(value: Any) -> None:
    assert not is_int(value)


def test_one_number_serves_every_axis() -> None:
    assert ints("op", "stride", 2, 3) == ints("op", "stride", [2], 3) == (2, 2, 2)


def test_cases_have_unique_names_and_counted_work() -> None:
    assert len({c.name for c in CASES}) == len(CASES)
    assert next(c for c in cases("conv", "full") if c.name == "D25 2").flops == 2 * 16 * 8 * 25**3 * 32 * 125
    for c in CASES:
        assert c.bytes() >= 0
        assert all(n >= 0 for n in c.output)
