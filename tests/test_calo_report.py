"""The validation report: what it says, what it refuses, and that one file holds all of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gankernels.calo.figures import roc_figure
from gankernels.calo.showers import Grid, Showers
from gankernels.calo.validate import validate

matplotlib = pytest.importorskip("matplotlib")
pytestmark = pytest.mark.cpu_only  # of NumPy and Matplotlib; test_calo_classifier.py runs on devices

GRID = Grid((7, 7, 9))
CYLINDER = Grid(
    (9, 8, 5),
    ("z", "alpha", "r"),
    (tuple(np.arange(10) * 3.4), tuple(np.linspace(0, 2 * np.pi, 9)), tuple(np.arange(6) * 4.65)),
    ("mm", "rad", "mm"),
)


def toy_showers(n: int, seed: int, *, scale: float = 1.0, grid: Grid = GRID, low: float = 10.0) -> Showers:
    """Smooth blobs with fluctuations; enough for a report."""
    rng = np.random.default_rng(seed)
    energy = rng.uniform(low, 10 * low, n)
    blob = np.ones(grid.shape)
    for axis, cells in enumerate(grid.shape):
        t = (np.arange(cells) + 0.5) / cells
        blob *= np.exp(-8.0 * (t - 0.45) ** 2).reshape([-1 if a == axis else 1 for a in range(3)])
    mean = energy[:, None, None, None] * 0.02 * scale * blob / blob.sum()
    cells_gev = rng.poisson(mean * 3e3) / 3e3 * rng.normal(1.0, 0.03, (n, 1, 1, 1))
    return Showers(cells_gev.astype(np.float32), energy.astype(np.float32), grid)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any]]:
    out = tmp_path_factory.mktemp("report")
    result = validate(
        toy_showers(120, 1, scale=1.1),
        toy_showers(150, 2),
        out_dir=out / "new",
        title="Toy <showers> & more",
        classifier=False,
        provenance={"date": "2026-01-02", "files": "a<b>.h5"},
    )
    assert result.html_path == out / "new" / "report.html"
    assert result.json_path is not None
    assert sorted(p.name for p in (out / "new").iterdir()) == ["report.html", "report.json"]
    return result.html_path.read_text(encoding="utf-8"), json.loads(result.json_path.read_text(encoding="utf-8"))


def test_the_html_needs_no_network_and_no_scripts(written: tuple[str, dict[str, Any]]) -> None:
    text = written[0]
    for forbidden in ("http", "<script", "<link", "url(", "@import", "//"):
        visible = re.sub(r"base64,[A-Za-z0-9+/=]*", "", text)
        assert forbidden not in visible
    sources = re.findall(r'src="([^"]{0,30})', text)
    assert len(sources) > 20
    assert all(s.startswith("data:image/svg+xml;base64,") for s in sources)


def test_the_html_is_complete_and_escapes_what_it_was_given(written: tuple[str, dict[str, Any]]) -> None:
    text = written[0]
    assert "Toy &lt;showers&gt; &amp; more" in text
    assert "a&lt;b&gt;.h5" in text
    for heading in (
        "Summary",
        "Response in bins of incident energy",
        "Shower shape",
        "Mean showers",
        "All observables",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert "Monte Carlo floor" in text
    assert "nan" not in re.sub(r"base64,[A-Za-z0-9+/=]*", "", text).lower()


def test_the_json_holds_every_number_with_error_floor_and_provenance(written: tuple[str, dict[str, Any]]) -> None:
    data = written[1]
    assert data["format"] == "gankernels-validation-1"
    for metric in data["metrics"]:
        assert {"name", "value", "error", "floor", "floor_error", "verdict"} <= set(metric)
    assert len(data["energy_bins"]) == 4
    assert sum(b["reference"]["events"] for b in data["energy_bins"]) == 150
    assert data["provenance"]["reference showers"] == 150
    assert data["provenance"]["date"] == "2026-01-02"
    assert sum(data["verdicts"].values()) == len(data["metrics"])


def test_ten_per_cent_more_energy_is_measured_and_called_different(written: tuple[str, dict[str, Any]]) -> None:
    bias = next(m for m in written[1]["metrics"] if m["name"] == "bias/all")
    assert not abs(bias["value"] - 0.1) > 4.0 * bias["error"]
    assert bias["verdict"] == "differs"


def test_a_small_sample_is_noted(written: tuple[str, dict[str, Any]]) -> None:
    assert any("floors and errors are large" in w for w in written[1]["warnings"])


def test_the_same_seed_gives_the_same_numbers_and_the_same_figures() -> None:
    results = [validate(toy_showers(40, 1), toy_showers(40, 2), classifier=False, seed=5) for _ in range(2)]
    assert results[0].to_dict() == results[1].to_dict()
    pictures = [roc_figure(np.array([0.0, 1.0]), np.array([0.0, 1.0]), note="AUC 0.5") for _ in range(2)]
    assert pictures[0] == pictures[1]


def test_cylinders_have_a_report_too_and_matplotlib_is_left_as_found(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    result = validate(
        toy_showers(40, 1, grid=CYLINDER), toy_showers(40, 2, grid=CYLINDER), out_dir=tmp_path, classifier=False
    )
    assert result.html_path is not None
    text = result.html_path.read_text(encoding="utf-8")
    assert "Mean α [rad]" in text
    assert "Energy fraction in the innermost ring" in text
    assert dict(matplotlib.rcParams) == before


def test_a_collapsed_generator_still_gets_a_report(tmp_path: Path) -> None:
    generated = toy_showers(40, 1)
    empty = Showers(np.zeros_like(generated.cells_gev), generated.energy_gev, GRID)
    result = validate(empty, toy_showers(40, 2), out_dir=tmp_path, classifier=False)
    assert not result.score < 0.8
    assert any("40 of 40 generated showers are empty" in w for w in result.warnings)
    constant = Showers(np.repeat(generated.cells_gev[:1], 40, axis=0), generated.energy_gev, GRID)
    assert validate(constant, toy_showers(40, 2), out_dir=tmp_path, classifier=False).html_path is not None


def test_without_an_output_nothing_is_written(tmp_path: Path) -> None:
    result = validate(
        toy_showers(40, 1), toy_showers(40, 2), classifier=False, energy_bins=np.array([10.0, 50.0, 100.0])
    )
    assert result.html_path is None
    assert [b.high_gev for b in result.energy_bins] == [50.0, 100.0]
    json.dumps(result.to_dict(), allow_nan=False)


def test_what_a_reader_must_know_is_said() -> None:
    reference = toy_showers(60, 2)
    low = reference[np.argsort(reference.energy_gev)[:30]]
    warnings = " ".join(validate(low, reference, classifier=False).warnings)
    assert "distributed differently" in warnings
    assert "30 of 30 generated showers are Monte Carlo showers of the reference" in warnings
    generated = toy_showers(60, 1)
    generated.cells_gev[0, 0, 0, 0] = -1e-3
    generated.cells_gev[:, 0, 0, 0] += 1e-4
    warnings = " ".join(validate(generated, reference, classifier=False, threshold_gev=1e-3).warnings)
    assert "cells of the generated showers are negative" in warnings
    assert "below the threshold" in warnings
    assert "showers of the reference" not in warnings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generated": toy_showers(40, 1, grid=CYLINDER)}, "both must be the same"),
        ({"generated": toy_showers(40, 1, low=1000.0)}, "do not overlap"),
        ({"generated": toy_showers(5, 1)}, "5 generated showers, expected at least 20"),
        ({"energy_bins": 0}, "energy_bins must be at least 1"),
        ({"energy_bins": np.array([3.0, 2.0])}, "rising edges"),
        ({"classifier": "deep"}, "classifier must be"),
        ({"out_dir": "a", "out_html": "b"}, "not both"),
        ({"out_html": "a.json"}, "must not end in .json"),
    ],
)
def test_wrong_use_is_refused_with_a_reason(change: dict[str, Any], message: str) -> None:
    arguments = {"generated": toy_showers(40, 1), "reference": toy_showers(40, 2), "classifier": False, **change}
    with pytest.raises(ValueError, match=message):
        validate(**arguments)


def test_nan_cells_and_different_edges_are_refused_by_name() -> None:
    generated, reference = toy_showers(40, 1, grid=CYLINDER), toy_showers(40, 2, grid=CYLINDER)
    assert CYLINDER.edges is not None
    other = Grid(CYLINDER.shape, CYLINDER.axes, (*CYLINDER.edges[:2], tuple(np.arange(6) * 5.0)), CYLINDER.units)
    with pytest.raises(ValueError, match="cell edges along r differ"):
        validate(Showers(generated.cells_gev, generated.energy_gev, other), reference, classifier=False)
    generated.cells_gev[7] = np.nan
    with pytest.raises(ValueError, match=r"generated showers cannot be measured.*shower 7"):
        validate(generated, reference, classifier=False)


@pytest.mark.much_work(flops=10**9)
def test_the_classifier_adds_its_row_and_its_curve(tmp_path: Path) -> None:
    result = validate(toy_showers(60, 1, scale=1.3), toy_showers(60, 2), out_dir=tmp_path)
    assert result.by_name["auc/high"].value > 0.7
    assert result.html_path is not None
    assert "<h2>Classifier</h2>" in result.html_path.read_text(encoding="utf-8")
    low = validate(toy_showers(40, 1), toy_showers(40, 2), classifier="low")
    assert not abs(low.by_name["auc/low"].value - 0.5) > 0.35
