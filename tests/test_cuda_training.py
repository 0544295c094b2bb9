"""Training on the compiled CUDA backend, on a GPU or on the emulator: the CPU's run from the same seed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cuda
from gankernels.cli import main

if cuda.why_not() is not None:
    pytest.skip(f"cuda cannot be used: {cuda.why_not()}", allow_module_level=True)

STEPS = 12
TOY = ["--set", "data.events=160", "--batch", "16", "--max-steps", str(STEPS), "--no-report"]
EVERY_STEP = ["--set", "train.log_every=1"]
CURVES = ("d", "d_real", "d_fake", "r1", "g", "g_adv")


def curves(run: Path) -> dict[str, Any]:
    """What train.csv says of every step; r1 has a number in every fourth one."""
    with (run / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows if row[name]]) for name in CURVES}


def train(device: str, run: Path, seed: int = 3) -> dict[str, Any]:
    where = ["--device", device, "--seed", str(seed), "--run-dir", str(run)]
    assert main(["train", "toy-gaussian", *TOY, *EVERY_STEP, *where]) == 0
    assert json.loads((run / "run.json").read_text())["device"] == device
    return curves(run)


def test_the_same_seed_trains_toy_gaussian_to_the_same_losses_as_on_the_cpu(tmp_path: Path) -> None:
    want, found = train("cpu", tmp_path / "cpu"), train("cuda", tmp_path / "cuda")
    assert len(want["d"]) == STEPS
    assert want["d"][-1] < want["d"][0] - 0.05  # it learned
    # Sums of at most 128 products differ by their order: 128 * 2**-24 of a layer's values, four layers and as many
    # derivatives deep, each step on top of those before.
    within = STEPS * 8 * 128 * 2.0**-24
    for name in CURVES:
        assert want[name].shape == found[name].shape
        assert not (np.abs(found[name] - want[name]).max() > within * np.abs(want[name]).max()), name
    other = train("cuda", tmp_path / "other", seed=4)
    assert np.abs(found["d"] - other["d"]).max() > 1e-3  # what the loop above would see of another run


def test_the_command_line_trains_quickstart_and_generates_from_it_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("h5py")
    pytest.importorskip("safetensors")
    run, showers = tmp_path / "run", tmp_path / "showers.h5"
    small = ["--set", "data.events=120", "--set", "data.grid=[5, 6, 4]", "--set", "model.channels=2"]
    few = ["--batch", "8", "--max-steps", "3", "--seed", "3", "--no-report", *EVERY_STEP]
    assert main(["train", "quickstart", "--device", "cuda", "--run-dir", str(run), *small, *few]) == 0
    assert json.loads((run / "run.json").read_text())["device"] == "cuda"
    found = curves(run)
    assert len(found["d"]) == len(found["g"]) == 3
    assert all(np.isfinite(curve).all() for curve in found.values())
    assert main(["generate", str(run), "--out", str(showers), "--events", "5", "--device", "cpu"]) == 0
