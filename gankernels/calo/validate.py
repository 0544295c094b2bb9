"""Compare generated showers with Monte Carlo ones and write report.html and report.json."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels._atomic import write_text
from gankernels.calo.metrics import Metric, compare, energy_quantile_edges, in_energy_bin, score_terms
from gankernels.calo.observables import Summary, observe
from gankernels.calo.report import render
from gankernels.calo.result import EnergyBin, ValidationResult
from gankernels.calo.showers import Grid, Showers

__all__ = ["MIN_EVENTS", "ValidationResult", "validate"]

Array = NDArray[Any]

MIN_EVENTS = 20  # of each sample


def validate(
    generated: Showers,
    reference: Showers,
    *,
    out_dir: str | os.PathLike[str] | None = None,
    out_html: str | os.PathLike[str] | None = None,
    title: str = "Generated showers against Monte Carlo",
    energy_bins: int | Array | None = None,
    seed: int = 0,
    classifier: bool | str = True,
    threshold_gev: float | None = None,
    provenance: dict[str, Any] | None = None,
) -> ValidationResult:
    """Compare generated with reference showers; write a report that a physicist can read and a program can parse.

    Parameters
    ----------
    generated, reference : Showers
        On the same grid, at least 20 showers each. No reference shower should have been used in training.
    out_dir : path, optional
        Receives report.html and report.json; made if missing.
    out_html : path, optional
        The HTML file; the JSON lies beside it with the suffix .json. Give `out_dir`, `out_html`, or neither to write
        nothing.
    title : str
    energy_bins : int or array (k + 1,), optional
        Number of incident-energy bins with equal statistics (default 4), or their edges in GeV.
    seed : int
        Of splits, resamplings and the classifier.
    classifier : bool or str
        True or "high": network on observables; "low": on the logarithms of all cells, slow, and blind with fewer than
        some ten thousand showers; False: none.
    threshold_gev : float, optional
        Readout threshold for hits, GeV; by default the smallest positive cell of the reference.
    provenance : dict, optional
        Shown in the footer and stored: file names, date, run.

    Returns
    -------
    ValidationResult
        With the paths of what was written.

    Raises
    ------
    ValueError
        If the grids differ, the energies do not overlap, a sample is too small, or a cell is NaN or infinite.
    """
    if out_dir is not None and out_html is not None:
        raise ValueError("validate: give out_dir or out_html, not both")
    if classifier not in (True, False, "high", "low"):
        raise ValueError(f"validate: classifier must be True, False, 'high' or 'low', got {classifier!r}")
    for name, showers in (("generated", generated), ("reference", reference)):
        if len(showers) < MIN_EVENTS:
            raise ValueError(f"validate: {len(showers)} {name} showers, expected at least {MIN_EVENTS}")
    _check_grids(generated.grid, reference.grid)
    r = _observe(reference, "reference", threshold_gev)
    g = _observe(replace(generated, grid=reference.grid), "generated", r.threshold_gev)
    edges = _energy_edges(r, g, energy_bins)
    metrics = compare(r, g, energy_edges_gev=edges, seed=seed)
    roc = None
    if classifier:
        metric, roc = _classify((r, g), (reference, generated), "low" if classifier == "low" else "high", seed)
        metrics.append(metric)
    terms = score_terms(r, g)
    result = ValidationResult(
        title=title,
        metrics=metrics,
        energy_bins=_energy_bins(r, g, edges, {m.name: m for m in metrics}),
        score=float(np.mean(list(terms.values()))),
        score_terms=terms,
        warnings=_warnings(r, g, edges, generated.grid),
        provenance={
            **(provenance or {}),
            "reference showers": len(r),
            "generated showers": len(g),
            "grid": f"{' × '.join(map(str, r.grid.shape))} ({', '.join(r.grid.axes)})",
            "readout threshold [GeV]": float(f"{r.threshold_gev:.6g}"),
            "seed": seed,
            **_versions(),
        },
    )
    if out_dir is None and out_html is None:
        return result
    html_path = Path(out_dir) / "report.html" if out_dir is not None else Path(out_html or "")
    json_path = html_path.with_suffix(".json")
    if json_path == html_path:
        raise ValueError(f"validate: out_html must not end in .json, got {html_path}")
    html_path.parent.mkdir(parents=True, exist_ok=True)
    write_text(json_path, json.dumps(result.to_dict(), indent=1, allow_nan=False) + "\n")
    write_text(html_path, render(result, (r, g), (reference, generated), roc))
    return replace(result, html_path=html_path, json_path=json_path)


def _check_grids(generated: Grid, reference: Grid) -> None:
    if generated.shape != reference.shape or generated.axes != reference.axes:
        raise ValueError(
            f"validate: generated showers are on a grid of {generated.shape} cells {generated.axes}, the reference on "
            f"{reference.shape} {reference.axes}; both must be the same"
        )
    if generated.edges is not None and reference.edges is not None:
        for axis, name in enumerate(reference.axes):
            a, b = generated.axis_edges(axis), reference.axis_edges(axis)
            if not np.allclose(a, b, rtol=1e-4, atol=1e-6 * float(np.abs(b).max())):
                raise ValueError(
                    f"validate: the cell edges along {name} differ: {a[0]:g} to {a[-1]:g} against {b[0]:g} to {b[-1]:g}"
                )


def _observe(showers: Showers, name: str, threshold_gev: float | None) -> Summary:
    try:
        return observe(showers, threshold_gev=threshold_gev)
    except ValueError as error:
        raise ValueError(f"validate: the {name} showers cannot be measured: {error}") from error


def _energy_edges(r: Summary, g: Summary, energy_bins: int | Array | None) -> Array:
    low, high = (max if q == 0 else min for q in (0, 1))
    first, last = low(r.energy_gev.min(), g.energy_gev.min()), high(r.energy_gev.max(), g.energy_gev.max())
    if first > last:
        raise ValueError(
            f"validate: the incident energies do not overlap: generated {_span(g)}, reference {_span(r)} GeV; "
            "generate at the energies of the reference"
        )
    if energy_bins is None or isinstance(energy_bins, (int, np.integer)):
        bins = 4 if energy_bins is None else int(energy_bins)
        if bins < 1:
            raise ValueError(f"validate: energy_bins must be at least 1, got {bins}")
        edges = energy_quantile_edges(r.energy_gev, bins)
        return edges if len(edges) > 1 else np.array([edges[0], edges[0]])
    edges = np.asarray(energy_bins, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not bool(np.all(np.diff(edges) > 0)):
        raise ValueError(f"validate: energy_bins must be an int or rising edges in GeV, got {energy_bins!r}")
    return edges


def _span(s: Summary) -> str:
    return f"{s.energy_gev.min():.4g} to {s.energy_gev.max():.4g}"


def _energy_bins(r: Summary, g: Summary, edges: Array, by_name: dict[str, Metric]) -> list[EnergyBin]:
    out = []
    for k in range(len(edges) - 1):
        values = [s.observables["response"].values[in_energy_bin(s.energy_gev, edges, k)] for s in (r, g)]
        out.append(
            EnergyBin(
                float(edges[k]),
                float(edges[k + 1]),
                (len(values[0]), len(values[1])),
                _response(values[0]),
                _response(values[1]),
                by_name.get(f"bias/{k}"),
                by_name.get(f"resolution/{k}"),
            )
        )
    return out


def _response(values: Array) -> tuple[float, float, float, float]:
    """Mean, its standard error, relative width and its (Gaussian) standard error; zeros where there is nothing."""
    n = len(values)
    mean = float(values.mean()) if n else 0.0
    if n < 2 or mean <= 0:
        return mean, 0.0, 0.0, 0.0
    sigma = float(values.std(ddof=1))
    return mean, sigma / np.sqrt(n), sigma / mean, sigma / mean / float(np.sqrt(2.0 * (n - 1)))


def _classify(
    summaries: tuple[Summary, Summary], showers: tuple[Showers, Showers], level: str, seed: int
) -> tuple[Metric, tuple[Array, Array]]:
    from gankernels.calo import classifier as two_sample  # only this part needs the compiled kernels

    if level == "low":
        tables = [two_sample.low_level_features(s, summaries[0].threshold_gev) for s in showers]
    else:
        tables = [two_sample.high_level_features(s) for s in summaries]
    test = two_sample.two_sample_test(tables[0], tables[1], seed=seed, scale_each=level == "high")
    label = f"Classifier AUC ({test.features} {'cells' if level == 'low' else 'observables'})"
    metric = Metric(f"auc/{level}", label, "auc", test.auc, test.error, test.floor, test.floor_error)
    return metric, (test.false_positive, test.true_positive)


def _shared(r: Summary, g: Summary) -> int:
    """Generated showers that are in the reference too, told by the bits of incident and deposited energy."""
    keys = []
    for s in (r, g):
        deposited = s.axis_energy_gev[0].sum(axis=1)
        keys.append({pair for pair in zip(s.energy_gev.tolist(), deposited.tolist(), strict=True) if pair[1] > 0.0})
    return len(keys[0] & keys[1])


def _warnings(r: Summary, g: Summary, edges: Array, generated_grid: Grid) -> list[str]:
    out = []
    a, b = np.sort(r.energy_gev), np.sort(g.energy_gev)
    both = np.concatenate([a, b])
    gap = np.abs(np.searchsorted(a, both, "right") / len(a) - np.searchsorted(b, both, "right") / len(b)).max()
    if gap > 1.63 * np.sqrt(1.0 / len(a) + 1.0 / len(b)):
        out.append(
            f"The incident energies are distributed differently (generated {_span(g)} GeV, Monte Carlo {_span(r)} GeV; "
            f"largest difference of the distribution functions {gap:.2f}). Only the numbers in bins of energy compare "
            "like with like."
        )
    outside = int(np.sum((g.energy_gev < a[0] * (1 - 1e-6)) | (g.energy_gev > a[-1] * (1 + 1e-6))))
    if outside > 0.01 * len(g):
        out.append(f"{outside} of {len(g)} generated showers have incident energies outside the Monte Carlo's range.")
    shared = _shared(r, g)
    if shared:
        out.append(
            f"{shared} of {len(g)} generated showers are Monte Carlo showers of the reference (same incident and "
            "deposited energy): this compares a sample with itself and says nothing about a generator."
        )
    for s, name in ((r, "Monte Carlo"), (g, "generated")):
        if s.empty:
            out.append(f"{s.empty} of {len(s)} {name} showers are empty; they are left out of moments and fractions.")
        if s.negative_cells:
            out.append(
                f"{s.negative_cells} cells of the {name} showers are negative; no histogram of cells shows them."
            )
        if s.below_threshold > 1e-3:
            share, threshold = 100 * s.below_threshold, 1e3 * s.threshold_gev
            out.append(f"{share:.2g} % of the {name} energy is in cells below the threshold of {threshold:.3g} MeV.")
    few = [k for k in range(len(edges) - 1) if min(in_energy_bin(s.energy_gev, edges, k).sum() for s in (r, g)) < 10]
    if few:
        out.append(
            f"{len(few)} of {len(edges) - 1} energy bins hold fewer than 10 showers of a sample; no numbers there."
        )
    if min(len(r), len(g)) < 500:
        out.append(
            f"Only {min(len(r), len(g))} showers of a sample: floors and errors are large, small differences hide."
        )
    if generated_grid.edges is None and r.grid.edges is not None:
        out.append("The generated file has no cell edges; those of the Monte Carlo file are used.")
    return out


def _versions() -> dict[str, str]:
    from importlib import metadata

    out = {}
    for package in ("gankernels", "numpy", "matplotlib"):
        try:
            out[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {**out, "python": platform.python_version()}
