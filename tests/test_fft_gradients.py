"""Both gradients of a convolution by FFT from one transform of y: the bits of the two kernels, at every order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import nn, ops
from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, conv_geometry
from gankernels.testing import bounds

pytestmark = [pytest.mark.cpu_only, pytest.mark.usefixtures("restore_knobs")]
FFT = CONV_ALGORITHMS["fft"]
Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    found: Counter[str] = Counter()

    def counted(name: str, kernel: Callable[..., None]) -> Callable[..., None]:
        def run(*arguments: Any) -> None:
            found[name] += 1
            kernel(*arguments)

        return run

    for name in ("conv_transpose", "conv_weight", "conv_gradients"):
        monkeypatch.setattr(cpu, name, counted(name, getattr(cpu, name)))
    return found


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


GEOMETRIES = {
    "a shower layer": geometry((16, 8, 9, 10, 9), (8, 8, 5, 5, 5), padding=2),
    "many channels to few": geometry((33, 32, 5, 6, 7), (8, 32, 3, 3, 3), padding=1),
    "few images": geometry((3, 8, 6, 5, 6), (9, 8, 3, 3, 3), padding=1),
    "one channel": geometry((17, 1, 6, 7, 6), (18, 1, 3, 3, 3), padding="same"),
    "odd channels": geometry((20, 3, 4, 5, 6), (7, 3, 2, 3, 2), padding="same"),
    "two channels": geometry((37, 2, 7, 6), (3, 2, 3, 3)),
    "groups": geometry((16, 6, 8, 9), (9, 2, 3, 3), groups=3, padding=1),
    "1-D": geometry((5, 4, 50), (6, 4, 7), padding=3),
}
APART = {
    "stride": geometry((16, 3, 9, 8), (4, 3, 3, 3), stride=2, padding=1),
    "long rows": geometry((3, 2, 5000), (3, 2, 100), padding=50),
}


def draw(g: ConvGeometry, dtype: Any = np.float32) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(0)
    x, w, y = (rng.standard_normal(s, dtype) for s in (g.x_shape, g.w_shape, g.y_shape))
    return x, w, y


def assert_the_bits_of_both_kernels(g: ConvGeometry, dtype: Any = np.float32, algorithm: int = FFT) -> None:
    x, w, y = draw(g, dtype)
    want = np.full_like(x, np.nan), np.full_like(w, np.nan)
    cpu.conv_transpose(y, w, want[0], g.pod, algorithm)
    cpu.conv_weight(x, y, want[1], g.pod, algorithm)
    got = np.full_like(x, np.nan), np.full_like(w, np.nan)
    cpu.conv_gradients(x, w, y, *got, g.pod, algorithm)
    for a, b in zip(got, want, strict=True):
        bounds.assert_same_bits(a, b)


@pytest.mark.parametrize("name", [*GEOMETRIES, *APART])
def test_both_gradients_have_the_bits_of_the_two_kernels_on_every_isa_and_at_any_thread_count(name: str) -> None:
    g = {**GEOMETRIES, **APART}[name]
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        for threads in (1, 2, 3):
            cpu.set_num_threads(threads)
            assert_the_bits_of_both_kernels(g)
        assert_the_bits_of_both_kernels(g, np.float64)


def test_batches_whose_spectra_take_several_rounds_have_the_bits_of_the_two_kernels() -> None:
    g = geometry((17, 4, 8, 1, 1), (3, 4, 1, 189, 189), padding=(0, 94, 94))  # 19 MB for each of 7 channels
    assert cpu.conv_gradients_share(g.pod, FFT, np.float32)
    assert_the_bits_of_both_kernels(g)


@pytest.mark.parametrize("name", ["direct", "bf16_auto", "measured"])
def test_other_algorithms_give_what_their_two_kernels_give(name: str) -> None:
    g = GEOMETRIES["few images"]
    code = CONV_ALGORITHMS[name]
    assert not cpu.conv_gradients_share(g.pod, code, np.float32)
    if name != "measured":  # which may choose another path the next time
        assert_the_bits_of_both_kernels(g, algorithm=code)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_transforms_are_shared_where_one_covers_the_volume(dtype: Any) -> None:
    assert all(cpu.conv_gradients_share(g.pod, FFT, dtype) for g in GEOMETRIES.values())
    assert not any(cpu.conv_gradients_share(g.pod, FFT, dtype) for g in APART.values())


# ---- on the tape ---------------------------------------------------------------------------------------------------
def leaves() -> tuple[gk.Tensor, gk.Tensor]:
    x, w, _ = draw(GEOMETRIES["a shower layer"])
    return gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)


def convolved(x: gk.Tensor, w: gk.Tensor) -> gk.Tensor:
    return (ops.conv(x, w, padding=2) ** 2).sum()


def test_one_kernel_gives_both_gradients_and_the_single_ones_give_one(calls: Counter[str]) -> None:
    gk.set_conv_algorithm("fft")
    x, w = leaves()
    both = gk.grad(convolved(x, w), [x, w])
    assert calls == {"conv_gradients": 1}
    calls.clear()
    alone = [gk.grad(convolved(x, w), t)[0] for t in (x, w)]
    assert calls == {"conv_transpose": 1, "conv_weight": 1}
    for a, b in zip(both, alone, strict=True):
        bounds.assert_same_bits(a.numpy(), b.numpy())


def test_direct_convolutions_are_differentiated_by_the_single_kernels(calls: Counter[str]) -> None:
    gk.set_conv_algorithm("direct")
    x, w = leaves()
    gk.grad(convolved(x, w), [x, w])
    assert calls == {"conv_transpose": 1, "conv_weight": 1}


def test_gradients_that_share_a_transform_can_be_differentiated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    gk.set_conv_algorithm("fft")
    found = []
    for share in (True, False):
        if not share:
            monkeypatch.setattr(cpu, "conv_gradients_share", lambda *_: False)
        x, w = leaves()
        gx, gw = gk.grad(convolved(x, w), [x, w], create_graph=True)
        penalty = (gx * gx).sum() + (gw * gw * gw).sum()
        found.append([gx, gw, *gk.grad(penalty, [x, w])])
    for a, b in zip(*found, strict=True):
        bounds.assert_same_bits(a.detach().numpy(), b.detach().numpy())
    assert np.abs(found[0][2].numpy()).max() > 0


def test_second_derivatives_of_a_gradient_that_shared_are_those_of_finite_differences() -> None:
    gk.set_conv_algorithm("fft")
    rng = np.random.default_rng(3)
    x, w = rng.standard_normal((3, 2, 5, 5)), rng.standard_normal((3, 2, 3, 3))

    def penalty(x: Array, w: Array) -> tuple[gk.Tensor, gk.Tensor, gk.Tensor]:
        tx, tw = gk.tensor(x, requires_grad=True), gk.tensor(w, requires_grad=True)
        gx, gw = gk.grad((ops.conv(tx, tw, padding=1) ** 3).sum(), [tx, tw], create_graph=True)
        return (gx * gx).sum() + (gw * gw).sum(), tx, tw

    loss, tx, tw = penalty(x, w)
    slopes = [g.numpy() for g in gk.grad(loss, [tx, tw])]
    dx, dw = rng.standard_normal(x.shape), rng.standard_normal(w.shape)
    step = 1e-6
    ahead, behind = (penalty(x + h * dx, w + h * dw)[0].item() for h in (step, -step))
    want = (slopes[0] * dx).sum() + (slopes[1] * dw).sum()
    assert abs((ahead - behind) / (2 * step) - want) <= 1e-6 * abs(want)


def _layers(rng: gk.Generator) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(2, 8, 5, padding=2, generator=rng),
        nn.LeakyReLU(0.3),
        nn.Dropout(0.2, generator=rng),
        nn.Conv3d(8, 8, 5, padding=2, generator=rng),
        nn.LeakyReLU(0.3),
    )


def _descents(share: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Array], str | None]:
    """Gradients of a replayed step, by recorded kernel calls from the third on."""
    if not share:
        monkeypatch.setattr(cpu, "conv_gradients_share", lambda *_: False)
    rng = gk.Generator(5)
    net = _layers(rng)
    images = gk.tensor(np.random.default_rng(1).standard_normal((4, 2, 8, 8, 8)).astype(np.float32))
    replay = gk.Replay(lambda x: gk.grad(net(x).sum(), net.parameters(), retain_graph=False), [net])
    for _ in range(3):
        found = replay(images)
    return [g.numpy().copy() for g in found], replay.reason


def test_a_replayed_step_with_bias_activation_and_dropout_shares_transforms(
    monkeypatch: pytest.MonkeyPatch, calls: Counter[str]
) -> None:
    gk.set_conv_algorithm("fft")
    shared, reason = _descents(True, monkeypatch)
    assert reason is None, reason
    assert calls == {"conv_gradients": 2, "conv_weight": 2}  # of two recordings; no gradient into the images
    apart, _ = _descents(False, monkeypatch)
    for a, b in zip(shared, apart, strict=True):
        bounds.assert_same_bits(a, b)
