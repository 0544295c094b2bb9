"""What the numbers were measured on: processor, versions, commit; and its roof, measured in the same run.

The arithmetic roof is the fastest of square matrix products in PyTorch (oneDNN), which come within a few per cent of
the processor's multiply-adds; a bfloat16 product is the roof of bfloat16. The memory roof is a copy of 256 MiB, counted
as one read and one write.
"""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import torch

import gankernels as gk
from benchmarks.timing import clock
from gankernels.backends import cpu

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


def roof(threads: int) -> dict[str, float]:
    """GFLOP/s of float32 and bfloat16 multiply-adds and GB/s of a copy, with so many threads."""
    torch.set_num_threads(threads)
    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        best = 0.0
        for n in (512, 1024, 1536):
            a, b, c = torch.randn(n, n).to(dtype), torch.randn(n, n).to(dtype), torch.empty(n, n, dtype=dtype)

            def product(a: Any = a, b: Any = b, c: Any = c) -> None:
                torch.mm(a, b, out=c)

            calls = max(1, int(0.02 / clock(product)))
            best = max(best, 2.0 * n**3 / min(clock(product, calls) for _ in range(5)) * 1e-9)
        found[f"{str(dtype).removeprefix('torch.')}_gflops"] = best
    source, target = torch.zeros(COPIED), torch.ones(COPIED)
    seconds = min(clock(lambda: target.copy_(source)) for _ in range(5))
    found["copy_gb_per_s"] = 2 * 4 * COPIED / seconds * 1e-9
    return found
