"""What the numbers were measured on: processor, versions, commit; and its roof, measured in the same run.

The arithmetic roof is the fastest that either side is seen to multiply and add: square matrix products of both
(PyTorch's float32 ones go through a library that is slow on some processors) and our direct convolution of 32 to 8
channels with 5 x 5 x 5 taps; a bfloat16 product is the roof of bfloat16. The memory roof is a copy of 256 MiB, counted
as one read and one write.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
from collections.abc import Callable
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gankernels as gk
from benchmarks.timing import clock
from gankernels.backends import cpu
from gankernels.ops.conv import using_conv_algorithm

ROOT = Path(__file__).resolve().parents[1]
COPIED = 64 * 2**20  # float32 numbers: 256 MiB


def processor() -> str:
    """The name that Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{named[0]}, {len(named)} cores" if named else platform.processor()


def commit() -> str:
    """The commit of the sources; "+" if they were changed since."""
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        ignored = [":(exclude)benchmarks/results"]
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--untracked-files=no", "--", ".", *ignored],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("+" if changed.strip() else "")


def describe(arguments: list[str]) -> dict[str, Any]:
    """Machine, versions, commit, date and command, as JSON types."""
    versions = {"gankernels": gk.__version__, "torch": torch.__version__, "numpy": np.__version__}
    try:
        import onnxruntime

        versions["onnxruntime"] = onnxruntime.__version__
    except ImportError:
        versions["onnxruntime"] = "not installed"
    return {
        "processor": processor(),
        "isa": cpu.isa(),
        "torch_capability": torch.backends.cpu.get_cpu_capability(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **versions,
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python -m benchmarks", *arguments]),
    }


def _gflops(run: Callable[[], Any], flops: float) -> float:
    calls = max(1, int(0.02 / clock(run)))
    return flops / min(clock(run, calls) for _ in range(5)) * 1e-9


def _product(a: Any, b: Any, dtype: str) -> Any:
    with gk.no_grad(), gk.autocast(dtype):
        return a @ b


def _convolved_gflops() -> float:
    """Of our direct convolution, where it is fastest."""
    rng = np.random.default_rng(0)
    shapes = (16, 32, 25, 25, 25), (8, 32, 5, 5, 5)
    x, w = (gk.from_array(rng.standard_normal(shape, dtype=np.float32)) for shape in shapes)
    with gk.no_grad(), using_conv_algorithm("direct"):
        return _gflops(lambda: gk.nn.functional.conv3d(x, w, padding=2), 2.0 * prod(shapes[1]) * 16 * 25**3)


def roof(threads: int) -> dict[str, float]:
    """GFLOP/s of float32 and bfloat16 multiply-adds and GB/s of a copy, with so many threads."""
    torch.set_num_threads(threads)
    gk.set_num_threads(threads)
    found = {"float32_gflops": _convolved_gflops()}
    for dtype in ("float32", "bfloat16"):
        for n in (512, 1024, 1536):
            a, b = torch.randn(n, n), torch.randn(n, n)
            ours = gk.from_array(a.numpy()), gk.from_array(b.numpy())
            theirs, out = (a.to(getattr(torch, dtype)), b.to(getattr(torch, dtype))), torch.empty(n, n)
            out = out.to(theirs[0].dtype)
            runs = {"theirs": partial(torch.mm, *theirs, out=out), "ours": partial(_product, *ours, dtype)}
            for run in runs.values():
                rate = _gflops(run, 2.0 * n**3)
                found[f"{dtype}_gflops"] = max(rate, found.get(f"{dtype}_gflops", 0.0))
    source, target = torch.zeros(COPIED), torch.ones(COPIED)
    seconds = min(clock(lambda: target.copy_(source)) for _ in range(5))
    found["copy_gb_per_s"] = 2 * 4 * COPIED / seconds * 1e-9
    return found
