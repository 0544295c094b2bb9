"""Named problems with their sizes, shared by tests and benchmarks: edges that kernels get wrong, physics layers.

The 3DGAN layers follow the published models (25x25x25 and 51x51x25 cells); `reduced` has the same taps, strides and
channels on a smaller image, so that a loop over taps can judge it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gankernels.geometry import ConvGeometry, WindowGeometry, conv_geometry, conv_transpose_geometry, window_geometry

__all__ = ["CASES", "Case", "cases"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One problem: an operation, the shapes of its inputs and its geometry arguments.

    Parameters
    ----------
    name : str
    op : str
        "conv", "conv_transpose", "local_conv", "max_pool" or "avg_pool": the function of gankernels.ops.
    x : tuple of int
        Shape of the input (N, C, *X).
    w : tuple of int
        Shape of the weight; empty for pooling.
    args : tuple of (name, value)
        Keyword arguments of the operation.
    kind : str
        "edge", "reduced" (physics on a small image) or "full" (physics).
    """

    name: str
    op: str
    x: tuple[int, ...]
    w: tuple[int, ...] = ()
    args: tuple[tuple[str, Any], ...] = ()
    kind: str = "edge"

    def __str__(self) -> str:
        return self.name

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the operation."""
        return dict(self.args)

    @cached_property
    def geometry(self) -> ConvGeometry | WindowGeometry:
        """Checked extents of everything."""
        if self.op == "conv":
            return conv_geometry(self.name, self.x, self.w, **self.arguments)
        if self.op == "conv_transpose":
            return conv_transpose_geometry(self.name, self.x, self.w, **self.arguments)
        if self.op == "local_conv":
            shared = (*self.w[:2], *self.w[len(self.x) :])
            return conv_geometry(self.name, self.x, shared, **self.arguments)
        return window_geometry(self.name, self.x, **self.arguments)

    @property
    def output(self) -> tuple[int, ...]:
        """Shape of the output."""
        g = self.geometry
        return g.x_shape if self.op == "conv_transpose" else g.y_shape

    @property
    def flops(self) -> int:
        """Floating-point operations, padding included; a multiply-add counts as two."""
        g = self.geometry
        if isinstance(g, ConvGeometry):
            return g.flops
        return int(np.prod(g.y_shape) * np.prod(g.kernel))

    def bytes(self, dtype: DTypeLike = np.float32) -> int:
        """Bytes of the inputs and the output, each counted once."""
        shapes = [s for s in (self.x, self.w, self.output) if s]
        return sum(int(np.prod(s)) for s in shapes) * np.dtype(dtype).itemsize

    def inputs(self, dtype: DTypeLike = np.float64, seed: int = 0, integers: bool = False) -> list[Array]:
        """Random inputs: normal, or small integers for which every sum is exact in float32."""
        rng = np.random.default_rng(seed)
        shapes = [s for s in (self.x, self.w) if s]
        if integers:
            return [rng.integers(-3, 4, s).astype(dtype) for s in shapes]
        return [rng.standard_normal(s).astype(dtype) for s in shapes]


def _case(name: str, op: str, x: tuple[int, ...], w: tuple[int, ...] = (), kind: str = "edge", **args: Any) -> Case:
    return Case(name, op, x, w, tuple(args.items()), kind)


_CONV_EDGES = [
    _case("1d", "conv", (2, 3, 9), (4, 3, 3)),
    _case("1d one cell", "conv", (1, 1, 1), (1, 1, 1)),
    _case("2d", "conv", (3, 4, 7, 6), (5, 4, 3, 2)),
    _case("2d kernel of the size of the image", "conv", (2, 3, 5, 4), (2, 3, 5, 4)),
    _case("2d kernel larger than the image", "conv", (2, 2, 3, 2), (3, 2, 5, 4), padding=(1, 1)),
    _case("2d stride beyond the image", "conv", (2, 2, 5, 5), (3, 2, 3, 3), stride=(7, 2**31 - 1)),
    _case("2d padding wider than the kernel", "conv", (2, 2, 3, 4), (3, 2, 2, 2), padding=(5, 3), stride=2),
    _case("2d uneven", "conv", (2, 4, 8, 7), (6, 2, 3, 2), stride=(2, 3), padding=((1, 0), (2, 3)), dilation=(1, 2),
          groups=2),
    _case("2d depthwise", "conv", (2, 5, 6, 6), (10, 1, 3, 3), padding=1, groups=5),
    _case("2d same, even kernel", "conv", (2, 3, 6, 7), (4, 3, 4, 2), padding="same"),
    _case("2d same_lower, even kernel", "conv", (2, 3, 6, 7), (4, 3, 4, 2), padding="same_lower", stride=(1, 2)),
    _case("3d", "conv", (2, 3, 5, 4, 6), (4, 3, 3, 2, 3), padding=(1, 0, 1)),
    _case("3d uneven", "conv", (2, 4, 6, 5, 7), (4, 2, 2, 3, 2), stride=(1, 2, 3), padding=((0, 1), (2, 0), (1, 1)),
          dilation=(2, 1, 3), groups=2),
    _case("3d pointwise", "conv", (3, 7, 3, 3, 3), (5, 7, 1, 1, 1)),
    _case("3d 17 images of 17 channels", "conv", (17, 17, 3, 3, 3), (9, 17, 2, 2, 2)),
    _case("2d wide, few positions", "conv", (2, 64, 8, 8), (96, 64, 4, 4), stride=2, padding=1),
    _case("2d wide, pointwise", "conv", (3, 80, 5, 5), (72, 80, 1, 1)),
    _case("3d one image into many channels", "conv", (1, 8, 5, 5, 6), (64, 8, 4, 4, 4), padding="same"),
    _case("2d many images of few channels", "conv", (32, 3, 10, 9), (8, 3, 3, 3), padding=1),
    _case("3d no image", "conv", (0, 3, 5, 5, 5), (4, 3, 3, 3, 3)),
]  # fmt: skip

_TRANSPOSE_EDGES = [
    _case("1d up", "conv_transpose", (2, 3, 5), (3, 4, 4), stride=2, padding=1),
    _case("2d up", "conv_transpose", (2, 4, 3, 4), (4, 3, 3, 2), stride=(2, 3), padding=(1, 0), output_padding=(1, 2)),
    _case("2d up, wide", "conv_transpose", (2, 96, 4, 4), (96, 64, 4, 4), stride=2, padding=1),
    _case("2d groups", "conv_transpose", (2, 4, 3, 4), (4, 3, 2, 3), stride=2, groups=2, dilation=(2, 1)),
    _case("2d gaps", "conv_transpose", (2, 2, 3, 3), (2, 3, 1, 2), stride=(3, 4), output_padding=(2, 1)),
    _case("2d same", "conv_transpose", (2, 3, 4, 3), (3, 2, 5, 4), stride=2, padding="same"),
    _case("3d up", "conv_transpose", (2, 3, 3, 2, 4), (3, 2, 4, 4, 3), stride=(2, 2, 1), padding=1),
    _case("3d up, uneven", "conv_transpose", (1, 4, 2, 3, 2), (4, 1, 2, 2, 3), stride=(2, 1, 3),
          padding=((0, 1), (1, 0), (0, 0)), groups=2, dilation=(1, 2, 1)),
]  # fmt: skip

_LOCAL_EDGES = [
    _case("1d unshared", "local_conv", (2, 3, 7), (4, 3, 5, 3)),
    _case("2d unshared", "local_conv", (2, 4, 5, 4), (6, 2, 2, 2, 2, 3), stride=(2, 1), groups=2),
    _case("2d unshared, more images", "local_conv", (17, 2, 3, 3), (3, 2, 3, 2, 2, 2), padding=((1, 0), (0, 0))),
    _case("3d unshared", "local_conv", (2, 2, 3, 4, 3), (3, 2, 3, 2, 2, 3, 3, 2), stride=(1, 2, 1),
          padding=((1, 1), (0, 1), (0, 0))),
]  # fmt: skip

_WINDOWS: list[dict[str, Any]] = [
    {"x": (2, 3, 8), "kernel_size": 3},
    {"x": (2, 3, 7, 6), "kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
    {"x": (2, 2, 6, 5, 7), "kernel_size": 2, "stride": (1, 2, 3)},
    {"x": (2, 2, 7, 7), "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True},
    {"x": (1, 2, 5), "kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
    {"x": (0, 2, 5, 5), "kernel_size": 2},
    {"x": (2, 2, 4, 1, 3), "kernel_size": (2, 1, 3), "stride": 2**31 - 1},
    {"x": (2, 2, 6, 5), "kernel_size": 2, "padding": "same"},
]
_MAX_ONLY: list[dict[str, Any]] = [
    {"x": (2, 2, 9, 8), "kernel_size": 3, "stride": 2, "dilation": (2, 3), "padding": 1},
    {"x": (1, 2, 6, 7, 8), "kernel_size": 2, "stride": 1, "dilation": 3},
]
_AVERAGE_ONLY: list[dict[str, Any]] = [
    {"x": (2, 2, 7, 7), "kernel_size": 3, "stride": 2, "padding": 1, "count_include_pad": False},
    {"x": (2, 2, 7, 6), "kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, "count_include_pad": False},
    {"x": (2, 2, 5, 5, 5), "kernel_size": 2, "divisor_override": 3},
]


def _window_cases() -> list[Case]:
    found = []
    for op, own in (("max_pool", _MAX_ONLY), ("avg_pool", _AVERAGE_ONLY)):
        for i, entry in enumerate(_WINDOWS + own):
            args = dict(entry)
            found.append(_case(f"{op} {i}", op, args.pop("x"), **args))
    return found


# name, spatial extents in full, channels in and out, kernel, padding: 3DGAN's convolutions
_LAYERS: list[tuple[str, tuple[int, ...], int, int, tuple[int, ...], Any]] = [
    ("G25 1", (7, 7, 8), 8, 64, (6, 6, 8), "same"),
    ("G25 2", (14, 14, 16), 64, 6, (6, 5, 8), (2, 2, 0)),
    ("G25 3", (26, 28, 27), 6, 6, (3, 3, 8), (1, 0, 3)),
    ("G25 4", (26, 26, 26), 6, 1, (2, 2, 2), 0),
    ("D25 1", (25, 25, 25), 1, 32, (5, 5, 5), "same"),
    ("D25 2", (25, 25, 25), 32, 8, (5, 5, 5), 2),
    ("D25 3", (25, 25, 25), 8, 8, (5, 5, 5), 2),
    ("D25 4", (25, 25, 25), 8, 8, (5, 5, 5), 1),
    ("D51 1", (51, 51, 25), 1, 16, (5, 6, 6), 0),
    ("D51 2", (47, 46, 20), 16, 8, (5, 6, 6), 0),
]


def _physics_cases() -> list[Case]:
    found = []
    for name, extents, C, O, K, padding in _LAYERS:
        small = tuple(min(X, k + 2) for X, k in zip(extents, K, strict=True))
        found.append(_case(f"{name} reduced", "conv", (3, C, *small), (O, C, *K), "reduced", padding=padding))
        found.append(_case(name, "conv", (16, C, *extents), (O, C, *K), "full", padding=padding))
    return found


CASES: tuple[Case, ...] = tuple(_CONV_EDGES + _TRANSPOSE_EDGES + _LOCAL_EDGES + _window_cases() + _physics_cases())


def cases(op: str | None = None, *kinds: str) -> list[Case]:
    """The cases of an operation (all if None) and of the given kinds ("edge" and "reduced" if none is given)."""
    wanted = kinds or ("edge", "reduced")
    return [c for c in CASES if op in (None, c.op) and c.kind in wanted]
