"""The three verbs that define every differentiable operation: Form, pointwise, fused.

Each rule is made of operations again, so every one of them can be differentiated to any order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gankernels.autograd.tape import Tensor, is_recording, pull_back, record, recording

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

    def open(self, slot: str, params: Any = None, **filled: Tensor) -> Tensor:
        """Apply the operation that leaves `slot` open to the tensors in the other slots."""
        slots = [s for s in self.kernels if s != slot]
        inputs = tuple(filled[s] for s in slots)

        def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
            full = {**filled, slot: ct}
            return [
                self.open(s, params, **{k: full[k] for k in self.kernels if k != s}) if wanted else None
                for s, wanted in zip(slots, want, strict=True)
            ]

        array = self.kernels[slot](*(t.data for t in inputs), params)
        return record(f"{self.name}.{slot}", array, inputs, rule)


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
    return Tensor(t.data, requires_grad=t.data.dtype.kind == "f")
