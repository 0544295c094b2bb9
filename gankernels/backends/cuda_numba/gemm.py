"""What the matrix products share: the tile of a block, and the choice of it.

C(M, N) = A(M, K) B(K, N) is cut into tiles of M x N for each block; A and B pass through shared memory in slices of
`depth` along K, and every thread keeps `rows` x `columns` sums in registers. N is always the long axis (positions and
images of a convolution), so tiles differ in M, the channels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.shim import SIMULATED

__all__ = ["Tile", "tile_for"]


class Tile(NamedTuple):
    """Extents of a block's tile, and of a thread's part of it; `threads` is also the number of columns."""

    m: int
    n: int
    depth: int
    rows: int
    columns: int

    @property
    def threads(self) -> int:
        return self.m // self.rows * (self.n // self.columns)


# For few output channels a thread holds them all and reads little of B; more than 32 sums of double would not fit.
_TILES = (Tile(8, 128, 8, 4, 2), Tile(16, 128, 8, 8, 2), Tile(32, 128, 8, 8, 4), Tile(64, 128, 8, 8, 8))
_SIMULATED = Tile(4, 8, 8, 2, 2)


@lru_cache(maxsize=256)
def tile_for(T: Any, m: int) -> Tile:
    """The smallest tile with room for m rows, or the largest that there is."""
    if SIMULATED:
        return _SIMULATED
    usable = _TILES if T is np.float32 else _TILES[:3]
    return next((tile for tile in usable if tile.m >= m), usable[-1])
