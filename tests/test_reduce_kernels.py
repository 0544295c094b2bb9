"""Sums over any axes and softmax: against float64, with derived bounds, in every layout, equal bits for any threads."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import devices
import numpy as np
import pytest
from devices import backend

import gankernels as gk
from gankernels.testing.bounds import assert_close, rounding

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]


def summed(x: Array, axes: tuple[int, ...]) -> Array:
    shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    y = np.full(shape, np.nan, x.dtype)
    backend.sum(x, y)
    return y


def bound(x: Array, axes: tuple[int, ...]) -> Array:
    """Lanes of 64, a tree over the rest, one rounding to the dtype: about 90 + log2(n) roundings in double."""
    magnitude = np.abs(x.astype(np.float64)).sum(axis=axes, keepdims=True)
    steps = 90 + math.log2(max(1, x.size))
    return (rounding(x.dtype) + steps * rounding(np.float64)) * magnitude


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_takes_any_axes_of_any_layout(every_isa: str, dtype: Any) -> None:
    x = np.random.default_rng(0).normal(size=devices.extents(4, 6, 5, 7, 9)).astype(dtype)
    layouts = [x, x.transpose(2, 0, 4, 1, 3), x[:, ::-1, ::2, :, ::-2], np.broadcast_to(x[:, :1, :, :1], x.shape)]
    for view, mask in product(layouts, product([False, True], repeat=5)):
        axes = tuple(i for i in range(5) if mask[i])
        expected = view.astype(np.float64).sum(axis=axes, keepdims=True)
        assert_close(summed(view, axes), expected, bound(view, axes), f"sum over {axes}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 200, 1000), (100000, 3), (3, 100000), (2, 1, 40000), (700, 700)])
def test_sum_over_many_tasks_keeps_the_bound(every_isa: str, shape: tuple[int, ...], dtype: Any) -> None:
    x = np.random.default_rng(1).normal(size=devices.extents(*shape)).astype(dtype)
    for mask in product([False, True], repeat=len(shape)):
        axes = tuple(i for i in range(len(shape)) if mask[i])
        expected = x.astype(np.longdouble).sum(axis=axes, keepdims=True).astype(np.float64)
        assert_close(summed(x, axes), expected, bound(x, axes), f"sum of {x.shape} over {axes}")


@pytest.mark.much_work
def test_sum_of_a_million_tenths_is_exact_to_float32() -> None:
    x = np.full(1 << 20, 0.1, np.float32)
    assert summed(x, (0,))[0] == np.float32(float(np.float32(0.1)) * (1 << 20))


def test_sum_lets_no_nan_or_infinity_vanish(every_isa: str) -> None:
    for position in (0, 15, 16, 1023, 4095):
        for value in (np.nan, np.inf):
            x = np.zeros((2, 4096), np.float32)
            x[1, position] = value
            np.testing.assert_array_equal(summed(x, (1,)).ravel(), np.array([0, value], np.float32))
            np.testing.assert_array_equal(summed(x, (0, 1)).ravel(), np.array([value], np.float32))


def test_an_empty_sum_is_zero() -> None:
    np.testing.assert_array_equal(summed(np.zeros((3, 0, 2)), (1,)), np.zeros((3, 1, 2)))
    assert summed(np.array(2.5), ()) == 2.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_sum_has_the_same_bits_at_any_thread_count(dtype: Any, thread_counts: tuple[int, ...]) -> None:
    x = np.random.default_rng(2).normal(size=devices.extents(8, 5, 9001)).astype(dtype)
    for axes in ((0, 1, 2), (0, 2), (0,), (1, 2)):
        results = set()
        for n in thread_counts:
            gk.set_num_threads(n)
            results.add(summed(x, axes).tobytes())
        assert len(results) == 1


def oracle_softmax(x: Array, log: bool) -> Array:
    x = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        shifted = x - x.max(axis=1, keepdims=True)
        e = np.exp(shifted)
        total = e.sum(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(total) if log else e / total).astype(np.float64)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [1, 2, 15, 64, 65, 1000])
def test_softmax_and_its_logarithm_are_stable(every_isa: str, columns: int, dtype: Any) -> None:
    x = (np.random.default_rng(3).normal(size=devices.extents(60, columns)) * 30 + 1000).astype(dtype)
    x[3, : x.shape[1] // 2] = -np.inf
    u = rounding(dtype)
    for view in (x, np.asfortranarray(x), x[::-1, ::-1]):
        y = np.full(x.shape, np.nan, dtype)
        backend.softmax(view, y)
        assert_close(y, oracle_softmax(view, False), 8 * u * oracle_softmax(view, False) + np.finfo(dtype).tiny)
        backend.log_softmax(view, y)
        finite = np.nan_to_num(np.abs(oracle_softmax(view, True)), posinf=0.0)
        assert_close(y, oracle_softmax(view, True), 8 * u * (1 + finite))


@pytest.mark.parametrize("log", [False, True])
def test_softmax_of_rows_with_infinities_and_nan_is_as_torch_has_it(every_isa: str, log: bool) -> None:
    torch = pytest.importorskip("torch")
    x = np.zeros((5, 70), np.float32)
    x[1] = -np.inf
    x[2, 66] = np.inf
    x[3, 5] = np.nan
    x[4, :69] = -np.inf
    y = np.full_like(x, -7)
    (backend.log_softmax if log else backend.softmax)(x, y)
    f = torch.log_softmax if log else torch.softmax
    assert_close(y, f(torch.from_numpy(x), 1).numpy(), 1e-6)
