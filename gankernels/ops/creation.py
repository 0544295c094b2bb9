"""Tensors from arrays, lists and anything with an array protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from gankernels.autograd import Tensor
from gankernels.backends import array_interface, backend_of, dlpack, get, why_not
from gankernels.backends.device_array import DeviceArray
from gankernels.dtypes import computed, is_bfloat16
from gankernels.ops.common import KEPT, check_shape, extents, filled, kept_dtype, stores_bfloat16, to_host

__all__ = [
    "arange",
    "eye",
    "from_array",
    "full",
    "linspace",
    "ones",
    "ones_like",
    "tensor",
    "zeros",
    "zeros_like",
]


def _device_array(data: Any) -> Any:
    """Another library's array in CUDA memory, shared through DLPack or the CUDA array interface; None for all else."""
    on_device = hasattr(data, "__dlpack_device__") and int(data.__dlpack_device__()[0]) == dlpack.CUDA
    described = not hasattr(data, "__dlpack_device__") and hasattr(data, "__cuda_array_interface__")
    if not (on_device or described) or why_not("cuda"):
        return None
    _refuse_graph(data)
    backend = get("cuda")
    try:
        if described:
            buffer, shape, strides, offset, dtype = array_interface.read(data, backend)
        else:
            ours = backend.stream() if hasattr(backend, "stream") else 1
            buffer, shape, strides, offset, dtype = dlpack.read(data.__dlpack__(stream=ours))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise TypeError(f"tensor: cannot read the {type(data).__name__} on 'cuda': {error}") from None
    if dtype not in KEPT and not (is_bfloat16(dtype) and stores_bfloat16(backend)):
        raise TypeError(f"tensor: dtype {dtype} on 'cuda' is not supported; convert it to one of the four dtypes first")
    return DeviceArray(buffer, shape, dtype, backend, strides, offset)


def _refuse_graph(data: Any) -> None:
    if getattr(data, "requires_grad", False):
        raise TypeError("tensor: the data is part of another library's graph; detach it first")


def _host_array(data: Any) -> Any:
    """A NumPy array that shares memory where the protocol allows it."""
    if isinstance(data, np.ndarray):
        return data
    if hasattr(data, "__dlpack__"):
        device = data.__dlpack_device__() if hasattr(data, "__dlpack_device__") else (1, 0)
        if device[0] != dlpack.CPU:
            raise TypeError(f"tensor: the data is on DLPack device {tuple(map(int, device))}; copy it to the CPU first")
        _refuse_graph(data)
        try:
            return np.from_dlpack(data)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise TypeError(
                f"tensor: cannot read the {type(data).__name__} of dtype {getattr(data, 'dtype', 'unknown')} "
                f"through DLPack: {error}"
            ) from None
    try:
        return np.asarray(data)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"tensor: the data is not a rectangular array of numbers: {error}") from None


def _documented_dtype(array: Any, data: Any) -> Any:
    """The dtype a tensor of this array gets, or an error that names what came."""
    dtype = array.dtype.newbyteorder("=") if array.dtype.kind in "biuf" else array.dtype
    if dtype in KEPT:
        if dtype == np.float64 and isinstance(data, (int, float, list, tuple)) and not isinstance(data, np.generic):
            return np.dtype(np.float32)
        return dtype
    if dtype.kind in "iu" and dtype.itemsize <= 8 and dtype != np.uint64:
        return np.dtype(np.int64)
    if dtype == np.float16 or dtype.name == "bfloat16":
        return np.dtype(np.float32)
    raise TypeError(
        f"tensor: dtype {array.dtype} is not supported; float32, float64, int64 and bool are kept, "
        "float16 and bfloat16 become float32, other integers up to 64 bits become int64"
    )


def tensor(data: Any, requires_grad: bool = False, *, dtype: Any = None, device: str | None = None) -> Tensor:
    """A tensor with a copy of the data.

    Parameters
    ----------
    data : Tensor, array, nested list, number, or what has `__dlpack__`, `__cuda_array_interface__` or `__array__`
        float32, float64, int64 and bool are kept, bfloat16 on a GPU. Python floats become float32, float16 and bfloat16
        of the host float32, other integers (up to 64 bits) int64, and byte order becomes native. Everything else is
        refused. Tensors and other libraries' arrays on the device are copied there, without the host.
    requires_grad : bool
        Record what is done with it; floating point only.
    dtype : numpy dtype, optional
        Convert to this one of the four dtypes, or to "bfloat16" on a GPU, instead.
    device : str, optional
        "cpu" or "cuda"; that of the data if it is on a device, else the default device.

    Returns
    -------
    Tensor
        Row-major, of the data's shape.

    Raises
    ------
    TypeError
        If the dtype is not one of those above.
    gankernels.DeviceError
        If the device cannot be used.

    Examples
    --------
    >>> import gankernels as gk
    >>> gk.tensor([1.0, 2.0]).dtype
    dtype('float32')
    """
    backend = get(device)
    if isinstance(data, Tensor):
        data = data.data
    on_device = data if type(data) is DeviceArray else _device_array(data)
    if on_device is not None:
        here = on_device.backend
        wanted = on_device.dtype if dtype is None else kept_dtype("tensor", dtype, here if device is None else backend)
        here = on_device.backend
        copy = here.cast(on_device, wanted)
        if on_device is not data:
            here.synchronize()  # its owner may change or free it now
        return Tensor(_placed(copy, here if device is None else backend), requires_grad)
    array = _host_array(data)
    wanted = _documented_dtype(array, data) if dtype is None else kept_dtype("tensor", dtype, backend)
    check_shape("tensor", array.shape)
    if dtype is not None and array.dtype.kind not in "biuf" and array.dtype.name != "bfloat16":
        raise TypeError(f"tensor: cannot convert data of dtype {array.dtype} to {wanted}")
    copied = get("cpu").empty(array.shape, computed(wanted))
    np.copyto(copied, array, casting="unsafe")
    return Tensor(_rounded(_placed(copied, backend), wanted), requires_grad)


def _rounded(array: Any, dtype: Any) -> Any:
    """The array itself, or what it is in bfloat16, which NumPy's arrays are made without."""
    return backend_of(array).cast(array, dtype) if is_bfloat16(dtype) else array


def _placed(array: Any, backend: Any) -> Any:
    """The array itself if it belongs to the backend, else a copy there."""
    return array if backend_of(array) is backend else backend.from_host(to_host(array))


def from_array(array: Any, requires_grad: bool = False) -> Tensor:
    """A tensor that shares memory with a NumPy array (or an exporter of `__dlpack__`) of a kept dtype.

    Strided arrays are taken as they are; the tensor is on the device where the memory is. Use `tensor` for a copy, for
    other dtypes and for another device.

    Raises
    ------
    TypeError
        If the dtype is not native float32, float64, int64 or bool.
    """
    if not any(hasattr(array, name) for name in ("__dlpack__", "__array_interface__", "__array__")):
        raise TypeError(f"from_array: expected an array, got {type(array).__name__}; gankernels.tensor converts lists")
    if not isinstance(array, np.ndarray):
        on_device = _device_array(array)
        if on_device is not None:
            return Tensor(on_device, requires_grad)
    host = _host_array(array)
    check_shape("from_array", host.shape)
    if any(s % host.itemsize for s in host.strides):
        raise TypeError(
            f"from_array: strides {host.strides} are not multiples of the {host.itemsize} bytes of an element"
        )
    if host.dtype not in KEPT or not host.dtype.isnative or not host.flags.aligned:
        raise TypeError(
            f"from_array: dtype {host.dtype} cannot be shared; expected aligned native float32, float64, int64 or bool "
            "(gankernels.tensor converts)"
        )
    return Tensor(host, requires_grad)


def full(
    shape: Any, value: float, *, dtype: Any = np.float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of one value; shape an int or ints. `device` None: the default device."""
    backend = get(device)
    return Tensor(filled(backend, extents("full", shape), value, kept_dtype("full", dtype, backend)), requires_grad)


def zeros(*shape: Any, dtype: Any = np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros; shape as ints or one tuple."""
    extent = shape[0] if len(shape) == 1 else shape
    return full(extent, 0, dtype=dtype, device=device, requires_grad=requires_grad)


def ones(*shape: Any, dtype: Any = np.float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones; shape as ints or one tuple."""
    extent = shape[0] if len(shape) == 1 else shape
    return full(extent, 1, dtype=dtype, device=device, requires_grad=requires_grad)


def _full_like(t: Tensor, value: float, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    backend = backend_of(t.data) if device is None else get(device)
    wanted = kept_dtype("full_like", t.dtype if dtype is None else dtype, backend)
    return Tensor(backend.full(t.shape, value, wanted), requires_grad)


def zeros_like(t: Tensor, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of zeros of t's shape and, unless others are given, dtype and device."""
    return _full_like(t, 0, dtype, device, requires_grad)


def ones_like(t: Tensor, *, dtype: Any = None, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """A tensor of ones of t's shape and, unless others are given, dtype and device."""
    return _full_like(t, 1, dtype, device, requires_grad)


def arange(
    start: float,
    end: float | None = None,
    step: float = 1,
    *,
    dtype: Any = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """start, start + step, ... below end (0 to start with one argument); int64 if all are ints, else float32."""
    first, last = (0, start) if end is None else (start, end)
    if step == 0 or not (last - first) / step >= 0:
        raise ValueError(f"arange: step {step} does not lead from {first} to {last}")
    whole = all(isinstance(v, (int, np.integer)) for v in (first, last, step))
    backend = get(device)
    wanted = kept_dtype("arange", (np.int64 if whole else np.float32) if dtype is None else dtype, backend)
    values = np.arange(first, last, step).astype(computed(wanted))
    return Tensor(_rounded(backend.from_host(values), wanted), requires_grad)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: Any = np.float32,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """`steps` numbers at equal distances from start to end, both included."""
    (count,) = extents("linspace", steps)
    backend = get(device)
    wanted = kept_dtype("linspace", dtype, backend)
    values = np.linspace(start, end, count).astype(computed(wanted))
    return Tensor(_rounded(backend.from_host(values), wanted), requires_grad)


def eye(
    n: int, m: int | None = None, *, dtype: Any = np.float32, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """The identity matrix of n rows and m (None: n) columns."""
    rows, columns = extents("eye", (n, n if m is None else m))
    backend = get(device)
    wanted = kept_dtype("eye", dtype, backend)
    values = np.eye(rows, columns).astype(computed(wanted))
    return Tensor(_rounded(backend.from_host(values), wanted), requires_grad)
