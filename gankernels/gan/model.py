"""The protocol between a recipe and the trainer: what a conditional GAN is made of, and where its batches come from.

A recipe subclasses `GAN`: two networks, how noise and conditions become images, what the discriminator says, and what
it should say. Images are in the network's units; the way to GeV and back is the recipe's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol
from weakref import proxy

import numpy as np
from numpy.typing import NDArray

from gankernels import nn
from gankernels.autograd import Tensor, no_grad
from gankernels.gan.auxiliary import Auxiliary
from gankernels.ops import Generator, Replay, cat, from_array
from gankernels.ops.common import wide

__all__ = ["GAN", "ArrayBatches", "Batch", "Batches", "Conditions", "MappedBatches", "Scores", "Stream"]

Conditions = dict[str, Tensor]
_DRAWN_EVENTS = 64


@dataclass
class Batch:
    """Real events.

    Parameters
    ----------
    images : Tensor (N, C, *X)
        In the network's units.
    conditions : dict of Tensor (N,)
        What the generator is asked for, by name: "energy", "theta", "label".
    """

    images: Tensor
    conditions: Conditions = field(default_factory=dict)

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: str) -> Batch:
        """The same events on a device; itself if they are there."""
        return Batch(self.images.to(device), {name: values.to(device) for name, values in self.conditions.items()})


@dataclass
class Scores:
    """What the discriminator says about images.

    Parameters
    ----------
    logits : Tensor (N, 1)
        Large for real. No sigmoid: the losses are written on logits (for Wasserstein, the critic's value).
    estimates : dict of Tensor (N,) or (N, K)
        Further heads by the names of `GAN.targets`, such as "energy" or the measured "sum".
    """

    logits: Tensor
    estimates: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Losses are computed in float32, also where `autocast` made the heads bfloat16."""
        self.logits = wide(self.logits)
        self.estimates = {name: wide(values) for name, values in self.estimates.items()}


class GAN:
    """Two networks and how they are used. Recipes override what differs.

    Attributes
    ----------
    generator, discriminator : nn.Module
    latent : int
        Numbers of noise per event, for the default `noise`.
    chunk : int
        Events that `sample` generates at a time unless it is told: more are faster where images are small.
    auxiliary : dict of Auxiliary
        Loss of each estimate that takes part in training, by name.
    replayable : bool
        A promise that the methods are functions of their arguments, the GAN's attributes, the weights and the random
        streams alone, so that updates and generation may be run by their recorded kernel calls (`ops.Replay`).
    frozen : bool
        True lets `sample` of a `replayable` GAN keep what kernels make of the generator's weights, which takes longer
        than the arithmetic of one event (`ops.Replay`, constants), and their memory again; the images are the same.
        Optimizers and `load_state_dict` may change the weights; set it again after writing into the arrays themselves.
    """

    generator: nn.Module
    discriminator: nn.Module
    latent: int = 0
    chunk: int = 64
    auxiliary: Mapping[str, Auxiliary] = MappingProxyType({})
    replayable: bool = False
    frozen: bool = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        vars(self).pop("_replays", None)  # what was recorded may depend on it

    @property
    def device(self) -> str:
        """Where the generator is, and all that belongs to it must be."""
        return str(next(self.generator.parameters()).device)

    def to(self, device: str) -> GAN:
        """Move both networks and every tensor of the GAN to a device, in place; returns self."""
        self.generator.to(device)
        self.discriminator.to(device)
        for name, value in list(vars(self).items()):
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def noise(self, n: int, generator: Generator) -> Tensor:
        """Noise of n events, standard normal (n, latent)."""
        return generator.normal((n, self.latent), device=self.device)

    def generate(self, noise: Tensor, conditions: Conditions) -> Tensor:
        """Images (N, C, *X) in the network's units."""
        raise NotImplementedError(f"{type(self).__name__}.generate")

    def discriminate(self, images: Tensor, conditions: Conditions) -> Scores:
        """What the discriminator says about images that claim these conditions."""
        raise NotImplementedError(f"{type(self).__name__}.discriminate")

    def targets(self, conditions: Conditions) -> dict[str, Tensor]:
        """What the estimates of an image with these conditions should be; used for fakes, and by default for real."""
        return {}

    def real_targets(self, batch: Batch) -> dict[str, Tensor]:
        """What the estimates of real images should be, where it is measured on the image and not a condition."""
        return self.targets(batch.conditions)

    def fake_conditions(self, batch: Batch, generator: Generator) -> Conditions:
        """Conditions to generate fakes for; by default those of the real batch."""
        return batch.conditions

    def sample(self, conditions: Conditions, generator: Generator, chunk: int | None = None) -> Tensor:
        """Generate in evaluation mode, `chunk` events at a time, outside of any graph; images (N, C, *X).

        None is the GAN's own chunk. The noise is drawn in pieces of 64 events whatever the chunk: it decides about
        memory and not about images. A `replayable` GAN generates by its recorded kernel calls from the third chunk of a
        size on, with the same bits.
        """
        device = self.device
        given = [values.to(device) for values in conditions.values()]
        n, chunk = len(given[0]), chunk or self.chunk
        generate = self._generation(tuple(conditions))
        seed, vars(self)["_seed"] = vars(self).get("_seed"), generator.seed
        if n <= chunk and seed == generator.seed:  # noise is drawn in the recording, which is of one seed
            return generate(generator, *given)
        with no_grad():
            noise = self._drawn(n, generator)
            if n <= chunk:
                return generate(noise, *given)
            pieces = (slice(at, at + chunk) for at in range(0, n, chunk))
            return cat([generate(noise[piece], *(values[piece] for values in given)) for piece in pieces], 0)

    def _drawn(self, n: int, generator: Generator) -> Tensor:
        drawn = [self.noise(min(_DRAWN_EVENTS, n - at), generator) for at in range(0, n, _DRAWN_EVENTS)]
        return drawn[0] if len(drawn) == 1 else cat(drawn, 0)

    def _generation(self, names: tuple[str, ...]) -> Callable[..., Tensor]:
        """function(noise or its Generator, *conditions of these names), by recorded calls if the recipe allows it."""
        replays: dict[tuple[str, ...], Replay] = vars(self).setdefault("_replays", {})
        if names in replays:
            return replays[names]
        gan = proxy(self)  # the GAN keeps the recordings, not they it

        def generate(source: Tensor | Generator, *values: Tensor) -> Tensor:
            with no_grad(), gan.generator.evaluating():
                noise = source if isinstance(source, Tensor) else gan._drawn(len(values[0]), source)
                images: Tensor = gan.generate(noise, dict(zip(names, values, strict=True)))
                return images

        if self.replayable:
            constants = self.generator.parameters() if self.frozen else ()
            replays[names] = Replay(generate, [self.generator], sets_mode=True, constants=constants)
        return replays.get(names, generate)


class Stream(Protocol):
    """Endless batches of anything that can say where it stands (calo.ShowerStream is one)."""

    @property
    def epoch(self) -> int:
        """Passes over the data already done."""

    steps_per_epoch: int

    def __next__(self) -> Any: ...

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for JSON."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly there."""


class Batches(Stream, Protocol):
    """Endless training batches."""

    def __next__(self) -> Batch: ...


class MappedBatches:
    """Batches made of another stream's items, for example of `calo.Showers` by a recipe's `to_batch`."""

    def __init__(self, stream: Stream, to_batch: Callable[[Any], Batch]) -> None:
        self.stream = stream
        self.to_batch = to_batch
        self.steps_per_epoch = stream.steps_per_epoch

    @property
    def epoch(self) -> int:
        """Passes over the data already done."""
        return self.stream.epoch

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.to_batch(next(self.stream))

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for JSON."""
        return self.stream.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly there."""
        self.stream.restore(state)


class ArrayBatches:
    """Endless shuffled batches of arrays in memory.

    Parameters
    ----------
    images : array (N, C, *X)
    conditions : dict of array (N,)
    batch : int
        Events in a batch; the rest of an epoch that does not fill one is left out.
    seed : int
        The order is a function of seed and epoch.

    Raises
    ------
    ValueError
        If there are fewer events than one batch, or a condition has another length.
    """

    def __init__(self, images: NDArray[Any], conditions: dict[str, NDArray[Any]], *, batch: int, seed: int = 0) -> None:
        if batch < 1 or len(images) < batch:
            raise ValueError(f"ArrayBatches: {len(images)} events, expected at least one batch of {batch}")
        for name, values in conditions.items():
            if values.shape != (len(images),):
                raise ValueError(
                    f"ArrayBatches: condition {name!r} has shape {values.shape}, expected ({len(images)},)"
                )
        self.images, self.conditions, self.batch, self.seed = images, conditions, batch, seed
        self.steps_per_epoch = len(images) // batch
        self.epoch = 0
        self._cursor = 0
        self._order = self._permutation()

    def _permutation(self) -> NDArray[Any]:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence([self.seed, self.epoch]))).permutation(
            len(self.images)
        )

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        rows = self._order[self._cursor * self.batch : (self._cursor + 1) * self.batch]
        self._cursor += 1
        if self._cursor == self.steps_per_epoch:
            self.epoch, self._cursor = self.epoch + 1, 0
            self._order = self._permutation()
        return Batch(
            from_array(self.images[rows]), {name: from_array(values[rows]) for name, values in self.conditions.items()}
        )

    def state(self) -> dict[str, Any]:
        """Where the stream stands, for JSON."""
        return {"epoch": self.epoch, "cursor": self._cursor, "batch": self.batch, "seed": self.seed,
                "events": len(self.images)}  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Go on exactly there.

        Raises
        ------
        ValueError
            If the state is of other data or settings.
        """
        for name, value in self.state().items():
            if name not in ("epoch", "cursor") and state.get(name) != value:
                raise ValueError(f"ArrayBatches: the state has {name}={state.get(name)!r}, these batches {value!r}")
        self.epoch, self._cursor = int(state["epoch"]), int(state["cursor"])
        self._order = self._permutation()
