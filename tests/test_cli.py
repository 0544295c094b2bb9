"""The command line: what it says, what it refuses, and the exit codes. Training has a file of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import gankernels as gk
from gankernels.cli import main
from gankernels.cli.entry import COMMANDS

pytest.importorskip("h5py")
Capture = pytest.CaptureFixture[str]


def run(*argv: str) -> int:
    """The exit code of a command line, also where argparse ends it."""
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


def refused(capsys: Capture, code: int, *argv: str) -> str:
    """The message of a command line that must end with this code: one paragraph, no traceback."""
    assert run(*argv) == code
    seen = capsys.readouterr()
    assert "Traceback" not in seen.err
    assert "usage:" not in seen.err
    paragraph = " ".join(seen.err.split())
    assert paragraph.startswith("gankernels")
    assert "\n\n" not in seen.err.strip()
    return paragraph


@pytest.fixture
def showers(tmp_path: Path) -> Path:
    path = tmp_path / "showers.h5"
    assert run("simulate", str(path), "--events", "60", "--grid", "8,8,8", "--seed", "1") == 0
    return path


# ---- what it says --------------------------------------------------------------------------------------------------
def test_the_version_is_the_package_s(capsys: Capture) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"gankernels {gk.__version__}\n"


def test_without_a_command_the_help_is_shown(capsys: Capture) -> None:
    assert run() == 0
    page = capsys.readouterr().out
    assert all(f"\n    {name}" in page for name in COMMANDS)
    assert "75 stopped by a signal" in page


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_examples(name: str, capsys: Capture) -> None:
    assert run(name, "--help") == 0
    page = capsys.readouterr().out
    assert f"examples:\n  gankernels {name}" in page


def test_info_prints_the_report(capsys: Capture) -> None:
    assert run("info", "--json") == 0
    assert '"isa"' in capsys.readouterr().out


def test_recipes_lists_them_and_explains_one(capsys: Capture) -> None:
    assert run("recipes") == 0
    listed = capsys.readouterr().out
    assert "quickstart" in listed
    assert "3dgan" in listed
    assert run("recipes", "quickstart") == 0
    assert "train.batch" in capsys.readouterr().out


def test_the_settings_of_a_recipe_are_a_file_that_train_reads(tmp_path: Path, capsys: Capture) -> None:
    from gankernels.gan import config, recipes

    assert run("recipes", "quickstart", "--toml") == 0
    (tmp_path / "run.toml").write_text(capsys.readouterr().out)
    default = recipes.get("quickstart").config
    assert config.configure(default, tmp_path / "run.toml") == default


# ---- simulate and validate -----------------------------------------------------------------------------------------
def test_the_same_seed_simulates_the_same_showers(showers: Path, tmp_path: Path) -> None:
    from gankernels.calo import open_showers

    again = tmp_path / "again.h5"
    assert run("simulate", str(again), "--events", "60", "--grid", "8,8,8", "--seed", "1") == 0
    with open_showers(showers) as a, open_showers(again) as b:
        assert a.read().cells_gev.tobytes() == b.read().cells_gev.tobytes()


def test_simulate_replaces_a_file_only_when_asked(showers: Path, capsys: Capture) -> None:
    before = showers.read_bytes()
    assert "--overwrite" in refused(capsys, 2, "simulate", str(showers))
    assert showers.read_bytes() == before
    assert run("simulate", str(showers), "--events", "5", "--grid", "4,4,4", "--overwrite") == 0


@pytest.mark.much_work
def test_validate_writes_the_report_and_prints_its_table(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.h5"
    assert run("simulate", str(other), "--events", "60", "--grid", "8,8,8", "--seed", "2") == 0
    out = tmp_path / "report"
    assert run("validate", str(other), "--reference", str(showers), "--out", str(out), "--no-classifier") == 0
    page = capsys.readouterr().out
    assert "response (deposited / incident energy)" in page
    assert str(out / "report.html") in page
    assert (out / "report.html").stat().st_size > 1000
    assert (out / "report.json").is_file()


# ---- what it refuses -----------------------------------------------------------------------------------------------
WRONG = [
    (["fly"], "invalid choice: 'fly'"),
    (["info", "--yaml"], "--yaml"),
    (["recipes", "quickstrat"], "did you mean 'quickstart'?"),
    (["simulate"], "OUT"),
    (["simulate", "x.h5", "--events", "0"], "at least 1"),
    (["simulate", "x.h5", "--events", "many"], "expected an integer"),
    (["simulate", "x.h5", "--energy-gev", "100:10"], "low <= high"),
    (["simulate", "x.h5", "--energy-gev", "nan"], "a number above 0"),
    (["simulate", "x.h5", "--energy-gev", "1e9"], "energy"),
    (["simulate", "x.h5", "--grid", "25,25"], "three numbers of cells"),
    (["simulate", "x.h5", "--grid", "25,0,25"], "at least 1"),
    (["simulate", "x.h5", "--theta-deg", "1:2"], "theta_deg"),
    (["simulate", "x.h5", "--material", "cheese"], "tungsten-silicon"),
    (["simulate", "x.h5", "--seed", "-1"], "0 to 2^63"),
    (["simulate", "no/such/folder/x.h5"], "there is no folder"),
    (["simulate", "x.h5", "--threads", "0"], "at least 1"),
    (["train"], "RECIPE"),
    (["train", "4dgan"], "did you mean '3dgan'?"),
    (["train", "3dgan", "--data", "absent.h5"], "absent.h5: there is no such file"),
    (["train", "quickstart", "--set", "train.bach=3", "--dry-run"], "did you mean 'train.batch'?"),
    (["train", "quickstart", "--set", "batch=3", "--dry-run"], "did you mean 'train.batch'?"),
    (["train", "quickstart", "--set", "train.batch=5000", "--dry-run"], "fewer than one batch of 5000"),
    (["train", "quickstart", "--set", "data.events=60", "--dry-run"], "--no-report trains without one"),
    (["train", "quickstart", "--set", "train.health.condition=mass", "--dry-run"], "known are: energy"),
    (["train", "toy-gaussian", "--set", "model.latent=0", "--dry-run"], "at least 1"),
    (["train", "toy-gaussian", "--set", "train.health.condition=mass", "--dry-run"], "known are: label"),
    (["train", "quickstart", "--set", "train.batch", "--dry-run"], "as in train.batch=32"),
    (["train", "quickstart", "--set", "train.batch=soon", "--dry-run"], "train.batch"),
    (["train", "quickstart", "--batch", "0"], "at least 1"),
    (["train", "quickstart", "--minutes", "inf"], "a number above 0"),
    (["train", "quickstart", "--config", "absent.toml", "--dry-run"], "absent.toml"),
    (["train", "quickstart", "--resume", "latest"], "there is no run of quickstart"),
    (["train", "quickstart", "--resume", "runs/00007-quickstart"], "no such run directory"),
    (["generate", "absent", "--out", "x.h5"], "no such run directory"),
    (["generate", "."], "--out"),
    (["generate", ".", "--out", "x.h5"], "has no run.json"),
    (["generate", ".", "--out", "x.h5", "--like", "a.h5", "--energy-gev", "5"], "not allowed with"),
    (["validate", "absent.h5", "--reference", "other.h5"], "absent.h5: there is no such file"),
    (["validate", "absent.h5"], "--reference"),
]


@pytest.mark.parametrize(("argv", "part"), WRONG, ids=[" ".join(a) for a, _ in WRONG])
def test_wrong_use_is_answered_in_one_paragraph(
    argv: list[str], part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert part in refused(capsys, 2, *argv)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_holds_no_showers_is_a_failure_that_names_it(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "text.h5").write_text("no showers here")
    both = str(tmp_path / "text.h5")
    assert "text.h5" in refused(capsys, 1, "validate", both, "--reference", both)


def test_validate_needs_the_same_grid(showers: Path, tmp_path: Path, capsys: Capture) -> None:
    other = tmp_path / "other.h5"
    assert run("simulate", str(other), "--events", "60", "--grid", "6,6,6") == 0
    capsys.readouterr()
    said = refused(capsys, 2, "validate", str(other), "--reference", str(showers))
    assert "(6, 6, 6)" in said
    assert "(8, 8, 8)" in said


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from gankernels.cli.errors import WrongUse

    with pytest.raises(WrongUse):
        main(["generate", str(tmp_path / "absent"), "--out", str(tmp_path / "x.h5"), "--debug"])


def test_an_unexpected_error_asks_for_a_report(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def broken(arguments: object) -> int:
        raise KeyError("inner")

    monkeypatch.setattr("gankernels.info.main", broken)
    assert "unexpected KeyError" in refused(capsys, 1, "info")


@pytest.mark.parametrize(("command", "option"), [("simulate", "--grid"), ("train", "--batch")])
def test_the_advice_on_memory_names_an_option_of_the_command(command: str, option: str) -> None:
    from gankernels.cli.errors import describe

    text, code = describe(f"gankernels {command}", MemoryError("1 TB"))
    assert code == 1
    assert text.endswith(option)


def test_ctrl_c_is_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(arguments: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gankernels.info.main", interrupted)
    assert "interrupted" in refused(capsys, 1, "info")


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    command = f"{sys.executable} -m gankernels recipes quickstart | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""


def test_a_missing_extra_is_answered_with_the_command_that_brings_it(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['h5py'] = None; from gankernels.cli import main; "
        f"sys.exit(main(['simulate', {str(tmp_path / 'x.h5')!r}, '--events', '2', '--grid', '4,4,4']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert " ".join(done.stderr.split()).endswith("pip install 'gankernels[calo]'")
    assert "Traceback" not in done.stderr


def test_threads_are_taken_from_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = gk.num_threads()
    try:
        assert run("info", "--threads", "1") == 0
        assert "threads                    1 of" in capsys.readouterr().out
    finally:
        gk.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("GANKERNELS_ISA", "sse9", "scalar"), ("GANKERNELS_NUM_THREADS", "many", "an integer from 1 to")],
)
def test_a_wrong_environment_is_one_paragraph_and_info_still_answers(name: str, value: str, said: str) -> None:
    environment = {**os.environ, name: value}

    def result_of(*command: str) -> Any:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, timeout=60, check=False, env=environment
        )

    done = result_of("-m", "gankernels", "train", "toy-gaussian", "--dry-run")
    assert done.returncode == 2
    assert done.stderr.startswith(f"gankernels train: {name} is '{value}'")
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert result_of("-m", "gankernels", "info").returncode == 0
    library = result_of("-c", "import gankernels as gk; gk.ones(3) + gk.ones(3)")
    assert library.stderr.splitlines()[-1].startswith(f"ValueError: {name} is '{value}'")


def test_threads_are_taken_from_the_environment() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gankernels", "info"], capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "GANKERNELS_NUM_THREADS": "3"},
    )  # fmt: skip
    assert "threads                    3 of" in done.stdout
    assert "GANKERNELS_NUM_THREADS=3" in done.stdout
