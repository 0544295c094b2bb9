"""The moments that the compiled CUDA backend's convolutions gather where they store their results."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_cuda_epilogue import CONVOLUTIONS, COUNTER, SEED

import gankernels as gk
from gankernels import backends, nn
from gankernels.backends import cuda
from gankernels.backends.opcodes import CONV_ALGORITHMS

Array = np.ndarray[Any, np.dtype[Any]]
# Blocks of these hold a tile of y; paths by columns, with taps beside channels and with a sum in parts pass over y.
AT_STORE = {"window": "auto", "groups": "auto", "many outputs": "tf32", "transposed": "auto", "upsampled": "auto"}


def found(name: str, algorithm: str, dtype: Any, offset: float = 0.0) -> tuple[Array, Array, Array]:
    """y, mean and variance of a convolution with bias, LeakyReLU and dropout."""
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    rng = np.random.default_rng(5)
    a, b = (cuda.from_host(rng.standard_normal(s).astype(dtype)) for s in shapes)
    bias = cuda.from_host((offset + rng.standard_normal(out[1])).astype(dtype))
    y, *moments = (cuda.from_host(np.full(s, np.nan, dtype)) for s in (out, out[1], out[1]))
    last = (bias, 0.2, 0.0 if offset else 0.3, SEED, COUNTER)
    getattr(cuda, kernel + "_moments")(a, b, y, pod, CONV_ALGORITHMS[algorithm], *moments, *last)
    plain = cuda.from_host(np.full(out, np.nan, dtype))
    getattr(cuda, kernel + "_epilogue")(a, b, plain, pod, CONV_ALGORITHMS[algorithm], *last)
    np.testing.assert_array_equal(cuda.to_host(y), cuda.to_host(plain))
    return cuda.to_host(y), cuda.to_host(moments[0]), cuda.to_host(moments[1])


def check(y: Array, mean: Array, variance: Array) -> None:
    axes, wide = (0, *range(2, y.ndim)), y.astype(np.float64)
    if y.size == 0:
        assert np.isnan(mean).all()
        return
    epsilon = float(np.finfo(y.dtype).eps)
    assert not (np.abs(mean - wide.mean(axes)) > 4 * epsilon * np.abs(wide).max(axes)).any()
    # differences from the first element of a piece are below the range of y; they and their sums are rounded
    spread = wide.max(axes) - wide.min(axes)
    assert not (np.abs(variance - wide.var(axes)) > 16 * epsilon * (spread + np.abs(mean)) * spread).any()


@pytest.mark.parametrize("algorithm", ["auto", "im2col", "tf32", "bf16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_at_the_store_are_those_of_what_is_stored(name: str, algorithm: str) -> None:
    check(*found(name, algorithm, np.float32))


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_at_the_store_serve_double_too(name: str) -> None:
    check(*found(name, "auto", np.float64))


@pytest.mark.parametrize("name", ["window", "transposed", "many outputs"])
def test_a_large_mean_costs_the_variance_no_digits(name: str) -> None:
    y, mean, variance = found(name, "auto", np.float32, 1000.0)
    assert not (mean < 500.0).any()
    check(y, mean, variance)


@pytest.mark.parametrize("algorithm", [None, "im2col"])
@pytest.mark.parametrize("name", AT_STORE)
def test_pieces_are_gathered_where_a_block_holds_its_outputs(name: str, algorithm: str | None) -> None:
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    a, b = (cuda.from_host(np.ones(s, np.float32)) for s in shapes)
    y, none, *moments = (cuda.from_host(np.zeros(s, np.float32)) for s in (out, 0, out[1], out[1]))
    made = []
    for suffix, results in (("_epilogue", []), ("_moments", moments)):
        before = cuda.memory_stats()["allocations"]
        code = CONV_ALGORITHMS[algorithm or AT_STORE[name]]
        getattr(cuda, kernel + suffix)(a, b, y, pod, code, *results, none, 0.2, 0.0, 0, 0)
        made.append(cuda.memory_stats()["allocations"] - before)
    assert made[1] - made[0] == (1 if algorithm is None else 0)  # the array of the pieces


LAYERS = {
    "conv": lambda: [nn.Conv2d(3, 8, 3, padding=1)],
    "conv without bias": lambda: [nn.Conv2d(3, 8, 3, bias=False)],
    "strided, activated": lambda: [nn.Conv2d(3, 8, 4, stride=2), nn.LeakyReLU(0.2), nn.Dropout(0.3)],
    "transposed": lambda: [nn.ConvTranspose2d(3, 6, 4, stride=2), nn.ReLU()],
    "upsampled": lambda: [nn.Upsample(scale_factor=2), nn.Conv2d(3, 6, 3, padding=1)],
}


def trained(make: Any, joined: bool) -> list[Array]:
    """Output, running statistics and gradients of layers with a BatchNorm behind them."""
    gk.set_fusion(joined)
    try:
        gk.manual_seed(3)
        layers = make()
        weight = next(m for m in layers if hasattr(m, "weight")).weight
        features = weight.shape[1] if isinstance(layers[0], nn.ConvTranspose2d) else weight.shape[0]
        net = nn.Sequential(*layers, nn.BatchNorm2d(features), nn.LeakyReLU(0.1)).to("cuda")
        x = gk.tensor(np.random.default_rng(0).standard_normal((3, 3, 7, 9)).astype(np.float32), device="cuda")
        y = net(x)
        gradients = gk.grad(gk.sum(y * y * y), list(net.parameters()))
    finally:
        gk.set_fusion(True)
    running = [net[-2].running_mean, net[-2].running_var]
    return [a.detach().cpu().numpy() for a in (y, *running, *gradients)]


@pytest.mark.parametrize("name", LAYERS)
def test_a_normalisation_behind_a_convolution_makes_no_pass_for_its_statistics(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backends.get("cuda") is not cuda:
        pytest.skip("another backend serves the device")
    expected = trained(LAYERS[name], False)
    monkeypatch.setattr(cuda, "channel_moments", None)
    steepest = max(np.abs(gradient).max() for gradient in expected[3:])  # a bias's is zero but for rounding
    for i, (got, one_by_one) in enumerate(zip(trained(LAYERS[name], True), expected, strict=True)):
        scale = steepest if i >= 3 else np.abs(one_by_one).max()
        assert not (np.abs(got - one_by_one).max() > 1e-5 * scale)
