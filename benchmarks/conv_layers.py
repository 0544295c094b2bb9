"""Convolutions of the 3DGAN networks against PyTorch, layer by layer, in all three passes.

    python -m benchmarks.conv_layers                       # batch 16, every 25x25x25 layer
    python -m benchmarks.conv_layers --batch 1,2,4,8,16 --layers D25 --json times.json
    python -m benchmarks.conv_layers --algorithm fft       # or direct, im2col

Both sides get arrays in the layout they like best: ours contiguous (packing included), PyTorch the faster of contiguous
and channels_last_3d (laid out beforehand). Rounds are interleaved, the median of each contender is compared, and every
answer is checked before it is timed. Without PyTorch our own times are printed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, Padding, conv_geometry

PASSES = ("forward", "input gradient", "weight gradient")
Run = Callable[[], Any]


@dataclass(frozen=True)
class Layer:
    """A convolution of a published network; `x` holds the extents that it sees (after upsampling)."""

    name: str
    x: tuple[int, int, int]
    channels: tuple[int, int]
    kernel: tuple[int, int, int]
    padding: Padding

    def geometry(self, batch: int) -> ConvGeometry:
        c, o = self.channels
        return conv_geometry(self.name, (batch, c, *self.x), (o, c, *self.kernel), padding=self.padding)


# Generator (G) and discriminator (D) of the fixed-angle 25x25x25 model (EcalEnergyGan.py) and of the variable-angle
# 51x51x25 model (AngleArch3dGAN.py), both of github.com/svalleco/3Dgan.
LAYERS = (
    Layer("G25-1", (7, 7, 8), (8, 64), (6, 6, 8), "same"),
    Layer("G25-2", (14, 14, 16), (64, 6), (6, 5, 8), (2, 2, 0)),
    Layer("G25-3", (26, 28, 27), (6, 6), (3, 3, 8), (1, 0, 3)),
    Layer("G25-4", (26, 26, 26), (6, 1), (2, 2, 2), 0),
    Layer("D25-1", (25, 25, 25), (1, 32), (5, 5, 5), "same"),
    Layer("D25-2", (25, 25, 25), (32, 8), (5, 5, 5), 2),
    Layer("D25-3", (25, 25, 25), (8, 8), (5, 5, 5), 2),
    Layer("D25-4", (25, 25, 25), (8, 8), (5, 5, 5), 1),
    Layer("G51-1", (54, 54, 48), (8, 8), (6, 6, 8), 0),
    Layer("G51-2", (49, 49, 41), (8, 6), (4, 4, 6), (2, 2, 1)),
    Layer("G51-3", (50, 50, 38), (6, 6), (4, 4, 6), (2, 2, 1)),
    Layer("G51-5", (52, 52, 32), (6, 6), (3, 3, 5), (1, 1, 0)),
    Layer("G51-7", (52, 52, 26), (6, 1), (2, 2, 2), 0),
    Layer("D51-1", (51, 51, 25), (1, 16), (5, 6, 6), "same"),
    Layer("D51-2", (51, 51, 25), (16, 8), (5, 6, 6), (0, 0, 1)),
    Layer("D51-3", (47, 46, 22), (8, 8), (5, 6, 6), (0, 0, 1)),
    Layer("D51-4", (43, 41, 19), (8, 8), (5, 6, 6), 0),
)


@dataclass(frozen=True)
class Result:
    layer: str
    batch: int
    which: str
    seconds: float
    fastest: float
    gflops: float
    torch_seconds: float | None = None
    torch_fastest: float | None = None
    torch_layout: str | None = None

    @property
    def ratio(self) -> float | None:
        """How many times faster than PyTorch, by medians."""
        return None if self.torch_seconds is None else self.torch_seconds / self.seconds

    @property
    def fastest_ratio(self) -> float | None:
        """The same by the fastest round of each side: what a busy machine disturbs least."""
        return None if self.torch_fastest is None else self.torch_fastest / self.fastest


def our_runs(g: ConvGeometry, x: Any, w: Any, y: Any, algorithm: str) -> dict[str, tuple[Run, Any]]:
    """The three passes and the arrays that they fill."""
    a = CONV_ALGORITHMS[algorithm]
    gradient = CONV_ALGORITHMS["fast" if algorithm == "auto" else algorithm]  # what "auto" is in a backward pass
    out_y, out_x, out_w = np.empty_like(y), np.empty_like(x), np.empty_like(w)
    return {
        "forward": (lambda: cpu.conv(x, w, out_y, g.pod, a), out_y),
        "input gradient": (lambda: cpu.conv_transpose(y, w, out_x, g.pod, gradient), out_x),
        "weight gradient": (lambda: cpu.conv_weight(x, y, out_w, g.pod, gradient), out_w),
    }


def torch_runs(torch: Any, g: ConvGeometry, x: Any, w: Any, y: Any, layout: str) -> dict[str, Run]:
    """The same passes in PyTorch; uneven padding (even kernels) is a padded copy, as its own "same" makes it."""
    convert = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last_3d}[layout]
    tx, tw, ty = (torch.from_numpy(a).to(memory_format=convert) for a in (x, w, y))
    even = all(low == high for low, high in g.padding)
    padding = [low for low, _ in g.padding] if even else [0, 0, 0]
    pads = [] if even else [p for pair in reversed(g.padding) for p in pair]
    padded = torch.nn.functional.pad(tx, pads).contiguous(memory_format=convert) if pads else tx
    inside = tuple(slice(low, low + n) for (low, _), n in zip(g.padding, g.x, strict=True))

    def forward() -> Any:
        source = torch.nn.functional.pad(tx, pads) if pads else tx
        return torch.nn.functional.conv3d(source, tw, padding=padding)

    def input_gradient() -> Any:
        ct = torch.nn.grad.conv3d_input(padded.shape, tw, ty, padding=padding)
        return ct[(..., *inside)] if pads else ct

    def weight_gradient() -> Any:
        return torch.nn.grad.conv3d_weight(padded, tw.shape, ty, padding=padding)

    return {"forward": forward, "input gradient": input_gradient, "weight gradient": weight_gradient}


def clock(run: Run, calls: int) -> float:
    time.sleep(0.003)  # the other side's threads stop spinning
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def measure(layer: Layer, batch: int, which: str, rounds: int, torch: Any, algorithm: str = "auto") -> Result:
    g = layer.geometry(batch)
    rng = np.random.default_rng(1)
    x, w, y = (rng.standard_normal(s, dtype=np.float32) for s in (g.x_shape, g.w_shape, g.y_shape))
    run, out = our_runs(g, x, w, y, algorithm)[which]
    contenders: dict[str, Run] = {"ours": run}
    if torch is not None:
        for layout in ("contiguous", "channels_last"):
            contenders[layout] = torch_runs(torch, g, x, w, y, layout)[which]
        run()
        want = contenders["contiguous"]().numpy()
        error = float(np.abs(out - want).max())
        if not (error <= 1e-4 * float(np.abs(want).max())):
            raise AssertionError(f"{layer.name}, batch {batch}, {which}: differs from PyTorch by {error}")
    calls = {name: max(1, int(0.01 / max(min(clock(f, 1), clock(f, 1)), 1e-6))) for name, f in contenders.items()}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, f in contenders.items():
            times[name].append(clock(f, calls[name]))
    ours = times.pop("ours")
    best = min(times, key=lambda name: median(times[name])) if times else None
    return Result(
        layer.name,
        batch,
        which,
        median(ours),
        min(ours),
        g.flops / median(ours) * 1e-9,
        median(times[best]) if best else None,
        min(map(min, times.values())) if best else None,
        best,
    )


def line(r: Result) -> str:
    text = f"{r.layer:7} {r.batch:5} {r.which:16} {r.seconds * 1e3:9.3f} {r.fastest * 1e3:9.3f} {r.gflops:8.0f}"
    if r.torch_seconds is None or r.torch_fastest is None or r.ratio is None:
        return text
    text += f" {r.torch_seconds * 1e3:9.3f} {r.torch_fastest * 1e3:9.3f} {r.torch_layout:14} {r.ratio:6.2f}"
    return text + f" {r.fastest_ratio:8.2f}" + ("  slower" if r.ratio < 1 else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.conv_layers", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--layers", default="G25,D25", help="comma-separated beginnings of layer names")
    parser.add_argument("--passes", default=",".join(PASSES), help="comma-separated passes")
    parser.add_argument("--batch", default="16", help="comma-separated batch sizes")
    parser.add_argument("--algorithm", default="auto", choices=CONV_ALGORITHMS, help="how our side computes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=cpu.num_threads())
    parser.add_argument("--no-torch", action="store_true", help="time our side only")
    parser.add_argument("--json", type=Path, help="write the results there")
    options = parser.parse_args(arguments)
    torch: Any = None
    if not options.no_torch:
        try:
            import torch
        except ImportError:
            print("PyTorch is not installed: our times only (pip install torch)", file=sys.stderr)
    cpu.set_num_threads(options.threads)
    if torch is not None:
        torch.set_num_threads(options.threads)
    heading = f"{'layer':7} {'batch':>5} {'pass':16} {'ms':>9} {'fastest':>9} {'GFLOP/s':>8}"
    print(
        heading
        if torch is None
        else heading + f" {'torch ms':>9} {'fastest':>9} {'layout':14} {'ratio':>6} {'fastest':>8}"
    )
    results = []
    for layer in LAYERS:
        if not layer.name.startswith(tuple(options.layers.split(","))):
            continue
        for batch in map(int, options.batch.split(",")):
            for which in options.passes.split(","):
                results.append(measure(layer, batch, which, options.rounds, torch, options.algorithm))
                print(line(results[-1]), flush=True)
    if options.json:
        machine = {
            "processor": platform.processor(),
            "isa": cpu.isa(),
            "threads": options.threads,
            "algorithm": options.algorithm,
            "numpy": np.__version__,
            "torch": None if torch is None else torch.__version__,
        }
        rows = [asdict(r) | {"ratio": r.ratio, "fastest_ratio": r.fastest_ratio} for r in results]
        options.json.write_text(json.dumps({"machine": machine, "results": rows}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
