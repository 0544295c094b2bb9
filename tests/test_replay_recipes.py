"""The recipes' updates are replayed, with the bits of updates that are not."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gankernels.calo import simulate_showers
from gankernels.gan import Trainer, recipes
from gankernels.gan.model import ArrayBatches
from gankernels.gan.recipes.base import Request


def _trained(name, replay):
    recipe = recipes.get(name)
    settings = {
        "batch": 4,
        "epochs": 0.0,
        "max_steps": 9,
        "progress": "off",
        "lr_schedule": "constant",
    }
    config = replace(recipe.config, train=replace(recipe.config.train, replay=replay, **settings))
    if name == "toy-gaussian":
        session = recipe.open(Request(config))
        gan, batches = session.gan, session.batches
    else:
        session = recipe.open(Request(config, note=lambda _: None))  # a dry run: networks of a few showers in memory
        gan = session.gan
        batch = gan.to_batch(simulate_showers(8, config.data.energy_gev, config.data.grid, seed=1))
        conditions = {k: v.numpy() for k, v in batch.conditions.items()}
        batches = ArrayBatches(batch.images.numpy(), conditions, batch=4)
    trainer = Trainer(gan, batches, config.train)
    losses = []
    for _ in range(4):
        trainer.train_step()
        losses.append(dict(trainer.losses))
    reasons = {key: r.reason for key, r in trainer.updates._replays.items()}
    return losses, {k: t.numpy().copy() for k, t in gan.generator.state_dict().items()}, reasons


MUCH = pytest.mark.much_work(flops=10**9)


@pytest.mark.parametrize("name", ["toy-gaussian", pytest.param("quickstart", marks=MUCH)])
def test_updates_of_a_recipe_are_replayed_with_the_same_bits(name):
    replayed, plain = (_trained(name, replay) for replay in (True, False))
    assert replayed[0] == plain[0]
    assert all(np.array_equal(replayed[1][k], plain[1][k]) for k in plain[1])
    recorded = {key for key, reason in replayed[2].items() if reason is None}
    assert {key[0] for key in recorded} == {"d", "g"}
    assert all("record" in str(r) for r in replayed[2].values() if r is not None)  # R1 is not due a third time yet
    assert not plain[2]
