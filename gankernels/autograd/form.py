"""The three verbs that define every differentiable operation: Form, pointwise, fused.

Each rule is made of operations again, so every one of them can be differentiated to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gankernels.autograd.tape import Tensor, is_recording, pull_back, record, recording
from gankernels.dtypes import is_float

__all__ = ["Form", "fused", "pointwise"]

Kernel = Callable[..., Any]


class Form:
    """A multilinear form T(slot_1, ..., slot_k) for fixed parameters; leaving one slot open is an operation.

    Its rule is one sentence: fill the open slot with the cotangent and open another. A form of two slots is a linear
    map and its adjoint.

    Parameters
    ----------
    name : str
        For error messages.
    kernels : callables, by slot
        kernels[slot](*other_slots_in_order, params) computes the array of the open slot.
    """

    def __init__(self, name: str, **kernels: Kernel) -> None:
        self.name = name
        self.kernels = kernels
        self._together: dict[tuple[str, ...], Kernel] = {}

    def together(self, *slots: str) -> Callable[[Kernel], Kernel]:
        """Decorate a kernel that opens several slots at once, for gradients that are asked for together.

        kernel(*all_slots_in_order, params) computes their arrays from the others: one slot is left to another opening.
        None says that the slots are better opened one by one. The arrays are those of the single kernels.
        """

        def register(kernel: Kernel) -> Kernel:
            self._together[slots] = kernel
            return kernel

        return register

    def open(self, slot: str, params: Any = None, **filled: Tensor) -> Tensor:
        """Apply the operation that leaves `slot` open to the tensors in the other slots."""
        array = self.kernels[slot](*(filled[s].data for s in self.kernels if s != slot), params)
        return self._opened(slot, params, array, filled)

    def _opened(self, slot: str, params: Any, array: Any, filled: Mapping[str, Tensor]) -> Tensor:
        """What a kernel computed for a slot, as an operation on the tensors in the others."""
        slots = [s for s in self.kernels if s != slot]

        def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
            return self.gradients(slots, want, params, {**filled, slot: ct})

        return record(f"{self.name}.{slot}", array, tuple(filled[s] for s in slots), rule)

    def gradients(
        self, slots: Sequence[str], want: Sequence[bool], params: Any, full: Mapping[str, Tensor]
    ) -> list[Tensor | None]:
        """Open each of the slots that is wanted, given the tensors in all: the cotangent is in the one left."""
        wanted = tuple(s for s, w in zip(slots, want, strict=True) if w)
        kernel = self._together.get(wanted)
        arrays = None if kernel is None else kernel(*(full[s].data for s in self.kernels), params)
        found = {}
        for i, s in enumerate(wanted):
            others = {k: full[k] for k in self.kernels if k != s}
            found[s] = self.open(s, params, **others) if arrays is None else self._opened(s, params, arrays[i], others)
        return [found.get(s) for s in slots]


def pointwise(name: str, kernel: Kernel, derivative: Callable[..., Tensor | None]) -> Callable[..., Tensor]:
    """y = f(x) for every element; `derivative(x, y, *params)` gives f'(x) with operations, None where it is zero."""

    def op(x: Tensor, *params: Any) -> Tensor:
        def rule(ct: Tensor, want: Sequence[bool], y: Tensor) -> list[Tensor | None]:
            slope = derivative(x, y, *params)
            return [None if slope is None else ct * slope]

        return record(name, kernel(x.data, *params), (x,), rule, keep_output=True)

    op.__name__ = name
    return op


def fused(
    name: str, kernel: Kernel, unfused: Callable[..., Tensor], backward: Kernel | None = None
) -> Callable[..., Tensor]:
    """One kernel for the forward pass; every derivative is that of the composition it fuses.

    Parameters
    ----------
    kernel : callable
        kernel(*arrays, *params) -> (y, saved): the output array and whatever `backward` wants to reuse.
    unfused : callable
        unfused(*tensors, *params) -> Tensor: the same function as a composition of operations.
    backward : callable, optional
        backward(ct, arrays, saved, want, *params) -> arrays: a kernel for the first derivative, used where the
        backward pass is not recorded itself.
    """

    def op(*inputs: Tensor, params: tuple[Any, ...] = ()) -> Tensor:
        y, saved = kernel(*(t.data for t in inputs), *params)

        def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
            again = is_recording()
            if backward is not None and not again:
                arrays = backward(ct.data, tuple(t.data for t in inputs), saved, want, *params)
                return [Tensor(a) if wanted else None for a, wanted in zip(arrays, want, strict=True)]
            with recording(True):
                fresh = [_renamed(t, again) for t in inputs]
                output = unfused(*fresh, *params)
            wanted = [t for t, w in zip(fresh, want, strict=True) if w]
            found = iter(pull_back([output], wanted, [ct], create_graph=again, retain_graph=again))
            return [next(found) if w else None for w in want]

        return record(name, y, inputs, rule)

    op.__name__ = name
    return op


def _renamed(t: Tensor, linked: bool) -> Tensor:
    """The same array under a new name, because inputs may depend on each other; linked: it still leads back to t."""
    if linked and t.requires_grad:
        return record("rename", t.data, (t,), lambda ct, _: [ct])
    return Tensor(t.data, requires_grad=is_float(t.data.dtype))
