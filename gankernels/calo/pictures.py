"""A quick look during training: a few Monte Carlo showers above generated ones, as a PNG file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gankernels._extras import require
from gankernels.calo.observables import axis_edges, axis_label
from gankernels.calo.showers import Showers

__all__ = ["write_samples"]


def write_samples(path: Path, reference: Showers, generated: Showers) -> None:
    """Draw showers projected on depth and one transverse axis, the same energies above and below.

    Parameters
    ----------
    reference, generated : Showers
        As many of each, on one grid; a handful.
    """
    figure_module = require("matplotlib.figure", extra="calo", purpose="drawing samples")
    colors = require("matplotlib.colors", extra="calo", purpose="drawing samples")
    grid = reference.grid
    depth = grid.depth_axis
    across = 0 if depth else 2
    away = 3 - depth - across
    images = [s.cells_gev.sum(axis=1 + away, dtype=np.float64) for s in (reference, generated)]
    if depth > across:
        images = [i.transpose(0, 2, 1) for i in images]
    top = max(float(images[0].max()), 1e-12)
    norm = colors.LogNorm(top * 1e-5, top)
    figure = figure_module.Figure((2.6 * len(reference) + 0.8, 4.6), layout="constrained")
    axes: Any = figure.subplots(2, len(reference), sharex=True, sharey=True, squeeze=False)
    edges = axis_edges(grid, depth), axis_edges(grid, across)
    for row, (name, shown) in enumerate(zip(("Monte Carlo", "generated"), images, strict=True)):
        for k, ax in enumerate(axes[row]):
            mesh = ax.pcolormesh(*edges, np.where(shown[k] > norm.vmin, shown[k], np.nan).T, norm=norm)
            ax.set_title(f"{name}, {reference.energy_gev[k]:.3g} GeV", fontsize=9)
        axes[row, 0].set_ylabel(axis_label(grid, across))
    for ax in axes[1]:
        ax.set_xlabel(axis_label(grid, depth))
    figure.colorbar(mesh, ax=axes, label="energy [GeV]", aspect=40)
    figure.savefig(path, dpi=100)
