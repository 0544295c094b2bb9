"""Activation and dropout in the passes of a batch normalisation: the same as the operations that it joins."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn
from gankernels.ops.epilogue import Epilogue, unfused
from gankernels.testing.bounds import rounding

SHAPES = [(16, 5), (8, 3, 7), (2, 3, 5, 4, 7), (3, 2, 9000), (9, 1, 3)]
EPILOGUES = [(0.0, 0.0), (0.2, 0.0), (1.0, 0.3), (0.2, 0.3), (0.2, 1.0)]


def operands(shape: tuple[int, ...], dtype: Any) -> list[gk.Tensor]:
    """x, weight and bias."""
    rng = np.random.default_rng(0)
    arrays = [rng.normal(1.0, 2.0, shape), rng.normal(1.0, 0.5, shape[1]), rng.normal(0.0, 0.5, shape[1])]
    return [gk.tensor(a.astype(dtype), requires_grad=True) for a in arrays]


def cotangent(y: gk.Tensor) -> gk.Tensor:
    return gk.tensor(np.random.default_rng(1).normal(size=y.shape).astype(y.dtype))


def normalised(operands: list[gk.Tensor], after: Epilogue, joined: bool) -> gk.Tensor:
    """Training statistics; the epilogue in the same pass, or after it."""
    x, weight, bias = operands
    y = gk.ops.batch_norm(x, None, None, weight, bias, True, after=after if joined else None)
    return y if joined else unfused(y, after)


@pytest.mark.parametrize(("slope", "p"), EPILOGUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_have_the_bits_of_the_operations(
    every_isa: str, shape: tuple[int, ...], dtype: Any, slope: float, p: float
) -> None:
    inputs = operands(shape, dtype)
    results = []
    for joined in (True, False):
        y = normalised(inputs, Epilogue(slope, p, gk.Generator(11, 5)), joined)
        results.append([y.detach(), *gk.grad(y, inputs, cotangent(y))])
    for got, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(got.numpy(), expected.numpy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_agree_with_float64_arithmetic_within_their_rounding(every_isa: str, dtype: Any) -> None:
    x, weight, bias = operands((4, 3, 6, 5), dtype)
    y = normalised([x, weight, bias], Epilogue(0.2, 0.0), True).detach().numpy()
    values = x.detach().numpy().astype(np.float64)
    column = (1, 3, 1, 1)
    w, b = (t.detach().numpy().astype(np.float64).reshape(column) for t in (weight, bias))
    mean, deviation = values.mean((0, 2, 3), keepdims=True), np.sqrt(values.var((0, 2, 3), keepdims=True) + 1e-5)
    plain = (values - mean) / deviation * w + b
    # roundings of mean, rstd, scale, the products and sums of x*scale + shift, and of the slope
    magnitude = np.abs(w / deviation) * (np.abs(values) + np.abs(mean)) + np.abs(b)
    bound = 10 * rounding(dtype) * magnitude
    assert not (np.abs(y - np.where(plain > 0, plain, 0.2 * plain)) > bound).any()


@pytest.mark.parametrize("p", [0.0, 0.4])
def test_second_derivatives_are_those_of_the_operations(p: float) -> None:
    inputs = operands((4, 3, 5), np.float64)
    results = []
    for joined in (True, False):
        y = normalised(inputs, Epilogue(0.2, p, gk.Generator(7)), joined)
        (slope,) = gk.grad(gk.sum(y * y * cotangent(y)), inputs[0], create_graph=True)
        results.append(gk.grad(gk.sum(slope * slope), inputs))
    for got, expected in zip(*results, strict=True):
        scale = np.abs(expected.numpy()).max()
        assert scale > 0.0
        assert not (np.abs(got.numpy() - expected.numpy()).max() > 1e-12 * scale)


@pytest.mark.much_work
def test_results_have_the_same_bits_at_any_thread_count(thread_counts: tuple[int, ...]) -> None:
    inputs = operands((6, 4, 9001), np.float32)
    results = set()
    for n in thread_counts:
        gk.set_num_threads(n)
        y = normalised(inputs, Epilogue(0.2, 0.3, gk.Generator(3)), True)
        found = [y.detach(), *gk.grad(y, inputs, cotangent(y))]
        results.add(b"".join(t.numpy().tobytes() for t in found))
    assert len(results) == 1


def test_an_image_whose_cells_lie_in_any_order_gives_the_same(every_isa: str) -> None:
    x, weight, bias = operands((3, 4, 5, 6), np.float32)
    last = gk.tensor(np.ascontiguousarray(x.detach().numpy().transpose(0, 2, 3, 1))).permute(0, 3, 1, 2)
    after = Epilogue(0.2, 0.3)
    y, other = (normalised([t, weight, bias], after._replace(generator=gk.Generator(2)), True) for t in (x, last))
    np.testing.assert_array_equal(y.detach().numpy(), other.detach().numpy())


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_image_that_begins_anywhere_in_memory_gives_the_same(first: int) -> None:
    x, weight, bias = operands((5, 3, 7), np.float32)
    part = x.detach()[first:]
    after = Epilogue(0.2, 0.3)
    y, other = (
        normalised([t, weight, bias], after._replace(generator=gk.Generator(2)), True)
        for t in (part, gk.tensor(part.numpy().copy()))
    )
    np.testing.assert_array_equal(y.detach().numpy(), other.detach().numpy())


def network() -> nn.Sequential:
    layers = nn.BatchNorm2d(3), nn.LeakyReLU(0.2), nn.Dropout(0.3)
    return nn.Sequential(nn.Conv2d(2, 3, 3, generator=gk.Generator(1)), *layers)


@pytest.mark.parametrize("training", [True, False])
def test_sequential_joins_a_normalisation_with_what_is_behind_it(training: bool) -> None:
    x = gk.tensor(np.random.default_rng(0).normal(size=(4, 2, 6, 5)).astype(np.float32))
    outputs, running = [], []
    for joined in (True, False):
        gk.set_fusion(joined)
        try:
            gk.manual_seed(5)
            net = network().train(training)
            y = net(x)
        finally:
            gk.set_fusion(True)
        if joined:
            assert "leaky" not in y.node.op
            assert "dropout" not in y.node.inputs[0].node.op
        outputs.append(y.detach().numpy())
        running.append(net[1].running_var.numpy())
    # statistics that the convolution gathers are added up in another order
    rounded = 1e-6 if hasattr(gk.backends.get(), "conv_moments") else 0.0
    np.testing.assert_allclose(*outputs, rtol=rounded, atol=4 * rounded)
    np.testing.assert_allclose(*running, rtol=rounded)


def test_an_evaluated_normalisation_has_the_gradient_of_its_operations() -> None:
    x, weight, bias = operands((4, 3, 5), np.float64)
    mean, variance = gk.tensor(np.array([0.1, -0.2, 0.3])), gk.tensor(np.array([1.0, 2.0, 0.5]))
    results = []
    for joined in (True, False):
        y = gk.ops.batch_norm(x, mean, variance, weight, bias, after=Epilogue(0.2) if joined else None)
        y = y if joined else unfused(y, Epilogue(0.2))
        results.append(gk.grad(y, [x, weight, bias], cotangent(y)))
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-13, atol=1e-14)


def test_a_replayed_step_draws_other_masks_each_time_as_the_step_itself() -> None:
    x = gk.tensor(np.random.default_rng(0).normal(size=(4, 3, 6)).astype(np.float32))
    outputs = []
    for replayed in (True, False):
        gk.manual_seed(9)
        net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5))

        def step(t: gk.Tensor, net: nn.Sequential = net) -> gk.Tensor:
            y = net(t)
            (slope,) = gk.grad(gk.sum(y * y), [net[0].weight])
            return gk.cat([y.detach().reshape(-1), slope])

        run = gk.Replay(step, [net]) if replayed else step
        outputs.append([run(x).numpy().copy() for _ in range(4)])
    np.testing.assert_array_equal(*outputs)
    assert not np.array_equal(outputs[0][2], outputs[0][3])
