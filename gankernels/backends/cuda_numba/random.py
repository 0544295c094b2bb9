"""Random numbers by element position: Philox 4x32-10 with the counters and the bits of csrc/cpu/isa/random.inl.

A thread draws one block of four words and fills the elements that belong to it. All words are kept in uint64, so that
no product overflows (and the simulator's NumPy numbers behave as the GPU's).
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from gankernels.backends.cuda_numba.arrays import flat, flats
from gankernels.backends.cuda_numba.launch import ceil_div, elements, launch, locate, loop_of, scalar_type
from gankernels.backends.cuda_numba.shim import cos, cuda, device, jit, log, sin, sqrt
from gankernels.backends.device_array import DeviceArray
from gankernels.backends.philox import DOUBLE_BITS, FLOAT_BITS, KEY_STEPS, MULTIPLIERS, ROUNDS

__all__ = ["dropout", "is_kept", "mask_of", "philox", "random_normal", "random_uniform"]

_U = np.uint64
_M0, _M1 = map(_U, MULTIPLIERS)
_W0, _W1 = map(_U, KEY_STEPS)
_WORD, _MASK = _U(32), _U(0xFFFFFFFF)
_FLOAT_SHIFT, _DOUBLE_SHIFT = _U(32 - FLOAT_BITS), _U(64 - DOUBLE_BITS)
_FLOAT_UNIT, _DOUBLE_UNIT = np.float32(2.0**-FLOAT_BITS), np.float64(2.0**-DOUBLE_BITS)
_TURN = 6.283185307179586


@device
def philox(seed: Any, offset: Any, block: Any) -> Any:
    """The four words of block offset + block (which wraps at 2**64) under the key `seed`."""
    low = (offset & _MASK) + (block & _MASK)
    c0 = low & _MASK
    c1 = ((offset >> _WORD) + (block >> _WORD) + (low >> _WORD)) & _MASK
    c2 = _U(0)
    c3 = _U(0)
    k0 = seed & _MASK
    k1 = seed >> _WORD
    for _ in range(ROUNDS):
        a = c0 * _M0
        b = c2 * _M1
        c0 = (b >> _WORD) ^ c1 ^ k0
        c2 = (a >> _WORD) ^ c3 ^ k1
        c1 = b & _MASK
        c3 = a & _MASK
        k0 = (k0 + _W0) & _MASK
        k1 = (k1 + _W1) & _MASK
    return c0, c1, c2, c3


@device
def uniform24(word: Any) -> Any:
    return np.float32(word >> _FLOAT_SHIFT) * _FLOAT_UNIT


@device
def uniform53(low: Any, high: Any) -> Any:
    return np.float64(((high << _WORD) | low) >> _DOUBLE_SHIFT) * _DOUBLE_UNIT


@device
def radius(u: Any) -> Any:
    """Of Box and Muller (1958), in double; 1 - u is never zero."""
    return sqrt(-2.0 * log(1.0 - np.float64(u)))


@lru_cache(maxsize=4)
def _kernel(T: Any, is_normal: bool) -> Any:
    per_block = 4 if T is np.float32 else 2

    def random_kernel(y: Any, blocks: int, loop: Any, seed: Any, offset: Any) -> None:
        values = cuda.local.array(4, T)
        for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
            c0, c1, c2, c3 = philox(seed, offset, _U(block))
            if per_block == 4:
                values[0] = uniform24(c0)
                values[1] = uniform24(c1)
                values[2] = uniform24(c2)
                values[3] = uniform24(c3)
            else:
                values[0] = uniform53(c0, c1)
                values[1] = uniform53(c2, c3)
            if is_normal:
                for i in range(0, per_block, 2):
                    r = radius(values[i])
                    angle = np.float64(values[i + 1]) * _TURN
                    values[i] = T(r * cos(angle))
                    values[i + 1] = T(r * sin(angle))
            for i in range(per_block):
                element = block * per_block + i
                if element < loop[0]:
                    y[locate(element, loop, 1, 1)] = values[i]

    return jit(random_kernel)


def _draw(y: DeviceArray, seed: int, offset: int, is_normal: bool) -> None:
    target = flat(y)
    if y.size:
        blocks = ceil_div(y.size, 4 if y.dtype.itemsize == 4 else 2)
        kernel = _kernel(scalar_type(y), is_normal)
        launch(kernel, *elements(blocks), target, blocks, loop_of(y, keep_order=True), _U(seed), _U(offset))


def random_uniform(y: DeviceArray, seed: int, offset: int) -> None:
    """y = uniform numbers in [0, 1): the bits of every other backend."""
    _draw(y, seed, offset, False)


def random_normal(y: DeviceArray, seed: int, offset: int) -> None:
    """y = normal numbers of mean 0 and deviation 1."""
    _draw(y, seed, offset, True)


def mask_of(p: float) -> tuple[Any, float]:
    """What the first bits of a word are at least where an element is kept (uniform >= p, in integers); its factor."""
    return _U(ceil(p * 2.0**FLOAT_BITS)), 1.0 / (1.0 - p) if p < 1.0 else 0.0


@device
def is_kept(word: Any, threshold: Any) -> bool:
    """Whether an element with this word stays, by the first number of `mask_of`."""
    return (word >> _FLOAT_SHIFT) >= threshold


@lru_cache(maxsize=2)
def _dropout_kernel(T: Any) -> Any:
    zero = T(0)

    def dropout_kernel(
        x: Any, y: Any, blocks: int, loop: Any, threshold: Any, scale: float, seed: Any, offset: Any
    ) -> None:
        s = T(scale)
        for block in range(cuda.grid(1), blocks, cuda.gridsize(1)):
            c0, c1, c2, c3 = philox(seed, offset, _U(block))
            for i in range(4):
                element = block * 4 + i
                if element < loop[0]:
                    word = c0 if i == 0 else (c1 if i == 1 else (c2 if i == 2 else c3))
                    value = x[locate(element, loop, 1, 2)] * s
                    y[locate(element, loop, 2, 2)] = value if is_kept(word, threshold) else zero

    return jit(dropout_kernel)


def dropout(x: DeviceArray, y: DeviceArray, p: float, seed: int, offset: int) -> None:
    """y = x/(1 - p) where the float uniform of the element is at least p, else 0; the mask of every other backend."""
    memory = flats(x, y)
    if y.size:
        blocks = ceil_div(y.size, 4)
        loop = loop_of(x, y, keep_order=True)
        kernel = _dropout_kernel(scalar_type(y))
        launch(kernel, *elements(blocks), *memory, blocks, loop, *mask_of(p), _U(seed), _U(offset))
