"""Convolutions and products with bias, (leaky) ReLU and dropout in one pass over their fresh output, and the gradient
of that (csrc/cpu/epilogue.hpp).

A dropped element is +0 and a kept one never is, so that the output alone tells the gradient what was dropped.
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import contiguous, empty_like, flats
from gankernels.backends.cuda_numba.chain import member
from gankernels.backends.cuda_numba.convolution import conv, conv_transpose
from gankernels.backends.cuda_numba.functions import unary_function, unary_name
from gankernels.backends.cuda_numba.launch import ceil_div, elements, launch, locate, scalar_type
from gankernels.backends.cuda_numba.norm import batch_norm_backward, channel_affine
from gankernels.backends.cuda_numba.pointwise import binary, fill, gate, run
from gankernels.backends.cuda_numba.product import matmul
from gankernels.backends.cuda_numba.random import is_kept, mask_of, philox
from gankernels.backends.cuda_numba.reduce import sum as sum_over
from gankernels.backends.cuda_numba.shim import cuda, jit
from gankernels.backends.cuda_numba.upsample import upsample_conv
from gankernels.backends.device_array import DeviceArray

__all__ = [
    "conv_epilogue", "conv_transpose_epilogue", "epilogue_backward", "matmul_epilogue", "norm_epilogue",
    "norm_epilogue_backward", "upsample_conv_epilogue",
]  # fmt: skip


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
                        v = kept if is_kept(word, threshold) else zero
                    y[element] = v

    return jit(epilogue_kernel)


@lru_cache(maxsize=4)
def _bias_kernel(T: Any, name: str) -> Any:
    activation = unary_function(name, T)

    def bias_kernel(y: Any, bias: Any, out: Any, loop: Any, slope: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            v = y[locate(i, loop, 1, 3)] + bias[locate(i, loop, 2, 3)]
            out[locate(i, loop, 3, 3)] = activation(v, slope, 0.0)

    return member(jit(bias_kernel), f"add {name}")


def _rows(y: DeviceArray) -> DeviceArray:
    """y (N, C, *Y) as (N, C, L)."""
    return y.reshape(*y.shape[:2], prod(y.shape[2:]))


def _add_bias(y: DeviceArray, bias: DeviceArray, slope: float) -> None:
    """y = leaky_relu(y + bias, slope) in place, y (N, C[, L])."""
    column = bias.reshape(1, bias.size, *(1,) * (y.ndim - 2)).broadcast_to(y.shape)
    if slope == 1.0:
        binary("add", y, column, y)
    else:
        run(_bias_kernel(scalar_type(y), unary_name("leaky_relu", slope)), (y, column, y), float(slope))


def _epilogue(y: DeviceArray, bias: DeviceArray, slope: float, p: float, seed: int, offset: int) -> None:
    """y (N, C[, L], row-major) = dropout(leaky_relu(y + bias, slope), p) in place; bias (C,), or of size 0."""
    memory, n = flats(y, bias), y.size
    if bias.size and p == 0.0:
        _add_bias(y, bias, slope)
    elif n:
        kernel = _kernel(scalar_type(y), bias.size > 0, slope != 1.0, slope == 0.0, p > 0.0)
        length = y.shape[2] if y.ndim > 2 else 1
        launch(kernel, *elements(ceil_div(n, 4)), *memory, n, y.shape[1], length, float(slope), *mask_of(p),
               np.uint64(seed), np.uint64(offset))  # fmt: skip


def _followed(kernel: Any, rows: Any) -> Any:
    """kernel(a, b, y, *given), and the epilogue of rows(y)."""

    def run_both(a: DeviceArray, b: DeviceArray, y: DeviceArray, *given: Any) -> None:
        *given, bias, slope, p, seed, offset = given  # type: ignore[assignment]
        kernel(a, b, y, *given)
        _epilogue(rows(y), bias, slope, p, seed, offset)

    return run_both


conv_epilogue = _followed(conv, _rows)
conv_transpose_epilogue = _followed(conv_transpose, _rows)
upsample_conv_epilogue = _followed(upsample_conv, _rows)
matmul_epilogue = _followed(matmul, lambda c: c.reshape(c.shape[1:]))  # whose channels are its columns


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
        launch(_gradient_kernel(scalar_type(y)), *elements(n), *memory, n, float(slope), mask_of(p)[1])
    else:
        gate(y, ct, gx, slope)
    if gbias.size:
        if n:
            sum_over(gx, gbias.reshape(1, gbias.size, *(1,) * (gx.ndim - 2)))
        else:
            fill(gbias, 0.0)


@lru_cache(maxsize=4)
def _affine_kernel(T: Any, name: str) -> Any:
    activation = unary_function(name, T)

    def affine_kernel(x: Any, scale: Any, shift: Any, y: Any, loop: Any, slope: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            product = x[locate(i, loop, 1, 4)] * scale[locate(i, loop, 2, 4)]
            y[locate(i, loop, 4, 4)] = activation(product + shift[locate(i, loop, 3, 4)], slope, 0.0)

    return member(jit(affine_kernel), f"affine {name}")


def norm_epilogue(
    x: DeviceArray, scale: DeviceArray, shift: DeviceArray, y: DeviceArray, slope: float, p: float, seed: int,
    offset: int,
) -> None:  # fmt: skip
    """y = dropout(leaky_relu(x*scale[c] + shift[c], slope), p) for x (N, C, L)."""
    if slope == 1.0 or p > 0.0:
        channel_affine(x, scale, shift, y)
        _epilogue(y, shift[:0], slope, p, seed, offset)
    else:
        column = [v.reshape(1, v.shape[0], 1).broadcast_to(x.shape) for v in (scale, shift)]
        run(_affine_kernel(scalar_type(y), unary_name("leaky_relu", slope)), (x, *column, y), float(slope))


def norm_epilogue_backward(
    x: DeviceArray, y: DeviceArray, ct: DeviceArray, mean: DeviceArray, rstd: DeviceArray, weight: DeviceArray,
    gx: DeviceArray, gweight: DeviceArray, gbias: DeviceArray, slope: float, p: float,
) -> None:  # fmt: skip
    """`batch_norm_backward` where y came out of `norm_epilogue` and ct is the cotangent of y."""
    before = empty_like(ct)
    epilogue_backward(y, contiguous(ct), before, gbias[:0], slope, p)
    batch_norm_backward(x, before, mean, rstd, weight, gx, gweight, gbias)
