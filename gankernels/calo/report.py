"""The validation report: one HTML file that needs no network and no scripts, tables before figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels.calo import figures
from gankernels.calo.histograms import Histogram, fill, shared_edges
from gankernels.calo.metrics import Metric, correlated_names, in_energy_bin
from gankernels.calo.observables import SPECTRUM_EDGES_GEV, Summary, axis_edges, axis_label, correlations
from gankernels.calo.result import EnergyBin, ValidationResult
from gankernels.calo.showers import Showers

__all__ = ["render"]

Array = NDArray[Any]


def render(
    result: ValidationResult,
    summaries: tuple[Summary, Summary],
    showers: tuple[Showers, Showers],
    roc: tuple[Array, Array] | None,
) -> str:
    """The report as one HTML document.

    Parameters
    ----------
    result : ValidationResult
    summaries, showers : pairs
        Reference first, generated second.
    roc : pair of arrays (n,), optional
        False and true positive fractions of the classifier.
    """
    r, g = summaries
    low, high = float(r.energy_gev.min()), float(r.energy_gev.max())
    lead = (
        f"{len(g)} generated against {len(r)} Monte Carlo showers on a grid of "
        f"{html.escape(result.provenance['grid'])} cells, incident energies {low:.3g} to {high:.3g} GeV."
    )
    body = [
        f"<header><h1>{html.escape(result.title)}</h1><p class=lead>{lead}</p>{_headline(result)}</header>",
        *(f'<p class="warning"><strong>Note.</strong> {html.escape(text)}</p>' for text in result.warnings),
        _section("Summary", _summary_table(result), _READING),
        _section("Response in bins of incident energy", _energy_table(result.energy_bins)),
        _section("Energy response", _grid(_response_figures(result, r, g))),
        _section("Shower shape", _grid(_profile_figures(result, r, g))),
        _section("Moments and fractions", _grid(_observable_figures(result, r, g, _SHAPE))),
        _section("Cells", _grid([_spectrum_figure(result, r, g), *_observable_figures(result, r, g, _CELLS)])),
        _section("Mean showers", *_mean_shower_figures(r, g)),
        _section("Single showers", _SINGLE, _sample_showers(*showers)),
        _section("Correlations of conditions and observables", _correlations(r, g)),
    ]
    if roc is not None:
        metric = next(m for m in result.metrics if m.kind == "auc")
        note = _note(metric, "AUC")
        body.append(
            _section("Classifier", _CLASSIFIER, _grid([_picture(figures.roc_figure(*roc, note=note), "ROC curve")]))
        )
    body += [_section("All observables", _observable_table(result)), _provenance(result.provenance)]
    style = resources.files("gankernels.calo").joinpath("report.css").read_text(encoding="utf-8")
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(result.title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


_READING = (
    "<details open class=reading><summary>How to read these numbers</summary><p>"
    "The <em>floor</em> is the same number between two disjoint halves of the Monte Carlo sample: what statistics "
    "alone would give, and what a perfect generator would reach. Errors are bootstrap standard errors. "
    "<span class=agrees>agrees</span> is within two standard errors of the floor, <span class=close>close</span> is "
    "significantly above it by an amount that seldom matters, <span class=differs>differs</span> is above that. "
    "Separation power is ½ Σ (h₁ − h₂)² / (h₁ + h₂) of normalised histograms, 0 for equal and 1 for disjoint ones; "
    "Wasserstein distances are in standard deviations of the Monte Carlo distribution; a profile distance is "
    "Σ |generated − Monte Carlo| of the slices of two profiles of unit sum."
    "</p></details>"
)
_SINGLE = (
    "<p>Monte Carlo showers spread over the incident energies, and below each the generated shower with the closest "
    "incident energy. Individual showers fluctuate; compare their texture, not their cells.</p>"
)
_CLASSIFIER = (
    "<p>A small neural network is trained to tell generated from Monte Carlo showers and tested on showers that it "
    "has not seen. An area under the curve (AUC) of 0.5 means that it cannot tell them apart, 1 that it always can.</p>"
)

_SHAPE = (
    *("shower_max", "centre_z", "width_z", "centre_x", "width_x", "centre_y", "width_y", "slope_x", "slope_y"),
    *("centre_r", "width_r", "centre_alpha", "width_alpha", "plane_x", "plane_y", "core_fraction"),
    *("front_fraction", "middle_fraction", "back_fraction"),
)
_CELLS = ("hits", "max_cell_fraction")


def _section(heading: str, *parts: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{''.join(parts)}</section>"


def _grid(pictures: Iterable[str]) -> str:
    return f'<div class="grid">{"".join(pictures)}</div>'


def _picture(svg: str, text: str, *, whole: bool = False) -> str:
    data = base64.b64encode(svg.encode()).decode()
    kind = ' class="whole"' if whole else ""
    return f'<figure{kind}><img alt="{html.escape(text)}" src="data:image/svg+xml;base64,{data}"></figure>'


def _headline(result: ValidationResult) -> str:
    v, n = result.verdicts(), len(result.metrics)
    parts = [
        f"<span><b class=agrees>{v['agrees']}</b> of {n} numbers agree with the Monte Carlo</span>",
        f"<span><b class=close>{v['close']}</b> are close</span>",
        f"<span><b class=differs>{v['differs']}</b> differ</span>",
        f"<span>score <b>{result.score:.3f}</b> (best 0, worst 1)</span>",
    ]
    return f'<div class="headline">{"".join(parts)}</div>'


def _digits(error: float) -> int:
    """Decimals that show two significant digits of an error, at most 6."""
    return int(np.clip(1 - np.floor(np.log10(error)), 0, 6)) if error > 0 else 3


def _text(m: Metric, value: float, error: float, *, sign: bool = False) -> tuple[str, str]:
    """Value and error as text, in per cent for the kinds that are relative differences."""
    scale, unit = (100.0, " %") if m.kind in ("bias", "resolution", "profile") else (1.0, "")
    digits = _digits(scale * error)
    number = f"{scale * value:{'+' if sign else ''}.{digits}f}{unit}".replace("-", "−")
    return number, f"± {scale * error:.{digits}f}{unit}"


def _value(m: Metric, *, sign: bool = False) -> str:
    value, error = _text(m, m.value, m.error, sign=sign)
    return f"{value} <span class=pm>{error}</span>"


def _note(m: Metric | None, what: str) -> str:
    if m is None:
        return ""
    value, error = _text(m, m.value, m.error)
    return f"{what} {value.removesuffix(' %')} {error}, floor {_text(m, m.floor, m.floor_error)[0]}"


def _verdict(m: Metric) -> str:
    return f"<span class={m.verdict}>{m.verdict}</span>"


def _floor(m: Metric) -> str:
    if m.kind in ("bias", "resolution"):
        return f"± {_text(m, m.floor, m.error)[0]}"
    value, error = _text(m, m.floor, m.floor_error)
    return f"{value} <span class=pm>{error}</span>"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], above: str = "", kind: str = "plain") -> str:
    cells = "".join(f"<th>{c}</th>" for c in head)
    lines = "".join(f"<tr>{''.join(f'<td>{c}</td>' for c in row)}</tr>" for row in rows)
    table = f"<table class={kind}><thead>{above}<tr>{cells}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _summary_table(result: ValidationResult) -> str:
    titles = {
        "bias/all": "Response: mean, generated / Monte Carlo − 1",
        "resolution/all": "Response: relative width, generated / Monte Carlo − 1",
        "separation/mean": "Separation power, mean over observables",
        "separation/spectrum": "Separation power, cell energies",
        "wasserstein/mean": "Wasserstein distance, mean over observables [σ]",
        "correlation": "Correlations between observables, mean |difference|",
    }
    for m in result.metrics:
        if m.kind == "profile":
            titles[m.name] = f"Profile distance, {m.label.split(' [')[0][:1].lower() + m.label.split(' [')[0][1:]}"
        elif m.kind == "auc":
            titles[m.name] = m.label
    worst = max((m for m in result.metrics if m.kind == "separation"), key=lambda m: m.excess)
    if worst.name not in titles:
        titles[worst.name] = f"Separation power, worst: {worst.label}"
    rows = []
    for name, title in titles.items():
        if name in result.by_name:
            m = result.by_name[name]
            value, error = _text(m, m.value, m.error, sign=m.kind in ("bias", "resolution"))
            rows.append([html.escape(title), value, error, _floor(m), _verdict(m)])
    return _table(["Metric", "Generated", "Error", "Monte Carlo floor", "Verdict"], rows)


def _energy_table(bins: list[EnergyBin]) -> str:
    rows = []
    for b in bins:
        events = f"<small>{b.events[0]} Monte Carlo, {b.events[1]} generated</small>"
        row = [f"{b.low_gev:.3g} to {b.high_gev:.3g} GeV{events}"]
        for first, scale, unit, metric in ((0, 1.0, "", b.bias), (2, 100.0, " %", b.resolution)):
            for side in (b.reference, b.generated):
                value, error = scale * side[first], scale * side[first + 1]
                digits = _digits(error)
                row.append(f"{value:.{digits}f}{unit}<small>± {error:.{digits}f}</small>")
            if metric is None:
                row += ["too few", ""]
                continue
            difference, error_text = _text(metric, metric.value, metric.error, sign=True)
            row += [
                f"{difference}<small>{error_text}</small>",
                f"{_verdict(metric)}<small>floor {_floor(metric)}</small>",
            ]
        rows.append(row)
    above = (
        "<tr><th></th><th colspan=4 class=group>Mean of deposited / incident energy</th>"
        "<th colspan=4 class=group>Resolution (standard deviation / mean)</th></tr>"
    )
    columns = ["Monte Carlo", "Generated", "Difference", "Verdict"]
    return _table(["Incident energy", *columns, *columns], rows, above, "dense")


def _observable_table(result: ValidationResult) -> str:
    rows = []
    for m in result.metrics:
        name = m.name.removeprefix("separation/")
        if m.kind != "separation" or name == "mean":
            continue
        row = [html.escape(m.label)]
        distance = result.by_name.get(f"wasserstein/{name}")
        for metric in (m,) if distance is None else (m, distance):
            row += [_value(metric), _floor(metric), _verdict(metric)]
        rows.append(row + [""] * (7 - len(row)))
    above = (
        "<tr><th></th><th colspan=3 class=group>Separation power</th>"
        "<th colspan=3 class=group>Wasserstein distance [σ of Monte Carlo]</th></tr>"
    )
    columns = ["Generated", "Floor", "Verdict"]
    return _table(["Observable", *columns, *columns], rows, above, "dense")


def _observable_figures(result: ValidationResult, r: Summary, g: Summary, names: Sequence[str]) -> list[str]:
    out = []
    for name in names:
        if name not in r.observables or not len(r.observables[name].defined):
            continue
        o, values = r.observables[name], g.observables[name].values
        edges = shared_edges(o.values, also=values, log=o.log, integer=o.integer)
        svg = figures.histogram_figure(
            fill(o.values, edges),
            fill(values, edges),
            label=o.label,
            note=_note(result.by_name.get(f"separation/{name}"), "separation"),
            log_x=o.log,
        )
        out.append(_picture(svg, f"{o.label}: Monte Carlo and generated"))
    return out


def _spectrum_figure(result: ValidationResult, r: Summary, g: Summary) -> str:
    counts = [s.spectrum.sum(axis=0).astype(np.float64) for s in (r, g)]
    used = np.flatnonzero(counts[0] + counts[1])
    rows = slice(int(used[0]), int(used[-1]) + 1)
    histograms = [Histogram(SPECTRUM_EDGES_GEV[rows.start : rows.stop + 1], c[rows], 0, 0, 0) for c in counts]
    errors = [np.sqrt(len(s) * s.spectrum[:, rows].var(axis=0)) for s in (r, g)]
    svg = figures.histogram_figure(
        histograms[0],
        histograms[1],
        label="Cell energy [GeV]",
        note=_note(result.by_name.get("separation/spectrum"), "separation"),
        log_x=True,
        log_y=True,
        per="hit cells",
        reference_error=errors[0],
        generated_error=errors[1],
    )
    return _picture(svg, "Cell energy spectrum")


def _response_figures(result: ValidationResult, r: Summary, g: Summary) -> list[str]:
    out = []
    bins = [b for b in result.energy_bins if min(b.events) > 1]
    if bins:
        edges = np.array([[b.low_gev, b.high_gev] for b in bins])
        wide = bool(edges.max() > 30 * edges.min())
        centres = np.sqrt(edges.prod(axis=1)) if wide else edges.mean(axis=1)
        widths = np.stack([centres - edges[:, 0], edges[:, 1] - centres])
        numbers = [np.array([side for b in bins for side in [getattr(b, s)]]) for s in ("reference", "generated")]
        svg = figures.response_figure(centres, widths, numbers[0], numbers[1], wide)
        out.append(_picture(svg, "Mean response and resolution in bins of incident energy"))
    out += _observable_figures(result, r, g, ("response", "energy_total"))
    cut = np.array([bins[0].low_gev, *(b.high_gev for b in bins)]) if bins else np.array([])
    for k, b in enumerate(bins):
        values = [s.observables["response"].values[in_energy_bin(s.energy_gev, cut, k)] for s in (r, g)]
        edges = shared_edges(values[0], also=values[1], bins=20)
        svg = figures.histogram_figure(
            fill(values[0], edges),
            fill(values[1], edges),
            label="Deposited / incident energy",
            note=f"incident energy {b.low_gev:.3g} to {b.high_gev:.3g} GeV",
        )
        out.append(_picture(svg, f"Response from {b.low_gev:.3g} to {b.high_gev:.3g} GeV"))
    return out


def _profile_figures(result: ValidationResult, r: Summary, g: Summary) -> list[str]:
    out = []
    depth = r.grid.depth_axis
    for axis in (depth, *(a for a in range(3) if a != depth)):
        note = _note(result.by_name[f"profile/{r.grid.axes[axis]}"], "distance")
        a, b = r.profile(axis), g.profile(axis)
        if axis == depth:
            out.append(_depth_by_energy(result.energy_bins, r, g))
        scales = (False,) if r.grid.axes[axis] == "alpha" else (False, True)
        out += [
            _picture(figures.profile_figure(a, b, note=note, log_y=log), f"Mean energy along {a.label}")
            for log in scales
        ]
    return out


def _depth_by_energy(bins: list[EnergyBin], r: Summary, g: Summary) -> str:
    depth, curves = r.grid.depth_axis, []
    cut = np.array([b.low_gev for b in bins] + [b.high_gev for b in bins[-1:]])
    for k, b in enumerate(bins):
        sums = [s.axis_energy_gev[depth][in_energy_bin(s.energy_gev, cut, k)].sum(axis=0) for s in (r, g)]
        if min(b.events) > 1 and min(s.sum() for s in sums) > 0:
            curves.append(
                (f"{b.low_gev:.3g} to {b.high_gev:.3g} GeV", sums[0] / sums[0].sum(), sums[1] / sums[1].sum())
            )
    if not curves:
        return ""
    svg = figures.depth_figure(axis_edges(r.grid, depth), axis_label(r.grid, depth), curves)
    return _picture(svg, "Longitudinal profile in bins of incident energy")


def _mean_shower_figures(r: Summary, g: Summary) -> list[str]:
    grid, depth = r.grid, r.grid.depth_axis
    out = []
    across = [a for a in range(3) if a != depth]
    for right, up in ((depth, across[0]), (depth, across[1]), (across[0], across[1])):
        images = [_oriented(s.projections_gev, right, up) for s in (r, g)]
        edges = (axis_edges(grid, right), axis_edges(grid, up))
        labels = (axis_label(grid, right), axis_label(grid, up))
        svg = figures.image_figure(images[0], images[1], edges, labels)
        out.append(_picture(svg, f"Mean energy in {labels[0]} and {labels[1]}", whole=True))
    return out


def _oriented(projections: dict[tuple[int, int], Array], right: int, up: int) -> Array:
    return projections[right, up] if right < up else projections[up, right].T


def _sample_showers(reference: Showers, generated: Showers) -> str:
    grid, depth = reference.grid, reference.grid.depth_axis
    across = next(a for a in range(3) if a != depth) if grid.axes[0] == "x" else grid.axes.index("r")
    away = 3 - depth - across
    order = np.argsort(reference.energy_gev, kind="stable")
    rows = order[(np.array([0.1, 0.4, 0.7, 0.95]) * (len(order) - 1)).astype(int)]
    left = np.ones(len(generated), dtype=bool)
    pairs: list[list[tuple[str, Array]]] = [[], []]
    for row in rows:
        distance = np.where(left, np.abs(generated.energy_gev - reference.energy_gev[row]), np.inf)
        nearest = int(np.argmin(distance))
        left[nearest] = False
        for out, showers, i in ((pairs[0], reference, row), (pairs[1], generated, nearest)):
            image = showers.cells_gev[i].sum(axis=away, dtype=np.float64)
            out.append((f"E = {showers.energy_gev[i]:.3g} GeV", image if depth < across else image.T))
    svg = figures.sample_figure(
        pairs[0],
        pairs[1],
        (axis_edges(grid, depth), axis_edges(grid, across)),
        (axis_label(grid, depth), axis_label(grid, across)),
    )
    return _picture(svg, "Single showers, Monte Carlo above generated", whole=True)


def _correlations(r: Summary, g: Summary) -> str:
    names = correlated_names(r, g)
    svg = figures.correlation_figure(
        correlations(r, names),
        correlations(g, names),
        [_short(name) for name in names],
    )
    return _picture(svg, "Correlation matrices", whole=True)


def _short(name: str) -> str:
    shown = name.removeprefix("incident_").removesuffix("_fraction").removesuffix("_rad")
    return shown.replace("_", " ")


def _provenance(entries: dict[str, Any]) -> str:
    rows = "".join(f"<dt>{html.escape(str(k))}</dt><dd>{html.escape(str(v))}</dd>" for k, v in entries.items())
    return f"<footer><dl>{rows}</dl></footer>"
