"""What `train --dry-run` prints: the settings, the sizes of the networks, the data and the memory of one step."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gankernels.gan import GAN, Conditions
    from gankernels.gan.recipes import Recipe, Request, Session

__all__ = ["parameter_count", "plan", "step_bytes", "summary"]


def plan(recipe: Recipe, request: Request, session: Session) -> str:
    """The plan of a training as text."""
    from gankernels.gan.config import to_toml

    config, gan, described = request.config, session.gan, session.describe()
    lines = [f"recipe: {recipe.name} ({recipe.summary})", "", to_toml(config).rstrip(), "", summary(session)]
    batch = config.train.batch
    if (batches := getattr(session, "batches", None)) is not None:
        lines.append(f"one epoch: {batches.steps_per_epoch} batches of {batch}")
    if gan.device == "cpu" and (two := _two_conditions(gan, described)) is not None:
        g, d = (parameter_count(network) for network in (gan.generator, gan.discriminator))
        # weights, gradients, two moments of the optimizer, and the average of the generator
        fixed = 4 * (4 * (g + d) + g)
        lines.append(f"memory: about {(fixed + step_bytes(gan, two, batch)) / 1e6:,.0f} MB for a step, beside the data")
    lines.append("everything checks out; nothing was written")
    return "\n".join(lines)


def summary(session: Session) -> str:
    """The sizes of the networks and of the data, a line each."""
    described = session.describe()
    lines = [
        f"{name}: {parameter_count(network):,} parameters"
        for name, network in (("generator", session.gan.generator), ("discriminator", session.gan.discriminator))
    ]
    lines += [
        f"data: {f['name']}, {f['events']} events, sha256 {f['sha256'][:12]}..." for f in described.get("files", [])
    ]
    if events := described.get("events"):
        lines.append("events: " + ", ".join(f"{n} {what}" for what, n in events.items()))
    if grid := described.get("grid"):
        lines.append(f"grid: {' x '.join(map(str, grid['shape']))} ({', '.join(grid['axes'])})")
    return "\n".join(lines)


def parameter_count(network: Any) -> int:
    """Numbers in a network."""
    return sum(int(p.numel()) for p in network.parameters())


def step_bytes(gan: GAN, two: Conditions, batch: int) -> int:
    """Bytes that one step keeps at its peak: measured on two events with these conditions, scaled to the batch."""
    from gankernels import Generator

    tracemalloc.start()
    try:
        gan.discriminate(gan.generate(gan.noise(2, Generator(0)), two), two)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # half as much again for the gradients: 3dgan takes 17 MB an event, 14 of them in this pass
    return peak * batch * 3 // 4


def _two_conditions(gan: GAN, described: dict[str, Any]) -> Conditions | None:
    """Conditions of two events for networks that know energies; None for others."""
    import numpy as np

    from gankernels.gan.showers import ShowerGAN

    if not isinstance(gan, ShowerGAN):
        return None
    return gan.conditions(np.array(described["energy_gev"]), {name: np.ones(2) for name in gan.condition_names})
