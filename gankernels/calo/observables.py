"""What a physicist measures on a shower: sums, moments, hits, profiles and cell energies, in one chunked pass.

Energies are in GeV. Moments are energy-weighted; along alpha they are circular, along r they use the ring's radius.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.calo.showers import Grid, Showers

__all__ = ["SPECTRUM_EDGES_GEV", "Observable", "Profile", "Summary", "correlations", "observe", "readout_threshold_gev"]

Array = NDArray[Any]

#: Edges of the cell-energy spectrum, GeV: 8 bins a decade, fixed, so that spectra of different samples can be compared.
SPECTRUM_EDGES_GEV: Array = 10.0 ** (np.arange(-9 * 8, 4 * 8 + 1) / 8.0)

#: Cells that one chunk of the pass may hold: 4 Mi cells are 16 MiB of float32 and as much again of temporaries.
_CHUNK_CELLS = 1 << 22


@dataclass(frozen=True)
class Observable:
    """One number per shower.

    Parameters
    ----------
    name : str
        Identifier, for example "width_z".
    label : str
        Axis label with the unit.
    values : array (N,), float64
        NaN where the shower does not define it (moments of an empty shower).
    log : bool
        Whether a logarithmic axis suits it.
    integer : bool
        Whether its values are whole numbers.
    """

    name: str
    label: str
    values: Array
    log: bool = False
    integer: bool = False

    @property
    def defined(self) -> Array:
        """The values of those showers that define it (M,), M <= N."""
        return self.values[np.isfinite(self.values)]


@dataclass(frozen=True)
class Profile:
    """Mean energy per cell slice along one axis.

    Parameters
    ----------
    axis : str
        "x", "y", "z", "alpha" or "r".
    label : str
        Axis label with the unit.
    edges : array (n + 1,)
        Slice edges in the unit of the label.
    mean_gev, error_gev : array (n,)
        Mean over showers and its standard error, GeV.
    """

    axis: str
    label: str
    edges: Array
    mean_gev: Array
    error_gev: Array

    @property
    def fraction(self) -> Array:
        """The mean energies normalised to a sum of one (n,); zeros if the sum is not positive."""
        total = float(self.mean_gev.sum())
        return self.mean_gev / total if total > 0 else np.zeros_like(self.mean_gev)


@dataclass(frozen=True)
class Summary:
    """All that the metrics and the report need of a sample of showers; small beside the cells.

    Parameters
    ----------
    grid : Grid
    threshold_gev : float
        A cell counts as hit from this energy on.
    energy_gev : array (N,), float64
        Incident energy, GeV.
    conditions : dict of array (N,)
        The showers' further labels.
    observables : dict of Observable
        By name, in the order of the report.
    axis_energy_gev : three arrays (N, n_axis), float64
        Energy in each slice along each axis, GeV.
    projections_gev : dict of array
        Mean energy projected on a pair of axes, by the pair of axis indices, GeV.
    spectrum : array (N, len(SPECTRUM_EDGES_GEV) - 1), int32
        Cells at or above the threshold, per shower and energy bin.
    empty : int
        Showers without any energy.
    negative_cells : int
        Cells below zero, over all showers.
    below_threshold : float
        Fraction of all energy that lies in cells below the threshold.
    """

    grid: Grid
    threshold_gev: float
    energy_gev: Array
    conditions: dict[str, Array]
    observables: dict[str, Observable]
    axis_energy_gev: tuple[Array, Array, Array]
    projections_gev: dict[tuple[int, int], Array]
    spectrum: Array
    empty: int
    negative_cells: int
    below_threshold: float

    def __len__(self) -> int:
        return len(self.energy_gev)

    def table(self, names: Sequence[str]) -> Array:
        """Columns (N, len(names)), float64: observables, conditions, and "incident_energy" by name."""
        columns = {"incident_energy": self.energy_gev, **self.conditions}
        columns |= {name: o.values for name, o in self.observables.items()}
        return np.stack([columns[name] for name in names], axis=1)

    def profile(self, axis: int) -> Profile:
        """Mean energy along one axis with the standard error of the mean."""
        sums = self.axis_energy_gev[axis]
        error = sums.std(axis=0, ddof=1) / np.sqrt(len(sums)) if len(sums) > 1 else np.zeros(sums.shape[1])
        return Profile(
            self.grid.axes[axis], axis_label(self.grid, axis), axis_edges(self.grid, axis), sums.mean(axis=0), error
        )


def axis_edges(grid: Grid, axis: int) -> Array:
    """Edges of one axis as observables use them (n + 1,): an alpha axis without edges is a full turn in rad."""
    if grid.axes[axis] == "alpha" and grid.units[axis] == "cell":
        return np.linspace(0.0, 2.0 * np.pi, grid.shape[axis] + 1)
    return grid.axis_edges(axis)


def axis_unit(grid: Grid, axis: int) -> str:
    """Unit of one axis as observables use it: "mm", "rad" or "cells"."""
    unit = grid.units[axis]
    if unit == "cell":
        return "rad" if grid.axes[axis] == "alpha" else "cells"
    return unit


def axis_label(grid: Grid, axis: int) -> str:
    """Name of one axis with its unit, for a figure."""
    names = {"x": "x", "y": "y", "z": "Depth z", "alpha": "Azimuth α", "r": "Radius r"}
    return f"{names[grid.axes[axis]]} [{axis_unit(grid, axis)}]"


def readout_threshold_gev(showers: Showers) -> float:
    """Smallest positive cell energy of a sample, GeV: the readout threshold that its simulation applied.

    Parameters
    ----------
    showers : Showers
        Usually the Monte Carlo reference.

    Raises
    ------
    ValueError
        If no cell is positive.
    """
    smallest = np.inf
    for rows in _chunks(showers):
        cells = showers.cells_gev[rows]
        smallest = min(smallest, float(np.min(cells, where=cells > 0, initial=np.inf)))
    if not np.isfinite(smallest):
        raise ValueError("readout_threshold_gev: no cell of these showers has a positive finite energy")
    return smallest


def observe(showers: Showers, *, threshold_gev: float | None = None) -> Summary:
    """Measure all observables of a sample of showers.

    Parameters
    ----------
    showers : Showers
        At least one shower; cells in GeV.
    threshold_gev : float, optional
        A cell is hit from this energy on, GeV; by default the smallest positive cell of `showers`.

    Returns
    -------
    Summary

    Raises
    ------
    ValueError
        If there is no shower, a cell is NaN or infinite, an incident energy is not positive, or the threshold is not.

    Examples
    --------
    >>> import numpy as np
    >>> from gankernels.calo.showers import Grid, Showers
    >>> cells = np.zeros((1, 3, 3, 3), np.float32)
    >>> cells[0, 1, 1, 2] = 0.5
    >>> summary = observe(Showers(cells, np.array([10.0], np.float32), Grid((3, 3, 3))))
    >>> float(summary.observables["response"].values[0]), float(summary.observables["centre_z"].values[0])
    (0.05, 2.5)
    """
    n, grid = len(showers), showers.grid
    energy = np.asarray(showers.energy_gev, dtype=np.float64)
    if n == 0:
        raise ValueError("observe: no showers were given")
    if not bool(np.all(np.isfinite(energy) & (energy > 0))):
        bad = int(np.sum(~(np.isfinite(energy) & (energy > 0))))
        raise ValueError(f"observe: {bad} of {n} incident energies are not positive finite numbers")
    threshold = readout_threshold_gev(showers) if threshold_gev is None else float(threshold_gev)
    if not threshold > 0:
        raise ValueError(f"observe: threshold_gev must be positive, got {threshold_gev}")
    parts = [_measure(showers.cells_gev[rows], grid, threshold, rows.start) for rows in _chunks(showers)]
    joined = {k: np.concatenate([p[k] for p in parts]) for k in parts[0] if not k.startswith("sum_")}
    summed = {k: sum(p[k] for p in parts) for k in parts[0] if k.startswith("sum_")}
    total = joined["energy_total"]
    all_energy = float(total.sum())
    return Summary(
        grid=grid,
        threshold_gev=threshold,
        energy_gev=energy,
        conditions={k: np.asarray(v, dtype=np.float64) for k, v in showers.conditions.items()},
        observables={o.name: o for o in _observables(joined, energy, grid)},
        axis_energy_gev=(joined["axis_0"], joined["axis_1"], joined["axis_2"]),
        projections_gev={(a, b): np.asarray(summed[f"sum_{a}{b}"]) / n for a, b in ((0, 1), (0, 2), (1, 2))},
        spectrum=joined["spectrum"],
        empty=int(np.sum(total == 0)),
        negative_cells=int(summed["sum_negative"]),
        below_threshold=1.0 - float(joined["energy_hit"].sum()) / all_energy if all_energy > 0 else 0.0,
    )


def correlations(summary: Summary, names: Sequence[str] | None = None) -> Array:
    """Pearson correlation matrix (k, k) of the named columns, all observables by default; see `Summary.table`.

    Showers for which one of them is undefined are left out; rows of a constant column are zero.
    """
    return correlation_matrix(summary.table(tuple(summary.observables) if names is None else names))


def correlation_matrix(table: Array) -> Array:
    """Pearson correlations between the columns of a table (n, k) -> (k, k), without the rows that hold a NaN."""
    rows = table[np.all(np.isfinite(table), axis=1)]
    k = table.shape[1]
    if len(rows) < 2:
        return np.zeros((k, k))
    centred = rows - rows.mean(axis=0)
    norm = np.sqrt(np.sum(centred**2, axis=0))
    varies = norm > 1e-12 * np.sqrt(len(rows)) * np.maximum(np.abs(rows).max(axis=0), 1e-300)
    scaled = np.where(varies, centred / np.where(varies, norm, 1.0), 0.0)
    return np.asarray(scaled.T @ scaled)


def _chunks(showers: Showers) -> list[slice]:
    n, step = len(showers), max(1, _CHUNK_CELLS // int(np.prod(showers.grid.shape)))
    return [slice(start, min(start + step, n)) for start in range(0, n, step)]


def _measure(cells: Array, grid: Grid, threshold: float, first: int) -> dict[str, Any]:
    """All sums over one chunk of cells (n, *grid.shape); names that begin with sum_ are summed over showers."""
    n, size = len(cells), int(np.prod(grid.shape))
    flat = cells.reshape(n, size)
    pairs = {(0, 1): cells.sum(axis=3, dtype=np.float64), (0, 2): cells.sum(axis=2, dtype=np.float64)}
    pairs[1, 2] = cells.sum(axis=1, dtype=np.float64)
    along = [pairs[0, 1].sum(axis=2), pairs[0, 1].sum(axis=1), pairs[1, 2].sum(axis=1)]
    total = along[0].sum(axis=1)
    if not bool(np.all(np.isfinite(total))):
        shower = first + int(np.flatnonzero(~np.isfinite(total))[0])
        raise ValueError(f"observe: cells_gev holds NaN or infinite values, first in shower {shower}")
    position = np.flatnonzero(flat >= threshold)
    shower_of = position // size
    energy = flat.ravel()[position]
    bins = len(SPECTRUM_EDGES_GEV) - 1
    eighth = (8.0 * np.log10(energy) + 72.0).astype(np.int32)
    index = shower_of * bins + np.clip(eighth, 0, bins - 1)
    out: dict[str, Any] = {
        "energy_total": total,
        "energy_hit": np.bincount(shower_of, weights=energy, minlength=n),
        "hits": np.bincount(shower_of, minlength=n).astype(np.float64),
        "max_cell": flat.max(axis=1).astype(np.float64),
        "spectrum": np.bincount(index, minlength=n * bins).reshape(n, bins).astype(np.int32),
        "sum_negative": int(np.count_nonzero(flat < 0)),
        **{f"axis_{a}": along[a] for a in range(3)},
        **{f"sum_{a}{b}": pairs[a, b].sum(axis=0) for a, b in pairs},
    }
    with np.errstate(divide="ignore", invalid="ignore"):
        out |= _transverse(pairs, along, total, grid)
    return out


def _transverse(pairs: dict[tuple[int, int], Array], along: list[Array], total: Array, grid: Grid) -> dict[str, Array]:
    """Quantities that need two axes at once: core energy, shower axis (Cartesian) or centre in the plane (cylinder)."""
    middle = [0.5 * (e[1:] + e[:-1]) for e in (axis_edges(grid, a) for a in range(3))]
    weight = _positive(total)
    if grid.axes == ("x", "y", "z"):
        x, y = (slice(max((m - 1) // 2 - 1, 0), m // 2 + 2) for m in grid.shape[:2])
        mean_z = along[2] @ middle[2] / weight
        out = {"core": pairs[0, 1][:, x, y].sum(axis=(1, 2))}
        variance = along[2] @ middle[2] ** 2 / weight - mean_z**2
        for name, axis in (("x", 0), ("y", 1)):
            mixed = np.einsum("nab,a,b->n", pairs[axis, 2], middle[axis], middle[2], optimize=True) / weight
            covariance = mixed - along[axis] @ middle[axis] / weight * mean_z
            out[f"slope_{name}"] = np.where(variance > 0, covariance / variance, np.nan)
        return out
    alpha, r = middle[1], middle[2]
    plane = pairs[1, 2]
    return {
        "core": along[2][:, 0],
        "plane_x": np.einsum("nab,a,b->n", plane, np.cos(alpha), r, optimize=True) / weight,
        "plane_y": np.einsum("nab,a,b->n", plane, np.sin(alpha), r, optimize=True) / weight,
    }


def _positive(total: Array) -> Array:
    return np.where(total > 0, total, np.nan)


def _moments(sums: Array, edges: Array, circular: bool) -> tuple[Array, Array]:
    """Energy-weighted mean and width of each row of sums (N, n); NaN where the row has no energy."""
    middle = 0.5 * (edges[1:] + edges[:-1])
    with np.errstate(divide="ignore", invalid="ignore"):
        weight = _positive(sums.sum(axis=1))
        if circular:
            c, s = sums @ np.cos(middle) / weight, sums @ np.sin(middle) / weight
            length = np.minimum(np.hypot(c, s), 1.0)
            start = edges[0]  # the turn that the grid's own edges cover
            return start + np.mod(np.arctan2(s, c) - start, 2.0 * np.pi), np.sqrt(-2.0 * np.log(length))
        mean = sums @ middle / weight
        square = ((middle - mean[:, None]) ** 2 * sums).sum(axis=1) / weight
        return mean, np.sqrt(square)


def _observables(d: dict[str, Array], energy: Array, grid: Grid) -> list[Observable]:
    total, size = d["energy_total"], int(np.prod(grid.shape))
    depth = grid.depth_axis
    layers = d[f"axis_{depth}"]
    with np.errstate(divide="ignore", invalid="ignore"):
        whole = _positive(total)
        thirds = (
            [part.sum(axis=1) / whole for part in np.array_split(layers, 3, axis=1)] if grid.shape[depth] > 2 else []
        )
        maximum = np.where(total > 0, layers.argmax(axis=1).astype(np.float64), np.nan)
        core, peak = d["core"] / whole, d["max_cell"] / whole
    wide = bool(energy.max() > 30 * energy.min())
    out = [
        Observable("energy_total", "Deposited energy [GeV]", total, log=wide),
        Observable("response", "Deposited / incident energy", total / energy),
        Observable("shower_max", "Shower maximum [layer]", maximum, integer=True),
    ]
    order = [depth, *(a for a in range(3) if a != depth)]
    for axis in order:
        name, unit = grid.axes[axis], axis_unit(grid, axis)
        centre, width = _moments(d[f"axis_{axis}"], axis_edges(grid, axis), circular=name == "alpha")
        shown = {"alpha": "α"}.get(name, name)
        out.append(Observable(f"centre_{name}", f"Mean {shown} [{unit}]", centre))
        out.append(Observable(f"width_{name}", f"Width in {shown} [{unit}]", width))
    if "slope_x" in d:
        out += [
            Observable(f"slope_{t}", f"Slope of the shower axis d{t}/dz [{axis_unit(grid, a)}/{axis_unit(grid, 2)}]", v)
            for t, a, v in (("x", 0, d["slope_x"]), ("y", 1, d["slope_y"]))
        ]
        core_label = "Energy fraction in the central 3 × 3 columns"
    else:
        out += [
            Observable(f"plane_{t}", f"Centre in {t} = r {f} α [{axis_unit(grid, 2)}]", d[f"plane_{t}"])
            for t, f in (("x", "cos"), ("y", "sin"))
        ]
        core_label = "Energy fraction in the innermost ring"
    out.append(Observable("core_fraction", core_label, core))
    for name, third in zip(("front", "middle", "back"), thirds, strict=False):
        out.append(Observable(f"{name}_fraction", f"Energy fraction in the {name} third of the depth", third))
    return [
        *out,
        Observable("max_cell_fraction", "Largest cell / deposited energy", peak),
        Observable("hits", "Cells above threshold", d["hits"], log=wide, integer=not wide),
        Observable("sparsity", "Fraction of cells above threshold", d["hits"] / size, log=wide),
    ]
