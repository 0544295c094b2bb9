"""Tensors of bfloat16: on a device whose arrays hold them, and what `autocast` makes of a network there."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import dtypes, nn, ops
from gankernels.backends import get
from gankernels.ops.common import stores_bfloat16

HALF_ULP = 2.0**-8  # of a rounding to 8 bits, relative


@pytest.fixture
def stored() -> str:
    """The device of the suite, if its arrays hold bfloat16."""
    if not stores_bfloat16(get()):
        pytest.skip("arrays of this device do not hold bfloat16")
    return gk.get_default_device()


def _numbers(seed: int, *shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _rounded(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """To 8 bits, ties to even."""
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


def _close(found: Any, wanted: Any, relative: float, absolute: float = 0.0) -> bool:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    return bool((np.abs(found - wanted) <= relative * np.abs(wanted) + absolute).all())


# ---- without a device that stores it ---------------------------------------------------------------------------------
@pytest.mark.cpu_only
def test_the_cpu_says_where_bfloat16_is_held_and_what_to_use_instead() -> None:
    for make in (
        lambda: gk.ones(2).to("bfloat16"),
        lambda: gk.zeros(2, dtype="bfloat16"),
        lambda: gk.tensor([1.0], dtype="bfloat16"),
        lambda: nn.Linear(2, 2).to("bfloat16"),
        lambda: gk.randn(2, dtype="bfloat16"),
    ):
        with pytest.raises(TypeError, match=r"compiled CUDA kernels alone, not on 'cpu' here.*autocast"):
            make()


@pytest.mark.cpu_only
def test_numbers_of_the_host_become_float32() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    t = gk.tensor(np.array([1.0, 2.5, np.nan], ml_dtypes.bfloat16))
    assert t.dtype == np.float32
    np.testing.assert_array_equal(t.numpy(), np.array([1.0, 2.5, np.nan], np.float32))


# ---- tensors ---------------------------------------------------------------------------------------------------------
def test_a_cast_rounds_to_even_and_comes_back_as_it_was_stored(stored: str) -> None:
    x = np.concatenate([_numbers(1, 101), np.array([np.inf, -np.inf, 0.0, -0.0, 1 + 2**-8, 1 + 3 * 2**-8], np.float32)])
    t = gk.tensor(x, device=stored).to("bfloat16")
    assert dtypes.is_bfloat16(t.dtype)
    assert t.data.nbytes == 2 * x.size
    assert t.cpu().dtype == np.float32
    assert t.cpu().numpy().tobytes() == _rounded(x).tobytes()
    assert np.isnan(gk.tensor([np.nan], device=stored).bfloat16().cpu().numpy()).all()
    assert t.tolist()[:3] == _rounded(x)[:3].tolist()


def test_creation_takes_the_name(stored: str) -> None:
    for t in (
        gk.zeros(3, dtype="bfloat16", device=stored),
        gk.full((3,), 1.5, dtype="bfloat16", device=stored),
        gk.tensor([1.0, 2.0, 3.0], dtype="bfloat16", device=stored),
        gk.arange(3, dtype="bfloat16", device=stored),
        gk.randn(3, dtype="bfloat16", device=stored),
        gk.ones_like(gk.zeros(3, dtype="bfloat16", device=stored)),
    ):
        assert dtypes.is_bfloat16(t.dtype)
        assert np.isfinite(t.cpu().numpy()).all()


def test_no_package_is_needed_for_it(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    dtypes.bfloat16.cache_clear()
    try:
        t = gk.tensor(_numbers(8, 7), device=stored).bfloat16()
        assert dtypes.is_bfloat16(t.dtype)
        with gk.autocast("bfloat16"):
            product = t.reshape(1, 7) @ t.reshape(7, 1)
        assert dtypes.is_bfloat16(product.dtype)
        assert _close(product.tolist(), [[sum(v * v for v in t.tolist())]], HALF_ULP + 7 * 2.0**-24)
        assert gk.arange(3, dtype="bfloat16", device=stored).tolist() == [0.0, 1.0, 2.0]
    finally:
        dtypes.bfloat16.cache_clear()


@pytest.mark.parametrize(
    ("name", "options"), [("mean", {}), ("var", {}), ("std", {"dim": 1}), ("norm", {}), ("prod", {"dim": 1})], ids=str
)
def test_several_steps_are_rounded_once(name: str, options: dict[str, Any], stored: str) -> None:
    x = _rounded(np.array([[256.0, 258.0] * 8, [1.0078125] * 16], np.float32))
    wide = getattr(ops, name)(gk.tensor(x, device=stored), **options)
    found = getattr(ops, name)(gk.tensor(x, device=stored).bfloat16(), **options)
    assert found.dtype == gk.bfloat16
    np.testing.assert_array_equal(found.cpu().numpy(), _rounded(wide.cpu().numpy()))


def test_wider_operands_win_and_gradients_come_back_in_the_dtype_of_each(stored: str) -> None:
    a = gk.tensor(_numbers(2, 5), device=stored).bfloat16().requires_grad_()
    b = gk.tensor(_numbers(3, 5), device=stored, requires_grad=True)
    product = a * b
    assert product.dtype == np.float32
    ga, gb = gk.grad(ops.sum(product * product), [a, b])
    assert dtypes.is_bfloat16(ga.dtype)
    assert gb.dtype == np.float32
    x, y = a.detach().cpu().numpy().astype(np.float64), b.detach().cpu().numpy().astype(np.float64)
    assert _close(ga.cpu().numpy(), 2 * x * y * y, HALF_ULP + 4 * 2.0**-24)
    assert _close(gb.cpu().numpy(), 2 * x * x * y, 4 * 2.0**-24)
    assert dtypes.is_bfloat16((a + 1).dtype)
    u = gk.rand(4096, dtype="bfloat16", device=stored).cpu().numpy()
    assert u.min() >= 0.0
    assert u.max() < 1.0
    assert dtypes.is_bfloat16((a * gk.tensor([2], device=stored)).dtype)


def test_a_tensor_is_shared_with_other_libraries_as_bfloat16(stored: str) -> None:
    t = gk.tensor(_numbers(4, 2, 3), device=stored).bfloat16()
    shared = get(stored)
    from gankernels.backends import dlpack

    buffer, shape, _, _, dtype = dlpack.read(t.data.__dlpack__(stream=shared.stream()))
    assert shape == (2, 3)
    assert dtypes.is_bfloat16(dtype)
    assert buffer.ptr == t.data.ptr


# ---- a network in autocast -------------------------------------------------------------------------------------------
def _network(device: str, activation: Any) -> Any:
    network = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.BatchNorm3d(4), activation(), nn.Conv3d(4, 3, 3, stride=2, padding=1),
        activation(), nn.Flatten(), nn.Linear(3 * 2 * 3 * 3, 1),
    )  # fmt: skip
    return network.to(device)


def test_autocast_stores_what_layers_hand_on_and_keeps_parameters_and_their_gradients_float32(stored: str) -> None:
    gk.manual_seed(1)
    network = _network(stored, nn.LeakyReLU)
    x = gk.tensor(_numbers(5, 4, 1, 4, 5, 5), device=stored)
    with gk.autocast("bfloat16"):
        hidden = network[:3](x)
        out = network(x)
        loss = nn.functional.binary_cross_entropy_with_logits(out, gk.ones_like(out))
    assert dtypes.is_bfloat16(hidden.dtype)
    assert dtypes.is_bfloat16(out.dtype)
    assert loss.dtype == np.float32
    assert ops.sum(out).dtype == out.dtype  # outside of the block sums keep the dtype
    loss.backward()
    assert {str(p.dtype) for p in network.parameters()} == {"float32"}
    assert {str(p.grad.dtype) for p in network.parameters()} == {"float32"}
    assert network[1].running_mean.dtype == np.float32


def _agree(found: list[Any], wanted: list[Any]) -> None:
    """Each gradient up to the roundings on its path: a dozen of 2^-8, and as many of what it is compared with."""
    largest = max(np.linalg.norm(w) for w in wanted)
    for f, w in zip(found, wanted, strict=True):
        assert not (np.linalg.norm(f - w) > 24 * HALF_ULP * np.linalg.norm(w) + 2.0**-12 * largest)


def test_gradients_in_autocast_are_those_of_float32_up_to_roundings_to_8_bits(stored: str) -> None:
    gk.manual_seed(2)
    network = _network(stored, lambda: nn.LeakyReLU(0.9))  # a rounding that changes a sign costs a tenth of the slope

    def gradients(compute: str) -> list[np.ndarray[Any, Any]]:
        x = gk.tensor(_numbers(6, 4, 1, 4, 5, 5), device=stored, requires_grad=True)
        with gk.autocast(compute):
            found = gk.grad(ops.mean(ops.square(network(x))), [*network.parameters(), x])
        return [g.cpu().numpy() for g in found]

    _agree(gradients("bfloat16"), gradients("float32"))


def test_so_are_gradients_of_a_gradient_penalty(stored: str) -> None:
    gk.manual_seed(2)
    network = _network(stored, nn.Tanh)  # smooth: no second derivative jumps where a rounding changes a sign

    def gradients(compute: str) -> list[np.ndarray[Any, Any]]:
        x = gk.tensor(_numbers(6, 4, 1, 4, 5, 5), device=stored, requires_grad=True)
        with gk.autocast(compute):
            (slope,) = gk.grad(ops.sum(network(x)), [x], create_graph=True)
            penalty = ops.mean((ops.norm(slope.reshape(4, -1), dim=1) - 1.0) ** 2)
        assert penalty.dtype == np.float32
        found = gk.grad(penalty, [*network.parameters(), x], allow_unused=True)
        return [slope.detach().cpu().numpy(), *(g.cpu().numpy() for g in found if g is not None)]

    _agree(gradients("bfloat16"), gradients("float32"))


@pytest.mark.parametrize(
    "norm", [lambda: nn.BatchNorm2d(4), lambda: nn.GroupNorm(2, 4), lambda: nn.InstanceNorm2d(4, affine=True),
             lambda: nn.LayerNorm((4, 3, 3))], ids=["batch", "group", "instance", "layer"],
)  # fmt: skip
def test_every_normalisation_follows_a_product_in_autocast(norm: Any, stored: str) -> None:
    gk.manual_seed(4)
    network = nn.Sequential(nn.Conv2d(2, 4, 3), norm(), nn.Conv2d(4, 1, 1)).to(stored)
    x = gk.tensor(_numbers(9, 3, 2, 5, 5), device=stored)

    def found(compute: str) -> list[np.ndarray[Any, Any]]:
        with gk.autocast(compute):
            y = network(x)
            grads = gk.grad(ops.mean(ops.square(y)), list(network.parameters())[1:])
        return [y.detach().cpu().numpy(), *(g.cpu().numpy() for g in grads)]

    _agree(found("bfloat16"), found("float32"))


def test_states_come_back_into_bfloat16_from_what_the_host_holds(stored: str) -> None:
    model = nn.Linear(3, 2).to(stored).bfloat16()
    state = {name: t.cpu().numpy() for name, t in model.state_dict().items()}
    other = nn.Linear(3, 2).to(stored).bfloat16()
    other.load_state_dict(state)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert b.dtype == gk.bfloat16
        assert a.tolist() == b.tolist()


def test_operands_on_two_devices_are_named_as_such_in_autocast(stored: str) -> None:
    with gk.autocast("bfloat16"), pytest.raises(RuntimeError, match="weight is on"):
        nn.functional.linear(gk.ones(2, 3, device="cpu"), gk.ones(4, 3, device=stored))
    with pytest.raises(TypeError, match="bfloat16"):
        gk.ones_like(gk.ones(2, device=stored).bfloat16(), device="cpu")


def test_a_model_of_bfloat16_trains(stored: str) -> None:
    gk.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.BatchNorm1d(8), nn.Linear(8, 1)).to(stored).to("bfloat16")
    optimizer = gk.optim.Adam(model.parameters(), lr=0.05)
    x = gk.tensor(_numbers(7, 16, 3), device=stored).bfloat16()
    y = x[:, :1] * 2.0
    losses = []
    for _ in range(8):
        loss = ops.mean(ops.square(model(x) - y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(dtypes.is_bfloat16(p.grad.dtype) for p in model.parameters())
    assert not (losses[-1] > 0.5 * losses[0])
