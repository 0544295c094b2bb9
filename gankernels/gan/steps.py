"""One update of either network: losses, gradients with respect to that network's parameters, optimizer step.

An update is replayed as a whole (`gankernels.Replay`): on a GPU it is one CUDA graph, or two where its losses are read
before the weights change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gankernels.autograd import Tensor, grad, no_grad
from gankernels.gan.ema import EMA
from gankernels.gan.hidden import mark_hidden, output_layers
from gankernels.gan.losses import discriminator_loss, generator_loss, gradient_penalty, labels, r1_penalty
from gankernels.gan.model import GAN, Batch, Conditions, Scores
from gankernels.gan.settings import TrainerConfig, make_optimizer
from gankernels.ops import Generator, Replay, items, maximum, sqrt, stack
from gankernels.ops import sum as total
from gankernels.ops.common import wide
from gankernels.ops.replay import again
from gankernels.ops.update import clamp_, copy_parts_
from gankernels.optim import flatten
from gankernels.optim.flat import share_gradients

__all__ = ["Updates"]

# Each use of random numbers has its own generator, so that none disturbs another.
STREAMS = ("noise", "conditions", "labels", "penalty")


class Updates:
    """The two optimizers and what they descend.

    Parameters
    ----------
    gan : GAN
        Its networks are changed in place.
    config : TrainerConfig
    check : callable
        check(losses) is called with the losses of an update before the weights change, and may raise.

    Attributes
    ----------
    losses : dict of float
        Of the last updates that were read, see `Trainer.losses`.
    reading : bool
        Whether losses are read, and checked before the weights change; that waits for a GPU.
    refused : dict of str
        Why updates are not run by their recorded kernel calls, by name.
    d_steps, g_steps : int
        Updates of each network so far.
    rng : dict of Generator
    """

    def __init__(self, gan: GAN, config: TrainerConfig, check: Callable[[Mapping[str, float]], None]) -> None:
        self.gan, self.config, self.check = gan, config, check
        mark_hidden(gan.generator, output_layers(gan.generator))
        mark_hidden(gan.discriminator, ())
        self.d_parameters = [p for p in gan.discriminator.parameters() if p.requires_grad]
        self.g_parameters = [p for p in gan.generator.parameters() if p.requires_grad]
        for parameters in (self.d_parameters, self.g_parameters):
            flatten(parameters)
        self.d_optimizer = make_optimizer(self.d_parameters, config.d_optimizer)
        self.g_optimizer = make_optimizer(self.g_parameters, config.g_optimizer)
        share_gradients(self.d_optimizer.flat_group(), self.g_optimizer.flat_group())
        self.rng = {name: Generator(config.seed).spawn(i) for i, name in enumerate(STREAMS)}
        self.losses: dict[str, float] = {}
        self.reading = True
        self.refused: dict[str, str] = {}
        self.d_steps = self.g_steps = 0
        self._noted: dict[str, Tensor] = {}
        self._replays: dict[tuple[str, ...], Replay] = {}

    def fakes(self, real: Batch) -> Batch:
        """Generated events for a real batch, outside any graph."""
        conditions = real.conditions
        if not self.config.losses.penalty_weight:  # the penalty is taken between real and fake of one condition
            conditions = self.gan.fake_conditions(real, self.rng["conditions"])
        with no_grad():
            return Batch(self._images(len(real), conditions), conditions)

    def discriminator(self, real: Batch) -> Batch:
        """One update on real and generated events, or two if they are separate: the generated ones."""
        losses = self.config.losses
        on_real, on_fake = ["real"], ["fake"]
        if losses.penalty_weight:
            on_fake.append("penalty")
        if losses.r1 and self.d_steps % losses.r1_interval == 0:
            on_real.append("r1")
        if self.reading:
            self.losses["d"] = 0.0

        def update(real: Batch) -> tuple[Tensor, Conditions]:
            fake = self.fakes(real)
            for parts in (on_real, on_fake) if self.config.separate_updates else (on_real + on_fake,):
                self._descend("d", self.d_optimizer, self.d_parameters, parts, real, fake)
            if losses.clip:
                for p in self.d_parameters:
                    clamp_(p, -losses.clip, losses.clip)
            return fake.images, fake.conditions

        fake = self._run(("d", *on_real, *on_fake), update, real)
        self.d_steps += 1
        return Batch(*fake)

    def generator(self, real: Batch, average: EMA | None = None) -> None:
        """One update on new noise; gradients go through the discriminator, not into its weights.

        Parameters
        ----------
        real : Batch
        average : EMA, optional
            Moves towards the new weights.
        """
        if self.reading:
            self.losses["g"] = 0.0

        def update(real: Batch) -> None:
            self._descend("g", self.g_optimizer, self.g_parameters, ["persuade"], real)
            if average is not None:
                average.update(self.gan.generator)

        self._run(("g", "persuade") if average is None else ("g", "persuade", "average"), update, real)
        self.g_steps += 1

    def _images(self, events: int, conditions: Conditions) -> Tensor:
        """Generated ones; physics on them is computed in float32, also where `autocast` made them bfloat16."""
        return wide(self.gan.generate(self.gan.noise(events, self.rng["noise"]), conditions))

    # ---- losses --------------------------------------------------------------------------------------------------
    def _judge(self, batch: Batch, real: bool) -> Tensor:
        scores = self.gan.discriminate(batch.images, batch.conditions)
        t = labels(len(batch), self.config.losses, real, self.rng["labels"], scores.logits.dtype, scores.logits.device)
        validity = discriminator_loss(self.config.losses.discriminator, scores.logits, t)
        side = "d_real" if real else "d_fake"
        self._noted[side] = validity.detach()
        targets = self.gan.real_targets(batch) if real else self.gan.targets(batch.conditions)
        return self._with_estimates(validity, scores, targets, side, "weight_d")

    def _persuade(self, real: Batch) -> Tensor:
        conditions = self.gan.fake_conditions(real, self.rng["conditions"])
        images = self._images(len(real), conditions)
        scores = self.gan.discriminate(images, conditions)
        validity = generator_loss(self.config.losses.generator, scores.logits)
        self._noted["g_adv"] = validity.detach()
        return self._with_estimates(validity, scores, self.gan.targets(conditions), "g", "weight_g")

    def _with_estimates(
        self, loss: Tensor, scores: Scores, targets: Mapping[str, Tensor], prefix: str, weight: str
    ) -> Tensor:
        for name, auxiliary in self.gan.auxiliary.items():
            factor = getattr(auxiliary, weight)
            if factor:
                part = auxiliary(scores.estimates[name], targets[name])
                self._noted[f"{prefix}_{name}"] = part.detach()
                loss = loss + part * factor
        return loss

    def _gradient_penalty(self, real: Batch, fake: Batch) -> Tensor:
        penalty = gradient_penalty(self.gan, real.images, fake.images, real.conditions, self.rng["penalty"])
        self._noted["penalty"] = penalty.detach()
        return penalty * self.config.losses.penalty_weight

    def _r1(self, real: Batch) -> Tensor:
        penalty = r1_penalty(self.gan, real.images, real.conditions)
        self._noted["r1"] = penalty.detach()
        return penalty * (self.config.losses.r1 * self.config.losses.r1_interval)

    def _part(self, name: str, real: Batch, fake: Batch | None) -> Tensor:
        """One of the losses that an update descends."""
        if name == "real":
            return self._judge(real, True)
        if name == "persuade":
            return self._persuade(real)
        if name == "r1":
            return self._r1(real)
        assert fake is not None
        return self._judge(fake, False) if name == "fake" else self._gradient_penalty(real, fake)

    # ---- descent -------------------------------------------------------------------------------------------------
    def _descend(
        self, name: str, optimizer: Any, parameters: Sequence[Tensor], parts: Sequence[str], *batches: Batch
    ) -> None:
        """One optimizer step on the sum of the parts, differentiated one after the other: one graph at a time."""
        self._noted = {}
        real, fake = batches if len(batches) > 1 else (batches[0], None)
        gradients: list[Tensor | None] = [None] * len(parameters)
        losses = []
        for part in parts:
            loss = self._part(part, real, fake)
            losses.append(loss.detach())
            for i, g in enumerate(grad(loss, parameters, allow_unused=True, retain_graph=False)):
                gradients[i] = g if gradients[i] is None else gradients[i] if g is None else gradients[i] + g
            del loss  # and its graph
        noted = self._noted
        again(lambda: self._read(name, noted, losses), due=lambda: self.reading)
        if self.config.max_grad_norm:
            gradients = self._shortened(gradients)
        flat = optimizer.flat_group()
        if flat is not None and None not in [g if g is None else 0 for g in gradients]:
            copy_parts_(flat.gradient, flat.gradients, gradients)  # type: ignore[arg-type]
            gradients = flat.gradients

        def step() -> None:
            for p, gradient in zip(parameters, gradients, strict=True):
                p.grad = gradient
            optimizer.step()
            for p in parameters:
                p.grad = None

        again(step, steady=True)

    def _read(self, name: str, noted: Mapping[str, Tensor], losses: Sequence[Tensor]) -> None:
        """Add an update's losses to those of the step."""
        found = items([*noted.values(), *losses])
        self.losses.update(zip(noted, found, strict=False))
        for value in found[len(noted) :]:
            self.losses[name] += value
        self.check(self.losses)

    def _run(self, key: tuple[str, ...], update: Callable[[Batch], Any], real: Batch) -> Any:
        """update(real), by its recorded kernel calls where the recipe allows it; the results are overwritten."""
        if not (self.config.replay and self.gan.replayable):
            return update(real)
        names = tuple(real.conditions)
        replay = self._replays.get(key)
        if replay is None:
            networks = [self.gan.generator, self.gan.discriminator]
            beside = next(iter(self._replays.values()), None)
            replay = Replay(update, networks, copy_outputs=False, max_bytes=2**63, beside=beside)
            self._replays[key] = replay
        replay.function = lambda *tensors: update(Batch(tensors[0], dict(zip(names, tensors[1:], strict=True))))
        found = replay(real.images, *real.conditions.values())
        if replay.refusal is not None:
            self.refused.setdefault(" + ".join(key), replay.refusal)
        return found

    def _shortened(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """The gradients, times max_grad_norm over their common norm where that is below 1; nothing is read."""
        squares = total(stack([total(g * g) for g in gradients if g is not None]))
        factor = 1.0 / maximum(sqrt(squares) / self.config.max_grad_norm, 1.0)
        return [None if g is None else g * factor for g in gradients]
