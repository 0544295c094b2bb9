"""Parameters in one buffer: the same training, the same state_dicts, one kernel call for an optimizer step."""

from __future__ import annotations

import numpy as np
import pytest

import gankernels as gk
from gankernels import backends, nn, optim
from gankernels.optim.flat import share_gradients

OPTIMIZERS = {
    "adam": lambda p: optim.Adam(p, 1e-2, weight_decay=0.1),
    "adamw": lambda p: optim.AdamW(p, 1e-2),
    "rmsprop": lambda p: optim.RMSprop(p, 1e-2, momentum=0.5, centered=True),
    "sgd": lambda p: optim.SGD(p, 1e-2, momentum=0.9, nesterov=True),
    "plain sgd": lambda p: optim.SGD(p, 1e-2),
}


def _net():
    rng = gk.Generator(1)
    return nn.Sequential(nn.Linear(3, 5, generator=rng), nn.Tanh(), nn.Linear(5, 2, generator=rng))


def _step(net, opt, i, only=None):
    opt.zero_grad()
    (net(gk.full((4, 3), 0.1 * (i + 1))) ** 2).sum().backward()
    if only is not None:
        for p in list(net.parameters())[only:]:
            p.grad = None
    opt.step()


def _host(value):
    return value.detach().numpy() if isinstance(value, gk.Tensor) else value


def _tensors(opt):
    return [t for s in opt.state_dict()["state"].values() for t in s.values()]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_flat_network_is_trained_to_the_same_bits_with_the_same_state(name):
    nets, opts = [_net(), _net()], []
    optim.flatten(nets[0].parameters())
    for net in nets:
        opts.append(OPTIMIZERS[name](net.parameters()))
        for i in range(4):
            _step(net, opts[-1], i)
    assert opts[0].flat_group() is not None
    assert opts[1].flat_group() is None
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert np.array_equal(_host(a), _host(b))
    a, b = (o.state_dict() for o in opts)
    assert a["param_groups"] == b["param_groups"]
    assert [list(s) for s in a["state"].values()] == [list(s) for s in b["state"].values()]
    for x, y in zip(_tensors(opts[0]), _tensors(opts[1]), strict=True):
        assert np.array_equal(_host(x), _host(y))


def test_a_step_is_one_kernel_call(monkeypatch):
    calls, kernel = [], backends.get().adam_step
    monkeypatch.setattr(backends.get(), "adam_step", lambda *args: (calls.append(1), kernel(*args)))
    for flat, expected in ((True, 1), (False, 4)):
        net = _net()
        if flat:
            optim.flatten(net.parameters())
        opt = optim.Adam(net.parameters())
        _step(net, opt, 0)
        calls.clear()
        _step(net, opt, 1)
        assert len(calls) == expected


def test_flat_parameters_are_aligned_keep_their_values_and_order_and_share_one_buffer():
    net = nn.Sequential(nn.Linear(7, 33), nn.Linear(33, 5))
    before = {name: t.numpy().copy() for name, t in net.state_dict().items()}
    optim.flatten(net.parameters())
    assert list(net.state_dict()) == list(before)
    buffers = {id(p.data.base) for p in net.parameters()}
    assert len(buffers) == 1
    for name, p in net.named_parameters():
        assert np.array_equal(_host(p), before[name])
        assert (p.data.ptr if hasattr(p.data, "ptr") else p.data.ctypes.data) % 64 == 0
        assert p.data.flags.c_contiguous


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_from_a_state_dict_between_flat_and_separate_parameters(name):
    reference = _net()
    opt = OPTIMIZERS[name](reference.parameters())
    for i in range(3):
        _step(reference, opt, i)
    saved, weights = opt.state_dict(), {k: gk.tensor(t.numpy().copy()) for k, t in reference.state_dict().items()}
    saved = {"state": {k: {n: gk.tensor(_host(v)) if isinstance(v, gk.Tensor) else v for n, v in s.items()}
                       for k, s in saved["state"].items()}, "param_groups": saved["param_groups"]}  # fmt: skip
    _step(reference, opt, 3)
    for flat in (True, False):
        net = _net()
        if flat:
            optim.flatten(net.parameters())
        resumed = OPTIMIZERS[name](net.parameters())
        _step(net, resumed, 7)  # a state that loading replaces
        net.load_state_dict(weights)
        resumed.load_state_dict(saved)
        _step(net, resumed, 3)
        for a, b in zip(net.parameters(), reference.parameters(), strict=True):
            assert np.array_equal(_host(a), _host(b))


def test_missing_gradients_and_other_steps_take_the_parameters_one_by_one():
    nets = [_net(), _net()]
    optim.flatten(nets[0].parameters())
    opts = [optim.Adam(net.parameters(), 1e-2) for net in nets]
    for net, opt in zip(nets, opts, strict=True):
        _step(net, opt, 0)
        _step(net, opt, 1, only=2)
        _step(net, opt, 2)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert np.array_equal(_host(a), _host(b))
    assert [s["step"] for s in opts[0].state.values()] == [3, 3, 2, 2]


def test_parameters_that_left_the_buffer_are_trained_too():
    nets = [_net(), _net()]
    optim.flatten(nets[0].parameters())
    for net in nets:
        opt = optim.Adam(net.parameters(), 1e-2)
        _step(net, opt, 0)
        net[0].weight.data = (net[0].weight.detach() * 2.0).data
        _step(net, opt, 1)
        _step(net, opt, 2)
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert np.array_equal(_host(a), _host(b))


def test_clipping_and_copies_of_networks_work_on_flat_parameters():
    net = _net()
    optim.flatten(net.parameters())
    opt = optim.Adam(net.parameters(), 1e-2)
    (net(gk.ones(4, 3)) * 100.0).sum().backward()
    norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    after = np.sqrt(sum((p.grad.numpy() ** 2).sum() for p in net.parameters()))
    assert norm > 1.0
    assert not (abs(after - 1.0) > 1e-4)
    opt.step()
    nn.utils.clip_parameters_(net.parameters(), -0.05, 0.05)
    assert max(np.abs(_host(p)).max() for p in net.parameters()) <= np.float32(0.05)
    other = _net()
    other.load_state_dict(net.state_dict())
    assert np.array_equal(other(gk.ones(1, 3)).detach().numpy(), net(gk.ones(1, 3)).detach().numpy())


def test_networks_of_two_dtypes_and_single_parameters_stay_as_they_are():
    mixed = [nn.Parameter(gk.ones(3)), nn.Parameter(gk.ones(3, dtype=np.float64))]
    arrays = [p.data for p in mixed]
    optim.flatten(mixed)
    assert all(p.data is a for p, a in zip(mixed, arrays, strict=True))
    optim.flatten([])
    opt = optim.SGD([mixed[0]], 0.5)
    (mixed[0] * 2.0).sum().backward()
    opt.step()
    assert opt.flat_group() is None
    assert mixed[0].numpy is not None
    assert (_host(mixed[0]) == 0.0).all()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_networks_that_share_the_buffer_of_their_gradients_are_trained_to_the_same_bits(name):
    found = []
    for shared in (False, True):
        nets = [_net(), nn.Linear(3, 20, generator=gk.Generator(2))]
        for net in nets:
            optim.flatten(net.parameters())
        opts = [OPTIMIZERS[name](net.parameters()) for net in nets]
        groups = [opt.flat_group() for opt in opts]
        if shared:
            share_gradients(*groups)
        for i in range(4):
            for net, opt in zip(nets, opts, strict=True):
                _step(net, opt, i)
        arrays = [g.gradient.data for g in groups]
        addresses = {a.ctypes.data if isinstance(a, np.ndarray) else a.ptr for a in arrays}
        assert len(addresses) == (1 if shared else 2)
        found.append([_host(t) for net in nets for t in net.parameters()] + [t for o in opts for t in _tensors(o)])
    for a, b in zip(*found, strict=True):
        assert np.array_equal(_host(a), _host(b))


def test_groups_of_several_dtypes_or_without_a_buffer_share_nothing():
    nets = [_net(), _net().double()]
    for net in nets:
        optim.flatten(net.parameters())
    groups = [optim.SGD(net.parameters(), 0.1).flat_group() for net in nets]
    share_gradients(*groups)
    share_gradients(groups[0], None)
    share_gradients(None, None)
    assert [g.gradient.dtype for g in groups] == [np.float32, np.float64]
