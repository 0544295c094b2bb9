"""Bias, (leaky) ReLU and dropout in one pass over a fresh output, and their gradient (csrc/cpu/epilogue.cpp).

A dropped element is +0 and a kept one never is, so that the output alone tells the gradient what was dropped.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import flats
from gankernels.backends.cuda_numba.launch import ceil_div, elements, launch, scalar_type
from gankernels.backends.cuda_numba.pointwise import fill, gate
from gankernels.backends.cuda_numba.random import philox
from gankernels.backends.cuda_numba.reduce import sum as sum_over
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.device_array import DeviceArray
from gankernels.backends.philox import FLOAT_BITS

__all__ = ["epilogue", "epilogue_backward"]

_SHIFT = np.uint64(32 - FLOAT_BITS)


def _scale(p: float) -> float:
    return 1.0 / (1.0 - p) if p < 1.0 else 0.0


@lru_cache(maxsize=32)
def _kernel(T: Any, has_bias: bool, is_active: bool, is_relu: bool, drops: bool) -> Any:
    zero = T(0)

    def epilogue_kernel(
        y: Any, bias: Any, n: int, C: int, L: int, slope: float, threshold: Any, scale: float, seed: Any, offset: Any
    ) -> None:
        """Four elements for each thread, which share a block of Philox."""
        s, keep = T(slope), T(scale)
        for block in range(cuda.grid(1), (n + 3) // 4, cuda.gridsize(1)):
            if drops:
                c0, c1, c2, c3 = philox(seed, offset, np.uint64(block))
            for i in range(4):
                element = block * 4 + i
                if element < n:
                    v = y[element]
                    if has_bias:
                        v = v + bias[element // L % C]
                    elif is_active:
                        v = v + zero
                    if is_relu:
                        v = zero if v <= zero else v
                    elif is_active:
                        v = v if v > zero else s * v
                    if drops:
                        word = c0 if i == 0 else (c1 if i == 1 else (c2 if i == 2 else c3))
                        v = v * keep
                        kept = -zero if v == zero else v
                        v = kept if (word >> _SHIFT) >= threshold else zero
                    y[element] = v

    return jit(epilogue_kernel)


def epilogue(y: DeviceArray, bias: DeviceArray, slope: float, p: float, seed: int, offset: int) -> None:
    """y (N, C[, L], row-major) = dropout(leaky_relu(y + bias, slope), p) in place; bias (C,), or of size 0."""
    memory, n = flats(y, bias), y.size
    if n:
        kernel = _kernel(scalar_type(y), bias.size > 0, slope != 1.0, slope == 0.0, p > 0.0)
        threshold = np.uint64(ceil(p * 2.0**FLOAT_BITS))  # uniform >= p as a comparison of integers
        length = y.shape[2] if y.ndim > 2 else 1
        launch(kernel, *elements(ceil_div(n, 4)), *memory, n, y.shape[1], length, float(slope), threshold, _scale(p),
               np.uint64(seed), np.uint64(offset))  # fmt: skip


@lru_cache(maxsize=2)
def _gradient_kernel(T: Any) -> Any:
    zero, one = T(0), T(1)

    def marked_gate_kernel(y: Any, ct: Any, gx: Any, n: int, slope: float, scale: float) -> None:
        s, keep = T(slope), T(scale)
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            mark = y[i]
            v = ct[i] * keep
            if mark == zero and one / mark > zero:  # +0
                gx[i] = zero
            else:
                gx[i] = v if mark > zero else s * v

    return jit(marked_gate_kernel)


def epilogue_backward(
    y: DeviceArray, ct: DeviceArray, gx: DeviceArray, gbias: DeviceArray, slope: float, p: float
) -> None:
    """gx = the gradient before the epilogue that gave y, gbias (C,; or of size 0) its sums over N and L."""
    memory, n = flats(y, ct, gx), y.size
    if p > 0.0 and n:
        launch(_gradient_kernel(scalar_type(y)), *elements(n), *memory, n, float(slope), _scale(p))
    else:
        gate(y, ct, gx, slope)
    if gbias.size:
        if n:
            sum_over(gx, gbias.reshape(1, gbias.size, *(1,) * (gx.ndim - 2)))
        else:
            fill(gbias, 0.0)
