"""The training loop of a GAN, and around it what makes a run of hours safe to leave alone.

One `step` is `d_steps` updates of the discriminator, each on new real events, and `g_steps` of the generator. The
generator's images are made without recording in the discriminator's updates, gradients are taken with respect to one
network's parameters at a time, and real and generated events never share a batch (batch norm).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gankernels.autograd import Tensor, autocast
from gankernels.gan import checkpoint as checkpoints
from gankernels.gan.checkpoint import CheckpointError
from gankernels.gan.config import to_dict
from gankernels.gan.ema import EMA
from gankernels.gan.health import Health, TrainingStopped, check_finite, check_losses
from gankernels.gan.logs import Progress, RunLog
from gankernels.gan.model import GAN, Batch, Batches, Conditions
from gankernels.gan.settings import TrainerConfig, learning_rate_factor, planned_steps
from gankernels.gan.signals import StopSignals
from gankernels.gan.steps import STREAMS, Updates
from gankernels.ops import Generator, default_generator, using_conv_algorithm

__all__ = ["Outcome", "Trainer", "load_generator"]


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes
    ----------
    status : str
        "finished", "time" (max_seconds) or "signal".
    signal : str or None
        Its name.
    step : int
    checkpoint, best : Path or None
        The last one and the one of the best score.
    """

    status: Literal["finished", "time", "signal"]
    signal: str | None
    step: int
    checkpoint: Path | None
    best: Path | None


class Trainer:
    """Trains a GAN.

    Parameters
    ----------
    gan : GAN
        Its networks are changed in place.
    data : Batches
        Endless real batches with state() and restore().
    config : TrainerConfig
    directory : path, optional
        Holds the logs and `checkpoints/`; without it nothing is written.
    on_validate : callable, optional
        on_validate(trainer) -> metrics; "score" (lower is better) chooses the best checkpoint.
    on_samples : callable, optional
        on_samples(trainer), to draw pictures; its failure is a warning.

    Attributes
    ----------
    step : int
    losses : dict of float
        Of the last step that read them: "d" and "g" as descended, "d_real", "d_fake", "g_adv", each estimate's
        unweighted loss.
    history : list of dict
        Metrics of every validation, with their step.
    """

    def __init__(
        self,
        gan: GAN,
        data: Batches,
        config: TrainerConfig,
        directory: str | Path | None = None,
        *,
        on_validate: Callable[[Trainer], Mapping[str, float]] | None = None,
        on_samples: Callable[[Trainer], None] | None = None,
    ) -> None:
        self.gan, self.data, self.config = gan, data, config
        self.directory = None if directory is None else Path(directory)
        self.on_validate, self.on_samples = on_validate, on_samples
        self.updates = Updates(gan, config, self._check_losses)
        self.ema = EMA(gan.generator, config.ema_decay)
        self.health = Health(config.health, config.losses.discriminator in ("minimax", "non-saturating"))
        self.total_steps = planned_steps(config, data.steps_per_epoch)
        self.step = 0
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, float] = {}  # score and step
        self.checkpoint: Path | None = None
        self._saved_step = -1
        self._told: set[str] = set()  # names of updates that are not replayed
        self._progress = Progress("off", None, 0, 0)
        self._log = RunLog(None)
        default_generator().manual_seed(Generator(config.seed).spawn(len(STREAMS)).seed)  # dropout

    @property
    def losses(self) -> dict[str, float]:
        """Losses of the last step whose losses were read: every one, if `losses_every` is 1."""
        return self.updates.losses

    # ---- the loop ------------------------------------------------------------------------------------------------
    def run(self) -> Outcome:
        """Train until the planned end, `max_seconds`, or a signal; save at the end.

        Raises
        ------
        TrainingStopped
            If the run is lost: NaN, empty or collapsed images.
        CheckpointError
            If the last checkpoint cannot be written.
        """
        c = self.config
        validate_every = c.validate_every or max(1, self.data.steps_per_epoch // c.d_steps)
        with self._reporting(), StopSignals() as stop:
            began = time.monotonic() - self.seconds
            while (status := self._end(stop.received)) is None:
                self.train_step()
                self.seconds = time.monotonic() - began
                self._progress.update(self.step, self.losses)
                if self.step % c.log_every == 0:
                    self._log.train(self.step, self._row())
                if self.step % validate_every == 0 or self._end(None):
                    self.validate()
                elif c.checkpoint_every and self.step % c.checkpoint_every == 0:
                    self._save_or_warn()
            if self.directory is not None and self._saved_step != self.step:
                self.save()
            if status == "signal":
                self.say(f"{stop.received}: stopped after step {self.step}, saved {self.checkpoint}")
            best = None if self.directory is None else checkpoints.best(self.directory / "checkpoints")
            return Outcome(status, stop.received, self.step, self.checkpoint, best)

    def train_step(self) -> None:
        """One step: `d_steps` of the discriminator, `g_steps` of the generator, the average of the generator."""
        self._set_learning_rates()
        self.updates.reading = not (
            (self.step + 1) % self.config.losses_every and (self.step + 1) % self.config.log_every
        )
        if self.updates.reading:
            self.losses.clear()
        # float32 leaves an autocast around the training as it is
        cast = nullcontext() if self.config.compute == "float32" else autocast(self.config.compute)
        with using_conv_algorithm(self.config.conv_algorithm), cast:
            for _ in range(self.config.d_steps):
                real = next(self.data).to(self.gan.device)
                fake = self.updates.discriminator(real)
            for left in reversed(range(self.config.g_steps)):
                self.updates.generator(real, self.ema if self.config.ema_decay and not left else None)
        self.step += 1
        self._tell_refusals()
        if self.health.due(self.step):
            self._check_health(real, fake)

    def validate(self) -> None:
        """Call the hooks, note the metrics, save, and mark the checkpoint if its score is the best so far."""
        kept = default_generator().state()  # what the hooks draw must not change the training
        try:
            metrics = {} if self.on_validate is None else dict(self.on_validate(self))
            if self.on_samples is not None:
                self._guarded("the sample pictures", self.on_samples)
        finally:
            default_generator().restore(kept)
        if metrics:
            self.history.append({"step": self.step, **metrics})
            self._log.validation(self.step, metrics)
        score = metrics.get("score", math.nan)
        if math.isfinite(score) and score < self.best.get("score", math.inf):
            self.best = {"score": float(score), "step": self.step}
        self._save_or_warn()

    def sample(self, conditions: Conditions, seed: int = 0) -> Tensor:
        """Images of the averaged generator for conditions; the same noise for the same seed."""
        with self.ema.applied(self.gan.generator):
            return self.gan.sample(conditions, Generator(self.config.seed).spawn(1000 + seed))

    def say(self, message: str) -> None:
        """Tell the user something."""
        self._progress.say(message)
        self._log.event(self.step, message)

    # ---- checkpoints ---------------------------------------------------------------------------------------------
    def save(self) -> Path:
        """Write a checkpoint of everything that the next step depends on.

        Raises
        ------
        CheckpointError
            If it cannot be written.
        TrainingStopped
            If a weight is not finite: such a checkpoint would be worth nothing.
        """
        if self.directory is None:
            raise CheckpointError("Trainer.save: the trainer has no directory")
        networks = {"generator": self.gan.generator.state_dict(), "discriminator": self.gan.discriminator.state_dict()}
        named = ((f"{net}.{name}", _read(t)) for net, state in networks.items() for name, t in state.items())
        check_finite(named, self.step, self.checkpoint)
        optimizers: dict[str, Any] = {}
        state = {
            "step": self.step,
            "d_steps": self.updates.d_steps,
            "g_steps": self.updates.g_steps,
            "seconds": self.seconds,
            "epoch": self.data.epoch,
            "data": self.data.state(),
            "generators": {name: g.state() for name, g in self._generators().items()},
            "ema_updates": self.ema.updates,
            "health": self.health.state(),
            "history": self.history,
            "best": self.best,
            "config": to_dict(self.config),
            "d_optimizer": checkpoints.pack(self.updates.d_optimizer.state_dict(), "d", optimizers),
            "g_optimizer": checkpoints.pack(self.updates.g_optimizer.state_dict(), "g", optimizers),
        }
        arrays = {**networks, "ema": self.ema.state_dict(), "optimizers": optimizers}
        root = self.directory / "checkpoints"
        self.checkpoint = checkpoints.save(root, self.step, state, arrays, self.config.keep_last)
        self._saved_step = self.step
        self._mark_best()
        return self.checkpoint

    def resume(self, place: str | Path | None = None, which: Literal["latest", "best"] = "latest") -> Path:
        """Go on exactly where a checkpoint was written.

        Parameters
        ----------
        place : path, optional
            A checkpoint or a directory of checkpoints; by default those of this trainer's directory.

        Returns
        -------
        Path
            Of the checkpoint.

        Raises
        ------
        CheckpointError
            If there is none, it is damaged, or it is of other networks or other data.
        """
        if place is None:
            if self.directory is None:
                raise CheckpointError("Trainer.resume: the trainer has no directory, say which checkpoint")
            place = self.directory / "checkpoints"
        stored = checkpoints.load(place, which)
        try:
            self._restore(stored.state, stored.arrays)
        except (KeyError, ValueError, TypeError) as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            raise CheckpointError(f"{stored.path}: does not fit this run: {text}") from None
        self.checkpoint, self._saved_step = stored.path, self.step
        if self.directory is not None and stored.path.parent == self.directory / "checkpoints":
            self._mark_best()  # the run may have died between the checkpoint and the pointer
        return stored.path

    def _restore(self, state: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
        compute = state["config"].get("compute", "float32")
        if compute != self.config.compute:
            raise ValueError(f"it was trained with compute = {compute!r}, this run has {self.config.compute!r}")
        self.gan.generator.load_state_dict(arrays["generator"])
        self.gan.discriminator.load_state_dict(arrays["discriminator"])
        self.ema.load_state_dict(arrays["ema"], state["ema_updates"])
        self.updates.d_optimizer.load_state_dict(checkpoints.unpack(state["d_optimizer"], arrays["optimizers"]))
        self.updates.g_optimizer.load_state_dict(checkpoints.unpack(state["g_optimizer"], arrays["optimizers"]))
        self.data.restore(state["data"])
        for name, g in self._generators().items():
            g.restore(state["generators"][name])
        self.health.restore(state["health"])
        self.updates.d_steps, self.updates.g_steps = state["d_steps"], state["g_steps"]
        self.step, self.seconds = state["step"], state["seconds"]
        self.history, self.best = list(state["history"]), dict(state["best"])

    def _generators(self) -> dict[str, Generator]:
        """Every source of random numbers that the training draws from; "default" serves dropout."""
        found = {**self.updates.rng, "default": default_generator()}
        for net in ("generator", "discriminator"):
            for path, module in getattr(self.gan, net).named_modules():
                own = getattr(module, "generator", None)
                if isinstance(own, Generator):
                    found[f"{net}.{path}"] = own
        return found

    def _mark_best(self) -> None:
        if self.checkpoint is not None and self.directory is not None and self.best.get("step") == self.step:
            checkpoints.mark_best(self.directory / "checkpoints", self.checkpoint, self.best["score"])

    def _save_or_warn(self) -> None:
        """Save; a full disk now may have room again later, so it does not end the training."""
        if self.directory is None:
            return
        try:
            self.save()
        except CheckpointError as error:
            self.say(f"warning: {error}; training goes on")

    # ---- pieces of the loop --------------------------------------------------------------------------------------
    def _end(self, signal: str | None) -> Literal["finished", "time", "signal"] | None:
        if self.total_steps is not None and self.step >= self.total_steps:
            return "finished"
        if signal is not None:
            return "signal"
        return "time" if 0 < self.config.max_seconds <= self.seconds else None

    def _set_learning_rates(self) -> None:
        factor = learning_rate_factor(self.config, self.step, self.total_steps)
        for name in ("d_optimizer", "g_optimizer"):
            for group in getattr(self.updates, name).param_groups:
                group["lr"] = getattr(self.config, name).lr * factor

    def _check_losses(self, losses: Mapping[str, float]) -> None:
        check_losses(losses, self.step + 1, self.checkpoint)

    def _tell_refusals(self) -> None:
        for update in self.updates.refused.keys() - self._told:
            self._told.add(update)
            self.say(f"the update {update!r} runs from Python: {self.updates.refused[update]}")

    def _check_health(self, real: Batch, fake: Batch) -> None:
        named = ((f"{net}.{name}", _read(p)) for net in ("generator", "discriminator")
                 for name, p in getattr(self.gan, net).named_parameters())  # fmt: skip
        check_finite(named, self.step, self.checkpoint)
        real_condition, fake_condition = (b.conditions.get(self.config.health.condition) for b in (real, fake))
        self.health.check(
            self.step,
            _read(real.images),
            _read(fake.images),
            self.losses,
            None if real_condition is None else _read(real_condition),
            None if fake_condition is None else _read(fake_condition),
            checkpoint=self.checkpoint,
            warn=self.say,
        )

    def _row(self) -> dict[str, Any]:
        """A line of the log."""
        u, lr = (
            self.updates,
            {n: getattr(self.updates, n).param_groups[0]["lr"] for n in ("d_optimizer", "g_optimizer")},
        )
        return {
            "epoch": self.data.epoch,
            "d_steps": u.d_steps,
            "g_steps": u.g_steps,
            "seconds": round(self.seconds, 3),
            **self.losses,
            "d_lr": lr["d_optimizer"],
            "g_lr": lr["g_optimizer"],
        }

    def _guarded(self, what: str, hook: Callable[[Trainer], None]) -> None:
        try:
            hook(self)
        except Exception as error:
            self.say(f"warning: {what} failed ({type(error).__name__}: {error}); training goes on")

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Open the progress bar and the logs for a run, and note why it broke off."""
        self.gan.generator.train()
        self.gan.discriminator.train()
        unit = self.config.batch * self.config.d_steps
        self._progress = Progress(self.config.progress, self.total_steps, self.step, unit)
        self._log = RunLog(self.directory, self.step, self.config.tensorboard)
        try:
            yield
        except TrainingStopped as error:
            self._log.event(self.step, str(error))
            raise
        finally:
            self._progress.close()
            self._log.close()


def _read(t: Tensor) -> Any:
    """The numbers on the host: where a check looks at them, and nowhere else in a step."""
    return t.detach().cpu().numpy()


def load_generator(
    gan: GAN, place: str | Path, which: Literal["latest", "best"] = "best", averaged: bool = True
) -> checkpoints.Checkpoint:
    """Give gan.generator the weights of a checkpoint, the averaged ones unless told otherwise.

    Raises
    ------
    CheckpointError
        If there is none, it is damaged or of another network.
    """
    stored = checkpoints.load(place, which)
    try:
        gan.generator.load_state_dict(stored.arrays["ema" if averaged else "generator"])
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{stored.path}: does not fit this generator: {error}") from None
    return stored
