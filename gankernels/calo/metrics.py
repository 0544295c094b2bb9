"""Distances between two samples of showers, each with a bootstrap error and the floor from statistics alone.

The floor is the same metric between two disjoint halves of the Monte Carlo reference, averaged over random splits.
Metrics such as the separation power are positive for any two finite samples, so the generated sample is compared at the
same sample sizes: random halves of the reference against equally many generated showers. A perfect generator reaches
the floor.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.calo.histograms import shared_edges
from gankernels.calo.observables import Summary, correlation_matrix, observe
from gankernels.calo.showers import Showers

__all__ = [
    "Metric",
    "compare",
    "energy_quantile_edges",
    "estimate",
    "profile_distance",
    "quick_score",
    "score",
    "score_terms",
    "separation_power",
    "wasserstein",
]

Array = NDArray[Any]

#: Excess over the floor that matters in practice, by the kind of metric; below it a significant difference is "close".
TOLERANCE = {
    "separation": 0.02,
    "wasserstein": 0.10,
    "profile": 0.05,
    "correlation": 0.05,
    "bias": 0.05,
    "resolution": 0.15,
    "auc": 0.10,
}

#: Observables that say the same as another one, left out where observables are averaged.
REDUNDANT = ("energy_total", "sparsity")


@dataclass(frozen=True)
class Metric:
    """One number of the comparison.

    Parameters
    ----------
    name, label : str
        Identifier such as "separation/width_z", and the text for a table.
    kind : str
        A key of `TOLERANCE`.
    value, error : float
        The metric between reference and generated showers, and its bootstrap standard error.
    floor, floor_error : float
        The metric between halves of the reference, and its spread over the splits. For the signed kinds "bias" and
        "resolution" the floor is the root mean square over the splits.
    """

    name: str
    label: str
    kind: str
    value: float
    error: float
    floor: float
    floor_error: float

    @property
    def excess(self) -> float:
        """How far the generated sample is above the floor; the absolute value for the signed kinds."""
        return abs(self.value) if self.kind in ("bias", "resolution") else self.value - self.floor

    @property
    def verdict(self) -> str:
        """ "agrees" (within two standard errors of the floor), "close" (within the kind's tolerance) or "differs"."""
        signed = self.kind in ("bias", "resolution")
        noise = max(2.0 * self.error, self.floor) if signed else 2.0 * float(np.hypot(self.error, self.floor_error))
        if self.excess <= noise:
            return "agrees"
        return "close" if self.excess <= TOLERANCE[self.kind] else "differs"

    def to_dict(self) -> dict[str, Any]:
        """The numbers and the verdict, for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def separation_power(h1: Array, h2: Array) -> float:
    """1/2 sum (h1 - h2)^2 / (h1 + h2) of two histograms with equal bins, each normalised to one: 0 equal, 1 disjoint.

    Parameters
    ----------
    h1, h2 : array (n,)
        Counts, not negative; underflow and overflow belong in.

    Raises
    ------
    ValueError
        If the shapes differ or a histogram is empty.

    Examples
    --------
    >>> separation_power(np.array([1, 1]), np.array([2, 2])), separation_power(np.array([1, 0]), np.array([0, 1]))
    (0.0, 1.0)
    """
    if h1.shape != h2.shape:
        raise ValueError(f"separation_power: histograms of {h1.shape} and {h2.shape} bins")
    a, b = h1.sum(), h2.sum()
    if not (a > 0 and b > 0):
        raise ValueError(f"separation_power: histograms need entries, they have {a} and {b}")
    p, q = h1 / a, h2 / b
    both = p + q
    return float(0.5 * np.sum((p - q) ** 2 / np.where(both > 0, both, 1.0)))


def wasserstein(a: Array, b: Array) -> float:
    """First Wasserstein distance of samples (N,), (M,): the area between their distribution functions, in their unit.

    Raises
    ------
    ValueError
        If a sample is empty or holds NaN.
    """
    if not (len(a) and len(b)) or bool(np.isnan(a).any() or np.isnan(b).any()):
        raise ValueError(f"wasserstein: samples of {len(a)} and {len(b)} values must not be empty or hold NaN")
    a, b = np.sort(a), np.sort(b)
    if len(a) == len(b):
        return float(np.mean(np.abs(a - b)))
    both = np.concatenate([a, b])
    both.sort(kind="stable")
    f = np.searchsorted(a, both[:-1], side="right") / len(a)
    g = np.searchsorted(b, both[:-1], side="right") / len(b)
    return float(np.sum(np.abs(f - g) * np.diff(both)))


def profile_distance(reference: Array, generated: Array) -> float:
    """Mean relative |difference| of two mean profiles (n,), weighted with the reference: sum |g - r| / sum r.

    Both are normalised to a sum of one first, so this is about the shape; the response has its own metric.

    Raises
    ------
    ValueError
        If a profile has no energy.
    """
    r, g = float(reference.sum()), float(generated.sum())
    if not (r > 0 and g > 0):
        raise ValueError(f"profile_distance: profiles need energy, their sums are {r} and {g}")
    return float(np.sum(np.abs(generated / g - reference / r)))


def estimate(
    metric: Callable[[Array, Array], float],
    reference: Array,
    generated: Array,
    *,
    rng: np.random.Generator,
    splits: int = 10,
    bootstraps: int = 100,
    signed: bool = False,
) -> tuple[float, float, float, float]:
    """Value, bootstrap error, floor and spread of the floor of a metric of two samples of events.

    Parameters
    ----------
    metric : function (Array, Array) -> float
    reference, generated : array (N, ...), (M, ...)
        One row per event; at least two rows of each.
    rng : numpy.random.Generator
    splits, bootstraps : int
        Random halves for the floor; resamplings for the error.
    signed : bool
        The metric has no bias from the sample size: it is evaluated once with all events, and the floor is the root
        mean square over the splits.

    Raises
    ------
    ValueError
        If a sample has fewer than two events.
    """
    n, m = len(reference), len(generated)
    if n < 2 or m < 2:
        raise ValueError(f"estimate: need two events of each sample, got {n} reference and {m} generated")
    half = min(n // 2, m)
    floors, values = [], []
    for _ in range(splits):
        rows = rng.permutation(n)
        first, second = reference[rows[:half]], reference[rows[half : 2 * half]]
        floors.append(metric(first, second))
        if not signed:
            values.append(metric(first, generated[rng.permutation(m)[:half]]))
    resampled = [metric(reference[rng.integers(0, n, n)], generated[rng.integers(0, m, m)]) for _ in range(bootstraps)]
    error, spread = float(np.std(resampled, ddof=1)), float(np.std(floors, ddof=1))
    if signed:
        return metric(reference, generated), error, float(np.sqrt(np.mean(np.square(floors)))), spread
    return float(np.mean(values)), error, float(np.mean(floors)), spread


def energy_quantile_edges(energy_gev: Array, bins: int = 4) -> Array:
    """Edges (bins + 1,) of incident-energy bins with equally many events, GeV; fewer bins if energies repeat."""
    quantiles = np.quantile(np.asarray(energy_gev, dtype=np.float64), np.linspace(0.0, 1.0, bins + 1))
    return np.asarray(np.unique(quantiles))


def in_energy_bin(energy_gev: Array, edges: Array, k: int) -> Array:
    """Mask (N,) of the events in energy bin k: [low, high), closed for the last bin."""
    above = energy_gev >= edges[k]
    below = energy_gev <= edges[k + 1] if k == len(edges) - 2 else energy_gev < edges[k + 1]
    return np.asarray(above & below)


def response_bias(reference: Array, generated: Array) -> float:
    """Mean generated response over mean reference response, minus one."""
    return float(generated.mean() / reference.mean() - 1.0)


def resolution_difference(reference: Array, generated: Array) -> float:
    """Relative width (standard deviation / mean) of the generated response over that of the reference, minus one."""
    mean = generated.mean()
    if not mean > 0:
        return -1.0
    return float((generated.std() / mean) / max(reference.std() / reference.mean(), 1e-12) - 1.0)


def compare(
    reference: Summary, generated: Summary, *, energy_edges_gev: Array | None = None, seed: int = 0
) -> list[Metric]:
    """All metrics between two samples, except the classifier's.

    Parameters
    ----------
    reference, generated : Summary
        Measured with the same threshold on the same grid.
    energy_edges_gev : array (k + 1,), optional
        Bins of incident energy for response and resolution, GeV; four bins of equal statistics by default. Bins with
        fewer than 10 events of either sample are left out.
    seed : int
        Of the random splits and resamplings.

    Returns
    -------
    list of Metric

    Raises
    ------
    ValueError
        If the observables of the two differ.
    """
    if list(reference.observables) != list(generated.observables):
        raise ValueError("compare: the samples have different observables; are their grids of the same kind?")
    rng = np.random.default_rng(seed)
    events = max(len(reference), len(generated))
    options: dict[str, Any] = {"rng": rng, "bootstraps": 100 if events <= 5000 else max(20, 500000 // events)}
    out: list[Metric] = []
    response = (reference.observables["response"].values, generated.observables["response"].values)
    edges = energy_quantile_edges(reference.energy_gev) if energy_edges_gev is None else energy_edges_gev
    for kind, metric in (("bias", response_bias), ("resolution", resolution_difference)):
        for k in (None, *range(len(edges) - 1)):
            r, g = (
                response
                if k is None
                else (
                    response[0][in_energy_bin(reference.energy_gev, edges, k)],
                    response[1][in_energy_bin(generated.energy_gev, edges, k)],
                )
            )
            if min(len(r), len(g)) >= 10:
                name, label = "all", "all energies"
                if k is not None:
                    name, label = str(k), f"{edges[k]:.3g} to {edges[k + 1]:.3g} GeV"
                out.append(Metric(f"{kind}/{name}", label, kind, *estimate(metric, r, g, signed=True, **options)))
    for name, observable in reference.observables.items():
        r, g = observable.defined, generated.observables[name].defined
        if min(len(r), len(g)) < 2:
            continue
        bins = shared_edges(r, log=observable.log, integer=observable.integer)
        ids, sigma = (np.searchsorted(bins, r, side="right"), np.searchsorted(bins, g, side="right")), _sigma(r)
        separation = estimate(_separation_of_bins(len(bins) + 1), *ids, **options)
        distance = estimate(lambda a, b, s=sigma: wasserstein(a, b) / s, r, g, **options)  # type: ignore[misc]
        out.append(Metric(f"separation/{name}", observable.label, "separation", *separation))
        out.append(Metric(f"wasserstein/{name}", observable.label, "wasserstein", *distance))
    out += [_mean_metric(out, kind) for kind in ("separation", "wasserstein")]
    out.append(
        Metric(
            "separation/spectrum",
            "Cell energy [GeV]",
            "separation",
            *estimate(_separation_of_rows, reference.spectrum, generated.spectrum, **options),
        )
    )
    for axis in range(3):
        numbers = estimate(
            _profile_of_rows, reference.axis_energy_gev[axis], generated.axis_energy_gev[axis], **options
        )
        out.append(Metric(f"profile/{reference.grid.axes[axis]}", reference.profile(axis).label, "profile", *numbers))
    names = correlated_names(reference, generated)
    tables = [s.table(names) for s in (reference, generated)]
    out.append(
        Metric(
            "correlation",
            "Correlations, mean |difference|",
            "correlation",
            *estimate(_correlation_distance, tables[0], tables[1], **options),
        )
    )
    return out


def correlated_names(reference: Summary, generated: Summary) -> list[str]:
    """Columns of the correlation matrices: incident energy, varying conditions that both samples have, observables."""
    shared = [k for k in reference.conditions if k in generated.conditions and np.ptp(reference.conditions[k]) > 0]
    return ["incident_energy", *shared, *(name for name in reference.observables if name not in REDUNDANT)]


def _mean_metric(metrics: list[Metric], kind: str) -> Metric:
    """Mean over the observables; errors are averaged, as if fully correlated, since observables share their events."""
    of_kind = [m for m in metrics if m.kind == kind and m.name.split("/")[1] not in REDUNDANT]
    numbers = np.mean([[m.value, m.error, m.floor, m.floor_error] for m in of_kind], axis=0)
    return Metric(f"{kind}/mean", "Mean over observables", kind, *(float(x) for x in numbers))


def score(reference: Showers | Summary, generated: Showers | Summary) -> float:
    """One number for choosing the best epoch: 0 is indistinguishable from the reference, 1 is as wrong as can be.

    The mean of the four terms of `score_terms`. It has no random part, is smooth where the separation power saturates,
    and is stable for samples of 500 to 1000 showers: with 500 against 500 Monte Carlo showers it is below 0.1.

    Parameters
    ----------
    reference, generated : Showers or Summary
        A Summary saves measuring the reference again each epoch. The incident energies should be distributed alike.

    Examples
    --------
    `best = min(epochs, key=lambda showers: score(reference, showers))`
    """
    return float(np.mean(list(score_terms(reference, generated).values())))


def quick_score(reference: Summary, generated: Showers, *, max_events: int = 500) -> float:
    """`score` of at most `max_events` generated showers against a measured reference: for every epoch of a training."""
    return score(reference, generated[:max_events])


def score_terms(reference: Showers | Summary, generated: Showers | Summary) -> dict[str, float]:
    """The four terms of `score`, each between 0 and 1.

    shape
        Separation power minus the value expected from statistics, mean over the observables and the cell spectrum.
    distance
        d / (1 + d) with the Wasserstein distance d in standard deviations of the reference, minus the value expected
        from statistics, mean over the observables: it still falls while histograms do not overlap.
    response
        b / (b + 0.05) with the response bias b, and w / (1 + w) with w = |ln(resolution ratio)|, weighted two to one,
        mean over up to four bins of energy; b and w are reduced by their standard errors.
    profile
        d / (d + 0.1) with the profile distance d minus the value expected from statistics, mean over the three axes.

    The values expected from statistics are computed, not drawn: for n bins (1/n1 + 1/n2) (n - 1) / 4; for the
    Wasserstein distance sqrt(2/pi (1/n1 + 1/n2)) times the integral of sqrt(F (1 - F)) with the reference's
    distribution function F; for a profile sqrt(2/pi) times the sum of the standard errors of its slices.
    """
    r = reference if isinstance(reference, Summary) else observe(reference)
    g = generated if isinstance(generated, Summary) else observe(generated, threshold_gev=r.threshold_gev)
    shape, distance = [_excess(separation_power(r.spectrum.sum(axis=0), _some(g.spectrum.sum(axis=0))), 0.0)], []
    for name, observable in r.observables.items():
        a, b = observable.defined, g.observables[name].defined
        if name in REDUNDANT or len(a) < 2:
            continue
        if len(b) < 2:
            shape.append(1.0)
            distance.append(1.0)
            continue
        edges, noise = shared_edges(a, log=observable.log, integer=observable.integer), 1.0 / len(a) + 1.0 / len(b)
        counts = [np.bincount(np.searchsorted(edges, v, side="right"), minlength=len(edges) + 1) for v in (a, b)]
        used = int(np.sum((counts[0] > 0) | (counts[1] > 0)))
        shape.append(_excess(separation_power(counts[0], counts[1]), 0.25 * (used - 1) * noise))
        expected = np.sqrt(2.0 / np.pi * noise) * _root_area(a)
        d = _excess(wasserstein(a, b), float(expected)) / _sigma(a)
        distance.append(d / (1.0 + d))
    profile = []
    for axis in range(3):
        a, b = r.axis_energy_gev[axis], g.axis_energy_gev[axis]
        d = profile_distance(a.sum(axis=0), _some(b.sum(axis=0).clip(min=0.0)))
        profile.append(_excess(d, _expected_profile_distance(a, b)))
    return {
        "shape": float(np.mean(shape)),
        "distance": float(np.mean(distance)),
        "response": _response_term(r, g),
        "profile": float(np.mean([d / (d + 0.1) for d in profile])),
    }


def _response_term(r: Summary, g: Summary) -> float:
    edges = energy_quantile_edges(r.energy_gev)
    terms = []
    for k in range(len(edges) - 1):
        a = r.observables["response"].values[in_energy_bin(r.energy_gev, edges, k)]
        b = g.observables["response"].values[in_energy_bin(g.energy_gev, edges, k)]
        if min(len(a), len(b)) < 10:
            continue
        relative = np.hypot(a.std() / a.mean() / np.sqrt(len(a)), b.std() / a.mean() / np.sqrt(len(b)))
        bias = _excess(abs(response_bias(a, b)), float(relative))
        widths = np.log(max(resolution_difference(a, b) + 1.0, 1e-6))
        width = _excess(abs(float(widths)), float(np.sqrt(0.5 / len(a) + 0.5 / len(b))))
        terms.append((2.0 * bias / (bias + 0.05) + width / (1.0 + width)) / 3.0)
    return float(np.mean(terms)) if terms else 1.0


def _excess(value: float, expected: float) -> float:
    return max(value - expected, 0.0)


def _some(counts: Array) -> Array:
    """The counts, or one entry in the first bin if there is none: a sample without hits is as far away as can be."""
    return counts if counts.sum() > 0 else np.eye(1, len(counts))[0]


def _sigma(values: Array) -> float:
    """Standard deviation of the reference; where it is constant, a relative scale in its place."""
    sigma = float(values.std())
    return sigma if sigma > 1e-9 * float(np.abs(values).max()) else max(1e-3 * float(np.abs(values).max()), 1e-300)


def _root_area(values: Array) -> float:
    ordered = np.sort(values)
    f = np.arange(1, len(ordered)) / len(ordered)
    return float(np.sum(np.sqrt(f * (1.0 - f)) * np.diff(ordered)))


def _expected_profile_distance(a: Array, b: Array) -> float:
    """Mean distance of two profiles (N, n), (M, n) of the same kind: slice errors from the reference's fluctuations."""
    total = a.sum(axis=1)
    fluctuation = (a - total[:, None] * (a.sum(axis=0) / total.sum())).std(axis=0) / total.mean()
    return float(np.sqrt(2.0 / np.pi * (1.0 / len(a) + 1.0 / len(b))) * fluctuation.sum())


def _separation_of_bins(size: int) -> Callable[[Array, Array], float]:
    return lambda a, b: separation_power(np.bincount(a, minlength=size), np.bincount(b, minlength=size))


def _separation_of_rows(a: Array, b: Array) -> float:
    return separation_power(_some(a.sum(axis=0)), _some(b.sum(axis=0)))


def _profile_of_rows(a: Array, b: Array) -> float:
    return profile_distance(a.sum(axis=0), _some(b.sum(axis=0)))


def _correlation_distance(a: Array, b: Array) -> float:
    difference = np.abs(correlation_matrix(a) - correlation_matrix(b))
    k = len(difference)
    return float(difference[~np.eye(k, dtype=bool)].mean()) if k > 1 else 0.0
