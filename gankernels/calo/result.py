"""What a validation found, as numbers: the content of report.json and of the report's tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gankernels.calo.metrics import Metric

__all__ = ["EnergyBin", "ValidationResult"]


@dataclass(frozen=True)
class EnergyBin:
    """Response in one bin of incident energy.

    Parameters
    ----------
    low_gev, high_gev : float
        Edges, GeV.
    events : (int, int)
        Reference and generated.
    reference, generated : (float, float, float, float)
        Mean of deposited / incident energy, its standard error, relative width of it (standard deviation / mean), and
        its error.
    bias, resolution : Metric or None
        Relative differences of mean and width; None with fewer than 10 events of either sample.
    """

    low_gev: float
    high_gev: float
    events: tuple[int, int]
    reference: tuple[float, float, float, float]
    generated: tuple[float, float, float, float]
    bias: Metric | None
    resolution: Metric | None


@dataclass(frozen=True)
class ValidationResult:
    """Everything the report says, as numbers.

    Parameters
    ----------
    title : str
    metrics : list of Metric
    energy_bins : list of EnergyBin
    score : float
        The number by which the best epoch is chosen: 0 is indistinguishable, 1 as wrong as can be.
    score_terms : dict of float
    warnings : list of str
        What a reader should know before believing the numbers.
    provenance : dict
        Versions, seed, event counts, files, date.
    html_path, json_path : Path or None
        What was written.
    """

    title: str
    metrics: list[Metric]
    energy_bins: list[EnergyBin]
    score: float
    score_terms: dict[str, float]
    warnings: list[str]
    provenance: dict[str, Any]
    html_path: Path | None = None
    json_path: Path | None = None
    by_name: dict[str, Metric] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_name", {m.name: m for m in self.metrics})

    def verdicts(self) -> dict[str, int]:
        """How many metrics agree with the floor, are close to it, and differ."""
        return {v: sum(m.verdict == v for m in self.metrics) for v in ("agrees", "close", "differs")}

    def table(self) -> list[tuple[str, str]]:
        """The report in a few lines: (quantity, value with its error, the Monte Carlo floor, the verdict)."""
        depth = "z"
        across = [m for m in self.metrics if m.kind == "profile" and m.name != f"profile/{depth}"]
        bins = [b for b in self.energy_bins if b.bias is not None]
        rows = [("response (deposited / incident energy)", self.by_name.get("bias/all"))]
        if bins:
            worst = max(bins, key=lambda b: abs(b.bias.value) if b.bias else 0.0)
            rows.append((f"  worst bin, {worst.low_gev:.3g} to {worst.high_gev:.3g} GeV", worst.bias))
        rows.append(("longitudinal profile, distance", self.by_name.get(f"profile/{depth}")))
        rows.append(("transverse profile, distance", max(across, key=lambda m: m.excess, default=None)))
        rows.append(("separation power, mean of observables", self.by_name.get("separation/mean")))
        rows += [("classifier, area under the curve", m) for m in self.metrics if m.kind == "auc"]
        return [("score (0 the same, 1 as wrong as can be)", f"{self.score:.3f}")] + [
            (label, _cell(metric)) for label, metric in rows if metric is not None
        ]

    def to_dict(self) -> dict[str, Any]:
        """The content of report.json."""
        names = ("mean", "mean_error", "resolution", "resolution_error")
        return {
            "format": "gankernels-validation-1",
            "title": self.title,
            "score": self.score,
            "score_terms": self.score_terms,
            "verdicts": self.verdicts(),
            "warnings": self.warnings,
            "metrics": [m.to_dict() for m in self.metrics],
            "energy_bins": [
                {
                    "low_gev": b.low_gev,
                    "high_gev": b.high_gev,
                    "reference": {"events": b.events[0], **dict(zip(names, b.reference, strict=True))},
                    "generated": {"events": b.events[1], **dict(zip(names, b.generated, strict=True))},
                    "bias": b.bias.to_dict() if b.bias else None,
                    "resolution": b.resolution.to_dict() if b.resolution else None,
                }
                for b in self.energy_bins
            ],
            "provenance": self.provenance,
        }


def _cell(m: Metric) -> str:
    if m.kind == "bias":
        return f"{100 * m.value:+.1f} % ± {100 * m.error:.1f} %, Monte Carlo alone ± {100 * m.floor:.1f} %: {m.verdict}"
    return f"{m.value:.3f} ± {m.error:.3f}, Monte Carlo alone {m.floor:.3f}: {m.verdict}"
