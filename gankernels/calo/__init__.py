"""Calorimeter showers: files, streams, a built-in simulation, observables, metrics. Energies in GeV, angles in rad."""

from __future__ import annotations

from gankernels.calo.binning import Binning, read_binning, write_binning
from gankernels.calo.files import ShowerFile, ShowerFileError, from_par04_order, open_showers, sha256_of, to_par04_order
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.simulate import MATERIALS, Material, simulate_showers, simulate_to_file
from gankernels.calo.stream import ShowerStream, load_split, validation_mask
from gankernels.calo.write import ShowerWriter, write_showers

__all__ = [
    "MATERIALS",
    "Binning",
    "Grid",
    "Material",
    "ShowerFile",
    "ShowerFileError",
    "ShowerStream",
    "ShowerWriter",
    "Showers",
    "from_par04_order",
    "load_split",
    "open_showers",
    "read_binning",
    "sha256_of",
    "simulate_showers",
    "simulate_to_file",
    "to_par04_order",
    "validation_mask",
    "write_binning",
    "write_showers",
]
