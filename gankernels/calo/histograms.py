"""Histograms that two samples share: binning from the reference, Poisson bands, ratios defined in empty bins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "fill", "poisson_interval", "ratio", "shared_edges"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Histogram:
    """Counts in bins, and what fell outside.

    Parameters
    ----------
    edges : array (n + 1,)
    counts : array (n,), float64
    underflow, overflow : int
        Values below the first and above the last edge.
    undefined : int
        Values that were NaN.
    """

    edges: Array
    counts: Array
    underflow: int
    overflow: int
    undefined: int

    @property
    def entries(self) -> int:
        """All defined values, those outside of the bins included."""
        return round(float(self.counts.sum())) + self.underflow + self.overflow

    @property
    def all_counts(self) -> Array:
        """Counts with underflow in front and overflow at the end (n + 2,)."""
        return np.concatenate([[self.underflow], self.counts, [self.overflow]])

    @property
    def density(self) -> Array:
        """Fraction of all entries in each bin (n,)."""
        return self.counts / max(self.entries, 1)


def shared_edges(
    reference: Array, *, also: Array | None = None, bins: int | None = None, log: bool = False, integer: bool = False
) -> Array:
    """Bin edges taken from the reference: from its 0.2 % to its 99.8 % quantile with a margin of 10 % on either side.

    Parameters
    ----------
    reference : array (N,)
        NaN is ignored.
    also : array (M,), optional
        A second sample that should be seen in a figure: bins of the same width are added towards its 1 % and 99 %
        quantiles, at most as many again on either side. Metrics do not use it: the rest is overflow.
    bins : int, optional
        By default the square root of N, between 12 and 40.
    log : bool
        Equal bins of the logarithm; needs positive values, others are ignored.
    integer : bool
        Edges at half integers and widths of whole numbers, so that no bin holds more integers than its neighbour.

    Raises
    ------
    ValueError
        If the reference holds no usable value.
    """
    values = reference[np.isfinite(reference) & ((reference > 0) | (not log))]
    if len(values) == 0:
        raise ValueError("shared_edges: the reference holds no finite value" + (" above zero" if log else ""))
    n = int(np.clip(np.sqrt(len(values)), 12, 40)) if bins is None else bins
    transformed = np.log10(values) if log else values.astype(np.float64)
    low, high = (float(q) for q in np.quantile(transformed, [0.002, 0.998]))
    spread = high - low
    if not spread > 1e-9 * max(abs(low), abs(high), 1e-300):
        spread = max(abs(low), 1.0) * 1e-3 if not integer else 1.0
    low, high = low - 0.1 * spread, high + 0.1 * spread
    if integer:
        width = max(1.0, float(np.ceil((high - low) / n)))
        low = float(np.floor(low)) - 0.5
        n = int(np.ceil((high - low) / width))
    else:
        width = (high - low) / n
    before = after = 0
    if also is not None:
        seen = also[np.isfinite(also) & ((also > 0) | (not log))]
        if len(seen):
            first, last = np.quantile(np.log10(seen) if log else seen, [0.01, 0.99])
            before = int(np.clip(np.ceil((low - first) / width), 0, n))
            after = int(np.clip(np.ceil((last - (low + n * width)) / width), 0, n))
    edges = low + width * np.arange(-before, n + after + 1)
    return np.asarray(10.0**edges if log else edges)


def fill(values: Array, edges: Array) -> Histogram:
    """Histogram of values (N,) in bins [low, high), the last one closed; NaN, under- and overflow are counted."""
    defined = values[~np.isnan(values)]
    counts, _ = np.histogram(defined, bins=edges)
    return Histogram(
        edges,
        counts.astype(np.float64),
        int(np.sum(defined < edges[0])),
        int(np.sum(defined > edges[-1])),
        int(len(values) - len(defined)),
    )


def poisson_interval(counts: Array) -> tuple[Array, Array]:
    """Central 68.3 % interval of a Poisson mean given counts (n,) >= 0, by Gehrels' approximation (ApJ 303, 336, 1986).

    Returns
    -------
    low, high : array (n,)
        For a count of zero: 0 and 1.87 (the exact limits are 0 and 1.84).
    """
    n = np.asarray(counts, dtype=np.float64)
    high = n + np.sqrt(n + 0.75) + 1.0
    low = np.where(
        n > 0, n * (1.0 - 1.0 / (9.0 * np.maximum(n, 1)) - 1.0 / (3.0 * np.sqrt(np.maximum(n, 1)))) ** 3, 0.0
    )
    return np.maximum(low, 0.0), high


def ratio(generated: Histogram, reference: Histogram) -> tuple[Array, Array, Array]:
    """Generated over reference in each bin, normalised to the entries of each, with the interval from generated counts.

    Where the reference is empty the ratio does not exist: NaN, and a figure leaves a gap. Where only the generated
    sample is empty the ratio is 0 with an upper error.

    Returns
    -------
    value, low, high : array (n,)

    Raises
    ------
    ValueError
        If the two have different edges.
    """
    if not np.array_equal(generated.edges, reference.edges):
        raise ValueError("ratio: the histograms have different edges")
    low, high = poisson_interval(generated.counts)
    scale = max(reference.entries, 1) / max(generated.entries, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        denominator = np.where(reference.counts > 0, reference.counts, np.nan) / scale
        return generated.counts / denominator, low / denominator, high / denominator
