"""Normalisation over (N, L) for each channel of x(N, C, L): moments of chunks, combined one after another by the
formula of Chan, Golub and LeVeque (1979), so that a large mean costs no digits; everything is added in double.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import empty, flat, flats
from gankernels.backends.cuda_numba.chain import member
from gankernels.backends.cuda_numba.launch import (
    THREADS,
    ceil_div,
    elements,
    launch,
    locate,
    scalar_type,
    strides_of,
)
from gankernels.backends.cuda_numba.pointwise import fill, run
from gankernels.backends.cuda_numba.reduce import tree_sum
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["batch_norm_backward", "channel_affine", "channel_moments"]

_CHUNK = 16 * THREADS  # elements of one channel that a block adds


def _chunks(x: DeviceArray) -> int:
    return ceil_div(x.shape[0] * x.shape[2], _CHUNK)


@jit
def moments_kernel(x: Any, parts: Any, count: int, L: int, ox: int, sn: int, sc: int, sl: int, chunks: int) -> None:
    """parts[c, chunk] = mean and sum of squared deviations; one block each."""
    values = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    c = cuda.blockIdx.x // chunks
    first = (cuda.blockIdx.x - c * chunks) * _CHUNK
    last = min(first + _CHUNK, count)
    size = np.float64(last - first)
    start = ox + c * sc
    total = 0.0
    for i in range(first + t, last, THREADS):
        total += np.float64(x[start + (i // L) * sn + (i % L) * sl])
    values[t] = total
    tree_sum(values, t, THREADS, 1)
    mean = values[0] / size
    cuda.syncthreads()
    rest = 0.0
    square = 0.0
    for i in range(first + t, last, THREADS):
        d = np.float64(x[start + (i // L) * sn + (i % L) * sl]) - mean
        rest += d
        square += d * d
    values[t] = rest
    tree_sum(values, t, THREADS, 1)
    rest = values[0]  # the rounding error of the mean
    cuda.syncthreads()
    values[t] = square
    tree_sum(values, t, THREADS, 1)
    if t == 0:
        parts[2 * cuda.blockIdx.x] = mean + rest / size
        parts[2 * cuda.blockIdx.x + 1] = values[0] - rest * (rest / size)


@lru_cache(maxsize=2)
def _join_moments_kernel(T: Any) -> Any:
    def join_moments_kernel(
        parts: Any, mean: Any, variance: Any, C: int, count: int, chunks: int, om: int, sm: int, ov: int, sv: int
    ) -> None:
        for c in range(cuda.grid(1), C, cuda.gridsize(1)):
            joined = 0.0
            middle = 0.0
            square = 0.0
            for k in range(chunks):
                size = np.float64(min(_CHUNK, count - k * _CHUNK))
                part = 2 * (c * chunks + k)
                step = parts[part] - middle
                total = joined + size
                middle += step * (size / total)
                square += parts[part + 1] + step * step * (joined * size / total)
                joined = total
            mean[om + c * sm] = T(middle)
            variance[ov + c * sv] = T(square / joined)

    return jit(join_moments_kernel)


def channel_moments(x: DeviceArray, mean: DeviceArray, variance: DeviceArray) -> None:
    """mean (C,) and biased variance (C,) over the first and the last axis of x (N, C, L)."""
    N, C, L = x.shape
    memory = flats(x, mean, variance)
    if not C:
        return
    if not N * L:
        fill(mean, float("nan"))
        fill(variance, float("nan"))
        return
    chunks = _chunks(x)
    parts = flat(empty((2 * C * chunks,), np.float64))
    (ox, sx), (om, sm), (ov, sv) = map(strides_of, (x, mean, variance))
    launch(moments_kernel, C * chunks, THREADS, memory[0], parts, N * L, L, ox, *sx, chunks)
    kernel = _join_moments_kernel(scalar_type(x))
    launch(kernel, *elements(C), parts, *memory[1:], C, N * L, chunks, om, *sm, ov, *sv)


@jit
def channel_affine_kernel(x: Any, scale: Any, shift: Any, y: Any, loop: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        product = x[locate(i, loop, 1, 4)] * scale[locate(i, loop, 2, 4)]
        y[locate(i, loop, 4, 4)] = product + shift[locate(i, loop, 3, 4)]


member(channel_affine_kernel, "multiply_add")


def channel_affine(x: DeviceArray, scale: DeviceArray, shift: DeviceArray, y: DeviceArray) -> None:
    """y = x*scale[c] + shift[c] for x (N, C, L)."""
    column = [v.reshape(1, v.shape[0], 1).broadcast_to(x.shape) for v in (scale, shift)]
    run(channel_affine_kernel, (x, *column, y))


@jit
def gradient_sums_kernel(
    x: Any, ct: Any, mean: Any, parts: Any, count: int, L: int, sx: Any, sct: Any, sm: Any, chunks: int
) -> None:
    """parts[c, chunk] = sums of ct and of ct*(x - mean); layouts are (origin, strides)."""
    values = cuda.shared.array(THREADS, np.float64)
    t = cuda.threadIdx.x
    c = cuda.blockIdx.x // chunks
    first = (cuda.blockIdx.x - c * chunks) * _CHUNK
    middle = np.float64(mean[sm[0] + c * sm[1]])
    total = 0.0
    product = 0.0
    for i in range(first + t, min(first + _CHUNK, count), THREADS):
        n = i // L
        v = np.float64(ct[sct[0] + n * sct[1] + c * sct[2] + (i - n * L) * sct[3]])
        total += v
        product += v * (np.float64(x[sx[0] + n * sx[1] + c * sx[2] + (i - n * L) * sx[3]]) - middle)
    values[t] = total
    tree_sum(values, t, THREADS, 1)
    if t == 0:
        parts[2 * cuda.blockIdx.x] = values[0]
    cuda.syncthreads()
    values[t] = product
    tree_sum(values, t, THREADS, 1)
    if t == 0:
        parts[2 * cuda.blockIdx.x + 1] = values[0]


@lru_cache(maxsize=2)
def _join_sums_kernel(T: Any) -> Any:
    def join_sums_kernel(
        parts: Any, rstd: Any, weight: Any, gweight: Any, gbias: Any, factors: Any, C: int, count: int, chunks: int,
        sr: Any, sw: Any, sgw: Any, sgb: Any,
    ) -> None:  # fmt: skip
        """factors[c] = a, b, c of gx = a*ct + b*(x - mean) + c."""
        for c in range(cuda.grid(1), C, cuda.gridsize(1)):
            total = 0.0
            product = 0.0
            for k in range(chunks):
                total += parts[2 * (c * chunks + k)]
                product += parts[2 * (c * chunks + k) + 1]
            r = np.float64(rstd[sr[0] + c * sr[1]])
            a = np.float64(weight[sw[0] + c * sw[1]]) * r
            gbias[sgb[0] + c * sgb[1]] = T(total)
            gweight[sgw[0] + c * sgw[1]] = T(product * r)
            factors[3 * c] = a
            factors[3 * c + 1] = -a * r * r * product / np.float64(count)
            factors[3 * c + 2] = -a * total / np.float64(count)

    return jit(join_sums_kernel)


@lru_cache(maxsize=2)
def _gradient_kernel(T: Any) -> Any:
    def gradient_kernel(
        x: Any, ct: Any, mean: Any, factors: Any, gx: Any, n: int, C: int, L: int, sx: Any, sct: Any, sm: Any, sgx: Any
    ) -> None:
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            row = i // L
            at = i - row * L
            image = row // C
            c = row - image * C
            centred = x[sx[0] + image * sx[1] + c * sx[2] + at * sx[3]] - mean[sm[0] + c * sm[1]]
            slope = T(factors[3 * c + 1]) * centred + T(factors[3 * c + 2])
            v = ct[sct[0] + image * sct[1] + c * sct[2] + at * sct[3]]
            gx[sgx[0] + image * sgx[1] + c * sgx[2] + at * sgx[3]] = T(factors[3 * c]) * v + slope

    return jit(gradient_kernel)


def batch_norm_backward(
    x: DeviceArray, ct: DeviceArray, mean: DeviceArray, rstd: DeviceArray, weight: DeviceArray,
    gx: DeviceArray, gweight: DeviceArray, gbias: DeviceArray,
) -> None:  # fmt: skip
    """The gradient of y = (x - mean)*rstd*weight + bias through mean and rstd."""
    N, C, L = x.shape
    arrays = (x, ct, mean, rstd, weight, gx, gweight, gbias)
    fx, fct, fmean, frstd, fweight, fgx, fgweight, fgbias = flats(*arrays)
    lx, lct, lmean, lrstd, lweight, lgx, lgweight, lgbias = ((o, *s) for o, s in map(strides_of, arrays))
    if not C:
        return
    chunks = _chunks(x)
    parts, factors = flat(empty((max(1, 2 * C * chunks),), np.float64)), flat(empty((3 * C,), np.float64))
    if chunks:
        launch(gradient_sums_kernel, C * chunks, THREADS, fx, fct, fmean, parts, N * L, L, lx, lct, lmean, chunks)
    launch(_join_sums_kernel(scalar_type(x)), *elements(C), parts, frstd, fweight, fgweight, fgbias, factors, C, N * L,
           chunks, lrstd, lweight, lgweight, lgbias)  # fmt: skip
    if x.size:
        launch(_gradient_kernel(scalar_type(x)), *elements(x.size), fx, fct, fmean, factors, fgx, x.size, C, L, lx, lct,
               lmean, lgx)  # fmt: skip
