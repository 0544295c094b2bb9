"""Signs that a training run is lost, found while it runs: NaN, empty or constant images, collapse, a saturated
discriminator, an ignored condition.

All but NaN are compared with the real events of the same batches and must last for `patience` checks in a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gankernels.gan.config import closest, option

__all__ = ["Health", "HealthConfig", "TrainingStopped", "check_condition", "check_finite", "check_losses"]

Action = Literal["stop", "warn", "off"]
Array = NDArray[Any]


@dataclass(frozen=True)
class HealthConfig:
    """Which signs are looked for, how often, and what follows.

    Raises
    ------
    ValueError
        If a number is out of range.
    """

    every: int = option(20, "steps between two checks; 0 checks only for NaN in the losses")
    warmup: int = option(100, "first step that is checked; young generators are allowed to look lost")
    patience: int = option(5, "checks in a row that must fail")
    empty: Action = option("stop", "what follows when the images have almost no content (3DGAN's abort)")
    empty_fraction: float = option(1e-3, "content of a fake image relative to a real one that counts as empty")
    constant: Action = option("stop", "what follows when all cells of every image are equal")
    collapse: Action = option("stop", "what follows when the images hardly differ from each other")
    collapse_fraction: float = option(0.02, "spread between images relative to the data's that counts as collapse")
    saturation: Action = option("warn", "what follows when the discriminator has won for good")
    saturation_loss: float = option(1e-3, "loss on real and on fake images below which it has")
    ignored: Action = option("warn", "what follows when a condition has no influence on the images")
    condition: str = option("energy", "the condition that is compared with the sum of the images")
    ignored_correlation: float = option(0.1, "correlation of condition and image sum that counts as ignored")

    def __post_init__(self) -> None:
        if self.every < 0 or self.warmup < 0 or self.patience < 1:
            raise ValueError(
                f"health: expected every >= 0, warmup >= 0 and patience >= 1, got {self.every}, {self.warmup} and "
                f"{self.patience}"
            )
        for name in ("empty_fraction", "collapse_fraction", "ignored_correlation"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"health: {name} must be at least 0 and below 1, got {getattr(self, name)}")
        if not self.saturation_loss >= 0:
            raise ValueError(f"health: saturation_loss must be at least 0, got {self.saturation_loss}")


class TrainingStopped(RuntimeError):
    """Training cannot go on usefully.

    Attributes
    ----------
    reason, advice : str
    step : int
    checkpoint : path or None
        The last good one.
    """

    def __init__(self, reason: str, advice: str, step: int, checkpoint: Any = None) -> None:
        self.reason, self.advice, self.step, self.checkpoint = reason, advice, step, checkpoint
        good = f"The last good checkpoint is {checkpoint}." if checkpoint else "There is no earlier checkpoint."
        super().__init__(f"training stopped at step {step}: {reason}. {advice} {good}")


def check_condition(config: HealthConfig, known: Sequence[str]) -> None:
    """Raise ValueError if the condition to be compared is none of the known ones."""
    if config.condition not in known:
        raise ValueError(f"train.health.condition cannot be {config.condition!r}; {closest(config.condition, known)}")


def check_losses(losses: Mapping[str, float], step: int, checkpoint: Any = None) -> None:
    """Raise TrainingStopped if a loss is NaN or infinite."""
    bad = {name: value for name, value in losses.items() if not math.isfinite(value)}
    if bad:
        values = ", ".join(f"{name}={value}" for name, value in losses.items())
        raise TrainingStopped(
            f"the loss {', '.join(bad)} is not finite ({values})",
            "Lower the learning rate, or check the data for NaN; the weights were not updated with it.",
            step,
            checkpoint,
        )


def check_finite(named: Iterable[tuple[str, Array]], step: int, checkpoint: Any = None) -> None:
    """Raise TrainingStopped if an array has a NaN or an infinity."""
    for name, values in named:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            bad = int(values.size - np.isfinite(values).sum())
            raise TrainingStopped(
                f"{bad} of {values.size} numbers of {name} are not finite",
                "Lower the learning rate, or limit the gradient with max_grad_norm.",
                step,
                checkpoint,
            )


class Health:
    """The checks of one run.

    Parameters
    ----------
    config : HealthConfig
    cross_entropy : bool
        The discriminator's loss is a cross-entropy, whose size says how sure it is.
    """

    def __init__(self, config: HealthConfig, cross_entropy: bool = True) -> None:
        self.config = config
        self.cross_entropy = cross_entropy
        self._failed: dict[str, int] = {}
        self._pairs: dict[str, list[list[float]]] = {"real": [], "fake": []}

    def due(self, step: int) -> bool:
        """True if images are checked at this step."""
        return self.config.every > 0 and step >= self.config.warmup and step % self.config.every == 0

    def state(self) -> dict[str, Any]:
        """Counters, for JSON."""
        return {"failed": dict(self._failed), "pairs": {k: [list(p) for p in v] for k, v in self._pairs.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with stored counters."""
        self._failed = {k: int(v) for k, v in state["failed"].items()}
        self._pairs = {k: [list(p) for p in v] for k, v in state["pairs"].items()}

    def check(
        self,
        step: int,
        real: Array,
        fake: Array,
        losses: Mapping[str, float],
        real_condition: Array | None = None,
        fake_condition: Array | None = None,
        checkpoint: Any = None,
        warn: Callable[[str], None] = print,
    ) -> None:
        """Look at a batch of real and one of fake images (N, C, *X).

        Parameters
        ----------
        losses : mapping
            "d_real" and "d_fake" are used.
        real_condition, fake_condition : array (N,), optional
            The condition named in the configuration.
        checkpoint : path, optional
            The last good one, for the message.
        warn : callable
            Takes the message of a sign that is only warned about, once.

        Raises
        ------
        TrainingStopped
            If a sign has lasted for `patience` checks and its action is "stop".
        """
        for name, reason, advice in self._signs(real, fake, losses, real_condition, fake_condition):
            count = self._failed.get(name, 0) + 1 if reason else 0
            self._failed[name] = count
            action = getattr(self.config, name)
            if count < self.config.patience or action == "off":
                continue
            stopped = TrainingStopped(f"{reason}, in {count} checks in a row", advice, step, checkpoint)
            if action == "stop":
                raise stopped
            if count == self.config.patience:
                warn(f"warning at step {step}: {stopped.reason}. {advice}")

    def _signs(
        self, real: Array, fake: Array, losses: Mapping[str, float], real_c: Array | None, fake_c: Array | None
    ) -> Iterable[tuple[str, str, str]]:
        """(name, reason or "", advice) of every sign."""
        c = self.config
        real, fake = (x.reshape(len(x), -1).astype(np.float64) for x in (real, fake))
        content, usual = np.abs(fake).mean(), np.abs(real).mean()
        empty = content <= c.empty_fraction * usual
        yield (
            "empty",
            f"the generated images are empty (mean |cell| {content:.3g}, data {usual:.3g})" if empty else "",
            "A ReLU output has died: lower the generator's learning rate, or use another seed.",
        )
        inside, usual = fake.std(1).mean(), real.std(1).mean()
        constant = not empty and inside <= c.empty_fraction * usual
        yield (
            "constant",
            f"every generated image is constant (spread over its cells {inside:.3g}, data {usual:.3g})"
            if constant
            else "",
            "Lower the learning rates, or check the units of the images.",
        )
        spread, usual = fake.std(0).mean(), real.std(0).mean()
        collapsed = not empty and not constant and spread <= c.collapse_fraction * usual
        yield (
            "collapse",
            f"the generator has collapsed: its images hardly differ (spread {spread:.3g}, data {usual:.3g})"
            if collapsed
            else "",
            "Lower the generator's learning rate, or try losses.discriminator=wasserstein-gp.",
        )
        d = {name: losses.get(name, math.inf) for name in ("d_real", "d_fake")}
        saturated = self.cross_entropy and max(d.values()) < c.saturation_loss
        yield (
            "saturation",
            f"the discriminator is certain of everything (loss on real {d['d_real']:.2g}, on fake {d['d_fake']:.2g})"
            if saturated
            else "",
            "Lower its learning rate, flip some labels (losses.label_flip=0.05), or add losses.r1.",
        )
        lost = empty or constant or collapsed
        ignored = "" if lost else self._ignored(real, fake, real_c, fake_c)
        yield "ignored", ignored, "Give the condition more weight in the losses."

    def _ignored(self, real: Array, fake: Array, real_c: Array | None, fake_c: Array | None) -> str:
        """Correlation of the condition and the image sum over the last checks, data against fakes."""
        if real_c is None or fake_c is None:
            return ""
        for name, images, condition in (("real", real, real_c), ("fake", fake, fake_c)):
            pairs = self._pairs[name]
            pairs.append([len(images), *_sums(condition, images.sum(1))])
            del pairs[: -self.config.patience]
        n, r, f = sum(p[0] for p in self._pairs["fake"]), *(_correlation(self._pairs[k]) for k in ("real", "fake"))
        if n < 64 or not abs(r) > 0.5 or not abs(f) < self.config.ignored_correlation:
            return ""
        name = self.config.condition
        return f"the generator ignores {name!r} (correlation with the image sum {f:.2f}, data {r:.2f}, {n:.0f} events)"


def _sums(x: Array, y: Array) -> list[float]:
    x, y = x.astype(np.float64).ravel(), y.ravel()
    return [float(v) for v in (x.sum(), y.sum(), (x * x).sum(), (y * y).sum(), (x * y).sum())]


def _correlation(pairs: list[list[float]]) -> float:
    n, x, y, xx, yy, xy = (sum(p[i] for p in pairs) for i in range(6))
    spread = (n * xx - x * x) * (n * yy - y * y)
    return (n * xy - x * y) / math.sqrt(spread) if spread > 0 else 0.0
