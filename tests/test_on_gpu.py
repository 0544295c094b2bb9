"""The script for machines with a GPU (`python -m benchmarks.on_gpu`): what it does when, and when it goes on."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.cpu_only
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, found in the checkout wherever the tests run."""
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("benchmarks.on_gpu")


class Machine:
    """Pieces that leave a line in a file, in place of builds and tests."""

    def __init__(self, module: Any, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module, self.place, self.done = module, place, place / "done"
        self.codes: dict[str, str] = {}
        self.names = ["build", "info", "suite 1", "time step toy"]
        (place / "package").mkdir(parents=True)
        monkeypatch.setattr(module, "_pieces", lambda *_: iter([self.piece(name) for name in self.names]))

    def piece(self, name: str) -> Any:
        note = f"open({str(self.done)!r}, 'a').write({name!r} + chr(10)); print('{{}}')\n"
        result = self.place / "times.json" if name.startswith("time") else None
        return self.module.Piece(name, [sys.executable, "-c", note + self.codes.get(name, "")], 60.0, result)

    def run(self, *arguments: str) -> tuple[int, list[str]]:
        """The exit code, and the pieces that ran."""
        self.done.write_text("")
        code = self.module.main(["--out", str(self.place), *arguments])
        return code, self.done.read_text().split("\n")[:-1]

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "results.json").read_text())["pieces"]
        return found


@pytest.fixture
def machine(on_gpu: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(on_gpu, tmp_path / "place", monkeypatch)


def test_what_passed_is_not_run_again_and_what_failed_comes_after_what_is_new(machine: Machine) -> None:
    machine.codes = {
        "suite 1": "raise SystemExit('three tests failed')",
        "time step toy": f"open({str(machine.place / 'times.json')!r}, 'w').write('[1]')",
    }
    assert machine.run() == (1, machine.names)
    assert machine.record()["suite 1"]["last"] == "three tests failed"
    assert machine.record()["time step toy"]["measured"] == [1]
    assert machine.record()["info"]["report"] == {}
    machine.names.append("sanitize memcheck")
    assert machine.run() == (1, ["sanitize memcheck", "suite 1"])
    machine.codes = {}
    assert machine.run() == (0, ["suite 1"])
    assert machine.run() == (0, [])


def test_a_failed_build_ends_the_call_and_a_lost_one_is_made_again(machine: Machine) -> None:
    machine.codes = {"build": "print('x.cu(3): warning #177-D: unused'); raise SystemExit(1)"}
    assert machine.run() == (1, ["build"])
    assert machine.record()["build"]["warnings"] == ["x.cu(3): warning #177-D: unused"]
    machine.codes = {}
    assert machine.run()[0] == 0
    (machine.place / "package").rmdir()
    machine.codes = {"build": f"import os; os.mkdir({str(machine.place / 'package')!r})"}
    assert machine.run() == (0, ["build"])


@pytest.mark.parametrize("late", ["build", "time step toy"])
def test_when_the_time_ends_all_that_was_started_ends_and_the_code_is_2(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, late: str
) -> None:
    monkeypatch.setattr(machine.module, "LEAST_S", 0.5)
    child = machine.place / "child"
    machine.codes = {
        late: "import subprocess, sys, time; "
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid)); time.sleep(60)"
    }
    machine.names = ["build", late] if late != "build" else machine.names
    code, ran = machine.run("--minutes", "0.04")
    assert (code, ran[-1], machine.record()[late]["status"]) == (2, late, "late")
    _wait_until_gone(int(child.read_text()))
    machine.codes = {}
    assert machine.run()[0] == 0
    assert machine.record()[late]["status"] == "passed"


def _wait_until_gone(pid: int) -> None:
    for _ in range(200):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":  # killed, and not yet asked for by its new parent
            return
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("what a late piece started still ran")


def test_other_sources_make_everything_be_done_again(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.run()[0] == 0
    monkeypatch.setattr(machine.module, "_fingerprint", lambda: "other")
    assert machine.run() == (0, machine.names)


def test_a_tool_that_is_not_there_is_no_failure(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = machine.module.Piece("sanitize memcheck", ["compute-sanitizer-that-is-not-here"])
    monkeypatch.setattr(machine.module, "_pieces", lambda *_: iter([absent]))
    assert machine.run() == (0, [])
    assert machine.record()["sanitize memcheck"]["status"] == "absent"


@pytest.mark.parametrize("part", ["build", "info", "suite", "sanitize", "time"])
def test_every_part_builds_first_and_names_files_that_exist(on_gpu: Any, tmp_path: Path, part: str) -> None:
    for emulated in (False, True):
        pieces = list(on_gpu._pieces(tmp_path, [part], emulated))
        assert pieces[0].name == "build"
        assert len(pieces) > 1 or part == "build" or (part == "sanitize" and emulated)
        assert len({p.name for p in pieces}) == len(pieces)
        named = {word for p in pieces for word in p.command if word.startswith("tests/")}
        assert all((ROOT / word).exists() for word in named)


def test_the_options_of_timed_pieces_are_those_of_the_benchmarks(on_gpu: Any, tmp_path: Path) -> None:
    command = importlib.import_module("benchmarks.command")
    for emulated in (False, True):
        for piece in on_gpu._pieces(tmp_path, ["time"], emulated):
            if piece.name != "build":
                words = [word.replace("{minutes}", "1.5") for word in piece.command[3:]]
                assert command.chosen(command.parser().parse_args(words), 2)
