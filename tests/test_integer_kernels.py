"""Kernels on indices (int64) and masks (bool), and conversions between all types, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import backend

DTYPES = (np.float32, np.float64, np.int64, np.bool_)
SHAPE = (3, 5, 700)


def numbers(dtype: Any, seed: int = 0, low: int = -5, high: int = 6) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(seed).integers(low, high, SHAPE)
    return (drawn % 3 == 0) if dtype == np.bool_ else drawn.astype(dtype)


def views(a: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    return [a, a[:, ::2, ::-3], a.transpose(2, 0, 1), a[1, 2], a[:0], np.broadcast_to(a[:, :1], a.shape)]


def poisoned(shape: tuple[int, ...], dtype: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(bytearray(b"\x01" * (int(np.prod(shape)) * np.dtype(dtype).itemsize)), dtype).reshape(shape)


@pytest.mark.parametrize("to", DTYPES)
@pytest.mark.parametrize("of", DTYPES)
def test_a_cast_is_numpys_cast(of: Any, to: Any) -> None:
    source = numbers(of)
    if np.dtype(of).kind == "f":
        source = source * np.asarray(0.75, of)
    for x in views(source):
        y = backend.cast(x, to)
        assert y.dtype == to
        np.testing.assert_array_equal(y, x.astype(to))


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_copies_fills_and_choices_of_integers_are_numpys(dtype: Any) -> None:
    for x, other, chosen in zip(
        views(numbers(dtype)), views(numbers(dtype, 1)), views(numbers(np.bool_, 2)), strict=True
    ):
        y = poisoned(x.shape, dtype)
        backend.copy(x, y)
        np.testing.assert_array_equal(y, x)
        backend.select(chosen, x, other, y)
        np.testing.assert_array_equal(y, np.where(chosen, x, other))
        backend.fill(y, 1.0)
        assert (y == 1).all()


@pytest.mark.parametrize("op", ["add", "subtract", "multiply", "maximum", "minimum", "power"])
def test_arithmetic_of_indices_is_numpys(op: str) -> None:
    exponents = {"low": 0, "high": 4} if op == "power" else {}
    for a, b in zip(views(numbers(np.int64)), views(numbers(np.int64, 1, **exponents)), strict=True):
        y = poisoned(a.shape, np.int64)
        backend.binary(op, a, b, y)
        np.testing.assert_array_equal(y, getattr(np, op)(a, b))
        if b.size:
            backend.binary(op, a, b.reshape(-1)[:1].reshape(()), y)
            np.testing.assert_array_equal(y, getattr(np, op)(a, b.reshape(-1)[0]))


def test_arithmetic_of_indices_wraps() -> None:
    y = np.zeros(1, np.int64)
    backend.binary("add", np.array([2**63 - 1]), np.array([1]), y)
    assert y[0] == -(2**63)
    backend.binary("power", np.array([-3]), np.array([3]), y)
    assert y[0] == -27
    backend.sum(np.array([2**63 - 1, 1]), y)
    assert y[0] == -(2**63)


@pytest.mark.parametrize(("op", "logical"), [("add", "or"), ("maximum", "or"), ("multiply", "and"), ("minimum", "and")])
def test_arithmetic_of_masks_is_logic(op: str, logical: str) -> None:
    for a, b in zip(views(numbers(np.bool_)), views(numbers(np.bool_, 1)), strict=True):
        y = poisoned(a.shape, np.bool_)
        backend.binary(op, a, b, y)
        np.testing.assert_array_equal(y, getattr(np, f"logical_{logical}")(a, b))


@pytest.mark.cpu_only
@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
@pytest.mark.parametrize("op", ["divide", "atan2"])
def test_what_integers_cannot_do_is_refused(dtype: Any, op: str) -> None:
    a = np.zeros(3, dtype)
    with pytest.raises(ValueError, match="not defined for integers and masks"):
        backend.binary(op, a, a, a)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
@pytest.mark.parametrize("op", ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"])
def test_comparisons_of_integers_are_numpys(op: str, dtype: Any) -> None:
    for a, b in zip(views(numbers(dtype)), views(numbers(dtype, 1)), strict=True):
        y = poisoned(a.shape, np.bool_)
        backend.compare(op, a, b, y)
        np.testing.assert_array_equal(y, getattr(np, op)(a, b))


@pytest.mark.parametrize("axes", [(), (0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_sums_of_indices_are_numpys(axes: tuple[int, ...]) -> None:
    for x in views(numbers(np.int64)):
        if x.ndim != len(SHAPE):
            continue
        y = poisoned(tuple(1 if i in axes else n for i, n in enumerate(x.shape)), np.int64)
        backend.sum(x, y)
        np.testing.assert_array_equal(y, x.sum(axis=axes, keepdims=True) if axes else x)


@pytest.mark.parametrize("dtype", [np.int64, np.bool_])
def test_rows_of_integers_are_picked_by_index(dtype: Any) -> None:
    table, index = numbers(dtype)[0], np.array([4, 0, 0, 2])
    rows = poisoned((4, SHAPE[2]), dtype)
    backend.gather_rows(table, index, rows)
    np.testing.assert_array_equal(rows, table[index])
