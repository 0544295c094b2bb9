"""Where the time of a training step goes: every kernel call by the clock, against the roofs of the machine.

Calls are not recorded and replayed here, so steps of small networks show more Python than a run has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from benchmarks.parts import Bench, Row
from benchmarks.timing import Times
from benchmarks.workloads import WORKLOADS, our_step
from gankernels.backends import cpu, registry

OPTIONAL = (
    "conv_gradients", "conv_epilogue", "conv_transpose_epilogue", "upsample_conv_epilogue", "matmul_epilogue",
    "epilogue", "epilogue_backward", "norm_epilogue", "norm_epilogue_backward",
)  # fmt: skip
PRODUCTS = {"conv": 1, "conv_transpose": 1, "conv_weight": 2, "upsample_conv": 1, "upsample_conv_transpose": 1,
            "upsample_conv_weight": 2}  # fmt: skip
SMALL_BYTES = 2**20  # calls on less are one line for each kernel
STEPS = 3


@dataclass
class Line:
    """Calls of one kernel on arrays of the same shapes.

    Attributes
    ----------
    flops, bytes : float
        Of all calls: multiplications and additions as if convolved directly (0 where memory is the limit); every
        array read or written once.
    """

    calls: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def add(self, seconds: float, flops: float, moved: float) -> None:
        """One more call."""
        self.calls, self.seconds = self.calls + 1, self.seconds + seconds
        self.flops, self.bytes = self.flops + flops, self.bytes + moved

    def percent_of_roof(self, roof: dict[str, float]) -> float:
        """Of the arithmetic or of a copy's bandwidth, whichever the kernel is nearer to."""
        needed = max(self.flops / roof["float32_gflops"], self.bytes / roof["copy_gb_per_s"]) * 1e-9
        return 100.0 * needed / self.seconds if self.seconds else 0.0


def flops_of(kernel: str, arrays: list[Any]) -> float:
    """Of the direct algorithm for convolutions and products; 0 for others."""
    kernel = kernel.removesuffix("_epilogue")
    if kernel == "conv_gradients":  # x, w, y, gx, gw
        return 2.0 * flops_of("conv_weight", [arrays[0], arrays[2], arrays[4]])
    if kernel in PRODUCTS:
        w = arrays[PRODUCTS[kernel]]
        y = arrays[2 if kernel.endswith("conv") else 0 if kernel.endswith("transpose") else 1]
        return 2.0 * w.size * y.shape[0] * prod(y.shape[2:])
    if kernel.startswith("local_conv"):  # w(O, C/groups, P, K), y(N, O, *Y): every weight once for each image
        return 2.0 * max(a.size for a in arrays if a.ndim == 4) * arrays[0].shape[0]
    return 2.0 * arrays[0].size * arrays[1].shape[-1] if kernel == "matmul" else 0.0


def _moved(array: Any) -> int:
    """Bytes of the different elements of an array."""
    shown = zip(array.shape, array.strides, strict=True)
    return int(array.itemsize * prod(n for n, stride in shown if stride))


@contextmanager
def timed(found: dict[str, Line]) -> Iterator[None]:
    """Every kernel call of the CPU backend is added to `found` until the block ends."""
    names = [k for k in (*registry.KERNELS, *OPTIONAL) if hasattr(cpu, k)]
    plain = {name: getattr(cpu, name) for name in names}

    def clocked(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = kernel(*arguments)
            seconds = time.perf_counter() - start
            arrays = [a for a in arguments if isinstance(a, np.ndarray)]
            label = f"{arguments[0]} ({name})" if name in ("unary", "binary", "compare") else name
            moved = sum(_moved(a) for a in arrays)
            if moved > SMALL_BYTES:
                label += " " + ", ".join("x".join(map(str, a.shape)) for a in arrays if a.ndim > 1 and a.size > 1)
            else:
                label += " of small arrays"
            found.setdefault(label, Line()).add(seconds, flops_of(name, arrays), moved)
            return result

        return call

    try:
        for name, kernel in plain.items():
            setattr(cpu, name, clocked(name, kernel))
        yield
    finally:
        for name, kernel in plain.items():
            setattr(cpu, name, kernel)


def profile(bench: Bench, name: str, dtype: str, threads: int, batch: int) -> list[Row]:
    """The fastest of a few training steps, by kernel and shapes."""
    w = WORKLOADS[name]
    bench.use(threads)
    gan = w.gan(True)
    step = our_step(gan, replace(w.config, replay=False), w.real(gan, batch))
    step()
    runs: list[tuple[float, dict[str, Line]]] = []
    for _ in range(STEPS):
        found: dict[str, Line] = {}
        with timed(found):
            start = time.perf_counter()
            step()
            runs.append((time.perf_counter() - start, found))
    seconds, found = min(runs, key=lambda run: run[0])
    roof = bench.roofs[threads]
    lines = sorted(found.items(), key=lambda item: -item[1].seconds)
    kernels = [
        {"kernel": label, "calls": line.calls, "seconds": line.seconds, "percent": 100.0 * line.seconds / seconds,
         "percent_of_roof": line.percent_of_roof(roof)}
        for label, line in lines
    ]  # fmt: skip
    row = bench.row("profile", name, dtype, threads, batch, {"ours": Times.of([s for s, _ in runs])}, kernels=kernels)
    return [row | {"step_s": seconds, "outside_s": seconds - sum(line.seconds for line in found.values())}]
