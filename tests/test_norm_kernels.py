"""Batch normalisation kernels: moments that survive a large mean, the affine map, the fused gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from devices import backend

import gankernels as gk
from gankernels.testing.bounds import assert_close, rounding

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]
SHAPES = [(16, 5, 1), (8, 3, 27), (3, 2, 9000), (300, 7, 1), (1, 1, 1), (2, 3, 512)]
if gk.get_default_device() == "cpu":  # reads short rows of some channels together, of which a few are left over
    SHAPES += [(3, 35, 16), (5, 9, 70)]


def draw(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def moments(x: Array) -> tuple[Array, Array]:
    mean, variance = np.full((2, x.shape[1]), np.nan, x.dtype)
    backend.channel_moments(x, mean, variance)
    return mean, variance


def layouts(x: Array) -> list[Array]:
    return [x, np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1), x[::-1, :, ::-1]]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_moments_keep_their_digits_whatever_the_mean(
    every_isa: str, shape: tuple[int, ...], offset: float, dtype: Any
) -> None:
    for x in layouts((draw(shape, np.float64) + offset).astype(dtype)):
        exact = x.astype(np.longdouble)
        mean, variance = moments(x)
        expected = exact.mean(axis=(0, 2)), exact.var(axis=(0, 2))
        u, double = rounding(dtype), rounding(np.float64)
        assert_close(mean, expected[0].astype(np.float64), (u + 90 * double) * (1 + offset))
        # the two-pass variance: relative error u + O(double), plus the square of the error of the mean; a device joins
        # parts by the differences of their means, which are rounded as numbers of the size of the offset
        joined = 0.0 if gk.get_default_device() == "cpu" else 2 * double * offset
        limit = (u + 200 * double + joined) * (1 + expected[1].astype(np.float64))
        assert_close(variance, expected[1].astype(np.float64), limit)


def test_a_constant_channel_has_variance_zero(every_isa: str) -> None:
    mean, variance = moments(np.full((4, 1, 333), 0.1, np.float32))
    assert mean[0] == np.float32(0.1)
    assert variance[0] <= 1e-30


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_first_element_far_from_the_others_costs_the_variance_little(every_isa: str, dtype: Any) -> None:
    x = draw((40, 3, 100), dtype)
    x[0, :, 0] = 1e6
    _, variance = moments(x)
    expected = x.astype(np.longdouble).var(axis=(0, 2)).astype(np.float64)
    # n = 4000 differences from it sum up to n times the sum about the mean, in n/16 additions of doubles
    assert_close(variance, expected, (rounding(dtype) + 4000 * 250 * rounding(np.float64)) * expected)


@pytest.mark.skipif(gk.get_default_device() != "cpu", reason="a device adds up in the order of memory")
@pytest.mark.parametrize("shape", SHAPES)
def test_statistics_have_the_same_bits_however_the_array_lies_in_memory(every_isa: str, shape: tuple[int, ...]) -> None:
    x, ct, weight = draw(shape, np.float32), draw(shape, np.float32, 1), draw((shape[1],), np.float32, 2)
    last = [np.ascontiguousarray(a.transpose(2, 1, 0)).transpose(2, 1, 0) for a in (x, ct)]
    for got, expected in zip(backward(*last, weight), backward(x, ct, weight), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_affine_scales_and_shifts_each_channel(every_isa: str, shape: tuple[int, ...], dtype: Any) -> None:
    scale, shift = draw((shape[1],), dtype, 1), draw((shape[1],), dtype, 2)
    for x in layouts(draw(shape, dtype)):
        y = np.full(shape, np.nan, dtype)
        backend.channel_affine(x, scale, shift, y)
        np.testing.assert_array_equal(y, x * scale[:, None] + shift[:, None])


def backward(x: Array, ct: Array, weight: Array) -> tuple[Array, Array, Array, Array, Array]:
    mean, variance = moments(x)
    rstd = (1 / np.sqrt(variance.astype(np.float64) + 1e-5)).astype(x.dtype)
    gx, gweight, gbias = np.full(x.shape, np.nan, x.dtype), np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    backend.batch_norm_backward(x, ct, mean, rstd, weight, gx, gweight, gbias)
    return gx, gweight, gbias, mean, rstd


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_backward_is_the_gradient_through_both_moments(every_isa: str, shape: tuple[int, ...], dtype: Any) -> None:
    weight = draw((shape[1],), dtype, 3)
    for x, ct in zip(layouts(draw(shape, dtype)), layouts(draw(shape, dtype, 4)), strict=True):
        gx, gweight, gbias, mean, rstd = backward(x, ct, weight)
        m, r, w, c = (a.astype(np.longdouble)[:, None] for a in (mean, rstd, weight, np.ones_like(weight)))
        ct_, centred = ct.astype(np.longdouble), x.astype(np.longdouble) - m * c
        sum_ct = ct_.sum(axis=(0, 2), keepdims=True)
        sum_ct_x = (ct_ * centred).sum(axis=(0, 2), keepdims=True)
        count = shape[0] * shape[2]
        expected = w * r * (ct_ - sum_ct / count - centred * r * r * sum_ct_x / count)
        mean_ct = abs(ct_).sum(axis=(0, 2), keepdims=True) / count
        mean_ct_x = abs(ct_ * centred).sum(axis=(0, 2), keepdims=True) / count
        magnitude = abs(w * r) * (abs(ct_) + mean_ct + abs(centred * r * r) * mean_ct_x)
        u, double = rounding(dtype), rounding(np.float64)
        assert_close(gx, expected.astype(np.float64), ((8 * u + 90 * double) * magnitude).astype(np.float64))
        spread = (abs(ct_).sum(axis=(0, 2)), (abs(ct_ * centred)).sum(axis=(0, 2)) * r[:, 0])
        assert_close(gbias, sum_ct.ravel().astype(np.float64), ((2 * u + 90 * double) * spread[0]).astype(np.float64))
        expected_gweight = (sum_ct_x.ravel() * r[:, 0]).astype(np.float64)
        assert_close(gweight, expected_gweight, ((2 * u + 90 * double) * spread[1]).astype(np.float64))


def test_backward_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    x, ct, weight = draw((8, 3, 27), np.float64), draw((8, 3, 27), np.float64, 1), draw((3,), np.float64, 2)
    tx, tw = torch.from_numpy(x).requires_grad_(), torch.from_numpy(weight).requires_grad_()
    tb = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    torch.nn.functional.batch_norm(tx, None, None, tw, tb, True, 0.0, 1e-5).backward(torch.from_numpy(ct))
    gx, gweight, gbias, *_ = backward(x, ct, weight)
    for ours, theirs in ((gx, tx.grad), (gweight, tw.grad), (gbias, tb.grad)):
        assert_close(ours, theirs.numpy(), 1e-12)


def test_normalisation_has_the_same_bits_at_any_thread_count(thread_counts: tuple[int, ...]) -> None:
    x, ct, weight = draw((6, 4, 9000), np.float32), draw((6, 4, 9000), np.float32, 1), draw((4,), np.float32, 2)
    results = set()
    for n in thread_counts:
        gk.set_num_threads(n)
        results.add(b"".join(a.tobytes() for a in backward(x, ct, weight)))
    assert len(results) == 1


def test_a_nan_reaches_the_moments_of_its_channel_only(every_isa: str) -> None:
    x = draw((4, 3, 50), np.float32)
    x[2, 1, 17] = np.nan
    for values in moments(x):
        np.testing.assert_array_equal(np.isnan(values), [False, True, False])
