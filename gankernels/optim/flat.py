"""Parameters of a network in one buffer, so that an optimizer step is one kernel over it and not one per parameter.

`flatten` moves the values; the parameters become views, in their order, each aligned to a cache line. An optimizer
notices such a group by itself, keeps its state in buffers of the same layout, and gives views of them as the
parameters' states: state_dict, load_state_dict and moving averages see what they always see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from math import prod
from typing import Any

from gankernels.autograd import Tensor
from gankernels.backends import backend_of
from gankernels.backends.device_array import DeviceArray
from gankernels.ops.creation import zeros_like
from gankernels.ops.replay import unrecorded
from gankernels.ops.update import copy_, copy_parts_

__all__ = ["FlatGroup", "flatten", "share_gradients", "shared_buffer"]

_ALIGNED = 16  # elements: a cache line of float32


def _offsets(sizes: Sequence[int]) -> list[int]:
    """Where each array begins, and the end."""
    found = [0]
    for n in sizes:
        found.append(found[-1] + -(-n // _ALIGNED) * _ALIGNED)
    return found


def _views(buffer: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    starts = _offsets([prod(s) for s in shapes])
    return [buffer[at : at + prod(s)].reshape(s) for at, s in zip(starts, shapes, strict=False)]


def flatten(parameters: Iterable[Tensor]) -> None:
    """Move parameters into one buffer per call, as views of it in the given order; their values do not change.

    NumPy views of the old arrays and state_dicts taken before do not follow. Parameters of several dtypes, or on
    several devices, stay where they are.

    Parameters
    ----------
    parameters : iterable of Tensor
        Each once.
    """
    group = list(parameters)
    if len({(p.dtype, type(p.data)) for p in group}) != 1:
        return
    backend = backend_of(group[0].data)
    shapes = [p.shape for p in group]
    buffer = backend.full((_offsets([prod(s) for s in shapes])[-1],), 0.0, group[0].dtype)
    for p, view in zip(group, _views(buffer, shapes), strict=True):
        backend.copy(p.data, view)
        p.data = view
        p.version += 1


def _address(array: Any) -> int:
    """Of the first element."""
    return int(array.ptr if type(array) is DeviceArray else array.ctypes.data)


def shared_buffer(group: Sequence[Tensor]) -> Any:
    """The buffer whose views the parameters are, in order and without others between them; None if there is none."""
    arrays = [p.data for p in group]
    buffer = arrays[0].base
    if type(buffer) is not type(arrays[0]) or buffer.ndim != 1 or len(arrays) < 2:
        return None
    starts = _offsets([a.size for a in arrays])
    if buffer.size != starts[-1]:
        return None
    first = _address(buffer)
    fits = (
        a.base is buffer and a.flags.c_contiguous and _address(a) == first + at * buffer.itemsize
        for a, at in zip(arrays, starts, strict=False)
    )
    return buffer if all(fits) else None


def share_gradients(*groups: FlatGroup | None) -> None:
    """Let the gradients of groups whose steps never overlap lie in one buffer; not if their parameters differ in kind.

    Between the parameters lie gradients of other groups then, and no zeros in their states either: nobody reads them.
    """
    found = [g for g in groups if g is not None]
    if len({(g.buffer.dtype, g.buffer.device) for g in found}) != 1:
        return
    largest = max(found, key=lambda g: g.buffer.shape[0])
    for g in found:
        g._lender = None if g is largest else largest


class FlatGroup:
    """The parameters of a group that share a buffer, their gradients and states in buffers of the same layout."""

    def __init__(self, group: Sequence[Tensor], buffer: Any) -> None:
        self.parameters = list(group)
        self.arrays = [p.data for p in group]
        self.shapes = [p.shape for p in group]
        self.buffer = Tensor(buffer)
        self._lender: FlatGroup | None = None
        self._gradient: Tensor | None = None
        self._gradients: list[Tensor] = []
        self._state: dict[str, Any] = {}
        self._states: list[dict[str, Any]] = []

    @staticmethod
    def of(group: Sequence[Tensor]) -> FlatGroup | None:
        """The group's, or None if its parameters do not share a buffer."""
        buffer = shared_buffer(group)
        return None if buffer is None else FlatGroup(group, buffer)

    @property
    def gradient(self) -> Tensor:
        """A buffer for the gradients, of the same layout."""
        if self._gradient is None:
            if self._lender is None:
                with unrecorded():
                    self._gradient = zeros_like(self.buffer)
            else:
                self._gradient = Tensor(self._lender.gradient.data[: self.buffer.shape[0]])
        return self._gradient

    @property
    def gradients(self) -> list[Tensor]:
        """The parameters' views of `gradient`."""
        if not self._gradients:
            self._gradients = [Tensor(v) for v in _views(self.gradient.data, self.shapes)]
        return self._gradients

    def fits(self, group: Sequence[Tensor]) -> bool:
        """These are the parameters, still in the buffer."""
        return len(group) == len(self.parameters) and all(
            p is own and p.data is array for p, own, array in zip(group, self.parameters, self.arrays, strict=True)
        )

    def step(
        self, states: dict[Tensor, dict[str, Any]], update: Callable[[Tensor, Tensor, dict[str, Any]], None]
    ) -> bool:
        """Update all parameters at once; False, and nothing done, if their states differ or a gradient is missing."""
        if any(p.grad is None for p in self.parameters) or not self._adopt(states):
            return False
        given = [(own, p.grad) for p, own in zip(self.parameters, self.gradients, strict=True)]
        fresh = [(own, g) for own, g in given if g is not None and g.data is not own.data]
        copy_parts_(self.gradient, [own for own, _ in fresh], [g for _, g in fresh])
        update(self.buffer, self.gradient, self._state)
        for p in self.parameters:
            p.version += 1
        if self._states and self._states[0].keys() == self._state.keys():
            for key, value in self._state.items():
                if not isinstance(value, Tensor):
                    for state in self._states:
                        state[key] = value
        else:
            self._share(states)
        return True

    def _share(self, states: dict[Tensor, dict[str, Any]]) -> None:
        """Give every parameter its part of the state, as views."""
        self._states = [{} for _ in self.parameters]
        for key, value in self._state.items():
            several = isinstance(value, Tensor)
            parts = [Tensor(v) for v in _views(value.data, self.shapes)] if several else [value] * len(self.shapes)
            for state, part in zip(self._states, parts, strict=True):
                state[key] = part
        for p, state in zip(self.parameters, self._states, strict=True):
            states[p] = state

    def _adopt(self, states: dict[Tensor, dict[str, Any]]) -> bool:
        """Take over states that are not the ones shared last (of single steps, or loaded), if they go together."""
        found = [states.get(p) for p in self.parameters]
        if len(self._states) == len(found) and all(a is b for a, b in zip(found, self._states, strict=True)):
            counts = [(key, value) for key, value in self._state.items() if not isinstance(value, Tensor)]
            if all(s[key] == value for s in self._states for key, value in counts):
                return True
        if all(not s for s in found):
            self._state, self._states = {}, []
            return True
        first = found[0] or {}
        numbers = {key: value for key, value in first.items() if not isinstance(value, Tensor)}
        for s in found:
            if s is None or s.keys() != first.keys() or any(s[key] != value for key, value in numbers.items()):
                return False
        self._state = dict(numbers)
        for key in first.keys() - numbers.keys():
            joined = zeros_like(self.buffer)
            for s, view in zip(found, _views(joined.data, self.shapes), strict=True):
                copy_(Tensor(view), s[key])  # type: ignore[index]
            self._state[key] = joined
        self._share(states)
        return True
