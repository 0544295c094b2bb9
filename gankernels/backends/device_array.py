"""DeviceArray: shape, strides and owner of memory on a device. Views without copies, and no arithmetic at all.

Every backend for a device hands these out and takes them back, so that arrays pass between backends as they are.
"""

from __future__ import annotations

from math import prod
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from gankernels.backends import dlpack

__all__ = ["DeviceArray", "Flags", "c_strides", "host_view"]


def c_strides(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a row-major array without gaps."""
    strides = [itemsize] * len(shape)
    for i in range(len(shape) - 1, 0, -1):
        strides[i - 1] = strides[i] * max(shape[i], 1)
    return tuple(strides)


def _is_contiguous(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    if 0 in shape:
        return True
    expected = itemsize
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1:
            if s != expected:
                return False
            expected *= n
    return True


class Flags:
    """What `array.flags` tells: whether the elements lie row-major without gaps."""

    __slots__ = ("c_contiguous",)
    writeable = True

    def __init__(self, c_contiguous: bool) -> None:
        self.c_contiguous = c_contiguous


_CONTIGUOUS, _STRIDED = Flags(True), Flags(False)


class DeviceArray:
    """An array on a device: a buffer that somebody else allocated, and how to read it.

    Parameters
    ----------
    buffer : object
        Owns the memory for as long as an array refers to it: `ptr` (int address), `nbytes` (int), `host` (a 1-D uint8
        NumPy array over the same memory where a device is only simulated, else None) and optionally `stream` (the
        CUDA stream that orders its use, 1 if absent) and `device_index` (0 if absent).
    shape : tuple of int
    dtype : numpy dtype
        bfloat16 (gankernels.dtypes), float32, float64, int64 or bool.
    backend : module
        Whose kernels take this array.
    strides : tuple of int, optional
        Bytes; row-major without gaps if left out.
    offset : int
        Bytes from the start of the buffer to the first element.
    """

    __slots__ = (
        "__weakref__", "backend", "base", "buffer", "dtype", "flags", "native", "ndim", "offset", "shape", "size",
        "strides",
    )  # fmt: skip
    __array_ufunc__ = None  # numpy_array + device_array is an error, not a loop over views

    def __init__(
        self,
        buffer: Any,
        shape: tuple[int, ...],
        dtype: Any,
        backend: Any,
        strides: tuple[int, ...] | None = None,
        offset: int = 0,
    ) -> None:
        self.buffer = buffer
        self.shape = shape
        self.dtype: np.dtype[Any] = dtype if isinstance(dtype, np.dtype) else np.dtype(dtype)
        self.backend = backend
        self.offset = offset
        self.native: Any = None  # a backend's own object for this array, cached
        self.base: DeviceArray | None = None  # the array that this is a view of
        self.ndim = len(shape)
        self.size = prod(shape)
        if strides is None:
            self.strides = c_strides(shape, self.dtype.itemsize)
            self.flags = _CONTIGUOUS
        else:
            self.strides = strides
            self.flags = _CONTIGUOUS if _is_contiguous(shape, strides, self.dtype.itemsize) else _STRIDED

    # ---- metadata --------------------------------------------------------------------------------------------------
    @property
    def ptr(self) -> int:
        """Address of the first element."""
        return int(self.buffer.ptr) + self.offset

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of all elements, without gaps."""
        return self.size * self.dtype.itemsize

    @property
    def device(self) -> str:
        """Name of the device: "cuda"."""
        return str(self.backend.name)

    @property
    def stream(self) -> int:
        """The CUDA stream that orders the use of this memory (1: the legacy default stream)."""
        return getattr(self.buffer, "stream", None) or 1

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len: an array without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"DeviceArray(shape={self.shape}, dtype={self.dtype}, strides={self.strides}, device={self.device!r})"

    # ---- views -----------------------------------------------------------------------------------------------------
    def _view(self, shape: tuple[int, ...], strides: tuple[int, ...] | None, offset: int = 0) -> DeviceArray:
        view = DeviceArray(self.buffer, shape, self.dtype, self.backend, strides, self.offset + offset)
        view.base = self if self.base is None else self.base
        return view

    def reshape(self, *shape: Any) -> DeviceArray:
        """A view with other extents (one may be -1) in the same row-major order.

        Raises
        ------
        ValueError
            If the extents do not fit, or if only a copy could have this shape.
        """
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        extents = _filled_in(self.shape, self.size, tuple(int(n) for n in wanted))
        if self.flags.c_contiguous:
            return self._view(extents, None)
        strides = _regrouped(self.shape, self.strides, extents, self.dtype.itemsize)
        if strides is None:
            raise ValueError(
                f"reshape: an array of shape {self.shape} and strides {self.strides} has no view of shape {extents}; "
                "copy it first"
            )
        return self._view(extents, strides)

    def ravel(self) -> DeviceArray:
        """A view with one axis; ValueError if only a copy could be that."""
        return self.reshape(self.size)

    def transpose(self, *order: Any) -> DeviceArray:
        """A view with the axes in another order; reversed if none is given."""
        given = order[0] if len(order) == 1 and not isinstance(order[0], (int, np.integer)) else order
        if given is None or len(given) == 0:
            given = range(self.ndim - 1, -1, -1)
        found = [_axis(self.ndim, i) for i in given]
        if sorted(found) != list(range(self.ndim)):
            raise ValueError(f"transpose: {tuple(given)} is not an order of {self.ndim} axes")
        return self._view(tuple(self.shape[i] for i in found), tuple(self.strides[i] for i in found))

    @property
    def T(self) -> DeviceArray:
        """A view with the axes reversed."""
        return self.transpose()

    def swapaxes(self, a: int, b: int) -> DeviceArray:
        """A view with two axes exchanged."""
        order = list(range(self.ndim))
        i, j = _axis(self.ndim, a), _axis(self.ndim, b)
        order[i], order[j] = order[j], order[i]
        return self.transpose(order)

    def broadcast_to(self, shape: tuple[int, ...]) -> DeviceArray:
        """A view that repeats axes of extent 1, and new leading axes, with strides of zero."""
        if self.shape == shape:
            return self
        lead = len(shape) - self.ndim
        if lead < 0 or any(n not in (1, m) for n, m in zip(self.shape, shape[lead:], strict=True)):
            raise ValueError(f"broadcast_to: shape {self.shape} cannot be broadcast to {shape}")
        kept = (s if n == m else 0 for n, m, s in zip(self.shape, shape[lead:], self.strides, strict=True))
        return self._view(tuple(shape), (*(0,) * lead, *kept))

    def squeeze(self, axis: int | None = None) -> DeviceArray:
        """A view without the axes of extent 1, or without one of them."""
        if axis is None:
            dropped = [i for i, n in enumerate(self.shape) if n == 1]
        else:
            dropped = [_axis(self.ndim, axis)]
            if self.shape[dropped[0]] != 1:
                raise ValueError(f"squeeze: axis {axis} of shape {self.shape} has not extent 1")
        kept = [i for i in range(self.ndim) if i not in dropped]
        return self._view(tuple(self.shape[i] for i in kept), tuple(self.strides[i] for i in kept))

    def expand(self, axis: int) -> DeviceArray:
        """A view with a new axis of extent 1."""
        i = _axis(self.ndim + 1, axis)
        return self._view((*self.shape[:i], 1, *self.shape[i:]), (*self.strides[:i], 0, *self.strides[i:]))

    def __getitem__(self, key: Any) -> DeviceArray:
        """A view by integers, slices, None and Ellipsis; a view without axes where NumPy gives a scalar."""
        parts = key if isinstance(key, tuple) else (key,)
        named = 0
        for p in parts:
            named += p is not None and p is not Ellipsis
        if named > self.ndim:
            raise IndexError(f"too many indices: array is {self.ndim}-dimensional, but {named} were indexed")
        shape: list[int] = []
        strides: list[int] = []
        axis, offset, filled = 0, 0, False
        for p in parts:
            if p is None:
                shape.append(1)
                strides.append(0)
            elif p is Ellipsis:
                if filled:
                    raise IndexError("an index can only have a single ellipsis ('...')")
                filled = True
                end = axis + self.ndim - named
                shape += self.shape[axis:end]
                strides += self.strides[axis:end]
                axis = end
            elif isinstance(p, slice):
                start, stop, step = p.indices(self.shape[axis])
                count = len(range(start, stop, step))
                offset += start * self.strides[axis] if count else 0
                shape.append(count)
                strides.append(self.strides[axis] * step)
                axis += 1
            elif isinstance(p, (int, np.integer)) and not isinstance(p, bool):
                n = self.shape[axis]
                if not -n <= p < n:
                    raise IndexError(f"index {p} is out of bounds for axis {axis} with size {n}")
                offset += (int(p) % n) * self.strides[axis]
                axis += 1
            else:
                raise IndexError(
                    f"only integers, slices, None and Ellipsis make a view of a device array, got {type(p).__name__}"
                )
        shape += self.shape[axis:]
        strides += self.strides[axis:]
        return self._view(tuple(shape), tuple(strides), offset)

    # ---- exchange --------------------------------------------------------------------------------------------------
    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3: CuPy, Numba and PyTorch read it without a copy. It cannot name bfloat16: AttributeError."""
        if self.dtype.kind == "V":
            raise AttributeError("__cuda_array_interface__ has no name for bfloat16; use DLPack")
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.ptr if self.size else 0, False),
            "strides": None if self.flags.c_contiguous else self.strides,
            "version": 3,
            "stream": self.stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        """(2, index) for CUDA memory; (1, 0) where the device is simulated in host memory."""
        return dlpack.device_of(self)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A DLPack capsule over the same memory, ready to be read on `stream` (-1: the consumer takes care)."""
        return dlpack.export(self, stream, dl_device, copy)

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(
            f"an array on {self.device!r} is not copied to the host silently; call .cpu() on the tensor first"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceArray:
        """A row-major copy in memory of its own on the same device."""
        copied: DeviceArray = self.backend.empty(self.shape, self.dtype)
        self.backend.copy(self, copied)
        memo[id(self)] = copied
        return copied

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"an array on {self.device!r} cannot be serialised; save its .cpu() copy")

    def __bool__(self) -> NoReturn:
        raise TypeError(f"the truth of an array on {self.device!r} is not read silently; call .cpu() first")


def _axis(ndim: int, axis: Any) -> int:
    if not -ndim <= axis < ndim:
        raise ValueError(f"axis {axis} is out of bounds for an array of {ndim} axes")
    return int(axis) % ndim


def _filled_in(shape: tuple[int, ...], size: int, wanted: tuple[int, ...]) -> tuple[int, ...]:
    """`wanted` with the one -1 replaced."""
    rest = prod(n for n in wanted if n != -1)
    if wanted.count(-1) == 1 and rest and not size % rest:
        wanted = tuple(size // rest if n == -1 else n for n in wanted)
    if any(n < 0 for n in wanted) or prod(wanted) != size:
        raise ValueError(f"reshape: an array of shape {shape} ({size} elements) does not fit into {wanted}")
    return wanted


def _regrouped(
    shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...], itemsize: int
) -> tuple[int, ...] | None:
    """Strides of the view with the extents `wanted`, or None where a copy would be needed.

    Axes are taken in the smallest groups of equal products; a group is a view if its old axes can be merged into one.
    """
    if 0 in shape:
        return c_strides(wanted, itemsize)
    old = [(n, s) for n, s in zip(shape, strides, strict=True) if n != 1]
    found = [0] * len(wanted)
    new = [i for i, n in enumerate(wanted) if n != 1]
    i = j = 0
    while i < len(old):
        first_old, first_new = i, j
        many_old, many_new = old[i][0], wanted[new[j]]
        i, j = i + 1, j + 1
        while many_old != many_new:
            if many_old < many_new:
                many_old *= old[i][0]
                i += 1
            else:
                many_new *= wanted[new[j]]
                j += 1
        for (_, outer), (n, inner) in zip(old[first_old : i - 1], old[first_old + 1 : i], strict=True):
            if outer != n * inner:
                return None
        step = old[i - 1][1]
        for k in reversed(new[first_new:j]):
            found[k] = step
            step *= wanted[k]
    return tuple(found)


def host_view(array: DeviceArray) -> NDArray[Any]:
    """The NumPy array over the memory of a simulated device.

    Raises
    ------
    TypeError
        If the memory is on a real device.
    """
    host = getattr(array.buffer, "host", None)
    if host is None:
        raise TypeError("host_view: this memory is on a real device; use the backend's to_host")
    if not array.size:
        return np.empty(array.shape, array.dtype)
    return np.ndarray(array.shape, array.dtype, buffer=host, offset=array.offset, strides=array.strides)
