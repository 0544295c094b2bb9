"""Optimizer steps: against the formulas in float64 (and torch.optim), a state that is not used, equal bits."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import devices
import numpy as np
import pytest
from devices import backend

import gankernels as gk
from gankernels.backends import cpu
from gankernels.testing.bounds import assert_close, rounding

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = [np.float32, np.float64]
State = list[Array]


def sgd(lr: float, momentum: float = 0.0, dampening: float = 0.0, decay: float = 0.0, nesterov: bool = False) -> Any:
    def native(p: Array, g: Array, s: State, t: int) -> None:
        backend.sgd_step(p, g, s[0] if momentum else s[0][:0], lr, momentum, dampening, decay, nesterov, t)

    def formula(p: Array, g: Array, s: State, t: int) -> None:
        g = g + decay * p
        if momentum:
            s[0][:] = g if t == 1 else momentum * s[0] + (1 - dampening) * g
            g = g + momentum * s[0] if nesterov else s[0]
        p -= lr * g

    def torch_optim(torch: Any, p: Any) -> Any:
        return torch.optim.SGD(p, lr, momentum, dampening, decay, nesterov)

    return native, formula, torch_optim


def adam(lr: float, betas: tuple[float, float], decay: float = 0.0, decoupled: bool = False) -> Any:
    eps = 1e-8

    def native(p: Array, g: Array, s: State, t: int) -> None:
        backend.adam_step(p, g, s[0], s[1], lr, *betas, eps, decay, decoupled, t)

    def formula(p: Array, g: Array, s: State, t: int) -> None:
        if decoupled:
            p *= 1 - lr * decay
        else:
            g = g + decay * p
        s[0][:] = betas[0] * s[0] + (1 - betas[0]) * g
        s[1][:] = betas[1] * s[1] + (1 - betas[1]) * g * g
        first, second = s[0] / (1 - betas[0] ** t), s[1] / (1 - betas[1] ** t)
        p -= lr * first / (np.sqrt(second) + eps)

    def torch_optim(torch: Any, p: Any) -> Any:
        return (torch.optim.AdamW if decoupled else torch.optim.Adam)(p, lr, betas, eps, decay)

    return native, formula, torch_optim


def rmsprop(lr: float, alpha: float, decay: float = 0.0, momentum: float = 0.0, centered: bool = False) -> Any:
    eps = 1e-8

    def native(p: Array, g: Array, s: State, t: int) -> None:
        buffer, average = s[1] if momentum else s[1][:0], s[2] if centered else s[2][:0]
        backend.rmsprop_step(p, g, s[0], buffer, average, lr, alpha, eps, decay, momentum, centered)

    def formula(p: Array, g: Array, s: State, t: int) -> None:
        g = g + decay * p
        s[0][:] = alpha * s[0] + (1 - alpha) * g * g
        variance = s[0]
        if centered:
            s[2][:] = alpha * s[2] + (1 - alpha) * g
            variance = s[0] - s[2] ** 2
        update = g / (np.sqrt(variance) + eps)
        if momentum:
            s[1][:] = momentum * s[1] + update
            update = s[1]
        p -= lr * update

    def torch_optim(torch: Any, p: Any) -> Any:
        return torch.optim.RMSprop(p, lr, alpha, eps, decay, momentum, centered)

    return native, formula, torch_optim


OPTIMIZERS = {
    "sgd": sgd(0.1),
    "sgd with decay": sgd(0.1, decay=0.01),
    "sgd with momentum": sgd(0.1, 0.9, 0.3),
    "sgd with nesterov": sgd(0.1, 0.9, decay=0.1, nesterov=True),
    "adam": adam(1e-2, (0.9, 0.999)),
    "adam of wgan": adam(1e-2, (0.0, 0.9), decay=0.1),
    "adamw": adam(1e-2, (0.5, 0.9), decay=0.1, decoupled=True),
    "rmsprop": rmsprop(1e-2, 0.9, decay=0.1),
    "rmsprop with momentum": rmsprop(1e-2, 0.9, momentum=0.5),
    "centered rmsprop": rmsprop(1e-2, 0.99, momentum=0.5, centered=True),
}


def trajectory(
    step: Callable[[Array, Array, State, int], None], dtype: Any, size: int = 1003, steps: int = 5
) -> tuple[Array, State]:
    rng = np.random.default_rng(0)
    p = rng.normal(size=size).astype(np.float32).astype(dtype)
    state = [np.zeros_like(p) for _ in range(3)]
    for t in range(1, steps + 1):
        step(p, rng.normal(size=size).astype(np.float32).astype(dtype), state, t)
    return p, state


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_follow_the_formulas(every_isa: str, name: str, dtype: Any) -> None:
    native, formula, _ = OPTIMIZERS[name]
    p, state = trajectory(native, dtype)
    p_exact, state_exact = trajectory(formula, np.float64)
    # five steps of a dozen roundings; the centered variance cancels, hence the factor
    tol = (2000 if "centered" in name else 100) * rounding(dtype)
    assert_close(p, p_exact, tol * (1 + np.abs(p_exact)), name)
    for ours, exact in zip(state, state_exact, strict=True):
        assert_close(ours, exact, tol * (1 + np.abs(exact)), name)


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 1.0 - 2.0**-20])
def test_the_corrections_of_adam_are_right_for_any_count_of_steps(beta: float) -> None:
    u = Decimal(2) ** -53
    with localcontext() as context:
        context.prec = 60
        for step in (1, 2, 3, 10, 63, 64, 1000, 65537, 10**6):
            exact = 1 - Decimal(beta) ** step
            within = u / (1 - Decimal(beta)) + 2 * u  # of the difference, as optim_factors.hpp derives it; then its use
            *_, rate, scale, _ = cpu.native.adam_factors(1.0, beta, beta, 1e-8, 0.0, False, step)
            for found in (1 / Decimal(rate), Decimal(scale) ** 2):
                assert not (abs(found / exact - 1) > within), (step, found)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_agree_with_torch_optim(name: str) -> None:
    torch = pytest.importorskip("torch")
    native, _, torch_optim = OPTIMIZERS[name]
    p, _ = trajectory(native, np.float64)
    tp: list[Any] = []

    def torch_step(values: Array, g: Array, state: State, t: int) -> None:
        if t == 1:
            leaf = torch.from_numpy(values.copy()).requires_grad_()
            tp.extend([leaf, torch_optim(torch, [leaf])])
        tp[0].grad = torch.from_numpy(g)
        tp[1].step()

    trajectory(torch_step, np.float64)
    expected = tp[0].detach().numpy()
    assert_close(p, expected, (1e-10 if "centered" in name else 1e-13) * (1 + np.abs(expected)), name)


def test_the_first_momentum_step_ignores_what_the_buffer_held() -> None:
    p, g, buffer = np.ones(5), np.full(5, 2.0), np.full(5, np.nan)
    backend.sgd_step(p, g, buffer, 0.1, 0.9, 0.5, 0.0, False, 1)
    np.testing.assert_array_equal(buffer, g)
    np.testing.assert_array_equal(p, 1.0 - 0.1 * g)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("t", [0.0, 0.001, 0.3, 0.5, 0.999, 1.0])
def test_lerp_moves_from_one_end_to_the_other_exactly(every_isa: str, t: float, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1003)).astype(dtype)
    expected = a.astype(np.float64) + (b.astype(np.float64) - a) * t
    moved = a.copy()
    backend.lerp(moved, b, t)
    assert_close(moved, expected, 4 * rounding(dtype) * (np.abs(a) + np.abs(b)).astype(np.float64))
    if t in (0.0, 1.0):
        np.testing.assert_array_equal(moved, b if t else a)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_isa_and_thread_count_gives_the_same_bits(name: str, thread_counts: tuple[int, ...]) -> None:
    before, results = cpu.isa(), set()
    for isa, n in devices.cpu_settings():
        cpu.set_isa(isa)
        gk.set_num_threads(n)
        p, state = trajectory(OPTIMIZERS[name][0], np.float32, 40003, 2)
        results.add(p.tobytes() + b"".join(s.tobytes() for s in state))
    cpu.set_isa(before)
    assert len(results) == 1
