"""train, generate and validate together on a run of six steps: files, resume, signals, held-out events."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import devices
import numpy as np
import pytest

import gankernels as gk
from gankernels.calo import open_showers, sha256_of
from gankernels.cli import main

pytest.importorskip("h5py")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.much_work  # nearly every test looks at a run that trained

EVENTS = 160 if devices.is_emulated() else 240
SMALL = ["--set", "model.channels=4", "--batch", "16", "--seed", "3", "--set", "train.lr_schedule=constant",
         "--set", "train.log_every=2"]  # fmt: skip


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256_of(p) for p in sorted(root.rglob("*")) if p.is_file()}


def weights(run: Path, step: int) -> dict[str, str]:
    found = run / "checkpoints" / f"checkpoint-{step:06d}"
    return {name: digest for name, digest in tree(found).items() if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "showers.h5"
    assert main(["simulate", str(path), "--events", str(EVENTS), "--grid", "8,8,8", "--seed", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def finished(showers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six steps with its report."""
    runs = tmp_path_factory.mktemp("runs")
    assert main(["train", "quickstart", "--data", str(showers), "--runs", str(runs), "--max-steps", "6", *SMALL]) == 0
    return runs / "00000-quickstart"


def test_a_run_directory_holds_what_is_needed_to_repeat_it(finished: Path, showers: Path) -> None:
    for name in ("config.toml", "versions.json", "run.json", "data.json", "train.csv", "log.jsonl", "generated.h5",
                 "report.html", "report.json"):  # fmt: skip
        assert (finished / name).stat().st_size > 0, name
    assert list((finished / "samples").glob("*.png"))
    assert list((finished / "checkpoints").glob("checkpoint-*"))
    (file,) = json.loads((finished / "data.json").read_text())["files"]
    assert (file["name"], file["sha256"], file["events"]) == (showers.name, sha256_of(showers), EVENTS)
    assert json.loads((finished / "run.json").read_text())["recipe"] == "quickstart"


def test_a_second_run_gets_its_own_directory(finished: Path, showers: Path) -> None:
    before = tree(finished)
    where = ["--data", str(showers), "--runs", str(finished.parent), "--max-steps", "1", "--no-report"]
    assert main(["train", "quickstart", *where, *SMALL]) == 0
    assert (finished.parent / "00001-quickstart" / "config.toml").is_file()
    assert tree(finished) == before


def test_a_run_directory_that_exists_is_never_used_again(finished: Path, showers: Path, capsys: Capture) -> None:
    before = tree(finished)
    assert main(["train", "quickstart", "--data", str(showers), "--run-dir", str(finished)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert tree(finished) == before


def test_a_dry_run_checks_everything_and_writes_nothing(
    showers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "quickstart", "--data", str(showers), "--dry-run", *SMALL]) == 0
    plan = capsys.readouterr().out
    for part in ("[train]", "generator", "parameters", "sha256", "one epoch"):
        assert part in plan
    assert ("MB for a step" in plan) == (gk.get_default_device() == "cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_begin_leaves_no_directory(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    where = ["--data", str(showers), "--runs", str(tmp_path / "runs")]
    assert main(["train", "quickstart", *where, "--batch", "100000"]) == 2
    assert "batch" in capsys.readouterr().err
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_recipe_without_data_simulates_into_the_run_directory(tmp_path: Path) -> None:
    small = ["--set", "data.events=120", "--set", "data.grid=[8, 8, 8]", "--max-steps", "1", "--no-report"]
    assert main(["train", "quickstart", "--run-dir", str(tmp_path / "run"), *small, *SMALL]) == 0
    with open_showers(tmp_path / "run" / "simulated.h5") as file:
        assert (file.n_events, file.grid.shape) == (120, (8, 8, 8))


def test_a_resumed_run_ends_with_the_same_bits(finished: Path, showers: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    first = ["--data", str(showers), "--run-dir", str(half), "--max-steps", "3", "--no-report"]
    assert main(["train", "quickstart", *first, *SMALL]) == 0
    (half / "generated.h5").write_text("left by an earlier report")
    assert main(["train", "quickstart", "--resume", str(half), "--max-steps", "6"]) == 0
    with open_showers(half / "generated.h5") as file:
        assert file.n_events > 0
    assert weights(half, 6) == weights(finished, 6)
    assert weights(half, 3) != weights(half, 6)


def test_a_run_does_not_go_on_with_other_data(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.h5"
    assert main(["simulate", str(other), "--events", str(EVENTS), "--grid", "8,8,8", "--seed", "5"]) == 0
    assert main(["train", "quickstart", "--resume", str(finished), "--data", str(other), "--max-steps", "9"]) == 2
    assert "data have changed" in " ".join(capsys.readouterr().err.split())


def test_a_signal_saves_and_ends_with_75(showers: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    where = ["--data", str(showers), "--run-dir", str(run), "--max-steps", "100000", *SMALL]
    command = [sys.executable, "-m", "gankernels", "train", "quickstart", *where]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not (run / "train.csv").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert "stopped by SIGTERM" in out
    assert f"--resume {run}" in err
    assert list((run / "checkpoints").glob("checkpoint-*"))


def test_generate_writes_showers_at_the_energies_that_were_asked_for(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "g.h5"
    wanted = ["--events", "50", "--energy-gev", "20:30", "--batch", "16"]
    assert main(["generate", str(finished), "--out", str(out), *wanted]) == 0
    with open_showers(out) as file:
        made = file.read()
    assert made.cells_gev.shape == (50, 8, 8, 8)
    assert made.energy_gev.min() >= 20
    assert made.energy_gev.max() <= 30
    assert np.isfinite(made.cells_gev).all()


def test_energies_beyond_those_of_the_training_are_generated_with_a_warning(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, wanted, warned in (("in.h5", "20:30", False), ("out.h5", "20:3000", True)):
        out = tmp_path / name
        assert main(["generate", str(finished), "--out", str(out), "--events", "4", "--energy-gev", wanted]) == 0
        assert ("nothing is known about showers outside" in capsys.readouterr().err) == warned


def test_files_of_a_run_can_be_read_by_whom_the_user_lets_read(finished: Path) -> None:
    mask = os.umask(0)
    os.umask(mask)
    for name in ("run.json", "data.json", "report.json", "report.html", "config.toml"):
        assert (finished / name).stat().st_mode & 0o777 == 0o666 & ~mask, name


def test_the_same_seed_generates_the_same_showers(finished: Path, tmp_path: Path) -> None:
    made = []
    for name in ("a.h5", "b.h5"):
        assert main(["generate", str(finished), "--out", str(tmp_path / name), "--events", "20", "--seed", "9"]) == 0
        with open_showers(tmp_path / name) as file:
            made.append(file.read())
    assert made[0].cells_gev.tobytes() == made[1].cells_gev.tobytes()


def test_generate_takes_the_conditions_of_a_file(finished: Path, showers: Path, tmp_path: Path) -> None:
    out = tmp_path / "like.h5"
    assert main(["generate", str(finished), "--out", str(out), "--like", str(showers)]) == 0
    with open_showers(out) as made, open_showers(showers) as like:
        assert made.energies().tobytes() == like.energies().tobytes()


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["--checkpoint", "7777"], "there is no checkpoint of step 7777; there are: 6"),
        (["--checkpoint", "newest"], "expected best, latest or the number of a step"),
        (["--theta-deg", "60:120"], "is not told the angle"),
        (["--like", "absent.h5"], "absent.h5"),
    ],
)
def test_generate_refuses_what_the_run_cannot_do(
    argv: list[str], part: str, finished: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert main(["generate", str(finished), "--out", str(tmp_path / "x.h5"), *argv]) in (1, 2)
    assert part in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "x.h5").exists()


def test_validate_leaves_out_the_events_of_the_training(
    finished: Path, showers: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "g.h5"
    assert main(["generate", str(finished), "--out", str(out), "--like", str(showers)]) == 0
    capsys.readouterr()
    assert main(["validate", str(out), "--reference", str(showers), "--no-classifier"]) == 0
    held_out = json.loads((finished / "data.json").read_text())["events"]["validation"]
    assert f"only {held_out} of its held-out events" in capsys.readouterr().out
    assert json.loads((tmp_path / "report.json").read_text())["provenance"]["reference showers"] == held_out


def test_a_damaged_run_json_is_refused_in_words(finished: Path, tmp_path: Path, capsys: Capture) -> None:
    broken = tmp_path / "run"
    broken.mkdir()
    for text in ("", "[]", "{}", '{"recipe": 3}'):
        (broken / "run.json").write_text(text)
        assert main(["generate", str(broken), "--out", str(tmp_path / "x.h5")]) == 2
        assert "run.json" in capsys.readouterr().err


def test_generated_showers_do_not_depend_on_the_batch(finished: Path, tmp_path: Path) -> None:
    made = []
    for batch in ("7", "64"):
        out = tmp_path / f"{batch}.h5"
        assert main(["generate", str(finished), "--out", str(out), "--events", "100", "--batch", batch]) == 0
        with open_showers(out) as file:
            made.append(file.read())
    assert np.array_equal(made[0].energy_gev, made[1].energy_gev)
    error = np.abs(made[0].cells_gev - made[1].cells_gev).max()
    assert not error > 1e-4 * made[1].cells_gev.max()
