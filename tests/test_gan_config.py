"""Configurations: what a TOML file and --set may say, and what is answered to everything else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pytest

from gankernels.gan import LossConfig, OptimizerConfig, TrainerConfig
from gankernels.gan.config import ConfigError, configure, explain, option, to_dict, to_toml


@dataclass(frozen=True)
class Model:
    channels: tuple[int, ...] = option((8, 8), "channels of the layers")
    kind: Literal["dense", "conv"] = option("conv", "kind of network")
    slope: float = option(0.3, "of LeakyReLU")
    note: str = option("", "anything")
    size: tuple[int, int] = option((3, 3), "extents")
    weights: dict[str, float] = option({"energy": 0.1}, "of the losses")
    limit: float | None = option(None, "none: no limit")
    fast: bool = option(True, "a switch")


@dataclass(frozen=True)
class Run:
    seed: int = option(1, "the seed")
    model: Model = option(Model(), "the networks")
    trainer: TrainerConfig = option(TrainerConfig(epochs=2), "the training")


def test_a_file_and_then_overrides_change_the_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('seed = 7\n[model]\nchannels = [4, 5, 6]\nslope = 1\n[trainer.losses]\ndiscriminator = "hinge"\n')
    run = configure(Run(), path, ["model.slope=0.2", "trainer.d_optimizer.lr=1e-3", "trainer.max_steps=1_000"])
    assert run.seed == 7
    assert run.model.channels == (4, 5, 6)
    assert run.model.slope == 0.2
    assert run.trainer.losses.discriminator == "hinge"
    assert run.trainer.d_optimizer.lr == 1e-3
    assert run.trainer.max_steps == 1000
    assert run.trainer.g_optimizer == OptimizerConfig()
    assert Run().model.slope == 0.3


def test_overrides_take_words_lists_switches_and_none():
    changes = ["model.kind=dense", "model.channels=[1,2]", "model.fast=false", "model.limit=2", "model.note=a=b c"]
    run = configure(Run(), overrides=changes)
    assert (run.model.kind, run.model.channels, run.model.fast) == ("dense", (1, 2), False)
    assert (run.model.limit, run.model.note) == (2.0, "a=b c")
    assert configure(run, overrides=["model.limit=none"]).model.limit is None


def test_a_configuration_survives_its_own_toml(tmp_path):
    note = 'quotes " and \\ and \u00e9 and \x7f and \t'
    run = replace(Run(seed=3), model=replace(Model(), note=note, limit=1e-30, weights={"a b": 1.0, "c": 2.0}))
    path = tmp_path / "run.toml"
    path.write_text(to_toml(run), encoding="utf-8")
    other = replace(Run(), model=replace(Model(), limit=5.0, weights={}))
    assert configure(other, path) == run
    path.write_text(to_toml(Run()), encoding="utf-8")
    assert configure(other, path).model.limit is None
    assert to_dict(run)["model"]["weights"] == {"a b": 1.0, "c": 2.0}


def test_every_key_of_the_trainer_is_explained():
    rows = {row.key: row for row in explain(Run())}
    assert rows["model.channels"].default == (8, 8)
    assert rows["trainer.losses.r1"].default == 0.0
    assert rows["trainer.epochs"].default == 2
    assert "minimax" in rows["trainer.losses.generator"].type
    assert all(row.help for row in rows.values())


BAD_OVERRIDES = {
    "an unknown key gets the closest one": ("model.slop=1", "unknown key 'model.slop'; did you mean 'model.slope'"),
    "an unknown section": ("trainr.seed=1", "did you mean 'trainer'"),
    "a dunder is no key": ("model.__class__=1", "unknown key 'model.__class__'"),
    "a section is no value": ("model=3", "model is a section, got 3"),
    "a value is no section": ("seed.x=3", "seed must be a whole number"),
    "text for a number": ("model.slope=steep", "model.slope must be a finite number, got 'steep'"),
    "not a number": ("model.slope=nan", "model.slope must be a finite number"),
    "infinity": ("trainer.d_optimizer.lr=inf", "trainer.d_optimizer.lr must be a finite number"),
    "a fraction for a count": ("seed=1.5", "seed must be a whole number, got 1.5"),
    "a switch for a count": ("seed=true", "seed must be a whole number, got True"),
    "a number for a switch": ("model.fast=1", "model.fast must be true or false, got 1"),
    "a number for a name": ("model.note=1", "model.note must be a string, got 1"),
    "an unknown choice": ("model.kind=cnv", "model.kind cannot be 'cnv'; did you mean 'conv'"),
    "a scalar for a list": ("model.channels=3", r"model.channels must be a list, got 3"),
    "a wrong entry": ("model.channels=[1, 'a']", r"model.channels\[1\] must be a whole number, got 'a'"),
    "a list too long": ("model.size=[1, 2, 3]", "model.size must have 2 entries"),
    "a wrong table entry": ("model.weights={energy='x'}", "model.weights.energy must be a finite number"),
    "no equals sign": ("seed", "expected key=value"),
    "an empty part": ("model..slope=1", "expected key=value"),
    "deep nesting": ("model.note=" + "[" * 100_000, "nested too deeply|must be a string"),
    "a negative rate": (
        "trainer.d_optimizer.lr=-1",
        r"section trainer.d_optimizer\): optimizer: lr must be at least 0",
    ),
    "no end": ("trainer.epochs=0", "nothing says when to end"),
    "a batch of nothing": ("trainer.batch=0", "batch must be at least 1, got 0"),
    "EMA without end": ("trainer.ema_decay=1.0", "ema_decay must be at least 0 and at most 1, got 1.0"),
    "labels beyond the half": ("trainer.losses.label_flip=0.5", "label_flip must be at least 0 and below 0.5"),
    "smoothing where there is none": ("trainer.losses={discriminator='hinge', real_label=0.9}", "no smoothed labels"),
    "patience of nothing": ("trainer.health.patience=0", "patience >= 1"),
}


@pytest.mark.parametrize("what", BAD_OVERRIDES)
def test_a_wrong_override_is_answered_by_name(what):
    text, message = BAD_OVERRIDES[what]
    with pytest.raises(ConfigError, match=message):
        configure(Run(), overrides=[text])


def test_a_key_cannot_be_a_value_and_a_section():
    with pytest.raises(ConfigError, match="both as a value and as a section"):
        configure(Run(), overrides=["model=1", "model.slope=2"])


BAD_FILES = {
    "no TOML": (b"seed = \n", "is not TOML"),
    "a key twice": (b"seed = 1\nseed = 2\n", "is not TOML"),
    "no text": (b"\xff\xfe\x00", "is not UTF-8"),
    "too large": (b"# " + b"x" * 1_000_001, "larger than 1000000 bytes"),
    "deep nesting": (b"seed = " + b"[" * 200_000, "nested too deeply|is not TOML"),
    "an unknown table": (b"[modle]\nslope = 1\n", "unknown key 'modle'; did you mean 'model'"),
    "an array of tables": (b"[[model]]\nslope = 1\n", "model is a section"),
    "a date": (b"seed = 2020-01-01\n", "seed must be a whole number"),
    "NUL in a string": (b'[model]\nnote = "a\\u0000b"\n', "without NUL"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_a_wrong_file_is_answered_by_name(what, tmp_path):
    content, message = BAD_FILES[what]
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        configure(Run(), path)
    assert "bad.toml" in str(error.value)


@pytest.mark.parametrize("place", ["missing.toml", "."])
def test_a_file_that_cannot_be_read_is_answered_by_name(place, tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        configure(Run(), tmp_path / Path(place))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"discriminator": "wgan"}, "losses: discriminator cannot be 'wgan'"),
        ({"generator": "hing"}, "did you mean 'hinge'"),
        ({"gradient_penalty": -1.0}, "gradient_penalty must be finite and at least 0"),
        ({"real_label": 0.4}, "real_label in"),
        ({"r1_interval": 0}, "r1_interval must be at least 1"),
    ],
)
def test_impossible_losses_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        LossConfig(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr_schedule": "cosin", "epochs": 1}, "did you mean 'cosine'"),
        ({"lr_schedule": "cosine", "max_seconds": 5}, "needs epochs or max_steps"),
        ({"lr_schedule": "exponential", "lr_final": 0, "epochs": 1}, "lr_final above 0"),
        ({"max_steps": 1, "d_steps": 0}, "d_steps must be at least 1"),
        ({"max_steps": 1, "progress": "yes"}, "progress cannot be 'yes'"),
        ({"max_steps": 1, "seed": -1}, "seed must be at least 0"),
    ],
)
def test_an_impossible_training_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainerConfig(**values)


def test_an_equal_number_stays_as_it_is_written(tmp_path):
    from gankernels.gan.recipes import get

    default = get("quickstart").config
    (tmp_path / "run.toml").write_text(to_toml(default))
    assert to_toml(configure(default, tmp_path / "run.toml")) == to_toml(default)
