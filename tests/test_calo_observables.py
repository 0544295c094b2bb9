"""Observables on showers whose every number is known by hand; histograms with known contents."""

from __future__ import annotations

import numpy as np
import pytest

from gankernels.calo.histograms import fill, poisson_interval, ratio, shared_edges
from gankernels.calo.observables import SPECTRUM_EDGES_GEV, Summary, correlations, observe, readout_threshold_gev
from gankernels.calo.showers import Grid, Showers

CARTESIAN = Grid((5, 5, 7))
CYLINDER = Grid(
    (4, 8, 3),
    ("z", "alpha", "r"),
    (tuple(np.arange(5) * 10.0), tuple(np.linspace(0.0, 2.0 * np.pi, 9)), (0.0, 2.0, 6.0, 8.0)),
    ("mm", "rad", "mm"),
)


def showers_with(cells: dict[tuple[int, ...], float], *, n: int = 1, grid: Grid = CARTESIAN) -> Showers:
    """n showers of 10 GeV with the given cells (shower, i, j, k) in GeV."""
    array = np.zeros((n, *grid.shape), np.float32)
    for where, energy in cells.items():
        array[where] = energy
    return Showers(array, np.full(n, 10.0, np.float32), grid)


def value(summary: Summary, name: str, shower: int = 0) -> float:
    return float(summary.observables[name].values[shower])


def assert_close(got: float, expected: float, tolerance: float = 1e-7) -> None:
    assert not abs(got - expected) > tolerance * max(abs(expected), 1.0)
    assert got == got


def test_two_cells_give_sums_moments_and_hits_by_hand() -> None:
    s = observe(showers_with({(0, 1, 2, 0): 0.25, (0, 3, 2, 4): 0.75}))
    expected = {
        "energy_total": 1.0,
        "response": 0.1,
        "shower_max": 4.0,
        "centre_z": 0.25 * 0.5 + 0.75 * 4.5,
        "width_z": 4.0 * np.sqrt(0.25 * 0.75),
        "centre_x": 0.25 * 1.5 + 0.75 * 3.5,
        "width_x": 2.0 * np.sqrt(0.25 * 0.75),
        "centre_y": 2.5,
        "width_y": 0.0,
        "slope_x": 0.5,
        "slope_y": 0.0,
        "core_fraction": 1.0,
        "max_cell_fraction": 0.75,
        "hits": 2.0,
        "sparsity": 2.0 / 175.0,
        "front_fraction": 0.25,
        "middle_fraction": 0.75,
        "back_fraction": 0.0,
    }
    assert set(s.observables) == set(expected)
    for name, number in expected.items():
        assert_close(value(s, name), number)


def test_the_profile_is_the_mean_over_showers_with_its_standard_error() -> None:
    profile = observe(showers_with({(0, 0, 0, 3): 1.0, (1, 0, 0, 3): 3.0}, n=2)).profile(2)
    np.testing.assert_allclose(profile.mean_gev, [0, 0, 0, 2, 0, 0, 0])
    np.testing.assert_allclose(profile.error_gev[3], np.sqrt(2.0) / np.sqrt(2.0))
    np.testing.assert_allclose(profile.fraction.sum(), 1.0)
    assert profile.label == "Depth z [cells]"


def test_alpha_moments_are_circular_across_the_seam() -> None:
    s = observe(showers_with({(0, 0, 0, 1): 0.5, (0, 0, 7, 1): 0.5}, grid=CYLINDER))
    assert not abs(np.sin(value(s, "centre_alpha"))) > 1e-7
    assert not abs(np.cos(value(s, "centre_alpha")) - 1.0) > 1e-7
    assert_close(value(s, "width_alpha"), np.sqrt(-2.0 * np.log(np.cos(np.pi / 8))))


def test_the_mean_angle_is_given_in_the_turn_of_the_grids_edges() -> None:
    assert CYLINDER.edges is not None
    edges = (CYLINDER.edges[0], tuple(np.linspace(-np.pi, np.pi, 9)), CYLINDER.edges[2])
    s = observe(showers_with({(0, 0, 1, 1): 1.0}, grid=Grid(CYLINDER.shape, CYLINDER.axes, edges, CYLINDER.units)))
    assert_close(value(s, "centre_alpha"), -5.0 * np.pi / 8)


def test_r_moments_use_ring_centres_and_the_plane_uses_r_cos_alpha() -> None:
    s = observe(showers_with({(0, 2, 1, 0): 0.5, (0, 2, 1, 1): 0.5}, grid=CYLINDER))
    assert_close(value(s, "centre_r"), 2.5)
    assert_close(value(s, "width_r"), 1.5)
    assert_close(value(s, "plane_x"), 2.5 * np.cos(3 * np.pi / 8))
    assert_close(value(s, "plane_y"), 2.5 * np.sin(3 * np.pi / 8))
    assert_close(value(s, "centre_z"), 25.0)
    assert_close(value(s, "core_fraction"), 0.5)
    assert "slope_x" not in s.observables


def test_a_cylinder_without_edges_still_turns_by_two_pi() -> None:
    s = observe(showers_with({(0, 0, 2, 0): 1.0}, grid=Grid((4, 8, 3), ("z", "alpha", "r"))))
    assert_close(value(s, "centre_alpha"), 2.5 * 2.0 * np.pi / 8)
    assert s.profile(1).label == "Azimuth α [rad]"


def test_empty_showers_have_no_moments_and_are_counted() -> None:
    s = observe(showers_with({(0, 1, 1, 1): 1.0}, n=3))
    assert s.empty == 2
    assert np.isnan(s.observables["centre_z"].values[1:]).all()
    assert np.isnan(s.observables["shower_max"].values[1:]).all()
    assert len(s.observables["centre_z"].defined) == 1
    assert value(s, "energy_total", 1) == 0.0


def test_cells_below_the_threshold_are_no_hits_and_their_energy_is_reported() -> None:
    s = observe(showers_with({(0, 1, 1, 1): 0.75, (0, 2, 2, 2): 0.25}), threshold_gev=0.5)
    assert value(s, "hits") == 1
    assert_close(s.below_threshold, 0.25)
    assert readout_threshold_gev(showers_with({(0, 1, 1, 1): 0.75, (0, 2, 2, 2): 0.25})) == 0.25


def test_the_spectrum_counts_cells_in_decades() -> None:
    s = observe(showers_with({(0, 0, 0, 0): 1.1e-3, (0, 0, 0, 1): 1.2e-3, (0, 0, 0, 2): 2.0}))
    first = int(np.searchsorted(SPECTRUM_EDGES_GEV, 1.1e-3)) - 1
    assert s.spectrum[0, first] == 2
    assert s.spectrum.sum() == 3


def test_projections_are_means_over_showers() -> None:
    s = observe(showers_with({(0, 1, 2, 3): 1.0, (1, 1, 2, 3): 3.0}, n=2))
    assert s.projections_gev[0, 2][1, 3] == 2.0
    assert s.projections_gev[0, 1].shape == (5, 5)
    assert s.projections_gev[1, 2].sum() == 2.0


def test_chunks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    cells = rng.exponential(size=(7, *CARTESIAN.shape)).astype(np.float32)
    showers = Showers(cells, np.full(7, 10.0, np.float32), CARTESIAN)
    whole = observe(showers)
    monkeypatch.setattr("gankernels.calo.observables._CHUNK_CELLS", 400)
    parts = observe(showers)
    for name, o in whole.observables.items():
        np.testing.assert_array_equal(o.values, parts.observables[name].values)
    np.testing.assert_allclose(whole.projections_gev[0, 1], parts.projections_gev[0, 1], rtol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_cells_that_are_not_finite_raise_and_name_the_shower(bad: float) -> None:
    with pytest.raises(ValueError, match="NaN or infinite values, first in shower 1"):
        observe(showers_with({(0, 0, 0, 0): 1.0, (1, 0, 0, 0): bad}, n=2))


def test_wrong_energies_thresholds_and_empty_samples_raise() -> None:
    good = showers_with({(0, 0, 0, 0): 1.0})
    with pytest.raises(ValueError, match="incident energies are not positive"):
        observe(Showers(good.cells_gev, np.array([np.nan], np.float32), CARTESIAN))
    with pytest.raises(ValueError, match="threshold_gev must be positive"):
        observe(good, threshold_gev=0.0)
    with pytest.raises(ValueError, match="no showers"):
        observe(good[:0])
    with pytest.raises(ValueError, match="no cell"):
        readout_threshold_gev(showers_with({}))


def test_negative_cells_are_counted() -> None:
    assert observe(showers_with({(0, 0, 0, 0): 1.0, (0, 0, 0, 1): -0.1})).negative_cells == 1


def test_correlations_are_pearson_and_zero_for_constants() -> None:
    cells = {(i, 1, 2, 3): 1.0 + i for i in range(6)}
    matrix = correlations(observe(showers_with(cells, n=6)), ("energy_total", "response", "hits"))
    np.testing.assert_allclose(matrix, [[1, 1, 0], [1, 1, 0], [0, 0, 0]], atol=1e-7)


def test_conditions_and_the_incident_energy_are_columns_beside_the_observables() -> None:
    showers = showers_with({(i, 1, 2, 3): 1.0 + i for i in range(4)}, n=4)
    showers.conditions["theta_rad"] = np.arange(4, dtype=np.float32)
    table = observe(showers).table(["incident_energy", "theta_rad", "energy_total"])
    np.testing.assert_array_equal(table, np.stack([np.full(4, 10.0), np.arange(4), np.arange(4) + 1.0], axis=1))


def test_shared_edges_ignore_outliers_of_the_reference_and_follow_the_second_sample_only_for_figures() -> None:
    rng = np.random.default_rng(1)
    reference = np.concatenate([rng.normal(size=4000), [1e6]])
    edges = shared_edges(reference)
    assert -5 < edges[0] < -2
    assert 2 < edges[-1] < 5
    wider = shared_edges(reference, also=rng.normal(size=100) + 8)
    assert wider[-1] > edges[-1]
    np.testing.assert_allclose(np.diff(wider), np.diff(edges)[0], rtol=1e-9)
    assert len(shared_edges(reference, also=rng.normal(size=100) + 1e9)) <= 3 * len(edges)


def test_integer_edges_lie_between_integers_and_log_edges_are_equidistant_in_the_logarithm() -> None:
    edges = shared_edges(np.arange(10.0), integer=True)
    np.testing.assert_array_equal(np.mod(edges, 1.0), 0.5)
    log = shared_edges(10.0 ** np.linspace(-3, 2, 500), log=True)
    np.testing.assert_allclose(np.diff(np.log10(log)), np.diff(np.log10(log))[0])
    assert len(shared_edges(np.full(5, 3.0))) > 2
    with pytest.raises(ValueError, match="no finite value above zero"):
        shared_edges(np.array([-1.0]), log=True)


def test_fill_counts_what_falls_outside_and_what_is_undefined() -> None:
    h = fill(np.array([-1.0, 0.0, 0.5, 1.0, 2.0, 3.0, np.nan]), np.array([0.0, 1.0, 2.0]))
    np.testing.assert_array_equal(h.all_counts, [1, 2, 2, 1])
    assert (h.entries, h.undefined) == (6, 1)


def test_poisson_intervals_are_near_the_exact_limits() -> None:
    low, high = poisson_interval(np.array([0.0, 1.0, 10.0]))
    np.testing.assert_allclose(low, [0.0, 0.173, 6.891], atol=0.05)
    np.testing.assert_allclose(high, [1.841, 3.300, 14.267], atol=0.05)


def test_the_ratio_is_undefined_where_the_reference_is_empty_and_zero_where_only_generated_is() -> None:
    edges = np.arange(4.0)
    r, low, high = ratio(fill(np.array([0.5, 0.5, 2.5, 2.5]), edges), fill(np.array([0.5, 1.5]), edges))
    np.testing.assert_array_equal(r, [1.0, 0.0, np.nan])
    assert low[1] == 0.0
    assert high[1] > 0.0
    with pytest.raises(ValueError, match="different edges"):
        ratio(fill(np.zeros(1), edges), fill(np.zeros(1), edges + 1))
