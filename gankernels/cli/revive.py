"""A trained generator out of its run directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from gankernels.cli.errors import WrongUse, arguments_at_fault
from gankernels.cli.runs import Run, open_run

if TYPE_CHECKING:
    from gankernels.gan.showers import ShowerGAN

__all__ = ["checkpoint_of", "revive"]


def checkpoint_of(run: Run, which: str) -> Path:
    """The path of the checkpoint "best", "latest" or of a step."""
    from gankernels.gan import checkpoint

    if which in ("best", "latest"):
        return checkpoint.find(run.checkpoints, which)
    if not which.isdigit():
        raise WrongUse(f"--checkpoint {which}: expected best, latest or the number of a step")
    found = sorted(run.checkpoints.glob(f"checkpoint-{int(which):06d}*"))
    if not found:
        there = ", ".join(sorted(str(int(p.name[11:17])) for p in run.checkpoints.glob("checkpoint-??????"))) or "none"
        raise WrongUse(f"{run.path}: there is no checkpoint of step {which}; there are: {there}")
    return found[-1]


def revive(path: Path, which: str) -> tuple[ShowerGAN, Run, Any, int]:
    """The GAN of a run with trained weights, the run, its configuration and the checkpoint's step."""
    from gankernels.gan import config as configs
    from gankernels.gan import recipes
    from gankernels.gan.showers import ShowerGAN
    from gankernels.gan.trainer import load_generator

    run = open_run(path)
    with arguments_at_fault():
        recipe = recipes.get(run.recipe)
        config = configs.configure(recipe.config, run.config_file)
        gan = recipe.revive(config, run.described())
    if not isinstance(gan, ShowerGAN):
        raise WrongUse(f"{path}: the recipe {run.recipe} does not generate showers")
    return gan, run, config, load_generator(gan, checkpoint_of(run, which)).step
