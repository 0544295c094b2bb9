"""3DGAN, variable angle, for 51x51x25 cells: energy and polar angle as conditions, published layers.

Source: svalleco/3Dgan, branch Anglegan, keras/AngleArch3dGAN.py and AngleTrain3dGAN.py. Images are
(energy in GeV * 50) ** 0.85, losses BCE 3, MAPE(energy) 0.1, MAE(angle) 25, MAPE(sum) 0.1, RMSprop 1e-3, batch 64.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.calo.showers import Grid, Showers
from gankernels.gan.auxiliary import Auxiliary, bin_counts, image_sum, measured_angle
from gankernels.gan.config import option
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import Batch, Conditions, Scores
from gankernels.gan.recipes.base import Recipe, Request
from gankernels.gan.recipes.keras_layers import LEAK, conv, dense, norm
from gankernels.gan.recipes.session import DataConfig, ShowerSession, grid_of
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.gan.showers import ShowerGAN
from gankernels.ops import Generator, cat

__all__ = ["AngleGAN", "AngleGenerator", "Discriminator", "recipe"]

SHAPE = (51, 51, 25)
EPS = 1e-6  # of batch norm in the published generator
BIN_EDGES = (0.003, 0.008, 0.0125, 0.02, 0.03, 0.05)  # of cells before the power, in the units of the published files


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of the two networks; weights stand beside an adversarial loss of weight 1 (published: 3)."""

    latent: int = option(254, "numbers of noise; energy and angle join them")
    dropout: float = option(0.2, "dropout of the discriminator")
    scale: float = option(50.0, "images are (energy in GeV * scale) ** power")
    power: float = option(0.85, "see scale")
    weight_energy: float = option(0.1 / 3, "weight of MAPE(energy)")
    weight_angle: float = option(25.0 / 3, "weight of MAE(angle in rad)")
    weight_sum: float = option(0.1 / 3, "weight of MAPE(summed energy)")
    weight_bins: float = option(
        0.0, "weight of MAPE(counts of cells in bins of energy); published, where used, 0.1 / 3"
    )

    def __post_init__(self) -> None:
        if self.latent < 1 or self.scale <= 0.0 or not 0.0 < self.power <= 1.0:
            raise ValueError("model: latent must be at least 1, scale above 0, power in (0, 1]")


@dataclass(frozen=True)
class Config:
    """3dgan-angle."""

    data: DataConfig = field(
        default_factory=lambda: DataConfig(grid=SHAPE, energy_gev=(2.0, 500.0), theta_deg=(60.0, 120.0))
    )
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            batch=64,
            epochs=120,
            g_steps=2,
            separate_updates=True,
            ema_decay=0.0,  # as published; averaged over steps this long the weights lose a quarter of the energy
            d_optimizer=OptimizerConfig("rmsprop", 1e-3, eps=1e-7),
            g_optimizer=OptimizerConfig("rmsprop", 1e-3, eps=1e-7),
            losses=LossConfig(label_flip=0.05),
        )
    )


class AngleGenerator(nn.Module):
    """(N, latent + 2) to (N, 1, 51, 51, 25)."""

    def __init__(self, inputs: int, rng: Generator) -> None:
        super().__init__()
        self.dense = dense(inputs, 9 * 9 * 8 * 8, rng)
        layers: list[nn.Module] = [nn.Upsample(scale_factor=6)]  # 54, 54, 48
        for i, o, kernel, padding in (
            (8, 8, (6, 6, 8), (0, 0, 0)),  # 49, 49, 41
            (8, 6, (4, 4, 6), (2, 2, 1)),  # 50, 50, 38
            (6, 6, (4, 4, 6), (2, 2, 1)),  # 51, 51, 35
            (6, 6, (4, 4, 6), (2, 2, 1)),  # 52, 52, 32
            (6, 6, (3, 3, 5), (1, 1, 0)),  # 52, 52, 28
        ):
            layers += [conv(i, o, kernel, padding, rng, "he_uniform"), nn.ReLU(), norm(o, EPS)]
        layers += [
            conv(6, 6, (3, 3, 3), (1, 1, 0), rng, "he_uniform"),  # 52, 52, 26
            nn.ReLU(),
            conv(6, 1, (2, 2, 2), 0, rng, "glorot_normal"),
            nn.ReLU(),
        ]
        self.body = nn.Sequential(*layers)

    def forward(self, z: Tensor) -> Tensor:
        """Images of latent vectors; the dense output is channels last, as Keras reshapes it."""
        return self.body(self.dense(z).reshape(-1, 9, 9, 8, 8).permute(0, 4, 1, 2, 3))


class Discriminator(nn.Module):
    """(N, 1, 51, 51, 25) to a validity logit (N, 1) and the energy / 100 GeV (N, 1)."""

    def __init__(self, dropout: float, rng: Generator) -> None:
        super().__init__()
        layers: list[nn.Module] = [
            conv(1, 16, (5, 6, 6), "same", rng, "glorot_uniform"),
            nn.LeakyReLU(LEAK),
            nn.Dropout(dropout),
        ]
        for i, padding in ((16, (0, 0, 1)), (8, (0, 0, 1)), (8, (0, 0, 0))):  # 47,46,22; 43,41,19; 39,36,14
            layers += [
                conv(i, 8, (5, 6, 6), padding, rng, "glorot_uniform"),
                nn.LeakyReLU(LEAK),
                norm(8, EPS),
                nn.Dropout(dropout),
            ]
        self.body = nn.Sequential(*layers, nn.AvgPool3d(2), nn.Flatten())
        self.fake = dense(8 * 19 * 18 * 7, 1, rng)
        self.auxiliary = dense(8 * 19 * 18 * 7, 1, rng)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Validity and energy."""
        features = self.body(images)
        return self.fake(features), self.auxiliary(features)


class AngleGAN(ShowerGAN):
    """3DGAN with energy and angle; the summed energy of a fake should be that of the real shower of its conditions."""

    replayable = True

    def __init__(self, grid: Grid, config: ModelConfig, seed: int) -> None:
        super().__init__(grid, scale=config.scale, power=config.power, condition_names=("theta_rad",))
        if grid.shape != SHAPE:
            raise ValueError(
                f"3dgan-angle: the published networks are for {SHAPE} cells, the data have {grid.shape}; "
                "3dgan takes (25, 25, 25) and quickstart adapts to any grid"
            )
        rng = Generator(seed)
        self.latent = config.latent
        self.generator = AngleGenerator(config.latent + 2, rng)
        self.discriminator = Discriminator(config.dropout, rng)
        weights = {
            "energy": config.weight_energy,
            "angle": config.weight_angle,
            "sum": config.weight_sum,
            "bins": config.weight_bins,
        }
        self.auxiliary = {
            name: Auxiliary("mae" if name == "angle" else "mape", w, w) for name, w in weights.items() if w > 0.0
        }

    def to_batch(self, showers: Showers) -> Batch:
        """As ShowerGAN's; the summed energy and the counts of cells are labels too, for the losses of fakes."""
        batch = super().to_batch(showers)
        batch.conditions["sum"] = image_sum(self.linear(batch.images, batch.conditions)) * float(self.scale)
        if "bins" in self.auxiliary:
            batch.conditions["bins"] = self._bins(batch.images)
        return batch

    def _bins(self, images: Tensor) -> Tensor:
        return bin_counts(images, [edge**self.power for edge in BIN_EDGES])

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """The latent vector is [energy / 100 GeV, theta in rad, noise]."""
        labels = [conditions["energy"].reshape(-1, 1) * 0.01, conditions["theta_rad"].reshape(-1, 1)]
        return self.generator(cat([*labels, noise], 1))

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """Validity, energy / 100 GeV, and what is measured on the image: its angle, its sum, its counts of cells."""
        validity, energy = self.discriminator(images)
        linear = self.linear(images, conditions) * float(self.scale)
        estimates = {"energy": energy.reshape(-1), "angle": measured_angle(linear), "sum": image_sum(linear)}
        if "bins" in self.auxiliary:
            estimates["bins"] = self._bins(images)
        return Scores(validity, estimates)

    def targets(self, conditions: Conditions) -> dict[str, Tensor]:
        """What an image of these conditions should show."""
        targets = {"energy": conditions["energy"] * 0.01, "angle": conditions["theta_rad"]}
        return {**targets, **{name: conditions[name] for name in ("sum", "bins") if name in conditions}}


def _measure(showers: Showers, config: Config) -> dict[str, Any]:
    if "theta_rad" not in showers.conditions:
        raise ValueError("3dgan-angle: the data have no theta; the recipes 3dgan and quickstart do without")
    return {"condition_names": list(showers.conditions)}


def _build(config: Config, described: dict[str, Any]) -> AngleGAN:
    return AngleGAN(grid_of(described), config.model, config.train.seed)


def _open(request: Request) -> ShowerSession:
    return ShowerSession(request, _build, _measure)


recipe = Recipe(
    name="3dgan-angle",
    summary="3DGAN for 51x51x25 cells with energy and angle as conditions, published layers",
    source="svalleco/3Dgan (Anglegan); Khattak et al., Eur. Phys. J. C 82 (2022) 386",
    config=Config(),
    open=_open,
    revive=_build,
)
