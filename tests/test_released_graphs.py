"""retain_graph=False: the memory of a graph is given back while gradients are pulled back; nothing else changes."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn, ops
from gankernels.autograd import is_recording, record
from gankernels.backends import cpu
from gankernels.testing.bounds import assert_same_bits


def leaf(*shape: int, seed: int = 0) -> gk.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return gk.tensor(values, requires_grad=True)


def network() -> nn.Sequential:
    rng = gk.Generator(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, generator=rng), nn.LeakyReLU(0.2), nn.Dropout(0.3, generator=gk.Generator(5)),
        nn.Conv2d(4, 4, 3, padding=1, generator=rng), nn.LeakyReLU(0.2), nn.BatchNorm2d(4),
        nn.Upsample(scale_factor=2), nn.Conv2d(4, 3, 3, generator=rng), nn.Tanh(),
        nn.AvgPool2d(2), nn.Flatten(), nn.Linear(3 * 25, 1, generator=rng),
    )  # fmt: skip


def gradients(retain_graph: bool) -> list[Any]:
    net, x = network(), leaf(5, 2, 6, 6)
    h = net[:6](x)
    loss = ops.square(net[6:](h) + ops.mean(h, (1, 2, 3)).reshape(5, 1) * 2.0).mean() + (h + h).mean()
    found = gk.grad(loss, [x, h, *net.parameters()], retain_graph=retain_graph)
    return [g.numpy() for g in found]


@pytest.mark.parametrize("fusion", [True, False])
def test_the_gradients_are_the_same_bits_whether_the_graph_is_kept_or_not(fusion: bool) -> None:
    before = gk.fusion()
    gk.set_fusion(fusion)
    try:
        kept, released = gradients(True), gradients(False)
    finally:
        gk.set_fusion(before)
    for a, b in zip(kept, released, strict=True):
        assert_same_bits(a, b)


def test_backward_gives_the_same_gradients_and_adds_to_those_that_are_there() -> None:
    x = leaf(4, 3)
    for _ in range(2):
        ops.square(x * 3.0).sum().backward(retain_graph=False)
    assert_same_bits(x.grad.numpy(), 2.0 * gk.grad(ops.square(x * 3.0).sum(), x)[0].numpy())


@pytest.mark.parametrize(
    "again",
    [
        lambda y, h, x: y.backward(),
        lambda y, h, x: gk.grad(y, x),
        lambda y, h, x: gk.grad((h + 1.0).sum(), x),  # shares a part
    ],
)
def test_a_released_graph_says_so_when_it_is_used_again(again: Any) -> None:
    x = leaf(3)
    h = ops.exp(x)
    y = (h * h).sum()
    want = y.item()
    y.backward(retain_graph=False)
    assert y.item() == want
    with pytest.raises(RuntimeError, match="released by an earlier call with retain_graph=False"):
        again(y, h, x)


def test_by_default_a_graph_is_kept() -> None:
    x = leaf(3)
    y = ops.exp(x).sum()
    y.backward()
    y.backward()
    assert_same_bits(x.grad.numpy(), 2.0 * ops.exp(x).detach().numpy())


def test_a_gradient_that_is_recorded_needs_its_graph() -> None:
    x = leaf(3)
    y = ops.exp(x).sum()
    with pytest.raises(ValueError, match="retain_graph"):
        gk.grad(y, x, create_graph=True, retain_graph=False)
    (slope,) = gk.grad(y, x, create_graph=True)
    (second,) = gk.grad(slope.sum(), x, retain_graph=False)
    assert_same_bits(second.numpy(), ops.exp(x).detach().numpy())


def test_what_the_caller_holds_keeps_its_values() -> None:
    x, seed = leaf(6, 4), gk.tensor(np.arange(24, dtype=np.float32).reshape(6, 4))
    want = seed.numpy().copy()
    h = ops.leaky_relu(x, 0.1)
    y = h + h  # both sides get the caller's own tensor
    dh, dy = gk.grad(y, [h, y], seed, retain_graph=False)
    view = dh.numpy()[1:]
    gk.grad(ops.leaky_relu(x, 0.1) * 2.0, x, dh, retain_graph=False)
    y = x.reshape(24)
    y.backward(seed.reshape(24), retain_graph=False)
    assert_same_bits(seed.numpy(), want)
    assert_same_bits(dy.numpy(), want)
    assert_same_bits(view, 2.0 * want[1:])
    assert_same_bits(x.grad.numpy(), want)
    x.grad.numpy()[:] = 7.0  # memory of its own
    assert_same_bits(seed.numpy(), want)


@pytest.mark.parametrize("retain_graph", [True, False])
def test_the_arrays_of_later_operations_are_gone_when_the_rule_of_an_earlier_one_runs(retain_graph: bool) -> None:
    alive: list[bool] = []

    def watched(x: gk.Tensor) -> gk.Tensor:
        def rule(ct: gk.Tensor, _: Any) -> list[gk.Tensor]:
            assert not is_recording()
            alive.append(any(w() is not None for w in later))
            return [ct * 1.0]

        return record("watched", x.detach().clone().data, (x,), rule)

    x = leaf(400)
    h = watched(x)
    y = ops.exp(ops.tanh(h) * 2.0)
    nodes = [y.node, y.node.inputs[0].node]
    later = [weakref.ref(y.data), weakref.ref(nodes[1].inputs[0].data)]
    del h, nodes
    total = y.sum()
    del y
    gk.grad(total, x, retain_graph=retain_graph)
    assert alive == [retain_graph]


@pytest.mark.cpu_only
def test_arrays_of_a_recording_take_the_place_of_any_neighbours_that_died() -> None:
    memory = cpu.Memory()
    recording = cpu.Recording(memory)
    recording.start()
    try:
        small = [cpu.empty((1 << 18,), np.float32) for _ in range(8)]  # 1 MiB each
        kept = small.pop(0)
        kept[...] = 1.0
        small.clear()
        large = cpu.empty((8 << 18,), np.float32)  # in the 7 MiB and one more at the end
        large[...] = 2.0
        assert memory.bytes() == 9 << 20
        assert (kept == 1.0).all()
        del large
        pieces = [cpu.empty((1 << 18,), np.float32) for _ in range(8)]
        for i, piece in enumerate(pieces):
            piece[...] = i
        assert memory.bytes() == 9 << 20
        assert all((piece == i).all() for i, piece in enumerate(pieces))
    finally:
        recording.stop()
    del recording, memory
    assert (kept == 1.0).all()  # the memory lives as long as its arrays
