"""Which convolutions may take FFT for their values under "auto": hidden ones of a network in training, no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gan_toys import ToyGAN

import gankernels as gk
from gankernels import backends, nn, ops
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.gan.hidden import mark_hidden, output_layers
from gankernels.gan.recipes.threedgan import Discriminator, Generator3D
from gankernels.gan.settings import TrainerConfig
from gankernels.gan.steps import Updates

AUTO, FAST = CONV_ALGORITHMS["auto"], CONV_ALGORITHMS["fast"]


def _codes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    codes: list[int] = []
    plain = ("conv", "conv_transpose", "upsample_conv")
    for name in (*plain, *(f"{kernel}_epilogue" for kernel in plain)):
        kernel = getattr(backends.get(), name)

        def noted(*arguments: Any, kernel: Any = kernel) -> None:
            codes.append(arguments[4])
            kernel(*arguments)

        monkeypatch.setattr(backends.get(), name, noted)
    return codes


def test_auto_is_fast_for_hidden_values_only_and_a_named_algorithm_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = _codes(monkeypatch)
    x, w = gk.zeros(2, 1, 5), gk.zeros(1, 1, 3)
    ops.conv(x, w)
    with ops.hidden_values():
        ops.conv(x, w)
        with ops.hidden_values(False):
            ops.conv(x, w)
        with ops.using_conv_algorithm("direct"):
            ops.conv(x, w)
    ops.conv(x, w)
    assert codes == [AUTO, FAST, AUTO, CONV_ALGORITHMS["direct"], AUTO]


@pytest.mark.parametrize("layer", [nn.Conv1d(2, 2, 3), nn.ConvTranspose1d(2, 2, 3)])
def test_a_hidden_layer_is_fast_in_training_and_exact_in_evaluation(
    layer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = _codes(monkeypatch)
    x = gk.zeros(2, 2, 5)
    layer(x)
    layer.hidden = True
    layer(x)
    layer.eval()(x)
    nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(2, 2, 3))(x)
    hidden = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(2, 2, 3))
    mark_hidden(hidden, ())
    hidden(x)
    assert codes == [AUTO, FAST, AUTO, AUTO, FAST]


def test_the_last_layer_of_a_sequential_is_its_output_and_every_branch_of_another_module_has_one() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Sequential(nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1), nn.Conv1d(1, 1, 3), nn.BatchNorm1d(1))
            self.two = nn.Conv1d(1, 1, 3)

    branches = Branches()
    assert output_layers(branches) == [branches.one[2], branches.two]
    chain = nn.Sequential(nn.Conv1d(1, 1, 3), nn.Sequential(Branches(), nn.ReLU()), nn.Flatten(), nn.Linear(4, 4))
    assert output_layers(chain) == [chain[3]]


def test_the_generator_of_3dgan_shows_its_last_convolution_and_the_discriminator_none() -> None:
    class Published(ToyGAN):
        def __init__(self) -> None:
            super().__init__()
            self.generator = Generator3D(4, gk.Generator(1))
            self.discriminator = Discriminator(0.2, gk.Generator(1))

    gan = Published()
    Updates(gan, TrainerConfig(max_steps=1), lambda losses: None)
    convolutions = lambda net: [m.hidden for m in net.modules() if isinstance(m, nn.Conv3d)]
    assert convolutions(gan.generator) == [True, True, True, False]
    assert convolutions(gan.discriminator) == [True] * 4


@pytest.mark.cpu_only
def test_hidden_values_from_fft_change_a_gradient_by_rounding_only() -> None:
    """The bound: every layer's noise of u*(40*log2(n) + 3*K) (K <= 16 channels or images; testing.bounds),
    relative to the largest element, two layers and back."""
    rng = gk.Generator(3)
    net = nn.Sequential(
        nn.Conv3d(2, 8, 5, padding=2, generator=rng), nn.LeakyReLU(0.3), nn.Conv3d(8, 8, 5, padding=2, generator=rng)
    )
    mark_hidden(net, ())
    x = gk.tensor(np.random.default_rng(1).standard_normal((16, 2, 9, 9, 9)).astype(np.float32))
    found = []
    for name in ("direct", "auto"):
        with ops.using_conv_algorithm(name):
            y = net(x)
            found.append([y.detach().numpy(), *(g.numpy() for g in gk.grad((y * y).mean(), list(net.parameters())))])
    assert (found[0][0] != found[1][0]).any(), "FFT was not used"
    limit = 4 * 2.0**-24 * (40 * np.log2(16**3) + 3 * 16)
    for direct, auto in zip(*found, strict=True):
        assert not (np.abs(direct - auto).max() > limit * np.abs(direct).max())
