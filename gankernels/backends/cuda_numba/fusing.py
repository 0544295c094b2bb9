"""Which recorded launches become chains: an elementwise kernel joins the earliest chain that it may move to.

It may pass kernels that touch none of its memory, and join a chain of several blocks whose instructions touch its
memory at the same address for every element, or only read what it reads; in a chain of one block they may do anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from gankernels.backends.cuda_numba import arrays, chain
from gankernels.backends.cuda_numba.launch import merged

__all__ = ["Group", "grouped"]

_WINDOW = 48  # groups that a kernel may pass on its way forward: what is tried, and for how long
_APART, _ALIKE, _CONFLICT = range(3)


class _Use(NamedTuple):
    low: int
    high: int
    is_written: bool
    place: tuple[Any, ...] | None  # equal ones: the same address for every element; None: unknown


def _kind(instruction: chain.Instruction | None) -> tuple[Any, bool] | None:
    """Of chains: their dtype, and whether they are one block."""
    return None if instruction is None else (instruction.dtype, instruction.n <= chain.SHORT)


class Group:
    """Launches, by number, that are one chain, or a single one of any other kernel (`kind` is None)."""

    def __init__(self, launches: list[int], uses: Sequence[_Use], instruction: chain.Instruction | None) -> None:
        self.launches, self.uses = launches, list(uses)
        self.instructions = [] if instruction is None else [instruction]
        self.kind = _kind(instruction)

    def relation(self, uses: Iterable[_Use]) -> int:
        """Of what is here to what comes later."""
        found = _APART
        for later in uses:
            for here in self.uses:
                if here.low < later.high and later.low < here.high and (here.is_written or later.is_written):
                    if here.place is None or here.place != later.place:
                        return _CONFLICT
                    found = _ALIKE
        return found


def _place(operand: chain.Operand, extents: tuple[int, ...]) -> tuple[Any, ...]:
    """Address of the first element, and strides and extents from the innermost axis out; the last extent tells none."""
    axes = list(zip(extents, operand.strides, strict=True))
    *inner, _, stride = merged(axes[::-1], 1)[1]
    return (operand.itemsize, operand.first, *inner, stride)


def _uses(instruction: chain.Instruction | None, arguments: Sequence[Any]) -> list[_Use]:
    if instruction is None:  # which of its arguments a kernel writes is not known
        memory = [a for a in arguments if arrays.is_memory(a)]
        found = [(arrays.address_of(m), m.size * m.dtype.itemsize) for m in memory]
        return [_Use(low, low + size, True, None) for low, size in found]
    *inputs, output = instruction.operands
    if instruction.op == "sum":
        return [_Use(o.low, o.high, o is output, None) for o in instruction.operands]
    uses = [_Use(o.low, o.high, False, _place(o, instruction.extents)) for o in inputs]
    return [*uses, _Use(output.low, output.high, True, _place(output, instruction.extents))]


def grouped(launches: Sequence[tuple[Any, Sequence[Any]]]) -> list[Group]:
    """Launches (kernel, arguments) in an order that gives the same results."""
    groups: list[Group] = []
    for number, (kernel, arguments) in enumerate(launches):
        instruction = chain.decoded(kernel, arguments)
        uses = _uses(instruction, arguments)
        home = None
        kind = _kind(instruction)
        if kind is not None:
            for group in groups[: -_WINDOW - 1 : -1]:
                relation = group.relation(uses)
                if group.kind == kind and (relation != _CONFLICT or kind[1]):
                    home = group
                if relation != _APART:
                    break
        if home is None or instruction is None:
            groups.append(Group([number], uses, instruction))
        else:
            home.launches.append(number)
            home.uses += uses
            home.instructions.append(instruction)
    return groups
