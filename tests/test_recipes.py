"""The recipes are the published networks, and the small ones learn what they should."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.simulate import simulate_showers, simulate_to_file
from gankernels.gan import recipes
from gankernels.gan.config import configure
from gankernels.gan.recipes import Request
from gankernels.gan.recipes.toy_gaussian import gaussian_profiles, profile_moments
from gankernels.gan.trainer import Trainer


def _counts(module: Any) -> tuple[int, int]:
    """Trainable numbers, and all of them without step counters."""
    trainable = sum(p.numel() for p in module.parameters())
    return trainable, trainable + sum(b.numel() for b in module.buffers() if b.ndim)


def _revived(name: str, described: dict[str, Any]) -> Any:
    recipe = recipes.get(name)
    return recipe.revive(recipe.config, described)


def _described(shape: tuple[int, int, int], **more: Any) -> dict[str, Any]:
    grid = {"shape": shape, "axes": ("x", "y", "z"), "edges": None, "units": ("cell", "cell", "cell")}
    return {"grid": grid, "condition_names": [], "response": [0.02], **more}


@pytest.mark.much_work
def test_3dgan_has_the_published_numbers_of_parameters() -> None:
    gan = _revived("3dgan", _described((25, 25, 25)))
    assert _counts(gan.generator) == (872_808, 872_948)
    assert _counts(gan.discriminator)[1] == 73_450


@pytest.mark.much_work
def test_3dgan_angle_has_the_published_numbers_of_parameters() -> None:
    gan = _revived("3dgan-angle", _described((51, 51, 25), condition_names=["theta_rad"]))
    assert _counts(gan.generator)[1] == 1_365_047
    assert _counts(gan.discriminator)[1] == 87_402


@pytest.mark.much_work(flops=2e9)
@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [("3dgan", (25, 25, 25), []), ("3dgan", (25, 25, 25), ["theta_rad"]), ("3dgan-angle", (51, 51, 25), ["theta_rad"])],
)
def test_published_networks_make_and_judge_images_of_their_grid(
    name: str, shape: tuple[int, int, int], labels: list[str]
) -> None:
    gan = _revived(name, _described(shape, condition_names=labels))
    conditions = gan.conditions(np.array([20.0, 90.0], np.float32), {"theta_rad": np.array([1.2, 1.9], np.float32)})
    images = gan.sample(conditions, gk.Generator(3))
    assert images.shape == (2, 1, *shape)
    scores = gan.discriminate(images, conditions)
    assert scores.logits.shape == (2, 1)
    assert ("angle" in scores.estimates) == bool(labels)
    for name, target in gan.targets(conditions).items():
        assert scores.estimates[name].shape == target.shape


@pytest.mark.parametrize("name", ["3dgan", "3dgan-angle"])
def test_published_networks_refuse_another_grid_and_say_what_adapts(name: str) -> None:
    with pytest.raises(ValueError, match="quickstart adapts to any grid"):
        _revived(name, _described((12, 12, 12), condition_names=["theta_rad"]))


def test_an_unknown_recipe_is_named_with_the_closest_one() -> None:
    with pytest.raises(ValueError, match="quickstart"):
        recipes.get("quikstart")


def test_every_recipe_tells_its_source_and_has_help_for_every_setting() -> None:
    from gankernels.gan.config import explain

    for name in recipes.names():
        recipe = recipes.get(name)
        assert recipe.name == name
        assert recipe.summary
        assert recipe.source
        assert all(row.help for row in explain(recipe.config))


def _quickstart(tmp_path: Path, *changes: str, files: tuple[Path, ...] = ()) -> Any:
    recipe = recipes.get("quickstart")
    settings = ["data.events=160", "data.grid=[6, 7, 5]", "train.batch=16", "model.channels=4", *changes]
    return recipe, recipe.open(Request(configure(recipe.config, None, settings), files=files, directory=tmp_path))


def test_quickstart_turns_showers_into_images_and_back(tmp_path: Path) -> None:
    _, session = _quickstart(tmp_path)
    showers = session.held_out
    batch = session.gan.to_batch(showers)
    back = session.gan.to_showers(batch.images, showers.energy_gev, showers.conditions)
    seen = showers.cells_gev > 2 * session.gan.threshold_gev
    # a power and its inverse: relative error of a few rounding steps of float32
    assert not np.any(np.abs(back.cells_gev[seen] / showers.cells_gev[seen] - 1) > 1e-5)
    linear = session.gan.linear(batch.images, batch.conditions).numpy()[:, 0]
    assert not np.any(np.abs(linear[seen] / showers.cells_gev[seen] - 1) > 1e-5)
    session.close()


@pytest.mark.much_work
def test_quickstart_gives_every_shower_the_response_of_the_data(tmp_path: Path) -> None:
    _, session = _quickstart(tmp_path)
    energy = np.full(400, 50.0, np.float32)
    generated = session.gan.generate_showers(energy, {}, gk.Generator(5))
    truth = simulate_showers(400, (50.0, 50.0), (6, 7, 5), seed=9)
    response, expected = (s.cells_gev.sum(axis=(1, 2, 3), dtype=np.float64) / 50.0 for s in (generated, truth))
    # measured on 128 training showers: mean to 5 sigma of that, width to a factor of two
    assert abs(response.mean() - expected.mean()) < 5 * expected.std() / np.sqrt(128)
    assert 0.5 < response.std() / expected.std() < 2.0
    session.close()


@pytest.mark.much_work
def test_quickstart_trains_and_can_be_revived_from_what_it_wrote_down(tmp_path: Path) -> None:
    recipe, session = _quickstart(tmp_path, "train.max_steps=3", "train.progress=off")
    trainer = Trainer(session.gan, session.batches, session.config.train, None, on_validate=None)
    trainer.run()
    again = recipe.revive(session.config, session.describe())
    again.generator.load_state_dict(session.gan.generator.state_dict())
    energy = np.linspace(10, 90, 9, dtype=np.float32)
    first, second = (g.generate_showers(energy, {}, gk.Generator(7)) for g in (session.gan, again))
    assert np.array_equal(first.cells_gev, second.cells_gev)
    metrics = session.evaluate(session.gan)
    assert 0.0 <= metrics["score"] <= 1.0
    session.picture(session.gan, tmp_path / "samples.png")
    assert (tmp_path / "samples.png").read_bytes().startswith(b"\x89PNG")
    session.close()


@pytest.mark.much_work
def test_quickstart_takes_cylinders_and_an_angle_as_conditions(tmp_path: Path) -> None:
    cylinder, tilted = tmp_path / "cylinder.h5", tmp_path / "tilted.h5"
    simulate_to_file(cylinder, 60, (1.0, 100.0), (9, 6, 4), seed=1, axes="cylindrical", spectrum="log-uniform")
    simulate_to_file(tilted, 60, grid=(7, 7, 6), seed=1, theta_deg=(60.0, 120.0))
    for path, labels in ((cylinder, []), (tilted, ["theta_rad"])):
        _, session = _quickstart(tmp_path, files=(path,))
        assert session.describe()["condition_names"] == labels
        trainer = Trainer(session.gan, session.batches, configure(session.config.train, None, ["max_steps=1"]))
        trainer.train_step()
        assert np.isfinite(trainer.losses["d"])
        session.close()


@pytest.mark.much_work
def test_showers_with_a_missing_condition_are_refused_by_name() -> None:
    gan = _revived("3dgan", _described((25, 25, 25), condition_names=["theta_rad"]))
    with pytest.raises(ValueError, match="theta_rad"):
        gan.to_batch(Showers(np.zeros((1, 25, 25, 25), np.float32), np.ones(1, np.float32), Grid((25, 25, 25))))


def test_toy_gaussian_profiles_have_the_mean_and_sigma_asked_for() -> None:
    config = recipes.get("toy-gaussian").config.data
    images, label = gaussian_profiles(config, 4000, 3)
    for k, sigma in enumerate(config.sigma):
        mean, width = profile_moments(images[label == k])
        assert abs(mean - config.mean) < 0.3  # the window of 25 cells cuts the wide class
        assert abs(width - np.hypot(sigma, config.mean_spread)) < 0.35


@pytest.mark.much_work(flops=1e10)
def test_toy_gaussian_learns_mean_and_sigma_of_both_classes() -> None:
    recipe = recipes.get("toy-gaussian")
    config = configure(recipe.config, None, ["train.progress=off"])
    session = recipe.open(Request(config))

    def judge(trainer: Trainer) -> dict[str, float]:
        with trainer.ema.applied(session.gan.generator):
            return session.evaluate(session.gan)

    trainer = Trainer(session.gan, session.batches, config.train, None, on_validate=judge)
    trainer.run()
    best = min(trainer.history, key=lambda row: row["score"])
    images, label = gaussian_profiles(config.data, 2000, 99)
    for k in (0, 1):
        mean, sigma = profile_moments(images[label == k])
        assert abs(best[f"mean_{k}"] - mean) < 0.3
        assert abs(best[f"sigma_{k}"] / sigma - 1) < 0.1
