"""Everything about a training run that a user can change, with its checks; and what follows from it directly."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from gankernels import optim
from gankernels.autograd import Tensor
from gankernels.gan.config import closest, option
from gankernels.gan.health import HealthConfig
from gankernels.gan.logs import ProgressMode
from gankernels.gan.losses import LossConfig

__all__ = ["OptimizerConfig", "TrainerConfig", "learning_rate_factor", "make_optimizer", "planned_steps"]

OptimizerName = Literal["adam", "adamw", "rmsprop", "sgd"]
ConvAlgorithm = Literal[
    "auto", "direct", "im2col", "fft", "fast", "channels", "tf32", "bf16", "measured", "measured_fast",
    "bf16_auto", "bf16_fast", "batch", "rows",
]  # fmt: skip
ComputeDtype = Literal["float32", "bfloat16"]
Schedule = Literal["constant", "cosine", "linear", "exponential"]


def _check(section: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raise unless every named value is finite and low <= value <= high."""
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        if not (math.isfinite(value) and low <= value <= high):
            upper = f" and at most {high:g}" if math.isfinite(high) else ""
            raise ValueError(f"{section}: {name} must be at least {low:g}{upper}, got {value}")


@dataclass(frozen=True)
class OptimizerConfig:
    """One optimizer.

    Raises
    ------
    ValueError
        If the name is unknown or a number out of range.
    """

    name: OptimizerName = option("adam", "adam, adamw, rmsprop or sgd")
    lr: float = option(2e-4, "learning rate")
    beta1: float = option(0.5, "adam, adamw: memory of the mean gradient")
    beta2: float = option(0.9, "adam, adamw: memory of the squared gradient")
    rho: float = option(0.9, "rmsprop: memory of the squared gradient")
    momentum: float = option(0.0, "rmsprop, sgd")
    eps: float = option(1e-8, "adam, adamw, rmsprop: added to the root of the squared gradient")
    weight_decay: float = option(0.0, "L2 penalty; decoupled for adamw")

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise ValueError(f"optimizer: name cannot be {self.name!r}; {closest(self.name, get_args(OptimizerName))}")
        below_one = math.nextafter(1.0, 0.0)
        _check("optimizer", self, lr=(0, math.inf), eps=(0, math.inf), weight_decay=(0, math.inf))
        _check("optimizer", self, **dict.fromkeys(("beta1", "beta2", "rho", "momentum"), (0, below_one)))


@dataclass(frozen=True)
class TrainerConfig:
    """One training run.

    Raises
    ------
    ValueError
        If a number is out of range, or nothing says when to end.
    """

    seed: int = option(1, "same seed, same machine: same bits")
    batch: int = option(64, "events in a batch")
    epochs: float = option(0.0, "passes over the data; 0: no limit")
    max_steps: int = option(0, "steps; 0: no limit")
    max_seconds: float = option(0.0, "time in training, resumed parts included; 0: no limit")
    d_steps: int = option(1, "updates of the discriminator in a step, each on new events")
    g_steps: int = option(1, "updates of the generator in a step (3DGAN: 2)")
    separate_updates: bool = option(False, "update the discriminator after real and again after fake events (3DGAN)")
    ema_decay: float = option(0.999, "memory of the averaged generator; 0: the last weights")
    lr_schedule: Schedule = option("constant", "constant, cosine, linear or exponential")
    lr_final: float = option(0.1, "factor of the learning rates at the end of the schedule")
    conv_algorithm: ConvAlgorithm = option(
        "auto",
        "convolutions of the training steps: auto (FFT where it pays, never for images leaving the generator), "
        "direct (never FFT), batch, channels, im2col, fft, fast, measured, bf16_auto, or on a GPU tf32; samples are "
        "made with auto",
    )
    compute: ComputeDtype = option(
        "float32",
        "float32, or bfloat16: convolutions and matrix products of the training steps round their factors to 8 bits "
        "(gankernels.autocast) where processors gain by it, on a GPU what layers hand on is stored so; weights, sums "
        "and everything else stay float32",
    )
    replay: bool = option(True, "run recorded kernel calls instead of Python where networks are small; same results")
    max_grad_norm: float = option(0.0, "longer gradients are shortened to this norm; 0: never")
    validate_every: int = option(0, "steps between validations; 0: once an epoch")
    checkpoint_every: int = option(0, "steps between checkpoints beside those of validations; 0: none")
    keep_last: int = option(3, "checkpoints kept beside the best")
    log_every: int = option(10, "steps between lines of the log")
    losses_every: int = option(
        1,
        "steps between readings of the losses, which look for NaN too and wait for a GPU; logged steps are always read",
    )
    tensorboard: bool = option(False, "also write TensorBoard events")
    progress: ProgressMode = option("auto", "auto (on a terminal), on or off")
    losses: LossConfig = option(LossConfig(), "losses")
    d_optimizer: OptimizerConfig = option(OptimizerConfig(), "optimizer of the discriminator")
    g_optimizer: OptimizerConfig = option(OptimizerConfig(), "optimizer of the generator")
    health: HealthConfig = option(HealthConfig(), "signs of a lost run")

    def __post_init__(self) -> None:
        for name, choices in (
            ("lr_schedule", get_args(Schedule)),
            ("conv_algorithm", get_args(ConvAlgorithm)),
            ("compute", get_args(ComputeDtype)),
            ("progress", get_args(ProgressMode)),
        ):
            if getattr(self, name) not in choices:
                value = getattr(self, name)
                raise ValueError(f"trainer: {name} cannot be {value!r}; {closest(str(value), choices)}")
        _check("trainer", self, seed=(0, 2**64 - 1), epochs=(0, math.inf), max_seconds=(0, math.inf))
        _check(
            "trainer",
            self,
            **dict.fromkeys(("batch", "d_steps", "g_steps", "keep_last", "log_every", "losses_every"), (1, math.inf)),
        )
        _check("trainer", self, **dict.fromkeys(("max_steps", "validate_every", "checkpoint_every"), (0, math.inf)))
        _check("trainer", self, ema_decay=(0, math.nextafter(1.0, 0.0)), lr_final=(0, 1), max_grad_norm=(0, math.inf))
        if not (self.epochs or self.max_steps or self.max_seconds):
            raise ValueError("trainer: nothing says when to end; set epochs, max_steps or max_seconds")
        if self.lr_schedule != "constant" and not (self.epochs or self.max_steps):
            raise ValueError(
                f"trainer: lr_schedule {self.lr_schedule!r} needs epochs or max_steps, for resumed runs to agree"
            )
        if self.lr_schedule == "exponential" and self.lr_final == 0:
            raise ValueError("trainer: an exponential lr_schedule needs lr_final above 0")


def planned_steps(config: TrainerConfig, batches_per_epoch: int) -> int | None:
    """Steps until the end by `max_steps` and `epochs`, whichever is first; None without either."""
    limits = [config.max_steps] if config.max_steps else []
    if config.epochs:
        limits.append(math.ceil(config.epochs * batches_per_epoch / config.d_steps))
    return min(limits, default=None)


def learning_rate_factor(config: TrainerConfig, step: int, total: int | None) -> float:
    """What the learning rates are multiplied with before step `step` (from 0) of `total`."""
    if config.lr_schedule == "constant" or not total:
        return 1.0
    part, end = min(step / total, 1.0), config.lr_final
    if config.lr_schedule == "linear":
        return 1.0 + (end - 1.0) * part
    if config.lr_schedule == "exponential":
        return float(end**part)
    return end + (1.0 - end) * 0.5 * (1.0 + math.cos(math.pi * part))


def make_optimizer(parameters: Iterable[Tensor], config: OptimizerConfig) -> Any:
    """The optimizer of the parameters."""
    common: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
    if config.name == "sgd":
        return optim.SGD(parameters, momentum=config.momentum, **common)
    if config.name == "rmsprop":
        return optim.RMSprop(parameters, alpha=config.rho, momentum=config.momentum, eps=config.eps, **common)
    kind = optim.Adam if config.name == "adam" else optim.AdamW
    return kind(parameters, betas=(config.beta1, config.beta2), eps=config.eps, **common)
