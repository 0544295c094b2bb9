"""Element by element: one kernel for each number of operands, closed over the function of the element."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import flat, upload
from gankernels.backends.cuda_numba.chain import member
from gankernels.backends.cuda_numba.functions import (
    binary_function,
    compare_function,
    gate_function,
    unary_function,
    unary_name,
)
from gankernels.backends.cuda_numba.launch import elements, launch, locate, loop_of, scalar_type
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray
from gankernels.backends.opcodes import COMPARE

__all__ = ["binary", "compare", "copy", "copy_parts", "fill", "fit", "gate", "run", "select", "unary"]


@lru_cache(maxsize=256)
def _unary_kernel(T: Any, name: str) -> Any:
    function = unary_function(name, T)

    def unary_kernel(x: Any, y: Any, loop: Any, p: float, q: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 2, 2)] = function(x[locate(i, loop, 1, 2)], p, q)

    return member(jit(unary_kernel), f"unary {name}")


@lru_cache(maxsize=64)
def _binary_kernel(T: Any, op: str) -> Any:
    function = compare_function(op) if op in COMPARE else binary_function(op, T)

    def binary_kernel(a: Any, b: Any, y: Any, loop: Any) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 3, 3)] = function(a[locate(i, loop, 1, 3)], b[locate(i, loop, 2, 3)])

    return member(jit(binary_kernel), f"{'compare' if op in COMPARE else 'binary'} {op}")


@lru_cache(maxsize=4)
def _gate_kernel(T: Any, is_zero: bool) -> Any:
    function = gate_function(T, is_zero)

    def gate_kernel(reference: Any, x: Any, y: Any, loop: Any, slope: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 3, 3)] = function(reference[locate(i, loop, 1, 3)], x[locate(i, loop, 2, 3)], slope)

    return member(jit(gate_kernel), "gate_zero" if is_zero else "gate")


@jit
def select_kernel(condition: Any, a: Any, b: Any, y: Any, loop: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        if condition[locate(i, loop, 1, 4)]:
            y[locate(i, loop, 4, 4)] = a[locate(i, loop, 2, 4)]
        else:
            y[locate(i, loop, 4, 4)] = b[locate(i, loop, 3, 4)]


member(select_kernel, "select")


@jit
def copy_kernel(x: Any, y: Any, loop: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        y[locate(i, loop, 2, 2)] = x[locate(i, loop, 1, 2)]


member(copy_kernel, "copy")


@jit
def copy_parts_kernel(
    y: Any, table: Any, n: int, x0: Any, x1: Any, x2: Any, x3: Any, x4: Any, x5: Any, x6: Any, x7: Any
) -> None:
    """`table` has a row for each x: where its elements begin among the n, in x and in y, and two axes (_part)."""
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        part = 0
        while part < _PARTS - 1 and i >= table[(part + 1) * _PART]:
            part += 1
        row = part * _PART
        j = i - table[row]
        outer = j // table[row + 3]
        inner = j - outer * table[row + 3]
        at = table[row + 1] + outer * table[row + 4] + inner * table[row + 5]
        if part < 4:
            v = (x0[at] if part == 0 else x1[at]) if part < 2 else (x2[at] if part == 2 else x3[at])
        else:
            v = (x4[at] if part == 4 else x5[at]) if part < 6 else (x6[at] if part == 6 else x7[at])
        y[table[row + 2] + outer * table[row + 6] + inner * table[row + 7]] = v


@jit
def fill_kernel(y: Any, loop: Any, value: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        y[locate(i, loop, 1, 1)] = value


member(fill_kernel, "fill")


def fit(a: DeviceArray, y: DeviceArray) -> DeviceArray:
    """a as a view of y's shape."""
    return a if type(a) is not DeviceArray or a.shape == y.shape else a.broadcast_to(y.shape)


def run(kernel: Any, arrays: tuple[DeviceArray, ...], *parameters: Any) -> None:
    """Launch a kernel of elements: its arguments are the arrays of one shape, of which it writes the last, their loop
    and the parameters.
    """
    memory = [flat(a) for a in arrays]
    if not arrays[-1].size:
        return
    loop = loop_of(*arrays)
    launch(kernel, *elements(loop[0]), *memory, loop, *parameters)


def unary(op: str, x: DeviceArray, y: DeviceArray, p: float = 0.0, q: float = 0.0) -> None:
    """y = op(x; p, q) for every element."""
    run(_unary_kernel(scalar_type(y), unary_name(op, float(p))), (x, y), float(p), float(q))


def binary(op: str, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y = op(a, b) for every element; a and b are broadcast to y's shape."""
    run(_binary_kernel(scalar_type(y), op), (fit(a, y), fit(b, y), y))


def compare(op: str, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y (bool) = op(a, b) for every element; a and b are broadcast to y's shape."""
    run(_binary_kernel(scalar_type(a), op), (fit(a, y), fit(b, y), y))


def gate(reference: DeviceArray, x: DeviceArray, y: DeviceArray, slope: float) -> None:
    """y = x where reference > 0, else slope*x."""
    run(_gate_kernel(scalar_type(y), slope == 0.0), (reference, x, y), float(slope))


def select(condition: DeviceArray, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y = a where condition (bool) holds, else b."""
    run(select_kernel, (condition, a, b, y))


def copy(x: DeviceArray, y: DeviceArray) -> None:
    """y = x for every element; x is broadcast to y's shape."""
    run(copy_kernel, (fit(x, y), y))


_PARTS, _PART = 8, 8  # arrays of one launch, numbers of a row


@lru_cache(maxsize=1024)
def _table(rows: tuple[tuple[int, ...], ...]) -> Any:
    """Where each part begins, and the parts; those that are missing begin at the end."""
    found = np.zeros((_PARTS, _PART), np.int64)
    begin = 0
    for i, (n, *row) in enumerate(rows):
        found[i] = begin, *row
        begin += n
    found[len(rows) :, 0] = begin
    return upload(found.reshape(-1))


def _part(x: DeviceArray, y: DeviceArray, whole: DeviceArray) -> tuple[int, ...] | None:
    """(n, first element in x and in `whole`, inner extent, outer and inner stride of x, of y); None of more axes."""
    n, ox, _, *axes = loop_of(x, y)
    if len(axes) > 6:
        return None
    extent, sx, sy, _, tx, ty = (*axes, 1, 0, 0)[:6]
    return n, ox, (y.offset - whole.offset) // y.itemsize, extent, tx, sx, ty, sy


def copy_parts(sources: Sequence[DeviceArray], targets: Sequence[DeviceArray], whole: DeviceArray) -> None:
    """targets[i] = sources[i], each target a view of the row-major `whole`: several in one launch."""
    found = []
    for x, y in zip(sources, targets, strict=True):
        part = _part(x, y, whole) if x.size else None
        if part is not None:
            found.append((flat(x), part))
        else:
            copy(x, y)
    for at in range(0, len(found), _PARTS):
        memory, rows = zip(*found[at : at + _PARTS], strict=True)
        n = sum(row[0] for row in rows)
        memory += memory[:1] * (_PARTS - len(memory))  # never read
        launch(copy_parts_kernel, *elements(n), flat(whole), _table(rows), n, *memory)


def fill(y: DeviceArray, value: float) -> None:
    """y = value for every element."""
    memory = flat(y)
    if y.size:
        loop = loop_of(y)
        launch(fill_kernel, *elements(loop[0]), memory, loop, y.dtype.type(value).item())
