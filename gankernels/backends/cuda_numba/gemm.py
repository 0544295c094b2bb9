"""What the matrix products share: the tile of a block, and the choice of it.

C(M, N) = A(M, K) B(K, N) is cut into tiles of M x N for each block; A and B pass through shared memory in slices of
`depth` along K, and every thread keeps `rows` x `columns` sums in registers. N is always the long axis (positions and
images of a convolution). An element of C is one sum over K in order, whatever the tile.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.shim import SIMULATED, cuda, device

__all__ = ["Tile", "accumulator", "tile_for", "weight_tile_for"]


class Tile(NamedTuple):
    """Extents of a block's tile, and of a thread's part of it."""

    m: int
    n: int
    depth: int
    rows: int
    columns: int

    @property
    def threads(self) -> int:
        return self.m // self.rows * (self.n // self.columns)


# Smallest number of columns that a tile is worth taking for, and the tiles by rows. All have 128 threads, which divide
# the columns. With few rows a thread needs several columns, or it reads more than it computes; with few columns such
# tiles would leave most of a GPU idle. More than 32 sums of double would not fit into registers.
_FEW = (Tile(8, 128, 8, 4, 2), Tile(16, 128, 8, 8, 2), Tile(32, 128, 8, 8, 4), Tile(64, 128, 8, 8, 8))
_MANY = (Tile(8, 512, 8, 8, 4), Tile(16, 256, 8, 8, 4), Tile(32, 256, 8, 8, 8), Tile(64, 128, 8, 8, 8))
_MANY_COLUMNS = 1 << 16
# The columns of a weight gradient are (channel, tap), and each costs shared memory; slices are runs of positions, 64
# bytes of float.
_WEIGHT = tuple(tile._replace(depth=16) for tile in (Tile(8, 256, 8, 8, 2), *_FEW[1:]))
_SIMULATED = Tile(4, 16, 8, 2, 4)


def _fitting(tiles: tuple[Tile, ...], T: Any, m: int) -> Tile:
    """The smallest tile with room for m rows, or the largest that there is."""
    if SIMULATED:
        return _SIMULATED
    usable = [tile for tile in tiles if T is np.float32 or tile.rows * tile.columns <= 32]
    return next((tile for tile in usable if tile.m >= m), usable[-1])


@lru_cache(maxsize=1024)
def tile_for(T: Any, m: int, n: int) -> Tile:
    """The tile of a product of m rows and n columns."""
    return _fitting(_MANY if n >= _MANY_COLUMNS else _FEW, T, m)


@lru_cache(maxsize=256)
def weight_tile_for(T: Any, m: int) -> Tile:
    """The tile of the product that makes m output channels of a weight gradient."""
    return _fitting(_WEIGHT, T, m)


@lru_cache(maxsize=32)
def accumulator(T: Any, tile: Tile) -> Any:
    """The device function accumulate(a, b, ty, tx, sums): what a slice adds to the sums of a thread.

    a(depth, m) and b(depth, n) are in shared memory. The thread has the rows ty, ty + m/rows, ... and the columns tx,
    tx + n/columns, ...: its neighbours read what lies side by side.
    """
    TM, TN = tile.rows, tile.columns
    MS, NS, BK = tile.m // TM, tile.n // TN, tile.depth

    def accumulate(a: Any, b: Any, ty: int, tx: int, sums: Any) -> None:
        left = cuda.local.array(TM, T)
        right = cuda.local.array(TN, T)
        for k in range(BK):
            for i in range(TM):
                left[i] = a[k, ty + i * MS]
            for j in range(TN):
                right[j] = b[k, tx + j * NS]
            for i in range(TM):
                for j in range(TN):
                    sums[i, j] += left[i] * right[j]

    return device(accumulate, forceinline=True)
