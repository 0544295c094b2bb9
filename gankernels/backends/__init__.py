"""The backends: modules with the same functions, looked up by device. The CPU is built in."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DeviceError", "backend_of", "get", "why_not"]


class DeviceError(RuntimeError):
    """A device was asked for that cannot be used; the message says why."""


def why_not(device: str) -> str | None:
    """Why a device cannot be used, or None if it can."""
    if device == "cpu":
        return None
    if device == "cuda":
        try:
            info = importlib.import_module("gankernels._build_info")
        except ModuleNotFoundError:
            return "this copy of gankernels has no build record (gankernels._build_info)"
        return None if info.cuda_built else str(info.cuda_reason)
    return f"there is no device {device!r}; the names are 'cpu' and 'cuda'"


def get(device: str = "cpu") -> Any:
    """The backend module of a device.

    Raises
    ------
    DeviceError
        If the device cannot be used; nothing else is chosen silently.
    """
    reason = why_not(device)
    if reason is not None:
        raise DeviceError(f"device {device!r} cannot be used: {reason}")
    return importlib.import_module(f"gankernels.backends.{device}")


_cpu = get("cpu")


def backend_of(array: Any) -> Any:
    """The backend that an array belongs to.

    Raises
    ------
    ValueError
        If an environment variable asks for what this machine has not.
    """
    if _cpu.problem is not None:
        raise ValueError(_cpu.problem)
    return _cpu
