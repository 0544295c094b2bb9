"""Sums over any axes and softmax over rows, in an order that the shape alone decides.

A block adds a chunk of the reduced elements for a few outputs: every thread its own lane in double, then a tree over
the lanes. Totals of chunks are summed by the same kernel until one is left.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.arrays import empty, flat
from gankernels.backends.cuda_numba.chain import member
from gankernels.backends.cuda_numba.launch import (
    THREADS,
    ceil_div,
    elements,
    launch,
    locate,
    merged,
    scalar_type,
    strides_of,
)
from gankernels.backends.cuda_numba.pointwise import fill
from gankernels.backends.cuda_numba.shim import cuda, device, exp, jit, log
from gankernels.backends.device_array import DeviceArray

__all__ = ["MAX_ROW_BLOCKS", "log_softmax", "softmax", "sum", "tree_sum"]

Ints = tuple[int, ...]
_LANE = 128  # elements that one thread adds one after another
_FEW = 8192  # of so few elements in all, every output is one thread's: chains (chain.py) can have such sums
_COALESCED = min(32, THREADS)  # neighbouring outputs of a block where they are neighbours in memory
MAX_ROW_BLOCKS = elements(1 << 40)[0]


@device
def tree_sum(values: Any, t: int, lanes: int, step: int) -> None:
    """values[0:step] = sums of values[i + k*step] over k < lanes, a power of two; ends with a barrier."""
    cuda.syncthreads()
    while lanes > 1:
        lanes //= 2
        if t < lanes * step:
            values[t] += values[t + lanes * step]
        cuda.syncthreads()


@lru_cache(maxsize=8)
def _sum_kernel(A: Any, T: Any) -> Any:
    zero = A(0)

    def sum_kernel(x: Any, y: Any, kept: Any, reduced: Any, chunks: int, chunk: int, width: int) -> None:
        values = cuda.shared.array(THREADS, A)
        t = cuda.threadIdx.x
        lanes = THREADS // width
        group = cuda.blockIdx.x // chunks
        c = cuda.blockIdx.x - group * chunks
        output = group * width + t % width
        total = zero
        if output < kept[0]:
            base = locate(output, kept, 1, 2)
            for r in range(c * chunk + t // width, min((c + 1) * chunk, reduced[0]), lanes):
                total += A(x[base + locate(r, reduced, 1, 1)])
        values[t] = total
        tree_sum(values, t, lanes, width)
        if t < width and output < kept[0]:
            y[locate(output, kept, 2, 2) + c] = T(values[t])

    return member(jit(sum_kernel), "sum")


class _Plan(NamedTuple):
    kept: Ints  # loop over (x, y)
    reduced: Ints  # loop over x
    columns: bool  # outputs are neighbours in memory


@lru_cache(maxsize=1024)
def _plan(x_shape: Ints, y_shape: Ints, x_layout: tuple[int, Ints], y_layout: tuple[int, Ints]) -> _Plan:
    axes = [(n, sx, sy, n == m) for n, m, sx, sy in zip(x_shape, y_shape, x_layout[1], y_layout[1], strict=True)
            if n != 1]  # fmt: skip
    axes.sort(key=lambda axis: abs(axis[1]), reverse=True)
    kept = merged([(n, sx, sy) for n, sx, sy, keep in axes if keep], 2)
    reduced = merged([(n, sx) for n, sx, _, keep in axes if not keep], 1)
    return _Plan(
        (kept[0], x_layout[0], y_layout[0], *kept[1]),
        (reduced[0], 0, *reduced[1]),
        bool(axes) and axes[-1][3],
    )


def _with_strides(kept: Ints, operand: int, step: int) -> Ints:
    """The loop with one operand (1 or 2) laid out row-major with so many elements for each output."""
    loop = list(kept)
    loop[operand] = 0
    for axis in range((len(kept) - 3) // 3):
        loop[3 + 3 * axis + operand] = step
        step *= kept[3 + 3 * axis]
    return tuple(loop)


def _width(outputs: int, count: int, columns: bool) -> int:
    """Outputs of a block: a power of two."""
    if count <= _LANE and outputs * count <= _FEW:
        return THREADS
    lanes = 1
    while lanes * 4 < count and lanes < THREADS:
        lanes *= 2
    if columns:
        lanes = min(lanes, THREADS // _COALESCED)
    return THREADS // lanes


def sum(x: DeviceArray, y: DeviceArray) -> None:
    """y = sums of x over the axes where y has extent 1 and x has not."""
    source, target = flat(x), flat(y)
    if not x.size:
        fill(y, 0)
        return
    kept, reduced, columns = _plan(x.shape, y.shape, strides_of(x), strides_of(y))
    accumulator = np.int64 if y.dtype.kind == "i" else np.float64
    while True:
        width = _width(kept[0], reduced[0], columns)
        chunk = _LANE * (THREADS // width)
        chunks = ceil_div(reduced[0], chunk)
        blocks = ceil_div(kept[0], width) * chunks
        if chunks == 1:
            kernel = _sum_kernel(accumulator, scalar_type(y))
            launch(kernel, blocks, THREADS, source, target, kept, reduced, 1, chunk, width)
            return
        partial = empty((kept[0] * chunks,), accumulator)
        to_partial = _with_strides(kept, 2, chunks)
        kernel = _sum_kernel(accumulator, accumulator)
        launch(kernel, blocks, THREADS, source, flat(partial), to_partial, reduced, chunks, chunk, width)
        source, kept, reduced, columns = flat(partial), _with_strides(kept, 1, chunks), (chunks, 0, chunks, 1), False


@lru_cache(maxsize=8)
def _softmax_kernel(T: Any, is_log: bool) -> Any:
    lowest = T(-np.inf)

    def softmax_kernel(
        x: Any, y: Any, rows: int, columns: int, ox: int, xr: int, xc: int, oy: int, yr: int, yc: int
    ) -> None:
        maxima = cuda.shared.array(THREADS, T)
        sums = cuda.shared.array(THREADS, np.float64)
        t = cuda.threadIdx.x
        for row in range(cuda.blockIdx.x, rows, cuda.gridDim.x):
            start, target = ox + row * xr, oy + row * yr
            best = lowest
            for i in range(t, columns, THREADS):
                v = x[start + i * xc]
                if v > best or v != v:
                    best = v
            maxima[t] = best
            cuda.syncthreads()
            lanes = THREADS
            while lanes > 1:
                lanes //= 2
                if t < lanes:
                    v = maxima[t + lanes]
                    if v > maxima[t] or v != v:
                        maxima[t] = v
                cuda.syncthreads()
            shift = maxima[0]
            total = 0.0
            for i in range(t, columns, THREADS):
                total += np.float64(exp(x[start + i * xc] - shift))
            sums[t] = total
            tree_sum(sums, t, THREADS, 1)
            for i in range(t, columns, THREADS):
                v = x[start + i * xc] - shift
                if is_log:
                    y[target + i * yc] = T(np.float64(v) - log(sums[0]))
                else:
                    y[target + i * yc] = exp(v) / T(sums[0])
            cuda.syncthreads()

    return jit(softmax_kernel)


def _softmax(x: DeviceArray, y: DeviceArray, is_log: bool) -> None:
    source, target = flat(x), flat(y)
    if not x.size:
        return
    rows, columns = x.shape
    (ox, sx), (oy, sy) = strides_of(x), strides_of(y)
    kernel = _softmax_kernel(scalar_type(y), is_log)
    launch(kernel, min(rows, MAX_ROW_BLOCKS), THREADS, source, target, rows, columns, ox, *sx, oy, *sy)


def softmax(x: DeviceArray, y: DeviceArray) -> None:
    """y (R, C) = softmax of x over the last axis."""
    _softmax(x, y, False)


def log_softmax(x: DeviceArray, y: DeviceArray) -> None:
    """y (R, C) = logarithm of the softmax of x over the last axis."""
    _softmax(x, y, True)
