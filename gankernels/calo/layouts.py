"""The three published layouts of shower files: which datasets there are, what their numbers mean and in which unit.

3dgan: ECAL (N,X,Y,Z), target (N, 2 or more) with the energy in [:,1]. Energy GeV, the cells' unit is not fixed.
3dgan-angle: ECAL, energy (N,1) or (N,), theta, mtheta, eta, pdgID. GeV, rad, the cells' unit is not fixed.
calochallenge: incident_energies (N,1), showers (N, layers*alpha*r) with r fastest. MeV both.

The unit of 3DGAN's cells differs between published files (GeV at the fixed angle, 50 times GeV at the variable angle),
and no number in the file tells: it is taken from an attribute or asked for, never guessed. Attributes looked at, in
this order: `unit` or `units` of the dataset; `cell_unit`, `energy_unit` or `units` of the file.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gankernels.calo import guard
from gankernels.calo.binning import Binning, parse_binning, read_binning
from gankernels.calo.guard import ShowerFileError
from gankernels.calo.showers import Grid
from gankernels.calo.units import energy_factor, energy_unit_in_text

__all__ = ["LABELS", "Column", "Layout", "read_layout"]

# condition name -> dataset of the variable-angle files
LABELS = {"theta_rad": "theta", "measured_theta_rad": "mtheta", "eta": "eta", "pdg_id": "pdgID"}
_KINDS = {
    "3dgan": {"ECAL", "target"},
    "3dgan-angle": {"ECAL", "energy"},
    "calochallenge": {"incident_energies", "showers"},
}


@dataclass(frozen=True)
class Column:
    """One number for each event: a dataset (N,), (N, 1) or one column of (N, k), and what turns it into our unit."""

    data: Any
    scale: float = 1.0
    column: int = 0


@dataclass(frozen=True)
class Layout:
    kind: str
    grid: Grid
    unit: str
    cells: Any
    energy: Column
    labels: dict[str, Column] = field(default_factory=dict)


def read_layout(
    file: Any, unit: str | None, binning: str | os.PathLike[str] | Binning | None, grid: Grid | None
) -> Layout:
    """Recognise an open file by its keys and check all headers; parameters as `open_showers`.

    Raises
    ------
    ShowerFileError
        If the keys fit no layout, a header is refused, lengths differ, there are no events, or a unit is missing.
    """
    kind = _kind_of(file)
    layout = _calochallenge(file, unit, binning, grid) if kind == "calochallenge" else _3dgan(file, kind, unit, grid)
    events = len(layout.cells)
    for name, column in {"energy": layout.energy, **layout.labels}.items():
        if len(column.data) != events:
            raise ShowerFileError(
                f"{file.filename}: {column.data.name[1:]!r} ({name}) has {len(column.data)} events, "
                f"{layout.cells.name[1:]!r} has {events}"
            )
    if events == 0:
        raise ShowerFileError(f"{file.filename}: holds no events")
    return layout


def _kind_of(file: Any) -> str:
    found = {name for keys in _KINDS.values() for name in keys if guard.link_exists(file, name)}
    for kind in ("calochallenge", "3dgan-angle", "3dgan"):
        if found >= _KINDS[kind]:
            return kind
    if guard.link_exists(file, "layer_0"):
        raise ShowerFileError(
            f"{file.filename}: is in CaloGAN's layout (layer_0, ...), whose layers have different cells"
        )
    expected = "; ".join(f"{kind}: {' + '.join(sorted(keys))}" for kind, keys in _KINDS.items())
    raise ShowerFileError(f"{file.filename}: has the keys {guard.top_level_names(file)}, expected one of {expected}")


def _3dgan(file: Any, kind: str, unit: str | None, grid: Grid | None) -> Layout:
    cells = guard.checked_dataset(file, "ECAL", (4,), "(events, x, y, z)")
    cell_unit = _stated_unit(file, cells, ("cell_unit", "energy_unit", "units"))
    if kind == "3dgan":
        energies, column = guard.checked_dataset(file, "target", (2,), "(events, 2 or more), energy in [:, 1]"), 1
        if energies.shape[1] < 2:
            raise ShowerFileError(f"{file.filename}: 'target' has shape {energies.shape}, expected (events, 2 or more)")
    else:
        energies, column = _label(file, "energy"), 0
    energy_unit = _stated_unit(file, energies, ("energy_unit",)) or "GeV"
    labels = {}
    if kind == "3dgan-angle":
        for name, key in LABELS.items():
            if guard.link_exists(file, key):
                data = _label(file, key)
                labels[name] = Column(data, _angle_factor(file, data, key) if name.endswith("_rad") else 1.0)
    chosen = _choose_unit(file, "ECAL", cell_unit, unit, None)
    shape = tuple(int(n) for n in cells.shape[1:])
    return Layout(
        kind,
        _cartesian_grid(file, shape, grid),
        chosen,
        cells,
        Column(energies, energy_factor(energy_unit), column),
        labels,
    )


def _calochallenge(
    file: Any, unit: str | None, binning: str | os.PathLike[str] | Binning | None, grid: Grid | None
) -> Layout:
    cells = guard.checked_dataset(file, "showers", (2,), "(events, voxels)")
    energies = _label(file, "incident_energies")
    cell_unit = _stated_unit(file, cells, ("cell_unit", "energy_unit", "units"))
    energy_unit = _stated_unit(file, energies, ("energy_unit", "units")) or "MeV"
    chosen = _choose_unit(file, "showers", cell_unit, unit, "MeV")
    voxels = int(cells.shape[1])
    if grid is None:
        z_edges = _edges(file, "z", None)
        found = _binning_of(file, binning, voxels)
        if z_edges is not None and len(z_edges) != found.layers + 1:
            raise ShowerFileError(f"{file.filename}: 'z_edges_mm' has {len(z_edges)} edges for {found.layers} layers")
        grid, source = found.grid(z_edges), "the binning"
    else:
        source = "the grid"
    if grid.axes != ("z", "alpha", "r") or math.prod(grid.shape) != voxels:
        raise ShowerFileError(
            f"{file.filename}: 'showers' has {voxels} voxels, {source} has {grid.shape} = {math.prod(grid.shape)} "
            f"along {grid.axes}, expected (z, alpha, r)"
        )
    return Layout("calochallenge", grid, chosen, cells, Column(energies, energy_factor(energy_unit)))


def _label(file: Any, key: str) -> Any:
    data = guard.checked_dataset(file, key, (1, 2), "(events,) or (events, 1)")
    if data.ndim == 2 and data.shape[1] != 1:
        raise ShowerFileError(f"{file.filename}: {key!r} has shape {data.shape}, expected (events,) or (events, 1)")
    return data


def _stated_unit(file: Any, data: Any, file_attributes: tuple[str, ...]) -> str | None:
    """The unit that the dataset or else the file states; None if neither does."""
    for owner, names, what in ((data, ("unit", "units"), f" {data.name[1:]!r}"), (file, file_attributes, "")):
        for name in names:
            text = guard.attribute_text(owner, name, f"{file.filename}{what}")
            if text is None:
                continue
            unit = energy_unit_in_text(text) or text
            try:
                energy_factor(unit)
            except ValueError as error:
                raise ShowerFileError(f"{file.filename}{what}: attribute {name!r}: {error}") from None
            return unit
    return None


def _choose_unit(file: Any, key: str, stated: str | None, asked: str | None, by_format: str | None) -> str:
    if stated is not None and asked is not None and energy_factor(stated) != energy_factor(asked):
        raise ShowerFileError(
            f"{file.filename}: {key!r} states its unit as {stated!r}, but unit={asked!r} was asked for"
        )
    chosen = stated or asked or by_format
    if chosen is None:
        raise ShowerFileError(
            f"{file.filename}: the unit of {key!r} is not stated; say it with unit='GeV' (--unit GeV), or with "
            "unit='GeV/50' (--unit GeV/50) for 3DGAN's public variable-angle files (50 times the energy in GeV)"
        )
    return chosen


def _angle_factor(file: Any, data: Any, key: str) -> float:
    for name in ("unit", "units"):
        text = guard.attribute_text(data, name, f"{file.filename} {key!r}")
        if text is not None:
            if text.strip() not in ("rad", "deg"):
                raise ShowerFileError(f"{file.filename}: {key!r} has unit {text[:40]!r}, expected 'rad' or 'deg'")
            return float(np.pi / 180) if text.strip() == "deg" else 1.0
    return 1.0


def _cartesian_grid(file: Any, shape: tuple[int, ...], grid: Grid | None) -> Grid:
    if grid is not None:
        if grid.shape != shape:
            raise ShowerFileError(f"{file.filename}: 'ECAL' has cells {shape}, the grid given has {grid.shape}")
        return grid
    edges = [_edges(file, axis, n) for axis, n in zip("xyz", shape, strict=True)]
    known = [e for e in edges if e is not None]
    return Grid(shape, edges=tuple(known), units=("mm", "mm", "mm")) if len(known) == 3 else Grid(shape)


def _edges(file: Any, axis: str, cells: int | None) -> tuple[float, ...] | None:
    numbers = guard.attribute_numbers(file, f"{axis}_edges_mm", file.filename)
    if numbers is None:
        return None
    if (cells is not None and len(numbers) != cells + 1) or not (np.diff(numbers) > 0).all():
        wanted = "" if cells is None else f", {cells + 1} of them"
        raise ShowerFileError(
            f"{file.filename}: attribute '{axis}_edges_mm' has {len(numbers)} edges, expected increasing edges{wanted}"
        )
    return tuple(numbers.tolist())


def _binning_of(file: Any, given: str | os.PathLike[str] | Binning | None, voxels: int) -> Binning:
    if isinstance(given, Binning):
        return given
    if given is not None:
        return read_binning(given)
    text = guard.attribute_text(file, "binning_xml", file.filename)
    if text is not None:
        return parse_binning(text, f"{file.filename}: attribute 'binning_xml'")
    beside = sorted(Path(file.filename).parent.glob("binning*.xml"))[:32]
    if len(beside) == 1:
        return read_binning(beside[0])
    fitting = []
    for path in beside:
        try:
            found = read_binning(path)
        except ShowerFileError:
            continue
        if math.prod(found.shape) == voxels:
            fitting.append(found)
    if len(fitting) != 1:
        raise ShowerFileError(
            f"{file.filename}: 'showers' has {voxels} voxels and {len(fitting)} of {len(beside)} binning*.xml beside "
            "it fit; name the CaloChallenge binning file with binning= (--binning)"
        )
    return fitting[0]
