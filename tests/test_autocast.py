"""gk.autocast: which products are rounded, which gradients follow, and what stays float32."""

from __future__ import annotations

import threading
from typing import Any

import devices
import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels import backends, nn, ops
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.gan import Trainer, TrainerConfig
from gankernels.gan.checkpoint import CheckpointError

AUTO, FAST = CONV_ALGORITHMS["auto"], CONV_ALGORITHMS["fast"]
HALF_AUTO, HALF_FAST = CONV_ALGORITHMS["bf16_auto"], CONV_ALGORITHMS["bf16_fast"]
FULL, HALF = MATMUL_PRECISIONS["full"], MATMUL_PRECISIONS["bf16"]
PRODUCTS = ("conv", "conv_transpose", "conv_weight", "upsample_conv", "upsample_conv_transpose",
            "upsample_conv_weight", "matmul")  # fmt: skip


@pytest.fixture
def codes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(kernel, its algorithm or precision) of every product, in order."""
    noted: list[tuple[str, int]] = []
    for name in PRODUCTS:
        kernel = getattr(backends.get(), name)

        def note(*arguments: Any, kernel: Any = kernel, name: str = name) -> None:
            noted.append((name, arguments[-1]))
            kernel(*arguments)

        monkeypatch.setattr(backends.get(), name, note)
    return noted


def normal(*shape: int, seed: int = 0) -> gk.Tensor:
    values = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return gk.tensor(values, requires_grad=True)


def every_product(x: gk.Tensor, w: gk.Tensor, matrix: gk.Tensor) -> gk.Tensor:
    y = ops.conv(x, w, padding=1)
    y = ops.conv_transpose(y, w, padding=1)
    y = ops.upsample_conv(y, w, factors=2, padding=1)
    return ops.matmul(y.reshape(-1, 3), matrix).sum() + ops.linear(x.reshape(-1, 3), matrix).sum()


def test_every_product_is_rounded_inside_and_none_outside(codes: list[tuple[str, int]]) -> None:
    inputs = normal(2, 3, 6), normal(3, 3, 3, seed=1), normal(3, 3, seed=2)
    every_product(*inputs)
    assert {code for _, code in codes} == {AUTO, FULL} == {0}
    codes.clear()
    with gk.autocast("bfloat16"):
        every_product(*inputs)
    assert codes == [("conv", HALF_AUTO), ("conv_transpose", HALF_AUTO), ("upsample_conv", HALF_AUTO),
                     ("matmul", HALF), ("matmul", HALF)]  # fmt: skip


def test_gradients_of_every_order_are_computed_as_their_tape_was(codes: list[tuple[str, int]]) -> None:
    inputs = normal(2, 3, 6), normal(3, 3, 3, seed=1), normal(3, 3, seed=2)
    for inside, conv_code, matmul_code in ((True, HALF_FAST, HALF), (False, FAST, FULL)):
        with gk.autocast("bfloat16" if inside else None):
            loss = every_product(*inputs)
        codes.clear()
        with gk.autocast(None if inside else "bfloat16"):
            found = gk.grad(loss, inputs, create_graph=True)
            penalty = sum((t * t).sum() for t in found)
            penalty.backward()
        assert {code for name, code in codes if name != "matmul"} == {conv_code}
        assert {code for name, code in codes if name == "matmul"} == {matmul_code}
        assert {name for name, _ in codes} == set(PRODUCTS)
        assert all(t.grad.dtype == np.float32 for t in inputs)


@pytest.mark.skipif(not devices.rounds_to_bfloat16(), reason="this backend multiplies in float32")
def test_a_gradient_pulled_back_outside_is_the_one_pulled_back_inside() -> None:
    x, w = normal(2, 3, 9), normal(4, 3, 3, seed=1)
    found = []
    for inside in (False, True):
        with gk.autocast("bfloat16"):
            loss = (ops.conv(x, w) ** 2).sum()
            if inside:
                found.append(gk.grad(loss, [x, w]))
        if not inside:
            found.append(gk.grad(loss, [x, w]))
    plain = gk.grad((ops.conv(x, w) ** 2).sum(), [x, w])
    for outside, within, full in zip(*found, plain, strict=True):
        np.testing.assert_array_equal(outside.numpy(), within.numpy())
        scale = np.abs(full.numpy()).max()
        difference = np.abs(outside.numpy() - full.numpy()).max() / scale
        assert 1e-5 < difference < 5e-2  # rounded, and a gradient


@pytest.mark.skipif(not devices.rounds_to_bfloat16(), reason="this backend multiplies in float32")
def test_it_nests_decorates_ends_with_an_error_and_belongs_to_its_thread() -> None:
    a = gk.full((1, 1), 1.001)

    def value() -> float:
        return float((a @ gk.ones(1, 1)).item())

    cast = gk.autocast("bfloat16")
    seen: list[float] = []
    with cast, cast:
        assert value() == 1.0
        with gk.autocast(None):
            assert value() != 1.0
        with gk.autocast("float32"):
            assert value() != 1.0
        other = threading.Thread(target=lambda: seen.append(value()))
        other.start()
        other.join()
        assert value() == 1.0
    assert seen[0] != 1.0
    with pytest.raises(ZeroDivisionError), cast:
        raise ZeroDivisionError
    assert value() != 1.0
    assert cast(value)() == 1.0
    assert value() != 1.0
    with pytest.raises(ValueError, match="autocast: expected 'bfloat16', 'float32' or None, got 'float16'"):
        gk.autocast("float16")


def test_everything_else_and_float64_keep_their_bits() -> None:
    x = normal(4, 3, 10)
    norm, local = nn.BatchNorm1d(3), normal(2, 3, 8, 3, seed=1)
    unshared = [] if devices.stores_bfloat16() else [lambda: ops.local_conv(x, local)]

    def others() -> list[gk.Tensor]:
        y = norm(x)
        wide = x.double()
        return [
            y, ops.softmax(x.reshape(12, 10), -1), (x * 1.001).sum(), ops.gelu(x), *(f() for f in unshared),
            ops.conv(wide, local[:, :, 0].double()), wide.reshape(12, 10) @ wide.reshape(10, 12),
        ]  # fmt: skip

    plain = others()
    with gk.autocast("bfloat16"):
        inside = others()
    for a, b in zip(inside, plain, strict=True):
        assert a.detach().numpy().tobytes() == b.detach().numpy().tobytes()


def test_an_algorithm_chosen_by_name_keeps_its_arithmetic() -> None:
    x, w = normal(2, 3, 9), normal(4, 3, 3, seed=1)
    with ops.using_conv_algorithm("direct"):
        plain = ops.conv(x, w).detach().numpy()
        with gk.autocast("bfloat16"):
            np.testing.assert_array_equal(ops.conv(x, w).detach().numpy(), plain)


def test_a_replayed_function_knows_whether_it_is_cast() -> None:
    net = nn.Linear(5, 4)
    run = gk.Replay(lambda x: net(x).detach(), [net])
    x = normal(6, 5).detach()
    for dtype in ("bfloat16", None, "bfloat16", None):
        with gk.autocast(dtype):
            want = net(x).detach().numpy()
            for _ in range(3):
                np.testing.assert_array_equal(run(x).numpy(), want)
            assert run.reason is None


def _losses(**settings: Any) -> tuple[Trainer, list[float]]:
    trainer = Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=6, batch=16, **settings))
    found = []
    while trainer.step < 6:
        trainer.train_step()
        found += [float(v) for v in trainer.losses.values()]
    return trainer, found


@pytest.mark.much_work
def test_a_toy_gan_trains_in_bfloat16_near_float32_and_the_same_when_replayed() -> None:
    trainer, replayed = _losses(compute="bfloat16")
    _, direct = _losses(compute="bfloat16", replay=False)
    _, plain = _losses()
    with gk.autocast("bfloat16"):
        _, within = _losses()
    assert replayed == direct == within
    assert replayed != plain
    np.testing.assert_allclose(replayed, plain, rtol=0.1, atol=0.05)
    assert all(p.dtype == np.float32 for p in trainer.gan.generator.parameters())


def test_a_run_is_only_resumed_with_the_compute_that_it_was_trained_with(tmp_path: Any) -> None:
    def made(compute: str) -> Trainer:
        return Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=2, batch=16, compute=compute), tmp_path)

    made("bfloat16").run()
    with pytest.raises(CheckpointError, match="trained with compute = 'bfloat16', this run has 'float32'"):
        made("float32").resume()
    made("bfloat16").resume()
    with pytest.raises(ValueError, match="compute cannot be 'float16'"):
        made("float16")
