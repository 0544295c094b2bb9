"""The report's figures: Monte Carlo in grey, generated showers in blue, ratios below, as SVG text.

Each function returns one SVG document. matplotlib is used without pyplot, and its global settings are left as found.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gankernels._extras import require
from gankernels.calo.histograms import Histogram, poisson_interval, ratio
from gankernels.calo.observables import Profile

__all__ = [
    "correlation_figure",
    "depth_figure",
    "histogram_figure",
    "image_figure",
    "profile_figure",
    "response_figure",
    "roc_figure",
    "sample_figure",
]

Array = NDArray[Any]

REFERENCE_FILL, REFERENCE_LINE, GENERATED, BAND = "#dcdcdc", "#8a8a8a", "#1659a6", "#bdbdbd"

#: Everything that differs from matplotlib's defaults; the user's own settings do not reach the report.
_STYLE: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "axes.linewidth": 0.7,
    "axes.titlesize": 9.0,
    "axes.titlelocation": "left",
    "axes.formatter.limits": (-3, 4),
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "xtick.labelsize": 8.0,
    "ytick.labelsize": 8.0,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
    "svg.hashsalt": "gankernels",
}

_WIDE = 10.2  # inches; the page is as wide
_NARROW = 4.4
_MARGINS = {"left": 0.15, "right": 0.98, "top": 0.93, "bottom": 0.12, "hspace": 0.12}


def _drawing(draw: Callable[[Any], None], size: tuple[float, float]) -> str:
    """Run `draw(figure)` with the report's style and return the SVG."""
    matplotlib = require("matplotlib", extra="calo", purpose="drawing the report")
    figure_module = require("matplotlib.figure", extra="calo", purpose="drawing the report")
    canvas_module = require("matplotlib.backends.backend_svg", extra="calo", purpose="drawing the report")
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = figure_module.Figure(figsize=size, layout="constrained" if size[0] == _WIDE else None)
        canvas = canvas_module.FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        canvas.print_svg(out, metadata={"Date": None})
    return out.getvalue()


def histogram_figure(
    reference: Histogram,
    generated: Histogram,
    *,
    label: str,
    note: str = "",
    log_x: bool = False,
    log_y: bool = False,
    per: str = "showers",
    reference_error: Array | None = None,
    generated_error: Array | None = None,
) -> str:
    """Step histograms normalised to their entries, with Poisson bands and the ratio below.

    Parameters
    ----------
    reference, generated : Histogram
        With the same edges.
    label, note : str
        Label of the x axis with its unit; text above the figure.
    per : str
        What is counted.
    reference_error, generated_error : array (n,), optional
        Errors of the counts in place of Poisson's, for entries that are not independent.
    """

    def draw(figure: Any) -> None:
        main, below = _two_panels(figure)
        edges, r, g = reference.edges, reference.density, generated.density
        r_low, r_high = _band(reference, reference_error)
        g_low, g_high = _band(generated, generated_error)
        main.stairs(r, edges, fill=True, color=REFERENCE_FILL)
        main.stairs(r, edges, color=REFERENCE_LINE, linewidth=0.8, label="Monte Carlo")
        main.stairs(r_high, edges, baseline=r_low, fill=True, color=BAND, alpha=0.5, linewidth=0)
        main.stairs(g_high, edges, baseline=g_low, fill=True, color=GENERATED, alpha=0.18, linewidth=0)
        main.stairs(g, edges, color=GENERATED, linewidth=1.4, label="Generated")
        main.set_ylabel(f"Fraction of {per}")
        peak = max(float(r.max()), float(g.max()), 1e-9)
        if log_y:
            positive = np.concatenate([r[r > 0], g[g > 0]])
            floor = 0.5 * float(positive.min()) if len(positive) else 1e-3
            main.set_yscale("log")
            main.set_ylim(floor, peak * (peak / floor) ** 0.3)
        else:
            main.set_ylim(0.0, 1.3 * peak)
        outside = _outside(reference, "MC") + _outside(generated, "generated")
        _head(main, note, "; ".join(outside))
        _ratio_panel(below, edges, *_ratio_values(reference, generated, (r_low, r_high), (g_low, g_high)))
        if log_x:
            main.set_xscale("log")
            if edges[-1] > 10.0 * edges[0]:
                below.xaxis.set_minor_formatter("")
        main.set_xlim(edges[0], edges[-1])
        below.set_xlabel(label)

    return _drawing(draw, (_NARROW, 3.7))


def profile_figure(reference: Profile, generated: Profile, *, note: str = "", log_y: bool = False) -> str:
    """Mean energy per slice of two samples with the standard errors of the means, and the ratio below."""

    def draw(figure: Any) -> None:
        main, below = _two_panels(figure)
        edges, r, g = reference.edges, reference.mean_gev, generated.mean_gev
        middle = 0.5 * (edges[1:] + edges[:-1])
        main.stairs(r, edges, fill=True, color=REFERENCE_FILL)
        main.stairs(r, edges, color=REFERENCE_LINE, linewidth=0.8, label="Monte Carlo")
        main.stairs(g, edges, color=GENERATED, linewidth=1.4, label="Generated")
        main.errorbar(middle, g, generated.error_gev, fmt="none", ecolor=GENERATED, elinewidth=0.8)
        main.set_ylabel("Mean energy per slice [GeV]")
        both = np.concatenate([r[r > 0], g[g > 0]])
        if log_y and len(both):
            low, high = float(both.min()), float(both.max())
            low = max(low, 1e-7 * high)
            main.set_yscale("log")
            main.set_ylim(0.5 * low, high * (high / low) ** 0.3)
        else:
            main.set_ylim(0.0, 1.3 * max(float(r.max()), float(g.max()), 1e-12))
        _head(main, note, "")
        with np.errstate(divide="ignore", invalid="ignore"):
            scale = np.where(r > 0, r, np.nan)
            value, error, band = g / scale, generated.error_gev / scale, reference.error_gev / scale
        _ratio_panel(below, edges, value, value - error, value + error, 1.0 - band, 1.0 + band)
        main.set_xlim(edges[0], edges[-1])
        below.set_xlabel(reference.label)

    return _drawing(draw, (_NARROW, 3.7))


def depth_figure(edges: Array, label: str, curves: Sequence[tuple[str, Array, Array]]) -> str:
    """Longitudinal profiles (n,) of unit sum in bins of incident energy: Monte Carlo filled points, generated lines.

    Parameters
    ----------
    curves : sequence of (caption, reference, generated)
    """

    def draw(figure: Any) -> None:
        main, below = _two_panels(figure)
        middle = 0.5 * (edges[1:] + edges[:-1])
        shades = ["#9cc3ea", "#5596d3", GENERATED, "#0b2f5c"]
        for k, (caption, r, g) in enumerate(curves):
            colour = shades[k * (len(shades) - 1) // max(len(curves) - 1, 1)]
            main.plot(middle, r, "o", ms=2.6, color=colour, markeredgewidth=0)
            main.stairs(g, edges, color=colour, linewidth=1.2, label=caption)
            with np.errstate(divide="ignore", invalid="ignore"):
                below.plot(middle, np.where(r > 0, g / np.where(r > 0, r, 1.0), np.nan), color=colour, linewidth=1.1)
        main.set_ylim(bottom=0.0)
        main.set_ylabel("Fraction of the energy")
        main.legend(loc="upper right", fontsize=7, title="points: Monte Carlo", title_fontsize=7)
        below.axhline(1.0, color=REFERENCE_LINE, linewidth=0.8)
        below.set_ylim(0.5, 1.5)
        below.set_ylabel("Gen. / MC")
        below.set_xlabel(label)
        main.set_xlim(edges[0], edges[-1])

    return _drawing(draw, (_NARROW, 3.7))


def image_figure(
    reference: Array, generated: Array, edges: tuple[Array, Array], labels: tuple[str, str], *, decades: float = 5.0
) -> str:
    """Mean energy projected on two axes: Monte Carlo, generated and their ratio, side by side.

    Parameters
    ----------
    reference, generated : array (n, m)
        Mean energies in GeV; the first axis is drawn to the right.
    edges, labels : pairs
        Cell edges and label of both axes.
    decades : float
        Range of the logarithmic colour scale.
    """

    def draw(figure: Any) -> None:
        colors = require("matplotlib.colors", extra="calo", purpose="drawing the report")
        axes = figure.subplots(1, 3, sharex=True, sharey=True)
        top = max(float(reference.max()), float(generated.max()), 1e-12)
        norm = colors.LogNorm(top * 10.0**-decades, top)
        for ax, image, title in zip(axes, (reference, generated), ("Monte Carlo", "Generated"), strict=False):
            mesh = ax.pcolormesh(*edges, np.clip(image.T, norm.vmin, None), norm=norm, rasterized=True)
            ax.set_title(title)
            ax.set_xlabel(labels[0])
        axes[0].set_ylabel(labels[1])
        figure.colorbar(mesh, ax=axes[:2], label="Mean energy [GeV]", pad=0.02, aspect=28)
        seen = (reference > norm.vmin) | (generated > norm.vmin)
        quotient = np.where(seen, np.clip(generated, norm.vmin, None) / np.clip(reference, norm.vmin, None), np.nan)
        mesh = axes[2].pcolormesh(*edges, quotient.T, cmap="RdBu_r", norm=colors.LogNorm(0.5, 2.0), rasterized=True)
        axes[2].set_title("Generated / Monte Carlo")
        axes[2].set_xlabel(labels[0])
        bar = figure.colorbar(mesh, ax=axes[2], extend="both", pad=0.04, aspect=28)
        bar.set_ticks([0.5, 0.7, 1.0, 1.4, 2.0], labels=["0.5", "0.7", "1", "1.4", "2"])
        bar.ax.minorticks_off()

    return _drawing(draw, (_WIDE, 3.0))


def sample_figure(
    reference: Sequence[tuple[str, Array]],
    generated: Sequence[tuple[str, Array]],
    edges: tuple[Array, Array],
    labels: tuple[str, str],
) -> str:
    """Single showers, Monte Carlo above generated ones, each a projection (n, m) in GeV with a caption."""

    def draw(figure: Any) -> None:
        colors = require("matplotlib.colors", extra="calo", purpose="drawing the report")
        axes = figure.subplots(2, len(reference), sharex=True, sharey=True, squeeze=False)
        top = max(float(image.max()) for _, image in (*reference, *generated))
        norm = colors.LogNorm(max(top, 1e-12) * 1e-5, max(top, 1e-12))
        for row, (name, showers) in enumerate((("Monte Carlo", reference), ("Generated", generated))):
            for ax, (caption, image) in zip(axes[row], showers, strict=True):
                mesh = ax.pcolormesh(*edges, np.where(image > norm.vmin, image, np.nan).T, norm=norm, rasterized=True)
                ax.set_facecolor("#f4f4f4")
                ax.set_title(caption)
                if row == 1:
                    ax.set_xlabel(labels[0])
            axes[row, 0].set_ylabel(f"{name}\n{labels[1]}")
        figure.colorbar(mesh, ax=axes, label="Energy [GeV]", pad=0.015, aspect=40)

    return _drawing(draw, (_WIDE, 4.8))


def correlation_figure(reference: Array, generated: Array, names: Sequence[str]) -> str:
    """Correlation matrices (k, k) side by side, and generated - Monte Carlo."""

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, 3, sharey=True)
        k = len(names)
        for ax, matrix, title in zip(
            axes,
            (reference, generated, generated - reference),
            ("Monte Carlo", "Generated", "Difference"),
            strict=True,
        ):
            mesh = ax.imshow(matrix, cmap="RdBu_r", vmin=-1.0, vmax=1.0)
            ax.set_title(title)
            ax.set_xticks(range(k), names, rotation=90, fontsize=7)
            ax.set_yticks(range(k), names, fontsize=7)
            ax.tick_params(length=0)
        figure.colorbar(mesh, ax=axes, label="Correlation", pad=0.015, aspect=30, shrink=0.85)

    return _drawing(draw, (_WIDE, 3.9))


def response_figure(centres_gev: Array, widths_gev: Array, reference: Array, generated: Array, log_x: bool) -> str:
    """Mean response in bins of incident energy with its standard error (above) and relative resolution (below).

    Parameters
    ----------
    centres_gev, widths_gev : array (k,)
        Mean incident energy and half width of the bins, GeV.
    reference, generated : array (k, 4)
        Mean, its error, resolution and its error.
    """

    def draw(figure: Any) -> None:
        above, below = figure.subplots(2, 1, sharex=True)
        figure.subplots_adjust(**_MARGINS)
        for ax, column, label in ((above, 0, "Mean response"), (below, 2, "Resolution σ / mean")):
            for rows, colour, marker, name in (
                (reference, "#6e6e6e", "s", "Monte Carlo"),
                (generated, GENERATED, "o", "Generated"),
            ):
                y, error = rows[:, column], rows[:, column + 1]
                ax.errorbar(centres_gev, y, error, widths_gev, fmt=marker, ms=4, color=colour, elinewidth=1, label=name)
            ax.set_ylabel(label)
            ax.margins(y=0.3)
        below.set_ylim(bottom=0.0)
        if log_x:
            below.set_xscale("log")
        _head(above, "", "")
        below.set_xlabel("Incident energy [GeV]")

    return _drawing(draw, (_NARROW, 3.7))


def roc_figure(false_positive: Array, true_positive: Array, *, note: str) -> str:
    """ROC curve of the classifier; the diagonal is a classifier that cannot tell."""

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        figure.subplots_adjust(**_MARGINS)
        ax.fill_between(false_positive, false_positive, true_positive, color=GENERATED, alpha=0.12, linewidth=0)
        ax.plot([0, 1], [0, 1], color=REFERENCE_LINE, linewidth=1, linestyle="--", label="indistinguishable")
        ax.plot(false_positive, true_positive, color=GENERATED, linewidth=1.5, label="classifier")
        ax.set_xlim(0, 1)
        ax.set_ylim(0, 1)
        ax.set_aspect("equal")
        ax.set_xlabel("Monte Carlo showers called generated")
        ax.set_ylabel("Generated showers called generated")
        ax.set_title(note)
        ax.legend(loc="lower right")

    return _drawing(draw, (_NARROW, 3.7))


def _two_panels(figure: Any) -> tuple[Any, Any]:
    """The main panel and the ratio below; fixed margins, because laying out by trial doubles the time of a figure."""
    main, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    figure.subplots_adjust(**_MARGINS)
    return main, below


def _head(ax: Any, note: str, outside: str) -> None:
    ax.set_title(note, fontsize=8, color="#444444")
    ax.legend(loc="upper right", ncols=2, handlelength=1.4, columnspacing=1.2, borderaxespad=0.3)
    if outside:
        ax.text(0.02, 0.86, outside, transform=ax.transAxes, fontsize=7, color="#444444", va="top")


def _outside(h: Histogram, name: str) -> list[str]:
    out = []
    for count, where in ((h.underflow, "left"), (h.overflow, "right")):
        share = count / max(h.entries, 1)
        if share >= 0.005:
            out.append(f"{name}: {100 * share:.2g} % off {where}")
    return out


def _band(h: Histogram, error: Array | None) -> tuple[Array, Array]:
    """Interval of the density of each bin, from Poisson statistics unless the errors of the counts are given."""
    low, high = poisson_interval(h.counts) if error is None else (h.counts - error, h.counts + error)
    return np.clip(low, 0.0, None) / max(h.entries, 1), high / max(h.entries, 1)


def _ratio_values(
    reference: Histogram, generated: Histogram, r_band: tuple[Array, Array], g_band: tuple[Array, Array]
) -> tuple[Array, Array, Array, Array, Array]:
    value, _, _ = ratio(generated, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(reference.counts > 0, reference.density, np.nan)
        return value, g_band[0] / scale, g_band[1] / scale, r_band[0] / scale, r_band[1] / scale


def _ratio_panel(ax: Any, edges: Array, value: Array, low: Array, high: Array, r_low: Array, r_high: Array) -> None:
    """Points with errors around one, the reference's own error as a band; triangles where a point is off the panel."""
    middle = 0.5 * (edges[1:] + edges[:-1])
    good = np.isfinite(value)
    precise = good & (high - low < 0.6)
    spread = float(np.quantile(np.abs(value[precise] - 1.0), 0.9)) if precise.any() else 1.0
    half = next((h for h in (0.1, 0.2, 0.5) if spread < 0.7 * h), 1.0)
    bottom, top = 1.0 - half, 1.0 + half
    known = np.isfinite(r_low)
    ax.stairs(
        np.where(known, r_high, 1.0), edges, baseline=np.where(known, r_low, 1.0), fill=True, color=BAND, alpha=0.6
    )
    ax.axhline(1.0, color=REFERENCE_LINE, linewidth=0.8)
    inside = good & (value >= bottom) & (value <= top)
    errors = np.clip([value - low, high - value], 0.0, None)
    ax.errorbar(
        middle[inside], value[inside], errors[:, inside], fmt="o", ms=2.4, color=GENERATED, elinewidth=0.8, clip_on=True
    )
    for off, marker, y in (
        (good & (value > top), "^", top - 0.08 * half),
        (good & (value < bottom), "v", bottom + 0.08 * half),
    ):
        ax.plot(middle[off], np.full(int(off.sum()), y), marker, ms=3.2, color=GENERATED, linestyle="none")
    ax.set_ylim(bottom, top)
    ax.set_ylabel("Gen. / MC")
