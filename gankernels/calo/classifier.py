"""Classifier two-sample test: how well a small network tells generated from Monte Carlo showers.

An area under the ROC curve of 0.5 means not at all, 1 every time. Five folds as in cross-validation: each event is
tested once, by a network that was neither trained with it nor chosen by it. After the CaloChallenge's classifier test
(Krause et al., arXiv:2410.21611), with a smaller network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

import gankernels as gk
from gankernels import nn, optim
from gankernels.calo.observables import Summary
from gankernels.calo.showers import Showers
from gankernels.nn import functional as F

__all__ = ["ClassifierResult", "auc", "high_level_features", "low_level_features", "roc_curve", "two_sample_test"]

Array = NDArray[Any]

_FOLDS = 5
_WIDTH = 64
_BATCH = 128
_EPOCHS = 20
_PATIENCE = 4
_LEARNING_RATE = 2e-3


@dataclass(frozen=True)
class ClassifierResult:
    """Outcome of the two-sample test.

    Parameters
    ----------
    auc, error : float
        Area under the ROC curve of generated against reference, and its bootstrap standard error.
    floor, floor_error : float
        The same for two disjoint halves of the reference.
    false_positive, true_positive : array (n,)
        The ROC curve: fractions of reference and of generated showers that the network calls generated.
    features : int
        Inputs of the network.
    """

    auc: float
    error: float
    floor: float
    floor_error: float
    false_positive: Array
    true_positive: Array
    features: int


def auc(scores: Array, labels: Array) -> float:
    """Area under the ROC curve: the chance that a positive scores higher than a negative, ties counted half.

    Parameters
    ----------
    scores : array (N,)
    labels : array (N,), bool
        True for positives; both kinds must be present.

    Raises
    ------
    ValueError
        If one class is missing or a score is NaN.

    Examples
    --------
    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    labels = labels.astype(bool)
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not (positives and negatives) or bool(np.isnan(scores).any()):
        raise ValueError(
            f"auc: need finite scores of both classes, got {positives} positives and {negatives} negatives"
        )
    rank_sum = float(_ranks(scores)[labels].sum())
    return (rank_sum - 0.5 * positives * (positives + 1)) / (positives * negatives)


def roc_curve(scores: Array, labels: Array, points: int = 101) -> tuple[Array, Array]:
    """False and true positive fractions (points,) at thresholds spread over the scores, from (0, 0) to (1, 1)."""
    labels = labels.astype(bool)
    cuts = np.quantile(scores, np.linspace(1.0, 0.0, points - 2))
    negative, positive = np.sort(scores[~labels]), np.sort(scores[labels])
    curve = [1.0 - np.searchsorted(s, cuts, side="left") / len(s) for s in (negative, positive)]
    return np.concatenate([[0.0], curve[0], [1.0]]), np.concatenate([[0.0], curve[1], [1.0]])


def high_level_features(summary: Summary) -> Array:
    """Incident energy, all observables and the energy fraction of each layer -> (N, features), float64."""
    total = np.maximum(summary.observables["energy_total"].values, 1e-12)
    layers = summary.axis_energy_gev[summary.grid.depth_axis] / total[:, None]
    columns = [np.log10(summary.energy_gev), np.log10(total)]
    columns += [o.values for o in summary.observables.values() if o.name not in ("energy_total", "sparsity")]
    return np.concatenate([np.stack(columns, axis=1), np.sqrt(np.clip(layers, 0.0, None))], axis=1)


def low_level_features(showers: Showers, threshold_gev: float) -> Array:
    """Incident energy and log10(1 + cell / threshold) of every cell -> (N, 1 + cells), float32."""
    cells = np.log10(1.0 + np.clip(showers.cells_gev, 0.0, None) / threshold_gev)
    energy = np.log10(showers.energy_gev)[:, None]
    return np.concatenate([energy, cells.reshape(len(showers), -1)], axis=1, dtype=np.float32)


def two_sample_test(reference: Array, generated: Array, *, seed: int = 0, scale_each: bool = True) -> ClassifierResult:
    """Train networks to tell two samples apart, and two halves of the reference for the floor.

    Parameters
    ----------
    reference, generated : array (N, features), (M, features)
        At least 20 events of each; NaN is replaced by the mean.
    seed : int
        Of folds, initial weights, batches and bootstrap.
    scale_each : bool
        Bring each feature to width 1; else all features share one scale, as cells do: a cell that is seldom hit must
        not be as loud as the core.

    Raises
    ------
    ValueError
        If there are fewer than 20 events of a sample, or the features differ in number.
    """
    if min(len(reference), len(generated)) < 20:
        raise ValueError(f"two_sample_test: need 20 events of each, got {len(reference)} and {len(generated)}")
    if reference.shape[1] != generated.shape[1]:
        raise ValueError(
            f"two_sample_test: {reference.shape[1]} features of reference, {generated.shape[1]} of generated"
        )
    rng = np.random.default_rng(seed)
    count = min(len(reference), len(generated))
    pair = [sample[rng.permutation(len(sample))[:count]] for sample in (reference, generated)]
    scores, labels = _out_of_fold_scores(pair[0], pair[1], rng, scale_each)
    value, error = _auc_with_error(scores, labels, rng)
    rows = rng.permutation(len(reference))
    half = len(rows) // 2
    halves = reference[rows[:half]], reference[rows[half : 2 * half]]
    floor = _auc_with_error(*_out_of_fold_scores(*halves, rng, scale_each), rng)
    false_positive, true_positive = roc_curve(scores, labels)
    return ClassifierResult(value, error, *floor, false_positive, true_positive, reference.shape[1])


def _ranks(scores: Array) -> Array:
    """Ranks from 1 (N,); equal scores share their mean rank."""
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - 0.5 * (counts - 1))[inverse.ravel()])


def _auc_with_error(
    scores: Array, labels: Array, rng: np.random.Generator, bootstraps: int = 100
) -> tuple[float, float]:
    positive, negative = np.flatnonzero(labels), np.flatnonzero(~labels)
    draws = []
    for _ in range(bootstraps):
        rows = np.concatenate([rng.choice(positive, len(positive)), rng.choice(negative, len(negative))])
        draws.append(auc(scores[rows], labels[rows]))
    return auc(scores, labels), float(np.std(draws, ddof=1))


def _out_of_fold_scores(
    reference: Array, generated: Array, rng: np.random.Generator, scale_each: bool
) -> tuple[Array, Array]:
    """Score of each event by the network that did not see it, as a rank within its fold -> scores, labels (N + M,)."""
    table = np.concatenate([reference, generated]).astype(np.float32)
    labels = np.arange(len(table)) >= len(reference)
    fold = np.concatenate([rng.permutation(np.arange(len(s)) % _FOLDS) for s in (reference, generated)])
    scores = np.empty(len(table))
    for k in range(_FOLDS):
        test, validation = fold == k, fold == (k + 1) % _FOLDS
        train = ~(test | validation)
        x = _standardise(table, train, scale_each)
        logits = _train(x, labels, train, validation, test, rng)
        scores[test] = _ranks(logits) / len(logits)
    return scores, labels


def _train(x: Array, labels: Array, train: Array, validation: Array, test: Array, rng: np.random.Generator) -> Array:
    """Train one network; logits of the test events at the epoch with the best validation AUC."""
    y = labels.astype(np.float32)[:, None]
    model = _network(x.shape[1], rng)
    optimizer = optim.Adam(model.parameters(), lr=_LEARNING_RATE)
    rows, best, since = np.flatnonzero(train), -1.0, 0
    logits = np.zeros(int(test.sum()))
    for _ in range(_EPOCHS):
        model.train()
        order = rng.permutation(rows)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            optimizer.zero_grad()
            loss = F.binary_cross_entropy_with_logits(model(gk.tensor(x[batch])), gk.tensor(y[batch]))
            loss.backward()
            optimizer.step()
        model.eval()
        quality = auc(_logits(model, x[validation]), labels[validation])
        since += 1
        if quality > best:
            best, since, logits = quality, 0, _logits(model, x[test])
        if since >= _PATIENCE:
            break
    return logits


def _logits(model: nn.Sequential, x: Array) -> Array:
    with gk.no_grad():
        parts = [model(gk.tensor(x[i : i + 1024])).cpu().numpy()[:, 0] for i in range(0, len(x), 1024)]
    return np.concatenate(parts).astype(np.float64)


def _standardise(table: Array, train: Array, scale_each: bool) -> Array:
    """Columns to mean 0 and width 1 on the training events, NaN to 0, outliers to 10 widths."""
    if not scale_each:
        centred = table - table[train].mean(axis=0)
        return np.asarray(centred / max(float(centred[train].std()), 1e-7))
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(table)
        known = np.where(finite & train[:, None], table, 0.0)
        count = np.maximum((finite & train[:, None]).sum(axis=0), 1)
        mean = known.sum(axis=0, dtype=np.float64) / count
        variance = np.where(finite & train[:, None], (table - mean) ** 2, 0.0).sum(axis=0) / count
        width = np.sqrt(variance)
        scaled = (table - mean) / np.where(width > 1e-7 * np.maximum(np.abs(mean), 1e-7), width, 1.0)
    return np.clip(np.where(finite, scaled, 0.0), -10.0, 10.0).astype(np.float32)


def _network(features: int, rng: np.random.Generator) -> nn.Sequential:
    """Three layers with LeakyReLU; initial weights from `rng` alone, so that nothing global decides the result."""
    model = nn.Sequential(
        nn.Linear(features, _WIDTH), nn.LeakyReLU(), nn.Linear(_WIDTH, _WIDTH), nn.LeakyReLU(), nn.Linear(_WIDTH, 1)
    )
    fan_in = {"0": features, "2": _WIDTH, "4": _WIDTH}
    state = {}
    for name, value in model.state_dict().items():
        bound = 1.0 / np.sqrt(fan_in[name.split(".")[0]])
        state[name] = gk.tensor(rng.uniform(-bound, bound, tuple(value.shape)).astype(np.float32))
    model.load_state_dict(state)
    return model
