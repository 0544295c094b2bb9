"""What a training run leaves to read: train.csv, validation.csv and log.jsonl, TensorBoard where it is installed.

A log never stops the training: the first failure is a warning, after which that log is silent. On resume, records after
the resumed step are cut off, so that every step is in the files once.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

__all__ = ["Progress", "ProgressMode", "RunLog"]

ProgressMode = Literal["auto", "on", "off"]


def _json_number(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """The logs of one run.

    Parameters
    ----------
    directory : path or None
        Made if missing; None keeps no log.
    resumed_step : int
        Records after it are removed from what is there.
    tensorboard : bool
        Also write TensorBoard events, if tensorboardX or torch's writer can be imported.
    """

    def __init__(
        self, directory: str | os.PathLike[str] | None, resumed_step: int = 0, tensorboard: bool = False
    ) -> None:
        self.directory = None if directory is None else Path(directory)
        self._columns: dict[str, list[str]] = {}
        self._silent: set[str] = set()
        self._writer: Any = None
        if self.directory is None:
            return
        self._guarded("log", self._cut, resumed_step)
        if tensorboard:
            self._guarded("TensorBoard", self._open_tensorboard)

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """A line of train.csv."""
        self._record("train", step, values)

    def validation(self, step: int, values: Mapping[str, Any]) -> None:
        """A line of validation.csv."""
        self._record("validation", step, values)

    def event(self, step: int, message: str) -> None:
        """A line of log.jsonl only."""
        if self.directory is not None:
            self._guarded("log.jsonl", self._append_json, {"kind": "event", "step": step, "message": message})

    def close(self) -> None:
        """Finish the TensorBoard file."""
        if self._writer is not None:
            self._guarded("TensorBoard", self._writer.close)

    def _record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        if self.directory is None:
            return
        row = {"step": step, **values}
        self._guarded(f"{kind}.csv", self._append_csv, kind, row)
        self._guarded("log.jsonl", self._append_json, {"kind": kind, **row})
        if self._writer is not None:
            self._guarded("TensorBoard", self._add_scalars, kind, step, values)

    def _guarded(self, name: str, action: Callable[..., None], *arguments: Any) -> None:
        if name in self._silent:
            return
        try:
            action(*arguments)
        except Exception as error:
            self._silent.add(name)
            warnings.warn(f"{name} cannot be written ({error}); training goes on without it", stacklevel=4)

    # ---- files ---------------------------------------------------------------------------------------------------
    def _append_json(self, record: Mapping[str, Any]) -> None:
        assert self.directory is not None
        line = json.dumps({name: _json_number(value) for name, value in record.items()}, default=str)
        with (self.directory / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def _append_csv(self, kind: str, row: Mapping[str, Any]) -> None:
        assert self.directory is not None
        path = self.directory / f"{kind}.csv"
        new = kind not in self._columns
        if new:
            self._columns[kind] = list(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns[kind], restval="", extrasaction="ignore", lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)
        with path.open("a", encoding="utf-8", newline="") as file:
            file.write(text.getvalue())

    def _cut(self, step: int) -> None:
        """Keep the records up to a step; also drops a line that a crash left half written."""
        assert self.directory is not None
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "log.jsonl"
        if log.is_file():
            kept = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line, -1) <= step]
            _replace(log, "".join(line + "\n" for line in kept if _step_of(line, -1) >= 0))
        for kind in ("train", "validation"):
            path = self.directory / f"{kind}.csv"
            if not path.is_file():
                continue
            lines = [row for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8"))) if row]
            if not lines or lines[0][0] != "step":
                path.unlink()
                continue
            columns = lines[0]
            kept_rows = [r for r in lines[1:] if len(r) == len(columns) and r[0].isdigit() and int(r[0]) <= step]
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows([columns, *kept_rows])
            _replace(path, text.getvalue())
            self._columns[kind] = columns

    # ---- TensorBoard ---------------------------------------------------------------------------------------------
    def _open_tensorboard(self) -> None:
        for module in ("tensorboardX", "torch.utils.tensorboard"):
            try:
                self._writer = importlib.import_module(module).SummaryWriter(str(self.directory))
                return
            except ImportError:
                continue
        raise ModuleNotFoundError("neither tensorboardX nor torch with tensorboard is installed")

    def _add_scalars(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, (int, float)):
                self._writer.add_scalar(f"{kind}/{name}", value, step)


def _step_of(line: str, otherwise: int) -> int:
    try:
        step = json.loads(line)["step"]
        return int(step) if isinstance(step, int) else otherwise
    except (ValueError, KeyError, TypeError):
        return otherwise


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text, encoding="utf-8", newline="")
    os.replace(temporary, path)


def _duration(seconds: float) -> str:
    s = round(seconds)
    return f"{s // 3600}:{s // 60 % 60:02d}:{s % 60:02d}" if s >= 3600 else f"{s // 60}:{s % 60:02d}"


class Progress:
    """One line that shows how far the training is: tqdm where it is installed, otherwise our own.

    Parameters
    ----------
    mode : "auto", "on" or "off"
        auto: only if `stream` is a terminal.
    total : int or None
        Steps of the whole run; None where only the time is limited.
    done : int
        Steps done before (a resumed run).
    unit_per_step : int
        Showers in a step, for the rate.
    """

    interval_s = 0.2

    def __init__(
        self, mode: ProgressMode, total: int | None, done: int, unit_per_step: int, stream: Any = None
    ) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.on = mode == "on" or (mode == "auto" and bool(getattr(self.stream, "isatty", lambda: False)()))
        self.total, self.first, self.step, self.unit = total, done, done, unit_per_step
        self._began = self._shown = time.monotonic()
        self._bar: Any = None
        if self.on:
            try:
                self._bar = importlib.import_module("tqdm").tqdm(
                    total=None if total is None else total * unit_per_step, initial=done * unit_per_step,
                    unit="shower", unit_scale=True, file=self.stream, dynamic_ncols=True, leave=False,
                )  # fmt: skip
            except ImportError:
                self._bar = None

    def update(self, step: int, losses: Mapping[str, float]) -> None:
        """Show a step; cheap, drawn a few times a second."""
        if not self.on:
            return
        now = time.monotonic()
        if now - self._shown < self.interval_s and step != self.total:
            return
        text = " ".join(f"{name} {losses[name]:.3g}" for name in ("d", "g") if name in losses)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update((step - self.step) * self.unit)
        else:
            rate = (step - self.first) / max(now - self._began, 1e-9)
            left = f", {_duration((self.total - step) / rate)} left" if self.total is not None and rate > 0 else ""
            of = "" if self.total is None else f"/{self.total}"
            self.stream.write(f"\rstep {step}{of}, {rate * self.unit:.1f} showers/s{left}  {text}\x1b[K")
            self.stream.flush()
        self.step, self._shown = step, now

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(message, file=self.stream)
            return
        self.stream.write(("\r\x1b[K" if self.on else "") + message + "\n")
        self.stream.flush()

    def close(self) -> None:
        """Take the line away."""
        if self._bar is not None:
            self._bar.close()
        elif self.on:
            self.stream.write("\r\x1b[K")
            self.stream.flush()
