"""Launch plans of convolutions: everything that a kernel needs to know of a geometry, in one table on the GPU.

conv and conv_transpose gather in the same way: an output cell is a sum over entries (channel, tap), each with a
position in w, a position in the input relative to the cell's first one, and a shift on every axis that must stay inside
the input. A transposed convolution of stride s is s such problems for each axis, its phases: outputs q whose q + pad
leave the same remainder are reached by the same taps. So every output is written once, by one thread.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np

from gankernels.backends.cuda_numba.arrays import upload
from gankernels.backends.cuda_numba.launch import ceil_div

__all__ = ["ENTRY", "HEADER", "PHASE", "Conv", "GatherPlan", "WeightPlan", "gather_plan", "split_pod", "weight_plan"]

Ints = tuple[int, ...]

#: Numbers in the header of a plan, for each phase, for each entry.
HEADER, PHASE, ENTRY = 24, 18, 5


class Conv(NamedTuple):
    """gk::ConvGeometry by name (csrc/core/geometry.hpp); spatial extents are (D, H, W)."""

    batch: int
    in_channels: int
    out_channels: int
    groups: int
    x: Ints
    kernel: Ints
    y: Ints
    stride: Ints
    dilation: Ints
    pad: Ints

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1] * self.kernel[2]

    @property
    def y_volume(self) -> int:
        return self.y[0] * self.y[1] * self.y[2]

    @property
    def x_volume(self) -> int:
        return self.x[0] * self.x[1] * self.x[2]


def split_pod(pod: Ints) -> Conv:
    """The numbers of gankernels.geometry.ConvGeometry.pod by name."""
    return Conv(*pod[:4], *(pod[i : i + 3] for i in range(4, 22, 3)))  # type: ignore[arg-type]


class GatherPlan(NamedTuple):
    """A table, and the blocks along positions and along channels."""

    table: Any
    position_blocks: int
    channel_blocks: int


def _dot(a: Any, b: Any) -> int:
    return int(sum(i * j for i, j in zip(a, b, strict=True)))


class _Phase(NamedTuple):
    """Outputs start + step*j, j < extents, on every axis; their input cells are first + advance*j + the tap's shift."""

    extents: Ints
    first: Ints
    advance: Ints
    start: Ints
    step: Ints
    taps: list[tuple[int, Ints]]  # position in K, shift on every axis


def _forward(g: Conv) -> list[_Phase]:
    taps = [(i, tuple(d * t for d, t in zip(g.dilation, k, strict=True))) for i, k in enumerate(_kernel_cells(g))]
    return [_Phase(g.y, tuple(-p for p in g.pad), g.stride, (0, 0, 0), (1, 1, 1), taps)]


def _kernel_cells(g: Conv) -> list[Ints]:
    return list(product(*map(range, g.kernel)))


def _transposed(g: Conv) -> list[_Phase]:
    """A phase for each remainder of q + pad by the stride; remainders beyond the image have no outputs."""
    by_axis = []
    for X, pad, s in zip(g.x, g.pad, g.stride, strict=True):
        found = []
        for remainder in range(min(s, X)):  # of outputs q = remainder, remainder + s, ...
            found.append((remainder, -(-(X - remainder) // s), (remainder + pad) // s, (remainder + pad) % s))
        by_axis.append(found)
    phases = []
    cells = _kernel_cells(g)
    for axes in product(*by_axis):
        starts, counts, firsts, remainders = zip(*axes, strict=True)
        taps = [
            (i, tuple(-(d * t // s) for d, t, s in zip(g.dilation, k, g.stride, strict=True)))
            for i, k in enumerate(cells)
            if all(d * t % s == r for d, t, s, r in zip(g.dilation, k, g.stride, remainders, strict=True))
        ]
        phases.append(_Phase(counts, firsts, (1, 1, 1), starts, g.stride, taps))
    return phases


@lru_cache(maxsize=512)
def gather_plan(
    pod: Ints, transposed: bool, inputs: Ints, weights: Ints, outputs: Ints, tile_m: int, tile_n: int
) -> GatherPlan:
    """The plan of conv (or conv_transpose); layouts are (origin, strides of five axes)."""
    g = split_pod(pod)
    phases = _transposed(g) if transposed else _forward(g)
    C, O = g.in_channels // g.groups, g.out_channels // g.groups
    M, summed = (C, O) if transposed else (O, C)
    extents = g.y if transposed else g.x
    w_m, w_s = (weights[2], weights[1]) if transposed else (weights[1], weights[2])
    header = [len(phases), g.batch, M, ceil_div(M, tile_m), *extents, *inputs[1:3], *outputs,
              weights[0], w_m, O * weights[1], inputs[0], summed, *inputs[3:]]  # fmt: skip
    header += [0] * (HEADER - len(header))
    records: list[int] = []
    entries: list[Any] = []
    blocks = begin = 0
    tap_strides = np.array([_dot(k, weights[3:]) for k in _kernel_cells(g)], np.int64)
    for phase in phases:
        columns = g.batch * prod(phase.extents)
        entries.append(_entries(phase, summed, w_s, inputs, tap_strides))
        records += [blocks, begin, begin + len(entries[-1]), *phase.extents, *phase.first, *phase.advance, *phase.start,
                    *phase.step]  # fmt: skip
        begin += len(entries[-1])
        blocks += ceil_div(columns, tile_n)
    table = np.concatenate([np.array(header + records, np.int64), np.concatenate(entries).reshape(-1)])
    return GatherPlan(upload(table), blocks, ceil_div(M, tile_m) * g.groups)


def _entries(phase: _Phase, summed: int, w_step: int, inputs: Ints, tap_strides: Any) -> Any:
    """(channel, tap) in order: position in w and in the input, shift on every axis."""
    count = len(phase.taps)
    found = np.zeros((summed, count, ENTRY), np.int64)
    if count:
        shifts = np.array([shift for _, shift in phase.taps], np.int64).reshape(count, 3)
        found[..., 0] = tap_strides[[i for i, _ in phase.taps]]
        found[..., 1] = shifts @ np.array(inputs[3:], np.int64)
        found[..., 2:] = shifts
    channels = np.arange(summed)[:, None]
    found[..., 0] += channels * w_step
    found[..., 1] += channels * inputs[2]
    return found.reshape(-1, ENTRY)


class WeightPlan(NamedTuple):
    """A table, the number of parts that the sum over images and positions is cut into, and the blocks of one part."""

    table: Any
    splits: int
    blocks: int


# Enough blocks to fill any GPU; a constant, so that the order of the sums does not depend on the GPU.
_TARGET_BLOCKS = 1024


@lru_cache(maxsize=512)
def weight_plan(pod: Ints, x: Ints, y: Ints, w: Ints, tile_m: int, tile_n: int, least: int) -> WeightPlan:
    """The plan of conv_weight; columns of the product are (input channel, tap) pairs. `least`: positions of a part."""
    g = split_pod(pod)
    C, O = g.in_channels // g.groups, g.out_channels // g.groups
    columns = C * g.taps
    along_m, along_n = ceil_div(O, tile_m), ceil_div(columns, tile_n)
    blocks = along_m * along_n * g.groups
    positions = g.batch * g.y_volume
    splits = max(1, min(ceil_div(_TARGET_BLOCKS, max(1, blocks)), positions // least))
    part = ceil_div(positions, splits)
    splits = max(1, ceil_div(positions, part)) if part else 1
    header = [O, columns, positions, part, along_m, along_n, *g.x, *g.y, *g.stride, *g.pad, g.groups, C]
    header += [0] * (HEADER - len(header))
    strides = [*x, *y, *w[:2]]
    strides += [0] * (PHASE - len(strides))
    entries = np.zeros((C, g.taps, ENTRY), np.int64)
    shifts = np.array(_kernel_cells(g), np.int64) * np.array(g.dilation, np.int64)
    entries[..., 0] = [_dot(k, w[3:]) for k in _kernel_cells(g)]
    entries[..., 1] = shifts @ np.array(x[3:], np.int64)
    entries[..., 2:] = shifts
    channels = np.arange(C)[:, None]
    entries[..., 0] += channels * w[2]
    entries[..., 1] += channels * x[2]
    table = np.concatenate([np.array(header + strides, np.int64), entries.reshape(-1)])
    return WeightPlan(upload(table), splits, blocks)
