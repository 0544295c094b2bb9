"""The losses of both networks, each by name, on logits s = D(x); and the penalties on the discriminator's gradient.

| name | discriminator (target t: 1 real, 0 fake) | generator |
|---|---|---|
| minimax (Goodfellow et al. 2014, eq. 1) | softplus(s) - t s | -softplus(s) |
| non-saturating (same, section 3) | softplus(s) - t s | softplus(-s) |
| least-squares (Mao et al. 2017, eq. 9) | (s - t)^2 / 2 | (s - 1)^2 / 2 |
| hinge (Lim and Ye 2017, Miyato et al. 2018) | relu(1 - (2t - 1) s) | -s |
| wasserstein (Arjovsky et al. 2017), wasserstein-gp (Gulrajani et al. 2017) | -(2t - 1) s | -s |

softplus(s) - t s is the binary cross-entropy of sigmoid(s) without its overflow. Means over events throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from gankernels.autograd import Tensor, grad
from gankernels.gan.config import closest, option
from gankernels.gan.model import GAN, Conditions
from gankernels.ops import Generator, full, mean, relu, softplus, sqrt, square, where
from gankernels.ops import sum as total
from gankernels.ops.update import clamp_

__all__ = [
    "LossConfig",
    "LossName",
    "clip_weights",
    "discriminator_loss",
    "generator_loss",
    "gradient_penalty",
    "labels",
    "r1_penalty",
]

LossName = Literal["minimax", "non-saturating", "least-squares", "hinge", "wasserstein", "wasserstein-gp"]
_WITH_SOFT_LABELS = ("minimax", "non-saturating", "least-squares")


def _cross_entropy(s: Tensor, t: Tensor) -> Tensor:
    return softplus(s, 1.0, 40.0) - t * s  # above 40 softplus(s) = s also in float64


_DISCRIMINATOR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "minimax": _cross_entropy,
    "non-saturating": _cross_entropy,
    "least-squares": lambda s, t: square(s - t) * 0.5,
    "hinge": lambda s, t: relu(1.0 - (t * 2.0 - 1.0) * s),
    "wasserstein": lambda s, t: (1.0 - t * 2.0) * s,
    "wasserstein-gp": lambda s, t: (1.0 - t * 2.0) * s,
}
_GENERATOR: dict[str, Callable[[Tensor], Tensor]] = {
    "minimax": lambda s: softplus(s, 1.0, 40.0) * -1.0,
    "non-saturating": lambda s: softplus(s * -1.0, 1.0, 40.0),
    "least-squares": lambda s: square(s - 1.0) * 0.5,
    "hinge": lambda s: s * -1.0,
    "wasserstein": lambda s: s * -1.0,
    "wasserstein-gp": lambda s: s * -1.0,
}


@dataclass(frozen=True)
class LossConfig:
    """Which losses train the two networks.

    Raises
    ------
    ValueError
        If a name is unknown, a number out of range, or labels are smoothed for a loss that has none.
    """

    discriminator: LossName = option("non-saturating", "loss of the discriminator")
    generator: LossName = option("non-saturating", "loss of the generator")
    gradient_penalty: float | None = option(
        None, "WGAN-GP: lambda of (|grad D| - 1)^2 between real and fake; by default 10 for wasserstein-gp, else 0"
    )
    r1: float = option(0.0, "gamma of gamma/2 |grad D|^2 at real images (Mescheder et al. 2018)")
    r1_interval: int = option(1, "apply R1 every so many discriminator steps, that many times stronger")
    weight_clip: float | None = option(
        None, "keep the discriminator's weights within +- this; by default 0.01 for wasserstein, else 0 (off)"
    )
    real_label: float = option(1.0, "target of real images; 0.9 is one-sided smoothing")
    fake_label: float = option(0.0, "target of fake images")
    label_flip: float = option(0.0, "probability that the discriminator is told the opposite (3DGAN: 0.05)")

    def __post_init__(self) -> None:
        for role in ("discriminator", "generator"):
            if getattr(self, role) not in get_args(LossName):
                name = str(getattr(self, role))
                raise ValueError(f"losses: {role} cannot be {name!r}; {closest(name, get_args(LossName))}")
        if not 0.5 < self.real_label <= 1.0 or not 0.0 <= self.fake_label < 0.5:
            raise ValueError(
                f"losses: expected real_label in (0.5, 1] and fake_label in [0, 0.5), got {self.real_label} and "
                f"{self.fake_label}"
            )
        if (self.real_label, self.fake_label) != (1.0, 0.0) and self.discriminator not in _WITH_SOFT_LABELS:
            raise ValueError(f"losses: {self.discriminator} has no smoothed labels; leave real_label=1, fake_label=0")
        if not 0.0 <= self.label_flip < 0.5:
            raise ValueError(f"losses: label_flip must be at least 0 and below 0.5, got {self.label_flip}")
        for name in ("gradient_penalty", "r1", "weight_clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"losses: {name} must be finite and at least 0, got {value}")
        if self.r1_interval < 1:
            raise ValueError(f"losses: r1_interval must be at least 1, got {self.r1_interval}")

    @property
    def penalty_weight(self) -> float:
        """lambda of the gradient penalty, 0 if there is none."""
        if self.gradient_penalty is None:
            return 10.0 if self.discriminator == "wasserstein-gp" else 0.0
        return self.gradient_penalty

    @property
    def clip(self) -> float:
        """Bound of the discriminator's weights, 0 if there is none."""
        if self.weight_clip is None:
            return 0.01 if self.discriminator == "wasserstein" else 0.0
        return self.weight_clip


def discriminator_loss(name: str, logits: Tensor, targets: Tensor | float) -> Tensor:
    """Mean loss of logits (N, 1) whose targets are (N, 1) or one number: 1 real, 0 fake."""
    if not isinstance(targets, Tensor):
        targets = full(logits.shape, targets, dtype=logits.dtype, device=logits.device)
    return mean(_DISCRIMINATOR[name](logits, targets))


def generator_loss(name: str, logits: Tensor) -> Tensor:
    """Mean loss of the generator, from the discriminator's logits (N, 1) of its images."""
    return mean(_GENERATOR[name](logits))


def labels(
    n: int, config: LossConfig, real: bool, generator: Generator, dtype: Any = np.float32, device: str | None = None
) -> Tensor:
    """Targets (n, 1) of n real or fake images: smoothed, and each flipped with probability `label_flip`.

    The generator is used only if flips are on.
    """
    straight, flipped = config.real_label, config.fake_label
    if not real:
        straight, flipped = flipped, straight
    values = full((n, 1), straight, dtype=dtype, device=device)
    if config.label_flip > 0:
        other = full((n, 1), flipped, dtype=dtype, device=device)
        values = where(generator.uniform((n, 1), device=device) < config.label_flip, other, values)
    return values


def gradient_penalty(gan: GAN, real: Tensor, fake: Tensor, conditions: Conditions, generator: Generator) -> Tensor:
    """mean((|grad_x D(x)| - 1)^2) at x = u real + (1 - u) fake, u uniform per event (Gulrajani et al. 2017, eq. 3).

    Recorded, so that it can be differentiated with respect to D's weights (double backward).
    """
    u = generator.uniform((real.shape[0], *(1,) * (real.ndim - 1)), real.dtype, real.device)
    x = (real.detach() * u + fake.detach() * (1.0 - u)).detach().requires_grad_()
    (slope,) = grad(total(gan.discriminate(x, conditions).logits), x, create_graph=True)
    norm = sqrt(total(square(slope), tuple(range(1, slope.ndim))) + 1e-12)
    return mean(square(norm - 1.0))


def r1_penalty(gan: GAN, real: Tensor, conditions: Conditions) -> Tensor:
    """mean(|grad_x D(x)|^2) / 2 at real images (Mescheder et al. 2018, eq. 9, without gamma); recorded."""
    x = real.detach().requires_grad_()
    (slope,) = grad(total(gan.discriminate(x, conditions).logits), x, create_graph=True)
    return mean(total(square(slope), tuple(range(1, slope.ndim)))) * 0.5


def clip_weights(parameters: list[Tensor], bound: float) -> None:
    """Bring every weight into [-bound, bound], in place (Arjovsky et al. 2017, algorithm 1)."""
    for p in parameters:
        clamp_(p, -bound, bound)
