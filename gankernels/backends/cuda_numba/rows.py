"""Rows picked by index (embedding) and the adjoint, in which every row of the table looks through all indices: sums run
in the order of the indices, without atomics.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cuda_numba.arrays import flats
from gankernels.backends.cuda_numba.launch import elements, launch, scalar_type, strides_of
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["gather_rows", "scatter_rows"]


@jit
def gather_rows_kernel(
    table: Any, index: Any, rows: Any, n: int, D: int, ot: int, tr: int, tc: int, oi: int, si: int, o: int, rr: int,
    rc: int,
) -> None:  # fmt: skip
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        m = i // D
        d = i - m * D
        rows[o + m * rr + d * rc] = table[ot + index[oi + m * si] * tr + d * tc]


@lru_cache(maxsize=2)
def _scatter_kernel(T: Any) -> Any:
    zero = T(0)

    def scatter_rows_kernel(
        rows: Any, index: Any, table: Any, n: int, D: int, M: int, o: int, rr: int, rc: int, oi: int, si: int, ot: int,
        tr: int, tc: int,
    ) -> None:  # fmt: skip
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            v = i // D
            d = i - v * D
            total = zero
            for m in range(M):
                if index[oi + m * si] == v:
                    total += rows[o + m * rr + d * rc]
            table[ot + v * tr + d * tc] = total

    return jit(scatter_rows_kernel)


def _layout(a: DeviceArray) -> tuple[int, ...]:
    origin, strides = strides_of(a)
    return (origin, *strides)


def gather_rows(table: DeviceArray, index: DeviceArray, rows: DeviceArray) -> None:
    """rows (M, D) = table (V, D) at index (M,)."""
    memory = flats(table, index, rows)
    if rows.size:
        layouts = (*_layout(table), *_layout(index), *_layout(rows))
        launch(gather_rows_kernel, *elements(rows.size), *memory, rows.size, rows.shape[1], *layouts)


def scatter_rows(rows: DeviceArray, index: DeviceArray, table: DeviceArray) -> None:
    """table (V, D): sums of the rows (M, D) with each index."""
    memory = flats(rows, index, table)
    if table.size:
        layouts = (*_layout(rows), *_layout(index), *_layout(table))
        launch(_scatter_kernel(scalar_type(table)), *elements(table.size), *memory, table.size, table.shape[1],
               rows.shape[0], *layouts)  # fmt: skip
