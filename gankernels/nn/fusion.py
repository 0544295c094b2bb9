"""Neighbours in a Sequential that run as one operation; `set_fusion(False)` runs every module by itself."""

from __future__ import annotations

from math import prod
from typing import Any

from gankernels import ops
from gankernels.autograd import Tensor
from gankernels.nn.activation import LeakyReLU, ReLU
from gankernels.nn.conv import Conv3d, ConvTranspose3d
from gankernels.nn.dropout import Dropout
from gankernels.nn.functional import upsample_factors
from gankernels.nn.linear import Linear
from gankernels.nn.module import Module
from gankernels.nn.norm import BatchNorm3d
from gankernels.nn.shape import Upsample
from gankernels.ops.epilogue import PLAIN, Epilogue, fusion, set_fusion

__all__ = ["fusion", "run_together", "set_fusion"]

# Taps are summed anew in every pass, however few cells share the sums: with 32768 kernels of 3x3 on one image of 8x8
# cells the fused weights gradient took 9.2 ms instead of 1.4, with 384 of 6x5x8 on 7x7x8 cells 2.7 instead of 6.5.
# The batch plays no part, so that an image does not depend on those beside it.
_KERNELS_PER_CELL = 64

# What a module does is what its class's forward does: subclasses that define their own are left alone.
_LINEAR, _CONV, _TRANSPOSED = Linear.forward, Conv3d.forward, ConvTranspose3d.forward
_NORM = BatchNorm3d.forward


def _does(module: Module, forward: Any) -> bool:
    """Nobody listens to the module, and calling it is calling this forward."""
    return (
        type(module).forward is forward and not module._before and not module._after and "forward" not in vars(module)
    )


def _epilogue(modules: list[Module], at: int) -> tuple[Epilogue | None, int]:
    """The activation and the dropout that follow, and where they end."""
    slope, p, generator, end = 1.0, 0.0, None, at
    if end < len(modules):
        m: Any = modules[end]
        if _does(m, ReLU.forward):
            slope, end = 0.0, end + 1
        elif _does(m, LeakyReLU.forward) and m.negative_slope >= 0.0:
            slope, end = m.negative_slope, end + 1
    if end < len(modules):
        m = modules[end]
        if _does(m, Dropout.forward) and m.training and m.p:
            p, generator, end = m.p, m.generator, end + 1
    return (None if end == at else Epilogue(slope, p, generator)), end


def run_together(modules: list[Module], at: int, x: Any) -> tuple[Tensor, int] | None:
    """The modules from `at` on that are one operation, applied to x, and where they end; None if there are none.

    Upsample and a Conv of stride 1; a Linear, Conv, ConvTranspose or BatchNorm, its activation and its dropout; both. A
    BatchNorm behind a convolution, which may gather its statistics, and what follows it too.
    """
    if not fusion() or not isinstance(x, Tensor):
        return None
    core: Any = modules[at]
    end = at + 1
    upsample: Any = None
    if type(core).forward is Upsample.forward and end < len(modules) and _does(core, Upsample.forward):
        upsample, core, end = core, modules[end], end + 1
        if not _does(core, _CONV) or not _merges(core, x):
            return None
    after, end = _epilogue(modules, end)
    if upsample is None and not (_does(core, _CONV) or _does(core, _TRANSPOSED)):
        if after is not None and _does(core, _LINEAR):
            return ops.linear(x, core.weight, core.bias, after=after), end
        if after is not None and _does(core, _NORM):
            return core._run(x, after), end
        return None
    norm: Any = modules[end] if end < len(modules) and _does(modules[end], _NORM) else None
    if norm is not None and norm._uses_batch:
        after = (after or PLAIN)._replace(moments=[])
    if upsample is None and (after is None or x.ndim != core.rank + 2):
        return None
    with ops.hidden_values(core.hidden and core.training):
        if upsample is None:
            y = core._run(x, after)
        else:
            factors = upsample_factors("interpolate", x, upsample.size, upsample.scale_factor)
            y = ops.upsample_conv(x, core.weight, core.bias, factors, core.padding, core.groups, after=after)
    if after is None or after.moments is None:
        return y, end
    behind, end = _epilogue(modules, end + 1)
    return norm._run(y, behind, after.moments), end


def _merges(conv: Any, x: Tensor) -> bool:
    """Upsampling and this convolution are one operation, and faster so."""
    one = (1,) * conv.rank
    return (
        conv.stride == one
        and conv.dilation == one
        and x.ndim == conv.rank + 2
        and prod(conv.weight.shape[:2]) <= _KERNELS_PER_CELL * prod(x.shape[2:])
    )
