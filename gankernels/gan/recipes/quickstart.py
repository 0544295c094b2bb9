"""A small conditional GAN of 3DGAN's family, for any grid and two processor cores.

What it keeps of 3DGAN: nearest upsampling and 3-D convolutions with LeakyReLU 0.3 and batch norm, a last 2x2x2
convolution and ReLU, the summed energy as a quantity the discriminator sees. What it changes so that minutes suffice:
cells are (energy / incident energy)^0.5, both networks are told ln(energy), and the discriminator also reads the
profiles along the three axes (as CaloGAN's reads its layer energies, arXiv 1712.10321).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.calo.observables import readout_threshold_gev
from gankernels.calo.showers import Grid, Showers
from gankernels.gan.config import option
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import Conditions, Scores
from gankernels.gan.recipes.base import Recipe, Request
from gankernels.gan.recipes.session import DataConfig, ShowerSession, grid_of
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.showers import ShowerGAN
from gankernels.ops import Generator, abs, cat, from_array, log, log1p, sign, square
from gankernels.ops import sum as total

__all__ = ["Discriminator", "Quickstart", "ShowerGenerator", "recipe"]

LEAK = 0.3


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of the two networks."""

    latent: int = option(32, "numbers of noise")
    channels: int = option(16, "channels of the convolutions at full resolution, twice as many below")
    power: float = option(0.5, "cells are (energy / incident energy * scale) to this power")
    scale: float = option(30.0, "see power")

    def __post_init__(self) -> None:
        if min(self.latent, self.channels) < 1 or not 0.0 < self.power <= 1.0 or self.scale <= 0.0:
            raise ValueError("model: latent and channels must be at least 1, power in (0, 1], scale above 0")


@dataclass(frozen=True)
class Config:
    """quickstart."""

    data: DataConfig = field(
        default_factory=lambda: DataConfig(grid=(13, 13, 13), energy_gev=(10.0, 100.0), events=6000)
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            batch=64,
            epochs=40,
            ema_decay=0.995,
            lr_schedule="cosine",
            d_optimizer=OptimizerConfig("adam", 5e-4, beta1=0.0, beta2=0.99),
            g_optimizer=OptimizerConfig("adam", 5e-4, beta1=0.0, beta2=0.99),
            losses=LossConfig(r1=0.5, r1_interval=8),
        )
    )


class ShowerGenerator(nn.Module):
    """(N, latent + labels) to (N, 1, *shape): dense, then convolutions with nearest upsampling between them."""

    def __init__(self, inputs: int, shape: tuple[int, ...], channels: int, rng: Generator) -> None:
        super().__init__()
        self.shape = shape
        stages = 1 if max(shape) < 20 else 2
        factor = 2**stages
        self.start = tuple(-(-(n + 1) // factor) for n in shape)
        width = channels * factor
        self.width = width
        self.dense = nn.Linear(inputs, width * prod(self.start), generator=rng)
        layers: list[Any] = [nn.BatchNorm3d(width), nn.LeakyReLU(LEAK)]
        for _ in range(stages):
            layers += [
                nn.Conv3d(width, width // 2, 3, padding="same", generator=rng),
                nn.BatchNorm3d(width // 2),
                nn.LeakyReLU(LEAK),
                nn.Upsample(scale_factor=2),
            ]
            width //= 2
        layers += [
            nn.Conv3d(width, width // 2, 3, padding="same", generator=rng),
            nn.BatchNorm3d(width // 2),
            nn.LeakyReLU(LEAK),
            nn.Conv3d(width // 2, 1, 2, generator=rng),
            nn.ReLU(),
        ]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images, cropped to the grid."""
        images = self.body(self.dense(z).reshape(-1, self.width, *self.start))
        nx, ny, nz = self.shape
        return images[:, :, :nx, :ny, :nz]


class Discriminator(nn.Module):
    """Images, their profiles and labels to one logit (N, 1)."""

    def __init__(self, shape: tuple[int, ...], labels: int, channels: int, rng: Generator) -> None:
        super().__init__()
        layers: list[Any] = []
        extents, width = shape, 1
        for _ in range(3):
            wider = channels if width == 1 else 2 * width
            layers += [nn.Conv3d(width, wider, 3, stride=2, padding=1, generator=rng), nn.LeakyReLU(LEAK)]
            extents, width = tuple((n - 1) // 2 + 1 for n in extents), wider
        self.body = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Sequential(
            nn.Linear(width * prod(extents) + sum(shape) + 3 + labels, 128, generator=rng),
            nn.LeakyReLU(LEAK),
            nn.Linear(128, 1, generator=rng),
        )

    def forward(self, images: Tensor, profiles: Tensor, labels: Tensor) -> Tensor:
        """Large for Monte Carlo."""
        return self.head(cat([self.body(images), profiles, labels], 1))


class Quickstart(ShowerGAN):
    """The two networks and what they are told.

    described : dict
        As `_measure` and ShowerSession.describe give it: moments of the labels and of the profiles in the training
        data, the readout threshold.
    """

    def __init__(self, grid: Grid, config: ModelConfig, described: dict[str, Any], seed: int) -> None:
        labels = tuple(described["condition_names"])
        super().__init__(
            grid, scale=config.scale, power=config.power, relative=True,
            threshold_gev=described["threshold_gev"], condition_names=labels,
        )  # fmt: skip
        rng = Generator(seed)
        self.latent = config.latent
        self.label_moments = described["label_moments"]
        mean, deviation = (np.asarray(v, dtype=np.float32) for v in described["profile_moments"])
        self.profile_shift, self.profile_scale = from_array(-mean / deviation), from_array(1.0 / deviation)
        count = 1 + len(labels)
        self.generator = ShowerGenerator(config.latent + count, grid.shape, config.channels, rng)
        self.discriminator = Discriminator(grid.shape, count, config.channels, rng)

    def labels(self, conditions: Conditions) -> Tensor:
        """ln(energy) and the other conditions, each of mean 0 and deviation 1 in the training data; (N, labels)."""
        columns = []
        for name, (mean, deviation) in self.label_moments.items():
            values = log(conditions["energy"]) if name == "energy" else conditions[name]
            columns.append(((values - mean) * (1.0 / deviation)).reshape(-1, 1))
        return cat(columns, 1)

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Noise and labels to images."""
        return self.generator(cat([noise, self.labels(conditions)], 1))

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """One logit; the profiles are standardised and compressed by sign(v) ln(1 + |v|)."""
        v = profiles(images, self.power) * self.profile_scale + self.profile_shift
        return Scores(self.discriminator(images, sign(v) * log1p(abs(v)), self.labels(conditions)))


def profiles(images: Tensor, power: float) -> Tensor:
    """What a physicist would look at first: the energy in every slice along each axis, the sum of all cells, and the
    sums of the cells and of their squares in the network's units; (N, X + Y + Z + 3)."""
    cells = images[:, 0]
    linear = square(cells) if power == 0.5 else (cells + 1e-12) ** (1.0 / power)
    along = [total(linear, dim) for dim in ((2, 3), (1, 3), (1, 2))]
    sums = [total(v, (1, 2, 3)).reshape(-1, 1) for v in (linear, cells, square(linear))]
    return cat([*along, *sums], 1)


def _measure(showers: Showers, config: Config) -> dict[str, Any]:
    """Moments of the training data that the networks are scaled by."""
    labels = {"energy": np.log(showers.energy_gev), **showers.conditions}
    cells = np.power(
        showers.cells_gev * (config.model.scale / showers.energy_gev[:, None, None, None]), config.model.power
    )
    seen = np.concatenate([profiles(from_array(cells[i : i + 256, None]), config.model.power).numpy()
                           for i in range(0, len(cells), 256)])  # fmt: skip
    deviation = seen.std(axis=0)
    constant = [name for name, v in labels.items() if v.std() == 0.0]
    return {
        "label_moments": {k: [float(v.mean()), float(v.std())] for k, v in labels.items() if k not in constant},
        "condition_names": [name for name in showers.conditions if name not in constant],
        "profile_moments": [seen.mean(axis=0).tolist(), np.maximum(deviation, 1e-3 * deviation.max()).tolist()],
        "threshold_gev": readout_threshold_gev(showers),
    }


def _build(config: Config, described: dict[str, Any]) -> Quickstart:
    return Quickstart(grid_of(described), config.model, described, config.train.seed)


def _open(request: Request) -> ShowerSession:
    return ShowerSession(request, _build, _measure)


recipe = Recipe(
    name="quickstart",
    summary="a small conditional GAN for any grid; simulates its own showers if given none",
    source="this package; ideas of 3DGAN (svalleco/3Dgan) and CaloGAN (arXiv 1712.10321)",
    config=Config(),
    open=_open,
    revive=_build,
)
