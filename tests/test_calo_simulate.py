"""The built-in simulation against the published formulas of hep-ex/0001020."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from gankernels.calo import MATERIALS, Grid, simulate_showers
from gankernels.calo.simulate import average_profile, fluctuating_profile, radial_profile, spot_count

pytestmark = pytest.mark.cpu_only  # of NumPy

PBWO4 = MATERIALS["lead-tungstate"]
TUNGSTEN = MATERIALS["tungsten-silicon"]


def gamma_bins(alpha, beta, edges):
    """Integral of the gamma profile between edges, by Simpson's rule on a fine grid."""
    out = []
    for low, high in itertools.pairwise(edges):
        t = np.linspace(max(low, 1e-9), high, 41)
        density = np.exp(alpha * math.log(beta) + (alpha - 1) * np.log(t) - beta * t - math.lgamma(alpha))
        weights = np.ones(41)
        weights[1:-1:2], weights[2:-1:2] = 4, 2
        out.append((weights * density).sum() * (t[1] - t[0]) / 3)
    return np.array(out)


def wide_cylinder(material, layers=50, cell_x0=0.8, radii_rm=(0.0, 1.0, 2.0, 3.5, 60.0)):
    z = tuple((np.arange(layers + 1) * cell_x0 * material.x0_mm).tolist())
    r = tuple(radius * material.rm_mm for radius in radii_rm)
    return Grid((layers, 1, len(r) - 1), ("z", "alpha", "r"), (z, (-math.pi, math.pi), r), ("mm", "rad", "mm"))


def profile_at(energy_gev, material, n=400, **settings):
    grid = wide_cylinder(material)
    showers = simulate_showers(n, (energy_gev, energy_gev), grid, seed=7, material=material, **settings)
    return showers.cells_gev.astype(np.float64) / energy_gev, grid


@pytest.mark.parametrize("energy_gev", [5.0, 50.0, 300.0])
@pytest.mark.parametrize("material", [PBWO4, TUNGSTEN], ids=lambda m: m.name)
def test_the_mean_longitudinal_profile_is_the_published_gamma_distribution(energy_gev, material):
    cells, grid = profile_at(energy_gev, material, sampling_fraction=1.0)
    measured = cells.sum(axis=(2, 3)).mean(axis=0)
    published = average_profile(energy_gev * 1e3 / material.ec_mev, material.z_eff)
    edges = grid.axis_edges(0) / material.x0_mm
    expected = gamma_bins(published.alpha, published.beta, edges)
    # The average of fluctuating showers (A.1.2) and the fit to the average shower (A.1.1) are separate fits of the
    # paper; between them and the 400 events some percent of the energy may lie at another depth.
    moved = 0.5 * np.abs(measured - expected).sum()
    assert moved <= 0.03, f"{moved:.4f} of the energy lies at other depths"


def test_the_shower_maximum_grows_with_the_logarithm_of_the_energy():
    depths = []
    for energy in (5.0, 20.0, 80.0, 320.0):
        cells, _ = profile_at(energy, PBWO4)
        mean = cells.sum(axis=(2, 3)).mean(axis=0)
        peak = int(np.argmax(mean))
        a, b, c = mean[peak - 1 : peak + 2]
        depth = (peak + 0.5 + 0.5 * (a - c) / (a - 2 * b + c)) * 0.8
        depths.append(depth - (math.log(energy * 1e3 / PBWO4.ec_mev) - 0.858))
    assert np.abs(depths).max() <= 0.3, depths
    assert abs(depths[-1] - depths[0]) <= 0.3, depths


@pytest.mark.parametrize("energy_gev", [10.0, 100.0])
def test_nine_tenths_of_the_energy_lie_within_about_one_moliere_radius(energy_gev):
    cells, _ = profile_at(energy_gev, PBWO4)
    radial = cells.sum(axis=(1, 2)).mean(axis=0)
    contained = np.cumsum(radial) / radial.sum()
    assert 0.86 <= contained[0] <= 0.93, contained
    # Two Moliere radii hold about 95 %, three and a half about 99 % (Review of Particle Physics, section 34.5).
    assert 0.93 <= contained[1] <= 0.98, contained
    assert contained[2] >= 0.97, contained


def test_the_radial_fractions_of_one_layer_are_the_integral_of_the_two_component_profile():
    tau = np.array([1.0])
    core, tail, p = radial_profile(tau, 50.0, PBWO4.z_eff)
    # The integral of 2 r R^2 / (r^2 + R^2)^2 from 0 to r is r^2 / (r^2 + R^2).
    radii = np.array([0.0, 1.0, 2.0, 3.5, 60.0])
    expected = np.diff(p * radii**2 / (radii**2 + core**2) + (1 - p) * radii**2 / (radii**2 + tail**2))
    cells, _ = profile_at(50.0, PBWO4)
    depth = average_profile(50.0 * 1e3 / PBWO4.ec_mev, PBWO4.z_eff).t_max
    # Near the maximum tau runs over showers with different T around 1: compare where f is flat in tau to first order.
    layer = cells[:, int(depth / 0.8)].sum(axis=(0, 1))
    assert np.abs(layer / layer.sum() - expected / expected.sum()).max() <= 0.03


def test_all_energy_is_found_when_the_grid_is_large_enough():
    cells, _ = profile_at(30.0, PBWO4, n=50, threshold_gev=0.0)
    total = cells.sum(axis=(1, 2, 3))
    assert total.max() <= 1.0 + 1e-5
    assert total.min() >= 0.985


def test_a_sampling_calorimeter_sees_its_fraction_with_its_resolution():
    n = 2000
    cells, _ = profile_at(20.0, TUNGSTEN, n=n, threshold_gev=0.0)
    total = cells.sum(axis=(1, 2, 3)) / TUNGSTEN.sampling_fraction
    expected = TUNGSTEN.resolution / math.sqrt(20.0)
    assert abs(total.mean() - 1.0) <= 0.01 + 4 * expected / math.sqrt(n)
    assert abs(total.std() / expected - 1.0) <= 0.10


def test_ln_t_and_ln_alpha_fluctuate_with_the_published_width_and_correlation():
    y, z, n = 5000.0, 68.4, 20000
    normals = np.random.default_rng(3).standard_normal((n, 2))
    drawn = [fluctuating_profile(y, z, (a, b))[0] for a, b in normals]
    ln_t = np.log([d.t_max for d in drawn])
    ln_alpha = np.log([d.alpha for d in drawn])
    ln_y = math.log(y)
    assert abs(ln_t.mean() - math.log(ln_y - 0.812)) <= 0.005
    assert abs(ln_t.std() * (-1.4 + 1.26 * ln_y) - 1) <= 0.03
    assert abs(ln_alpha.std() * (-0.58 + 0.86 * ln_y) - 1) <= 0.03
    assert abs(np.corrcoef(ln_t, ln_alpha)[0, 1] - (0.705 - 0.023 * ln_y)) <= 0.03


def test_the_number_of_spots_follows_the_published_power():
    assert spot_count(1.0, math.e**4) == 372
    assert abs(spot_count(100.0, 74.0) / spot_count(10.0, 74.0) / 10**0.876 - 1) <= 1e-3


def test_an_event_is_the_same_however_the_sample_is_cut():
    settings = {"energy_gev": (5, 20), "grid": (9, 8, 7), "seed": 11, "theta_deg": (60, 120)}
    whole = simulate_showers(5, **settings)
    parts = [simulate_showers(2, **settings), simulate_showers(3, first_event=2, **settings)]
    assert np.array_equal(whole.cells_gev, np.concatenate([p.cells_gev for p in parts]))
    assert np.array_equal(whole.energy_gev, np.concatenate([p.energy_gev for p in parts]))
    other = simulate_showers(5, **{**settings, "seed": 12})
    assert not np.array_equal(whole.energy_gev, other.energy_gev)


@pytest.mark.parametrize("shape", [(12, 12, 12), (25, 25, 25), (51, 51, 25), (8, 16, 10)])
def test_the_default_grid_holds_the_shower_whatever_its_number_of_cells(shape):
    showers = simulate_showers(60, (10, 100), shape, seed=5)
    response = showers.cells_gev.sum(axis=(1, 2, 3)) / showers.energy_gev / TUNGSTEN.sampling_fraction
    assert 0.95 <= response.mean() <= 1.0, response.mean()
    assert showers.grid.units == ("mm", "mm", "mm")
    for axis in (0, 1):
        edges = showers.grid.axis_edges(axis)
        assert abs(edges[0] + edges[-1]) <= 1e-9


@pytest.mark.parametrize(("theta", "slope"), [(60.0, 1 / math.sqrt(3)), (90.0, 0.0), (120.0, -1 / math.sqrt(3))])
def test_a_tilted_shower_moves_along_y_with_the_cotangent_of_its_angle(theta, slope):
    showers = simulate_showers(100, (50, 50), (41, 41, 20), seed=2, theta_deg=(theta, theta))
    grid = showers.grid
    mean = showers.cells_gev.mean(axis=0, dtype=np.float64)
    x, y, z = ((grid.axis_edges(a)[:-1] + grid.axis_edges(a)[1:]) / 2 for a in range(3))
    # The peak, not the mean: the walls cut the tails on one side only.
    peak = y[np.argmax(mean.sum(axis=0), axis=0)][3:12]
    fitted = np.polyfit(z[3:12], peak, 1)[0]
    assert abs(fitted - slope) <= 0.06, fitted
    assert abs((mean.sum(axis=(1, 2)) * x).sum() / mean.sum()) <= 0.02 * TUNGSTEN.rm_mm
    assert abs(float(showers.conditions["theta_rad"][0]) - math.radians(theta)) <= 1e-6


def test_a_cylinder_has_equal_angles_and_most_energy_at_small_radius():
    showers = simulate_showers(100, (20, 20), (20, 8, 6), seed=4, axes="cylindrical", material="lead-tungstate")
    assert showers.grid.axes == ("z", "alpha", "r")
    mean = showers.cells_gev.mean(axis=0, dtype=np.float64)
    alpha = mean.sum(axis=(0, 2))
    assert np.abs(alpha / alpha.mean() - 1).max() <= 0.1
    assert (np.diff(mean.sum(axis=(0, 1))) < 0).all()


def test_energies_follow_the_spectrum_asked_for():
    tiny = {"grid": (2, 2, 2), "seed": 9}
    uniform = simulate_showers(2000, (1, 3), **tiny).energy_gev
    logarithmic = np.log(simulate_showers(2000, (1, 3), spectrum="log-uniform", **tiny).energy_gev) / math.log(3)
    for values, low, high in ((uniform, 1, 3), (logarithmic, 0, 1)):
        scaled = np.sort((values - low) / (high - low))
        # Kolmogorov's distance; 1.95 / sqrt(n) is exceeded once in a thousand.
        assert np.abs(scaled - (np.arange(2000) + 0.5) / 2000).max() <= 1.95 / math.sqrt(2000)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"energy_gev": (0.01, 10)}, "energy_gev"),
        ({"energy_gev": (20, 10)}, "energy_gev"),
        ({"energy_gev": (float("nan"), 10)}, "energy_gev"),
        ({"seed": -1}, "seed"),
        ({"spectrum": "flat"}, "spectrum"),
        ({"material": "cheese"}, "lead-tungstate"),
        ({"theta_deg": (0, 90)}, "theta_deg"),
        ({"theta_deg": (60, 120), "axes": "cylindrical"}, "theta_deg"),
        ({"axes": "polar"}, "axes"),
        ({"grid": (0, 5, 5)}, "positive"),
        ({"grid": (5, 5)}, "positive"),
        ({"sampling_fraction": 1.5}, "sampling_fraction"),
        ({"threshold_gev": float("nan")}, "threshold_gev"),
        ({"cell_x0": -1.0}, "cell_x0"),
        ({"n": -1}, "n and first_event"),
    ],
)
def test_a_wrong_argument_is_named(wrong, said):
    with pytest.raises(ValueError, match=said):
        simulate_showers(**{"n": 1, "seed": 1, **wrong})
