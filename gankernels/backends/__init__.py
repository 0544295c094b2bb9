"""The backends: modules with the same functions, looked up by device. The CPU is built in.

Two can serve "cuda": the compiled module, and kernels that Numba compiles just in time. The first one that can run is
taken, compiled before numba; GANKERNELS_CUDA_BACKEND=compiled or =numba insists on one.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from gankernels.backends import cpu as _cpu
from gankernels.backends.device_array import DeviceArray

__all__ = [
    "CUDA_BACKENDS",
    "DEVICES",
    "DeviceError",
    "backend_of",
    "cuda_backend",
    "default_device",
    "device",
    "get",
    "serve",
    "set_default_device",
    "why_not",
]

DEVICES = ("cpu", "cuda")
#: Name of each backend for "cuda" and its module, in the order of preference.
CUDA_BACKENDS = {"compiled": "gankernels.backends.cuda", "numba": "gankernels.backends.cuda_numba"}
CHOICE = "GANKERNELS_CUDA_BACKEND"

_serving: dict[str, Any] = {"cpu": _cpu}  # device -> module; "cuda" is found at its first use
_default = "cpu"


class DeviceError(RuntimeError):
    """A device was asked for that cannot be used; the message says why."""


# ---- which module serves a device ----------------------------------------------------------------------------------
def cuda_backend(kind: str) -> tuple[Any, str | None]:
    """The module of a CUDA backend ("compiled" or "numba") and None, or None and why it cannot be used."""
    try:
        module = importlib.import_module(CUDA_BACKENDS[kind])
    except ModuleNotFoundError as error:
        if error.name == CUDA_BACKENDS[kind]:
            return None, "this copy of gankernels does not contain it"
        return None, f"the module {error.name!r} is missing"
    except ImportError as error:
        return None, str(error)
    reason = module.why_not()
    return (module, None) if reason is None else (None, str(reason))


def _choose_cuda() -> tuple[Any, str | None]:
    wanted = os.environ.get(CHOICE) or None
    if wanted is not None and wanted not in CUDA_BACKENDS:
        return None, f"{CHOICE} is {wanted!r}; expected one of {', '.join(CUDA_BACKENDS)}"
    reasons = []
    for kind in [wanted] if wanted else CUDA_BACKENDS:
        module, reason = cuda_backend(kind)
        if reason is None:
            return module, None
        reasons.append(f"{kind}: {reason}")
    insisted = f"; {CHOICE}={wanted} allows no other backend" if wanted else ""
    return None, "; ".join(reasons) + insisted


def why_not(device: str) -> str | None:
    """Why a device cannot be used, or None if it can."""
    if device in _serving:
        return None
    if device == "cuda":
        module, reason = _choose_cuda()
        if module is not None:
            _serving["cuda"] = module
        return reason
    return f"there is no device {device!r}; the names are 'cpu' and 'cuda'"


def get(device: str | None = None) -> Any:
    """The backend module of a device (None: the default device).

    Raises
    ------
    DeviceError
        If the device cannot be used; nothing else is chosen silently.
    """
    name = _default if device is None else device
    module = _serving.get(name) if isinstance(name, str) else None
    if module is None:
        reason = why_not(name)
        if reason is not None:
            raise DeviceError(f"device {name!r} cannot be used: {reason}")
        module = _serving[name]
    return module


def serve(device: str, module: Any) -> None:
    """Let a module serve a device from now on; None looks for one again at the next use."""
    if module is None:
        _serving.pop(device, None)
    else:
        _serving[device] = module


def backend_of(array: Any) -> Any:
    """The backend that an array belongs to.

    Raises
    ------
    ValueError
        If an environment variable asks for what this machine has not.
    """
    if type(array) is DeviceArray:
        return array.backend
    if _cpu.problem is not None:
        raise ValueError(_cpu.problem)
    return _cpu


# ---- the device of new tensors -------------------------------------------------------------------------------------
def default_device() -> str:
    """Name of the device on which tensors are made that are not told another one: "cpu" unless it was changed."""
    return _default


def set_default_device(name: str) -> None:
    """Make tensors on this device from now on where no other is named.

    Raises
    ------
    DeviceError
        If the device cannot be used.
    """
    global _default
    get(name)
    _default = name


class device:
    """Context manager: tensors are made on this device where no other is named.

    Parameters
    ----------
    name : str
        "cpu" or "cuda".

    Examples
    --------
    >>> import gankernels as gk
    >>> with gk.device("cpu"):
    ...     gk.zeros(2).device
    'cpu'
    """

    def __init__(self, name: str) -> None:
        get(name)
        self.name = name
        self._before: list[str] = []

    def __enter__(self) -> device:
        self._before.append(default_device())
        set_default_device(self.name)
        return self

    def __exit__(self, *_: object) -> None:
        set_default_device(self._before.pop())
