"""Activations, reductions, products and rearrangements against PyTorch, to order 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gankernels as gk
from gankernels import ops
from gankernels.testing.bounds import assert_close, assert_same_bits, matmul_bound, rounding, sum_bound

torch = pytest.importorskip("torch")
F = torch.nn.functional

DTYPES = (np.float32, np.float64)


def normal(shape: Any, seed: int, dtype: Any) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def results(library: str, f: Callable[..., Any], arrays: list[Any]) -> dict[str, Any]:
    """Output, gradients and second gradients by name."""
    make = gk.tensor if library == "gk" else torch.tensor
    grad: Any = gk.grad if library == "gk" else torch.autograd.grad
    x = [make(v, requires_grad=True) for v in arrays]
    y = f(*x)
    ct = make(normal(tuple(y.shape), 90, arrays[0].dtype), requires_grad=True)
    first = grad(y, x, ct, create_graph=True, allow_unused=True)
    found = {"y": y} | {f"gradient {i}": g for i, g in enumerate(first)}
    total = None
    for i, g in enumerate(first):
        if g is not None and g.requires_grad:
            part = (g * make(normal(tuple(g.shape), 91 + i, arrays[0].dtype))).sum()
            total = part if total is None else total + part
    if total is not None:
        found |= {f"second {i}": g for i, g in enumerate(grad(total, [*x, ct], allow_unused=True))}
    force: dict[str, Any] = {} if library == "gk" else {"force": True}  # PyTorch has zeros without memory
    return {k: None if v is None else v.detach().numpy(**force) for k, v in found.items()}


def compare(ours: Callable[..., Any], theirs: Callable[..., Any], arrays: list[Any], tolerance: float) -> None:
    a, t = results("gk", ours, arrays), results("torch", theirs, arrays)
    for name in a.keys() | t.keys():
        p, q = a.get(name), t.get(name)
        if p is None or q is None:  # one library may say zero where the other says unused
            other = p if q is None else q
            assert other is None or not np.abs(other).max(initial=0) > 0, name
        else:
            assert_close(p, q, tolerance * (1 + np.abs(q[np.isfinite(q)]).max(initial=0)), name)


ACTIVATIONS: list[tuple[str, Any, Any]] = [
    ("relu", ops.relu, F.relu),
    ("leaky_relu", lambda x: ops.leaky_relu(x, 0.3), lambda x: F.leaky_relu(x, 0.3)),
    ("elu", lambda x: ops.elu(x, 1.3), lambda x: F.elu(x, 1.3)),
    ("gelu", ops.gelu, F.gelu),
    ("tanh", ops.tanh, torch.tanh),
    ("sigmoid", ops.sigmoid, torch.sigmoid),
    ("softplus", lambda x: ops.softplus(x, 2.0, 3.0), lambda x: F.softplus(x, 2.0, 3.0)),
    ("logsigmoid", ops.logsigmoid, F.logsigmoid),
    ("softmax", lambda x: ops.softmax(x, 1), lambda x: torch.softmax(x, 1)),
    ("log_softmax", lambda x: ops.log_softmax(x, 0), lambda x: torch.log_softmax(x, 0)),
    ("exp", ops.exp, torch.exp),
    ("log", lambda x: ops.log(ops.abs(x) + 0.5), lambda x: torch.log(torch.abs(x) + 0.5)),
    ("sqrt", lambda x: ops.sqrt(x * x + 0.1), lambda x: torch.sqrt(x * x + 0.1)),
    ("rsqrt", lambda x: ops.rsqrt(x * x + 0.1), lambda x: torch.rsqrt(x * x + 0.1)),
    ("erf", ops.erf, torch.erf),
    ("sin", ops.sin, torch.sin),
    ("cos", ops.cos, torch.cos),
    ("expm1", ops.expm1, torch.expm1),
    ("log1p", lambda x: ops.log1p(x * x), lambda x: torch.log1p(x * x)),
    ("clamp", lambda x: ops.clamp(x, -0.5, 1.0), lambda x: torch.clamp(x, -0.5, 1.0)),
    ("clamp low", lambda x: ops.clamp(x, min=0.1), lambda x: torch.clamp(x, min=0.1)),
    ("abs", ops.abs, torch.abs),
    ("power 3", lambda x: x**3, lambda x: x**3),
    ("power -1.5", lambda x: (x * x + 0.3) ** -1.5, lambda x: (x * x + 0.3) ** -1.5),
    ("2 ** x", lambda x: 2.0**x, lambda x: 2.0**x),
    ("1 / x", lambda x: 1.0 / (x * x + 0.2), lambda x: 1.0 / (x * x + 0.2)),
    ("mean", lambda x: x.mean(0), lambda x: x.mean(0)),
    ("sum", lambda x: x.sum((0, 1), keepdim=True), lambda x: x.sum((0, 1), keepdim=True)),
    ("var", lambda x: x.var(1), lambda x: x.var(1)),
    ("std", lambda x: x.std((0, 1), unbiased=False), lambda x: x.std((0, 1), unbiased=False)),
    ("norm", lambda x: x.norm(dim=1), lambda x: x.norm(dim=1)),
    ("logsumexp", lambda x: x.logsumexp(1), lambda x: x.logsumexp(1)),
    ("max", lambda x: x.max(), lambda x: x.max()),
    ("max 1", lambda x: x.max(1)[0], lambda x: x.max(1)[0]),
    ("min 0", lambda x: x.min(0, True)[0], lambda x: x.min(0, True)[0]),
    ("amax", lambda x: x.amax(0), lambda x: x.amax(0)),
    ("amin", lambda x: x.amin(), lambda x: x.amin()),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "theirs"), [a[1:] for a in ACTIVATIONS], ids=[a[0] for a in ACTIVATIONS])
@settings(max_examples=5)
@given(shape=st.tuples(st.integers(2, 5), st.integers(2, 7)), scale=st.sampled_from([0.3, 1.0, 4.0]))
def test_functions_agree_with_pytorch_to_order_two(
    ours: Any, theirs: Any, dtype: Any, shape: Any, scale: float
) -> None:
    tolerance = 200 * rounding(dtype)
    compare(ours, theirs, [(normal(shape, 0, dtype) * dtype(scale)).astype(dtype)], tolerance)


@pytest.mark.parametrize(
    "name",
    ["relu", "leaky_relu", "elu", "clamp", "abs", "softplus", "power 3", "max", "amax", "max 1", "norm", "clamp low"],
)
def test_kinks_ties_and_zeros_have_pytorchs_derivatives(name: str) -> None:
    ours, theirs = next(a[1:] for a in ACTIVATIONS if a[0] == name)
    x = np.array([[0.0, -0.5, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [1.5, 0.1, -0.0, 1.5]])
    a, t = gk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (g,), (g_t,) = gk.grad(ours(a).sum(), a), torch.autograd.grad(theirs(t).sum(), t)
    assert_close(g.numpy(), g_t.numpy(), 1e-14)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 0.5, -1])
def test_powers_of_zero_have_pytorchs_derivatives(exponent: float) -> None:
    x = np.array([0.0, 2.0])
    a, t = gk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (g,), (g_t,) = (gk.grad((a**exponent).sum(), a, allow_unused=True),
                    torch.autograd.grad((t**exponent).sum(), t))  # fmt: skip
    assert_close(np.zeros(2) if g is None else g.numpy(), g_t.numpy(), 1e-14)
    for base in ([0.0, 2.0, 0.0], [1.5, 1.0, 0.5]):
        values = [np.array(base), np.full(3, float(exponent))]
        p, q = [gk.tensor(v, requires_grad=True) for v in values], [torch.tensor(v, requires_grad=True) for v in values]
        found = gk.grad((p[0] ** p[1]).sum(), p)
        expected = torch.autograd.grad((q[0] ** q[1]).sum(), q)
        for u, v in zip(found, expected, strict=True):
            assert_close(u.numpy(), v.numpy(), 1e-14)


BINARY: list[tuple[str, Any, Any]] = [
    ("add", ops.add, torch.add), ("sub", ops.sub, torch.sub), ("mul", ops.mul, torch.mul), ("div", ops.div, torch.div),
    ("maximum", ops.maximum, torch.maximum), ("minimum", ops.minimum, torch.minimum), ("atan2", ops.atan2, torch.atan2),
    ("pow", lambda a, b: (a * a + 0.5) ** b, lambda a, b: (a * a + 0.5) ** b),
    ("where", lambda a, b: ops.where(a > b, a * b, b), lambda a, b: torch.where(a > b, a * b, b)),
]  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("ours", "theirs"), [b[1:] for b in BINARY], ids=[b[0] for b in BINARY])
@pytest.mark.parametrize("shapes", [((3, 4), (3, 4)), ((3, 1), (2, 1, 4)), ((), (3,)), ((0, 2), (1, 2))], ids=str)
def test_arithmetic_agrees_with_pytorch_to_order_two(ours: Any, theirs: Any, shapes: Any, dtype: Any) -> None:
    arrays = [np.asarray(normal(s, i, dtype)) for i, s in enumerate(shapes)]
    arrays[1] = np.where(np.abs(arrays[1]) < 0.2, dtype(0.5), arrays[1])
    compare(ours, theirs, arrays, 500 * rounding(dtype))


def test_ties_of_maximum_and_minimum_are_shared_as_in_pytorch() -> None:
    values = [np.array([1.0, 2.0, 3.0, np.inf]), np.array([1.0, 3.0, 2.0, np.inf])]
    for name in ("maximum", "minimum"):
        compare(getattr(ops, name), getattr(torch, name), values, 1e-14)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("a", "b"),
    [((3,), (3,)), ((2, 3), (3,)), ((3,), (3, 4)), ((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 1, 2, 3),
        (4, 3, 2)), ((3,), (2, 3, 4))],
)  # fmt: skip
def test_matrix_products_agree_with_pytorch_to_order_two(a: Any, b: Any, dtype: Any) -> None:
    x, y = normal(a, 0, dtype), normal(b, 1, dtype)
    compare(ops.matmul, torch.matmul, [x, y], 200 * rounding(dtype))
    assert_close(ops.matmul(gk.tensor(x), gk.tensor(y)).numpy(), torch.matmul(torch.tensor(x), torch.tensor(y)).numpy(),
                 2 * matmul_bound(x, y, dtype))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=3), outputs=st.integers(1, 5))
@settings(max_examples=10)
def test_linear_agrees_with_pytorch_to_order_two(dtype: Any, shape: Any, outputs: int) -> None:
    arrays = [normal(shape, 0, dtype), normal((outputs, shape[-1]), 1, dtype), normal((outputs,), 2, dtype)]
    compare(ops.linear, F.linear, arrays, 300 * rounding(dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_sums_agree_with_pytorch_within_the_bound(dtype: Any, data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4)))
    dim = data.draw(st.lists(st.integers(0, len(shape) - 1), min_size=1, unique=True))
    x = normal(shape, 0, dtype)
    keepdim = data.draw(st.booleans())
    bound = 2 * sum_bound(x, dtype, tuple(dim), keepdim)
    assert_close(gk.tensor(x).sum(dim, keepdim).numpy(), torch.tensor(x).sum(dim, keepdim).numpy(), bound)


REARRANGEMENTS: list[tuple[Any, Any]] = [
    (lambda x: x[1:, ::2], lambda x: x[1:, ::2]),
    (lambda x: x[[2, 0, 2]], lambda x: x[[2, 0, 2]]),
    (lambda x: x[:, [1, 1]], lambda x: x[:, [1, 1]]),
    (lambda x: x[[0, 1], [2, 3]], lambda x: x[[0, 1], [2, 3]]),
    (lambda x: x[x > 0], lambda x: x[x > 0]),
    (lambda x: x[..., None, 0], lambda x: x[..., None, 0]),
    (lambda x: gk.cat([x, x * x], -1), lambda x: torch.cat([x, x * x], -1)),
    (lambda x: gk.stack([x, x * x], 1), lambda x: torch.stack([x, x * x], 1)),
    (lambda x: ops.pad(x, (1, 2, 0, 3), value=1.5), lambda x: F.pad(x, (1, 2, 0, 3), value=1.5)),
    (lambda x: ops.pad(x, (-1, 2)), lambda x: F.pad(x, (-1, 2))),
    (lambda x: x.permute(1, 0).reshape(-1), lambda x: x.permute(1, 0).reshape(-1)),
    (lambda x: x.unsqueeze(1).expand(-1, 3, -1), lambda x: x.unsqueeze(1).expand(-1, 3, -1)),
    (lambda x: ops.index_select(x, 1, [3, 0]), lambda x: torch.index_select(x, 1, torch.tensor([3, 0]))),
    (lambda x: x.flatten(), lambda x: x.flatten()),
    (lambda x: x.transpose(0, 1), lambda x: x.transpose(0, 1)),
    (lambda x: ops.embedding([[2, 0], [2, 1]], x), lambda x: F.embedding(torch.tensor([[2, 0], [2, 1]]), x)),
]


@pytest.mark.parametrize("index", range(len(REARRANGEMENTS)))
@pytest.mark.parametrize("dtype", DTYPES)
def test_rearrangements_agree_with_pytorch_to_order_two(index: int, dtype: Any) -> None:
    ours, theirs = REARRANGEMENTS[index]
    x = normal((3, 4), 0, dtype)
    assert_same_bits(ours(gk.tensor(x)).numpy(), theirs(torch.tensor(x)).numpy())
    compare(lambda t: ops.square(ours(t)), lambda t: theirs(t) ** 2, [x], 20 * rounding(dtype))


@pytest.mark.parametrize(
    ("a", "b"),
    [("float32", "float64"), ("int64", "float32"), ("bool", "int64"), ("bool", "float64"),
        ("int64", "int64"), ("bool", "bool")],
)  # fmt: skip
def test_mixed_dtypes_promote_as_in_pytorch(a: str, b: str) -> None:
    x, y = np.ones(3, a), np.ones(3, b)
    for op in ("add", "mul", "div"):
        ours = getattr(ops, op)(gk.tensor(x), gk.tensor(y))
        theirs = getattr(torch, op)(torch.tensor(x), torch.tensor(y))
        assert str(ours.dtype) == str(theirs.dtype).split(".")[1]
        assert ours.tolist() == theirs.tolist()
    for number in (2, 0.5, True):
        for f in (lambda t, n=number: t + n, lambda t, n=number: n * t, lambda t, n=number: t / n):
            ours, theirs = f(gk.tensor(x)), f(torch.tensor(x))
            assert str(ours.dtype) == str(theirs.dtype).split(".")[1]
            assert ours.tolist() == theirs.tolist()
