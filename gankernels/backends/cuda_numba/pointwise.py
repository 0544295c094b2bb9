"""Element by element: one kernel for each number of operands, closed over the function of the element."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cuda_numba.arrays import flat
from gankernels.backends.cuda_numba.functions import binary_function, compare_function, gate_function, unary_function
from gankernels.backends.cuda_numba.launch import elements, launch, locate, loop_of, scalar_type
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray

__all__ = ["binary", "compare", "copy", "fill", "gate", "select", "unary"]


@lru_cache(maxsize=256)
def _unary_kernel(function: Any) -> Any:
    def unary_kernel(x: Any, y: Any, loop: Any, p: float, q: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 2, 2)] = function(x[locate(i, loop, 1, 2)], p, q)

    return jit(unary_kernel)


@lru_cache(maxsize=64)
def _binary_kernel(function: Any) -> Any:
    def binary_kernel(a: Any, b: Any, y: Any, loop: Any) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 3, 3)] = function(a[locate(i, loop, 1, 3)], b[locate(i, loop, 2, 3)])

    return jit(binary_kernel)


@lru_cache(maxsize=8)
def _gate_kernel(function: Any) -> Any:
    def gate_kernel(reference: Any, x: Any, y: Any, loop: Any, slope: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            y[locate(i, loop, 3, 3)] = function(reference[locate(i, loop, 1, 3)], x[locate(i, loop, 2, 3)], slope)

    return jit(gate_kernel)


@jit
def select_kernel(condition: Any, a: Any, b: Any, y: Any, loop: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        if condition[locate(i, loop, 1, 4)]:
            y[locate(i, loop, 4, 4)] = a[locate(i, loop, 2, 4)]
        else:
            y[locate(i, loop, 4, 4)] = b[locate(i, loop, 3, 4)]


@jit
def copy_kernel(x: Any, y: Any, loop: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        y[locate(i, loop, 2, 2)] = x[locate(i, loop, 1, 2)]


@jit
def fill_kernel(y: Any, loop: Any, value: Any) -> None:
    for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
        y[locate(i, loop, 1, 1)] = value


def _fit(a: DeviceArray, y: DeviceArray) -> DeviceArray:
    return a if type(a) is not DeviceArray or a.shape == y.shape else a.broadcast_to(y.shape)


def _run(kernel: Any, arrays: tuple[DeviceArray, ...], *parameters: Any) -> None:
    memory = [flat(a) for a in arrays]
    if not arrays[-1].size:
        return
    loop = loop_of(*arrays)
    launch(kernel, *elements(loop[0]), *memory, loop, *parameters)


def unary(op: str, x: DeviceArray, y: DeviceArray, p: float = 0.0, q: float = 0.0) -> None:
    """y = op(x; p, q) for every element."""
    function = unary_function(op, scalar_type(y), float(p))
    _run(_unary_kernel(function), (x, y), float(p), float(q))


def binary(op: str, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y = op(a, b) for every element; a and b are broadcast to y's shape."""
    _run(_binary_kernel(binary_function(op, scalar_type(y))), (_fit(a, y), _fit(b, y), y))


def compare(op: str, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y (bool) = op(a, b) for every element; a and b are broadcast to y's shape."""
    _run(_binary_kernel(compare_function(op)), (_fit(a, y), _fit(b, y), y))


def gate(reference: DeviceArray, x: DeviceArray, y: DeviceArray, slope: float) -> None:
    """y = x where reference > 0, else slope*x."""
    _run(_gate_kernel(gate_function(scalar_type(y), slope == 0.0)), (reference, x, y), float(slope))


def select(condition: DeviceArray, a: DeviceArray, b: DeviceArray, y: DeviceArray) -> None:
    """y = a where condition (bool) holds, else b."""
    _run(select_kernel, (condition, a, b, y))


def copy(x: DeviceArray, y: DeviceArray) -> None:
    """y = x for every element; x is broadcast to y's shape."""
    _run(copy_kernel, (_fit(x, y), y))


def fill(y: DeviceArray, value: float) -> None:
    """y = value for every element."""
    memory = flat(y)
    if y.size:
        loop = loop_of(y)
        launch(fill_kernel, *elements(loop[0]), memory, loop, y.dtype.type(value).item())
