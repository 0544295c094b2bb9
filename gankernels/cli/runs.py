"""Run directories: `runs/00000-quickstart`, numbered, never overwritten, with all that is needed to use them again.

run.json    the recipe, the command, the data files     config.toml   every setting, resolved
data.json   checksums, events, grid                     versions.json what gankernels.info says
checkpoints/, samples/, log.jsonl, train.csv, validation.csv, generated.h5, report.html, report.json
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gankernels._atomic import write_text
from gankernels.cli.errors import WrongUse

__all__ = ["Run", "create", "latest", "open_run", "write_json"]

_NAME = re.compile(r"(\d{5,})-.+")


@dataclass(frozen=True)
class Run:
    """An existing run directory.

    Parameters
    ----------
    path : Path
    recipe : str
    files : list of Path
        Training data given by the user, absolute.
    unit, binning : str or None
        How they are read.
    device : str
        Where it was trained at first.
    """

    path: Path
    recipe: str
    files: list[Path]
    unit: str | None = None
    binning: str | None = None
    device: str = "cpu"

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def described(self) -> dict[str, Any]:
        """What data.json says."""
        return _read_json(self.path / "data.json")


def create(root: Path, recipe: str) -> Path:
    """Make the next numbered directory under root; two processes never get the same."""
    root.mkdir(parents=True, exist_ok=True)
    number = max([int(m[1]) for p in root.iterdir() if (m := _NAME.fullmatch(p.name))], default=-1) + 1
    while True:
        path = root / f"{number:05d}-{recipe}"
        try:
            path.mkdir()
            return path
        except FileExistsError:
            number += 1


def latest(root: Path, recipe: str) -> Path:
    """The run of that recipe with the highest number; directories that no run began in do not count."""
    found = (
        [(int(m[1]), p) for p in root.glob(f"*-{recipe}") if (m := _NAME.fullmatch(p.name))] if root.is_dir() else []
    )
    found = [(n, p) for n, p in found if p.name == f"{n:05d}-{recipe}" and (p / "run.json").is_file()]
    if not found:
        raise WrongUse(
            f"there is no run of {recipe} under {root}; name it with --run-dir, or start one without --resume"
        )
    return max(found)[1]


def open_run(path: Path) -> Run:
    """Read run.json of a run directory.

    Raises
    ------
    WrongUse
        If it is not one.
    """
    if not path.is_dir():
        raise WrongUse(f"{path}: there is no such run directory")
    if not (path / "run.json").is_file():
        raise WrongUse(f"{path}: is no run directory (it has no run.json); `gankernels train` makes them")
    saved = _read_json(path / "run.json")
    try:
        files, device = [Path(f) for f in saved["files"]], str(saved.get("device", "cpu"))
        return Run(path, str(saved["recipe"]), files, saved["unit"], saved["binning"], device)
    except (KeyError, TypeError):
        raise WrongUse(f"{path / 'run.json'}: is not as `gankernels train` writes it") from None


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    except FileNotFoundError:
        raise WrongUse(f"{path}: is missing") from None
    if not isinstance(content, dict):
        raise WrongUse(f"{path}: is damaged (no JSON object)")
    return content
