"""Two classes of Gaussian profiles: the smallest conditional GAN whose result can be checked in a minute.

Source: svalleco/3Dgan, utils/gaussian.py (K. Orlova): 25 cells along x hold a Gaussian of mean 10 and sigma 2 (class 0)
or 4 (class 1) with noise of deviation 0.01. Here the line of cells itself is the image, and each event's mean moves a
little so that there is something to generate; per class, mean and sigma of the profiles are compared.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels import nn
from gankernels.autograd import Tensor
from gankernels.gan.config import option
from gankernels.gan.health import HealthConfig, check_condition
from gankernels.gan.losses import LossConfig
from gankernels.gan.model import GAN, ArrayBatches, Conditions, Scores
from gankernels.gan.recipes.base import Recipe, Request
from gankernels.gan.settings import OptimizerConfig, TrainerConfig
from gankernels.ops import Generator, cat, from_array

__all__ = ["ToyGAN", "gaussian_profiles", "profile_moments", "recipe"]

Array = NDArray[Any]
NOISE = 0.01


@dataclass(frozen=True)
class DataConfig:
    """The two classes."""

    events: int = option(4000, "events of both classes together")
    cells: int = option(25, "cells along x")
    mean: float = option(10.0, "mean of the profiles, cells")
    mean_spread: float = option(1.0, "deviation of the mean from event to event, cells")
    sigma: tuple[float, float] = option((2.0, 4.0), "sigma of class 0 and class 1, cells")

    def __post_init__(self) -> None:
        if self.events < 2 or self.cells < 3 or min(self.sigma) <= 0.0 or self.mean_spread < 0.0:
            raise ValueError("data: events >= 2, cells >= 3, sigma > 0 and mean_spread >= 0 are needed")


@dataclass(frozen=True)
class ModelConfig:
    """The numbers of the two networks."""

    latent: int = option(8, "numbers of noise")
    width: int = option(64, "hidden units")

    def __post_init__(self) -> None:
        if min(self.latent, self.width) < 1:
            raise ValueError(f"model: latent and width must be at least 1, got {self.latent} and {self.width}")


@dataclass(frozen=True)
class Config:
    """toy-gaussian."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainerConfig = field(
        default_factory=lambda: TrainerConfig(
            batch=128,
            epochs=100,
            d_optimizer=OptimizerConfig("adam", 1e-3, beta1=0.0, beta2=0.99),
            g_optimizer=OptimizerConfig("adam", 1e-3, beta1=0.0, beta2=0.99),
            losses=LossConfig(r1=0.1, r1_interval=4),
            health=HealthConfig(condition="label"),
        )
    )


def gaussian_profiles(config: DataConfig, events: int, seed: int) -> tuple[Array, Array]:
    """Profiles (events, 1, cells) of unit area with noise, and their classes (events,) 0.0 or 1.0; float32."""
    rng = np.random.default_rng(seed)
    label = np.arange(events) % 2
    sigma = np.asarray(config.sigma)[label][:, None]
    centre = config.mean + config.mean_spread * rng.standard_normal((events, 1))
    x = np.arange(config.cells)
    clean = np.exp(-0.5 * ((x - centre) / sigma) ** 2) / (np.sqrt(2.0 * np.pi) * sigma)
    images = clean + NOISE * rng.standard_normal(clean.shape)
    return images[:, None].astype(np.float32), label.astype(np.float32)


def profile_moments(images: Array) -> tuple[float, float]:
    """Mean and sigma (cells) of the average of profiles (N, 1, cells)."""
    mean = images.mean(axis=(0, 1), dtype=np.float64)
    x = np.arange(len(mean))
    centre = float((x * mean).sum() / mean.sum())
    return centre, float(np.sqrt(max(0.0, ((x - centre) ** 2 * mean).sum() / mean.sum())))


class ToyGAN(GAN):
    """Two small networks of dense layers; the class joins both inputs. Images are profiles times 5."""

    scale = 5.0
    chunk = 1024
    replayable = True

    def __init__(self, cells: int, config: ModelConfig, seed: int) -> None:
        rng = Generator(seed)
        w = config.width
        self.latent = config.latent
        self.cells = cells
        self.generator = nn.Sequential(
            nn.Linear(config.latent + 1, w, generator=rng), nn.LeakyReLU(0.2),
            nn.Linear(w, w, generator=rng), nn.LeakyReLU(0.2), nn.Linear(w, cells, generator=rng),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            nn.Linear(cells + 1, w, generator=rng), nn.LeakyReLU(0.2),
            nn.Linear(w, w, generator=rng), nn.LeakyReLU(0.2), nn.Linear(w, 1, generator=rng),
        )  # fmt: skip

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Noise and class to profiles (N, 1, cells)."""
        z = cat([noise, conditions["label"].reshape(-1, 1) * 2.0 - 1.0], 1)
        return self.generator(z).reshape(-1, 1, self.cells)

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """One logit."""
        flat = images.reshape(-1, self.cells)
        return Scores(self.discriminator(cat([flat, conditions["label"].reshape(-1, 1) * 2.0 - 1.0], 1)))


class ToySession:
    """Networks and data of one training; see recipes.base.Session."""

    def __init__(self, request: Request) -> None:
        if request.files:
            raise ValueError("toy-gaussian makes its own data; it takes no --data")
        self.config: Config = request.config
        check_condition(self.config.train.health, ("label",))
        self.gan = ToyGAN(self.config.data.cells, self.config.model, self.config.train.seed)
        images, label = gaussian_profiles(self.config.data, self.config.data.events, self.config.train.seed)
        scaled = images * np.float32(self.gan.scale)
        self.batches = ArrayBatches(
            scaled, {"label": label}, batch=self.config.train.batch, seed=self.config.train.seed
        )
        self._held_out, self._label = gaussian_profiles(self.config.data, 2000, self.config.train.seed + 1)

    def describe(self) -> dict[str, Any]:
        """The data, for JSON."""
        return {"files": [], "events": {"train": self.config.data.events, "validation": len(self._label)}}

    def _generate(self, gan: GAN) -> Array:
        images = gan.sample({"label": from_array(self._label)}, Generator(self.config.train.seed).spawn(1), 500)
        return np.asarray(images.cpu().numpy() / ToyGAN.scale)

    def evaluate(self, gan: GAN) -> dict[str, float]:
        """Mean and sigma of the generated profiles of each class, and how far they are off in units of sigma."""
        images = self._generate(gan)
        metrics: dict[str, float] = {}
        wrong: list[float] = []
        for k in (0, 1):
            of_class = self._label == k
            mean, sigma = profile_moments(images[of_class])
            true_mean, true_sigma = profile_moments(self._held_out[of_class])
            metrics |= {f"mean_{k}": mean, f"sigma_{k}": sigma}
            spread = float(images[of_class].std(axis=0).mean() / self._held_out[of_class].std(axis=0).mean())
            wrong += [abs(mean - true_mean) / true_sigma, abs(sigma / true_sigma - 1.0), abs(np.log(max(spread, 1e-6)))]
        return {**metrics, "score": float(np.mean(wrong))}

    def picture(self, gan: GAN, path: Path) -> None:
        """Mean profiles and five samples of each class."""
        from gankernels._extras import require

        figure = require("matplotlib.figure", extra="calo", purpose="drawing samples").Figure(
            (8, 3.2), layout="constrained"
        )
        images = self._generate(gan)
        for k, ax in enumerate(figure.subplots(1, 2, sharey=True)):
            of_class = self._label == k
            ax.step(
                range(self.config.data.cells),
                self._held_out[of_class].mean(axis=(0, 1)),
                "k",
                where="mid",
                label="true mean",
            )
            ax.step(
                range(self.config.data.cells),
                images[of_class].mean(axis=(0, 1)),
                "C1",
                where="mid",
                label="generated mean",
            )
            ax.plot(images[of_class][:5, 0].T, "C1", alpha=0.3, linewidth=0.8)
            ax.set(title=f"class {k}", xlabel="cell along x", ylabel="" if k else "density per cell")
        ax.legend(frameon=False)
        figure.savefig(path, dpi=120)

    def finish(self, gan: GAN, directory: Path) -> dict[str, Any]:
        """Compare mean and sigma of both classes with the truth."""
        metrics = self.evaluate(gan)
        path = directory / "result.json"
        path.write_text(json.dumps(metrics, indent=1) + "\n")
        self.picture(gan, directory / "profiles.png")
        table = []
        for k in (0, 1):
            mean, sigma = profile_moments(self._held_out[self._label == k])
            table.append((f"class {k}: mean", f"{metrics[f'mean_{k}']:.2f} cells (data {mean:.2f})"))
            table.append((f"class {k}: sigma", f"{metrics[f'sigma_{k}']:.2f} cells (data {sigma:.2f})"))
        return {"files": {"result": path, "picture": directory / "profiles.png"}, "table": table}

    def close(self) -> None:
        """Nothing is open."""


def _revive(config: Config, described: dict[str, Any]) -> ToyGAN:
    return ToyGAN(config.data.cells, config.model, config.train.seed)


recipe = Recipe(
    name="toy-gaussian",
    summary="two classes of Gaussian profiles, mean and sigma checked per class; trains in seconds",
    source="svalleco/3Dgan, utils/gaussian.py",
    config=Config(),
    open=ToySession,
    revive=_revive,
)
