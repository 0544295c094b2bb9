"""The two-sample classifier: the area under the curve in closed form, then what the network can and cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gankernels.calo.classifier import auc, high_level_features, low_level_features, roc_curve, two_sample_test
from gankernels.calo.observables import observe
from gankernels.calo.showers import Grid, Showers


def test_auc_is_one_for_separated_zero_for_swapped_and_half_for_ties() -> None:
    labels = np.array([False, False, True, True])
    assert auc(np.array([1.0, 2.0, 3.0, 4.0]), labels) == 1.0
    assert auc(np.array([3.0, 4.0, 1.0, 2.0]), labels) == 0.0
    assert auc(np.ones(4), labels) == 0.5
    assert auc(np.array([0.0, 1.0, 1.0, 2.0]), labels) == 3.5 / 4.0


def test_auc_of_shifted_gaussians_is_analytic() -> None:
    rng = np.random.default_rng(0)
    n, shift = 20000, 1.0
    scores = np.concatenate([rng.normal(size=n), rng.normal(size=n) + shift])
    expected = 0.5 * (1.0 + math.erf(shift / 2.0))
    assert not abs(auc(scores, np.arange(2 * n) >= n) - expected) > 4.0 * np.sqrt(0.25 / n)


def test_auc_refuses_a_missing_class_and_nan() -> None:
    with pytest.raises(ValueError, match="0 negatives"):
        auc(np.ones(3), np.ones(3, dtype=bool))
    with pytest.raises(ValueError, match="finite scores"):
        auc(np.array([np.nan, 1.0]), np.array([False, True]))


def test_the_area_under_the_roc_curve_is_the_auc() -> None:
    rng = np.random.default_rng(1)
    scores = np.concatenate([rng.normal(size=3000), rng.normal(size=3000) + 0.8])
    labels = np.arange(6000) >= 3000
    false_positive, true_positive = roc_curve(scores, labels, points=400)
    assert (false_positive[0], true_positive[0], false_positive[-1], true_positive[-1]) == (0, 0, 1, 1)
    area = float(np.sum(0.5 * (true_positive[1:] + true_positive[:-1]) * np.diff(false_positive)))
    assert not abs(area - auc(scores, labels)) > 1e-3


def test_features_are_one_row_per_shower_and_finite_where_defined() -> None:
    cells = np.random.default_rng(0).exponential(1e-3, (6, 3, 3, 4)).astype(np.float32)
    showers = Showers(cells, np.full(6, 10.0, np.float32), Grid((3, 3, 4)))
    high, low = high_level_features(observe(showers)), low_level_features(showers, 1e-6)
    assert high.shape[0] == 6
    assert low.shape == (6, 37)
    assert np.isfinite(high).all()
    assert low.dtype == np.float32


@pytest.mark.much_work(flops=1e9)
def test_two_samples_of_one_distribution_cannot_be_told_apart_and_the_result_repeats() -> None:
    rng = np.random.default_rng(2)
    reference, generated = rng.normal(size=(300, 6)), rng.normal(size=(300, 6))
    first, second = (two_sample_test(reference, generated, seed=1) for _ in range(2))
    assert (first.auc, first.floor) == (second.auc, second.floor)
    assert not abs(first.auc - 0.5) > 4.0 * first.error
    assert not abs(first.floor - 0.5) > 4.0 * first.floor_error


@pytest.mark.much_work(flops=1e9)
def test_a_shift_is_found_as_well_as_the_best_classifier_could() -> None:
    rng = np.random.default_rng(3)
    shift = np.array([1.0, 0.0, 0.0, 0.0])
    reference, generated = rng.normal(size=(600, 4)), rng.normal(size=(600, 4)) + shift
    best = 0.5 * (1.0 + math.erf(0.5))
    result = two_sample_test(reference, generated, seed=1)
    assert not abs(result.auc - best) > 0.03 + 3.0 * result.error


@pytest.mark.much_work(flops=1e9)
def test_what_no_single_feature_shows_is_found_in_their_correlation() -> None:
    rng = np.random.default_rng(4)
    reference = rng.normal(size=(600, 2))
    generated = rng.multivariate_normal([0.0, 0.0], [[1.0, 0.95], [0.95, 1.0]], size=600)
    assert two_sample_test(reference, generated, seed=1).auc > 0.75


@pytest.mark.much_work(flops=1e9)
def test_missing_values_and_constant_features_do_no_harm() -> None:
    rng = np.random.default_rng(5)
    reference, generated = rng.normal(size=(60, 3)), rng.normal(size=(60, 3))
    reference[:5, 0] = np.nan
    reference[:, 1] = generated[:, 1] = 3.0
    assert np.isfinite(two_sample_test(reference, generated).auc)


def test_small_or_unequal_tables_are_refused() -> None:
    with pytest.raises(ValueError, match="need 20 events"):
        two_sample_test(np.zeros((5, 2)), np.zeros((50, 2)))
    with pytest.raises(ValueError, match="2 features of reference, 3 of generated"):
        two_sample_test(np.zeros((50, 2)), np.zeros((50, 3)))


@pytest.mark.much_work(flops=1e9)
def test_one_cell_with_the_wrong_energy_is_found_among_all_cells() -> None:
    rng = np.random.default_rng(6)
    tables = []
    for factor in (1.0, 10.0):
        cells = rng.exponential(1e-3, (400, 3, 3, 4)).astype(np.float32)
        cells[:, 1, 1, 2] *= factor
        tables.append(low_level_features(Showers(cells, np.full(400, 10.0, np.float32), Grid((3, 3, 4))), 1e-6))
    assert two_sample_test(tables[0], tables[1], scale_each=False).auc > 0.75
