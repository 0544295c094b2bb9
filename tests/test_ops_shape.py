"""Rearranging, joining, choosing: exact values against NumPy, gradients to order 3."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.testing.bounds import assert_close, assert_same_bits
from gankernels.testing.gradcheck import check_adjoint, check_gradients


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


BASIC_KEYS: list[Any] = [
    0, -1, slice(None), slice(1, 3), slice(None, None, 2), slice(None, None, -1), slice(2, 0, -1), slice(5, 1), ...,
    None, (0, 1), (slice(None), 0), (..., 0), (..., None), (0, ..., slice(1, 2)), (1, 2, 3), (slice(0, 0),),
    (None, 0, None),
]  # fmt: skip
ARRAY_KEYS: list[Any] = [
    [0, 2, 0], np.array([[1, -1], [0, 0]]), (slice(None), [2, 2]), (..., np.array([3, 0])), ([0, 1], [1, 2]),
    (0, [1, 1]), ([0, 1], slice(None), [3, 3]), [], np.array([True, False, True]), (None, [0]), np.array(2),
    (slice(None), np.array([False, True, True, False, True])),
    np.arange(60).reshape(3, 5, 4) % 3 == 0, ([0, 1], 2, ...),
]  # fmt: skip


@pytest.mark.parametrize("key", BASIC_KEYS + ARRAY_KEYS, ids=repr)
def test_indexing_is_numpys(key: Any) -> None:
    x = normal(3, 5, 4)
    k = np.array(key, dtype=np.int64) if isinstance(key, list) and not key else key
    assert_same_bits(gk.tensor(x)[key].numpy(), x[k])
    whole = np.arange(60).reshape(3, 5, 4)
    assert_same_bits(gk.tensor(whole)[key].numpy(), whole[k])
    if x[k].size:
        check_gradients(lambda t: t[key], [x], order=3)


def test_tensors_are_indices_too() -> None:
    x = normal(4, 3)
    t = gk.tensor(x)
    assert_same_bits(t[gk.tensor([2, 0])].numpy(), x[[2, 0]])
    assert_same_bits(t[t > 0].numpy(), x[x > 0])
    assert_same_bits(t[:, gk.tensor(1)].numpy(), x[:, 1])


@pytest.mark.cpu_only
def test_basic_indexing_shares_memory() -> None:
    t = gk.tensor(normal(3, 4))
    assert np.shares_memory(t[1:, 0].numpy(), t.numpy())


@pytest.mark.cpu_only
def test_adding_and_removing_axes_of_one_shares_memory_at_any_strides() -> None:
    t = gk.tensor(normal(3, 4)).T
    assert np.shares_memory(t.unsqueeze(1).numpy(), t.numpy())
    assert np.shares_memory(t.reshape(1, 4, 1, 3).numpy(), t.numpy())
    assert t.contiguous().data.flags.c_contiguous
    assert not np.shares_memory(t.contiguous().numpy(), t.numpy())
    assert_same_bits(t.reshape(2, 6).numpy(), t.numpy().reshape(2, 6))


def test_iteration_goes_over_the_first_axis() -> None:
    x = normal(3, 2)
    assert [row.tolist() for row in gk.tensor(x)] == x.tolist()
    assert len(gk.tensor(x)) == 3


@given(st.permutations([2, 3, 1, 4]), st.permutations(range(4)))
def test_reshape_and_permute_are_numpys(shape: Any, order: Any) -> None:
    x = normal(2, 3, 4)
    assert_same_bits(gk.tensor(x).reshape(*shape).numpy(), x.reshape(shape))
    y = gk.tensor(x).reshape(shape).permute(*order)
    assert_same_bits(y.numpy(), x.reshape(shape).transpose(order))
    assert_same_bits(y.reshape(-1).numpy(), x.reshape(shape).transpose(order).reshape(-1))


def test_shapes_change_as_in_pytorch() -> None:
    t = gk.tensor(normal(2, 3, 4))
    assert t.reshape(-1, 4).shape == (6, 4)
    assert t.view((4, -1)).shape == (4, 6)
    assert t.flatten(1).shape == (2, 12)
    assert t.flatten().shape == (24,)
    assert t.flatten(0, 1).shape == (6, 4)
    assert t[0, 0, 0].flatten().shape == (1,)
    assert t.transpose(0, 2).shape == (4, 3, 2)
    assert t.T.shape == (4, 3, 2)
    assert t.unsqueeze(-1).shape == (2, 3, 4, 1)
    assert t.unsqueeze(0).squeeze(0).shape == (2, 3, 4)
    assert t.unsqueeze(1).squeeze().shape == (2, 3, 4)
    assert t.squeeze(1).shape == (2, 3, 4)
    assert t.sum().reshape(1, 1).squeeze().shape == ()
    assert t.unsqueeze(0).expand(5, -1, 3, 4).shape == (5, 2, 3, 4)
    assert t[:, :1].expand(2, 3, 4).shape == (2, 3, 4)
    assert gk.zeros(0, 3).reshape(3, 0, 5).shape == (3, 0, 5)
    assert t.size() == (2, 3, 4)
    assert t.size(-1) == 4
    assert t.numel() == 24
    assert t.dim() == 3


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t.reshape(4, 6), lambda t: t.permute(2, 0, 1), lambda t: t.transpose(0, 1).reshape(6, 4),
        lambda t: t.flatten(1), lambda t: t.unsqueeze(1).expand(2, 5, 3, 4),
        lambda t: ops.broadcast_to(t, (2, 2, 3, 4)),
        lambda t: ops.sum_to(t, (3, 1)), lambda t: ops.sum_to(t, ()), lambda t: t.sum(1), lambda t: t.mean((0, 2)),
        lambda t: ops.cat([t, t[:, 1:], t * 2.0], 1), lambda t: ops.stack([t, t], -1), lambda t: t.clone(),
        lambda t: ops.pad(t, (1, 2, 0, 1)), lambda t: ops.pad(t, (-1, 2, 1, -1), value=3.0),
        lambda t: ops.pad(t, (0, 0)),
        lambda t: ops.embed(t, (4, 3, 8), (slice(1, 3), slice(None), slice(0, 8, 2))),
        lambda t: t.T.contiguous(),
        lambda t: ops.index_select(t, 1, [2, 0, 2, 2]), lambda t: t.squeeze().unsqueeze(-2),
    ],
)  # fmt: skip
def test_the_gradients_of_rearrangements_hold_to_order_three(f: Any) -> None:
    check_gradients(f, [normal(2, 3, 4)], order=3, tolerance=1e-5)


def test_broadcast_and_sum_are_adjoint() -> None:
    shape = (5, 2, 3, 4)
    check_adjoint(lambda t: ops.broadcast_to(t, shape), lambda t: ops.sum_to(t, (3, 1)), normal(3, 1), shape)


def test_embed_is_the_adjoint_of_indexing() -> None:
    key = (slice(None, None, 2), 1)
    check_adjoint(lambda t: t[key], lambda t: ops.embed(t, (5, 3, 2), key), normal(5, 3, 2), (3, 2))


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=4),
    st.integers(-2, 1),
    st.sampled_from([np.float32, np.float64, np.int64, np.bool_]),
)
def test_cat_and_stack_are_numpys(extents: Any, dim: int, dtype: Any) -> None:
    shapes = [(n, 2) if dim % 2 == 0 else (2, n) for n in extents]
    arrays = [(normal(*s, seed=i) * 5).astype(dtype) for i, s in enumerate(shapes)]
    assert_same_bits(gk.cat([gk.tensor(a) for a in arrays], dim).numpy(), np.concatenate(arrays, dim))
    first = [arrays[0]] * 3
    for d in (0, 1, 2, -1):
        assert_same_bits(gk.stack([gk.tensor(a) for a in first], d).numpy(), np.stack(first, d))


def test_cat_promotes() -> None:
    assert gk.cat([gk.zeros(1), gk.zeros(1, dtype=np.float64), gk.tensor([1])]).dtype == np.float64


@given(st.lists(st.integers(-1, 2), min_size=0, max_size=6).filter(lambda p: len(p) % 2 == 0))
def test_pad_grows_and_crops(padding: Any) -> None:
    x = normal(3, 4, 5)
    pairs = [(0, 0)] * (3 - len(padding) // 2) + list(zip(padding[::2], padding[1::2], strict=True))[::-1]
    expected = np.pad(x, [(max(lo, 0), max(hi, 0)) for lo, hi in pairs], constant_values=7)
    expected = expected[
        tuple(slice(max(-lo, 0), n - max(-hi, 0)) for n, (lo, hi) in zip(expected.shape, pairs, strict=True))
    ]
    assert_same_bits(ops.pad(gk.tensor(x), padding, value=7.0).numpy(), expected)


def test_embedding_gathers_rows_and_adds_duplicates_back() -> None:
    table, index = normal(5, 3), np.array([[4, 0], [4, 4]])
    t = gk.tensor(table, requires_grad=True)
    y = ops.embedding(index, t)
    assert_same_bits(y.detach().numpy(), table[index])
    (g,) = gk.grad(y.sum(), t)
    assert g.numpy()[:, 0].tolist() == [1, 0, 0, 0, 3]
    assert ops.embedding(gk.tensor(2), t).shape == (3,)
    assert ops.embedding(gk.zeros(0, 2, dtype=np.int64), t).shape == (0, 2, 3)
    check_gradients(lambda w: ops.embedding(index, w), [table], order=3)
    check_gradients(lambda w: ops.square(ops.embedding(index, w)), [table], order=2)


def test_clone_keeps_signed_zero_and_memory_of_its_own() -> None:
    t = gk.tensor([-0.0, 1.0])
    c = t.clone()
    assert_same_bits(c.numpy(), t.numpy())
    assert not np.shares_memory(c.numpy(), t.numpy())


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, np.bool_])
def test_casts(dtype: Any) -> None:
    x = np.array([[0.0, 1.0], [2.0, -3.0]])
    assert_same_bits(gk.tensor(x).to(dtype).numpy(), x.astype(dtype))
    assert gk.tensor(x).to("cpu").shape == (2, 2)


def test_axes_of_extent_zero_go_through() -> None:
    e = gk.zeros(0, 3)
    assert (e + 1.0).shape == (0, 3)
    assert e.sum().item() == 0
    assert e.sum(0).tolist() == [0, 0, 0]
    assert np.isnan(e.mean().item())
    assert ops.softmax(e, 1).shape == (0, 3)
    assert ops.matmul(e.T, e).tolist() == [[0.0] * 3] * 3
    assert ops.cat([e, gk.ones(1, 3)]).shape == (1, 3)
    assert ops.linear(e, gk.ones(4, 3)).shape == (0, 4)
    assert ops.layer_norm(e, 3).shape == (0, 3)
    assert ops.dropout(e).shape == (0, 3)
    assert e.max(1)[0].shape == (0,)
    assert_close(gk.grad(ops.exp(gk.zeros(0, 2, requires_grad=True)).sum(), [])[:0], [], 0)
