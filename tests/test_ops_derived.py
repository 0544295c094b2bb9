"""Operations made of others, and the names of tensors that PyTorch users reach for first."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import ops
from gankernels.testing.gradcheck import check_gradients


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


BOTH: list[Any] = [  # the same expression for a tensor of either library
    lambda t: t.repeat(2, 3, 1), lambda t: t.repeat(2, 1, 1, 3), lambda t: t.repeat((1, 0, 2)), lambda t: t.tile(2),
    lambda t: t.tile((2, 1, 1, 2)), lambda t: t.prod(), lambda t: t.prod(1), lambda t: t.prod(-1, True),
    lambda t: t.split(2, 2)[1], lambda t: t.split([1, 3], -1)[1], lambda t: t.chunk(3, 2)[1], lambda t: t.chunk(2)[1],
    lambda t: t.unbind(1)[2], lambda t: t.flip(0), lambda t: t.flip((0, 2)), lambda t: t.flip(1, 2), lambda t: t[0].t(),
    lambda t: t.ceil(), lambda t: t.abs().log2(), lambda t: t.abs().log10(), lambda t: t.masked_fill(t > 0.5, 2.0),
    lambda t: t.max(dim=1).values, lambda t: t.max(2).indices, lambda t: t.min(dim=0, keepdim=True).indices,
    lambda t: t.norm(), lambda t: t.norm(1), lambda t: t.norm(2, 1), lambda t: t.norm(np.inf, dim=1, keepdim=True),
    lambda t: t.var(1, correction=0), lambda t: t.std(dim=(0, 2), correction=2), lambda t: t.var(0, False),
    lambda t: t.eq(t.max()), lambda t: t.ne(t.max()), lambda t: t.lt(0.0), lambda t: t.le(0.0), lambda t: t.gt(0.0),
    lambda t: t.ge(0.0), lambda t: (t / (t > 0).double()).isinf(), lambda t: (t - t / 0.0).isnan(),
    lambda t: (t / (t > 0).double()).isfinite(), lambda t: t.long().isfinite(), lambda t: t.int().repeat(1, 2, 1),
    lambda t: t.long().flip(0), lambda t: t.long().prod(1), lambda t: t.new_zeros(2, 3), lambda t: t.new_ones((2,)),
    lambda t: t.cpu(), lambda t: t.new_zeros((0, 3)).prod(0),
]  # fmt: skip


@pytest.mark.parametrize("f", BOTH)
def test_the_methods_agree_with_pytorch(f: Any) -> None:
    torch = pytest.importorskip("torch")
    x = normal(2, 3, 4)
    ours, theirs = f(gk.tensor(x)).numpy(), f(torch.tensor(x)).numpy()
    assert ours.shape == theirs.shape
    assert ours.dtype.kind == theirs.dtype.kind
    np.testing.assert_allclose(ours, theirs, rtol=1e-14, atol=1e-15)  # a variance is exact to eps times the squares


@pytest.mark.parametrize(
    "f",
    [
        lambda t: t.repeat(2, 3, 2), lambda t: t.tile(2), lambda t: t.prod(), lambda t: t.prod(1), lambda t: t.prod(2),
        lambda t: t.split(2, 2)[0], lambda t: t.chunk(2, 1)[1], lambda t: t.unbind(1)[0], lambda t: t.flip(0, 2),
        lambda t: t[0].t(), lambda t: ops.exp(t).log2(), lambda t: ops.exp(t).log10(),
        lambda t: t.masked_fill(gk.tensor([True, False, True, False]), 2.0), lambda t: t.norm(1, 1),
        lambda t: t.norm(float("inf"), 1), lambda t: t.var(1, correction=0), lambda t: t.std(correction=2),
    ],
)  # fmt: skip
def test_the_gradients_hold_to_order_two(f: Any) -> None:
    check_gradients(f, [normal(2, 3, 4)], order=2, tolerance=2e-6)


def test_the_gradient_of_a_product_holds_at_zeros() -> None:
    x = gk.tensor([2.0, 0.0, 3.0], requires_grad=True)
    assert gk.grad(x.prod(), x)[0].tolist() == [0, 6, 0]


def test_the_constructors_are_pytorchs() -> None:
    torch = pytest.importorskip("torch")
    for lib, out in ((gk, []), (torch, [])):
        out += [lib.arange(4), lib.arange(1, 8, 3), lib.arange(0.5, 2.0, 0.5), lib.arange(3, 0, -1), lib.eye(2),
                lib.eye(2, 3), lib.linspace(0, 1, 5), lib.arange(3, dtype=lib.float64)]  # fmt: skip
        if lib is gk:
            ours = [(t.numpy().dtype, t.tolist()) for t in out]
    assert ours == [(t.numpy().dtype, t.tolist()) for t in out]


def test_the_names_of_the_package() -> None:
    x = gk.tensor([[1.0, 5.0], [3.0, 2.0]])
    values, indices = gk.max(x, 1)
    assert (values.tolist(), indices.tolist()) == ([5, 3], [1, 0])
    assert gk.max(x, gk.full((), 2.5)).tolist() == [[2.5, 5], [3, 2.5]]
    assert x.min(gk.zeros(2, 2)).tolist() == [[0, 0], [0, 0]]
    assert gk.allclose(x, x + 1e-7)
    assert not gk.allclose(x, x + 1e-2)
    assert gk.pad(x, (1, 0)).shape == (2, 3)
    assert gk.relu(-x).tolist() == [[0, 0], [0, 0]]
    assert (gk.float32, gk.float64, gk.int64) == (np.float32, np.float64, np.int64)


def test_recording_can_be_switched_on_again_inside_no_grad() -> None:
    x = gk.ones(2, requires_grad=True)

    @gk.enable_grad()
    def doubled() -> Any:
        return x * 2.0

    with gk.no_grad():
        assert not gk.is_grad_enabled()
        with gk.enable_grad():
            assert gk.is_grad_enabled()
            assert (x * 2.0).requires_grad
        assert doubled().requires_grad
        assert not (x * 2.0).requires_grad
    assert gk.is_grad_enabled()


def test_the_functions_of_one_element_say_what_they_compute() -> None:
    assert [name for name in ops.__all__ if not (getattr(ops, name).__doc__ or "").strip()] == []


def assign(t: Any) -> None:
    t[0] = 1.0


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (assign, TypeError, r"tensors are not changed in place by t\[\.\.\.\] = v; gankernels\.where"),
    (lambda t: t // 2.0, TypeError, r"//: tensors have no whole division; use \(a / b\)\.floor\(\)"),
    (lambda t: 2.0 % t, TypeError, r"%: tensors have no whole division"),
    (lambda t: t.half(), TypeError, "half: float16 is not supported"),
    (lambda t: t.t(), ValueError, r"t: expected at most 2 axes, got shape \(2, 3, 4\)"),
    (lambda t: t.repeat(2, 2), ValueError, "repeat: expected at least 3 sizes"),
    (lambda t: t.repeat(1, 1, -1), ValueError, "repeat: expected ints of at least 0"),
    (lambda t: t.split([1, 2], 2), ValueError, r"split: the extents \(1, 2\) must add up to 4"),
    (lambda t: t.split(0), ValueError, "split: split_size must be at least 1"),
    (lambda t: t.chunk(0), ValueError, "chunk: chunks must be an int of at least 1"),
    (lambda t: t[0, 0, 0].unbind(), ValueError, "unbind: a tensor without axes"),
    (lambda t: t.flip(3), IndexError, "flip: dim 3 is out of range"),
    (lambda t: t.prod(3), IndexError, "prod: dim 3 is out of range"),
    (lambda t: t.norm(3), ValueError, "norm: p=3 is not supported; expected 1, 2, 'fro' or inf"),
    (lambda t: gk.allclose(t, 1.0), TypeError, "allclose: b must be a Tensor, got float"),
    (lambda t: gk.arange(0, 3, 0), ValueError, "arange: step 0 does not lead from 0 to 3"),
    (lambda t: gk.linspace(0, 1, -1), ValueError, "linspace: the extents must not be negative"),
    (lambda t: gk.eye(2.5), TypeError, "eye: the shape must be an int or ints"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_cannot_be_done_is_refused_by_name(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(gk.tensor(normal(2, 3, 4)))
