"""A training on showers: where they come from, how a generator is judged, and what a finished run leaves behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gankernels.calo.files import ShowerFile, open_showers
from gankernels.calo.held_out import training_attribute
from gankernels.calo.metrics import score_terms
from gankernels.calo.observables import observe
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.simulate import simulate_showers, simulate_to_file
from gankernels.calo.stream import ShowerStream, load_split, validation_mask
from gankernels.gan.config import option
from gankernels.gan.health import check_condition
from gankernels.gan.model import MappedBatches
from gankernels.gan.recipes.base import Request
from gankernels.gan.showers import ShowerGAN
from gankernels.ops import Generator

__all__ = ["DataConfig", "ShowerSession", "grid_of"]

_MEASURED_EVENTS = 4000  # training events that fix scales and the mean response
_JUDGED_EVENTS = 1000  # held-out events a generator is compared with during training


@dataclass(frozen=True)
class DataConfig:
    """Showers to train on; the first three are for showers that the recipe simulates itself."""

    events: int = option(10000, "showers to simulate where no file is given")
    grid: tuple[int, int, int] = option((25, 25, 25), "cells of simulated showers along x, y, z")
    energy_gev: tuple[float, float] = option((10.0, 100.0), "range of the incident energy of simulated showers, GeV")
    theta_deg: tuple[float, float] | None = option(None, "range of the polar angle of simulated showers; none: 90")
    validation_fraction: float = option(0.2, "part of the events that training never sees")
    max_events: int | None = option(None, "use only the first so many events")

    def __post_init__(self) -> None:
        if self.events < 1 or min(self.grid) < 1 or not 0.0 < self.energy_gev[0] <= self.energy_gev[1]:
            raise ValueError(
                "data: events and grid must be at least 1 and energy_gev 0 < low <= high, got "
                f"{self.events}, {self.grid}, {self.energy_gev}"
            )
        if not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(f"data.validation_fraction must be between 0 and 1, got {self.validation_fraction}")


def grid_of(described: dict[str, Any]) -> Grid:
    """The grid in what `ShowerSession.describe` said."""
    g = described["grid"]
    edges = None if g["edges"] is None else tuple(tuple(e) for e in g["edges"])
    return Grid(tuple(g["shape"]), tuple(g["axes"]), edges, tuple(g["units"]))


def _describe_grid(grid: Grid) -> dict[str, Any]:
    return {"shape": grid.shape, "axes": grid.axes, "edges": grid.edges, "units": grid.units}


def _describe_files(files: Sequence[ShowerFile]) -> list[dict[str, Any]]:
    """Name, checksum and events of each; the same showers twice would be on both sides of the split."""
    seen: dict[str, Path] = {}
    for f in files:
        before = seen.setdefault(f.checksum(), f.path)
        if before is not f.path:
            raise ValueError(f"{f.path} holds the same showers as {before}; give every file once")
    return [{"name": f.path.name, "sha256": f.checksum(), "events": f.n_events} for f in files]


def _check_counts(events: int, request: Request) -> None:
    """Refuse data whose split leaves too little for the training or for what follows it."""
    from gankernels.calo.validate import MIN_EVENTS

    data, batch = request.config.data, request.config.train.batch
    events = events if data.max_events is None else min(events, data.max_events)
    validation = int(validation_mask(np.arange(events), data.validation_fraction).sum())
    if events - validation < batch:
        raise ValueError(f"{events} events leave {events - validation} for training, fewer than one batch of {batch}")
    needed = MIN_EVENTS if request.report else 2
    if validation < needed:
        why = " (the report needs them; --no-report trains without one)" if request.report else ""
        raise ValueError(
            f"{events} events leave {validation} for validation, expected at least {needed}{why}; "
            "give more, or raise data.validation_fraction"
        )


class ShowerSession:
    """Networks of a shower recipe and their data; see recipes.base.Session.

    Parameters
    ----------
    request : Request
    build : callable
        build(config, described) -> ShowerGAN.
    measure : callable
        measure(training showers, config) -> dict that `build` needs, JSON-able; joins `describe`.
    """

    gan: ShowerGAN

    def __init__(
        self,
        request: Request,
        build: Callable[[Any, dict[str, Any]], ShowerGAN],
        measure: Callable[[Showers, Any], dict[str, Any]],
    ) -> None:
        self.config = config = request.config
        self._described: dict[str, Any] = {}
        self._files: list[ShowerFile] = []
        try:
            if request.files:
                self._files = [open_showers(f, unit=request.unit, binning=request.binning) for f in request.files]
                self._open_data(request)
                self._described.update(measure(self._training_sample(), config))
            else:
                self._simulate(request, measure)
            self.gan = build(config, self._described)
            check_condition(config.train.health, ("energy", *self.gan.condition_names))
        except BaseException:
            self.close()
            raise
        if self._files:
            self.batches = MappedBatches(self.stream, self.gan.to_batch)

    def _simulate(self, request: Request, measure: Callable[[Showers, Any], dict[str, Any]]) -> None:
        """Make showers in the run directory; on a dry run only a few, in memory, to size the networks."""
        data, seed = self.config.data, self.config.train.seed
        _check_counts(data.events, request)
        if request.directory is None:
            few = simulate_showers(64, data.energy_gev, data.grid, seed=seed, theta_deg=data.theta_deg)
            self._described = {
                "files": [],
                "events": {"simulated": data.events},
                "grid": _describe_grid(few.grid),
                "energy_gev": list(data.energy_gev),
                **measure(few, self.config),
            }
            return
        path = request.directory / "simulated.h5"
        if not path.exists():
            request.note(f"simulating {data.events} showers of {data.grid} cells into {path.name}")
            simulate_to_file(path, data.events, data.energy_gev, data.grid, seed=seed, theta_deg=data.theta_deg)
        self._files = [open_showers(path)]
        self._open_data(request)
        self._described.update(measure(self._training_sample(), self.config))

    def _open_data(self, request: Request) -> None:
        config = request.config
        self._described = {"files": _describe_files(self._files)}
        _check_counts(sum(f.n_events for f in self._files), request)
        split = {"validation_fraction": config.data.validation_fraction, "max_events": config.data.max_events}
        self.stream = ShowerStream(self._files, config.train.batch, config.train.seed, **split)
        self.held_out = load_split(self._files, "validation", **split)
        rows = np.random.default_rng(config.train.seed).permutation(len(self.held_out))[:_JUDGED_EVENTS]
        self._judged = self.held_out[np.sort(rows)]
        self._reference = observe(self._judged)
        self._described |= {
            "events": {"train": self.stream.n_events, "validation": len(self.held_out)},
            "grid": _describe_grid(self.stream.grid),
            "energy_gev": [float(self.held_out.energy_gev.min()), float(self.held_out.energy_gev.max())],
        }

    def _training_sample(self) -> Showers:
        """Some training events, drawn over all files."""
        numbers = self.stream.event_numbers
        rng = np.random.default_rng(self.config.train.seed)
        chosen = np.sort(rng.permutation(numbers)[:_MEASURED_EVENTS])
        parts, first = [], 0
        for f in self._files:
            inside = chosen[(chosen >= first) & (chosen < first + f.n_events)] - first
            if len(inside):
                parts.append(f.read_rows(inside))
            first += f.n_events
        return Showers(
            np.concatenate([p.cells_gev for p in parts]),
            np.concatenate([p.energy_gev for p in parts]),
            parts[0].grid,
            {k: np.concatenate([p.conditions[k] for p in parts]) for k in parts[0].conditions},
        )

    # ---- recipes.base.Session ----------------------------------------------------------------------------------------
    def describe(self) -> dict[str, Any]:
        """The data, for JSON."""
        return self._described

    def _like(self, gan: ShowerGAN, showers: Showers, stream: int) -> Showers:
        """Generated showers for the conditions of Monte Carlo ones."""
        rng = Generator(self.config.train.seed).spawn(stream)
        return gan.generate_showers(showers.energy_gev, showers.conditions, rng)

    def evaluate(self, gan: ShowerGAN) -> dict[str, float]:
        """The terms of calo.metrics.score on held-out events, and their mean "score"."""
        terms = score_terms(self._reference, self._like(gan, self._judged, 1))
        return {**terms, "score": float(np.mean(list(terms.values())))}

    def picture(self, gan: ShowerGAN, path: Path) -> None:
        """Samples beside held-out events."""
        from gankernels.calo.pictures import write_samples

        few = self._judged[:4]
        write_samples(path, few, self._like(gan, few, 2))

    def finish(self, gan: ShowerGAN, directory: Path) -> dict[str, Any]:
        """Generate showers for all held-out conditions, write them and the report."""
        from gankernels.calo.validate import validate
        from gankernels.calo.write import write_showers

        generated = self._like(gan, self.held_out, 3)
        kind = "calochallenge" if generated.grid.axes == ("z", "alpha", "r") else "3dgan-angle"
        path = directory / "generated.h5"
        data = self.config.data
        trained_on = training_attribute(self._described["files"], data.validation_fraction, data.max_events)
        attributes = {"generator": "gankernels", **trained_on}
        write_showers(path, generated, kind=kind, attributes=attributes, overwrite=True)  # of a run that goes on
        result = validate(generated, self.held_out, out_dir=directory, seed=self.config.train.seed)
        return {"files": {"generated": path, "report": directory / "report.html"}, "table": result.table()}

    def close(self) -> None:
        """Let go of files and threads."""
        if hasattr(self, "stream"):
            self.stream.close()
        for f in self._files:
            f.close()
