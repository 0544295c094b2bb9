"""The operators and methods of Tensor, in one table."""

from __future__ import annotations

from typing import Any

import numpy as np

from gankernels.autograd import Tensor, record
from gankernels.backends import DEVICES, backend_of, get, recording
from gankernels.backends.device_array import DeviceArray
from gankernels.dtypes import is_float
from gankernels.ops import creation, derived, gather, linalg, pointwise, reduce, shape
from gankernels.ops.common import axis_index, cast, contiguous, empty_like, is_scalar, to_host


def _reflected(function: Any) -> Any:
    return lambda self, other: function(other, self)


def _comparison(op: str) -> Any:
    def compared(self: Tensor, other: Any) -> Any:
        known = isinstance(other, (Tensor, np.ndarray)) or is_scalar(other)
        return pointwise.compare(op, self, other) if known else NotImplemented

    return compared


def _numpy(self: Tensor) -> Any:
    """A NumPy array that shares memory; a tensor that requires a gradient, or is on a device, is not read silently."""
    if self.requires_grad:
        raise RuntimeError("numpy: the tensor requires a gradient; use t.detach().numpy()")
    recording.forbid("a tensor was read as a NumPy array")
    if type(self.data) is DeviceArray:
        raise TypeError(f"numpy: the tensor is on {self.data.device!r}; use t.cpu().numpy() to copy it to the host")
    return self.data


def _detach(self: Tensor) -> Tensor:
    """The same array outside the graph."""
    return Tensor(self.data)


def _item(self: Tensor) -> Any:
    """The only element as a Python number."""
    if self.data.size != 1:
        raise ValueError(f"item: only a tensor of one element has an item, got shape {self.shape}")
    return to_host(self.data).reshape(-1)[0].item()


def _moved(x: Tensor, device: str) -> Tensor:
    """x itself if it is on the device, else a copy there; the gradient comes back to x's device."""
    backend, source = get(device), backend_of(x.data)
    if backend is source:
        return x
    array, dtype = backend.from_host(to_host(x.data)), x.dtype
    return record("to", array, (x,), lambda ct, _: [cast(_moved(ct, source.name), dtype)])


def _to(self: Tensor, *targets: Any, device: str | None = None, dtype: Any = None) -> Tensor:
    """self in another dtype, on another device ("cpu", "cuda"), or in and on those of another tensor.

    A copy to another device waits for it, and bfloat16 becomes float32; where nothing changes self is returned.
    """
    moved = self
    for target in (*targets, device, dtype):
        if isinstance(target, str) and target in DEVICES:
            moved = _moved(moved, target)
        elif isinstance(target, Tensor):
            moved = cast(_moved(moved, backend_of(target.data).name), target.dtype)
        elif target is not None:
            moved = cast(moved, target)
    return moved


def _repr(self: Tensor) -> str:
    body = np.array2string(to_host(self.data), precision=4, threshold=100, prefix="tensor(")
    device = f", device={self.data.device!r}" if type(self.data) is DeviceArray else ""
    grad = ", requires_grad=True" if self.requires_grad else ""
    return f"tensor({body}, dtype={self.dtype}{device}{grad})"


def _bool(self: Tensor) -> bool:
    if self.data.size != 1:
        raise ValueError(f"bool: the truth of a tensor of shape {self.shape} is ambiguous; use .any() or .all()")
    return bool(_item(self))


def _requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Switch recording for a leaf; returns self."""
    if self.node is not None:
        raise RuntimeError("requires_grad_: only a leaf can be switched; use detach()")
    if requires_grad and not is_float(self.dtype):
        raise TypeError(f"requires_grad_: only floating-point tensors can require gradients, got dtype {self.dtype}")
    self.requires_grad = requires_grad
    return self


def _len(self: Tensor) -> int:
    if self.ndim == 0:
        raise TypeError("len: a tensor without axes has no length")
    return self.shape[0]


def _clone(self: Tensor) -> Tensor:
    """A copy in memory of its own, still part of the graph."""
    copied = empty_like(self.data)
    backend_of(self.data).copy(self.data, copied)
    return record("clone", copied, (self,), lambda ct, _: [ct])


def _view(self: Tensor, *extents: Any) -> Tensor:
    """reshape, under PyTorch's other name."""
    return shape.reshape(self, *extents)


def _expand(self: Tensor, *extents: Any) -> Tensor:
    """broadcast_to, under PyTorch's other name; -1 keeps an extent."""
    wanted = extents[0] if len(extents) == 1 and isinstance(extents[0], (tuple, list)) else extents
    lead = len(wanted) - self.ndim
    return shape.broadcast_to(
        self, [self.shape[i - lead] if n == -1 and i >= lead else n for i, n in enumerate(wanted)]
    )


def _squeeze(self: Tensor, dim: int | None = None) -> Tensor:
    """Without the axes of extent 1, or without axis `dim` if its extent is 1."""
    chosen = range(self.ndim) if dim is None else (axis_index("squeeze", dim, self.ndim),)
    return self.reshape([n for i, n in enumerate(self.shape) if n != 1 or i not in chosen])


def _unsqueeze(self: Tensor, dim: int) -> Tensor:
    """With a new axis of extent 1 at `dim`."""
    axis = axis_index("unsqueeze", dim, self.ndim + 1)
    return self.reshape([*self.shape[:axis], 1, *self.shape[axis:]])


def _array(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    array = _numpy(self)
    return array.astype(dtype or array.dtype) if copy else np.asarray(array, dtype)


def _iterate(self: Tensor) -> Any:
    return (self[i] for i in range(_len(self)))


def _check_masks(op: str, *operands: Any) -> None:
    for t in operands:
        if not isinstance(t, Tensor) or t.dtype != np.bool_:
            raise TypeError(f"{op}: expected bool tensors, got {getattr(t, 'dtype', type(t).__name__)}")


def _and(self: Tensor, other: Tensor) -> Tensor:
    _check_masks("logical_and", self, other)
    return pointwise.minimum(self, other)


def _or(self: Tensor, other: Tensor) -> Tensor:
    _check_masks("logical_or", self, other)
    return pointwise.maximum(self, other)


def _not(self: Tensor) -> Tensor:
    _check_masks("logical_not", self)
    return pointwise.compare("equal", self, False)


def _nonzero(self: Tensor) -> int:
    """How many elements are not 0; read from the device."""
    return int(reduce.sum(cast(self, np.bool_)).item())


def _format(self: Tensor, spec: str) -> str:
    return format(_item(self), spec) if spec else _repr(self)


def _compare(op: str) -> Any:
    return lambda self, other: pointwise.compare(op, self, other)


def _refused(message: str) -> Any:
    def method(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(message)

    return method


def _new(make: Any) -> Any:
    return lambda self, *extents, dtype=None, device=None, requires_grad=False: make(
        *extents,
        dtype=self.dtype if dtype is None else dtype,
        device=backend_of(self.data).name if device is None else device,
        requires_grad=requires_grad,
    )


def _cuda_array_interface(self: Tensor) -> Any:
    if type(self.data) is not DeviceArray:
        raise AttributeError("__cuda_array_interface__: the tensor is on the CPU")
    return self.data.__cuda_array_interface__


def _dlpack(self: Tensor, **kwargs: Any) -> Any:
    if self.requires_grad:
        raise RuntimeError("__dlpack__: the tensor requires a gradient; export t.detach()")
    return contiguous(self.data).__dlpack__(**kwargs)


_NO_QUOTIENT = "tensors have no whole division; use (a / b).floor() and a - b*(a / b).floor()"

_METHODS: dict[str, Any] = {
    "__add__": pointwise.add, "__radd__": _reflected(pointwise.add),
    "__sub__": pointwise.sub, "__rsub__": _reflected(pointwise.sub),
    "__mul__": pointwise.mul, "__rmul__": _reflected(pointwise.mul),
    "__truediv__": pointwise.div, "__rtruediv__": _reflected(pointwise.div),
    "__pow__": pointwise.pow, "__rpow__": _reflected(pointwise.pow),
    "__matmul__": linalg.matmul, "__rmatmul__": _reflected(linalg.matmul),
    "__neg__": pointwise.neg, "__abs__": pointwise.abs,
    "__eq__": _comparison("equal"), "__ne__": _comparison("not_equal"),
    "__lt__": _comparison("less"), "__le__": _comparison("less_equal"),
    "__gt__": _comparison("greater"), "__ge__": _comparison("greater_equal"),
    "__and__": _and, "__or__": _or, "__invert__": _not,
    "__floordiv__": _refused(f"//: {_NO_QUOTIENT}"), "__rfloordiv__": _refused(f"//: {_NO_QUOTIENT}"),
    "__mod__": _refused(f"%: {_NO_QUOTIENT}"), "__rmod__": _refused(f"%: {_NO_QUOTIENT}"),
    "__setitem__": _refused("tensors are not changed in place by t[...] = v; gankernels.where makes a changed copy"),
    "eq": _compare("equal"), "ne": _compare("not_equal"), "lt": _compare("less"), "le": _compare("less_equal"),
    "gt": _compare("greater"), "ge": _compare("greater_equal"),
    "isnan": derived.isnan, "isinf": derived.isinf, "isfinite": derived.isfinite, "masked_fill": derived.masked_fill,
    "ceil": derived.ceil, "log2": derived.log2, "log10": derived.log10, "prod": derived.prod, "t": derived.t,
    "repeat": derived.repeat, "tile": derived.tile, "flip": derived.flip, "split": derived.split,
    "chunk": derived.chunk, "unbind": derived.unbind, "allclose": derived.allclose,
    "cpu": lambda self: _moved(self, "cpu"), "cuda": lambda self: _moved(self, "cuda"),
    "int": lambda self: cast(self, np.int64),
    "half": _refused("half: float16 is not supported; the dtypes are float32, float64, int64 and bool"),
    "new_zeros": _new(creation.zeros), "new_ones": _new(creation.ones),
    "__getitem__": shape.index, "__len__": _len, "__iter__": _iterate, "__repr__": _repr, "__bool__": _bool,
    "__format__": _format,
    "__float__": lambda self: float(_item(self)), "__int__": lambda self: int(_item(self)),
    "__array__": _array,
    "__dlpack__": _dlpack, "__cuda_array_interface__": property(_cuda_array_interface),
    "__dlpack_device__": lambda self: self.data.__dlpack_device__(),
    "add": pointwise.add, "sub": pointwise.sub, "mul": pointwise.mul, "div": pointwise.div, "pow": pointwise.pow,
    "matmul": linalg.matmul, "mm": linalg.matmul, "bmm": linalg.matmul, "neg": pointwise.neg,
    "abs": pointwise.abs, "sign": pointwise.sign, "exp": pointwise.exp, "expm1": pointwise.expm1, "log": pointwise.log,
    "log1p": pointwise.log1p, "sqrt": pointwise.sqrt, "rsqrt": pointwise.rsqrt, "square": pointwise.square,
    "reciprocal": pointwise.reciprocal, "sin": pointwise.sin, "cos": pointwise.cos, "erf": pointwise.erf,
    "floor": pointwise.floor, "round": pointwise.round, "tanh": pointwise.tanh, "sigmoid": pointwise.sigmoid,
    "relu": pointwise.relu, "clamp": pointwise.clamp, "clip": pointwise.clamp,
    "maximum": pointwise.maximum, "minimum": pointwise.minimum,
    "sum": reduce.sum, "mean": reduce.mean, "var": reduce.var, "std": reduce.std, "norm": reduce.norm,
    "max": reduce.max, "min": reduce.min, "amax": reduce.amax, "amin": reduce.amin, "logsumexp": reduce.logsumexp,
    "softmax": reduce.softmax, "log_softmax": reduce.log_softmax,
    "argmax": lambda self, dim=None, keepdim=False: (
        reduce.max(self.reshape(-1), 0)[1] if dim is None else reduce.max(self, dim, keepdim)[1]),
    "argmin": lambda self, dim=None, keepdim=False: (
        reduce.min(self.reshape(-1), 0)[1] if dim is None else reduce.min(self, dim, keepdim)[1]),
    "any": lambda self: _nonzero(self) > 0, "all": lambda self: _nonzero(self) == self.data.size,
    "reshape": shape.reshape, "view": _view, "flatten": shape.flatten, "permute": shape.permute,
    "transpose": shape.transpose, "expand": _expand,
    "broadcast_to": shape.broadcast_to, "index_select": gather.index_select,
    "squeeze": _squeeze, "unsqueeze": _unsqueeze,
    "contiguous": lambda self: self if self.data.flags.c_contiguous else _clone(self),
    "detach": _detach, "numpy": _numpy, "item": _item, "tolist": lambda self: to_host(self.data).tolist(),
    "clone": _clone,
    "to": _to, "float": lambda self: cast(self, np.float32),
    "bfloat16": lambda self: cast(self, "bfloat16"), "double": lambda self: cast(self, np.float64),
    "long": lambda self: cast(self, np.int64), "bool": lambda self: cast(self, np.bool_),
    "size": lambda self, dim=None: self.shape if dim is None else self.shape[dim],
    "numel": lambda self: int(self.data.size), "dim": lambda self: self.ndim, "requires_grad_": _requires_grad_,
    "T": property(lambda self: shape.permute(self, *reversed(range(self.ndim)))),
    "device": property(lambda self: backend_of(self.data).name),
}  # fmt: skip

for _name, _function in _METHODS.items():
    setattr(Tensor, _name, _function)
