"""The Numba backend beside the CPU: the same call on both, outputs poisoned, in several layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cpu, cuda_numba
from gankernels.testing.bounds import assert_close, assert_same_bits

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]

_REASON = f"no GPU for Numba ({cuda_numba.why_not()}); simulated: NUMBA_ENABLE_CUDASIM=1 pytest tests/numba_cuda"
needs_device = pytest.mark.skipif(cuda_numba.why_not() is not None, reason=_REASON)


def skip_module_without_device() -> None:
    """One line for all tests of a file."""
    if cuda_numba.why_not() is not None:
        pytest.skip(_REASON, allow_module_level=True)


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    """Small integers, whose sums and products are exact in any order."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def normals(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def on_device(a: Array) -> Any:
    """`a` on the device as it lies in memory (order of axes, signs of strides), with a gap after every element."""
    if not a.ndim:
        return cuda_numba.from_host(a)
    signs = tuple(slice(None, None, -1 if s < 0 else 1) for s in a.strides)
    order = sorted(range(a.ndim), key=lambda i: -abs(a.strides[i]))
    forward = a[signs].transpose(order)
    gaps = np.zeros((*forward.shape[:-1], 2 * forward.shape[-1]), a.dtype)
    gaps[..., ::2] = forward
    return cuda_numba.from_host(gaps)[..., ::2].transpose(np.argsort(order).tolist())[signs]


def layouts(a: Array) -> Iterator[Array]:
    """The values of `a` row-major, with axes in another order, and with negative strides."""
    yield a
    if a.ndim > 1:
        order = (*range(1, a.ndim), 0)
        yield np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    if a.ndim:
        yield np.ascontiguousarray(a[::-1])[::-1]


def one_nan(a: Array) -> Array:
    """The sign of a NaN means nothing."""
    return np.where(np.isnan(a), a.dtype.type(np.nan), a) if a.dtype.kind == "f" else a


Check = Callable[[Array, Array, str], None]


def both(
    name: str,
    inputs: list[Array],
    outputs: list[Array],
    *parameters: Any,
    check: Check | float | None = None,
    strided: bool = True,
    before: tuple[Any, ...] = (),
) -> list[Array]:
    """Run a kernel on the CPU and on the device, in every layout; compare bits, or with a bound. Returns the CPU's."""
    expected = [o.copy() for o in outputs]
    getattr(cpu, name)(*before, *inputs, *expected, *parameters)
    choices = [list(layouts(a)) for a in (*inputs, *outputs)]
    for i in range(max(map(len, choices)) if strided else 1):
        chosen = [c[min(i, len(c) - 1)] for c in choices]
        device = [cuda_numba.from_host(a) if i == 0 else on_device(a) for a in chosen]
        getattr(cuda_numba, name)(*before, *device, *parameters)
        for array, want in zip(device[len(inputs) :], expected, strict=True):
            got = cuda_numba.to_host(array)
            what = f"{name}, layout {i}"
            if check is None:
                assert_same_bits(*map(one_nan, (got, want)), what)
            elif callable(check):
                check(got, want, what)
            else:
                assert_close(got, want, check * (1 + np.abs(np.nan_to_num(want.astype(np.float64)))), what)
    return expected


def poisoned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An output that shows what was not written."""
    return np.full(shape, np.nan, dtype)
