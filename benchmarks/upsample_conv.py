"""The fused upsample + convolution of the 3DGAN generators against its unfused composition, pass by pass.

    python -m benchmarks.upsample_conv --batch 16

The unfused side is timed with what it needs and nothing else: upsample_nearest before the forward pass and the weights
gradient (its output is not kept), sum_blocks after the gradient of the large image. Rounds are interleaved and every
answer is checked before it is timed.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median
from typing import Any

import numpy as np

from benchmarks.conv_layers import PASSES, Run, clock
from gankernels.backends import cpu
from gankernels.geometry import UpsampleConvGeometry, upsample_conv_geometry

# name, small extents, channels in and out, kernel, padding, factors
LAYERS: tuple[tuple[str, tuple[int, ...], int, int, tuple[int, ...], Any, tuple[int, ...]], ...] = (
    ("G25-2", (7, 7, 8), 64, 6, (6, 5, 8), (2, 2, 0), (2, 2, 2)),
    ("G25-3", (13, 14, 9), 6, 6, (3, 3, 8), (1, 0, 3), (2, 2, 3)),
    ("G51-1", (9, 9, 8), 8, 8, (6, 6, 8), 0, (6, 6, 6)),
    ("2d 3x3", (32, 32), 32, 16, (3, 3), 1, (2, 2)),
    ("2d wide", (8, 8), 256, 128, (3, 3), 1, (2, 2)),
    ("few in", (12, 12, 12), 2, 1, (3, 3, 3), 1, (2, 2, 2)),
)


def runs(g: UpsampleConvGeometry, x: Any, w: Any, y: Any) -> dict[str, tuple[Run, Any, Run, Any]]:
    """Per pass: fused and the array that it fills, unfused and the array that it fills."""
    one, two = ([np.empty_like(a) for a in (y, x, w)] for _ in range(2))
    large = np.empty(g.conv.x_shape, x.dtype)

    def forward() -> None:
        cpu.upsample_nearest(x, large)
        cpu.conv(large, w, two[0], g.conv.pod, 0)

    def input_gradient() -> None:
        cpu.conv_transpose(y, w, large, g.conv.pod, 0)
        cpu.sum_blocks(large, two[1])

    def weight_gradient() -> None:
        cpu.upsample_nearest(x, large)
        cpu.conv_weight(large, y, two[2], g.conv.pod, 0)

    fused: tuple[Run, ...] = (
        lambda: cpu.upsample_conv(x, w, one[0], g.pod, 0),
        lambda: cpu.upsample_conv_transpose(y, w, one[1], g.pod, 0),
        lambda: cpu.upsample_conv_weight(x, y, one[2], g.pod, 0),
    )
    unfused: tuple[Run, ...] = (forward, input_gradient, weight_gradient)
    return {p: (fused[i], one[i], unfused[i], two[i]) for i, p in enumerate(PASSES)}


def measure(g: UpsampleConvGeometry, which: str, rounds: int) -> tuple[float, float]:
    """Median seconds of the fused and the unfused pass."""
    rng = np.random.default_rng(1)
    x, w, y = (rng.standard_normal(s, dtype=np.float32) for s in (g.x_shape, g.w_shape, g.y_shape))
    fused, got, unfused, want = runs(g, x, w, y)[which]
    fused()
    unfused()
    error = float(np.abs(got - want).max())
    if not (error <= 1e-4 * float(np.abs(want).max())):
        raise AssertionError(f"{which}: the fused pass differs from the composition by {error}")
    calls = max(1, int(0.01 / max(clock(fused, 1), 1e-6)))
    times = [(clock(fused, calls), clock(unfused, 1)) for _ in range(rounds)]
    return median(t[0] for t in times), median(t[1] for t in times)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.upsample_conv", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--layers", default="", help="comma-separated beginnings of layer names (default: all)")
    parser.add_argument("--batch", default="16", help="comma-separated batch sizes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cpu.num_threads())
    options = parser.parse_args(arguments)
    cpu.set_num_threads(options.threads)
    print(f"{'layer':8} {'batch':>5} {'pass':16} {'fused ms':>9} {'unfused ms':>10} {'ratio':>6}")
    for name, x, c, o, kernel, padding, factors in LAYERS:
        if not name.startswith(tuple(options.layers.split(","))):
            continue
        for batch in map(int, options.batch.split(",")):
            g = upsample_conv_geometry(name, (batch, c, *x), (o, c, *kernel), factors, padding)
            for which in PASSES:
                fused, unfused = measure(g, which, options.rounds)
                print(f"{name:8} {batch:5} {which:16} {fused * 1e3:9.3f} {unfused * 1e3:10.3f} {unfused / fused:6.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
