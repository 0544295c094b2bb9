"""Optimizers and schedules: against torch.optim where it is installed, against their formulas where not."""

from __future__ import annotations

import math

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn, optim
from gankernels.ops import update

OPTIONS = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.02}),
    ("SGD", {"lr": 0.1, "momentum": 0.8, "nesterov": True, "weight_decay": 0.02}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.3}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 1e-3, "alpha": 0.9, "eps": 1e-7}),
    ("RMSprop", {"momentum": 0.7, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.7, "centered": True}),
]
IDS = [f"{name}{settings}" for name, settings in OPTIONS]


def starts(dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (5,), ())]


def gradients(step, dtype=np.float64):
    rng = np.random.default_rng([1, step])
    return [rng.normal(size=shape).astype(dtype) for shape in ((3, 4), (5,), ())]


def run(optimizer, parameters, steps):
    for step in steps:
        for p, g in zip(parameters, gradients(step, parameters[0].dtype), strict=True):
            p.grad = gk.tensor(g)
        optimizer.step()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("name", "settings"), OPTIONS, ids=IDS)
def test_ten_steps_are_torchs(name, settings, dtype):
    torch = pytest.importorskip("torch")
    ours = [nn.Parameter(a.copy()) for a in starts(dtype)]
    theirs = [torch.tensor(a, requires_grad=True) for a in starts(dtype)]
    optimizer = getattr(optim, name)(ours, **settings)
    reference = getattr(torch.optim, name)(theirs, **settings)
    # a step adds at most a few roundings of numbers of order one; centred RMSprop subtracts two close averages
    tolerance = (500 if settings.get("centered") else 50) * np.finfo(dtype).eps
    for step in range(10):
        run(optimizer, ours, [step])
        for p, g in zip(theirs, gradients(step, dtype), strict=True):
            p.grad = torch.tensor(g)
        reference.step()
        for a, b in zip(ours, theirs, strict=True):
            assert np.abs(a.detach().numpy() - b.detach().numpy()).max() <= tolerance


@pytest.mark.parametrize(("name", "settings"), OPTIONS, ids=IDS)
def test_torchs_state_continues_here(name, settings):
    torch = pytest.importorskip("torch")
    theirs = [torch.tensor(a, requires_grad=True) for a in starts()]
    reference = getattr(torch.optim, name)(theirs, **settings)
    ours = [nn.Parameter(a.copy()) for a in starts()]
    optimizer = getattr(optim, name)(ours, lr=123.0)
    for step in range(6):
        for p, g in zip(theirs, gradients(step), strict=True):
            p.grad = torch.tensor(g)
        reference.step()
        if step == 2:
            optimizer.load_state_dict(reference.state_dict())
            for a, b in zip(ours, theirs, strict=True):
                update.copy_(a, gk.tensor(b.detach()))
        elif step > 2:
            run(optimizer, ours, [step])
            for a, b in zip(ours, theirs, strict=True):
                assert np.abs(a.detach().numpy() - b.detach().numpy()).max() <= 1e-13


@pytest.mark.parametrize(("name", "settings"), OPTIONS, ids=IDS)
def test_a_loaded_state_continues_bit_for_bit(name, settings):
    ours = [nn.Parameter(a) for a in starts()]
    optimizer = getattr(optim, name)(ours, **settings)
    run(optimizer, ours, range(3))
    again = [nn.Parameter(p.detach().numpy().copy()) for p in ours]
    resumed = getattr(optim, name)(again)
    resumed.load_state_dict(optimizer.state_dict())
    run(optimizer, ours, range(3, 6))
    run(resumed, again, range(3, 6))
    assert all(np.array_equal(a.detach().numpy(), b.detach().numpy()) for a, b in zip(ours, again, strict=True))


def test_adams_first_step_is_the_learning_rate_in_the_gradients_direction():
    p = nn.Parameter(np.zeros(3))
    p.grad = gk.tensor(np.array([2.0, -3.0, 0.5]))
    optim.Adam([p], lr=0.1, eps=0.0).step()
    assert np.abs(p.detach().numpy() - [-0.1, 0.1, -0.1]).max() <= 1e-15


def test_a_step_bumps_the_version_so_that_a_stale_graph_is_noticed():
    p = nn.Parameter(np.ones(2))
    y = p * p
    p.grad = gk.tensor(np.ones(2))
    optim.SGD([p], lr=0.1).step()
    with pytest.raises(RuntimeError, match="changed in place"):
        y.sum().backward()


def test_parameters_without_a_gradient_are_left_alone():
    a, b = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(2))
    a.grad = gk.tensor(np.ones(2))
    optimizer = optim.Adam([a, b], weight_decay=0.1)
    optimizer.step()
    assert not np.array_equal(a.detach().numpy(), np.ones(2))
    assert np.array_equal(b.detach().numpy(), np.ones(2))
    assert list(optimizer.state_dict()["state"]) == [0]


def test_strided_gradients_give_the_same_step_as_contiguous_ones():
    g = np.arange(12.0).reshape(4, 3)
    for cls in (optim.SGD, optim.Adam, optim.RMSprop):
        p, q = nn.Parameter(np.zeros((3, 4))), nn.Parameter(np.zeros((3, 4)))
        p.grad, q.grad = gk.from_array(g.T), gk.tensor(np.ascontiguousarray(g.T))
        cls([p]).step()
        cls([q]).step()
        assert np.array_equal(p.detach().numpy(), q.detach().numpy())
    p = nn.Parameter(np.zeros(3))
    p.sum().backward()  # its gradient is a broadcast view
    optim.SGD([p], lr=1.0).step()
    assert np.array_equal(p.detach().numpy(), [-1.0, -1.0, -1.0])


def test_groups_have_their_own_settings():
    a, b = nn.Parameter(np.zeros(1)), nn.Parameter(np.zeros(1))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b]}], lr=0.25)
    for p in (a, b):
        p.grad = gk.tensor(np.ones(1))
    optimizer.step()
    assert (a.detach().numpy()[0], b.detach().numpy()[0]) == (-1.0, -0.25)
    optimizer.zero_grad()
    assert a.grad is None
    assert b.grad is None


def test_a_closure_is_called_first_and_its_result_returned():
    p = nn.Parameter(np.ones(1))

    def closure():
        (p * 2.0).sum().backward()
        return 7

    assert optim.SGD([p], lr=0.5).step(closure) == 7
    assert p.detach().numpy()[0] == 0.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.Adam([p], amsgrad=True), "amsgrad"),
        (lambda p: optim.Adam([p], lr=-1.0), "lr must not be negative"),
        (lambda p: optim.Adam([p], lr=float("nan")), "lr must not be negative"),
        (lambda p: optim.Adam([p], betas=(0.9, 1.0)), "beta2"),
        (lambda p: optim.SGD([p], nesterov=True), "nesterov"),
        (lambda p: optim.SGD([]), "no parameters"),
        (lambda p: optim.SGD([p, p]), "twice"),
        (lambda p: optim.SGD([p * 2.0]), "not a leaf"),
        (lambda p: optim.RMSprop([{"params": [p], "rho": 0.9}]), "unknown setting 'rho'"),
        (lambda p: optim.RMSprop([p], alpha=-0.1), "alpha"),
    ],
)
def test_wrong_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make(nn.Parameter(np.ones(2)))


def test_one_tensor_instead_of_a_list_is_refused():
    with pytest.raises(TypeError, match="iterable"):
        optim.SGD(nn.Parameter(np.ones(2)))


def test_a_state_of_other_parameters_is_refused():
    p, q = nn.Parameter(np.ones(2)), nn.Parameter(np.ones(3))
    p.grad = gk.tensor(np.ones(2))
    optimizer = optim.Adam([p])
    optimizer.step()
    with pytest.raises(ValueError, match=r"'exp_avg' has shape \(2,\)"):
        optim.Adam([q]).load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"groups of \[1\] parameters, expected \[2\]"):
        optim.Adam([p, q]).load_state_dict(optimizer.state_dict())


def test_schedules_follow_their_formulas_and_continue_from_a_state():
    def rates(make, count=6):
        optimizer = optim.SGD([nn.Parameter(np.ones(1))], lr=0.8)
        schedule, found = make(optimizer), []
        for _ in range(count):
            found += schedule.get_last_lr()
            schedule.step()
        other = make(optim.SGD([nn.Parameter(np.ones(1))], lr=0.1))
        other.load_state_dict(schedule.state_dict())
        assert other.get_last_lr() == schedule.get_last_lr()
        return found

    assert rates(lambda o: optim.StepLR(o, 2, 0.5)) == [0.8, 0.8, 0.4, 0.4, 0.2, 0.2]
    assert np.allclose(rates(lambda o: optim.ExponentialLR(o, 0.9)), 0.8 * 0.9 ** np.arange(6), rtol=1e-14)
    cosine = [0.1 + 0.7 * (1 + math.cos(math.pi * e / 5)) / 2 for e in range(6)]
    assert np.allclose(rates(lambda o: optim.CosineAnnealingLR(o, 5, 0.1)), cosine, rtol=1e-14)
    assert np.allclose(rates(lambda o: optim.LambdaLR(o, lambda e: 1 / (1 + e))), 0.8 / np.arange(1, 7), rtol=1e-14)


def test_an_unset_group_rate_is_not_shared_with_the_schedule_of_another():
    a, b = nn.Parameter(np.ones(1)), nn.Parameter(np.ones(1))
    optimizer = optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b]}], lr=0.5)
    schedule = optim.StepLR(optimizer, 1)
    schedule.step()
    assert np.allclose(schedule.get_last_lr(), [0.1, 0.05], rtol=1e-14)
