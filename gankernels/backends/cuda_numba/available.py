"""Whether Numba can serve a GPU here, found out without importing Numba and without opening the GPU's context."""

from __future__ import annotations

import importlib.metadata
import os

from gankernels.backends import driver

__all__ = ["DISTRIBUTION", "VERSIONS", "is_simulated", "why_not"]

DISTRIBUTION = "numba-cuda"
#: First version that is known to work, first that is not known to; `numba.cuda` itself is no longer maintained.
VERSIONS = ((0, 30), (1, 0))
_INSTALL = "run: pip install 'gankernels[numba]'"


def is_simulated() -> bool:
    """True where Numba runs kernels as Python threads (NUMBA_ENABLE_CUDASIM=1, read when Numba is imported)."""
    return os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")


def _number(version: str) -> tuple[int, int]:
    parts = (version.split(".") + ["0"])[:2]
    return (int(parts[0]), int("".join(c for c in parts[1] if c.isdigit()) or 0))


def _package_problem() -> str | None:
    try:
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return f"{DISTRIBUTION} is not installed; {_INSTALL}"
    if not VERSIONS[0] <= _number(version) < VERSIONS[1]:
        low, high = (".".join(map(str, v)) for v in VERSIONS)
        return f"{DISTRIBUTION} {version} is installed, but gankernels needs >={low},<{high}; {_INSTALL}"
    return None


def why_not() -> str | None:
    """Why Numba cannot serve a GPU here, or None if it can. A simulated GPU counts."""
    return _package_problem() or (None if is_simulated() else driver.problem())
