"""Reading `__cuda_array_interface__` (version 3), for owners that do not offer DLPack."""

from __future__ import annotations

from typing import Any

import numpy as np

from gankernels.backends.device_array import c_strides
from gankernels.backends.dlpack import span

__all__ = ["read"]


class _Described:
    """Memory that another library described, and its owner."""

    host = None

    def __init__(self, owner: Any, ptr: int, nbytes: int) -> None:
        self.owner, self.ptr, self.nbytes = owner, ptr, nbytes


def read(data: Any, backend: Any) -> tuple[Any, tuple[int, ...], tuple[int, ...], int, np.dtype[Any]]:
    """What an object says of its memory: (buffer, shape, strides in bytes, offset in bytes, dtype).

    Work that the owner has queued on the stream it names comes before ours.

    Raises
    ------
    ValueError
        If it describes a masked array, or names the ambiguous stream 0.
    """
    said = data.__cuda_array_interface__
    if said.get("mask") is not None:
        raise ValueError("__cuda_array_interface__ describes a masked array")
    stream = said.get("stream")
    if stream == 0:
        raise ValueError("__cuda_array_interface__ names stream 0; 1 is the legacy and 2 the per-thread default stream")
    if stream is not None and hasattr(backend, "wait_for_stream"):
        backend.wait_for_stream(stream)
    dtype, shape = np.dtype(said["typestr"]), tuple(int(n) for n in said["shape"])
    strides = c_strides(shape, dtype.itemsize) if said.get("strides") is None else tuple(map(int, said["strides"]))
    below, nbytes = span(shape, strides, dtype.itemsize)
    return _Described(data, int(said["data"][0]) - below, nbytes), shape, strides, below, dtype
