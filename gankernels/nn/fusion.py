"""Neighbours in a Sequential that run as one operation; `set_fusion(False)` runs every module by itself."""

from __future__ import annotations

from math import prod

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.nn.conv import Conv1d, Conv2d, Conv3d
from gankernels.nn.functional import upsample_factors
from gankernels.nn.module import Module
from gankernels.nn.shape import Upsample

__all__ = ["fusion", "run_pair", "set_fusion"]

# Taps are summed anew in every pass, however few cells share the sums: with 32768 kernels of 3x3 on one image of 8x8
# cells the fused weights gradient took 9.2 ms instead of 1.4, with 384 of 6x5x8 on 7x7x8 cells 2.7 instead of 6.5.
# The batch plays no part, so that an image does not depend on those beside it.
_KERNELS_PER_CELL = 64

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


def _is_plain(module: Module, base: type[Module]) -> bool:
    """Nobody listens to the module, and calling it does what its class here does."""
    same = type(module).forward is base.forward and "forward" not in vars(module)
    return same and not module._before and not module._after


def run_pair(first: Module, second: Module | None, x: Tensor) -> Tensor | None:
    """second(first(x)) as one operation, or None if there is none for them: Upsample and Conv of stride 1 so far."""
    if not _enabled or not isinstance(first, Upsample) or not isinstance(second, (Conv1d, Conv2d, Conv3d)):
        return None
    one = (1,) * second.rank
    if second.stride != one or second.dilation != one or not isinstance(x, Tensor) or x.ndim != second.rank + 2:
        return None
    if not _is_plain(first, Upsample) or not _is_plain(second, Conv3d):
        return None
    if prod(second.weight.shape[:2]) > _KERNELS_PER_CELL * prod(x.shape[2:]):
        return None
    factors = upsample_factors("interpolate", x, first.size, first.scale_factor)
    with ops.hidden_values(second.hidden and second.training):
        return ops.upsample_conv(x, second.weight, second.bias, factors, second.padding, second.groups)
