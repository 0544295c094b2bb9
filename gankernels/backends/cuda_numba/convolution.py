"""Convolution and its two adjoints as implicit matrix products: columns are never stored, a table of the geometry
(plan.py) says where their elements lie. All geometry options, no atomics, every output written by one thread.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import empty, flat, flats
from gankernels.backends.cuda_numba.gemm import Tile, accumulator, tile_for, weight_tile_for
from gankernels.backends.cuda_numba.launch import launch, scalar_type, unravel, volume
from gankernels.backends.cuda_numba.plan import ENTRY, HEADER, PHASE, gather_plan, split_pod, weight_plan
from gankernels.backends.cuda_numba.pointwise import fill
from gankernels.backends.cuda_numba.reduce import sum as sum_over
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["conv", "conv_transpose", "conv_weight"]

_LEAST_PART = 256  # images times positions that are worth a block of their own
_NOWHERE = -(1 << 60)  # a cell outside of every image, whatever the tap


@lru_cache(maxsize=16)
def _gather_kernel(T: Any, tile: Tile) -> Any:
    BM, BN, BK, TM, TN = tile
    NT, MS, NS = tile.threads, BM // TM, BN // TN
    CT = BN // NT  # columns that a thread loads
    zero = T(0)
    accumulate = accumulator(T, tile)

    def gather_conv_kernel(x: Any, w: Any, y: Any, plan: Any) -> None:
        """y = sum over (channel, tap) of w*x; rows are output channels, columns positions of all images."""
        wt = cuda.shared.array((BK, BM), T)
        xt = cuda.shared.array((BK, BN), T)
        sums = cuda.local.array((TM, TN), T)
        t = cuda.threadIdx.x
        ty = t // NS
        tx = t - ty * NS
        f = HEADER
        for i in range(1, plan[0]):
            if plan[HEADER + i * PHASE] <= cuda.blockIdx.x:
                f = HEADER + i * PHASE
        n0 = (cuda.blockIdx.x - plan[f]) * BN
        K0, K1 = plan[f + 1], plan[f + 2]
        PD, PH, PW = plan[f + 3], plan[f + 4], plan[f + 5]
        columns = plan[1] * PD * PH * PW
        M = plan[2]
        group = cuda.blockIdx.y // plan[3]
        m0 = (cuda.blockIdx.y - group * plan[3]) * BM
        XD, XH, XW = plan[4], plan[5], plan[6]
        w0 = plan[15] + group * plan[17]
        w_row = plan[16]
        entries = HEADER + plan[0] * PHASE
        # the columns that this thread loads: cell of a tap without shift, and where it lies
        d0 = cuda.local.array(CT, np.int64)
        h0 = cuda.local.array(CT, np.int64)
        v0 = cuda.local.array(CT, np.int64)
        x0 = cuda.local.array(CT, np.int64)
        for i in range(CT):
            column = n0 + t + i * NT
            image, pd, ph, pw = unravel(column, PD, PH, PW)
            d = plan[f + 6] + pd * plan[f + 9]
            h = plan[f + 7] + ph * plan[f + 10]
            v = plan[f + 8] + pw * plan[f + 11]
            x0[i] = plan[18] + image * plan[7] + group * plan[19] * plan[8] + d * plan[20] + h * plan[21] + v * plan[22]
            d0[i] = d if column < columns else _NOWHERE
            h0[i] = h
            v0[i] = v
        for i in range(TM):
            for j in range(TN):
                sums[i, j] = zero
        for k0 in range(K0, K1, BK):
            for e in range(t, BM * BK, NT):
                m, k = e // BK, e % BK
                inside = m0 + m < M and k0 + k < K1
                wt[k, m] = w[w0 + (m0 + m) * w_row + plan[entries + (k0 + k) * ENTRY]] if inside else zero
            for k in range(BK):
                if k0 + k < K1:
                    at = entries + (k0 + k) * ENTRY
                    step, down, across, along = plan[at + 1], plan[at + 2], plan[at + 3], plan[at + 4]
                    for i in range(CT):
                        d, h, v = d0[i] + down, h0[i] + across, v0[i] + along
                        inside = d >= 0 and d < XD and h >= 0 and h < XH and v >= 0 and v < XW
                        xt[k, t + i * NT] = x[x0[i] + step] if inside else zero
                else:
                    for i in range(CT):
                        xt[k, t + i * NT] = zero
            cuda.syncthreads()
            accumulate(wt, xt, ty, tx, sums)
            cuda.syncthreads()
        for j in range(TN):
            column = n0 + tx + j * NS
            if column < columns:
                image, pd, ph, pw = unravel(column, PD, PH, PW)
                y0 = plan[9] + image * plan[10] + group * M * plan[11]
                y0 += (plan[f + 12] + pd * plan[f + 15]) * plan[12]
                y0 += (plan[f + 13] + ph * plan[f + 16]) * plan[13]
                y0 += (plan[f + 14] + pw * plan[f + 17]) * plan[14]
                for i in range(TM):
                    m = m0 + ty + i * MS
                    if m < M:
                        y[y0 + m * plan[11]] = sums[i, j]

    return jit(gather_conv_kernel)


def _gather(x: DeviceArray, w: DeviceArray, y: DeviceArray, pod: tuple[int, ...], transposed: bool) -> None:
    memory = flats(x, w, y)
    if not y.size:
        return
    if not x.size or not w.size:
        fill(y, 0.0)
        return
    g = split_pod(pod)
    T = scalar_type(y)
    channels, positions = (g.in_channels, g.x_volume) if transposed else (g.out_channels, g.y_volume)
    tile = tile_for(T, channels // g.groups, g.batch * positions)
    plan = gather_plan(pod, transposed, volume(x), volume(w), volume(y), tile.m, tile.n)
    launch(_gather_kernel(T, tile), (plan.position_blocks, plan.channel_blocks), tile.threads, *memory, plan.table)


def conv(x: DeviceArray, w: DeviceArray, y: DeviceArray, pod: tuple[int, ...], algorithm: int = 0) -> None:
    """y (N,O,P) = conv(x (N,C,X), w (O,C/groups,K)); one algorithm serves all requests."""
    _gather(x, w, y, pod, False)


def conv_transpose(y: DeviceArray, w: DeviceArray, x: DeviceArray, pod: tuple[int, ...], algorithm: int = 0) -> None:
    """x (N,C,X) = the adjoint of conv in x, of y (N,O,P)."""
    _gather(y, w, x, pod, True)


@lru_cache(maxsize=16)
def _weight_kernel(T: Any, tile: Tile) -> Any:
    BM, BN, BK, TM, TN = tile
    NT, MS, NS = tile.threads, BM // TM, BN // TN
    RS = NT // BK  # rows that are loaded at once
    zero = T(0)
    accumulate = accumulator(T, tile)

    def conv_weight_kernel(x: Any, y: Any, w: Any, plan: Any, split_step: int) -> None:
        """w = sum over images and positions of y*x; rows are output channels, columns (input channel, tap)."""
        yt = cuda.shared.array((BK, BM), T)
        xt = cuda.shared.array((BK, BN), T)
        tap = cuda.shared.array((4, BN), "int64")
        sums = cuda.local.array((TM, TN), T)
        M, columns, positions, part = plan[0], plan[1], plan[2], plan[3]
        t = cuda.threadIdx.x
        ty = t // NS
        tx = t - ty * NS
        rest = cuda.blockIdx.x // plan[5]
        n0 = (cuda.blockIdx.x - rest * plan[5]) * BN
        group = rest // plan[4]
        m0 = (rest - group * plan[4]) * BM
        first = cuda.blockIdx.y * part
        last = min(first + part, positions)
        XD, XH, XW = plan[6], plan[7], plan[8]
        PD, PH, PW = plan[9], plan[10], plan[11]
        s = HEADER
        x_group = plan[s] + group * plan[19] * plan[s + 2]
        y_group = plan[s + 6] + (group * M + m0) * plan[s + 8]
        y_row = plan[s + 8]
        entries = HEADER + PHASE
        for e in range(t, BN, NT):
            at = entries + min(n0 + e, columns - 1) * ENTRY
            for i in range(4):
                tap[i, e] = plan[at + 1 + i]
        for i in range(TM):
            for j in range(TN):
                sums[i, j] = zero
        cuda.syncthreads()
        k = t % BK
        row = t // BK
        for k0 in range(first, last, BK):
            # the position whose column this thread loads
            position = k0 + k
            live = position < last
            image, pd, ph, pw = unravel(position, PD, PH, PW)
            y0 = y_group + image * plan[s + 7] + pd * plan[s + 9] + ph * plan[s + 10] + pw * plan[s + 11]
            d0 = pd * plan[12] - plan[15]
            h0 = ph * plan[13] - plan[16]
            v0 = pw * plan[14] - plan[17]
            x0 = x_group + image * plan[s + 1] + d0 * plan[s + 3] + h0 * plan[s + 4] + v0 * plan[s + 5]
            for m in range(row, BM, RS):
                yt[k, m] = y[y0 + m * y_row] if live and m0 + m < M else zero
            for n in range(row, BN, RS):
                value = zero
                if live and n0 + n < columns:
                    d, h, v = d0 + tap[1, n], h0 + tap[2, n], v0 + tap[3, n]
                    if d >= 0 and d < XD and h >= 0 and h < XH and v >= 0 and v < XW:
                        value = x[x0 + tap[0, n]]
                xt[k, n] = value
            cuda.syncthreads()
            accumulate(yt, xt, ty, tx, sums)
            cuda.syncthreads()
        for j in range(TN):
            n = n0 + tx + j * NS
            if n < columns:
                w0 = plan[s + 12] + cuda.blockIdx.y * split_step + plan[entries + n * ENTRY]
                for i in range(TM):
                    m = m0 + ty + i * MS
                    if m < M:
                        w[w0 + (group * M + m) * plan[s + 13]] = sums[i, j]

    return jit(conv_weight_kernel)


def conv_weight(x: DeviceArray, y: DeviceArray, w: DeviceArray, pod: tuple[int, ...], algorithm: int = 0) -> None:
    """w (O,C/groups,K) = the adjoint of conv in w, of x (N,C,X) and y (N,O,P)."""
    memory = flats(x, y, w)
    if not w.size:
        return
    if not x.size or not y.size:
        fill(w, 0.0)
        return
    g = split_pod(pod)
    T = scalar_type(w)
    tile = weight_tile_for(T, g.out_channels // g.groups)
    layouts = volume(x), volume(y)
    plan = weight_plan(pod, *layouts, volume(w), tile.m, tile.n, _LEAST_PART)
    kernel = _weight_kernel(T, tile)
    if plan.splits == 1:
        launch(kernel, (plan.blocks, 1), tile.threads, *memory, plan.table, 0)
        return
    parts = empty((plan.splits, *w.shape), w.dtype)
    plan = weight_plan(pod, *layouts, volume(parts[0]), tile.m, tile.n, _LEAST_PART)
    launch(kernel, (plan.blocks, plan.splits), tile.threads, *memory[:2], flat(parts), plan.table, w.size)
    sum_over(parts, w.reshape(1, *w.shape))
