"""Philox 4x32-10 against the published vectors and a NumPy version; uniforms, normals and dropout by position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import backend

import gankernels as gk

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]
MASK = (1 << 32) - 1


def philox(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    c, k = list(counter), list(key)
    for _ in range(10):
        a, b = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(b >> 32) ^ c[1] ^ k[0], b & MASK, (a >> 32) ^ c[3] ^ k[1], a & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return tuple(c)


VECTORS = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((MASK,) * 4, (MASK,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_the_witness_is_the_published_generator(
    counter: tuple[int, ...], key: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    assert philox(counter, key) == expected


def words(count: int, seed: int, offset: int) -> Array:
    key = (seed & MASK, seed >> 32)
    blocks = ((offset + i) % (1 << 64) for i in range((count + 3) // 4))
    return np.array([philox((b & MASK, b >> 32, 0, 0), key) for b in blocks], np.uint64).ravel()[:count]


def uniforms(count: int, dtype: Any, seed: int, offset: int) -> Array:
    if dtype is np.float32:
        return (words(count, seed, offset) >> np.uint64(8)).astype(np.float32) * np.float32(2.0**-24)
    low, high = words(2 * count, seed, offset).reshape(-1, 2).T
    return (((high << np.uint64(32)) | low) >> np.uint64(11)).astype(np.float64) * 2.0**-53


SEEDS = [(0, 0), (0x299F31D0A4093822, 0x85A308D3243F6A88), ((1 << 64) - 1, (1 << 64) - 40), (7, (1 << 32) - 3)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("seed", "offset"), SEEDS)
@pytest.mark.parametrize("count", [0, 1, 3, 5, 511, 1030])
def test_uniform_is_the_generator_word_by_word(every_isa: str, count: int, seed: int, offset: int, dtype: Any) -> None:
    y = np.full(count, np.nan, dtype)
    backend.random_uniform(y, seed, offset)
    np.testing.assert_array_equal(y, uniforms(count, dtype, seed, offset))


@pytest.mark.parametrize("dtype", DTYPES)
def test_normal_is_box_muller_of_pairs_of_uniforms(every_isa: str, dtype: Any) -> None:
    y = np.full(1001, np.nan, dtype)
    backend.random_normal(y, 5, 9)
    u, v = uniforms(1002, dtype, 5, 9).astype(np.longdouble).reshape(-1, 2).T
    r, angle = np.sqrt(-2 * np.log1p(-u)), 2 * np.pi * v
    expected = np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1).ravel()[:1001].astype(np.float64)
    error = np.abs(y - expected)
    assert not (error > np.finfo(dtype).eps * (np.abs(expected) + 8)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_normals_have_the_moments_of_the_normal_distribution(dtype: Any) -> None:
    y = np.full(400000, np.nan, dtype)
    backend.random_normal(y, 1, 0)
    y64 = y.astype(np.float64)
    for power, mean, deviation in ((1, 0, 1), (2, 1, 2**0.5), (3, 0, 15**0.5), (4, 3, 96**0.5)):
        assert abs((y64**power).mean() - mean) < 5 * deviation / y.size**0.5


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["random_uniform", "random_normal"])
def test_values_depend_on_the_position_and_on_nothing_else(
    every_isa: str, name: str, dtype: Any, thread_counts: tuple[int, ...]
) -> None:
    draw = getattr(backend, name)
    y = np.full((7, 9001), np.nan, dtype)
    draw(y, 3, 11)
    for n in thread_counts:
        gk.set_num_threads(n)
        for shape in (y.shape, (9001, 7)):
            again = np.full(shape, np.nan, dtype)
            again = again if shape == y.shape else again.T
            draw(again, 3, 11)
            np.testing.assert_array_equal(again, y)
    per_block = 4 if dtype is np.float32 else 2
    later = np.full(100, np.nan, dtype)
    draw(later, 3, 11 + 25)
    np.testing.assert_array_equal(later, y.ravel()[25 * per_block :][:100])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_dropout_keeps_by_the_float_uniform_of_the_element_in_either_dtype(
    every_isa: str, p: float, dtype: Any
) -> None:
    x = np.random.default_rng(0).normal(size=(3, 700, 11)).astype(dtype)
    keep = uniforms(x.size, np.float32, 21, 4).astype(np.float64).reshape(x.shape) >= p
    expected = np.where(keep, x * dtype(1 / (1 - p) if p < 1 else 0), 0)
    for view in (x, np.asfortranarray(x)):
        for y in (np.full(x.shape, np.nan, dtype), np.full(x.shape[::-1], np.nan, dtype).T):
            backend.dropout(view, y, p, 21, 4)
            np.testing.assert_array_equal(y, expected)


def test_dropout_of_nothing_is_the_identity_and_of_everything_is_zero() -> None:
    x = np.array([1.0, np.inf, np.nan, -2.0], np.float32)
    y = np.full_like(x, -7)
    backend.dropout(x, y, 0.0, 1, 0)
    np.testing.assert_array_equal(y, x)
    backend.dropout(x, y, 1.0, 1, 0)
    np.testing.assert_array_equal(y, np.zeros_like(x))
