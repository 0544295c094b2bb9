"""What every part of `calo` passes around: a detector grid and a batch of showers on it. GeV and rad."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "Showers"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Grid:
    """The cells of a detector as a regular array.

    Parameters
    ----------
    shape : tuple of int
        Number of cells along each axis.
    axes : tuple of str
        Name of each axis: ("x", "y", "z") for a Cartesian grid with z along the depth, or ("z", "alpha", "r") for
        the cylinders of the CaloChallenge.
    edges : tuple of arrays, optional
        Cell edges of each axis in the unit of `units`; without them cells are counted.
    units : tuple of str
        Unit of each axis' edges: "mm", "rad" or "cell".
    """

    shape: tuple[int, ...]
    axes: tuple[str, ...] = ("x", "y", "z")
    edges: tuple[tuple[float, ...], ...] | None = None
    units: tuple[str, ...] = ("cell", "cell", "cell")

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or any(n < 1 for n in self.shape):
            raise ValueError(f"Grid: expected three positive extents, got shape {self.shape}")
        if self.axes not in (("x", "y", "z"), ("z", "alpha", "r")):
            raise ValueError(f"Grid: axes must be ('x', 'y', 'z') or ('z', 'alpha', 'r'), got {self.axes}")
        if self.edges is not None and tuple(len(e) - 1 for e in self.edges) != self.shape:
            raise ValueError(f"Grid: edges have {tuple(len(e) - 1 for e in self.edges)} cells, shape is {self.shape}")

    @property
    def depth_axis(self) -> int:
        """Index of the axis along the shower."""
        return self.axes.index("z")

    def axis_edges(self, axis: int) -> Array:
        """Edges of one axis (n + 1,), in its unit; 0, 1, ... where none are known."""
        if self.edges is not None:
            return np.asarray(self.edges[axis], dtype=np.float64)
        return np.arange(self.shape[axis] + 1, dtype=np.float64)


@dataclass
class Showers:
    """A batch of showers.

    Parameters
    ----------
    cells_gev : array (N, *grid.shape), float32
        Energy deposited in each cell, GeV.
    energy_gev : array (N,), float32
        Energy of the incident particle, GeV.
    grid : Grid
    conditions : dict of array (N,), float32
        Further labels by name, with the unit in the name: "theta_rad", "pdg_id".
    """

    cells_gev: Array
    energy_gev: Array
    grid: Grid
    conditions: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.cells_gev)
        if self.cells_gev.shape[1:] != self.grid.shape:
            raise ValueError(f"Showers: cells of shape {self.cells_gev.shape[1:]} on a grid of shape {self.grid.shape}")
        for name, values in {"energy_gev": self.energy_gev, **self.conditions}.items():
            if values.shape != (n,):
                raise ValueError(f"Showers: {name} has shape {values.shape}, expected ({n},)")

    def __len__(self) -> int:
        return len(self.cells_gev)

    def __getitem__(self, rows: slice | Array) -> Showers:
        return Showers(
            self.cells_gev[rows], self.energy_gev[rows], self.grid, {k: v[rows] for k, v in self.conditions.items()}
        )
