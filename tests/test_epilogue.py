"""Bias, activation and dropout in one pass: the same as the operations that it joins, in values and derivatives."""

from __future__ import annotations

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.backends import cpu
from gankernels.ops.epilogue import Epilogue, unfused

F32 = np.float32
LAYERS = {
    "linear": ((6, 5), lambda x, w, b, after: gk.ops.linear(x, w, b, after=after), (7, 5), 7),
    "conv1": ((3, 2, 9), lambda x, w, b, after: gk.ops.conv(x, w, b, after=after), (4, 2, 3), 4),
    "conv3": ((2, 2, 5, 4, 7), lambda x, w, b, after: gk.ops.conv(x, w, b, padding=1, after=after), (3, 2, 3, 3, 3), 3),
    "transposed": (
        (2, 3, 4, 5),
        lambda x, w, b, after: gk.ops.conv_transpose(x, w, b, 2, after=after),
        (3, 2, 3, 3),
        2,
    ),
    "upsampled": (
        (2, 2, 3, 4),
        lambda x, w, b, after: gk.ops.upsample_conv(x, w, b, 2, 1, after=after),
        (3, 2, 3, 3),
        3,
    ),
}


def _operands(name, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x_shape, layer, w_shape, out = LAYERS[name]
    return layer, [gk.tensor(rng.normal(size=s).astype(dtype), requires_grad=True) for s in (x_shape, w_shape, (out,))]


def _epilogue(slope, p):
    return Epilogue(slope, p, gk.Generator(11, 5))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("slope", [0.0, 0.2, 1.0])
@pytest.mark.parametrize("dtype", [F32, np.float64])
@pytest.mark.parametrize("name", LAYERS)
def test_the_fused_pass_equals_the_operations_it_joins(every_isa, name, dtype, slope, p, bias):
    layer, (x, w, b) = _operands(name, dtype)
    inputs = [x, w, b] if bias else [x, w]
    results = []
    for fused in (True, False):
        after = _epilogue(slope, p)
        y = layer(x, w, b if bias else None, after) if fused else unfused(layer(x, w, b if bias else None, None), after)
        ct = gk.tensor(np.random.default_rng(1).normal(size=y.shape).astype(dtype))
        results.append([y.detach(), *gk.grad(y, inputs, ct)])
    for got, expected in zip(*results, strict=True):
        scale = np.abs(expected.numpy()).max() + 1e-30
        assert not (np.abs(got.numpy() - expected.numpy()).max() > 4 * np.finfo(dtype).eps * scale)
    assert np.array_equal(results[0][0].numpy(), results[1][0].numpy())


@pytest.mark.parametrize("p", [0.0, 0.4])
@pytest.mark.parametrize("name", LAYERS)
def test_second_derivatives_are_those_of_the_operations_it_joins(name, p):
    layer, (x, w, b) = _operands(name, np.float64)
    results = []
    for fused in (True, False):
        after = _epilogue(0.2, p)
        y = layer(x, w, b, after) if fused else unfused(layer(x, w, b, None), after)
        ct = gk.tensor(np.random.default_rng(1).normal(size=y.shape))
        (slope,) = gk.grad(gk.sum(y * y * ct), x, create_graph=True)
        results.append(gk.grad(gk.sum(slope * slope), [x, w, b]))
    for got, expected in zip(*results, strict=True):
        scale = np.abs(expected.numpy()).max()
        assert scale > 0.0
        assert not (np.abs(got.numpy() - expected.numpy()).max() > 1e-13 * scale)


@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_kept_zeros_keep_their_gradient_and_dropped_ones_have_none(every_isa, dtype):
    x = gk.tensor(np.eye(64, dtype=dtype) * 0.0, requires_grad=True)  # every output is an exact zero
    w = gk.tensor(np.eye(64, dtype=dtype))
    y = gk.ops.linear(x, w, None, after=Epilogue(0.5, 0.25, gk.Generator(3)))
    kept = gk.ops.dropout(gk.ones(64, 64, dtype=dtype), 0.25, True, gk.Generator(3)).numpy() > 0
    (gx,) = gk.grad(gk.sum(y), x)
    assert (y.detach().numpy() == 0.0).all()
    assert 0.5 < kept.mean() < 0.9
    assert np.array_equal(gx.numpy(), np.where(kept, dtype(0.5) * dtype(1 / 0.75), 0))


@pytest.mark.cpu_only
@pytest.mark.parametrize("shape", [(3, 5, 20001), (70, 3, 1), (9, 700), (40000, 1), (2, 2, 1), (1, 1), (5, 40000)])
@pytest.mark.parametrize("p", [0.0, 0.3])
def test_results_do_not_depend_on_the_threads_and_sums_are_exact_for_integers(thread_counts, shape, p):
    rng = np.random.default_rng(2)
    start, ct = rng.integers(-3, 4, (2, *shape)).astype(F32)
    bias = rng.integers(-2, 3, shape[1]).astype(F32)
    results = []
    for n in thread_counts:
        gk.set_num_threads(n)
        y, gx, gb = start.copy(), np.full(shape, np.nan, F32), np.full(shape[1], np.nan, F32)
        cpu.native.epilogue(y, bias, 0.5, p, 9, 4)
        cpu.epilogue_backward(y, ct, gx, gb, 0.5, p)
        results.append((y, gx, gb))
    for other in results[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(results[0], other, strict=True))
    y, gx, gb = results[0]
    sums = gx.astype(np.float64).sum(axis=(0, *range(2, len(shape))))
    assert not (np.abs(gb - sums) > 1e-6 * np.abs(sums) + 1e-3 * (p > 0)).any()
    if p == 0.0:
        v = start + bias.reshape(1, -1, *(1,) * (len(shape) - 2))
        assert np.array_equal(y, np.where(v > 0, v, 0.5 * v))
        assert np.array_equal(gx, np.where(v > 0, ct, 0.5 * ct))


@pytest.mark.cpu_only
def test_not_a_number_and_infinities_pass_as_in_the_operations():
    special = gk.tensor(np.array([[np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-45]], F32))
    w = gk.tensor(np.eye(7, dtype=F32))
    for slope in (0.0, 0.3):
        y = cpu.empty((1, 7), F32)
        y[...] = special.numpy()
        cpu.native.epilogue(y, np.zeros(0, F32), slope, 0.0, 0, 0)
        expected = gk.ops.leaky_relu(special, slope) if slope else gk.relu(special)
        assert np.array_equal(y, expected.numpy(), equal_nan=True)
    assert w.shape == (7, 7)


# ---- in Sequential -------------------------------------------------------------------------------------------------
def _network(*modules):
    return nn.Sequential(
        nn.Linear(4, 6, generator=gk.Generator(1)), *modules, nn.Linear(6, 2, generator=gk.Generator(2))
    )


def _ops_of(net, x):
    found, stack = [], [net(x).node]
    while stack:
        node = stack.pop()
        found.append(node.op)
        stack += [t.node for t in node.inputs if t.node is not None]
    return found


@pytest.mark.parametrize(
    ("modules", "joined"),
    [
        ((nn.LeakyReLU(0.2), nn.Dropout(0.5)), 2), ((nn.ReLU(),), 1), ((nn.Dropout(0.5),), 1), ((nn.Tanh(),), 0),
        ((nn.LeakyReLU(-0.2),), 0), ((nn.LeakyReLU(0.2), nn.LeakyReLU(0.2)), 1),
    ],
)  # fmt: skip
def test_sequential_joins_a_layer_with_the_activation_and_dropout_behind_it(modules, joined):
    x = gk.tensor(np.ones((3, 4), F32))
    ops = _ops_of(_network(*modules), x)
    assert ("linear.y+epilogue" in ops) == (joined > 0)
    assert len(ops) == 2 + len(modules) - joined


def test_evaluation_has_no_dropout_and_hooks_and_the_switch_keep_modules_apart():
    x = gk.tensor(np.ones((3, 4), F32))
    net = _network(nn.LeakyReLU(0.2), nn.Dropout(0.5)).eval()
    assert np.array_equal(net(x).detach().numpy(), net(x).detach().numpy())
    heard = []
    handle = net[1].register_forward_hook(lambda *args: heard.append(1))
    assert "linear.y+epilogue" not in _ops_of(net, x)
    assert heard
    handle.remove()
    assert "linear.y+epilogue" in _ops_of(net, x)
    gk.set_fusion(False)
    try:
        assert "linear.y+epilogue" not in _ops_of(net, x)
    finally:
        gk.set_fusion(True)
    net[1].forward = lambda input: input * 0.0
    assert "linear.y+epilogue" not in _ops_of(net, x)


def test_fused_and_separate_networks_draw_the_same_random_numbers():
    x, results = gk.tensor(np.ones((5, 4), F32)), []
    for fused in (False, True):
        gk.set_fusion(fused)
        gk.manual_seed(4)
        net = nn.Sequential(nn.Linear(4, 9, generator=gk.Generator(1)), nn.ReLU(), nn.Dropout(0.5), nn.Dropout(0.2))
        results.append((net(x).detach().numpy(), gk.ops.default_generator().state()))
    assert np.array_equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
