"""Every kernel by name, and which backend serves it on each device."""

from __future__ import annotations

from typing import Any

from gankernels import backends
from gankernels.backends.kernels import EPILOGUES, KERNELS

__all__ = ["ARRAYS", "EPILOGUES", "KERNELS", "served"]

#: What every backend has beside the kernels.
ARRAYS = ("empty", "full", "contiguous", "from_host", "to_host")


def _offered(module: Any) -> set[str]:
    """Names of a backend's functions; one that loads its kernels at their first use lists them in FAMILIES."""
    if hasattr(module, "FAMILIES"):
        return set(" ".join(module.FAMILIES.values()).split())
    return {name for name in KERNELS if getattr(module, name, None) is not None}


def served() -> dict[str, Any]:
    """Which backend serves each kernel on each device, and why.

    Returns
    -------
    dict
        "cpu" and "cuda", each {"reason": str, "kernels": {name: "compiled", "numba" or None}}. "cuda" is looked for,
        nothing is opened.
    """
    cuda: dict[str, Any] = {"reason": "", "kernels": dict.fromkeys(KERNELS)}
    reasons = []
    for kind in backends.CUDA_BACKENDS:
        module, reason = backends.cuda_backend(kind)
        reasons.append(f"{kind}: {reason or 'usable'}")
        if module is not None and module is backends.get("cuda"):
            offered = _offered(module)
            cuda["kernels"] = {name: kind if name in offered else None for name in KERNELS}
    cuda["reason"] = "; ".join(reasons)
    return {"cpu": {"reason": "built in", "kernels": dict.fromkeys(KERNELS, "compiled")}, "cuda": cuda}
