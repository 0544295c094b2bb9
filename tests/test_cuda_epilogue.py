"""Bias, activation and dropout where the compiled CUDA backend's kernels store their results.

Every path must give the bits of the kernels one after the other, and mark what dropout removed by +0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels.backends import cpu, cuda
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.geometry import conv_geometry, conv_transpose_geometry, upsample_conv_geometry

if cuda.why_not() is not None:
    pytest.skip(f"cuda cannot be used: {cuda.why_not()}", allow_module_level=True)

F32 = np.float32
Array = np.ndarray[Any, np.dtype[Any]]
SEED, COUNTER = 2**40 + 7, 2**33 + 5
FOLLOWING = {
    "bias": (True, 1.0, 0.0),
    "relu": (True, 0.0, 0.0),
    "all": (True, 0.2, 0.3),
    "relu, dropout": (True, 0.0, 0.4),
    "dropout": (False, 1.0, 0.6),
}


def conv(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> tuple[Any, ...]:
    g = conv_geometry("test", x, w, **options)
    return "conv", (x, w), g.y_shape, g.pod


def transposed(y: tuple[int, ...], w: tuple[int, ...], **options: Any) -> tuple[Any, ...]:
    g = conv_transpose_geometry("test", y, w, **options)
    return "conv_transpose", (y, w), g.x_shape, g.pod


def upsampled(x: tuple[int, ...], w: tuple[int, ...], factors: Any, padding: Any) -> tuple[Any, ...]:
    g = upsample_conv_geometry("test", x, w, factors, padding, 1)
    return "upsample_conv", (x, w), g.y_shape, g.pod


CONVOLUTIONS = {
    "window": conv((2, 3, 4, 5, 11), (7, 3, 3, 3, 3), padding=1),
    "groups": conv((2, 6, 6, 7), (9, 2, 3, 3), groups=3, padding=1),
    "one output": conv((3, 6, 4, 5, 5), (1, 6, 2, 2, 2)),
    "many outputs": conv((2, 3, 9, 9), (66, 3, 1, 1)),
    "parts of a long sum": conv((2, 40, 4, 5), (18, 40, 3, 3), padding=1),
    "strided": conv((2, 2, 9, 11), (6, 2, 3, 3), stride=2, padding=1),
    "no channel": conv((2, 0, 5, 6), (4, 0, 3, 3)),
    "no image": conv((0, 3, 5, 6), (4, 3, 3, 3)),
    "transposed": transposed((2, 5, 3, 4, 3), (5, 6, 4, 4, 4), stride=2, padding=1),
    "cells that no tap reads": transposed((2, 3, 3, 4), (3, 4, 2, 2), stride=(5, 4)),
    "to one channel": transposed((2, 4, 5, 4), (4, 1, 3, 2), stride=(3, 2), output_padding=(2, 1)),
    "upsampled": upsampled((2, 3, 4, 3, 5), (6, 3, 3, 3, 4), (2, 2, 3), "same"),
}


def following(y: Any, bias: Array, slope: float, p: float) -> Any:
    """The operations one by one, each in a kernel of its own."""
    if bias.size:
        column = cuda.from_host(bias.reshape(1, -1, *(1,) * (y.ndim - 2)))
        cuda.binary("add", y, column, y)
    if slope != 1.0:
        cuda.unary("leaky_relu", y, y, slope)
    if p > 0.0:
        cuda.dropout(y, y, p, SEED, COUNTER)
    return y


def check(kernel: str, a: Array, b: Array, shape: tuple[int, ...], rest: tuple[Any, ...], what: str) -> None:
    with_bias, slope, p = FOLLOWING[what]
    rng = np.random.default_rng(3)
    channels = shape[-1] if kernel == "matmul" else shape[1]
    bias = rng.standard_normal(channels if with_bias else 0).astype(a.dtype)
    first, second = cuda.from_host(a), cuda.from_host(b)
    plain, got = (cuda.from_host(np.full(shape, np.nan, a.dtype)) for _ in range(2))
    getattr(cuda, kernel)(first, second, plain, *rest)
    if kernel == "matmul":
        plain = plain.reshape(-1, channels)
    expected = cuda.to_host(following(plain, bias, slope, p)).reshape(shape)
    getattr(cuda, kernel + "_epilogue")(first, second, got, *rest, cuda.from_host(bias), slope, p, SEED, COUNTER)
    y = cuda.to_host(got)
    np.testing.assert_array_equal(y, expected)
    if p > 0.0:
        ones = cuda.from_host(np.ones(y.size, y.dtype))
        kept = cuda.to_host(following(ones, np.empty(0), 1.0, p)).reshape(shape) != 0
        np.testing.assert_array_equal((y != 0) | np.signbit(y), kept)


@pytest.mark.parametrize("what", FOLLOWING)
@pytest.mark.parametrize("algorithm", ["auto", "direct", "im2col", "tf32", "bf16"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_an_epilogue_at_the_store_has_the_bits_of_the_operations(name: str, algorithm: str, what: str) -> None:
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    a, b = (np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate(shapes))
    check(kernel, a, b, out, (pod, CONV_ALGORITHMS[algorithm]), what)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_an_epilogue_at_the_store_serves_double_too(name: str) -> None:
    kernel, shapes, out, pod = CONVOLUTIONS[name]
    a, b = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(shapes))
    check(kernel, a, b, out, (pod, CONV_ALGORITHMS["auto"]), "all")


@pytest.mark.parametrize("what", FOLLOWING)
@pytest.mark.parametrize(("dtype", "precision"), [(F32, "full"), (F32, "tf32"), (F32, "bf16"), (np.float64, "full")])
@pytest.mark.parametrize("shape", [(1, 37, 130, 9), (1, 3, 400, 20), (1, 130, 5, 7), (1, 1, 6, 1), (1, 4, 0, 8)])
def test_the_columns_of_a_product_are_the_channels_of_its_epilogue(
    shape: tuple[int, ...], dtype: Any, precision: str, what: str
) -> None:
    B, M, K, N = shape
    a, b = (np.random.default_rng(i).standard_normal(s).astype(dtype) for i, s in enumerate([(B, M, K), (B, K, N)]))
    check("matmul", a, b, (B, M, N), (MATMUL_PRECISIONS[precision],), what)


def test_an_epilogue_needs_no_kernel_beside_that_of_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a kernel of its own")

    x, w, b = (gk.ones(*s, device="cuda") for s in [(2, 3, 5, 6), (4, 3, 3, 3), (4,)])
    for name in ("binary", "unary", "dropout"):
        monkeypatch.setattr(cuda, name, refused)
    for after in (None, gk.ops.epilogue.Epilogue(0.2, 0.5)):
        assert gk.ops.conv(x, w, b, after=after).shape == (2, 4, 3, 4)
        assert gk.ops.upsample_conv(x, w, b, 2, 1, after=after).shape == (2, 4, 10, 12)


@pytest.mark.parametrize("dtype", [F32, np.float64])
@pytest.mark.parametrize("shape", [(3, 2, 4), (5, 3, 1), (2, 3, 1027)])
def test_a_joined_normalisation_has_the_mask_and_the_gradient_of_the_cpu(shape: tuple[int, ...], dtype: Any) -> None:
    rng = np.random.default_rng(4)
    x, ct = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    scale, shift, mean, rstd, weight = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(5))
    expected = np.full_like(x, np.nan)
    cpu.norm_epilogue(x, scale, shift, expected, 0.2, 0.4, SEED, COUNTER)
    y = cuda.from_host(np.full_like(x, np.nan))
    cuda.norm_epilogue(*map(cuda.from_host, (x, scale, shift)), y, 0.2, 0.4, SEED, COUNTER)
    got = cuda.to_host(y)
    kept = (expected != 0) | np.signbit(expected)
    np.testing.assert_array_equal((got != 0) | np.signbit(got), kept)
    assert 0 < kept.sum() < kept.size
    epsilon, column = float(np.finfo(dtype).eps), (1, -1, 1)
    magnitude = np.abs(x * scale.reshape(column)) + np.abs(shift.reshape(column))
    assert not (np.abs(got - expected) > 4 * epsilon * magnitude).any()

    gradients = [np.full_like(a, np.nan) for a in (x, scale, scale)]
    cpu.norm_epilogue_backward(x, expected, ct, mean, rstd, weight, *gradients, 0.2, 0.4)
    found = [cuda.from_host(np.full_like(g, np.nan)) for g in gradients]
    operands = [cuda.from_host(a) for a in (x, expected, ct, mean, rstd, weight)]
    cuda.norm_epilogue_backward(*operands, *found, 0.2, 0.4)
    for a, b in zip(gradients, map(cuda.to_host, found), strict=True):
        assert not (np.abs(a - b).max() > 16 * epsilon * np.abs(a).max())


def test_a_joined_normalisation_writes_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> None:
        raise AssertionError("a kernel of its own")

    x, w = gk.ones(4, 3, 5, device="cuda", requires_grad=True), gk.ones(3, device="cuda", requires_grad=True)
    for name in ("channel_affine", "batch_norm_backward", "epilogue_backward", "gate", "dropout"):
        monkeypatch.setattr(cuda, name, refused)
    y = gk.ops.batch_norm(x, None, None, w, w, True, after=gk.ops.epilogue.Epilogue(0.2, 0.5))
    assert [g.shape for g in gk.grad(gk.sum(y), [x, w])] == [x.shape, w.shape]


def test_a_replayed_graph_draws_later_masks() -> None:
    x, w, b = (gk.ones(*s, device="cuda") for s in [(2, 3, 5, 6), (4, 3, 3, 3), (4,)])
    results = []
    for replayed in (False, True):
        after = gk.ops.epilogue.Epilogue(0.2, 0.5, gk.Generator(3))
        step = lambda t, after=after: gk.ops.conv(t, w, b, after=after)
        step = gk.Replay(step) if replayed else step
        results.append([step(x).cpu().numpy() for _ in range(4)])
        assert not replayed or step.reason is None
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0][2], results[0][3])
