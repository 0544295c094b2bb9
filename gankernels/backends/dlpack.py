"""DLPack for device arrays, out and in, by ctypes: the C structs of dlpack.h 0.8 in a capsule named "dltensor".

The exporter keeps the array alive until the consumer calls the deleter; the importer calls it when its array goes.
"""

from __future__ import annotations

import ctypes
import sys
from math import prod
from typing import Any

import numpy as np

from gankernels.dtypes import bfloat16

__all__ = ["CPU", "CUDA", "ImportedBuffer", "device_of", "export", "read", "span"]

CPU, CUDA = 1, 2  # DLDeviceType
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4, "b": 6}  # DLDataTypeCode by NumPy's dtype.kind; V: bfloat16
_KINDS = {code: kind for kind, code in _CODES.items()}
_NAME, _USED = b"dltensor", b"used_dltensor"


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_python = ctypes.pythonapi
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _python))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _python))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _python))

_exported: dict[int, Any] = {}  # address of the struct -> what must live as long as the consumer reads


def _release(address: int) -> None:
    _exported.pop(address, None)


_release_callback = _Deleter(_release)
_unread: list[Any] = []  # capsules that nobody had read when the last one was made


def _sweep() -> None:
    """Forget capsules that were read, and free the memory behind those that nobody can read any more.

    A destructor in the capsule would run Python inside whatever error made the reader drop it.
    """
    for capsule in [c for c in _unread if not _is_valid(id(c), _NAME)]:
        _unread.remove(capsule)
        del capsule
    for i in range(len(_unread) - 1, -1, -1):
        if sys.getrefcount(_unread[i]) <= 2:  # the list's, and the argument's
            _release(_pointer(id(_unread[i]), _NAME))
            del _unread[i]


def device_of(array: Any) -> tuple[int, int]:
    """(DLDeviceType, index) of a device array."""
    if getattr(array.buffer, "host", None) is not None:
        return CPU, 0
    return CUDA, int(getattr(array.buffer, "device_index", 0))


def export(array: Any, stream: int | None, dl_device: tuple[int, int] | None, copy: bool | None) -> Any:
    """A capsule over the array's memory; work queued on it is finished before another stream reads it.

    Raises
    ------
    BufferError
        If a copy or another device is asked for.
    """
    device = device_of(array)
    if copy or (dl_device is not None and tuple(map(int, dl_device)) != device):
        raise BufferError(
            f"__dlpack__: exports share memory on device {device}; got copy={copy}, dl_device={dl_device}"
        )
    if stream == 0:
        raise BufferError("__dlpack__: stream 0 is ambiguous; 1 is the legacy and 2 the per-thread default stream")
    if stream != -1 and (1 if stream is None else stream) != array.stream:
        if hasattr(array.backend, "make_stream_wait"):
            array.backend.make_stream_wait(1 if stream is None else stream)
        else:
            array.backend.synchronize()
    ndim = array.ndim
    shape = (ctypes.c_int64 * max(ndim, 1))(*array.shape)
    strides = (ctypes.c_int64 * max(ndim, 1))(*(s // array.itemsize for s in array.strides))
    managed = _Managed(
        _Tensor(
            array.ptr,
            _Device(*device),
            ndim,
            _DataType(_CODES[array.dtype.kind], array.itemsize * 8, 1),
            shape,
            strides,
            0,
        ),
        None,
        ctypes.cast(_release_callback, ctypes.c_void_p),
    )
    address = ctypes.addressof(managed)
    _exported[address] = (managed, shape, strides, array)
    _sweep()
    capsule = _python.PyCapsule_New(address, _NAME, None)
    _unread.append(capsule)
    return capsule


class ImportedBuffer:
    """Memory that another library owns, given back when the last array over it goes."""

    __slots__ = ("_address", "_deleter", "host", "nbytes", "ptr")

    def __init__(self, ptr: int, nbytes: int, on_host: bool, address: int, deleter: int | None) -> None:
        self.ptr = ptr
        self.nbytes = nbytes
        self.host: Any = None
        if on_host:  # from_address keeps nothing alive: this object does
            self.host = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(ptr)) if nbytes else np.empty(0)
        self._address, self._deleter = address, deleter

    def __del__(self) -> None:
        deleter, self._deleter = self._deleter, None
        if deleter:
            _Deleter(deleter)(self._address)


def read(capsule: Any) -> tuple[ImportedBuffer, tuple[int, ...], tuple[int, ...], int, np.dtype[Any]]:
    """Take over a capsule: (buffer, shape, strides in bytes, offset in bytes, dtype).

    Raises
    ------
    BufferError
        If the capsule was consumed before, or holds what NumPy has no dtype for.
    """
    handle = id(capsule)
    if not _is_valid(handle, _NAME):
        raise BufferError("from_dlpack: expected a fresh capsule named 'dltensor'")
    address = _pointer(handle, _NAME)
    managed = _Managed.from_address(address)
    tensor = managed.tensor
    if tensor.dtype.lanes != 1 or tensor.dtype.code not in _KINDS:
        raise BufferError(
            f"from_dlpack: dtype code {tensor.dtype.code} with {tensor.dtype.lanes} lanes is not supported"
        )
    kind, bits = _KINDS[tensor.dtype.code], tensor.dtype.bits
    dtype = bfloat16() if (kind, bits) == ("V", 16) else np.dtype(f"{kind}{bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    if tensor.strides:
        strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim))
    else:
        strides = tuple(prod(shape[i + 1 :]) * dtype.itemsize for i in range(tensor.ndim))
    first = (tensor.data or 0) + tensor.byte_offset
    below, nbytes = span(shape, strides, dtype.itemsize)
    buffer = ImportedBuffer(first - below, nbytes, tensor.device.type == CPU, address, managed.deleter)
    _rename(capsule, _USED)
    return buffer, shape, strides, below, dtype


def span(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> tuple[int, int]:
    """How many bytes a view reaches below its first element (by negative strides), and how many it reaches over."""
    steps = [(n - 1) * s for n, s in zip(shape, strides, strict=True) if n]
    below = -sum(s for s in steps if s < 0)
    return below, sum(s for s in steps if s > 0) + below + itemsize if prod(shape) else 0
