"""3DGAN, fixed angle: the auxiliary-classifier GAN of CERN openlab for 25x25x25 cells, layer by layer.

Source: svalleco/3Dgan, branch Energy-gan, keras/EcalEnergyGan.py and EcalEnergyTrain.py; Vallecorsa et al.,
EPJ Web Conf. 214 (2019) 02010. Keras semantics: LeakyReLU 0.3, batch norm eps 1e-3 and momentum 0.99 (0.01 in
PyTorch's meaning) over channels, "same" with the extra cell at the high end, glorot_uniform unless named, zero biases,
RMSprop rho 0.9 and eps 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.calo.showers import Grid, Showers
from gankernels.gan.auxiliary import Auxiliary, image_sum, measured_angle
from gankernels.gan.config import option
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import Conditions, Scores
from gankernels.gan.recipes.base import Recipe, Request
from gankernels.gan.recipes.keras_layers import LEAK, conv, dense, norm
from gankernels.gan.recipes.session import DataConfig, ShowerSession, grid_of
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.showers import ShowerGAN
from gankernels.ops import Generator, cat

__all__ = ["Discriminator", "Generator3D", "recipe"]

SHAPE = (25, 25, 25)


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of the two networks."""

    latent: int = option(200, "numbers of noise")
    dropout: float = option(0.2, "dropout of the discriminator")
    scale: float = option(100.0, "images are energies in GeV times this")
    angle: str = option("auto", "second condition theta: auto (where the data have it), on, off")
    weight_energy: float = option(0.1 / 2, "weight of MAPE(energy) beside the adversarial loss; published 0.1 to 2")
    weight_sum: float = option(0.1 / 2, "weight of MAPE(summed energy); published 0.1 to 2")
    weight_angle: float = option(25.0 / 3, "weight of MAE(angle in rad), with theta; published 25 to 3")

    def __post_init__(self) -> None:
        if self.latent < 1:
            raise ValueError(f"model.latent must be at least 1, got {self.latent}")
        if self.angle not in ("auto", "on", "off"):
            raise ValueError(f"model.angle must be auto, on or off, got {self.angle!r}")


@dataclass(frozen=True)
class Config:
    """3dgan."""

    data: DataConfig = field(default_factory=lambda: DataConfig(grid=SHAPE, energy_gev=(10.0, 100.0)))
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            batch=128,
            epochs=50,
            g_steps=2,
            separate_updates=True,
            ema_decay=0.0,  # as published; averaged over steps this long the weights lose a quarter of the energy
            d_optimizer=OptimizerConfig("rmsprop", 1e-3, eps=1e-7),
            g_optimizer=OptimizerConfig("rmsprop", 1e-3, eps=1e-7),
            losses=LossConfig(label_flip=0.05),
        )
    )


class Generator3D(nn.Module):
    """(N, latent [+ 1]) to (N, 1, 25, 25, 25)."""

    def __init__(self, inputs: int, rng: Generator) -> None:
        super().__init__()
        self.dense = dense(inputs, 64 * 7 * 7, rng)
        self.body = nn.Sequential(
            conv(8, 64, (6, 6, 8), "same", rng, "he_uniform"),
            nn.LeakyReLU(LEAK),
            norm(64),
            nn.Upsample(scale_factor=2),  # 14, 14, 16
            conv(64, 6, (6, 5, 8), (2, 2, 0), rng, "he_uniform"),  # 13, 14, 9
            nn.LeakyReLU(LEAK),
            norm(6),
            nn.Upsample(scale_factor=(2, 2, 3)),  # 26, 28, 27
            conv(6, 6, (3, 3, 8), (1, 0, 3), rng, "he_uniform"),  # 26, 26, 26
            nn.LeakyReLU(LEAK),
            conv(6, 1, (2, 2, 2), 0, rng, "glorot_normal", bias=False),
            nn.ReLU(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors; the dense output is channels last, as Keras reshapes it."""
        return self.body(self.dense(z).reshape(-1, 7, 7, 8, 8).permute(0, 4, 1, 2, 3))


class Discriminator(nn.Module):
    """(N, 1, 25, 25, 25) to a validity logit (N, 1) and the energy / 100 GeV (N, 1)."""

    def __init__(self, dropout: float, rng: Generator) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv(1, 32, (5, 5, 5), "same", rng, "glorot_uniform"), nn.LeakyReLU(LEAK), nn.Dropout(dropout),
            conv(32, 8, (5, 5, 5), 2, rng, "glorot_uniform"), nn.LeakyReLU(LEAK), norm(8), nn.Dropout(dropout),
            conv(8, 8, (5, 5, 5), 2, rng, "glorot_uniform"), nn.LeakyReLU(LEAK), norm(8), nn.Dropout(dropout),
            conv(8, 8, (5, 5, 5), 1, rng, "glorot_uniform"), nn.LeakyReLU(LEAK), norm(8), nn.Dropout(dropout),
            nn.AvgPool3d(2),
            nn.Flatten(),
        )  # fmt: skip
        self.generation = dense(8 * 11**3, 1, rng)
        self.auxiliary = dense(8 * 11**3, 1, rng)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Validity and energy."""
        features = self.body(images)
        return self.generation(features), self.auxiliary(features)


class ThreeDGAN(ShowerGAN):
    """3DGAN at a fixed angle; with `theta` the angle (rad) joins the latent vector and its measured value the losses.

    response : (4,) numbers
        Mean of (summed energy / energy) as a cubic polynomial of energy / 100 GeV, highest power first.
    """

    replayable = True

    def __init__(self, grid: Grid, config: ModelConfig, theta: bool, response: list[float], seed: int) -> None:
        super().__init__(grid, scale=config.scale, condition_names=("theta_rad",) if theta else ())
        if grid.shape != SHAPE:
            raise ValueError(
                f"3dgan: the published networks are for {SHAPE} cells, the data have {grid.shape}; "
                "the recipe quickstart adapts to any grid"
            )
        rng = Generator(seed)
        self.latent = config.latent
        self.generator = Generator3D(config.latent + int(theta), rng)
        self.discriminator = Discriminator(config.dropout, rng)
        self.response = [float(v) for v in response]
        self.auxiliary = {
            "energy": Auxiliary("mape", config.weight_energy, config.weight_energy),
            "sum": Auxiliary("mape", config.weight_sum, config.weight_sum),
        }
        if theta:
            self.auxiliary["angle"] = Auxiliary("mae", config.weight_angle, config.weight_angle)

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """The latent vector is noise * energy / 100 GeV."""
        z = noise * (conditions["energy"].reshape(-1, 1) * 0.01)
        if self.condition_names:
            z = cat([conditions["theta_rad"].reshape(-1, 1), z], 1)
        return self.generator(z)

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """Validity, energy / 100 GeV, the summed energy of the image and its measured angle."""
        validity, energy = self.discriminator(images)
        estimates = {"energy": energy.reshape(-1), "sum": image_sum(images)}
        if self.condition_names:
            estimates["angle"] = measured_angle(images)
        return Scores(validity, estimates)

    def targets(self, conditions: Conditions) -> dict[str, Tensor]:
        """What an image of these conditions should show."""
        energy = conditions["energy"]
        part = (energy / 100.0).double()
        ratio = part * 0.0
        for coefficient in self.response:  # Horner's scheme, highest power first
            ratio = ratio * part + coefficient
        targets = {"energy": energy * 0.01, "sum": (ratio * energy.double() * float(self.scale)).float()}
        if self.condition_names:
            targets["angle"] = conditions["theta_rad"]
        return targets


def _measure(showers: Showers, config: Config) -> dict[str, Any]:
    """Mean response of the training data: a cubic polynomial of energy / 100 GeV, as the published code has one."""
    ratio = showers.cells_gev.sum(axis=(1, 2, 3), dtype=np.float64) / showers.energy_gev
    degree = min(3, len(np.unique(showers.energy_gev)) - 1)
    response = np.polyfit(showers.energy_gev / 100.0, ratio, degree)
    return {"response": response.tolist(), "condition_names": list(showers.conditions)}


def _build(config: Config, described: dict[str, Any]) -> ThreeDGAN:
    labels = described["condition_names"]
    if config.model.angle == "on" and "theta_rad" not in labels:
        raise ValueError("3dgan: model.angle is on, but the data have no theta")
    theta = config.model.angle != "off" and "theta_rad" in labels
    return ThreeDGAN(grid_of(described), config.model, theta, described["response"], config.train.seed)


def _open(request: Request) -> ShowerSession:
    return ShowerSession(request, _build, _measure)


recipe = Recipe(
    name="3dgan",
    summary="3DGAN for 25x25x25 cells, published layers; the angle is a second condition where the data have it",
    source="svalleco/3Dgan (EcalEnergyGan); EPJ Web Conf. 214 (2019) 02010",
    config=Config(),
    open=_open,
    revive=_build,
)
