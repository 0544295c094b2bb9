"""What a run directory keeps when something is refused or ended: resume, SIGTERM, reports."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gankernels.calo import sha256_of
from gankernels.cli import main

pytest.importorskip("h5py")
pytest.importorskip("safetensors")
pytest.importorskip("matplotlib")
Capture = pytest.CaptureFixture[str]
pytestmark = pytest.mark.cpu_only  # about files, signals and what is refused


def tree(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): sha256_of(p) for p in sorted(root.rglob("*")) if p.is_file()}


def said(capsys: Capture) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "showers.h5"
    assert main(["simulate", str(path), "--events", "160", "--grid", "8,8,8", "--seed", "1"]) == 0
    return path


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the toy, stopped after two steps."""
    run = tmp_path_factory.mktemp("runs") / "00000-toy-gaussian"
    where = ["--run-dir", str(run), "--max-steps", "2", "--no-report"]
    assert main(["train", "toy-gaussian", *where, "--set", "data.events=300"]) == 0
    return run


@pytest.mark.parametrize("change", [["--batch", "64"], ["--set", "model.width=32"], ["--seed", "5"]], ids=" ".join)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["train", "dry"])
def test_a_refused_resume_changes_nothing(change: list[str], dry: list[str], toy: Path, capsys: Capture) -> None:
    before = tree(toy)
    command = ["train", "toy-gaussian", "--resume", "latest", "--runs", str(toy.parent), "--max-steps", "3"]
    assert main([*command, *change, *dry]) == 1
    assert "does not fit this run" in said(capsys)
    assert tree(toy) == before


def test_a_resume_that_fits_passes_the_dry_run_and_writes_its_settings(toy: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(toy, run)
    before = tree(run)
    command = ["train", "toy-gaussian", "--resume", str(run), "--max-steps", "3", "--no-report"]
    assert main([*command, "--dry-run"]) == 0
    assert tree(run) == before
    assert main(command) == 0
    assert "max_steps = 3" in (run / "config.toml").read_text()


def test_latest_is_the_latest_directory_that_a_run_began_in(toy: Path, capsys: Capture) -> None:
    left = toy.parent / "00007-toy-gaussian"
    left.mkdir()
    try:
        assert main(["train", "toy-gaussian", "--resume", "latest", "--runs", str(toy.parent), "--dry-run"]) == 0
    finally:
        left.rmdir()


def ended(command: list[str], until: Path, pattern: str) -> tuple[int, str]:
    """Exit code and message of a command that gets SIGTERM as soon as a file is there."""
    whole = [sys.executable, "-m", "gankernels", *command]
    with subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(until.glob(pattern)) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        try:
            _, err = process.communicate(timeout=30)
        finally:
            process.kill()
    return process.returncode, err


def test_sigterm_while_simulating_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "x.h5"
    code, err = ended(["simulate", str(out), "--events", "1000000", "--grid", "8,8,8"], tmp_path, ".x.h5.*.part")
    assert code == 1, err
    assert "gankernels simulate: ended by SIGTERM" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_sigterm_before_training_leaves_no_run_directory(tmp_path: Path) -> None:
    command = ["train", "quickstart", "--runs", str(tmp_path), "--set", "data.events=1000000"]
    code, err = ended(command, tmp_path, "*/.simulated.h5.*.part")
    assert code == 1, err
    assert "gankernels train: ended by SIGTERM" in err
    assert list(tmp_path.iterdir()) == []


def test_validate_replaces_a_report_only_when_asked(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ["validate", str(showers), "--reference", str(showers), "--no-classifier", "--out", str(tmp_path)]
    assert main(command) == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert main(command) == 2
    assert "--overwrite" in said(capsys)
    assert tree(tmp_path) == before
    assert main([*command, "--title", "Again", "--overwrite"]) == 0
    assert tree(tmp_path) != before


def test_the_report_of_a_run_is_never_replaced_by_default(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    shutil.copy(showers, tmp_path / "generated.h5")
    for name in ("run.json", "report.html", "report.json"):
        (tmp_path / name).write_text("{}")
    before = tree(tmp_path)
    command = ["validate", str(tmp_path / "generated.h5"), "--reference", str(showers), "--overwrite"]
    assert main(command) == 2
    assert "--out" in said(capsys)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_ordinary_file_is_never_replaced(kind: str, tmp_path: Path, capsys: Capture) -> None:
    target = tmp_path / "x.h5"
    if kind == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    assert main(["simulate", str(target), "--events", "2", "--grid", "4,4,4", "--overwrite"]) == 2
    assert "no ordinary file" in said(capsys)
    assert target.is_fifo() if kind == "fifo" else target.is_dir()


def test_too_few_events_for_a_report_are_refused_before_the_training(tmp_path: Path, capsys: Capture) -> None:
    few = tmp_path / "few.h5"
    assert main(["simulate", str(few), "--events", "60", "--grid", "8,8,8"]) == 0
    command = ["train", "quickstart", "--data", str(few), "--batch", "8", "--dry-run"]
    assert main(command) == 2
    assert "for validation, expected at least 20" in said(capsys)
    assert main([*command, "--no-report"]) == 0


def test_the_same_showers_twice_are_refused_by_name(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    copy = tmp_path / "copy.h5"
    shutil.copy(showers, copy)
    for second in (showers, copy):
        assert main(["train", "quickstart", "--data", str(showers), str(second), "--batch", "8", "--dry-run"]) == 2
        assert f"{second} holds the same showers as {showers}" in said(capsys)
