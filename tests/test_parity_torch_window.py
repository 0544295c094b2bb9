"""Pooling, upsampling and normalisation against torch.nn.functional on drawn shapes, to order 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.testing.bounds import assert_close, assert_same_bits, gamma, rounding

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = (np.float32, np.float64)


def normal(shape: Any, seed: int, dtype: Any) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def compare_to_order_two(
    ours: Callable[..., Any], theirs: Callable[..., Any], arrays: list[Any], tolerance: float
) -> None:
    """Outputs, gradients, and the gradient of the gradient's product with fixed weights; relative to the largest."""
    a, t = [gk.tensor(v, requires_grad=True) for v in arrays], [torch.tensor(v, requires_grad=True) for v in arrays]
    y, y_t = ours(*a), theirs(*t)

    def close(p: Any, q: Any, name: str) -> None:
        e = q.detach().numpy()
        assert_close(p.detach().numpy(), e, tolerance * (1 + np.abs(e[np.isfinite(e)]).max(initial=0)), name)

    close(y, y_t, "y")
    ct = normal(y.shape, 90, arrays[0].dtype)
    c, c_t = gk.tensor(ct, requires_grad=True), torch.tensor(ct, requires_grad=True)
    first = gk.grad(y, a, c, create_graph=True)
    first_t = torch.autograd.grad(y_t, t, c_t, create_graph=True)
    total, total_t = gk.zeros((), dtype=ct.dtype), torch.zeros((), dtype=y_t.dtype)
    for i, (g, g_t) in enumerate(zip(first, first_t, strict=True)):
        close(g, g_t, f"gradient {i}")
        v = normal(g.shape, 91 + i, ct.dtype)
        total, total_t = total + (g * gk.tensor(v)).sum(), total_t + (g_t * torch.tensor(v)).sum()
    second = gk.grad(total, [*a, c], allow_unused=True)
    second_t = torch.autograd.grad(total_t, [*t, c_t], allow_unused=True)
    for i, (g, g_t) in enumerate(zip(second, second_t, strict=True)):
        if g is None or g_t is None:  # one library may say zero where the other says unused
            other = g_t if g is None else g
            assert other is None or not np.abs(other.detach().numpy()).max(initial=0) > 0
        else:
            close(g, g_t, f"second gradient {i}")


@st.composite
def windows(draw: Any, average: bool) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    K, s = each(1, 3), each(1, 3)
    p = tuple(draw(st.integers(0, k // 2)) for k in K)
    args: dict[str, Any] = {"kernel_size": K, "stride": s, "padding": p, "ceil_mode": draw(st.booleans())}
    d = (1,) * rank
    if average:
        args["count_include_pad"] = draw(st.booleans())
        if rank > 1 and draw(st.booleans()):
            args["divisor_override"] = draw(st.integers(1, 5))
    else:
        d = args["dilation"] = each(1, 2)
    X = tuple(draw(st.integers(max(2, e * (k - 1) + 1), 7)) for e, k in zip(d, K, strict=True))
    return (draw(st.integers(1, 2)), draw(st.integers(1, 3)), *X), args


@pytest.mark.parametrize("dtype", DTYPES)
@given(drawn=windows(average=False))
def test_max_pool_agrees_with_pytorch_also_in_its_indices(dtype: Any, drawn: Any) -> None:
    shape, args = drawn
    function = getattr(F, f"max_pool{len(shape) - 2}d")
    ties = np.random.default_rng(0).integers(-2, 3, shape).astype(dtype)
    y, index = ops.max_pool(gk.tensor(ties), return_indices=True, **args)
    y_t, index_t = function(torch.tensor(ties), return_indices=True, **args)
    assert_same_bits(y.numpy(), y_t.numpy())
    assert_same_bits(index.numpy(), index_t.numpy())
    x = np.random.default_rng(1).permutation(ties.size).reshape(shape).astype(dtype) / 8
    square = lambda t: ops.square(ops.max_pool(t, **args))
    compare_to_order_two(square, lambda t: function(t, **args) ** 2, [x], 10 * rounding(dtype))


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_max_pool_of_nan_is_pytorchs(rank: int) -> None:
    x = normal((2, 3) + (6,) * rank, 0, np.float32)
    x[np.random.default_rng(1).random(x.shape) < 0.1] = np.nan
    y, index = ops.max_pool(gk.tensor(x), 3, 2, 1, return_indices=True)
    y_t, index_t = getattr(F, f"max_pool{rank}d")(torch.tensor(x), 3, 2, 1, return_indices=True)
    assert_close(y.numpy(), y_t.numpy(), 0)
    one = ~np.isnan(y_t.numpy())
    assert_same_bits(index.numpy()[one], index_t.numpy()[one])
    assert np.isnan(x.reshape(2, 3, -1)[np.arange(2)[:, None, None], np.arange(3)[:, None],
                                        index.numpy().reshape(2, 3, -1)][~one.reshape(2, 3, -1)]).all()  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@given(drawn=windows(average=True))
def test_avg_pool_agrees_with_pytorch(dtype: Any, drawn: Any) -> None:
    shape, args = drawn
    function = getattr(F, f"avg_pool{len(shape) - 2}d")
    tolerance = 2 * gamma(30, dtype)
    compare_to_order_two(
        lambda t: ops.square(ops.avg_pool(t, **args)), lambda t: function(t, **args) ** 2,
        [normal(shape, 0, dtype)], tolerance,
    )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@given(
    extents=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    factors=st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_nearest_upsampling_agrees_with_pytorch(dtype: Any, extents: Any, factors: Any) -> None:
    f = tuple(factors[: len(extents)])
    x = normal((2, 3, *extents), 0, dtype)
    scale = [float(n) for n in f]
    y_t = F.interpolate(torch.tensor(x), scale_factor=scale, mode="nearest")
    assert_same_bits(ops.upsample_nearest(gk.tensor(x), f).numpy(), y_t.numpy())
    compare_to_order_two(
        lambda t: ops.square(ops.upsample_nearest(t, f)),
        lambda t: F.interpolate(t, scale_factor=scale, mode="nearest") ** 2, [x], 2 * gamma(70, dtype),
    )  # fmt: skip


@st.composite
def channel_shapes(draw: Any) -> tuple[int, ...]:
    return (draw(st.integers(2, 4)), draw(st.integers(1, 4)), *draw(st.lists(st.integers(1, 4), max_size=3)))


def tolerance_of_norms(dtype: Any) -> float:
    # variances of two or three numbers may be small: rounding is amplified by the cube of 1/deviation
    return 1e-8 if dtype == np.float64 else 3e-2


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(shape=channel_shapes(), momentum=st.sampled_from([0.1, 0.5, 1.0]))
def test_batch_norm_agrees_with_pytorch(dtype: Any, training: bool, affine: bool, shape: Any, momentum: float) -> None:
    C = shape[1]
    arrays = [normal(shape, 0, dtype)] + ([normal(C, 1, dtype), normal(C, 2, dtype)] if affine else [])
    mean, var = normal(C, 3, dtype), normal(C, 4, dtype) ** 2 + dtype(0.1)
    ours, theirs = [gk.tensor(mean), gk.tensor(var)], [torch.tensor(mean), torch.tensor(var)]
    args = {"training": training, "momentum": momentum, "eps": 1e-2}
    y = lambda x, w=None, b=None: ops.batch_norm(x, *ours, w, b, **args)
    y_t = lambda x, w=None, b=None: F.batch_norm(x, *theirs, w, b, **args)
    compare_to_order_two(y, y_t, arrays, tolerance_of_norms(dtype))
    for a, t in zip(ours, theirs, strict=True):
        assert_close(a.numpy(), t.numpy(), 20 * rounding(dtype) * (1 + np.abs(t.numpy())))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(shape=channel_shapes(), axes=st.integers(1, 3))
def test_layer_norm_agrees_with_pytorch(dtype: Any, affine: bool, shape: Any, axes: int) -> None:
    over = shape[-min(axes, len(shape)) :]
    arrays = [normal(shape, 0, dtype)] + ([normal(over, 1, dtype), normal(over, 2, dtype)] if affine else [])
    compare_to_order_two(
        lambda x, w=None, b=None: ops.layer_norm(x, over, w, b, 1e-2),
        lambda x, w=None, b=None: F.layer_norm(x, over, w, b, 1e-2), arrays, tolerance_of_norms(dtype),
    )  # fmt: skip


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@settings(max_examples=10)
@given(shape=channel_shapes(), groups=st.integers(1, 3))
def test_instance_and_group_norm_agree_with_pytorch(dtype: Any, affine: bool, shape: Any, groups: int) -> None:
    shape = (shape[0], shape[1] * groups, *shape[2:], 2)
    C = shape[1]
    arrays = [normal(shape, 0, dtype)] + ([normal(C, 1, dtype), normal(C, 2, dtype)] if affine else [])
    tolerance = tolerance_of_norms(dtype)
    compare_to_order_two(
        lambda x, w=None, b=None: ops.instance_norm(x, w, b, 1e-2),
        lambda x, w=None, b=None: F.instance_norm(x, weight=w, bias=b, eps=1e-2), arrays, tolerance,
    )  # fmt: skip
    compare_to_order_two(
        lambda x, w=None, b=None: ops.group_norm(x, groups, w, b, 1e-2),
        lambda x, w=None, b=None: F.group_norm(x, groups, w, b, 1e-2), arrays, tolerance,
    )  # fmt: skip
