"""Chains: elementwise kernels on small arrays as one launch of a kernel that reads from a table what to do.

A step of a small network is hundreds of kernels on a few thousand elements, each of which takes less time than its
launch. Element i of every instruction of a chain belongs to the same thread, which does one instruction after the
other: an instruction may use what one before it wrote, as long as both find element i at the same address
(fusing.py sees to it). A chain of at most SHORT elements is one block, which waits after every instruction: there any
instruction may use what any other wrote, and sums of few elements have a place too. The functions are those of the
kernels that a chain replaces, and so are the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.arrays import address_of, is_memory, span, upload
from gankernels.backends.cuda_numba.functions import (
    UNARY_NAMES,
    binary_function,
    compare_function,
    gate_function,
    unary_function,
)
from gankernels.backends.cuda_numba.launch import THREADS, Start, elements, start
from gankernels.backends.cuda_numba.shim import cuda, device, jit
from gankernels.backends.opcodes import BINARY, COMPARE

__all__ = ["SHORT", "Instruction", "Operand", "decoded", "kernel", "member", "prepared"]

Ints = tuple[int, ...]
SHORT = 8 * THREADS  # elements of an instruction that one block does
_MOST_ELEMENTS = 1 << 17  # as many as a GPU has threads; more of them deserve a kernel without a table
_AXES, _OPERANDS = 4, 4  # of an instruction, its output among the operands
_FLAGS = 1 << 8  # added to the code of an operation whose first operand, or whose output, is an array of bool
_ACTIVATIONS = ("relu", "leaky_relu")
_NAMES = (
    *(f"unary {op}" for op in UNARY_NAMES), *(f"binary {op}" for op in BINARY), *(f"compare {op}" for op in COMPARE),
    *(f"add {op}" for op in _ACTIVATIONS), *(f"affine {op}" for op in _ACTIVATIONS), "gate", "gate_zero", "select",
    "copy", "fill", "multiply_add", "lerp_near", "lerp_far", "sum",
)  # fmt: skip
_CODES = {name: code for code, name in enumerate(_NAMES)}


class Operand(NamedTuple):
    """Where an instruction finds its elements: addresses and strides in bytes, strides from the innermost axis out."""

    low: int
    high: int
    first: int
    strides: Ints
    itemsize: int


class Instruction(NamedTuple):
    """One operation on n elements; the last operand is the output. Extents from the innermost axis out."""

    op: str
    dtype: Any
    n: int
    extents: Ints
    operands: tuple[Operand, ...]
    p: float = 0.0
    q: float = 0.0
    terms: tuple[int, int] = (1, 0)  # of a sum: how many for each element, and how far apart in bytes


# ---- which kernels can be part of a chain --------------------------------------------------------------------------
_members: dict[Any, str] = {}


def member(made: Any, op: str) -> Any:
    """The kernel, known by its operation; its arguments are those of pointwise.run, at most two of them numbers."""
    _members[made] = op
    return made


def decoded(launched: Any, arguments: Sequence[Any]) -> Instruction | None:
    """What a launch of a kernel does, if it can be part of a chain."""
    if launched not in _members:
        return None
    op = _members[launched]
    memory = [a for a in arguments if is_memory(a)]
    dtypes = {m.dtype.type for m in memory} - {np.bool_}
    if len(dtypes) != 1 or not dtypes <= {np.float32, np.float64}:  # sums of large arrays pass through double
        return None
    (T,) = dtypes
    loop, *numbers = arguments[len(memory) :]
    terms = (1, 0)
    if op == "sum":
        (total, _, *reduced), chunks, _, width = numbers
        if chunks > 1 or width < THREADS or len(reduced) > 2 or loop[0] > SHORT:
            return None
        terms, numbers = (total, reduced[-1] * memory[0].dtype.itemsize), []
    count = len(memory)
    axes = [loop[i : i + count + 1] for i in range(count + 1, len(loop), count + 1)]
    if loop[0] > _MOST_ELEMENTS or len(axes) > _AXES:
        return None
    operands = []
    for i, m in enumerate(memory):
        size, low = m.dtype.itemsize, address_of(m)
        strides = tuple(axis[i + 1] * size for axis in axes)
        operands.append(Operand(low, low + m.size * size, low + loop[i + 1] * size, strides, size))
    p, q = (*numbers, 0.0, 0.0)[:2]
    return Instruction(op, T, loop[0], tuple(axis[0] for axis in axes), tuple(operands), p, q, terms)


# ---- the kernel ----------------------------------------------------------------------------------------------------
def _functions(T: Any) -> dict[str, Any]:
    """f(a, b, c, p, q) by operation; a condition is 0 or 1."""
    zero, one = T(0), T(1)

    def of_one(f: Any) -> Any:
        return device(lambda a, b, c, p, q: T(f(a, p, q)))

    def of_two(f: Any) -> Any:
        return device(lambda a, b, c, p, q: T(f(a, b)))

    def condition(f: Any) -> Any:
        return device(lambda a, b, c, p, q: one if f(a, b) else zero)

    def gated(f: Any) -> Any:
        return device(lambda a, b, c, p, q: f(a, b, p))

    def sum_under(f: Any) -> Any:
        return device(lambda a, b, c, p, q: f(a + b, p, q))

    def affine_under(f: Any) -> Any:
        return device(lambda a, b, c, p, q: f(a * b + c, p, q))

    return {
        **{f"unary {op}": of_one(unary_function(op, T)) for op in UNARY_NAMES},
        **{f"binary {op}": of_two(binary_function(op, T)) for op in BINARY},
        **{f"compare {op}": condition(compare_function(op)) for op in COMPARE},
        "gate": gated(gate_function(T, False)),
        "gate_zero": gated(gate_function(T, True)),
        "select": device(lambda a, b, c, p, q: b if a != zero else c),
        "copy": device(lambda a, b, c, p, q: a),
        "sum": device(lambda a, b, c, p, q: a),
        "fill": device(lambda a, b, c, p, q: T(p)),
        "multiply_add": device(lambda a, b, c, p, q: a * b + c),
        **{f"add {op}": sum_under(unary_function(op, T)) for op in _ACTIVATIONS},
        **{f"affine {op}": affine_under(unary_function(op, T)) for op in _ACTIVATIONS},
        "lerp_near": device(lambda a, b, c, p, q: a + (b - a) * T(p)),
        "lerp_far": device(lambda a, b, c, p, q: b - (b - a) * T(p)),
    }


def _choice(functions: Sequence[Any], first: int) -> Any:
    """f(code, a, b, c, p, q): of the functions with codes from `first` on the one with this code, in few steps."""
    if len(functions) == 1:
        (only,) = functions
        return device(lambda code, a, b, c, p, q: only(a, b, c, p, q))
    half = len(functions) // 2
    middle = first + half
    low, high = _choice(functions[:half], first), _choice(functions[half:], middle)
    return device(lambda code, a, b, c, p, q: low(code, a, b, c, p, q) if code < middle else high(code, a, b, c, p, q))


_FIRST = 6 + _AXES  # where the operands begin in a row
_ROW = _FIRST + _OPERANDS * (1 + _AXES)  # numbers of an instruction: see _row


def _row(instruction: Instruction, base: int) -> list[int]:
    """Code, inputs, n, axes, terms, their distance; extents; of each operand its first element from `base` on and its
    strides, in elements.
    """
    extents, operands = instruction.extents, instruction.operands
    flagged = operands[0].itemsize == 1 or operands[-1].itemsize == 1
    terms, apart = instruction.terms
    row = [_CODES[instruction.op] + _FLAGS * flagged, len(operands) - 1, instruction.n, len(extents)]
    row += [terms, apart // operands[0].itemsize]
    row += [*extents, *(1,) * (_AXES - len(extents))]
    missing = Operand(0, 0, base, (0,) * len(extents), 1)
    for operand in (*operands[:-1], *(missing,) * (_OPERANDS - len(operands)), operands[-1]):
        row += [(operand.first - base) // operand.itemsize, *(s // operand.itemsize for s in operand.strides)]
        row += [0] * (_AXES - len(extents))
    return row


@lru_cache(maxsize=2)
def kernel(T: Any) -> Any:
    """The kernel of chains in one dtype."""
    functions = _functions(T)
    apply = _choice([functions[name] for name in _NAMES], 0)
    zero = T(0)
    select, sum_ = _CODES["select"], _CODES["sum"]

    def chain_kernel(values: Any, flags: Any, table: Any, numbers: Any, count: int) -> None:
        """`values` and `flags` are the same memory as elements and as bool; `numbers` are p and q."""
        for k in range(count):
            row = k * _ROW
            code = table[row]
            flagged = code >= _FLAGS
            if flagged:
                code -= _FLAGS
            p = numbers[2 * k]
            q = numbers[2 * k + 1]
            inputs = table[row + 1]
            axes = table[row + 3]
            first = row + _FIRST
            for i in range(cuda.grid(1), table[row + 2], cuda.gridsize(1)):
                at_a = table[first]
                at_b = table[first + 1 + _AXES]
                at_c = table[first + 2 + 2 * _AXES]
                at_y = table[first + 3 + 3 * _AXES]
                rest = i
                for axis in range(axes):
                    j = rest
                    if axis < axes - 1:
                        rest = j // table[row + 6 + axis]
                        j -= rest * table[row + 6 + axis]
                    at_a += j * table[first + 1 + axis]
                    at_b += j * table[first + 2 + _AXES + axis]
                    at_c += j * table[first + 3 + 2 * _AXES + axis]
                    at_y += j * table[first + 4 + 3 * _AXES + axis]
                a = zero
                if flagged and code == select:
                    a = T(1) if flags[at_a] else zero
                elif code == sum_:
                    total = 0.0
                    for r in range(table[row + 4]):
                        total += np.float64(values[at_a + r * table[row + 5]])
                    a = T(total)
                elif inputs > 0:
                    a = values[at_a]
                b = values[at_b] if inputs > 1 else zero
                c = values[at_c] if inputs > 2 else zero
                v = apply(code, a, b, c, p, q)
                if flagged and code != select:
                    flags[at_y] = v != zero
                else:
                    values[at_y] = v
            if cuda.gridDim.x == 1:
                cuda.syncthreads()

    return jit(chain_kernel)


def prepared(instructions: Sequence[Instruction], memory: Sequence[Any]) -> tuple[Start, tuple[Any, ...]]:
    """The launch of a chain and its arguments; `memory` is that of the kernels which it replaces."""
    T = instructions[0].dtype
    operands = [o for i in instructions for o in i.operands]
    base = min(o.low for o in operands) // 8 * 8
    bounds = base, max(o.high for o in operands)
    table = upload(np.array([_row(i, base) for i in instructions], np.int64).reshape(-1))
    numbers = upload(np.array([(i.p, i.q) for i in instructions], np.float64).reshape(-1))
    largest = max(i.n for i in instructions)
    ready = start(kernel(T), *((1, THREADS) if largest <= SHORT else elements(largest)))
    return ready, (span(*bounds, np.dtype(T), memory), span(*bounds, np.dtype(np.bool_), memory), table, numbers,
                   len(instructions))  # fmt: skip
