"""Parametrised electromagnetic showers, so that everything runs with no data at hand.

Source: G. Grindhammer and S. Peters, "The Parameterized Simulation of Electromagnetic Showers in Homogeneous and
Sampling Calorimeters", hep-ex/0001020, appendix, homogeneous media: average longitudinal profile (A.1.1), fluctuating
longitudinal profile (A.1.2), radial profile (A.1.3) and spots (A.1.4). Depths are in radiation lengths X0, radii in
Moliere radii RM, energies of the formulas in GeV, y = E / Ec. Sampling calorimeters are described by effective
X0, RM, Z and Ec, a sampling fraction, and fluctuations of the visible energy of each layer (a gamma distribution).
A model to test and to teach with: no replacement for Geant4.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gankernels.calo.showers import Grid, Showers
from gankernels.calo.write import ShowerWriter

__all__ = ["MATERIALS", "Material", "simulate_showers", "simulate_to_file", "simulation_grid"]

Array = NDArray[Any]

# The whole grid, whatever its number of cells: 23 X0 deep (25 layers of 0.92 X0), 7 RM wide, or 3.5 RM in radius.
DEPTH_X0 = 23.0
WIDTH_RM = 7.0
# Tilted showers turn about this depth on the middle of the grid, near the shower maximum, so that they stay inside.
PIVOT_X0 = 8.7
ENERGY_RANGE_GEV = (0.1, 1e5)


@dataclass(frozen=True)
class Material:
    """A calorimeter, as the shower sees it.

    Parameters
    ----------
    name : str
    z_eff : float
        Effective atomic number.
    x0_mm : float
        Radiation length, mm.
    rm_mm : float
        Moliere radius, mm.
    ec_mev : float
        Critical energy, MeV.
    sampling_fraction : float
        Visible part of the energy.
    resolution : float
        Sampling fluctuation a of the visible energy, sigma(E)/E = a / sqrt(E/GeV).
    """

    name: str
    z_eff: float
    x0_mm: float
    rm_mm: float
    ec_mev: float
    sampling_fraction: float = 1.0
    resolution: float = 0.0


MATERIALS = {
    # 3.2 mm tungsten (X0 3.50 mm, RM 9.3 mm, Ec 8.0 MeV) in layers of 5.5 mm: X0 and RM grow by the empty part.
    "tungsten-silicon": Material("tungsten-silicon", 74.0, 6.0, 15.7, 8.0, 0.022, 0.16),
    "lead-tungstate": Material("lead-tungstate", 68.4, 8.9, 19.6, 9.6),
}


@dataclass(frozen=True)
class Profile:
    """Parameters of the longitudinal profile, dE/dt = E (beta t)^(alpha-1) beta exp(-beta t) / Gamma(alpha)."""

    alpha: float
    t_max: float

    @property
    def beta(self) -> float:
        """1 / X0."""
        return (self.alpha - 1.0) / self.t_max


def average_profile(y: float, z: float) -> Profile:
    """The mean longitudinal profile (A.1.1): T = ln y - 0.858, alpha = 0.21 + (0.492 + 2.38/Z) ln y."""
    return Profile(0.21 + (0.492 + 2.38 / z) * math.log(y), math.log(y) - 0.858)


def fluctuating_profile(y: float, z: float, normals: tuple[float, float]) -> tuple[Profile, float]:
    """One shower's longitudinal profile (A.1.2) and <ln alpha>, from two standard normal numbers.

    ln T and ln alpha are normal: <ln T> = ln(ln y - 0.812), sigma = 1 / (-1.4 + 1.26 ln y); <ln alpha> = ln(0.81 +
    (0.458 + 2.26/Z) ln y), sigma = 1 / (-0.58 + 0.86 ln y); correlation rho = 0.705 - 0.023 ln y.
    """
    ln_y = math.log(y)
    mean_t = math.log(ln_y - 0.812)
    mean_alpha = math.log(0.81 + (0.458 + 2.26 / z) * ln_y)
    rho = 0.705 - 0.023 * ln_y
    common, apart = math.sqrt((1 + rho) / 2) * normals[0], math.sqrt((1 - rho) / 2) * normals[1]
    t_max = math.exp(mean_t + (common + apart) / (-1.4 + 1.26 * ln_y))
    alpha = math.exp(mean_alpha + (common - apart) / (-0.58 + 0.86 * ln_y))
    # Below about 1 GeV the normal tails reach alpha <= 1, where the profile has no maximum.
    return Profile(max(alpha, 1.1), t_max), mean_alpha


def radial_profile(tau: Array, energy_gev: float, z: float) -> tuple[Array, Array, Array]:
    """Core radius, tail radius (RM) and core fraction p at tau = t / T (A.1.3).

    f(r) = p 2 r Rc^2 / (r^2 + Rc^2)^2 + (1 - p) 2 r Rt^2 / (r^2 + Rt^2)^2.
    """
    ln_e = np.float32(math.log(energy_gev))
    core = (0.0251 + 0.00319 * ln_e) + (0.1162 - 0.000381 * z) * tau
    shifted = tau - 0.645
    tail = (0.659 - 0.00309 * z) * (np.exp(-2.59 * shifted) + np.exp((0.3585 + 0.0421 * ln_e) * shifted))
    u = ((0.401 + 0.00187 * z) - tau) / (1.313 - 0.0686 * ln_e)
    p = (2.632 - 0.00094 * z) * np.exp(u - np.exp(u))
    return core, tail, np.clip(p, 0.0, 1.0)


def spot_count(energy_gev: float, z: float) -> int:
    """Number of spots of a shower (A.1.4): 93 ln Z (E/GeV)^0.876."""
    return max(1, round(93.0 * math.log(z) * math.pow(energy_gev, 0.876)))


def simulation_grid(
    grid: Grid | tuple[int, int, int],
    material: Material,
    cell_x0: float | None = None,
    cell_rm: float | None = None,
    axes: Literal["cartesian", "cylindrical"] = "cartesian",
) -> Grid:
    """Cell edges in mm of a grid that holds the showers of a material; a Grid that has edges in mm stays as it is.

    Parameters
    ----------
    grid : Grid or three ints
        Cells along (x, y, z), or (z, alpha, r) for a cylinder.
    cell_x0, cell_rm : float, optional
        Depth of a layer in X0 and width of a cell in RM; without them the grid is 23 X0 deep and 7 RM wide.
    """
    if isinstance(grid, Grid):
        if grid.edges is not None and {"mm"} <= set(grid.units) <= {"mm", "rad"}:
            return grid
        shape, names = grid.shape, grid.axes
    else:
        if axes not in ("cartesian", "cylindrical"):
            raise ValueError(f"simulate: axes must be 'cartesian' or 'cylindrical', got {axes!r}")
        shape, names = tuple(grid), ("x", "y", "z") if axes == "cartesian" else ("z", "alpha", "r")
        Grid(shape, names)
    for name, size in (("cell_x0", cell_x0), ("cell_rm", cell_rm)):
        if size is not None and not 0.0 < size < math.inf:
            raise ValueError(f"simulate: {name} must be above zero, got {size}")
    layers = shape[names.index("z")]
    z = np.arange(layers + 1) * ((cell_x0 or DEPTH_X0 / layers) * material.x0_mm)
    if names == ("z", "alpha", "r"):
        r = np.arange(shape[2] + 1) * ((cell_rm or WIDTH_RM / 2 / shape[2]) * material.rm_mm)
        edges = [z, np.linspace(-math.pi, math.pi, shape[1] + 1), r]
        return Grid(shape, names, tuple(tuple(e.tolist()) for e in edges), ("mm", "rad", "mm"))
    sides = [(np.arange(n + 1) - n / 2) * ((cell_rm or WIDTH_RM / n) * material.rm_mm) for n in shape[:2]]
    return Grid(shape, names, tuple(tuple(e.tolist()) for e in (*sides, z)), ("mm", "mm", "mm"))


def simulate_showers(
    n: int,
    energy_gev: tuple[float, float] = (10.0, 100.0),
    grid: Grid | tuple[int, int, int] = (25, 25, 25),
    *,
    seed: int,
    first_event: int = 0,
    material: Material | str = "tungsten-silicon",
    axes: Literal["cartesian", "cylindrical"] = "cartesian",
    cell_x0: float | None = None,
    cell_rm: float | None = None,
    theta_deg: tuple[float, float] | None = None,
    spectrum: Literal["uniform", "log-uniform"] = "uniform",
    sampling_fraction: float | None = None,
    threshold_gev: float = 1e-6,
) -> Showers:
    """Simulate electron showers.

    Each event has its own random numbers, a function of seed and event number alone: however a sample is cut into
    calls, event i is the same to the last bit.

    Parameters
    ----------
    n : int
        Number of events.
    energy_gev : (low, high)
        Range of the incident energy, GeV, within 0.1 to 1e5; equal ends give one energy.
    grid : three ints or Grid
        Cells along (x, y, z), or (z, alpha, r) with axes="cylindrical". See `simulation_grid` for their sizes.
    seed : int
        0 to 2^64 - 1.
    first_event : int
        Number of the first event.
    material : Material or name of one in MATERIALS
    axes : "cartesian" or "cylindrical"
        For a grid given as three ints.
    cell_x0, cell_rm : float, optional
        Size of a cell, X0 along the depth and RM across.
    theta_deg : (low, high), optional
        Range of the angle to the y axis in the y-z plane, uniform, within 30 to 150 degrees; 90 is along z, and None
        means 90 with no angle label. Cartesian only.
    spectrum : "uniform" or "log-uniform"
    sampling_fraction : float, optional
        Visible part of the energy; the material's unless said.
    threshold_gev : float
        Cells below read zero.

    Returns
    -------
    Showers with `cells_gev` (n, *grid) float32, edges in mm, and the condition "theta_rad" if theta_deg is given.

    Raises
    ------
    ValueError
        If an argument is out of its range.

    Examples
    --------
    >>> simulate_showers(2, grid=(12, 12, 12), seed=1).cells_gev.shape
    (2, 12, 12, 12)
    """
    medium = _material(material)
    cells = simulation_grid(grid, medium, cell_x0, cell_rm, axes)
    fraction = medium.sampling_fraction if sampling_fraction is None else sampling_fraction
    _check(n, energy_gev, cells, seed, first_event, theta_deg, spectrum, fraction, threshold_gev)
    out = np.zeros((n, *cells.shape), dtype=np.float32)
    energies = np.empty(n, dtype=np.float32)
    thetas = np.empty(n, dtype=np.float32)
    low, high = energy_gev
    for i in range(n):
        key = np.array([seed, first_event + i], dtype=np.uint64)
        rng = np.random.Generator(np.random.Philox(key=key))
        place, angle = rng.random(2)
        energy = low * (high / low) ** place if spectrum == "log-uniform" else low + (high - low) * place
        degrees = theta_deg[0] + (theta_deg[1] - theta_deg[0]) * angle if theta_deg else 90.0
        energies[i], thetas[i] = energy, math.radians(degrees)
        visible = _shower(rng, float(energies[i]), float(thetas[i]), medium, cells)
        if medium.resolution > 0.0:
            _sampling_fluctuation(rng, visible, medium.resolution, cells.depth_axis)
        visible *= fraction
        visible[visible < threshold_gev] = 0.0
        out[i] = visible
    return Showers(out, energies, cells, {"theta_rad": thetas} if theta_deg else {})


def simulate_to_file(
    out: str | os.PathLike[str],
    events: int,
    energy_gev: tuple[float, float] = (10.0, 100.0),
    grid: Grid | tuple[int, int, int] = (25, 25, 25),
    *,
    seed: int,
    chunk: int = 256,
    progress: Callable[[int, int], None] | None = None,
    attributes: Mapping[str, str | int | float] | None = None,
    overwrite: bool = False,
    **settings: Any,
) -> None:
    """Simulate showers into a file, `chunk` events in memory at a time.

    Cartesian showers are written in the layout "3dgan-angle" in GeV, cylindrical ones as "calochallenge" in MeV.

    Parameters
    ----------
    out : path
    events : int
    energy_gev, grid, seed, settings
        As for `simulate_showers`.
    progress : function, optional
        Called as progress(events written, events in all) after each piece.
    attributes, overwrite
        As for `ShowerWriter`.

    Raises
    ------
    FileExistsError
        If the file exists and overwrite is False.
    ValueError
        If an argument is out of its range.
    """
    if events < 1 or chunk < 1:
        raise ValueError(f"simulate: events and chunk must be at least 1, got {events} and {chunk}")
    # One event shows wrong arguments before a file is made.
    sample = simulate_showers(1, energy_gev, grid, seed=seed, **settings)
    kind = "calochallenge" if sample.grid.axes == ("z", "alpha", "r") else "3dgan-angle"
    described: dict[str, str | int | float] = {
        "generator": "parametrised electromagnetic showers after hep-ex/0001020",
        "material": _material(settings.get("material", "tungsten-silicon")).name,
        "seed": seed,
        "energy_range_gev": f"{energy_gev[0]:g}:{energy_gev[1]:g} {settings.get('spectrum', 'uniform')}",
    }
    with ShowerWriter(
        out, sample.grid, kind=kind, attributes={**described, **(attributes or {})}, overwrite=overwrite
    ) as file:
        first = settings.pop("first_event", 0)
        for start in range(0, events, chunk):
            count = min(chunk, events - start)
            file.append(simulate_showers(count, energy_gev, grid, seed=seed, first_event=first + start, **settings))
            if progress is not None:
                progress(start + count, events)


def _shower(rng: np.random.Generator, energy: float, theta: float, medium: Material, grid: Grid) -> Array:
    """Energy in each cell (*grid.shape), float64, GeV, of all that the shower leaves inside the grid."""
    y, z = energy * 1e3 / medium.ec_mev, medium.z_eff
    profile, mean_ln_alpha = fluctuating_profile(y, z, (rng.standard_normal(), rng.standard_normal()))
    spots = spot_count(energy, z)
    # Spots follow a profile of their own (A.1.4), shallower than the energy; their weights make up the difference.
    alpha_s = max(profile.alpha * (0.639 + 0.00334 * z), 1.05)
    beta_s = (alpha_s - 1.0) / (profile.t_max * (0.698 + 0.00212 * z))
    depth = rng.standard_gamma(alpha_s, spots, dtype=np.float32) * np.float32(1.0 / beta_s)
    np.maximum(depth, np.float32(1e-6), out=depth)
    weight = np.exp(np.float32(profile.alpha - alpha_s) * np.log(depth) - np.float32(profile.beta - beta_s) * depth)
    weight *= energy / float(weight.sum(dtype=np.float64))
    mean_alpha = math.exp(mean_ln_alpha)
    per_x0 = (profile.alpha - 1.0) / (profile.alpha * profile.t_max) * mean_alpha / (mean_alpha - 1.0)
    core, tail, p = radial_profile(depth * np.float32(per_x0), energy, z)
    radius = np.where(rng.random(spots, dtype=np.float32) < p, core, tail)
    # f(r) is a bivariate normal over the root of an exponential number: no inverse and no angle are needed.
    # (float32 exponentials can be zero, once in 1e7: there the radius is far outside, not infinite.)
    tail_draw = np.maximum(rng.standard_exponential(spots, dtype=np.float32), np.float32(1e-12))
    radius *= np.float32(medium.rm_mm) / np.sqrt(2.0 * tail_draw)
    u = radius * rng.standard_normal(spots, dtype=np.float32)
    v = radius * rng.standard_normal(spots, dtype=np.float32)
    along = depth * np.float32(medium.x0_mm)
    if grid.axes == ("z", "alpha", "r"):
        place = (along, np.arctan2(v, u), np.hypot(u, v))
    else:
        sin, cos = np.float32(math.sin(theta)), np.float32(math.cos(theta))
        start_y = -np.float32(PIVOT_X0 * medium.x0_mm) * cos / sin
        place = (u, start_y + along * cos + v * sin, along * sin - v * cos)
    return _deposit(place, weight, grid)


def _deposit(place: tuple[Array, Array, Array], weight: Array, grid: Grid) -> Array:
    index = np.zeros(len(weight), dtype=np.int64)
    inside = np.ones(len(weight), dtype=bool)
    for axis, values in enumerate(place):
        edges, cells = grid.axis_edges(axis), grid.shape[axis]
        step = (edges[-1] - edges[0]) / cells
        if np.allclose(edges, edges[0] + step * np.arange(cells + 1), rtol=0, atol=1e-6 * step):
            scaled = np.floor((values - np.float32(edges[0])) * np.float32(1.0 / step))
            cell = np.clip(scaled, -1, cells).astype(np.int64)
        else:
            cell = np.searchsorted(edges, values, side="right") - 1
        if grid.axes[axis] == "alpha":
            cell %= cells
        inside &= (cell >= 0) & (cell < cells)
        index = index * cells + cell
    deposits = np.bincount(index[inside], weights=weight[inside], minlength=math.prod(grid.shape))
    return deposits.reshape(grid.shape)


def _sampling_fluctuation(rng: np.random.Generator, cells: Array, resolution: float, depth_axis: int) -> None:
    """Scale each layer by a gamma number of mean 1 and variance a^2/E_layer, so that the sum has sigma = a sqrt(E)."""
    others = tuple(i for i in range(3) if i != depth_axis)
    shape = np.maximum(cells.sum(axis=others) / resolution**2, 1e-9)
    factor = rng.standard_gamma(shape) / shape
    cells *= np.expand_dims(factor, others)


def _material(material: Material | str) -> Material:
    if isinstance(material, Material):
        return material
    if material not in MATERIALS:
        raise ValueError(f"simulate: material {material!r} is not known; there are {', '.join(sorted(MATERIALS))}")
    return MATERIALS[material]


def _check(
    n: int,
    energy_gev: tuple[float, float],
    grid: Grid,
    seed: int,
    first_event: int,
    theta_deg: tuple[float, float] | None,
    spectrum: str,
    fraction: float,
    threshold_gev: float,
) -> None:
    low, high = ENERGY_RANGE_GEV
    if n < 0 or first_event < 0:
        raise ValueError(f"simulate: n and first_event must not be negative, got {n} and {first_event}")
    if not low <= energy_gev[0] <= energy_gev[1] <= high:
        raise ValueError(f"simulate: energy_gev={energy_gev}, expected {low} <= low <= high <= {high:g}")
    if not 0 <= seed < 2**64:
        raise ValueError(f"simulate: seed={seed}, expected 0 to 2^64 - 1")
    if spectrum not in ("uniform", "log-uniform"):
        raise ValueError(f"simulate: spectrum {spectrum!r}, expected 'uniform' or 'log-uniform'")
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"simulate: sampling_fraction={fraction}, expected above 0 and at most 1")
    if not 0.0 <= threshold_gev < math.inf:
        raise ValueError(f"simulate: threshold_gev={threshold_gev}, expected 0 or more")
    if theta_deg is not None:
        if grid.axes == ("z", "alpha", "r"):
            raise ValueError("simulate: a cylinder lies along the particle, theta_deg must be None")
        if not 30.0 <= theta_deg[0] <= theta_deg[1] <= 150.0:
            raise ValueError(f"simulate: theta_deg={theta_deg}, expected 30 <= low <= high <= 150")
