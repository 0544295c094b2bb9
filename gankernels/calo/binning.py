"""Voxel edges of the CaloChallenge as XML: layers along the depth, each cut into angles and radii.

Format: github.com/CaloChallenge/homepage, binning_dataset_2.xml. Only regular files become a Grid, that is, files whose
layers all have the same cells; dataset 1, whose layers differ, is refused with the layers that do.
"""

from __future__ import annotations

import itertools
import math
import os
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gankernels.calo.guard import MAX_CELLS, ShowerFileError, check_regular_file
from gankernels.calo.showers import Grid

__all__ = ["Binning", "binning_xml", "parse_binning", "read_binning", "write_binning"]

MAX_XML_BYTES = 2**20
MAX_LAYERS = 2**12


@dataclass(frozen=True)
class Binning:
    """Layers of a cylinder with the same cells in each.

    Parameters
    ----------
    layers : int
    n_alpha : int
        Angular bins, from -pi to pi.
    r_edges_mm : tuple of float
        Radial edges, mm.
    pid : int
        PDG number of the particle.
    particle : str
    """

    layers: int
    n_alpha: int
    r_edges_mm: tuple[float, ...]
    pid: int = 11
    particle: str = "electron"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Cells along (z, alpha, r)."""
        return self.layers, self.n_alpha, len(self.r_edges_mm) - 1

    def grid(self, z_edges_mm: tuple[float, ...] | None = None) -> Grid:
        """The Grid (z, alpha, r); the format has no depths, so that layers are counted unless they are given."""
        z = z_edges_mm if z_edges_mm is not None else tuple(float(i) for i in range(self.layers + 1))
        alpha = tuple(np.linspace(-math.pi, math.pi, self.n_alpha + 1).tolist())
        units = ("mm" if z_edges_mm is not None else "cell", "rad", "mm")
        return Grid(self.shape, ("z", "alpha", "r"), (z, alpha, self.r_edges_mm), units)

    @classmethod
    def of(cls, grid: Grid) -> Binning:
        """The binning of a cylindrical grid.

        Raises
        ------
        ValueError
            If the grid is not cylindrical, or its angular bins are not equal steps from -pi to pi.
        """
        if grid.axes != ("z", "alpha", "r"):
            raise ValueError(f"Binning: the CaloChallenge format needs axes ('z', 'alpha', 'r'), got {grid.axes}")
        if grid.edges is not None:
            expected = np.linspace(-math.pi, math.pi, grid.shape[1] + 1)
            if grid.units[1] != "rad" or not np.allclose(grid.axis_edges(1), expected, atol=1e-6):
                raise ValueError("Binning: the CaloChallenge format has equal angular bins from -pi to pi")
        return cls(grid.shape[0], grid.shape[1], tuple(grid.axis_edges(2).tolist()))


def read_binning(path: str | os.PathLike[str]) -> Binning:
    """Read a binning file.

    Raises
    ------
    ShowerFileError
        If it is missing, larger than 1 MiB, not XML, has a DOCTYPE, or its layers are missing or differ.
    """
    name = check_regular_file(path)
    if name.stat().st_size > MAX_XML_BYTES:
        raise ShowerFileError(f"{name}: has {name.stat().st_size} bytes, expected a binning XML of at most 1 MiB")
    return parse_binning(name.read_bytes(), str(name))


def parse_binning(text: str | bytes, where: str = "binning") -> Binning:
    """Read a binning from XML text; `where` names it in messages. Raises as `read_binning`."""
    raw = text.encode() if isinstance(text, str) else text
    # Entities need a DOCTYPE, and a DOCTYPE is never part of the format: without it no expansion can be hidden.
    # NUL bytes mean UTF-16 or binary, in which the two words could not be found.
    if b"\0" in raw or b"<!DOCTYPE" in raw or b"<!ENTITY" in raw:
        raise ShowerFileError(
            f"{where}: has a DOCTYPE, an ENTITY or NUL bytes, expected the plain <Bins> of the format"
        )
    try:
        root = ElementTree.fromstring(raw)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise ShowerFileError(f"{where}: is not XML ({error})") from None
    bins = root.findall("Bin")
    if root.tag != "Bins" or not bins:
        raise ShowerFileError(f"{where}: root <{root.tag[:40]}> with {len(bins)} <Bin>, expected <Bins> with one <Bin>")
    if len(bins) > 1:
        names = [str(b.get("name"))[:40] for b in bins[:8]]
        raise ShowerFileError(f"{where}: holds {len(bins)} particles ({', '.join(names)}), expected one")
    layers = bins[0].findall("Layer")
    if not 0 < len(layers) <= MAX_LAYERS:
        raise ShowerFileError(f"{where}: {len(layers)} <Layer>, expected 1 to {MAX_LAYERS}")
    cells = [_layer(layer, i, where) for i, layer in enumerate(layers)]
    different = [i for i, cell in enumerate(cells) if cell != cells[0]]
    if different:
        shown = ", ".join(f"{i} ({cells[i][0]} x {len(cells[i][1]) - 1})" for i in different[:8])
        raise ShowerFileError(
            f"{where}: layers {shown} have other cells (alpha x r) than layer 0 "
            f"({cells[0][0]} x {len(cells[0][1]) - 1}); only regular files work, such as "
            "CaloChallenge datasets 2 and 3"
        )
    ids = [layer.get("id") for layer in layers]
    missing = sorted(
        set(range(len(layers))) - {int(i) for i in ids if i and i.isascii() and i.isdigit() and len(i) < 6}
    )
    if missing:
        raise ShowerFileError(f"{where}: layers {missing[:8]} are missing or have no id; ids found: {ids[:8]} ...")
    n_alpha, r_edges = cells[0]
    if len(layers) * n_alpha * (len(r_edges) - 1) > MAX_CELLS:
        raise ShowerFileError(f"{where}: more than 2^24 cells")
    return Binning(len(layers), n_alpha, r_edges, _integer(bins[0].get("pid"), 11), bins[0].get("name") or "electron")


def _layer(layer: ElementTree.Element, i: int, where: str) -> tuple[int, tuple[float, ...]]:
    text = layer.get("r_edges") or ""
    n_alpha = _integer(layer.get("n_bin_alpha"), 0)
    try:
        edges = tuple(float(e) for e in text.split(","))
    except ValueError:
        raise ShowerFileError(f"{where}: layer {i} has r_edges={text[:60]!r}, expected numbers with commas") from None
    if not all(math.isfinite(e) for e in edges) or any(b <= a for a, b in itertools.pairwise(edges)):
        raise ShowerFileError(f"{where}: layer {i} has r_edges={text[:60]!r}, expected increasing numbers")
    if len(edges) < 2:
        raise ShowerFileError(f"{where}: layer {i} has no radial cell (r_edges={text[:60]!r}); only regular files work")
    if not 1 <= n_alpha <= MAX_CELLS:
        raise ShowerFileError(f"{where}: layer {i} has n_bin_alpha={layer.get('n_bin_alpha')!r}, expected 1 or more")
    return n_alpha, edges


def _integer(text: str | None, otherwise: int) -> int:
    try:
        return int(text) if text is not None and len(text) < 12 else otherwise
    except ValueError:
        return otherwise


def binning_xml(binning: Binning) -> str:
    """The XML of a binning."""
    edges = ",".join(repr(e) if e % 1 else str(int(e)) for e in binning.r_edges_mm)
    top = ElementTree.Element("Bins")
    inner = ElementTree.SubElement(top, "Bin", pid=str(binning.pid), name=binning.particle)
    for i in range(binning.layers):
        ElementTree.SubElement(inner, "Layer", id=str(i), r_edges=edges, n_bin_alpha=str(binning.n_alpha))
    ElementTree.indent(top, "   ")
    return ElementTree.tostring(top, encoding="unicode") + "\n"


def write_binning(path: str | os.PathLike[str], binning: Binning) -> None:
    """Write a binning file; an existing file is an error (FileExistsError)."""
    with Path(path).open("x", encoding="utf-8") as file:
        file.write(binning_xml(binning))
