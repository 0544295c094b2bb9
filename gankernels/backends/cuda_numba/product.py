"""c(B,M,N) = a(B,M,K) b(B,K,N) with any strides: tiles in shared memory, sums in registers."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cuda_numba.arrays import flats
from gankernels.backends.cuda_numba.gemm import Tile, accumulator, tile_for
from gankernels.backends.cuda_numba.launch import ceil_div, launch, scalar_type, strides_of
from gankernels.backends.cuda_numba.pointwise import fill
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["matmul"]


@lru_cache(maxsize=16)
def _kernel(T: Any, tile: Tile) -> Any:
    BM, BN, BK, TM, TN = tile
    NT, MS, NS = tile.threads, BM // TM, BN // TN
    zero = T(0)
    accumulate = accumulator(T, tile)

    def matmul_kernel(a: Any, b: Any, c: Any, extents: Any, sa: Any, sb: Any, sc: Any) -> None:
        """extents: M, N, K, blocks along N, blocks along M; layouts: origin, batch, row, column."""
        at = cuda.shared.array((BK, BM), T)
        bt = cuda.shared.array((BK, BN), T)
        sums = cuda.local.array((TM, TN), T)
        M, N, K = extents[0], extents[1], extents[2]
        t = cuda.threadIdx.x
        ty = t // NS
        tx = t - ty * NS
        rest = cuda.blockIdx.x // extents[3]
        n0 = (cuda.blockIdx.x - rest * extents[3]) * BN
        batch = rest // extents[4]
        m0 = (rest - batch * extents[4]) * BM
        a0, b0, c0 = sa[0] + batch * sa[1], sb[0] + batch * sb[1], sc[0] + batch * sc[1]
        for i in range(TM):
            for j in range(TN):
                sums[i, j] = zero
        for k0 in range(0, K, BK):
            for e in range(t, BM * BK, NT):
                # neighbouring threads read neighbours in memory
                if sa[3] == 1:
                    m, k = e // BK, e % BK
                else:
                    m, k = e % BM, e // BM
                inside = m0 + m < M and k0 + k < K
                at[k, m] = a[a0 + (m0 + m) * sa[2] + (k0 + k) * sa[3]] if inside else zero
            for e in range(t, BN * BK, NT):
                if sb[3] == 1:
                    n, k = e % BN, e // BN
                else:
                    n, k = e // BK, e % BK
                inside = n0 + n < N and k0 + k < K
                bt[k, n] = b[b0 + (k0 + k) * sb[2] + (n0 + n) * sb[3]] if inside else zero
            cuda.syncthreads()
            accumulate(at, bt, ty, tx, sums)
            cuda.syncthreads()
        for i in range(TM):
            m = m0 + ty + i * MS
            for j in range(TN):
                n = n0 + tx + j * NS
                if m < M and n < N:
                    c[c0 + m * sc[2] + n * sc[3]] = sums[i, j]

    return jit(matmul_kernel)


def matmul(a: DeviceArray, b: DeviceArray, c: DeviceArray, precision: int = 0) -> None:
    """c (B, M, N) = a (B, M, K) @ b (B, K, N), in the arithmetic of the dtype whatever precision would do."""
    if type(c) is DeviceArray and c.size and c.shape[1] > c.shape[2]:  # the long axis along N: transpose all three
        a, b, c = b.transpose(0, 2, 1), a.transpose(0, 2, 1), c.transpose(0, 2, 1)
    memory = flats(a, b, c)
    if not c.size:
        return
    B, M, N = c.shape
    K = a.shape[2]
    if not K:
        fill(c, 0.0)
        return
    tile = tile_for(scalar_type(c), M, N)
    along_n, along_m = ceil_div(N, tile.n), ceil_div(M, tile.m)
    layouts = [(o, *s) for o, s in map(strides_of, (a, b, c))]
    extents = (M, N, K, along_n, along_m)
    launch(_kernel(scalar_type(c), tile), along_n * along_m * B, tile.threads, *memory, extents, *layouts)
