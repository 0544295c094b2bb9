"""Launches recorded while they run, to be done again without Python's other work: the same kernels on the same memory
with the same numbers, random numbers from later counters. The compiled CPU backend has it in csrc/bindings/record.hpp.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba import arrays, chain, fusing, launch
from gankernels.backends.device_array import DeviceArray

__all__ = ["Memory", "Recording"]

Memory = arrays.Pool
#: By how much the counters of a seed have moved on since the recording.
Shifts = list[tuple[int, int]]
_OUTSIDE = -1


class _Call(NamedTuple):
    name: str
    signature: tuple[Any, ...]  # equal ones: the same work on the same arrays
    start: launch.Start
    arguments: tuple[Any, ...]
    seed: int | None  # of a kernel that ends with a seed and a counter


class _Place(NamedTuple):
    number: int  # of the block that was taken since the recording began, or _OUTSIDE
    offset: int  # in the block; the address itself in memory of others
    block: Any


def _joined(calls: list[_Call]) -> list[_Call]:
    """The same work in fewer launches."""
    found = []
    for group in fusing.grouped([(call.start.kernel, call.arguments) for call in calls]):
        call = calls[group.launches[0]]
        if len(group.launches) > 1:
            memory = [a for i in group.launches for a in calls[i].arguments if arrays.is_memory(a)]
            start, arguments = chain.prepared(group.instructions, memory)
            call = _Call(start.kernel.__name__, (), start, arguments, None)
        found.append(call)
    return found


class Recording:
    """The launches of this thread between start() and stop(); arrays made meanwhile lie in `memory`.

    Recordings may share memory if they never run at the same time: what one leaves behind, its outputs, stays taken.
    """

    # No `step()`, which recordings with graphs have: launches are started one by one here, so an optimizer's step that
    # is run from Python between them, with its numbers as arguments, costs nothing that one inside would save.

    def __init__(self, memory: arrays.Pool) -> None:
        self.memory = memory
        self.problem = ""
        self._calls: list[_Call] = []
        self._starts: list[int] = []  # addresses of blocks, sorted
        self._blocks: dict[int, tuple[int, int, Any]] = {}  # by address: bytes, number, the block
        self._count = 0
        self._from_host: set[int] = set()
        self._used: set[int] = set()
        self._first_counter: dict[int, int] = {}  # by seed
        self._joined: dict[tuple[int, int], list[_Call]] = {}  # what `run` does, by begin and end

    def start(self) -> None:
        """Record the launches of this thread from now on."""
        launch.this_thread.recording = self

    def stop(self) -> None:
        """Record no longer."""
        launch.this_thread.recording = None

    def __len__(self) -> int:
        return len(self._calls)

    def kernels(self) -> list[str]:
        """Names of the kernels, in order."""
        return [call.name for call in self._calls]

    # ---- what is noted ---------------------------------------------------------------------------------------------
    def note_block(self, address: int, nbytes: int, block: Any) -> None:
        """A block of memory was taken for a new array."""
        if address not in self._blocks:
            insort(self._starts, address)
        self._blocks[address] = nbytes, self._count, block
        self._count += 1

    def note_host(self, address: int) -> None:
        """A new array was filled from host memory, by no kernel."""
        self._from_host.add(self._place(address).number)

    def add(self, name: str, start: launch.Start, arguments: tuple[Any, ...]) -> None:
        """A kernel is being launched."""
        described = [self._described(name, a) for a in arguments]
        signature, kept = [d[0] for d in described], tuple(d[1] for d in described)
        seed = None
        if len(arguments) > 1 and all(type(a) is np.uint64 for a in arguments[-2:]):
            seed, counter = map(int, arguments[-2:])
            signature[-1] = counter - self._first_counter.setdefault(seed, counter)
        self._calls.append(_Call(name, (start.grid, *signature), start, kept, seed))

    def _place(self, address: int) -> _Place:
        i = bisect_right(self._starts, address) - 1
        if i >= 0:
            size, number, block = self._blocks[self._starts[i]]
            if address < self._starts[i] + size:
                return _Place(number, address - self._starts[i], block)
        return _Place(_OUTSIDE, address, None)

    def _described(self, name: str, argument: Any) -> tuple[Any, Any]:
        """What must be the same the second time, and the argument as it is kept: with the memory of the recording, but
        not with the array in it, so that later arrays have that memory in their turn.
        """
        if not arrays.is_memory(argument):
            return repr(argument), argument
        place = self._place(arrays.address_of(argument))
        if place.number in self._from_host and not self.problem:
            self.problem = f"{name} reads an array that was not filled by a kernel"
        self._used.add(place.number)
        kept = argument if place.block is None else arrays.owned_by(argument, place.block)
        return (*place[:2], argument.size, argument.dtype.char), kept

    # ---- what it is for --------------------------------------------------------------------------------------------
    def computed(self, array: DeviceArray) -> bool:
        """Whether recorded kernels worked on an array that was made meanwhile."""
        place = self._place(array.ptr)
        return not array.size or (place.block is not None and place.number in self._used)

    def difference(self, second: Recording) -> str:
        """Why the second recording is not a repetition of this one, or ""."""
        for recording in (self, second):
            if recording.problem:
                return recording.problem
        for i, (a, b) in enumerate(zip(self._calls, second._calls, strict=False)):
            if a.name != b.name:
                return f"call {i} was {a.name}, then {b.name}"
            if a.start.kernel is not b.start.kernel or a.signature != b.signature:
                return f"call {i}, {a.name}, had other arrays or numbers the second time"
        if len(self) != len(second):
            return f"{len(self)} kernels ran, then {len(second)}"
        return ""

    def run(self, begin: int, end: int, shifts: Shifts) -> None:
        """Do the launches from `begin` to before `end` again, with counters moved on."""
        by_seed = {seed: by for seed, by in shifts if by}
        if (begin, end) not in self._joined:
            self._joined[begin, end] = _joined(self._calls[begin:end])
        for call in self._joined[begin, end]:
            arguments = call.arguments
            if call.seed in by_seed:
                counter = (int(arguments[-1]) + by_seed[call.seed]) % 2**64
                arguments = (*arguments[:-1], np.uint64(counter))
            call.start(*arguments)
