"""Element-wise losses whose stable derivative is not the one of their formula."""

from __future__ import annotations

from collections.abc import Sequence

from gankernels.autograd import Tensor, record, recording
from gankernels.ops.pointwise import clamp, log

__all__ = ["bce"]

_SMALLEST = 9.999999960041972e-13  # 1e-12 in float32, PyTorch's constant


def bce(p: Tensor, t: Tensor) -> Tensor:
    """-(t*log(p) + (1 - t)*log(1 - p)) for every element, the logarithms limited to -100 as in PyTorch.

    The derivative is that of the unlimited formula, (p - t)/(p*(1 - p)), its denominator at least 1e-12: finite where
    p is 0 or 1.
    """
    with recording(False):
        y = -(t * clamp(log(p), -100.0) + (1.0 - t) * clamp(log(1.0 - p), -100.0))

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        gp = ct * ((p - t) / clamp(p * (1.0 - p), _SMALLEST)) if want[0] else None
        gt = ct * (clamp(log(1.0 - p), -100.0) - clamp(log(p), -100.0)) if want[1] else None
        return [gp, gt]

    return record("bce", y.data, (p, t), rule)
