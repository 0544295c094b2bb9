"""Every metric against an answer known in closed form, the floors against sampling, the score against distortions."""

from __future__ import annotations

import numpy as np
import pytest

from gankernels.calo.metrics import (
    Metric,
    compare,
    energy_quantile_edges,
    estimate,
    in_energy_bin,
    profile_distance,
    quick_score,
    resolution_difference,
    response_bias,
    score,
    score_terms,
    separation_power,
    wasserstein,
)
from gankernels.calo.observables import observe
from gankernels.calo.showers import Grid, Showers

GRID = Grid((9, 9, 12))


def toy_showers(n: int, seed: int, *, response: float = 0.02, spread: float = 0.03, depth: float = 4.0) -> Showers:
    """Gamma profiles in depth, Gaussian across, Poisson cells: enough of a shower for the metrics to have work."""
    rng = np.random.default_rng(seed)
    energy = rng.uniform(10.0, 100.0, n)
    z, t = np.arange(12) + 0.5, np.arange(9) - 4.0
    peak = depth + 0.3 * np.log(energy / 50.0) + 0.3 * rng.normal(size=n)
    along = z ** peak[:, None] * np.exp(-z)
    across = np.exp(-(t**2) / 3.0)
    mean = along[:, None, None, :] * across[None, :, None, None] * across[None, None, :, None]
    mean *= (energy * response * rng.normal(1.0, spread, n) / mean.sum(axis=(1, 2, 3)))[:, None, None, None]
    cells = rng.poisson(mean * 2e3) / 2e3
    return Showers(cells.astype(np.float32), energy.astype(np.float32), GRID)


def assert_within(got: float, expected: float, tolerance: float) -> None:
    assert not abs(got - expected) > tolerance
    assert got == got


def test_separation_power_is_zero_for_equal_one_for_disjoint_and_known_between() -> None:
    a = np.array([1.0, 2.0, 3.0])
    assert separation_power(a, 5.0 * a) == 0.0
    assert separation_power(np.array([1, 0, 0]), np.array([0, 0, 7])) == 1.0
    assert_within(separation_power(np.array([1.0, 1.0]), np.array([1.0, 3.0])), 0.5 * (1 / 12 + 1 / 20), 1e-15)


def test_separation_power_refuses_empty_and_unequal_histograms() -> None:
    with pytest.raises(ValueError, match="entries"):
        separation_power(np.zeros(3), np.ones(3))
    with pytest.raises(ValueError, match="bins"):
        separation_power(np.ones(2), np.ones(3))


def test_wasserstein_of_shifted_and_scaled_gaussians_is_analytic() -> None:
    z = np.random.default_rng(0).normal(size=20000)
    assert wasserstein(z, z) == 0.0
    assert_within(wasserstein(z, z + 0.7), 0.7, 1e-12)
    assert_within(wasserstein(z, 2.0 * z), np.sqrt(2.0 / np.pi), 0.02)
    other = np.random.default_rng(1).normal(size=15000) + 0.7
    assert_within(wasserstein(z, other), 0.7, 4.0 * np.sqrt(1 / 20000 + 1 / 15000))


def test_wasserstein_of_unequal_sizes_is_the_area_between_the_distribution_functions() -> None:
    assert_within(wasserstein(np.array([0.0, 1.0]), np.array([0.0, 1.0, 1.0])), 1.0 / 6.0, 1e-15)
    assert_within(wasserstein(np.array([0.0]), np.array([1.0, 3.0])), 2.0, 1e-15)
    with pytest.raises(ValueError, match="must not be empty"):
        wasserstein(np.array([]), np.ones(2))
    with pytest.raises(ValueError, match="NaN"):
        wasserstein(np.array([np.nan]), np.ones(2))


def test_profile_distance_is_about_shape_alone() -> None:
    r = np.array([1.0, 2.0, 1.0])
    assert profile_distance(r, 3.0 * r) == 0.0
    assert_within(profile_distance(r, np.array([2.0, 1.0, 1.0])), 0.5, 1e-15)
    assert profile_distance(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == 2.0
    with pytest.raises(ValueError, match="need energy"):
        profile_distance(r, 0.0 * r)


def test_bias_and_resolution_have_their_known_values() -> None:
    r = np.random.default_rng(0).normal(1.0, 0.1, 1000)
    assert_within(response_bias(r, 1.05 * r), 0.05, 1e-12)
    assert_within(resolution_difference(r, 1.05 * r), 0.0, 1e-12)
    wide = r.mean() + 1.5 * (r - r.mean())
    assert_within(resolution_difference(r, wide), 0.5, 1e-12)


def test_the_bootstrap_error_of_a_mean_is_the_standard_error() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=400), rng.normal(size=400)
    numbers = estimate(lambda x, y: float(y.mean() - x.mean()), a, b, rng=rng, bootstraps=400, signed=True)
    assert_within(numbers[1], np.sqrt(2.0 / 400.0), 0.2 * np.sqrt(2.0 / 400.0))
    assert_within(numbers[2], np.sqrt(4.0 / 400.0), 0.6 * np.sqrt(4.0 / 400.0))


def test_energy_bins_are_equally_filled_and_hold_every_event_once() -> None:
    energy = np.random.default_rng(0).uniform(10, 100, 1000)
    edges = energy_quantile_edges(energy, 5)
    masks = [in_energy_bin(energy, edges, k) for k in range(5)]
    np.testing.assert_array_equal(np.sum(masks, axis=0), 1)
    assert {int(m.sum()) for m in masks} == {200}


def test_a_second_sample_of_the_same_simulation_agrees_and_a_distorted_one_differs() -> None:
    reference = observe(toy_showers(600, 1))
    threshold = reference.threshold_gev
    same = compare(reference, observe(toy_showers(600, 2), threshold_gev=threshold))
    assert sum(m.verdict == "agrees" for m in same) >= 0.9 * len(same)
    worse = {m.name: m for m in compare(reference, observe(toy_showers(600, 2, depth=5.0), threshold_gev=threshold))}
    assert worse["separation/centre_z"].verdict == "differs"
    assert worse["wasserstein/centre_z"].verdict == "differs"
    assert worse["profile/z"].verdict == "differs"
    assert worse["profile/x"].verdict == "agrees"
    shifted = compare(reference, observe(toy_showers(600, 2, response=0.022), threshold_gev=threshold))
    biases = [m for m in shifted if m.kind == "bias"]
    assert [m.name for m in biases] == ["bias/all", *(f"bias/{k}" for k in range(4))]
    for m in biases:
        assert_within(m.value, 0.10, 4.0 * m.error)
        assert m.verdict == "differs"


def test_every_metric_reports_finite_numbers_and_repeats_with_the_seed() -> None:
    reference, generated = observe(toy_showers(200, 1)), observe(toy_showers(150, 2))
    first, second = compare(reference, generated, seed=3), compare(reference, generated, seed=3)
    assert first == second
    for m in first:
        assert np.isfinite([m.value, m.error, m.floor, m.floor_error]).all(), m.name


def test_compare_refuses_grids_of_different_kinds() -> None:
    cylinder = Showers(np.ones((4, 3, 4, 2), np.float32), np.ones(4, np.float32), Grid((3, 4, 2), ("z", "alpha", "r")))
    with pytest.raises(ValueError, match="different observables"):
        compare(observe(toy_showers(20, 1)), observe(cylinder))


@pytest.mark.parametrize(
    ("kind", "value", "error", "verdict"),
    [
        ("separation", 0.05, 0.01, "agrees"),
        ("separation", 0.055, 0.001, "close"),
        ("separation", 0.2, 0.01, "differs"),
        ("bias", -0.001, 0.001, "agrees"),
        ("bias", -0.04, 0.001, "close"),
        ("bias", -0.06, 0.001, "differs"),
    ],
)
def test_the_verdict_weighs_significance_first_and_size_second(
    kind: str, value: float, error: float, verdict: str
) -> None:
    floor = 0.04 if kind == "separation" else 0.001
    assert Metric("m", "m", kind, value, error, floor, 0.001).verdict == verdict


def test_the_score_of_a_sample_with_itself_is_zero_and_of_a_second_sample_small() -> None:
    reference = toy_showers(500, 1)
    assert score(reference, reference) == 0.0
    scores = [score(reference, toy_showers(500, seed)) for seed in range(2, 8)]
    assert not max(scores) > 0.1


def test_the_score_grows_with_each_distortion_and_still_falls_where_histograms_do_not_overlap() -> None:
    reference = observe(toy_showers(500, 1))
    good = score(reference, toy_showers(500, 2))
    for key, steps in (("response", (0.021, 0.024, 0.04)), ("spread", (0.06, 0.2)), ("depth", (4.3, 5.0, 7.0))):
        scores = [good, *(score(reference, toy_showers(500, 2, **{key: v})) for v in steps)]
        assert scores == sorted(scores), (key, scores)
        assert not scores[-1] < good + 0.05
    far, near = toy_showers(500, 2, response=0.2), toy_showers(500, 2, response=0.1)
    assert score(reference, far) > score(reference, near)


def test_the_score_of_empty_showers_is_almost_one() -> None:
    reference = toy_showers(100, 1)
    empty = Showers(np.zeros_like(reference.cells_gev), reference.energy_gev, GRID)
    terms = score_terms(reference, empty)
    assert not min(terms.values()) < 0.9
    assert not max(terms.values()) > 1.0


def test_the_quick_score_is_the_score_of_the_first_events() -> None:
    reference, generated = observe(toy_showers(300, 1)), toy_showers(300, 2)
    assert quick_score(reference, generated, max_events=100) == score(reference, generated[:100])


def test_generated_showers_with_nan_raise() -> None:
    reference, generated = toy_showers(20, 1), toy_showers(20, 2)
    generated.cells_gev[3, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="shower 3"):
        score(reference, generated)
