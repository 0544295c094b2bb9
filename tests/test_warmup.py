"""Warming up runs a network and leaves no trace."""

from __future__ import annotations

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LeakyReLU(0.2), nn.Dropout(0.5), nn.Flatten(), nn.Linear(8, 1)
    )


@pytest.mark.parametrize("orders", [0, 1, 2])
def test_a_warm_network_is_the_network_it_was(orders: int) -> None:
    net = network()
    before = {name: t.cpu().numpy().copy() for name, t in net.state_dict().items()}
    state = gk.ops.default_generator().state()
    assert gk.warmup(net, (3, 1, 4, 4), orders=orders) > 0
    assert gk.ops.default_generator().state() == state
    for name, t in net.state_dict().items():
        np.testing.assert_array_equal(t.cpu().numpy(), before[name])
    assert all(p.grad is None for p in net.parameters())


def test_warming_up_takes_tensors_and_refuses_other_orders() -> None:
    x = gk.ones(2, 3)
    assert gk.warmup(nn.Linear(3, 2), x) > 0
    assert not x.requires_grad
    with pytest.raises(ValueError, match="orders must be 0, 1 or 2, got 3"):
        gk.warmup(nn.Linear(3, 2), x, orders=3)
