"""A GAN whose images are calorimeter showers: the way from GeV to the network's numbers and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.autograd import Tensor
from gankernels.calo.showers import Grid, Showers
from gankernels.gan.model import GAN, Batch, Conditions
from gankernels.ops import Generator, from_array, tensor

__all__ = ["ShowerGAN"]

Array = NDArray[Any]


class ShowerGAN(GAN):
    """Images (N, 1, *grid.shape) of cells = ((energy in GeV) * scale / reference) ** power.

    Parameters
    ----------
    grid : Grid
    scale : float or array (grid.shape)
        Multiplies energies before the power; an array has a number for each cell.
    power : float
        Below 1 it brings small and large cells closer together; inverted on the way back.
    relative : bool
        The reference is the incident energy (GeV) of each shower instead of 1 GeV.
    threshold_gev : float
        Generated cells below it are empty, as in the files.
    condition_names : tuple of str
        Labels beside the energy that the networks are told, as in Showers.conditions.
    """

    def __init__(
        self,
        grid: Grid,
        *,
        scale: float | Array = 1.0,
        power: float = 1.0,
        relative: bool = False,
        threshold_gev: float = 1e-6,
        condition_names: tuple[str, ...] = (),
    ) -> None:
        self.grid = grid
        self.scale = np.asarray(scale, dtype=np.float32)
        self.inverse_scale = tensor(1.0 / self.scale)
        self.power = power
        self.relative = relative
        self.threshold_gev = threshold_gev
        self.condition_names = condition_names

    # ---- Monte Carlo <-> network -------------------------------------------------------------------------------------
    def conditions(self, energy_gev: Array, labels: dict[str, Array]) -> Conditions:
        """Conditions as the networks take them: "energy" in GeV and the named labels, (N,) float32 each."""
        missing = [name for name in self.condition_names if name not in labels]
        if missing:
            raise ValueError(f"the networks need the condition {missing[0]!r}; given are {['energy_gev', *labels]}")
        given = {"energy": energy_gev, **{name: labels[name] for name in self.condition_names}}
        return {name: tensor(v, dtype=np.float32, device=self.device) for name, v in given.items()}

    def to_batch(self, showers: Showers) -> Batch:
        """Showers as the networks see them."""
        cells = showers.cells_gev * self.scale
        if self.relative:
            cells /= showers.energy_gev.reshape(-1, 1, 1, 1)
        if self.power != 1.0:
            cells = np.power(cells, np.float32(self.power))
        return Batch(
            from_array(cells[:, None]).to(self.device), self.conditions(showers.energy_gev, showers.conditions)
        )

    def to_showers(self, images: Tensor, energy_gev: Array, labels: dict[str, Array]) -> Showers:
        """Generated images in GeV, cells below the threshold emptied."""
        cells = np.maximum(images.detach().cpu().numpy()[:, 0], 0.0)
        if self.power != 1.0:
            cells = np.power(cells, np.float32(1.0 / self.power))
        cells = cells / self.scale
        if self.relative:
            cells = cells * energy_gev.reshape(-1, 1, 1, 1).astype(np.float32)
        cells[cells < self.threshold_gev] = 0.0
        return Showers(cells, energy_gev.astype(np.float32), self.grid, dict(labels))

    def linear(self, images: Tensor, conditions: Conditions) -> Tensor:
        """Cells in GeV from images, as an operation: for sums of energy in losses."""
        cells = images if self.power == 1.0 else (images + 1e-12) ** (1.0 / self.power)
        cells = cells * self.inverse_scale
        return cells * conditions["energy"].reshape(-1, 1, 1, 1, 1) if self.relative else cells

    def generate_showers(
        self, energy_gev: Array, labels: dict[str, Array], generator: Generator, chunk: int | None = None
    ) -> Showers:
        """Generate one shower for each energy and its labels.

        Parameters
        ----------
        energy_gev : array (N,)
        labels : dict of array (N,)
            Values of `condition_names`; further labels are passed through.
        chunk : int, optional
            Showers at a time; the GAN's own otherwise.
        """
        images = self.sample(self.conditions(energy_gev, labels), generator, chunk)
        return self.to_showers(images, energy_gev, labels)
