"""Optimizer steps: one pass over the parameters, by the factors of csrc/core/optim_factors.hpp; formulas and their
order as csrc/cpu/isa/optim.inl (torch.optim's). A state of size 0 is one that the variant does not use.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from gankernels.backends.cpu import native
from gankernels.backends.cuda_numba.arrays import flats
from gankernels.backends.cuda_numba.chain import member
from gankernels.backends.cuda_numba.launch import elements, launch, locate, scalar_type
from gankernels.backends.cuda_numba.pointwise import run
from gankernels.backends.cuda_numba.shim import cuda, jit, sqrt
from gankernels.backends.device_array import DeviceArray

__all__ = ["adam_step", "lerp", "rmsprop_step", "sgd_step"]


def _run(kernel: Any, arrays: tuple[DeviceArray, ...], factors: tuple[float, ...]) -> None:
    memory, n = flats(*arrays), arrays[0].size
    if n:
        launch(kernel, *elements(n), *memory, n, factors)


@lru_cache(maxsize=16)
def _sgd_kernel(T: Any, has_momentum: bool, is_nesterov: bool, is_first: bool) -> Any:
    def sgd_kernel(p: Any, g: Any, buffer: Any, n: int, f: Any) -> None:
        """f: lr, momentum, keep, weight_decay."""
        lr, momentum, keep, decay = T(f[0]), T(f[1]), T(f[2]), T(f[3])
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            d = g[i] + decay * p[i]
            if has_momentum:
                b = keep * d
                if not is_first:  # whatever the buffer held does not count in the first step, not even NaN
                    b = momentum * buffer[i] + b
                buffer[i] = b
                d = d + momentum * b if is_nesterov else b
            p[i] -= lr * d

    return jit(sgd_kernel)


def sgd_step(
    p: DeviceArray, g: DeviceArray, momentum_buffer: DeviceArray, lr: float, momentum: float, dampening: float,
    weight_decay: float, nesterov: bool, step: int,
) -> None:  # fmt: skip
    """One step of torch.optim.SGD; `step` counts from 1."""
    kernel = _sgd_kernel(scalar_type(p), momentum_buffer.size > 0, bool(nesterov), step <= 1)
    factors = native.sgd_factors(lr, momentum, dampening, weight_decay, nesterov, step)
    _run(kernel, (p, g, momentum_buffer), factors)


@lru_cache(maxsize=2)
def _adam_kernel(T: Any) -> Any:
    def adam_kernel(p: Any, g: Any, m: Any, v: Any, n: int, f: Any) -> None:
        """f: decay, weight_decay, 1 - beta1, beta2, 1 - beta2, step size, scale of the root, eps."""
        decay, weight_decay, new1, beta2, new2 = T(f[0]), T(f[1]), T(f[2]), T(f[3]), T(f[4])
        step, root_scale, eps = T(f[5]), T(f[6]), T(f[7])
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            q = p[i] * decay
            d = g[i] + weight_decay * q
            first = m[i] + (d - m[i]) * new1
            second = v[i] * beta2 + new2 * (d * d)
            m[i] = first
            v[i] = second
            p[i] = q - step * (first / (sqrt(second) / root_scale + eps))

    return jit(adam_kernel)


def adam_step(
    p: DeviceArray, g: DeviceArray, exp_avg: DeviceArray, exp_avg_sq: DeviceArray, lr: float, beta1: float,
    beta2: float, eps: float, weight_decay: float, decoupled: bool, step: int,
) -> None:  # fmt: skip
    """One step of torch.optim.Adam (decoupled: AdamW); `step` counts from 1."""
    factors = native.adam_factors(lr, beta1, beta2, eps, weight_decay, decoupled, step)
    _run(_adam_kernel(scalar_type(p)), (p, g, exp_avg, exp_avg_sq), factors)


@lru_cache(maxsize=8)
def _rmsprop_kernel(T: Any, has_momentum: bool, is_centered: bool) -> Any:
    def rmsprop_kernel(p: Any, g: Any, v: Any, buffer: Any, grad_avg: Any, n: int, f: Any) -> None:
        """f: lr, alpha, 1 - alpha, eps, weight_decay, momentum."""
        lr, alpha, fresh, eps, decay, momentum = T(f[0]), T(f[1]), T(f[2]), T(f[3]), T(f[4]), T(f[5])
        for i in range(cuda.grid(1), n, cuda.gridsize(1)):
            d = g[i] + decay * p[i]
            second = alpha * v[i] + fresh * (d * d)
            v[i] = second
            if is_centered:
                average = grad_avg[i] + (d - grad_avg[i]) * fresh
                grad_avg[i] = average
                second = second - average * average
            update = d / (sqrt(second) + eps)
            if has_momentum:
                update = momentum * buffer[i] + update
                buffer[i] = update
            p[i] -= lr * update

    return jit(rmsprop_kernel)


def rmsprop_step(
    p: DeviceArray, g: DeviceArray, square_avg: DeviceArray, momentum_buffer: DeviceArray, grad_avg: DeviceArray,
    lr: float, alpha: float, eps: float, weight_decay: float, momentum: float, centered: bool,
) -> None:  # fmt: skip
    """One step of torch.optim.RMSprop."""
    has_momentum = momentum > 0.0 and momentum_buffer.size > 0
    kernel = _rmsprop_kernel(scalar_type(p), has_momentum, bool(centered) and grad_avg.size > 0)
    factors = native.rmsprop_factors(lr, alpha, eps, weight_decay, momentum)
    _run(kernel, (p, g, square_avg, momentum_buffer, grad_avg), factors)


@lru_cache(maxsize=4)
def _lerp_kernel(T: Any, from_a: bool) -> Any:
    def lerp_kernel(a: Any, b: Any, y: Any, loop: Any, t: float) -> None:
        for i in range(cuda.grid(1), loop[0], cuda.gridsize(1)):
            begin, end = a[locate(i, loop, 1, 3)], b[locate(i, loop, 2, 3)]
            y[locate(i, loop, 3, 3)] = begin + (end - begin) * T(t) if from_a else end - (end - begin) * T(t)

    return member(jit(lerp_kernel), "lerp_near" if from_a else "lerp_far")


def lerp(a: DeviceArray, b: DeviceArray, t: float) -> None:
    """a += (b - a)*t, from the nearer end, so that t = 0 and t = 1 are exact."""
    part, from_a = native.lerp_factors(t)
    run(_lerp_kernel(scalar_type(a), from_a), (a, b, a), part)
