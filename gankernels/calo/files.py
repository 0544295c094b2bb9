"""Showers from HDF5 files in three published layouts; the file says which by its keys, and its unit is explicit."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gankernels.calo import guard
from gankernels.calo.binning import Binning
from gankernels.calo.guard import ShowerFileError
from gankernels.calo.layouts import Column, Layout, read_layout
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.units import energy_factor

__all__ = ["ShowerFile", "ShowerFileError", "from_par04_order", "open_showers", "sha256_of", "to_par04_order"]

Array = NDArray[Any]


def open_showers(
    path: str | os.PathLike[str],
    *,
    unit: str | None = None,
    binning: str | os.PathLike[str] | Binning | None = None,
    grid: Grid | None = None,
    on_bad: Literal["raise", "drop"] = "raise",
) -> ShowerFile:
    """Open a file of showers after checking all of its headers; no shower is read yet.

    Parameters
    ----------
    path : path
        HDF5 file in a layout of `gankernels.calo.layouts`, with any number of cells.
    unit : str, optional
        Unit of the cells where the file does not tell: "GeV", "MeV", or "GeV/50" for 50 times the energy in GeV.
    binning : path or Binning, optional
        Voxels of a CaloChallenge file. Without it: the file's attribute `binning_xml`, or the only `binning*.xml` in
        the file's folder that has as many cells.
    grid : Grid, optional
        Cells and their edges, where the file has none.
    on_bad : "raise" or "drop"
        What reading does with events that have NaN, infinite or negative energies, or angles outside [0, pi].

    Returns
    -------
    ShowerFile, to be closed or used as a context manager.

    Raises
    ------
    ShowerFileError
        If the file cannot be used; one sentence with file, dataset, what came and what was expected.
    MissingExtra
        If h5py is not installed.

    Examples
    --------
    >>> with open_showers("showers.h5", unit="GeV") as file:  # doctest: +SKIP
    ...     first = file.read(0, 100)
    """
    if on_bad not in ("raise", "drop"):
        raise ValueError(f"open_showers: on_bad must be 'raise' or 'drop', got {on_bad!r}")
    if unit is not None:
        energy_factor(unit)
    file = guard.open_hdf5(path)
    try:
        with guard.damage_reported(f"{path}: its headers cannot be read"):
            layout = read_layout(file, unit, binning, grid)
    except BaseException:
        file.close()
        raise
    return ShowerFile(Path(path), file, layout, on_bad)


class ShowerFile:
    """An open file of showers; made by `open_showers`.

    Attributes
    ----------
    kind : "3dgan", "3dgan-angle" or "calochallenge"
    path : Path
    n_events : int
    grid : Grid
    unit : str
        Unit of the cells as stored. What is read is GeV.
    condition_names : tuple of str
        Labels besides the energy, with their unit: "theta_rad", "measured_theta_rad", "eta", "pdg_id".
    """

    def __init__(self, path: Path, file: Any, layout: Layout, on_bad: Literal["raise", "drop"]) -> None:
        self.path = path
        self.kind = layout.kind
        self.grid = layout.grid
        self.unit = layout.unit
        self.n_events = len(layout.cells)
        self.condition_names = tuple(layout.labels)
        self.on_bad = on_bad
        self._file = file
        self._layout = layout

    @property
    def block_events(self) -> int:
        """Events that lie together in the file: reading a multiple of it unpacks nothing twice."""
        chunks = self._layout.cells.chunks
        return int(chunks[0]) if chunks else 1

    def read(self, start: int = 0, stop: int | None = None) -> Showers:
        """Events start to stop, cells and energies in GeV as float32; any stored float or integer type is converted.

        Raises
        ------
        ShowerFileError
            If the range lies outside the file, the data are damaged, or an event is bad (unless on_bad="drop").
        """
        stop = self.n_events if stop is None else stop
        if not 0 <= start <= stop <= self.n_events:
            raise ShowerFileError(f"{self.path}: events {start} to {stop} asked for, the file has 0 to {self.n_events}")
        showers = self._convert(start, stop)
        bad, reason = _bad_events(showers)
        if bad.any():
            if self.on_bad == "raise":
                raise ShowerFileError(
                    f"{self.path}: event {start + int(np.argmax(bad))} {reason} "
                    f"({int(bad.sum())} bad of events {start} to {stop}); take them out of the file, "
                    "or in Python leave them out with open_showers(..., on_bad='drop')"
                )
            showers = showers[~bad]
        return showers

    def read_rows(self, rows: Array) -> Showers:
        """Events by number (k,), increasing; one read from the first to the last, of which the others are left out.

        Raises
        ------
        ShowerFileError
            If a number lies outside the file, the data are damaged, or one of the events is bad, whatever on_bad says.
        """
        if len(rows) == 0 or rows[0] < 0 or rows[-1] >= self.n_events or (np.diff(rows) <= 0).any():
            raise ShowerFileError(f"{self.path}: expected increasing event numbers from 0 to {self.n_events - 1}")
        first = int(rows[0])
        showers = self._convert(first, int(rows[-1]) + 1)
        if len(rows) < len(showers):
            showers = showers[rows - first]
        bad, reason = _bad_events(showers)
        if bad.any():
            raise ShowerFileError(f"{self.path}: event {int(rows[int(np.argmax(bad))])} {reason}")
        return showers

    def energies(self) -> Array:
        """Energy of the incident particle of every event (n_events,), float32, GeV; bad ones included."""
        return self._column(self._layout.energy, 0, self.n_events)

    def bad_events(self) -> Array:
        """Numbers of the events that read() refuses or drops (k,), int64; reads the whole file in pieces."""
        step = max(self.block_events, 256)
        found = []
        for start in range(0, self.n_events, step):
            bad, _ = _bad_events(self._convert(start, min(start + step, self.n_events)))
            found.append(start + np.flatnonzero(bad))
        return np.concatenate(found).astype(np.int64)

    def checksum(self) -> str:
        """SHA-256 of the file, hexadecimal."""
        return sha256_of(self.path)

    def close(self) -> None:
        """Close the file; reading afterwards is an error."""
        self._file.close()

    def __enter__(self) -> ShowerFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return self.n_events

    def _convert(self, start: int, stop: int) -> Showers:
        layout = self._layout
        cells = self._rows(layout.cells, np.s_[start:stop], energy_factor(layout.unit))
        return Showers(
            cells.reshape(-1, *layout.grid.shape),
            self._column(layout.energy, start, stop),
            layout.grid,
            {name: self._column(column, start, stop) for name, column in layout.labels.items()},
        )

    def _column(self, column: Column, start: int, stop: int) -> Array:
        rows = np.s_[start:stop] if column.data.ndim == 1 else np.s_[start:stop, column.column]
        return self._rows(column.data, rows, column.scale)

    def _rows(self, data: Any, rows: Any, scale: float) -> Array:
        if not self._file:
            raise ShowerFileError(f"{self.path}: is closed")
        with guard.damage_reported(f"{self.path}: {data.name[1:]!r} cannot be read"):
            raw = data[rows]
        # What float32 cannot hold becomes infinite and is reported as such by the check of the events.
        with np.errstate(over="ignore", invalid="ignore"):
            wide = raw.dtype.kind in "iu" or raw.dtype.itemsize == 8
            values = raw.astype(np.float64 if wide else np.float32)
            if scale != 1.0:
                values *= scale
            return np.ascontiguousarray(values, dtype=np.float32)


def _bad_events(showers: Showers) -> tuple[Array, str]:
    """Which events (N,) are unusable, and what is wrong with the first of them."""
    cells = showers.cells_gev.reshape(len(showers), -1)
    # One pass each: NaN makes min and max NaN, and every comparison with NaN is false.
    low = cells.min(axis=1)
    high = cells.max(axis=1)
    energy = showers.energy_gev
    checks = [
        ("has a cell that is NaN or infinite", ~(np.isfinite(low) & np.isfinite(high))),
        ("has a cell of negative energy", low < 0),
        ("has an incident energy that is NaN, infinite or not above zero", ~(np.isfinite(energy) & (energy > 0))),
    ]
    for name, values in showers.conditions.items():
        checks.append((f"has a {name} that is NaN or infinite", ~np.isfinite(values)))
        if name.endswith("theta_rad"):
            outside = (values < 0) | (values > np.float32(np.pi))
            checks.append((f"has a {name} outside 0 to pi (degrees? then set the attribute unit='deg')", outside))
    bad = np.logical_or.reduce([c for _, c in checks])
    if not bad.any():
        return bad, ""
    first = int(np.argmax(bad))
    return bad, next(what for what, c in checks if c[first])


def sha256_of(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, hexadecimal, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(2**20):
            digest.update(piece)
    return digest.hexdigest()


def to_par04_order(cells: Array) -> Array:
    """CaloChallenge order (N, z, alpha, r) to Geant4 Par04 order (N, r, alpha, z), which flattens with z fastest.

    Raises
    ------
    ValueError
        If the array does not have four dimensions.
    """
    if cells.ndim != 4:
        raise ValueError(f"to_par04_order: got shape {cells.shape}, expected (N, z, alpha, r)")
    return np.ascontiguousarray(cells.transpose(0, 3, 2, 1))


def from_par04_order(cells: Array) -> Array:
    """Geant4 Par04 order (N, r, alpha, z) to CaloChallenge order (N, z, alpha, r); inverse of `to_par04_order`."""
    if cells.ndim != 4:
        raise ValueError(f"from_par04_order: got shape {cells.shape}, expected (N, r, alpha, z)")
    return np.ascontiguousarray(cells.transpose(0, 3, 2, 1))
