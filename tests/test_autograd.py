"""The tape: closed under differentiation, frugal, without cycles, and strict about what it cannot do."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import backends, ops
from gankernels.autograd import Form, fused, is_recording, pointwise, record
from gankernels.testing.bounds import assert_close, assert_same_bits
from gankernels.testing.gradcheck import check_gradients


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def leaf(*shape: int, seed: int = 0) -> gk.Tensor:
    return gk.tensor(normal(*shape, seed=seed), requires_grad=True)


# ---- the trap: a penalty on a gradient must itself have a gradient -------------------------------------------------
def critic(x: gk.Tensor, p: list[gk.Tensor], norm: str) -> gk.Tensor:
    h = ops.leaky_relu(ops.conv(x, p[0], p[1], stride=1, padding=1), 0.2)
    if norm == "batch":
        h = ops.batch_norm(h, None, None, p[2], p[3], training=True)
    elif norm == "layer":
        h = ops.layer_norm(h, h.shape[1:])
    elif norm == "instance":
        h = ops.instance_norm(h, p[2], p[3])
    h = ops.avg_pool(h, 2) if norm != "layer" else ops.max_pool(h, 2)
    h = ops.tanh(ops.conv(h, p[4], stride=2))
    return ops.linear(h.flatten(1), p[5], p[6])


def critic_parameters() -> list[Any]:
    rng = np.random.default_rng(3)
    shapes = [(4, 2, 3, 3, 3), (4,), (4,), (4,), (3, 4, 2, 2, 2), (1, 3), (1,)]
    return [rng.standard_normal(s) * 0.5 for s in shapes]


def penalty(x: gk.Tensor, p: list[gk.Tensor], norm: str) -> gk.Tensor:
    if not x.requires_grad:
        x = gk.tensor(x, requires_grad=True)
    (gx,) = gk.grad(critic(x, p, norm).sum(), x, create_graph=True)
    return ops.square(ops.norm(gx.flatten(1), dim=1) - 1.0).mean()


@pytest.mark.parametrize("norm", ["none", "batch", "layer", "instance"])
@pytest.mark.much_work
def test_the_gradient_of_a_gradient_penalty_is_not_zero_and_equals_finite_differences(norm: str) -> None:
    x = normal(3, 2, 6, 6, 6)
    values = critic_parameters()
    used = [0, 4, 5] if norm in ("none", "layer") else [0, 2, 4, 5]  # the others shift the critic, not its gradient

    def loss(*weights: gk.Tensor) -> gk.Tensor:
        p = [gk.tensor(v) for v in values]
        for i, w in zip(used, weights, strict=True):
            p[i] = w
        return penalty(gk.tensor(x), p, norm)

    parameters = [gk.tensor(values[i], requires_grad=True) for i in used]
    for gradient in gk.grad(loss(*parameters), parameters):
        assert float(np.abs(gradient.numpy()).max()) > 1e-3
    check_gradients(loss, [values[i] for i in used], order=1, eps=1e-6, tolerance=1e-5)


# ---- only what is asked for ----------------------------------------------------------------------------------------
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    calls = dict.fromkeys(("conv", "conv_transpose", "conv_weight"), 0)
    for name in calls:
        kernel = getattr(backends.get(), name)

        def call(*args: Any, _name: str = name, _kernel: Any = kernel) -> None:
            calls[_name] += 1
            _kernel(*args)

        monkeypatch.setattr(backends.get(), name, call)
    return calls


def test_a_gradient_with_respect_to_x_alone_makes_no_conv_weight_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, v = leaf(2, 3, 5, 5), leaf(4, 3, 3, 3), leaf(4, 4, 2, 2)
    calls = counted(monkeypatch)
    gk.grad(ops.conv(ops.relu(ops.conv(x, w)), v).sum(), x)
    assert calls == {"conv": 2, "conv_transpose": 2, "conv_weight": 0}


def test_a_gradient_with_respect_to_the_last_weight_makes_one_kernel_call(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w, v = leaf(2, 3, 5, 5), leaf(4, 3, 3, 3), leaf(4, 4, 2, 2)
    calls = counted(monkeypatch)
    gk.grad(ops.conv(ops.relu(ops.conv(x, w)), v).sum(), v)
    assert calls == {"conv": 2, "conv_transpose": 0, "conv_weight": 1}


def test_backward_does_not_differentiate_inputs_that_require_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = gk.tensor(normal(2, 3, 5, 5)), leaf(4, 3, 3, 3)
    calls = counted(monkeypatch)
    ops.conv(x, w).sum().backward()
    assert calls == {"conv": 1, "conv_transpose": 0, "conv_weight": 1}
    assert x.grad is None


# ---- backward and grad ---------------------------------------------------------------------------------------------
def test_backward_adds_to_grad() -> None:
    x = leaf(3)
    (x * 2.0).sum().backward()
    (x * 3.0).sum().backward()
    assert_same_bits(x.grad.numpy(), np.full(3, 5.0))


@pytest.mark.cpu_only
def test_the_gradients_of_two_leaves_do_not_share_memory() -> None:
    a, b = leaf(3), leaf(3, seed=1)
    ct = gk.tensor(np.ones(3))
    (a + b).backward(ct)
    assert not np.shares_memory(a.grad.data, b.grad.data)
    assert not np.shares_memory(a.grad.data, ct.data)
    c = leaf(4)
    c.sum().backward()
    assert c.grad.data.flags.writeable
    assert c.grad.data.flags.c_contiguous


def test_backward_without_create_graph_leaves_no_graph() -> None:
    x = leaf(3)
    ops.exp(x).sum().backward()
    assert not x.grad.requires_grad
    assert x.grad.node is None
    (g,) = gk.grad(ops.exp(x).sum(), x)
    assert not g.requires_grad


def test_backward_with_create_graph_can_be_differentiated_again() -> None:
    x = gk.tensor(np.array([1.0, 2.0]), requires_grad=True)
    (x**3).sum().backward(create_graph=True)
    (second,) = gk.grad(x.grad.sum(), x)
    assert_close(second.numpy(), [6.0, 12.0], 1e-14)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_seed_of_backward_is_one_also_for_a_loss_that_is_not_finite(value: float) -> None:
    x = gk.tensor([value], requires_grad=True)
    (x + 1.0).backward()
    assert x.grad.item() == 1.0


def test_gradients_of_several_outputs_add_up() -> None:
    x = leaf(3)
    (g,) = gk.grad([x * 2.0, x * 5.0], x, [gk.ones(3, dtype=np.float64), gk.ones(3, dtype=np.float64)])
    assert_same_bits(g.numpy(), np.full(3, 7.0))


def test_an_intermediate_tensor_can_be_an_input_of_grad() -> None:
    x = leaf(3)
    y = ops.exp(x)
    z = (y * y).sum()
    gy, gx = gk.grad(z, [y, x])
    assert_close(gy.numpy(), 2 * y.detach().numpy(), 0)
    assert_close(gx.numpy(), 2 * np.exp(2 * x.detach().numpy()), 1e-13)


def test_a_tensor_used_twice_gets_both_contributions() -> None:
    x = leaf(3)
    (g,) = gk.grad((x * x + x).sum(), x)
    assert_close(g.numpy(), 2 * x.detach().numpy() + 1, 1e-15)


def test_unused_inputs_raise_or_give_none() -> None:
    x, unused = leaf(2), leaf(2)
    with pytest.raises(RuntimeError, match=r"do not depend on input 1; allow_unused=True"):
        gk.grad(x.sum(), [x, unused])
    assert gk.grad(x.sum(), [x, unused], allow_unused=True)[1] is None


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: leaf(2).backward(), RuntimeError, r"shape \(2,\) needs a gradient"),
        (lambda: gk.zeros(2).backward(), RuntimeError, "does not require a gradient"),
        (lambda: leaf(2).backward(gk.zeros(3, dtype=np.float64)), ValueError, r"shape \(3,\).*\(2,\)"),
        (lambda: leaf(2).backward(gk.zeros(2)), ValueError, "float32.*float64"),
        (lambda: leaf(2).backward(np.ones(2)), TypeError, "must be a Tensor, got ndarray"),
        (lambda: gk.grad(gk.zeros(1), leaf(1)), RuntimeError, "output 0.*does not require"),
        (lambda: gk.grad(leaf(1), gk.zeros(1)), RuntimeError, "input 0.*does not require"),
        (lambda: gk.grad(leaf(1), [1.0]), TypeError, "input 0 must be a Tensor, got float"),
        (lambda: gk.grad([leaf(1)], leaf(1), [None, None]), ValueError, "1 outputs but 2 grad_outputs"),
        (lambda: gk.tensor([1, 2], requires_grad=True), TypeError, "int64"),
        (lambda: gk.tensor([1, 2]).requires_grad_(), TypeError, "int64"),
        (lambda: (leaf(2) * 2.0).requires_grad_(False), RuntimeError, "only a leaf"),
        (lambda: leaf(2).numpy(), RuntimeError, "detach"),
        (lambda: np.asarray(leaf(2)), RuntimeError, "detach"),
    ],
)
def test_wrong_use_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


@pytest.mark.cpu_only
def test_a_tensor_changed_in_place_since_it_was_used_is_noticed() -> None:
    w = leaf(2, 2)
    y = ops.matmul(w, w).sum()
    w.data += 1.0
    w.version += 1
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


def test_running_statistics_updated_since_they_were_used_are_noticed() -> None:
    x, mean, var, weight = leaf(4, 2), gk.zeros(2, dtype=np.float64), gk.ones(2, dtype=np.float64), leaf(2)
    y = ops.batch_norm(x, mean, var, weight, training=False).sum()
    ops.batch_norm(x.detach(), mean, var, training=True)
    with pytest.raises(RuntimeError, match="changed in place"):
        y.backward()


# ---- recording -----------------------------------------------------------------------------------------------------
def test_no_grad_is_a_context_and_a_decorator() -> None:
    x = leaf(2)
    with gk.no_grad():
        assert not (x * 2.0).requires_grad
    assert gk.no_grad()(lambda: x * 2.0)().requires_grad is False
    assert (x * 2.0).requires_grad


def test_one_no_grad_may_be_entered_twice() -> None:
    block = gk.no_grad()
    with block, block:
        assert not is_recording()
    assert is_recording()


def test_no_grad_ends_with_an_exception() -> None:
    with pytest.raises(KeyError), gk.no_grad():
        raise KeyError
    assert is_recording()


def test_recording_is_a_state_of_each_thread() -> None:
    x = leaf(2)
    inside, outside = threading.Event(), threading.Event()
    seen: list[bool] = []

    def work() -> None:
        inside.wait(5)
        seen.append((x * 2.0).requires_grad)
        outside.set()

    thread = threading.Thread(target=work)
    thread.start()
    with gk.no_grad():
        inside.set()
        assert outside.wait(5)
    thread.join()
    assert seen == [True]


def test_backward_in_several_threads_on_graphs_of_their_own() -> None:
    results: dict[int, Any] = {}

    def work(i: int) -> None:
        w = leaf(4, 3, 3, 3, seed=i)
        for _ in range(5):
            (g,) = gk.grad(ops.tanh(ops.conv(gk.tensor(normal(2, 3, 6, 6)), w)).sum(), w)
        results[i] = (w, g)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for w, g in results.values():
        (again,) = gk.grad(ops.tanh(ops.conv(gk.tensor(normal(2, 3, 6, 6)), w)).sum(), w)
        assert_same_bits(g.numpy(), again.numpy())


def test_detach_shares_memory_and_leaves_the_graph() -> None:
    x = leaf(3)
    y = x.detach()
    assert y.data is x.data
    assert not y.requires_grad
    (g,) = gk.grad((x * y).sum(), x)
    assert_same_bits(g.numpy(), y.numpy())


def test_an_operation_requires_a_gradient_if_one_of_its_float_inputs_does() -> None:
    x, c = leaf(2), gk.zeros(2, dtype=np.float64)
    assert (x + c).requires_grad
    assert not (c + c).requires_grad
    assert not (x > 0).requires_grad
    assert not x.to(np.int64).requires_grad
    assert x.to(np.float32).requires_grad


# ---- memory and depth ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "make",
    [
        lambda x: ops.exp(x),
        lambda x: ops.softmax(x, 1),
        lambda x: ops.conv(x.reshape(1, 2, 6), gk.ones(1, 2, 2, dtype=np.float64)),
        lambda x: ops.layer_norm(x, 6),
        lambda x: ops.max_pool(x.reshape(1, 2, 6), 2),
        lambda x: x.max(1)[0],
        lambda x: ops.cat([x, x[0:1]]),
        lambda x: gk.grad(ops.tanh(x).sum(), x, create_graph=True)[0],
    ],
)
def test_a_graph_dies_without_the_garbage_collector(make: Any) -> None:
    gc.collect()
    gc.disable()
    try:
        x = leaf(2, 6)
        y = make(x)
        if y.requires_grad:
            gk.grad(y.sum(), x)
        node, array = weakref.ref(y), weakref.ref(y.data)
        del y
        assert node() is None
        assert array() is None
    finally:
        gc.enable()


@pytest.mark.much_work
def test_two_thousand_steps_leave_no_objects_behind() -> None:
    w = leaf(3)
    for _ in range(100):
        gk.grad(ops.exp(w * 2.0).sum(), w)
    gc.collect()
    before = len(gc.get_objects())
    for _ in range(2000):
        gk.grad(ops.exp(w * 2.0).sum(), w)
    gc.collect()
    assert len(gc.get_objects()) - before < 100


@pytest.mark.much_work
def test_a_chain_of_five_thousand_operations_is_differentiated_without_recursion() -> None:
    x = leaf(1)
    y = x
    for _ in range(5000):
        y = y + x
    (g,) = gk.grad(y.sum(), x)
    assert g.item() == 5001.0


@pytest.mark.cpu_only
def test_a_chain_of_a_hundred_thousand_operations_is_differentiated_and_freed() -> None:
    x = leaf(1)
    y = x
    for _ in range(100_000):
        y = y * 1.0
    (g,) = gk.grad(y.sum(), x)
    assert g.item() == 1.0
    del y, g


@pytest.mark.cpu_only
def test_the_graph_of_a_gradient_of_twenty_thousand_operations_is_freed() -> None:
    x = leaf(1)
    y = x
    for _ in range(20_000):
        y = ops.sigmoid(y)
    (g,) = gk.grad(y.sum(), x, create_graph=True)
    del y, g


# ---- the verbs -----------------------------------------------------------------------------------------------------
@pytest.mark.cpu_only
def test_a_form_of_two_slots_needs_no_rule_of_its_own() -> None:
    double = Form("double", a=lambda b, _: 2 * b, b=lambda a, _: 2 * a)
    check_gradients(lambda a: ops.square(double.open("b", a=a)), [normal(3)], order=3)


@pytest.mark.cpu_only
def test_pointwise_is_differentiated_to_any_order_by_its_own_derivative() -> None:
    cube = pointwise("cube", lambda x: x**3, lambda x, y: ops.square(x) * 3.0)
    check_gradients(cube, [normal(3)], order=3)


@pytest.mark.cpu_only
def test_fused_takes_every_derivative_from_the_composition() -> None:
    op = fused("scaled", lambda a, b: (a * b * b, None), lambda a, b: a * ops.square(b))
    check_gradients(op, [normal(3), normal(3, seed=1)], order=3)


@pytest.mark.cpu_only
def test_fused_inputs_may_be_one_tensor_or_depend_on_each_other() -> None:
    op = fused("product", lambda a, b: (a * b, None), lambda a, b: a * b)
    check_gradients(lambda a: op(a, a), [normal(3)], order=3)
    check_gradients(lambda a: op(a, ops.exp(a)), [normal(3)], order=3)


@pytest.mark.cpu_only
def test_an_operation_with_two_outputs_gets_both_cotangents() -> None:
    def split(x: gk.Tensor) -> Any:
        def rule(cts: Any, want: Any) -> list[Any]:
            a, b = (gk.zeros(2, dtype=np.float64) if c is None else c for c in cts)
            return [ops.cat([a, b])]

        return record("split", (x.data[:2].copy(), x.data[2:].copy()), (x,), rule)

    x = leaf(4)
    a, b = split(x)
    assert_same_bits(gk.grad((a * 2.0).sum() + (b * 3.0).sum(), x)[0].numpy(), np.array([2.0, 2, 3, 3]))
    assert_same_bits(gk.grad(b.sum(), x)[0].numpy(), np.array([0.0, 0, 1, 1]))
