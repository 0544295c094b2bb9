"""What the NVIDIA driver says of itself and its GPUs, asked by ctypes: no context is opened, no toolkit is needed."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import Any

__all__ = ["gpus", "problem", "version"]

_MAJOR, _MINOR, _MULTIPROCESSORS = 75, 76, 16  # CUdevice_attribute


@lru_cache(maxsize=1)
def _library() -> Any:
    """libcuda, or None."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None


@lru_cache(maxsize=1)
def problem() -> str | None:
    """Why the driver offers no GPU, or None."""
    driver = _library()
    if driver is None:
        return "there is no NVIDIA driver (libcuda.so.1 does not load)"
    code = driver.cuInit(0)
    if code:
        return f"the NVIDIA driver does not start (cuInit returned {code})"
    count = ctypes.c_int()
    if driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "the NVIDIA driver sees no GPU"
    return None


def version() -> str | None:
    """The newest CUDA that the driver serves, as "13.0"; None without a driver."""
    driver, number = _library(), ctypes.c_int()
    if driver is None or driver.cuDriverGetVersion(ctypes.byref(number)):
        return None
    return f"{number.value // 1000}.{number.value % 1000 // 10}"


def gpus() -> list[dict[str, Any]]:
    """Name, compute capability, multiprocessors and memory (bytes) of every GPU."""
    if problem() is not None:
        return []
    driver, count = _library(), ctypes.c_int()
    driver.cuDeviceGetCount(ctypes.byref(count))
    return [_gpu(driver, i) for i in range(count.value)]


def _gpu(driver: Any, index: int) -> dict[str, Any]:
    device, number, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    driver.cuDeviceGet(ctypes.byref(device), index)
    driver.cuDeviceGetName(name, len(name), device)
    driver.cuDeviceTotalMem_v2(ctypes.byref(memory), device)

    def attribute(which: int) -> int:
        driver.cuDeviceGetAttribute(ctypes.byref(number), which, device)
        return number.value

    return {
        "name": name.value.decode(errors="replace"),
        "compute_capability": f"{attribute(_MAJOR)}.{attribute(_MINOR)}",
        "multiprocessors": attribute(_MULTIPROCESSORS),
        "memory_bytes": memory.value,
    }
