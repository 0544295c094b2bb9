"""Showers into HDF5 files with explicit units, whole or not at all: written beside the target, then renamed onto it."""

from __future__ import annotations

import importlib.metadata
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from gankernels._extras import require
from gankernels.calo.binning import Binning, binning_xml
from gankernels.calo.layouts import LABELS
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.units import energy_factor

__all__ = ["ShowerWriter", "write_showers"]

_CHUNK_BYTES = 2**20


class ShowerWriter:
    """Writes showers piece by piece; the file appears under its name when the block ends without an error.

    Parameters
    ----------
    path : path
        File to be made.
    grid : Grid
    kind : "3dgan-angle", "3dgan" or "calochallenge"
        Layout, see `open_showers`. "3dgan" has no labels besides the energy; "calochallenge" needs (z, alpha, r).
    unit : str, optional
        Unit of the cells in the file: GeV for 3DGAN, MeV for the CaloChallenge unless said.
    attributes : mapping of str to str, int or float, optional
        Written as file attributes, beside the units and the name and version of this package.
    overwrite : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists and overwrite is False.
    ValueError
        If the kind is unknown or does not fit the grid, or CaloChallenge data are asked for in another unit than MeV.
    MissingExtra
        If h5py is not installed.

    Examples
    --------
    >>> with ShowerWriter("out.h5", showers.grid) as file:  # doctest: +SKIP
    ...     file.append(showers)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        grid: Grid,
        *,
        kind: str = "3dgan-angle",
        unit: str | None = None,
        attributes: Mapping[str, str | int | float] | None = None,
        overwrite: bool = False,
    ) -> None:
        if kind not in ("3dgan-angle", "3dgan", "calochallenge"):
            raise ValueError(f"write_showers: kind {kind!r}, expected '3dgan-angle', '3dgan' or 'calochallenge'")
        cylinder = kind == "calochallenge"
        if cylinder != (grid.axes == ("z", "alpha", "r")):
            raise ValueError(f"write_showers: kind {kind!r} does not fit a grid with axes {grid.axes}")
        if cylinder and unit not in (None, "MeV"):
            raise ValueError(f"write_showers: the CaloChallenge format is defined in MeV, got unit={unit!r}")
        self.path = Path(path)
        self.grid = grid
        self.kind = kind
        self.unit = unit or ("MeV" if cylinder else "GeV")
        self.n_events = 0
        self._overwrite = overwrite
        self._factor = 1.0 / energy_factor(self.unit)
        self._labels: tuple[str, ...] | None = None
        if self.path.exists() and not overwrite:
            raise FileExistsError(f"{self.path}: exists already; choose another name (or overwrite=True)")
        if not self.path.parent.is_dir():
            raise FileNotFoundError(f"{self.path}: the folder {self.path.parent} does not exist")
        h5py = require("h5py", extra="calo", purpose="writing showers")
        self._temporary = self.path.with_name(f".{self.path.name}.{secrets.token_hex(4)}.part")
        self._file = h5py.File(self._temporary, "x", libver=("v108", "v108"), locking=False)
        try:
            self._write_attributes(dict(attributes or {}))
        except BaseException:
            self.discard()
            raise

    def append(self, showers: Showers) -> None:
        """Write events behind those already written.

        Raises
        ------
        ValueError
            If the grid or the names of the conditions differ from before, or a condition has no place in the format.
        """
        if showers.grid.shape != self.grid.shape or showers.grid.axes != self.grid.axes:
            raise ValueError(f"write_showers: showers on grid {showers.grid.shape}, the file has {self.grid.shape}")
        labels = tuple(showers.conditions)
        if self._labels is None:
            self._create(labels)
        elif labels != self._labels:
            raise ValueError(f"write_showers: conditions {labels}, the first showers had {self._labels}")
        start, self.n_events = self.n_events, self.n_events + len(showers)
        cells = self._scaled(showers.cells_gev)
        if self.kind == "calochallenge":
            self._put("showers", start, cells.reshape(len(showers), int(np.prod(self.grid.shape))))
            self._put("incident_energies", start, self._scaled(showers.energy_gev)[:, None])
        else:
            self._put("ECAL", start, cells)
            if self.kind == "3dgan":
                self._put("target", start, np.stack([np.zeros_like(showers.energy_gev), showers.energy_gev], axis=1))
            else:
                self._put("energy", start, showers.energy_gev[:, None])
        for name in labels:
            self._put(LABELS[name], start, showers.conditions[name])

    def close(self) -> None:
        """Finish the file and give it its name.

        Raises
        ------
        FileExistsError
            If somebody else has made a file of that name meanwhile and overwrite is False.
        """
        if self._labels is None:
            self._create(())
        self._file.close()
        try:
            descriptor = os.open(self._temporary, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if self._overwrite:
                os.replace(self._temporary, self.path)
            else:
                # A hard link fails where the name is taken; a rename would replace.
                self._link_or_rename()
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise

    def discard(self) -> None:
        """Give up: nothing is left of the file."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def __enter__(self) -> ShowerWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _link_or_rename(self) -> None:
        try:
            os.link(self._temporary, self.path)
        except FileExistsError:
            raise FileExistsError(f"{self.path}: was made by somebody else meanwhile; not replaced") from None
        except OSError:  # a file system without hard links
            os.replace(self._temporary, self.path)
        else:
            self._temporary.unlink()

    def _write_attributes(self, attributes: dict[str, str | int | float]) -> None:
        standard: dict[str, Any] = {
            "cell_unit": self.unit,
            "energy_unit": "MeV" if self.kind == "calochallenge" else "GeV",
            "layout": self.kind,
            "axes": ", ".join(self.grid.axes),
            "written_by": f"gankernels {_package_version()}",
        }
        if self.kind == "calochallenge":
            standard["binning_xml"] = binning_xml(Binning.of(self.grid))
        if self.grid.edges is not None:
            for axis, unit, edges in zip(self.grid.axes, self.grid.units, self.grid.edges, strict=True):
                if unit == "mm":
                    standard[f"{axis}_edges_mm"] = np.asarray(edges, dtype=np.float64)
        taken = sorted(set(standard) & set(attributes))
        if taken:
            raise ValueError(f"write_showers: attributes {taken} are set by the format and cannot be given")
        for name, value in {**standard, **attributes}.items():
            # Texts of fixed length: those of variable length lie in a heap, and HDF5 2.0 hangs where that is damaged.
            self._file.attrs[name] = np.bytes_(value.encode()) if isinstance(value, str) else value

    def _create(self, labels: tuple[str, ...]) -> None:
        allowed = tuple(LABELS) if self.kind == "3dgan-angle" else ()
        unknown = [name for name in labels if name not in allowed]
        if unknown:
            raise ValueError(f"write_showers: layout {self.kind!r} has no place for {unknown}; it has {list(allowed)}")
        self._labels = labels
        cell_bytes = 4 * int(np.prod(self.grid.shape))
        rows = max(1, min(256, _CHUNK_BYTES // cell_bytes))
        shapes: dict[str, tuple[int, ...]]
        if self.kind == "calochallenge":
            shapes = {"showers": (int(np.prod(self.grid.shape)),), "incident_energies": (1,)}
        elif self.kind == "3dgan":
            shapes = {"ECAL": self.grid.shape, "target": (2,)}
        else:
            shapes = {"ECAL": self.grid.shape, "energy": (1,)}
        for name, shape in {**shapes, **{LABELS[n]: () for n in labels}}.items():
            large = name in ("ECAL", "showers")
            self._file.create_dataset(
                name,
                shape=(0, *shape),
                maxshape=(None, *shape),
                chunks=(rows if large else 1024, *shape),
                dtype="<f4",
                compression="gzip",
                compression_opts=4,
                shuffle=True,
            )
        if "theta" in self._file:
            self._file["theta"].attrs["unit"] = np.bytes_(b"rad")

    def _put(self, name: str, start: int, values: Any) -> None:
        data = self._file[name]
        data.resize(start + len(values), axis=0)
        data[start:] = values

    def _scaled(self, gev: Any) -> Any:
        return gev if self._factor == 1.0 else (gev.astype(np.float64) * self._factor).astype(np.float32)


def _package_version() -> str:
    try:
        return importlib.metadata.version("gankernels")
    except importlib.metadata.PackageNotFoundError:
        return "from a source tree"


def write_showers(
    path: str | os.PathLike[str],
    showers: Showers,
    *,
    kind: str | None = None,
    unit: str | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
    overwrite: bool = False,
) -> None:
    """Write showers to a new HDF5 file; parameters and errors as `ShowerWriter`.

    Without `kind` a cylindrical grid gives "calochallenge" and a Cartesian one "3dgan-angle".
    """
    if kind is None:
        kind = "calochallenge" if showers.grid.axes == ("z", "alpha", "r") else "3dgan-angle"
    with ShowerWriter(path, showers.grid, kind=kind, unit=unit, attributes=attributes, overwrite=overwrite) as file:
        file.append(showers)
