"""A small conditional GAN of 3DGAN's family, for any grid and two processor cores.

What it keeps of 3DGAN: nearest upsampling and 3-D convolutions with LeakyReLU 0.3 and batch norm, a last 2x2x2
convolution and ReLU, the summed energy as a quantity the discriminator sees. What it changes so that minutes suffice:
cells are (energy / incident energy / mean of that cell)^0.5, both networks are told ln(energy), and the discriminator
also reads the profiles along the three axes (as CaloGAN's reads its layer energies, arXiv 1712.10321).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.calo.showers import Grid, Showers
from gankernels.gan.auxiliary import constant
from gankernels.gan.config import option
from gankernels.gan.health import HealthConfig
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import Conditions, Scores
from gankernels.gan.recipes.base import Recipe, Request
from gankernels.gan.recipes.keras_layers import LEAK, norm
from gankernels.gan.recipes.session import DataConfig, ShowerSession, grid_of
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.showers import ShowerGAN
from gankernels.ops import Generator, abs, cat, clamp, exp, from_array, log, log1p, sign, sqrt, square, tensor
from gankernels.ops import sum as total

# ln|v| of a standard normal v has the mean -(ln 2 + Euler's constant) / 2
_LOG_NORMAL_SHIFT = 0.5 * (np.log(2.0) + np.euler_gamma)

_EMPTY_BELOW = 0.005  # generated cells below this quantile of the Monte Carlo's hit cells are noise, not hits

__all__ = ["Discriminator", "Quickstart", "ShowerGenerator", "recipe"]


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of the two networks."""

    latent: int = option(32, "numbers of noise")
    channels: int = option(16, "channels of the convolutions at full resolution, twice as many below")
    power: float = option(0.5, "cells are (energy / incident energy / mean of that cell) to this power")
    floor: float = option(1e-3, "smallest mean of a cell, relative to the largest")

    def __post_init__(self) -> None:
        if min(self.latent, self.channels) < 1 or not 0.0 < self.power <= 1.0 or not 0.0 < self.floor <= 1.0:
            raise ValueError("model: latent and channels must be at least 1, power and floor in (0, 1]")


@dataclass(frozen=True)
class Config:
    """quickstart."""

    data: DataConfig = field(
        default_factory=lambda: DataConfig(grid=(13, 13, 13), energy_gev=(10.0, 100.0), events=6000)
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            batch=32,
            epochs=24,
            ema_decay=0.995,
            lr_schedule="cosine",
            d_optimizer=OptimizerConfig("adam", 5e-4, beta1=0.0, beta2=0.99),
            g_optimizer=OptimizerConfig("adam", 5e-4, beta1=0.0, beta2=0.99),
            losses=LossConfig(r1=0.01, r1_interval=4),
            health=HealthConfig(ignored="off"),  # images are relative to the energy: their sum hardly depends on it
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
        layers: list[Any] = [norm(width), nn.LeakyReLU(LEAK)]
        for _ in range(stages):
            layers += [
                nn.Conv3d(width, width // 2, 3, padding="same", generator=rng),
                norm(width // 2),
                nn.LeakyReLU(LEAK),
                nn.Upsample(scale_factor=2),
            ]
            width //= 2
        last = nn.Conv3d(width // 2, 1, 2, generator=rng)
        if last.bias is not None:
            nn.init.constant_(last.bias, 1.0)  # training starts from the mean shower, not from empty cells
        layers += [
            nn.Conv3d(width, width // 2, 3, padding="same", generator=rng),
            norm(width // 2),
            nn.LeakyReLU(LEAK),
            last,
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
            nn.Linear(width * prod(extents) + sum(shape) + 10 + labels, 128, generator=rng),
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

    replayable = True

    def __init__(self, grid: Grid, config: ModelConfig, described: dict[str, Any], seed: int) -> None:
        labels = tuple(described["condition_names"])
        super().__init__(
            grid, scale=1.0 / np.asarray(described["cell_means"]), power=config.power, relative=True,
            threshold_gev=described["threshold_gev"], condition_names=labels,
        )  # fmt: skip
        rng = Generator(seed)
        self.latent = config.latent
        self.label_moments = described["label_moments"]
        mean, deviation = (np.asarray(v, dtype=np.float32) for v in described["profile_moments"])
        self.profile_shift, self.profile_scale = tensor(-mean / deviation), tensor(1.0 / deviation)
        self.response_mean, self.response_width, self.response_range = described["response"]
        count = len(self.label_moments)
        self.generator = ShowerGenerator(config.latent + count, grid.shape, config.channels, rng)
        self.discriminator = Discriminator(grid.shape, count, config.channels, rng)

    def labels(self, conditions: Conditions) -> Tensor:
        """ln(energy) and the other conditions, each of mean 0 and deviation 1 in the training data; (N, labels)."""
        return cat([self._label(name, conditions).reshape(-1, 1) for name in self.label_moments], 1)

    def _label(self, name: str, conditions: Conditions) -> Tensor:
        mean, deviation = self.label_moments[name]
        values = log(conditions["energy"]) if name == "energy" else conditions[name]
        return (values - mean) * (1.0 / deviation)

    def linear_fraction(self, images: Tensor) -> Tensor:
        """Cells as parts of the incident energy."""
        linear = square(images) if self.power == 0.5 else (images + 1e-12) ** (1.0 / self.power)
        return linear * self.inverse_scale

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Noise and labels to images."""
        x = self.generator(cat([noise, self.labels(conditions)], 1))
        wanted = self.response(noise, conditions) / (total(self.linear_fraction(x), (1, 2, 3, 4)) + 1e-9)
        return x * (wanted**self.power).reshape(-1, 1, 1, 1, 1)

    def response(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Deposited / incident energy of each shower: mean and width of the training data at that energy, the first
        number of the noise tells where in the width; (N,)."""
        u = self._label("energy", conditions) if "energy" in self.label_moments else conditions["energy"] * 0.0
        mean, width = (_polynomial(c, u) for c in (self.response_mean, self.response_width))
        return clamp(
            mean + exp(width) * noise[:, 0], min=0.1 * min(self.response_range), max=2.0 * max(self.response_range)
        )

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """One logit; the profiles are standardised and compressed by sign(v) ln(1 + |v|)."""
        v = profiles(images, self.linear_fraction(images)) * self.profile_scale + self.profile_shift
        return Scores(self.discriminator(images, sign(v) * log1p(abs(v)), self.labels(conditions)))


def _polynomial(coefficients: list[float], x: Tensor) -> Tensor:
    """Horner's scheme, highest power first."""
    y = x * 0.0 + coefficients[0]
    for c in coefficients[1:]:
        y = y * x + c
    return y


def profiles(images: Tensor, fractions: Tensor) -> Tensor:
    """What a physicist would look at first: the energy in every slice along each axis, its mean and width there, the
    sum of all cells and of their squares, the sum in the network's units and how many cells are hit (softly);
    (N, X + Y + Z + 10).

    fractions : Tensor (N, 1, X, Y, Z)
        Cells as parts of the incident energy.
    """
    cells = fractions[:, 0]
    along = [total(cells, dim) for dim in ((2, 3), (1, 3), (1, 2))]
    seen = images[:, 0]
    sums = [total(v, (1, 2, 3)).reshape(-1, 1) for v in (cells, square(cells), seen, seen / (seen + 0.1))]
    moments = []
    for slices in along:
        position = constant(tuple(np.linspace(-1.0, 1.0, slices.shape[1]).tolist()), slices)
        whole = total(slices, 1, True) + 1e-9
        centre = total(slices * position, 1, True) / whole
        moments += [centre, sqrt(total(slices * square(position - centre), 1, True) / whole + 1e-6)]
    return cat([*along, *sums, *moments], 1)


def _measure(showers: Showers, config: Config) -> dict[str, Any]:
    """Moments of the training data that the networks are scaled by."""
    labels = {"energy": np.log(showers.energy_gev), **showers.conditions}
    fractions = showers.cells_gev / showers.energy_gev[:, None, None, None]
    means = fractions.mean(axis=0, dtype=np.float64)
    means = np.maximum(means, config.model.floor * means.max())
    parts: list[Any] = []
    for i in range(0, len(fractions), 256):
        piece = fractions[i : i + 256, None]
        images = np.power(piece / means, config.model.power, dtype=np.float32)
        parts.append(profiles(from_array(images), from_array(piece)).numpy())
    seen = np.concatenate(parts)
    deviation = seen.std(axis=0)
    hits = showers.cells_gev[showers.cells_gev > 0.0]
    u = (labels["energy"] - labels["energy"].mean()) / (labels["energy"].std() or 1.0)
    constant = [name for name, v in labels.items() if v.std() == 0.0]
    return {
        "label_moments": {k: [float(v.mean()), float(v.std())] for k, v in labels.items() if k not in constant},
        "condition_names": [name for name in showers.conditions if name not in constant],
        "response": _response(u, fractions.sum(axis=(1, 2, 3), dtype=np.float64)),
        "cell_means": means.tolist(),
        "profile_moments": [seen.mean(axis=0).tolist(), np.maximum(deviation, 1e-3 * deviation.max()).tolist()],
        "threshold_gev": float(np.quantile(hits, _EMPTY_BELOW)) if len(hits) else 0.0,
    }


def _response(u: Any, response: Any) -> list[list[float]]:
    """Polynomials in the standardised ln(energy): a cubic for the mean of deposited / incident energy, a line for the
    logarithm of its width. And the smallest and largest value seen."""
    varies = float(np.ptp(u)) > 0.0
    mean = np.polyfit(u, response, 3 if varies else 0)
    off = np.abs(response - np.polyval(mean, u))
    width = np.polyfit(u, np.log(np.maximum(off, 1e-6 * response.mean())), 1 if varies else 0)
    width[-1] += _LOG_NORMAL_SHIFT
    return [mean.tolist(), width.tolist(), [float(response.min()), float(response.max())]]


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
