"""What every recipe offers: a name, a configuration, and sessions that hold the networks and their data.

The command line knows recipes only through this file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gankernels.gan.model import GAN

__all__ = ["Note", "Recipe", "Request", "Session"]

Note = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What a user asked of a recipe.

    Parameters
    ----------
    config : dataclass
        The recipe's configuration, resolved; every one has sections `data`, `model` and `train` (a TrainerConfig, with
        the seed).
    files : sequence of path
        Showers to train on; empty: the recipe makes its own, into `directory`.
    unit, binning : str, optional
        Passed to calo.open_showers.
    directory : Path, optional
        The run directory; None on a dry run: nothing may be written.
    note : callable
        Tells the user a line.
    report : bool
        A report will be asked for in the end: data that cannot give one are refused in the beginning.
    """

    config: Any
    files: Sequence[Path] = ()
    unit: str | None = None
    binning: Path | None = None
    directory: Path | None = None
    note: Note = print
    report: bool = False


class Session(Protocol):
    """Networks and data of one training."""

    gan: Any  # a GAN, or the subclass that this session's methods expect
    batches: Any  # Batches

    def describe(self) -> dict[str, Any]:
        """The data, for JSON: files, checksums, numbers of events; enough for `Recipe.revive`."""

    def evaluate(self, gan: Any) -> dict[str, float]:
        """Metrics of the generator on held-out events; "score" is the one to minimise."""

    def picture(self, gan: Any, path: Path) -> None:
        """Draw samples beside held-out events into a PNG file."""

    def finish(self, gan: Any, directory: Path) -> dict[str, Any]:
        """Generate, validate and write what the recipe promises into the directory.

        Returns {"files": {what: path}, "table": [(quantity, value)]}.
        """

    def close(self) -> None:
        """Let go of files and threads."""


@dataclass(frozen=True)
class Recipe:
    """A system that can be trained by name.

    Parameters
    ----------
    name, summary : str
    source : str
        Publication and public code that the numbers come from.
    config : dataclass instance
        The defaults.
    open : callable
        open(request) -> Session. Checks everything before the first large allocation.
    revive : callable
        revive(config, described) -> GAN from what `Session.describe` said: for generating without the training data.
    """

    name: str
    summary: str
    source: str
    config: Any
    open: Callable[[Request], Session]
    revive: Callable[[Any, dict[str, Any]], GAN]
