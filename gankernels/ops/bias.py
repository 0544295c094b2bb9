"""An open slot of a form plus a bias, in one pass over the fresh output and one node of the tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gankernels.autograd import Form, Tensor, record
from gankernels.backends import backend_of
from gankernels.ops.shape import sum_to

__all__ = ["with_bias"]


def with_bias(form: Form, slot: str, params: Any, bias: Tensor, column: tuple[int, ...], **filled: Tensor) -> Tensor:
    """form.open(slot, params, **filled) + bias.reshape(column); bias (O,), column its shape against the output."""
    names = list(filled)
    inputs = tuple(filled.values())
    out = form.kernels[slot](*(t.data for t in inputs), params)
    backend_of(out).binary("add", out, bias.data.reshape(column), out)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        full = {**filled, slot: ct}
        grads: list[Tensor | None] = [
            form.open(s, params, **{k: full[k] for k in form.kernels if k != s}) if wanted else None
            for s, wanted in zip(names, want[:-1], strict=True)
        ]
        return [*grads, sum_to(ct, column).reshape(bias.shape[0]) if want[-1] else None]

    return record(f"{form.name}.{slot}+bias", out, (*inputs, bias), rule)
