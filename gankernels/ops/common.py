"""What every operation needs: operands as tensors, dtype rules, outputs to write into."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, wraps
from math import prod
from typing import Any, TypeVar

import numpy as np

from gankernels.autograd import Tensor, compute_dtype, record
from gankernels.backends import DEVICES, backend_of, default_device
from gankernels.backends.device_array import DeviceArray
from gankernels.backends.recording import unrecorded
from gankernels.dtypes import bfloat16, computed, is_bfloat16, is_float, named
from gankernels.geometry import MAX_ELEMENTS, is_int

__all__ = [
    "DEVICES",
    "KEPT",
    "as_tensor",
    "axes",
    "axis_index",
    "broadcast_array",
    "cast",
    "channel_vectors",
    "check_float",
    "check_shape",
    "contiguous",
    "copy_parts",
    "default_device",
    "empty_like",
    "empty_vector",
    "extents",
    "filled",
    "in_float32",
    "is_scalar",
    "kept_dtype",
    "product_operands",
    "promote",
    "same_device",
    "scalar_beside",
    "stores_bfloat16",
    "to_host",
    "wide",
]

MAX_AXES = 8  # gk::kMaxRank
_Function = TypeVar("_Function", bound=Callable[..., Any])


def is_scalar(value: Any) -> bool:
    """True for a Python or NumPy number, which adapts to the dtype of the tensor beside it."""
    return isinstance(value, (int, float, np.integer, np.floating, np.bool_))


def as_tensor(op: str, name: str, value: Any) -> Tensor:
    """The operand as a Tensor; arrays are wrapped without a copy."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        from gankernels.ops.creation import from_array

        return from_array(value)
    raise TypeError(f"{op}: {name} must be a Tensor, got {type(value).__name__}")


def scalar_beside(t: Tensor, value: Any) -> Tensor:
    """A number as a tensor without axes on t's device: of t's dtype, or float32 if t holds integers and it is none."""
    if is_float(t.dtype):
        dtype = t.dtype
    elif isinstance(value, (bool, np.bool_)):
        dtype = np.dtype(np.bool_)
    else:
        dtype = np.dtype(np.int64 if isinstance(value, (int, np.integer)) else np.float32)
    backend = backend_of(t.data)
    if type(t.data) is DeviceArray:
        return Tensor(_device_scalar(backend, value, str(value)[:1], dtype))
    return Tensor(filled(backend, (), value, dtype))


@lru_cache(maxsize=256)
def _device_scalar(backend: Any, value: Any, sign: str, dtype: Any) -> Any:
    """A number on a device, made once: the same few stand beside tensors again and again. The sign tells -0 from 0."""
    with unrecorded():
        return filled(backend, (), value, dtype)


def filled(backend: Any, shape: tuple[int, ...], value: Any, dtype: Any) -> Any:
    """An array of one value; kernels take it as a double, which holds integers up to 2**53 only."""
    if dtype == np.int64 and not -(2**53) <= value <= 2**53:
        return backend.from_host(np.full(shape, value, dtype))
    return backend.full(shape, value, dtype)


def copy_parts(sources: Sequence[Any], targets: Sequence[Any], whole: Any) -> None:
    """targets[i] = sources[i], arrays, each target a view of `whole`; several at once where the backend can."""
    backend = backend_of(whole)
    if hasattr(backend, "copy_parts") and len(targets) > 1:
        backend.copy_parts(sources, targets, whole)
        return
    for source, target in zip(sources, targets, strict=True):
        backend.copy(source, target)


def same_device(op: str, **operands: Any) -> None:
    """Raise unless all operands are tensors on one device."""
    known = [(name, t, backend_of(t.data).name) for name, t in operands.items() if isinstance(t, Tensor)]
    for name, _, where in known:
        if where != known[0][2]:
            raise RuntimeError(
                f"{op}: {name} is on {where!r}, {known[0][0]} on {known[0][2]!r}; move one of them with .to(device)"
            )


def check_float(op: str, **operands: Any) -> None:
    """Raise unless every operand is a float Tensor and all have the same dtype."""
    first: tuple[str, Tensor] | None = None
    for name, t in operands.items():
        if t is None:
            continue
        if not isinstance(t, Tensor):
            raise TypeError(f"{op}: {name} must be a Tensor, got {type(t).__name__}")
        if t.dtype not in (np.float32, np.float64) and not is_bfloat16(t.dtype):
            raise TypeError(f"{op}: {name} has dtype {t.dtype}; expected float32 or float64")
        if first is not None and t.dtype != first[1].dtype:
            raise TypeError(
                f"{op}: {name} has dtype {t.dtype}, {first[0]} has {first[1].dtype}; convert one with .to()"
            )
        if first is not None and type(t.data) is not type(first[1].data):
            same_device(op, **operands)
        first = first or (name, t)


def product_operands(op: str, bias: Any = None, rounds: bool = True, **operands: Any) -> tuple[Any, ...]:
    """What a product multiplies, float tensors of one dtype, and the bias, in the dtype that sums have.

    Within `autocast("bfloat16")` float32 becomes bfloat16 here on a device whose arrays hold it; elsewhere kernels
    round what they multiply. Where the product `rounds` nothing, whatever autocast says, bfloat16 becomes float32.
    """
    if compute_dtype() == "bfloat16":
        same_device(op, **operands)
        if not any(isinstance(t, Tensor) and t.dtype == np.float64 for t in operands.values()):
            operands = {name: _rounded(t) if rounds else _wide(t) for name, t in operands.items()}
    elif bias is not None and bias.dtype.kind == "f":
        check_float(op, **operands, bias=bias)
        return (*operands.values(), bias)
    check_float(op, **operands)
    if bias is None:
        return (*operands.values(), None)
    name, first = next(iter(operands.items()))
    return (*operands.values(), *channel_vectors(op, name, first, bias=bias))


def _rounded(t: Any) -> Any:
    if isinstance(t, Tensor) and t.dtype == np.float32 and stores_bfloat16(backend_of(t.data)):
        return cast(t, bfloat16())
    return t


def _wide(t: Any) -> Any:
    return cast(t, np.float32) if isinstance(t, Tensor) and is_bfloat16(t.dtype) else t


def channel_vectors(op: str, name: str, x: Tensor, **vectors: Any) -> Iterable[Tensor | None]:
    """What belongs to the channels of x, in the dtype that kernels compute in: x's own, float32 beside bfloat16."""
    if not is_bfloat16(x.dtype):
        check_float(op, **{name: x}, **vectors)
        return vectors.values()
    vectors = {k: _wide(v) for k, v in vectors.items()}
    check_float(op, **vectors)
    same_device(op, **{name: x}, **vectors)
    for k, v in vectors.items():
        if v is not None and v.dtype != np.float32:
            raise TypeError(f"{op}: {k} has dtype {v.dtype}, {name} has {x.dtype}; convert one with .to()")
    return vectors.values()


def wide(x: Tensor) -> Tensor:
    """x; within `autocast("bfloat16")` in float32 if it is bfloat16: sums, losses and what grows fast, as PyTorch."""
    return _wide(x) if compute_dtype() == "bfloat16" else x


def in_float32(function: _Function) -> _Function:
    """Decorate an operation of several steps on its first argument: of bfloat16 it is computed in float32.

    Its result is rounded once, or stays float32 within `autocast("bfloat16")`.
    """

    @wraps(function)
    def wrapped(x: Any, *args: Any, **options: Any) -> Any:
        if not (isinstance(x, Tensor) and is_bfloat16(x.dtype)):
            return function(x, *args, **options)
        y = function(cast(x, np.float32), *args, **options)
        return y if compute_dtype() == "bfloat16" else cast(y, x.dtype)

    return wrapped  # type: ignore[return-value]


# ---- dtypes --------------------------------------------------------------------------------------------------------
#: The dtypes of tensors on every device.
KEPT = (np.dtype(np.float32), np.dtype(np.float64), np.dtype(np.int64), np.dtype(np.bool_))


def stores_bfloat16(backend: Any) -> bool:
    """Whether a backend's arrays hold bfloat16."""
    return getattr(backend, "stores_bfloat16", False)


def kept_dtype(op: str, dtype: Any, backend: Any) -> Any:
    """One of the four dtypes of tensors, bfloat16 too where the backend stores it, or an error that names what came."""
    try:
        found = named(dtype)
    except TypeError:
        found = None
    if found is not None and is_bfloat16(found):
        if stores_bfloat16(backend):
            return found
        raise TypeError(
            f"{op}: dtype bfloat16 is held by arrays of the compiled CUDA kernels alone, not on {backend.name!r} here; "
            "use float32, float64, int64 or bool, and gankernels.autocast('bfloat16') for products in bfloat16"
        )
    if found is None or found not in KEPT:  # np.dtype(np.float64) == None holds
        raise TypeError(f"{op}: dtype {dtype!r} is not supported; use float32, float64, int64 or bool")
    return found


def cast(x: Tensor, dtype: Any) -> Tensor:
    """x in another dtype (float32, float64, int64, bool; bfloat16 on a GPU); differentiable between the floats."""
    backend = backend_of(x.data)
    try:
        dtype = named(dtype)
    except TypeError:
        raise TypeError(f"cast: expected a dtype (float32, float64, int64, bool) or a device, got {dtype!r}") from None
    dtype = kept_dtype("cast", dtype, backend)
    if dtype == x.dtype:
        return x
    array = backend.cast(x.data, dtype)
    if not is_float(dtype) or not is_float(x.dtype):
        return Tensor(array)
    before = x.dtype
    return record("cast", array, (x,), lambda ct, _: [cast(ct, before)])


def promote(op: str, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Both operands as tensors of one dtype: float64 beats float32, bfloat16, int64, bool in turn, as in PyTorch."""
    ta, tb = as_tensor(op, "the first operand", a), as_tensor(op, "the second operand", b)
    if type(ta.data) is not type(tb.data):
        same_device(op, **{"the first operand": ta, "the second operand": tb})
    if ta.dtype == tb.dtype:
        return ta, tb
    dtypes = (ta.dtype, tb.dtype)
    brain = [t for t in dtypes if is_bfloat16(t)]
    for dtype in (np.float64, np.float32, *brain, np.int64):
        if np.dtype(dtype) in dtypes:
            return cast(ta, dtype), cast(tb, dtype)
    raise TypeError(f"{op}: cannot combine dtypes {ta.dtype} and {tb.dtype}")


def extents(op: str, shape: Any) -> tuple[int, ...]:
    """A shape from an int or ints, checked."""
    given = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if not all(is_int(n) for n in given):
        raise TypeError(f"{op}: the shape must be an int or ints, got {shape!r}")
    found = tuple(int(n) for n in given)
    if any(n < 0 for n in found):
        raise ValueError(f"{op}: the extents must not be negative, got {shape!r}")
    check_shape(op, found)
    return found


def check_shape(op: str, shape: tuple[int, ...]) -> None:
    """Raise if there are more axes or elements than the kernels count."""
    if len(shape) > MAX_AXES:
        raise ValueError(f"{op}: shape {shape} has {len(shape)} axes; the limit is {MAX_AXES}")
    if prod(shape) > MAX_ELEMENTS:
        raise ValueError(f"{op}: shape {shape} has {prod(shape)} elements; the limit is {MAX_ELEMENTS}")


def empty_like(array: Any, shape: tuple[int, ...] | None = None) -> Any:
    """An output of the array's backend and dtype."""
    return backend_of(array).empty(array.shape if shape is None else shape, array.dtype)


def empty_vector(array: Any, n: int) -> Any:
    """An output for n numbers that belong to the channels of an array, in what its kernels compute in."""
    return backend_of(array).empty((n,), computed(array.dtype))


def contiguous(array: Any) -> Any:
    """The array, or a row-major copy of it."""
    return backend_of(array).contiguous(array)


def to_host(array: Any) -> Any:
    """The NumPy array itself, or a copy of a device's array, which waits for the device; bfloat16 becomes float32."""
    backend = backend_of(array)
    return backend.to_host(backend.cast(array, np.float32) if is_bfloat16(array.dtype) else array)


def broadcast_array(array: Any, shape: tuple[int, ...]) -> Any:
    """A view of the array with another shape; repeated axes have a stride of zero."""
    return array.broadcast_to(shape) if type(array) is DeviceArray else np.broadcast_to(array, shape)


def axis_index(op: str, dim: Any, ndim: int) -> int:
    """A non-negative axis from one that may count from the end."""
    if not is_int(dim):
        raise TypeError(f"{op}: dim must be an int, got {dim!r}")
    if not -max(ndim, 1) <= dim < max(ndim, 1):
        raise IndexError(f"{op}: dim {dim} is out of range for a tensor of {ndim} axes")
    return int(dim) % max(ndim, 1)


def axes(op: str, dim: Any, ndim: int) -> tuple[int, ...]:
    """Non-negative axes from None (all), an int or a sequence."""
    if dim is None:
        return tuple(range(ndim))
    found = tuple(axis_index(op, d, ndim) for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))
    if len(set(found)) != len(found):
        raise ValueError(f"{op}: dim {dim} names an axis twice")
    return tuple(sorted(found)) if ndim else ()
