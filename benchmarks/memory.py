"""Memory of a training step, in a process of its own that loads only the side which is measured."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads import WORKLOADS, our_step

STATUS = Path("/proc/self/status")


def resident_mb(what: str = "VmRSS") -> float:
    """Resident memory of this process now, or with VmHWM its peak; the peak where the system does not tell."""
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 1024)


def memory_of(name: str, side: str, batch: int) -> dict[str, float]:
    """Resident memory (MB) before two training steps and its peak during them.

    Parameters
    ----------
    name : str
        Of the workload.
    side : str
        "ours", or a layout of PyTorch.
    batch : int
    """
    w = WORKLOADS[name]
    gan = w.gan(True)
    real = w.real(gan, batch)
    step: Callable[[], Any]
    if side == "ours":
        step = our_step(gan, w.config, real)
    else:
        from benchmarks.rival import Rival

        step = Rival(name, gan, w.config, real, layout=side).step
    before = resident_mb()
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")  # the peak so far is forgotten
    step()
    step()
    return {"before_mb": before, "peak_mb": resident_mb("VmHWM")}
