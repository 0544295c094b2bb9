"""The logs of a run: their content, what a resumed run does to them, and that they never stop a training."""

from __future__ import annotations

import csv
import io
import json
import sys
import types

import pytest
from gan_toys import toy_data, toy_gan

from gankernels.gan import Trainer, TrainerConfig
from gankernels.gan.logs import Progress, RunLog


def records(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def table(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_training_leaves_its_losses_and_metrics_as_csv_and_jsonl(tmp_path):
    config = TrainerConfig(max_steps=12, batch=16, log_every=3, validate_every=6)
    Trainer(toy_gan(), toy_data(), config, tmp_path, on_validate=lambda t: {"score": 1.0 / t.step, "auc": 0.5}).run()
    rows = table(tmp_path / "train.csv")
    assert [int(r["step"]) for r in rows] == [3, 6, 9, 12]
    assert {"epoch", "d_steps", "g_steps", "seconds", "d", "g", "d_real", "d_fake", "g_adv", "g_energy"} <= rows[
        0
    ].keys()
    assert all(float(r["d"]) > 0 for r in rows)
    assert [(r["step"], float(r["score"])) for r in table(tmp_path / "validation.csv")] == [
        ("6", 1 / 6),
        ("12", 1 / 12),
    ]
    kinds = [(r["kind"], r["step"]) for r in records(tmp_path / "log.jsonl")]
    assert kinds == [(k, s) for s in (3, 6, 9, 12) for k in ("train", "validation") if k == "train" or s % 6 == 0]


def test_records_after_the_resumed_step_are_cut(tmp_path):
    log = RunLog(tmp_path)
    for step in (1, 2, 3):
        log.train(step, {"d": step * 0.5})
        log.validation(step, {"score": step})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # a line that a crash left half written
    with (tmp_path / "train.csv").open("a") as file:
        file.write("4")
    resumed = RunLog(tmp_path, resumed_step=2)
    resumed.train(3, {"d": 9.0})
    assert [(r["step"], r["d"]) for r in table(tmp_path / "train.csv")] == [("1", "0.5"), ("2", "1.0"), ("3", "9.0")]
    assert [r["step"] for r in table(tmp_path / "validation.csv")] == ["1", "2"]
    assert [r["step"] for r in records(tmp_path / "log.jsonl")] == [1, 1, 2, 2, 3]


def test_a_new_quantity_is_in_the_jsonl_and_leaves_the_csv_readable(tmp_path):
    log = RunLog(tmp_path)
    log.train(1, {"d": 1.0, "r1": 0.5})
    log.train(2, {"d": float("nan"), "g": 3.0})
    assert table(tmp_path / "train.csv")[1] == {"step": "2", "d": "nan", "r1": ""}
    assert records(tmp_path / "log.jsonl")[1] == {"kind": "train", "step": 2, "d": None, "g": 3.0}


def test_a_log_that_cannot_be_written_is_one_warning(tmp_path):
    log = RunLog(tmp_path)
    (tmp_path / "train.csv").mkdir()
    with pytest.warns(UserWarning, match=r"train\.csv cannot be written"):
        log.train(1, {"d": 1.0})
    log.train(2, {"d": 1.0})
    assert [r["step"] for r in records(tmp_path / "log.jsonl")] == [1, 2]


def test_tensorboard_is_used_where_it_is_installed_and_missed_without_harm(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, directory):
            written.append(directory)

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    module = types.ModuleType("tensorboardX")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "tensorboardX", module)
    log = RunLog(tmp_path, tensorboard=True)
    log.train(5, {"d": 1.5, "note": "text"})
    log.close()
    assert written == [str(tmp_path), ("train/d", 1.5, 5), "closed"]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.warns(UserWarning, match="TensorBoard cannot be written"):
        RunLog(tmp_path, tensorboard=True)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_shows_step_rate_and_time_left_on_a_terminal_only(monkeypatch):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    monkeypatch.setattr(Progress, "interval_s", 0.0)
    screen = Terminal()
    progress = Progress("auto", 100, 10, 16, screen)
    progress.update(20, {"d": 1.25, "g": 0.5})
    assert "step 20/100" in screen.getvalue()
    assert "showers/s" in screen.getvalue()
    assert "left" in screen.getvalue()
    assert "d 1.25 g 0.5" in screen.getvalue()
    file = io.StringIO()
    quiet = Progress("auto", 100, 0, 16, file)
    quiet.update(20, {})
    quiet.close()
    assert file.getvalue() == ""
    quiet.say("a line")
    assert file.getvalue() == "a line\n"


def test_progress_uses_tqdm_where_it_is_installed():
    pytest.importorskip("tqdm")
    screen = Terminal()
    progress = Progress("on", 100, 0, 16, screen)
    progress.interval_s = 0.0
    progress.update(50, {"d": 1.0})
    progress.say("a line")
    progress.close()
    assert "50%" in screen.getvalue()
    assert "a line" in screen.getvalue()
