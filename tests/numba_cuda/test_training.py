"""A step of a recipe on the Numba backend moves the networks as on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numba_pairs import skip_module_without_device

import gankernels as gk
from gankernels.gan import Trainer, recipes
from gankernels.gan.config import configure
from gankernels.gan.recipes import Request

skip_module_without_device()

SMALL = [
    "data.events=40", "data.grid=[4, 5, 3]", "train.batch=4", "model.channels=2", "train.max_steps=1",
    "train.progress=off",
]  # fmt: skip


def gradients_of_a_step(device: str, directory: Path) -> dict[str, Any]:
    """What the optimizers of quickstart are given in the first step."""
    found: dict[str, Any] = {}
    directory.mkdir()
    with gk.device(device):
        recipe: Any = recipes.get("quickstart")
        session = recipe.open(Request(configure(recipe.config, None, SMALL), directory=directory))
        trainer = Trainer(session.gan, session.batches, session.config.train, None)
        for side, optimizer in (
            ("discriminator", trainer.updates.d_optimizer),
            ("generator", trainer.updates.g_optimizer),
        ):
            named = list(getattr(session.gan, side).named_parameters())

            def step(side: str = side, named: Any = named, step: Any = optimizer.step) -> None:
                found.update({f"{side}.{name}": p.grad.cpu().numpy().copy() for name, p in named})
                step()

            optimizer.step = step
        trainer.train_step()
        session.close()
    return found


def test_the_gradients_of_a_step_of_quickstart_are_those_of_the_cpu(tmp_path: Path) -> None:
    # The weights themselves need not agree. A bias before a batch norm has the gradient 0, of which rounding leaves
    # +-1e-8, and Adam divides it by its own size: such a bias moves by up to the learning rate in either direction.
    want, found = (gradients_of_a_step(device, tmp_path / device) for device in ("cpu", "cuda"))
    assert want.keys() == found.keys()
    assert len(want) > 20
    largest = {side: max(np.abs(g).max() for n, g in want.items() if n.startswith(side)) for side in ("gen", "disc")}
    for name, g in want.items():
        scale = largest["gen" if name.startswith("gen") else "disc"]
        assert not (np.abs(found[name] - g).max() > 2e-6 * scale), name
