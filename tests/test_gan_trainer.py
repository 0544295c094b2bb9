"""The training loop: order and number of updates, what is differentiated, the average, schedules, the best epoch."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from gan_toys import toy_data, toy_gan

import gankernels as gk
from gankernels import backends
from gankernels.gan import (
    ArrayBatches,
    LossConfig,
    MappedBatches,
    OptimizerConfig,
    Trainer,
    TrainerConfig,
    load_generator,
)
from gankernels.gan.checkpoint import CheckpointError
from gankernels.gan.ema import EMA
from gankernels.gan.settings import learning_rate_factor
from gankernels.ops import update


def trainer(directory=None, gan=None, data=None, on_validate=None, on_samples=None, **settings):
    settings = {"max_steps": 4, "batch": 16, **settings}
    gan, data = gan or toy_gan(), data or toy_data()
    return Trainer(gan, data, TrainerConfig(**settings), directory, on_validate=on_validate, on_samples=on_samples)


def weights(module):
    return {name: t.numpy().copy() for name, t in module.state_dict().items()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[n], b[n]) for n in a)


class Calls:
    """Notes what the networks of a GAN are asked, in order."""

    def __init__(self, gan):
        self.made = []
        generate, discriminate = gan.generate, gan.discriminate

        def noted_generate(noise, conditions):
            images = generate(noise, conditions)
            self.made.append(("G", len(images), images.requires_grad))
            return images

        def noted_discriminate(images, conditions):
            self.made.append(("D", len(images), images.requires_grad))
            return discriminate(images, conditions)

        gan.generate, gan.discriminate = noted_generate, noted_discriminate


def test_a_step_is_so_many_updates_of_each_network_and_real_and_fake_never_share_a_batch():
    t = trainer(d_steps=2, g_steps=3, max_steps=1)
    calls = Calls(t.gan)
    t.run()
    one_d = [("G", 16, False), ("D", 16, False), ("D", 16, False)]  # fakes outside any graph; real, then fake
    one_g = [("G", 16, True), ("D", 16, True)]
    assert calls.made == one_d * 2 + one_g * 3
    assert (t.step, t.updates.d_steps, t.updates.g_steps) == (1, 2, 3)
    assert t.data.state()["cursor"] == 2


def test_the_steps_use_the_chosen_convolutions_and_the_samples_do_not():
    used = {"steps": set(), "samples": set()}
    t = trainer(conv_algorithm="fft", max_steps=2, on_validate=lambda t: used["samples"].add(gk.conv_algorithm()) or {})
    generate = t.gan.generate

    def noted(noise, conditions):
        used["steps"].add(gk.conv_algorithm())
        return generate(noise, conditions)

    t.gan.generate = noted
    t.run()
    assert used == {"steps": {"fft"}, "samples": {"auto"}}
    assert gk.conv_algorithm() == "auto"


def test_the_generators_update_computes_no_gradient_for_the_discriminators_weights(monkeypatch):
    t = trainer()
    counts = {"conv_weight": 0, "conv_transpose": 0}
    for name in counts:
        kernel = getattr(backends.get(), name)

        def counted(*arguments, kernel=kernel, name=name):
            counts[name] += 1
            return kernel(*arguments)

        monkeypatch.setattr(backends.get(), name, counted)
    real = next(t.data).to(t.gan.device)
    before = weights(t.gan.discriminator)
    t.updates.generator(real)
    assert counts == {"conv_weight": 0, "conv_transpose": 1}
    assert equal(before, weights(t.gan.discriminator))
    before = weights(t.gan.generator)
    t.updates.discriminator(real)
    assert counts == {"conv_weight": 2, "conv_transpose": 1}  # no gradient into the images
    del before["norm.running_mean"], before["norm.running_var"], before["norm.num_batches_tracked"]
    assert all(np.array_equal(a, t.gan.generator.state_dict()[n].numpy()) for n, a in before.items())


@pytest.mark.parametrize("separate", [False, True])
def test_the_discriminator_is_updated_once_or_after_real_and_after_fake(separate, monkeypatch):
    t = trainer(separate_updates=separate)
    steps = []
    step = t.updates.d_optimizer.step
    monkeypatch.setattr(t.updates.d_optimizer, "step", lambda: steps.append(1) or step())
    t.train_step()
    assert len(steps) == (2 if separate else 1)


def test_the_gradient_of_parts_is_the_gradient_of_their_sum():
    settings = {"d_optimizer": OptimizerConfig(name="sgd", lr=1.0), "losses": LossConfig(gradient_penalty=1.0)}
    t = trainer(**settings)
    t.gan.discriminator.drop.p = 0.0
    real = next(t.data).to(t.gan.device)
    u = t.updates
    start = weights(t.gan.discriminator)
    states = {name: generator.state() for name, generator in u.rng.items()}
    fake = u.fakes(real)
    total = u._judge(real, True) + u._judge(fake, False) + u._gradient_penalty(real, fake)
    expected = {n: g for (n, _), g in zip(t.gan.discriminator.named_parameters(),
                                          gk.grad(total, u.d_parameters), strict=True)}  # fmt: skip
    for name, state in states.items():
        u.rng[name].restore(state)
    u.discriminator(real)
    assert not abs(t.losses["d"] - total.item()) > 1e-5 * abs(total.item())
    for name, after in weights(t.gan.discriminator).items():
        change, g = start[name] - after, expected[name].numpy()
        assert not np.abs(change - g).max() > 2e-6 * (1 + np.abs(g).max())


@pytest.mark.parametrize(
    "losses",
    [
        LossConfig(discriminator=name, generator=name, label_flip=0.05 if name == "non-saturating" else 0.0, r1=r1)
        for name, r1 in (
            ("minimax", 0.0),
            ("non-saturating", 0.0),
            ("least-squares", 0.5),
            ("hinge", 0.0),
            ("wasserstein", 0.0),
            ("wasserstein-gp", 0.0),
        )
    ],
    ids=lambda losses: losses.discriminator,
)
def test_every_loss_trains_both_networks(losses):
    t = trainer(losses=losses, max_steps=6)
    before = weights(t.gan.generator), weights(t.gan.discriminator)
    assert t.run().status == "finished"
    for start, module in zip(before, (t.gan.generator, t.gan.discriminator), strict=True):
        after = weights(module)
        assert all(np.isfinite(a).all() for a in after.values())
        assert all(not np.array_equal(start[n], after[n]) for n in start if n.endswith("weight"))
    assert ("penalty" in t.losses) == (losses.penalty_weight > 0)
    assert ("r1" in t.losses) == (losses.r1 > 0)
    if losses.clip:
        assert max(np.abs(a).max() for a in weights(t.gan.discriminator).values()) <= np.float32(losses.clip)


def test_r1_is_lazy():
    t = trainer(losses=LossConfig(r1=1.0, r1_interval=3))
    seen = []
    for _ in range(7):
        t.train_step()
        seen.append("r1" in t.losses)
    assert seen == [True, False, False, True, False, False, True]


def test_long_gradients_are_shortened_to_the_norm():
    t = trainer(max_grad_norm=1e-3, d_optimizer=OptimizerConfig(name="sgd", lr=1.0))
    before = weights(t.gan.discriminator)
    t.train_step()
    after = weights(t.gan.discriminator)
    norm = math.sqrt(sum(((after[n] - before[n]).astype(np.float64) ** 2).sum() for n in before))
    assert not abs(norm - 1e-3) > 1e-5


# ---- the average ---------------------------------------------------------------------------------------------------
def test_the_average_follows_its_recursion_and_copies_buffers():
    gan = toy_gan()
    ema = EMA(gan.generator, 0.3)
    expected = weights(gan.generator)
    rng = np.random.default_rng(1)
    for n in range(5):
        for t in gan.generator.state_dict().values():
            update.copy_(t, gk.tensor(np.asarray(rng.normal(size=t.shape) if t.dtype.kind == "f" else n, t.dtype)))
        decay = min(0.3, (1 + n) / (10 + n))
        now = weights(gan.generator)
        for name in expected:
            copied = name.startswith("norm.running") or name.endswith("tracked")
            expected[name] = now[name] if copied else decay * expected[name] + (1 - decay) * now[name]
        ema.update(gan.generator)
    for name, average in ema.state_dict().items():
        assert not np.abs(average.numpy() - expected[name]).max() > 1e-6


def test_the_average_is_only_applied_inside():
    t = trainer(ema_decay=0.9)
    t.run()
    own = weights(t.gan.generator)
    with t.ema.applied(t.gan.generator):
        inside = weights(t.gan.generator)
    assert not np.array_equal(own["out.weight"], inside["out.weight"])
    assert equal(own, weights(t.gan.generator))
    assert equal(inside, {n: a.numpy() for n, a in t.ema.state_dict().items()})


def test_without_a_decay_the_average_is_the_last_weights_and_no_copy():
    t = trainer(ema_decay=0.0)
    t.run()
    own = t.gan.generator.state_dict()
    with t.ema.applied(t.gan.generator):
        assert equal(weights(t.gan.generator), {n: a.numpy() for n, a in t.ema.state_dict().items()})
    assert all(a.data is own[n].data for n, a in t.ema.state_dict().items())
    stored = {n: a + 1 for n, a in weights(t.gan.generator).items()}
    before = weights(t.gan.generator)
    t.ema.load_state_dict(stored, 3)
    assert equal(before, weights(t.gan.generator))
    with pytest.raises(KeyError, match="unexpected"):
        t.ema.load_state_dict({**stored, "more": stored["out.weight"]}, 3)


def test_samples_are_the_same_for_the_same_seed_and_leave_the_training_alone():
    t = trainer()
    t.run()
    before = weights(t.gan.generator), {n: g.state() for n, g in t._generators().items()}
    energy = gk.tensor(np.linspace(0.5, 2, 150).astype(np.float32))
    a, b, c = (t.sample({"energy": energy}, seed=s).numpy() for s in (1, 1, 2))
    assert a.shape == (150, 1, 8)
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert equal(before[0], weights(t.gan.generator))
    assert before[1] == {n: g.state() for n, g in t._generators().items()}
    assert t.gan.generator.training


# ---- schedules and ends --------------------------------------------------------------------------------------------
def test_learning_rates_decay_as_the_schedule_says():
    expected = {
        "linear": lambda p: 1 - 0.8 * p,
        "exponential": lambda p: 0.2**p,
        "cosine": lambda p: 0.2 + 0.8 * (1 + math.cos(math.pi * p)) / 2,
        "constant": lambda p: 1.0,
    }
    for name, factor in expected.items():
        config = TrainerConfig(max_steps=10, lr_schedule=name, lr_final=0.2)
        for step in (0, 3, 10, 15):
            assert not abs(learning_rate_factor(config, step, 10) - factor(min(step / 10, 1))) > 1e-12
    t = trainer(max_steps=4, lr_schedule="linear", lr_final=0.0)
    t.run()
    assert not abs(t.updates.g_optimizer.param_groups[0]["lr"] - 2e-4 * 0.25) > 1e-12


@pytest.mark.parametrize(
    ("settings", "steps"),
    [({"max_steps": 5}, 5), ({"max_steps": 0, "epochs": 1.5}, 9), ({"max_steps": 0, "epochs": 2, "d_steps": 4}, 3)],
)
def test_a_run_ends_after_its_steps_or_epochs(settings, steps):
    assert trainer(**settings).run().step == steps


def test_a_run_ends_at_a_step_boundary_after_its_time(tmp_path):
    t = trainer(tmp_path, max_steps=0, max_seconds=0.2)
    began = time.monotonic()
    outcome = t.run()
    assert outcome.status == "time"
    assert outcome.step > 0
    assert time.monotonic() - began < 20
    assert outcome.checkpoint.is_dir()


# ---- validation ----------------------------------------------------------------------------------------------------
def test_the_best_checkpoint_has_the_lowest_score_and_is_kept(tmp_path):
    scores = {2: 0.5, 4: 0.2, 6: 0.9, 8: math.nan, 10: 0.3, 12: 0.25}
    t = trainer(tmp_path, max_steps=12, validate_every=2, keep_last=1, on_validate=lambda t: {"score": scores[t.step]})
    seen = {}
    t.on_samples = lambda t: seen.update({t.step: weights_of_average(t)})
    outcome = t.run()
    assert outcome.best.name == "checkpoint-000004"
    assert sorted(p.name for p in (tmp_path / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-000004",
        "checkpoint-000012",
    ]
    assert [row["step"] for row in t.history] == list(scores)
    gan = toy_gan(seed=9)
    assert load_generator(gan, tmp_path / "checkpoints").step == 4
    assert equal(weights(gan.generator), seen[4])


def weights_of_average(t):
    return {name: a.numpy().copy() for name, a in t.ema.state_dict().items()}


def test_what_the_hooks_draw_does_not_change_the_training():
    def draw(t):
        gk.rand(100)
        t.sample({"energy": gk.ones(3)})
        return {"score": 1.0}

    quiet = trainer(max_steps=6, validate_every=2)
    quiet.run()
    expected = weights(quiet.gan.generator)
    drawing = trainer(max_steps=6, validate_every=2, on_validate=draw)
    drawing.run()
    assert equal(expected, weights(drawing.gan.generator))


def test_a_failing_picture_is_a_warning(capsys):
    def fails(t):
        raise OSError("no display")

    assert trainer(on_samples=fails).run().status == "finished"
    assert "warning: the sample pictures failed (OSError: no display); training goes on" in capsys.readouterr().err


def test_a_disk_that_is_full_for_a_while_does_not_end_the_training(tmp_path, monkeypatch, capsys):
    t = trainer(tmp_path, max_steps=6, checkpoint_every=2, validate_every=100)
    save = type(t).save

    def sometimes(self):
        if self.step == 4:
            raise CheckpointError("checkpoint of step 4 could not be written: No space left on device")
        return save(self)

    monkeypatch.setattr(type(t), "save", sometimes)
    assert t.run().checkpoint.name == "checkpoint-000006"
    assert "warning: checkpoint of step 4 could not be written" in capsys.readouterr().err


# ---- batches -------------------------------------------------------------------------------------------------------
def test_batches_cover_each_epoch_once_and_resume_inside_it():
    images = np.arange(10, dtype=np.float32).reshape(10, 1, 1)

    def make():
        return ArrayBatches(images, {"e": images.ravel()}, batch=3, seed=5)

    data = make()
    first = [next(data).images.numpy().ravel() for _ in range(3)]
    assert len(set(np.concatenate(first))) == 9
    assert data.epoch == 1
    next(data)
    state, rest = data.state(), [next(data).conditions["e"].numpy() for _ in range(4)]
    again = MappedBatches(make(), lambda batch: batch)
    again.restore(state)
    assert all(np.array_equal(a, next(again).conditions["e"].numpy()) for a in rest)
    with pytest.raises(ValueError, match="the state has batch=3, these batches 2"):
        ArrayBatches(images, {}, batch=2, seed=5).restore(state)
    with pytest.raises(ValueError, match="2 events, expected at least one batch of 3"):
        ArrayBatches(images[:2], {}, batch=3)
