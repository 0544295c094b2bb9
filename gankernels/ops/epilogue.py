"""What follows an open slot of a form: bias, (leaky) ReLU and dropout, by a kernel that does them where it stores its
output or in one pass over it.

A normalisation joins the same epilogue to its own passes (`ops.norm`).

One node of the tape, and the output is all that it keeps: the sign of y says what the activation did, and an element
that dropout removed is +0 while a kept one never is. The gradient before the epilogue and the bias's are one pass too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple

from gankernels.autograd import Form, Tensor, is_recording, record
from gankernels.backends import backend_of
from gankernels.dtypes import computed
from gankernels.ops.common import cast, contiguous, empty_like, empty_vector
from gankernels.ops.pointwise import gate, leaky_relu
from gankernels.ops.random import Generator, default_generator, dropout, masked
from gankernels.ops.shape import sum_to

__all__ = ["Epilogue", "Finish", "call", "fusion", "opened", "set_fusion", "unfused"]

NO_DRAW = (2**64 - 1, 0)  # seed and counter of an epilogue without dropout


_enabled = True


def set_fusion(enabled: bool) -> None:
    """Let Sequential run neighbours as one operation from now on (the default), or every module by itself.

    Both give the same values and derivatives up to rounding.

    Parameters
    ----------
    enabled : bool
    """
    global _enabled
    if not isinstance(enabled, bool):
        raise TypeError(f"set_fusion: expected True or False, got {enabled!r}")
    _enabled = enabled


def fusion() -> bool:
    """What was given to set_fusion."""
    return _enabled


class Epilogue(NamedTuple):
    """dropout(leaky_relu(y, slope), p): slope 1 is no activation and 0 is ReLU, p 0 is no dropout.

    slope : float
        At least 0.
    p : float
    generator : Generator, optional
        Stream of the masks; the default one otherwise.
    moments : list, optional
        Receives the mean and the biased variance (C,) of the result, where the kernel that stores it gathers them.
    """

    slope: float = 1.0
    p: float = 0.0
    generator: Generator | None = None
    moments: list[Any] | None = None

    def draw(self, size: int) -> tuple[int, int]:
        """Seed and first counter of a mask of so many elements; the stream moves on."""
        if not self.p:
            return NO_DRAW
        stream = self.generator or default_generator()
        return stream.seed, stream.take(size)


PLAIN = Epilogue()


class Finish(NamedTuple):
    """arguments(y) = what a kernel is told of the epilogue of its output y: bias, slope, p, seed, counter."""

    arguments: Callable[[Any], tuple[Any, float, float, int, int]]
    moments: list[Any] | None = None  # of y are wanted


def call(kernel: str, a: Any, b: Any, y: Any, *rest: Any, finish: Finish | None) -> None:
    """The kernel of that name, y = kernel(a, b), or the one with an epilogue."""
    backend = backend_of(a)
    if finish is None:
        getattr(backend, kernel)(a, b, y, *rest)
    elif finish.moments is None:
        getattr(backend, kernel + "_epilogue")(a, b, y, *rest, *finish.arguments(y))
    else:
        finish.moments[:] = empty_vector(y, y.shape[1]), empty_vector(y, y.shape[1])
        getattr(backend, kernel + "_moments")(a, b, y, *rest, *finish.moments, *finish.arguments(y))


def unfused(y: Tensor, after: Epilogue) -> Tensor:
    """The operations that an epilogue joins."""
    y = y if after.slope == 1.0 else leaky_relu(y, after.slope)
    return dropout(y, after.p, True, after.generator)


def redrawn(y: Tensor, after: Epilogue, drawn: tuple[int, int]) -> Tensor:
    """The operations that an epilogue joins, with the mask that it drew."""
    y = y if after.slope == 1.0 else leaky_relu(y, after.slope)
    return masked(y, after.p, *drawn) if after.p else y


def _flat(array: Any) -> Any:
    return array if array.ndim == 2 else array.reshape(*array.shape[:2], prod(array.shape[2:]))


def opened(form: Form, slot: str, params: Any, bias: Tensor | None, after: Epilogue | None, **filled: Tensor) -> Tensor:
    """epilogue(form.open(slot, params, **filled) + bias): y (N, O, *Y), bias (O,) or None."""
    names, inputs = list(filled), tuple(filled.values())
    arrays = [t.data for t in inputs]
    after = PLAIN if after is None else after
    if not hasattr(backend_of(arrays[0]), "conv_moments"):
        after = after._replace(moments=None)
    if bias is None and after == PLAIN:
        return form.open(slot, params, **filled)
    slope, p = after.slope, after.p
    idle = slope == 1.0 and not p
    drawn, none = NO_DRAW, empty_vector(arrays[0], 0)

    def finish(y: Any) -> tuple[Any, float, float, int, int]:
        nonlocal drawn
        drawn = after.draw(y.size)
        return none if bias is None else bias.data, slope, p, *drawn

    out = form.kernels[slot](*arrays, params, Finish(finish, after.moments))

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        wants_bias = bias is not None and want[-1]
        gbias: Tensor | None = None
        if is_recording() or idle:
            ct = masked(ct, p, *drawn) if p else ct
            ct = ct if slope == 1.0 else gate(ct, out, slope)
            gbias = _bias_gradient(ct) if wants_bias else None
        else:
            gx = empty_like(out)
            sums = empty_vector(out, out.shape[1]) if wants_bias else none
            backend_of(out).epilogue_backward(_flat(out), _flat(contiguous(ct.data)), _flat(gx), sums, slope, p)
            ct, gbias = Tensor(gx), Tensor(sums) if wants_bias else None
        grads = form.gradients(names, want[: len(names)], params, {**filled, slot: ct})
        return grads if bias is None else [*grads, gbias]

    inputs = inputs if bias is None else (*inputs, bias)
    joined = "+epilogue" if not idle else "" if bias is None else "+bias"
    return record(f"{form.name}.{slot}{joined}", out, inputs, rule)


def _bias_gradient(ct: Tensor) -> Tensor:
    ct = cast(ct, computed(ct.dtype))
    return sum_to(ct, (1, ct.shape[1]) + (1,) * (ct.ndim - 2)).reshape(ct.shape[1])
