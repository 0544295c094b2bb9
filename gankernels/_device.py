"""Memory and completion of a device, under the same names for all of them."""

from __future__ import annotations

from gankernels import backends

__all__ = ["empty_cache", "memory_stats", "reset_peak_memory", "set_memory_limit", "synchronize"]


def memory_stats(device: str | None = None) -> dict[str, int]:
    """Bytes in use and kept for arrays to come, their peaks, and counts of blocks.

    Parameters
    ----------
    device : str, optional
        The default device otherwise.

    Returns
    -------
    dict of int
        "cpu": live_bytes, peak_live_bytes, cached_bytes, fresh_blocks and reused_blocks; arrays of up to 1 KiB are
        NumPy's own and not counted. "cuda": in_use, peak_in_use, reserved (with what is kept), peak_reserved, limit (0:
        none), allocations, allocations_from_device and live_arrays.
    """
    stats: dict[str, int] = backends.get(device).memory_stats()
    return stats


def empty_cache(device: str | None = None) -> None:
    """Give memory that no array uses back to the operating system or the device."""
    backends.get(device).empty_cache()


def _offered(name: str, device: str | None) -> None:
    backend = backends.get(device)
    if not hasattr(backend, name):
        raise RuntimeError(f"{name}: the backend of {backend.name!r}, {backend.__name__}, does not offer it")


def reset_peak_memory(device: str | None = None) -> None:
    """Let the peaks of `memory_stats` begin anew.

    Raises
    ------
    RuntimeError
        If the backend does not offer it: only the compiled one for "cuda" does.
    """
    _offered("reset_peak_memory", device)
    backends.get(device).reset_peak_memory()


def set_memory_limit(nbytes: int | None, device: str | None = None) -> None:
    """Reserve no more than this many bytes of a device, what is kept included; None is no limit.

    Raises
    ------
    ValueError
        If nbytes is negative or no int.
    RuntimeError
        If the backend does not offer it: only the compiled one for "cuda" does.
    """
    if nbytes is not None and (isinstance(nbytes, bool) or not hasattr(nbytes, "__index__") or nbytes < 1):
        raise ValueError(f"set_memory_limit: expected None or an int of at least 1, got {nbytes!r}")
    _offered("set_memory_limit", device)
    backends.get(device).set_memory_limit(nbytes)


def synchronize(device: str | None = None) -> None:
    """Wait until a device has done all that was asked of it; the CPU always has."""
    backend = backends.get(device)
    if hasattr(backend, "synchronize"):
        backend.synchronize()
