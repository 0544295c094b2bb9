"""Signs of a lost run: each is injected and must be named; a healthy run must stay in peace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

from gankernels.gan import HealthConfig, OptimizerConfig, Trainer, TrainerConfig, TrainingStopped
from gankernels.gan.health import Health, check_finite, check_losses
from gankernels.ops import update

CONFIG = HealthConfig(every=1, warmup=0, patience=3)
LOSSES = {"d_real": 0.7, "d_fake": 0.7}


def showers(n=64, seed=1):
    rng = np.random.default_rng(seed)
    energy = rng.uniform(1, 10, n)
    return rng.gamma(2.0, size=(n, 1, 4, 4, 4)) * energy[:, None, None, None, None], energy


def lost(fake_of, config=CONFIG, losses=LOSSES, checks=3, conditions=True, cross_entropy=True):
    """Run `checks` checks on fakes made from real showers; the warnings."""
    health, warnings = Health(config, cross_entropy), []
    for i in range(checks):
        real, energy = showers(seed=i)
        c = (energy, energy) if conditions else (None, None)
        health.check(i, real, fake_of(real), losses, *c, checkpoint=Path("good"), warn=warnings.append)
    return warnings


SIGNS = {
    "empty": (lambda real: real * 0, "are empty"),
    "constant": (lambda real: np.full_like(real, 3.0), "is constant"),
    "collapse": (lambda real: np.repeat(real[:1], len(real), 0), "has collapsed"),
}


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_that_lasts_stops_the_run_with_the_last_good_checkpoint(name):
    fake_of, message = SIGNS[name]
    assert lost(fake_of, checks=2) == []
    with pytest.raises(TrainingStopped, match=message) as error:
        lost(fake_of)
    assert error.value.step == 2
    assert error.value.checkpoint == Path("good")
    assert error.value.advice in str(error.value)


@pytest.mark.parametrize("name", SIGNS)
def test_a_sign_can_be_a_warning_or_off(name):
    fake_of, message = SIGNS[name]
    (text,) = lost(fake_of, HealthConfig(every=1, warmup=0, patience=3, **{name: "warn"}), checks=6)
    assert message in text
    assert lost(fake_of, HealthConfig(every=1, warmup=0, patience=3, **{name: "off"}), checks=6) == []


def test_a_generator_that_ignores_its_condition_is_warned_about():
    (text,) = lost(lambda real: showers(seed=len(real) + 17)[0][::-1], checks=4)
    assert "ignores 'energy'" in text
    assert lost(lambda real: showers(seed=99)[0], checks=4, conditions=False) == []


def test_a_discriminator_that_is_certain_is_warned_about():
    certain = {"d_real": 1e-5, "d_fake": 1e-6}
    (text,) = lost(lambda real: real * 1.1, losses=certain)
    assert "certain of everything" in text
    assert lost(lambda real: real * 1.1, losses=certain, cross_entropy=False) == []


def test_healthy_images_are_left_in_peace():
    assert lost(lambda real: real[::1] * 1.2, checks=20) == []


def test_a_sign_must_last_without_a_break():
    health = Health(CONFIG)
    for i in range(8):
        real, energy = showers(seed=i)
        health.check(i, real, real * (i % 3 == 0), LOSSES, energy, energy)


def test_counters_survive_a_checkpoint():
    health = Health(CONFIG)
    real, energy = showers()
    for i in range(2):
        health.check(i, real, real * 0, LOSSES, energy, energy)
    resumed = Health(CONFIG)
    resumed.restore(health.state())
    with pytest.raises(TrainingStopped):
        resumed.check(2, real, real * 0, LOSSES, energy, energy)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run(value):
    with pytest.raises(TrainingStopped, match="d_fake is not finite"):
        check_losses({"d_real": 0.5, "d_fake": value}, 7)


def test_a_weight_that_is_not_finite_is_named():
    weights = np.zeros(4)
    weights[2] = np.nan
    with pytest.raises(TrainingStopped, match=r"1 of 4 numbers of generator\.dense\.weight are not finite"):
        check_finite([("generator.dense.weight", weights)], 7)


def test_nan_in_the_data_stops_before_the_weights_change():
    gan, data = toy_gan(), toy_data()
    data.images[:] = np.nan
    before = {n: t.numpy().copy() for n, t in gan.discriminator.state_dict().items()}
    trainer = Trainer(gan, data, TrainerConfig(max_steps=5, batch=16))
    with pytest.raises(TrainingStopped, match=r"d_real.* not finite.*check the data for NaN.*There is no earlier"):
        trainer.run()
    assert all(np.array_equal(before[n], t.numpy()) for n, t in gan.discriminator.state_dict().items())


@pytest.mark.much_work
def test_weights_that_explode_stop_the_run_and_name_the_last_good_checkpoint(tmp_path):
    trainer = Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=50, batch=16, checkpoint_every=2), tmp_path)
    steps = iter(range(100))
    trainer.gan.fake_conditions = lambda batch, generator: (
        update.fill_(trainer.gan.generator.out.bias, np.inf if next(steps) >= 9 else 0.0),
        batch.conditions,
    )[1]
    with pytest.raises(TrainingStopped, match=r"not finite.*last good checkpoint is .*checkpoint-000004") as error:
        trainer.run()
    resumed = Trainer(toy_gan(), toy_data(), TrainerConfig(max_steps=6, batch=16), tmp_path)
    resumed.resume(error.value.checkpoint)
    assert resumed.run().step == 6
    assert "training stopped" in (tmp_path / "log.jsonl").read_text()


def test_a_dead_generator_is_found_while_training():
    gan = toy_gan()
    update.fill_(gan.generator.out.bias, -60.0)  # softplus of it is 0 in float32
    config = TrainerConfig(max_steps=50, batch=16, health=CONFIG, g_optimizer=OptimizerConfig(lr=0.0))
    with pytest.raises(TrainingStopped, match="training stopped at step 3: the generated images are empty"):
        Trainer(gan, toy_data(), config).run()
