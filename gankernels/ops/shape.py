"""Rearrangements: linear maps whose rule is the adjoint. Views where the backend can give one, else one copy."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np

from gankernels.autograd import Form, Tensor, record
from gankernels.backends import backend_of
from gankernels.dtypes import is_float
from gankernels.geometry import is_int
from gankernels.ops.common import (
    MAX_AXES,
    axis_index,
    broadcast_array,
    check_shape,
    contiguous,
    copy_parts,
    empty_like,
    promote,
)

__all__ = [
    "broadcast_to",
    "cat",
    "embed",
    "flatten",
    "index",
    "pad",
    "permute",
    "reshape",
    "stack",
    "sum_to",
    "transpose",
]


# ---- reshape, permute ----------------------------------------------------------------------------------------------
def _reshaped(x: Any, shape: tuple[int, ...]) -> Any:
    if [n for n in x.shape if n != 1] == [n for n in shape if n != 1]:
        return x.reshape(shape)  # only axes of extent 1 come or go: a view at any strides
    return contiguous(x).reshape(shape)


_reshape = Form("reshape", x=lambda y, p: _reshaped(y, p[0]), y=lambda x, p: _reshaped(x, p[1]))


def reshape(x: Tensor, *shape: Any) -> Tensor:
    """x with other extents in the same row-major order; one of them may be -1."""
    extents = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
    if not all(map(is_int, extents)):
        raise TypeError(f"reshape: expected ints, got {tuple(extents)}")
    if len(extents) > MAX_AXES:
        raise ValueError(f"reshape: {tuple(extents)} has {len(extents)} axes; the limit is {MAX_AXES}")
    size = prod(x.shape)
    if extents.count(-1) == 1:
        rest = prod(e for e in extents if e != -1)
        if rest == 0 or size % rest:
            raise ValueError(f"reshape: {x.shape} ({size} elements) does not fit into {tuple(extents)}")
        extents[extents.index(-1)] = size // rest
    if any(e < 0 for e in extents) or prod(extents) != size:
        raise ValueError(f"reshape: {x.shape} ({size} elements) does not fit into {tuple(extents)}")
    return _reshape.open("y", (x.shape, tuple(extents)), x=x)


def flatten(x: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """x with the axes start_dim to end_dim merged."""
    if x.ndim == 0:
        return reshape(x, 1)
    start, end = axis_index("flatten", start_dim, x.ndim), axis_index("flatten", end_dim, x.ndim)
    if start > end:
        raise ValueError(f"flatten: start_dim {start_dim} comes after end_dim {end_dim}")
    merged = prod(x.shape[start : end + 1])
    return reshape(x, *x.shape[:start], merged, *x.shape[end + 1 :])


_permute = Form(
    "permute",
    x=lambda y, order: y.transpose(np.argsort(order)),
    y=lambda x, order: x.transpose(order),
)


def permute(x: Tensor, *dims: Any) -> Tensor:
    """x with its axes in the given order (a view)."""
    order = tuple(dims[0] if len(dims) == 1 and isinstance(dims[0], (tuple, list)) else dims)
    found = tuple(axis_index("permute", d, x.ndim) for d in order)
    if sorted(found) != list(range(x.ndim)):
        raise ValueError(f"permute: {order} is not an order of the {x.ndim} axes of a tensor of shape {x.shape}")
    return _permute.open("y", found, x=x)


def transpose(x: Tensor, dim0: int = -2, dim1: int = -1) -> Tensor:
    """x with two axes exchanged (a view)."""
    a, b = axis_index("transpose", dim0, x.ndim), axis_index("transpose", dim1, x.ndim)
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return _permute.open("y", tuple(order), x=x)


# ---- broadcast / sum -----------------------------------------------------------------------------------------------
def _sum_kernel(y: Any, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> Any:
    small = shapes[0]
    padded = (1,) * (y.ndim - len(small)) + small
    out = empty_like(y, padded)
    backend_of(y).sum(y, out)
    return out.reshape(small)


_broadcast = Form("broadcast", x=_sum_kernel, y=lambda x, shapes: broadcast_array(x, shapes[1]))


def broadcast_to(x: Tensor, shape: Sequence[int]) -> Tensor:
    """x repeated along axes of extent 1 and new leading axes (a view)."""
    extents = tuple(shape)
    if tuple(x.shape) == extents:
        return x
    fits = len(extents) >= x.ndim and all(
        a in (1, b) for a, b in zip(x.shape, extents[len(extents) - x.ndim :], strict=True)
    )
    if not fits or any(n < 0 for n in extents):
        raise ValueError(f"broadcast_to: shape {x.shape} cannot be broadcast to {extents}")
    check_shape("broadcast_to", extents)
    return _broadcast.open("y", (x.shape, extents), x=x)


def sum_to(y: Tensor, shape: Sequence[int]) -> Tensor:
    """The adjoint of broadcast_to: sum y down to `shape`."""
    extents = tuple(shape)
    return y if tuple(y.shape) == extents else _broadcast.open("x", (extents, y.shape), y=y)


# ---- crop / embed --------------------------------------------------------------------------------------------------
def _embed_kernel(y: Any, p: tuple[tuple[int, ...], Any]) -> Any:
    shape, key = p
    backend = backend_of(y)
    x = backend.full(shape, 0, y.dtype)
    backend.copy(y, x[key])
    return x


_crop = Form("crop", x=_embed_kernel, y=lambda x, p: x[p[1]])


def embed(y: Tensor, shape: Sequence[int], key: Any) -> Tensor:
    """Zeros of `shape` with y at the basic index `key`: the adjoint of basic indexing."""
    return _crop.open("x", (tuple(shape), key), y=y)


def pad(x: Tensor, padding: Sequence[int], mode: str = "constant", value: float = 0.0) -> Tensor:
    """x with cells added around it.

    Parameters
    ----------
    padding : sequence of int
        (low, high) of the last axis, then of the one before it, and so on, as torch.nn.functional.pad; a negative
        number crops.
    mode : str
        "constant".
    value : float
        What the new cells hold.
    """
    if mode != "constant":
        raise ValueError(f"pad: mode {mode!r} is not supported; expected 'constant'")
    if not all(map(is_int, padding)):
        raise TypeError(f"pad: padding must be ints, got {tuple(padding)}")
    if len(padding) % 2 or len(padding) > 2 * x.ndim:
        raise ValueError(f"pad: padding must hold up to {x.ndim} pairs for shape {x.shape}, got {tuple(padding)}")
    pairs = [(0, 0)] * x.ndim
    for i in range(len(padding) // 2):
        pairs[x.ndim - 1 - i] = (int(padding[2 * i]), int(padding[2 * i + 1]))
    crop = tuple(slice(max(0, -lo), n + min(0, hi)) for n, (lo, hi) in zip(x.shape, pairs, strict=True))
    if any(s.stop < s.start for s in crop):
        raise ValueError(f"pad: padding {tuple(padding)} crops more than shape {x.shape} has")
    grow = [(max(0, lo), max(0, hi)) for lo, hi in pairs]
    y = index(x, crop) if any(lo < 0 or hi < 0 for lo, hi in pairs) else x
    if not any(lo or hi for lo, hi in grow):
        return y
    shape = tuple(n + lo + hi for n, (lo, hi) in zip(y.shape, grow, strict=True))
    check_shape("pad", shape)
    inner = tuple(slice(lo, lo + n) for n, (lo, _) in zip(y.shape, grow, strict=True))
    out = embed(y, shape, inner)
    if value:
        backend = backend_of(x.data)
        frame = backend.full(shape, value, x.dtype)
        backend.fill(frame[inner], 0.0)
        out = out + Tensor(frame)
    return out


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return all(
        p is None or p is Ellipsis or (isinstance(p, (int, np.integer, slice)) and not isinstance(p, bool))
        for p in parts
    )


def index(x: Tensor, key: Any) -> Tensor:
    """x[key]: integers, slices, None, Ellipsis give a view; one integer or boolean array may select along an axis."""
    if _is_basic(key):
        try:
            view = x.data[key]
        except IndexError as error:
            raise IndexError(f"index: {error} (shape {x.shape})") from None
        if not hasattr(view, "shape") or view.shape == ():
            key = (*(key if isinstance(key, tuple) else (key,)), ...)  # a view without axes, not a scalar
            view = x.data[key]
        if not is_float(x.dtype):
            return Tensor(view)
        return _crop.open("y", (x.shape, key), x=x)
    from gankernels.ops.gather import advanced_index

    return advanced_index(x, key)


# ---- joining -------------------------------------------------------------------------------------------------------
def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """The tensors one after the other along an axis; all other extents agree, dtypes are promoted."""
    parts = list(tensors)
    if not parts:
        raise ValueError("cat: expected at least one tensor")
    for i, t in enumerate(parts):
        if not isinstance(t, Tensor):
            raise TypeError(f"cat: tensor {i} must be a Tensor, got {type(t).__name__}")
    first = parts[0]
    if first.ndim == 0:
        raise ValueError("cat: tensors without axes cannot be joined; use stack")
    for t in parts:
        first = promote("cat", first, t)[0]
    parts = [promote("cat", t, first)[0] for t in parts]
    axis = axis_index("cat", dim, first.ndim)
    for i, t in enumerate(parts):
        same = t.ndim == first.ndim and all(
            a == b for k, (a, b) in enumerate(zip(t.shape, first.shape, strict=True)) if k != axis
        )
        if not same:
            raise ValueError(
                f"cat: tensor {i} has shape {t.shape}, tensor 0 {first.shape}; only axis {axis} may differ"
            )
    backend = backend_of(first.data)
    shape = list(first.shape)
    shape[axis] = sum(t.shape[axis] for t in parts)
    out = backend.empty(tuple(shape), first.dtype)
    keys, start = [], 0
    for t in parts:
        keys.append((slice(None),) * axis + (slice(start, start + t.shape[axis]),))
        start += t.shape[axis]
    copy_parts([t.data for t in parts], [out[key] for key in keys], out)

    def rule(ct: Tensor, want: Sequence[bool]) -> list[Tensor | None]:
        return [index(ct, key) if wanted else None for key, wanted in zip(keys, want, strict=True)]

    return record("cat", out, tuple(parts), rule)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Tensors of one shape along a new axis."""
    parts = list(tensors)
    if not parts:
        raise ValueError("stack: expected at least one tensor")
    for i, t in enumerate(parts):
        if not isinstance(t, Tensor):
            raise TypeError(f"stack: tensor {i} must be a Tensor, got {type(t).__name__}")
        if t.shape != parts[0].shape:
            raise ValueError(f"stack: tensor {i} has shape {t.shape}, tensor 0 {parts[0].shape}; they must agree")
    axis = axis_index("stack", dim, parts[0].ndim + 1)
    return cat([reshape(t, *t.shape[:axis], 1, *t.shape[axis:]) for t in parts], axis)
