"""Selection by integer arrays: rows of a table, and their adjoint which adds duplicates in index order."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor
from gankernels.backends import backend_of
from gankernels.ops.common import axis_index, check_float, empty_like, same_device, to_host

__all__ = ["advanced_index", "embedding", "index_select"]


def _gather(table: Any, p: tuple[Any, int]) -> Any:
    rows, _ = p
    out = empty_like(table, (len(rows), table.shape[1]))
    backend_of(table).gather_rows(table, rows, out)
    return out


def _scatter(rows: Any, p: tuple[Any, int]) -> Any:
    where, count = p
    table = empty_like(rows, (count, rows.shape[1]))
    backend_of(rows).scatter_rows(rows, where, table)
    return table


_rows = Form("rows", table=_scatter, rows=_gather)


def _host_index(index: Any) -> Any:
    """The index as a NumPy array; one on a device is read, for it must be checked before a kernel follows it."""
    array = to_host(index.data) if isinstance(index, Tensor) else np.asarray(index)
    return array.astype(np.int64) if array.size == 0 and not hasattr(index, "dtype") else array  # [] is float64


def _positions(op: str, array: Any, count: int, table: Any) -> Any:
    """A flat int64 array of valid non-negative row numbers on the table's device."""
    if array.dtype.kind not in "iu":
        raise TypeError(f"{op}: the index must hold integers, got dtype {array.dtype}")
    flat = np.ascontiguousarray(array, dtype=np.int64).reshape(-1)
    if flat.size and (flat.min() < -count or flat.max() >= count):
        raise IndexError(f"{op}: index {int(flat.min())}..{int(flat.max())} is out of range for {count} rows")
    return backend_of(table).from_host(np.where(flat < 0, flat + count, flat))


def index_select(x: Tensor, dim: int, index: Any) -> Tensor:
    """The slices of x at the positions `index` (a 1-D integer array) along an axis; differentiable."""
    where = _host_index(index)
    if where.ndim != 1:
        raise ValueError(f"index_select: the index must have one axis, got shape {where.shape}")
    return _select("index_select", x, axis_index("index_select", dim, x.ndim), where)


def _select(op: str, x: Tensor, axis: int, index: Any) -> Tensor:
    where = _positions(op, _host_index(index), x.shape[axis], x.data)
    order = [axis, *(i for i in range(x.ndim) if i != axis)]
    rest = tuple(x.shape[i] for i in order[1:])
    table = x.permute(*order).reshape(x.shape[axis], prod(rest))
    picked = _rows.open("rows", (where, x.shape[axis]), table=table).reshape(len(where), *rest)
    return picked.permute(*np.argsort(order).tolist())


def advanced_index(x: Tensor, key: Any) -> Tensor:
    """x[key] with integer or boolean arrays, as NumPy reads it."""
    parts: tuple[Any, ...] = tuple(
        p if p is None or p is Ellipsis or isinstance(p, (slice, int, np.integer)) else _host_index(p)
        for p in (key if isinstance(key, tuple) else (key,))
    )
    for p in parts:
        if hasattr(p, "dtype") and p.dtype.kind not in "iub":
            raise IndexError(f"index: an index must hold integers or bool, got dtype {p.dtype}")
    axis = len(parts) - 1
    if any(not (isinstance(p, slice) and p == slice(None)) for p in parts[:-1]) or not hasattr(parts[-1], "dtype"):
        return _general_index(x, parts)
    chosen = parts[-1]
    if axis >= x.ndim:
        raise IndexError(f"index: {len(parts)} indices for a tensor of shape {x.shape}")
    if chosen.dtype == np.bool_:
        if chosen.shape != x.shape[axis : axis + chosen.ndim]:
            raise IndexError(
                f"index: a mask of shape {chosen.shape} does not fit axes {x.shape[axis:]} of shape {x.shape}"
            )
        merged = prod(chosen.shape)
        x = x.reshape(*x.shape[:axis], merged, *x.shape[axis + chosen.ndim :])
        chosen = np.flatnonzero(chosen)
    picked = _select("index", x, axis, chosen.reshape(-1))
    return picked.reshape(*x.shape[:axis], *chosen.shape, *x.shape[axis + 1 :])


def _general_index(x: Tensor, key: tuple[Any, ...]) -> Tensor:
    """Any other mixture: NumPy works out which elements it names, and they are gathered one by one."""
    try:
        named = np.asarray(np.arange(prod(x.shape)).reshape(x.shape)[key])
    except IndexError as error:
        raise IndexError(f"index: {error} (shape {x.shape})") from None
    table = x.reshape(prod(x.shape), 1)
    where = backend_of(x.data).from_host(named.reshape(-1))
    return _rows.open("rows", (where, prod(x.shape)), table=table).reshape(named.shape)


def embedding(index: Any, weight: Tensor) -> Tensor:
    """Rows of weight (V, D) at an integer array of any shape S: (*S, D).

    Raises
    ------
    IndexError
        If an index is outside 0..V-1.
    """
    check_float("embedding", weight=weight)
    if weight.ndim != 2:
        raise ValueError(f"embedding: weight must have two axes (V, D), got shape {weight.shape}")
    array = _host_index(index)
    if array.size and array.dtype.kind in "iu" and array.min() < 0:
        raise IndexError(f"embedding: index {int(array.min())} is negative")
    if isinstance(index, Tensor):
        same_device("embedding", index=index, weight=weight)
    where = _positions("embedding", array, weight.shape[0], weight.data)
    return _rows.open("rows", (where, weight.shape[0]), table=weight).reshape(*array.shape, weight.shape[1])
