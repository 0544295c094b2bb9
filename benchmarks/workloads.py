"""The named workloads: networks, how they are trained, and a batch of real events for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import gankernels as gk
from benchmarks import networks
from gankernels.calo.showers import Grid
from gankernels.calo.simulate import simulate_showers
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import GAN, Batch
from gankernels.gan.recipes import threedgan, threedgan_angle, toy_gaussian
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.trainer import Trainer

SEED = 1


@dataclass(frozen=True)
class Workload:
    """A GAN as it is trained.

    Parameters
    ----------
    gan : callable
        gan(dropout) -> GAN; the dropout is that of its source, or 0 to compare answers.
    real : callable
        real(gan, n) -> Batch of n real events in the network's units.
    config : TrainerConfig
        Updates, losses and optimizers of its source.
    rank : int
        Of the convolutions; 0 where there are none.
    checked_rate : float
        Learning rate of the step of plain gradient descent whose answer is compared: weights move by far more than
        float32 resolves, and by so little that the later gradients are taken at nearly the same weights.
    checked : int
        Events of that step; a convolution in float64 takes PyTorch 1.8 GB for each event of 3dgan-angle.
    """

    name: str
    summary: str
    gan: Callable[[bool], Any]
    real: Callable[[Any, int], Batch]
    config: TrainerConfig
    rank: int
    checked_rate: float
    checked: int = 16


def _plain(config: TrainerConfig, **changes: Any) -> TrainerConfig:
    """Without what is not part of every GAN's step: averaged weights, random label flips."""
    losses = LossConfig(discriminator=config.losses.discriminator, generator=config.losses.generator)
    return replace(config, ema_decay=0.0, lr_schedule="constant", max_steps=10**9, epochs=0.0, losses=losses, **changes)


def _threedgan(dropout: bool) -> Any:
    config = threedgan.ModelConfig() if dropout else threedgan.ModelConfig(dropout=0.0)
    # mean response of the simulated showers that _showers draws
    return threedgan.ThreeDGAN(Grid(threedgan.SHAPE, ("x", "y", "z")), config, False, [0.0, 0.0, 0.0, 0.02], SEED)


def _angle(dropout: bool) -> Any:
    config = threedgan_angle.ModelConfig() if dropout else threedgan_angle.ModelConfig(dropout=0.0)
    return threedgan_angle.AngleGAN(Grid(threedgan_angle.SHAPE, ("x", "y", "z")), config, SEED)


def _showers(theta_deg: tuple[float, float] | None) -> Callable[[Any, int], Batch]:
    def real(gan: Any, n: int) -> Batch:
        some = simulate_showers(min(n, 16), (10.0, 100.0), gan.grid, seed=SEED, theta_deg=theta_deg)
        return gan.to_batch(some[np.arange(n) % len(some)])

    return real


def _toy_batch(gan: Any, n: int) -> Batch:
    images, label = toy_gaussian.gaussian_profiles(toy_gaussian.DataConfig(), n, SEED)
    return Batch(gk.from_array(images * np.float32(gan.scale)), {"label": gk.from_array(label)})


def _adam(d_rate: float, g_rate: float, beta2: float = 0.999) -> dict[str, OptimizerConfig]:
    return {
        "d_optimizer": OptimizerConfig("adam", d_rate, beta1=0.5, beta2=beta2),
        "g_optimizer": OptimizerConfig("adam", g_rate, beta1=0.5, beta2=beta2),
    }


WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "3dgan",
            "25x25x25 cells, the recipe 3dgan: D on real, D on fake, G twice, RMSprop",
            _threedgan,
            _showers(None),
            _plain(threedgan.recipe.config.train),
            3,
            1e-5,
        ),
        Workload(
            "3dgan-angle",
            "51x51x25 cells, the recipe 3dgan-angle: D on real, D on fake, G twice, RMSprop",
            _angle,
            _showers((60.0, 120.0)),
            _plain(threedgan_angle.recipe.config.train),
            3,
            1e-5,
            checked=2,
        ),
        Workload(
            "calogan-like",
            "CaloGAN's three small images with locally connected layers: D on real, D on fake, G twice, Adam",
            lambda dropout: networks.CaloGANLike(SEED),
            lambda gan, n: networks.calo_batch(n),
            _plain(TrainerConfig(max_steps=1, g_steps=2, separate_updates=True), **_adam(2e-5, 2e-4)),
            2,
            1e-2,
        ),
        Workload(
            "dcgan64",
            "DCGAN, 64x64 pictures, 128 to 1024 channels: D on real and fake, G once, Adam",
            lambda dropout: networks.DCGAN(SEED),
            lambda gan, n: networks.picture_batch(n),
            _plain(TrainerConfig(max_steps=1), **_adam(2e-4, 2e-4)),
            2,
            1e-2,
        ),
        Workload(
            "toy",
            "two MLPs of width 64 on 25 cells, the recipe toy-gaussian without its penalty: D, G, Adam",
            lambda dropout: toy_gaussian.ToyGAN(25, toy_gaussian.ModelConfig(), SEED),
            _toy_batch,
            _plain(toy_gaussian.recipe.config.train),
            0,
            0.1,
        ),
    )
}


class Repeated:
    """Endless batches that are all the same."""

    epoch = 0
    steps_per_epoch = 1

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __next__(self) -> Batch:
        return self.batch

    def state(self) -> dict[str, Any]:
        """Nothing changes."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Nothing changes."""


def our_step(gan: GAN, config: TrainerConfig, real: Batch) -> Callable[[], None]:
    """One training step as a user's run does it."""
    return Trainer(gan, Repeated(real), config).train_step


def with_sgd(config: TrainerConfig, rate: float) -> TrainerConfig:
    """The same step with plain gradient descent, where weights move by the sum of the gradients: to compare answers.

    RMSprop and Adam divide by the gradient's size, and so make rounding errors of small gradients as large as any.
    """
    sgd = OptimizerConfig("sgd", rate)
    return replace(config, d_optimizer=sgd, g_optimizer=sgd)


def off_the_kink(gan: GAN) -> None:
    """Draw the biases, the same for the same networks.

    With the published zero biases the convolution of an empty region is exactly 0, where LeakyReLU has its kink. A sum
    that is 1e-8 instead is as right, but takes the other slope: convolutions by FFT then move layers of 3dgan's
    discriminator in its very first step by 5 % differently (conv_algorithm fft: 20 %). Any bias ends that.
    """
    rng = gk.Generator(SEED)
    for network in (gan.generator, gan.discriminator):
        for name, p in network.named_parameters():
            if name.endswith("bias"):
                gk.nn.init.normal_(p, 0.0, 0.02, rng)


def fix_noise(gan: GAN, noise: np.ndarray[Any, Any]) -> None:
    """Let the GAN draw these numbers, always from the first row."""
    gan.noise = lambda n, generator: gk.from_array(noise[:n]).to(gan.device)  # type: ignore[method-assign]
