"""Pooling windows and their adjoints against a loop over taps and against torch; upsampling; rows by index."""

from __future__ import annotations

from itertools import product
from typing import Any

import devices
import numpy as np
import pytest
from devices import backend

import gankernels as gk
from gankernels.geometry import WindowGeometry, window_geometry
from gankernels.testing.bounds import assert_close, rounding

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]

# x shape, kernel, stride, padding, dilation, ceil_mode
WINDOWS: list[tuple[Any, ...]] = [
    ((2, 3, 4, 6, 8), 2, 2, 0, 1, False),
    ((2, 3, 5, 7, 9), (3, 3, 3), (2, 1, 3), (1, 1, 0), 1, False),
    ((1, 2, 5, 7, 9), (3, 2, 3), 2, 1, (2, 3, 1), True),
    ((2, 2, 5, 7, 9), (5, 7, 9), 1, 0, 1, False),
    ((2, 2, 6, 7), (3, 2), (1, 3), (1, 0), 1, True),
    ((3, 1, 50), 4, 4, 2, 1, True),
    ((0, 2, 4, 4), 2, 2, 0, 1, False),
    (devices.extents(40, 3, 6, 10, 34), 2, 2, 0, 1, False),
    ((2, 3, 5, 7, 9), 2, 2, 0, 1, False),
]
IDS = [str(w[0]) for w in WINDOWS]


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0, integers: bool = False) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.integers(-3, 4, shape) if integers else rng.normal(size=shape)).astype(dtype)


def channels_last(x: Array) -> Array:
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 1, -1)), -1, 1)


def cells(g: WindowGeometry, padded: bool = False) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """For every output the cells it sees, in row-major order; `padded` keeps those in the padding."""
    axes = []
    for X, K, P, s, d, (low, high) in zip(g.x, g.kernel, g.y, g.stride, g.dilation, g.padding, strict=True):
        first, last = (-low, X + high) if padded else (0, X)
        axes.append([[c for k in range(K) if first <= (c := p * s - low + k * d) < last] for p in range(P)])
    return [(p, list(product(*(a[i] for a, i in zip(axes, p, strict=True))))) for p in product(*map(range, g.y))]


def geometry(case: tuple[Any, ...], **options: Any) -> WindowGeometry:
    shape, kernel, stride, padding, dilation, ceil_mode = case
    return window_geometry("test", shape, kernel, stride, padding, dilation, ceil_mode, **options)


def output(x: Array, g: WindowGeometry, dtype: Any) -> Array:
    return np.full(x.shape[:2] + tuple(g.y), np.nan if np.dtype(dtype).kind == "f" else -1, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", WINDOWS, ids=IDS)
def test_max_window_takes_the_first_maximum_and_never_the_padding(
    every_isa: str, case: tuple[Any, ...], dtype: Any
) -> None:
    g = geometry(case)
    x = draw(case[0], dtype, integers=True) - 5
    expected, where = output(x, g, dtype), output(x, g, np.int64)
    for p, seen in cells(g):
        flat = np.array([np.ravel_multi_index(c, x.shape[2:]) for c in seen])
        values = x.reshape(*x.shape[:2], int(np.prod(g.x)))[..., flat]
        expected[(..., *p)], where[(..., *p)] = values.max(-1), flat[values.argmax(-1)]
    for view in (x, channels_last(x)):
        y, index = output(x, g, dtype), channels_last(output(x, g, np.int64))
        backend.max_window(view, y, index, g.pod)
        np.testing.assert_array_equal(y, expected)
        np.testing.assert_array_equal(index, where)
        gathered = channels_last(output(x, g, dtype))
        backend.gather_window(view, index, gathered)
        np.testing.assert_array_equal(gathered, expected)
        ct = draw(y.shape, dtype, 1)
        gx, adjoint = np.full(x.shape, np.nan, dtype), np.zeros((x.shape[0] * x.shape[1], int(np.prod(g.x))))
        backend.scatter_window(ct, index, gx)
        for i, row in enumerate(adjoint):
            np.add.at(row, index.reshape(len(adjoint), -1)[i], ct.reshape(len(adjoint), -1)[i].astype(np.float64))
        assert_close(gx.reshape(adjoint.shape), adjoint, 64 * rounding(dtype) * (1 + np.abs(adjoint)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_max_window_treats_nan_and_infinity_as_torch_does(every_isa: str, dtype: Any) -> None:
    torch = pytest.importorskip("torch")
    x = draw((2, 3, 6, 7, 9), dtype, integers=True)
    x[0, 0, 1, 2, 3] = np.nan
    x[0, 0, 1, 2, 4] = np.nan
    x[0, 1] = -np.inf
    x[1, 0, 0, 0, 0] = np.inf
    for kernel, stride, padding in (((2, 2, 2), 2, 0), ((3, 3, 3), 2, 1)):
        g = window_geometry("test", x.shape, kernel, stride, padding)
        y, index = output(x, g, dtype), output(x, g, np.int64)
        backend.max_window(x, y, index, g.pod)
        expected, where = torch.nn.functional.max_pool3d(
            torch.from_numpy(x), kernel, stride, padding, return_indices=True
        )
        np.testing.assert_array_equal(y, expected.numpy())
        np.testing.assert_array_equal(index, where.numpy())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"divisor_override": 5}], ids=str)
@pytest.mark.parametrize("case", WINDOWS, ids=IDS)
def test_average_window_divides_by_the_cells_it_counts_and_spread_window_is_its_adjoint(
    every_isa: str, case: tuple[Any, ...], options: dict[str, Any], dtype: Any
) -> None:
    g = geometry(case, **options)
    x, exact = draw(case[0], dtype), draw(case[0], dtype).astype(np.float64)
    y_exact, bound = output(x, g, np.float64), output(x, g, np.float64)
    ct = draw(y_exact.shape, dtype, 1)
    gx_exact, gx_bound = np.zeros_like(exact), np.zeros_like(exact)
    counted = cells(g, padded=options.get("count_include_pad", True))
    for (p, seen), (_, count) in zip(cells(g), counted, strict=True):
        divisor = options.get("divisor_override") or len(count)
        at = (..., *p)
        spots = tuple(np.array(seen).T) if seen else ()
        values = exact[(..., *spots)] if seen else np.zeros((*x.shape[:2], 1))
        y_exact[at], bound[at] = values.sum(-1) / divisor, np.abs(values).sum(-1) / divisor
        for c in seen:
            gx_exact[(..., *c)] += ct[at] / np.float64(divisor)
            gx_bound[(..., *c)] += np.abs(ct[at]) / np.float64(divisor)
    taps = int(np.prod(g.kernel))
    for view in (x, channels_last(x)):
        y = channels_last(output(x, g, dtype))
        backend.average_window(view, y, g.pod)
        assert_close(y, y_exact, (2 * rounding(dtype) + taps * rounding(np.float64)) * bound)
        for target in (np.full(x.shape, np.nan, dtype), channels_last(np.full(x.shape, np.nan, dtype))):
            backend.spread_window(ct, target, g.pod)
            assert_close(target, gx_exact, (taps + 3) * rounding(dtype) * gx_bound)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("options", [{}, {"count_include_pad": False}, {"divisor_override": 5}], ids=str)
def test_average_window_agrees_with_torch(options: dict[str, Any], ceil_mode: bool) -> None:
    torch = pytest.importorskip("torch")
    x = draw((2, 3, 6, 8, 9), np.float64)
    for kernel, stride, padding in (((2, 2, 2), (2, 2, 2), (0, 0, 0)), ((3, 3, 4), (2, 3, 3), (1, 1, 2))):
        g = window_geometry("test", x.shape, kernel, stride, padding, 1, ceil_mode, **options)
        tx = torch.from_numpy(x).requires_grad_()
        expected = torch.nn.functional.avg_pool3d(tx, kernel, stride, padding, ceil_mode, **options)
        y, ct, gx = output(x, g, np.float64), draw(tuple(expected.shape), np.float64, 1), np.full(x.shape, np.nan)
        backend.average_window(x, y, g.pod)
        assert_close(y, expected.detach().numpy(), 1e-14)
        expected.backward(torch.from_numpy(ct))
        backend.spread_window(ct, gx, g.pod)
        assert_close(gx, tx.grad.numpy(), 1e-13)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factors", [(1, 1, 1), (2, 2, 2), (2, 3, 1), (1, 1, 5), (3, 2), (4,)], ids=str)
def test_upsampling_repeats_cells_and_sum_blocks_is_its_adjoint(
    every_isa: str, factors: tuple[int, ...], dtype: Any
) -> None:
    x = draw((3, 2, *(5, 4, 19)[3 - len(factors) :]), dtype)
    repeated = x
    for axis, factor in enumerate(factors):
        repeated = repeated.repeat(factor, axis + 2)
    blocks = draw(repeated.shape, dtype, 1)
    split = [n for pair in zip(x.shape[2:], factors, strict=True) for n in pair]
    inner = tuple(range(3, 2 + len(split), 2))
    summed = blocks.astype(np.float64).reshape(*x.shape[:2], *split).sum(axis=inner)
    bound = (rounding(dtype) + 150 * rounding(np.float64)) * np.abs(blocks).reshape(*x.shape[:2], *split).sum(
        axis=inner
    )
    for view, down in ((x, blocks), (channels_last(x), channels_last(blocks))):
        for poison in (np.full(repeated.shape, np.nan, dtype), channels_last(np.full(repeated.shape, np.nan, dtype))):
            backend.upsample_nearest(view, poison)
            np.testing.assert_array_equal(poison, repeated)
        y = channels_last(np.full(x.shape, np.nan, dtype))
        backend.sum_blocks(down, y)
        assert_close(y, summed, bound.astype(np.float64))


def test_windows_have_the_same_bits_at_any_thread_count(thread_counts: tuple[int, ...]) -> None:
    x = draw((4, 5, 8, 20, 30), np.float32)
    g = window_geometry("test", x.shape, 3, 2, 1)
    results = set()
    for n in thread_counts:
        gk.set_num_threads(n)
        y, index, mean = output(x, g, np.float32), output(x, g, np.int64), output(x, g, np.float32)
        gx, spread = np.full_like(x, np.nan), np.full_like(x, np.nan)
        backend.max_window(x, y, index, g.pod)
        backend.average_window(x, mean, g.pod)
        backend.scatter_window(y, index, gx)
        backend.spread_window(y, spread, g.pod)
        results.add(b"".join(a.tobytes() for a in (y, index, mean, gx, spread)))
    assert len(results) == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "width"), [(0, 3), (40, 6), (9000, 7), (5, 0)])
def test_rows_are_gathered_and_scattered_in_index_order(
    rows: int, width: int, dtype: Any, thread_counts: tuple[int, ...]
) -> None:
    table, index = draw((11, width), dtype), np.random.default_rng(1).integers(0, 11, 2 * rows)[::2]
    for view in (table, np.asfortranarray(table)):
        picked = np.full((rows, width), np.nan, dtype)
        backend.gather_rows(view, index, picked)
        np.testing.assert_array_equal(picked, table[index])
    values, expected = draw((rows, width), dtype, 2), np.zeros((11, width), dtype)
    np.add.at(expected, index, values)
    for n in thread_counts:
        gk.set_num_threads(n)
        total = np.full((11, width), np.nan, dtype)
        backend.scatter_rows(values, index, total)
        np.testing.assert_array_equal(total, expected)
