"""The planner: its choice is visible, covered by cases, and agrees with the plain path within the derived bound."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS
from gankernels.geometry import ConvGeometry, conv_geometry
from gankernels.ops.conv_plan import plan
from gankernels.testing import bounds
from gankernels.testing.cases import Case, cases

pytestmark = pytest.mark.cpu_only
GATHERS = {"batch", "rows", "channels"}
PATHS = {"y": GATHERS, "x": GATHERS, "w": {"batch", "channels"}}
CONVOLUTIONS = [c for op in ("conv", "conv_transpose") for c in cases(op)]
FFT_BOUNDS = {
    "y": bounds.fft_conv_bound,
    "x": bounds.fft_conv_transpose_bound,
    "w": bounds.fft_conv_weight_bound,
}
BOUNDS = {"y": bounds.conv_bound, "x": bounds.conv_transpose_bound, "w": bounds.conv_weight_bound}


def geometry_of(case: Case) -> ConvGeometry:
    g = case.geometry
    assert isinstance(g, ConvGeometry)
    return g


def draw(g: ConvGeometry, integers: bool = False) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    shapes = {"x": g.x_shape, "w": g.w_shape, "y": g.y_shape}
    if integers:
        return {name: rng.integers(-3, 4, s).astype(np.float32) for name, s in shapes.items()}
    return {name: rng.standard_normal(s, dtype=np.float32) for name, s in shapes.items()}


def run(g: ConvGeometry, slot: str, arrays: dict[str, Any], algorithm: str) -> Any:
    out = np.full_like(arrays[slot], np.nan)
    kernel = {"y": cpu.conv, "x": cpu.conv_transpose, "w": cpu.conv_weight}[slot]
    first, second = {"y": ("x", "w"), "x": ("y", "w"), "w": ("x", "y")}[slot]
    kernel(arrays[first], arrays[second], out, g.pod, CONV_ALGORITHMS[algorithm])
    return out


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("algorithm", ["auto", "direct", "fast", "measured", "measured_fast"])
@pytest.mark.parametrize("case", CONVOLUTIONS, ids=lambda c: f"{c.op} {c.name}")
def test_the_chosen_path_and_the_plain_one_agree_within_their_bounds(case: Case, algorithm: str, slot: str) -> None:
    g = geometry_of(case)
    arrays = draw(g)
    first, second = {"y": ("x", "w"), "x": ("y", "w"), "w": ("x", "y")}[slot]
    limit = 2 * BOUNDS[slot](arrays[first], arrays[second], g, np.float32)
    got = run(g, slot, arrays, algorithm)  # before the plan: a measured one is known after the first call
    if plan(g, slot, CONV_ALGORITHMS[algorithm]).path == "fft":
        limit = limit + FFT_BOUNDS[slot](arrays[first], arrays[second], g, np.float32)
    bounds.assert_close(got, run(g, slot, arrays, "im2col"), limit, f"{slot} of {case.name}")


def test_the_cases_cover_every_choice_in_every_slot() -> None:
    chosen: dict[str, set[str]] = {slot: set() for slot in "yxw"}
    for case in CONVOLUTIONS:
        for slot in chosen:
            path = plan(geometry_of(case), slot, CONV_ALGORITHMS["auto"]).path
            chosen[slot].add(path)
            assert plan(geometry_of(case), slot, CONV_ALGORITHMS["direct"]).path == path, case.name
    assert chosen == PATHS


@pytest.mark.parametrize(
    ("x", "w", "options", "slot", "path"),
    [
        ((16, 512, 8, 8), (1024, 512, 4, 4), {"stride": 2, "padding": 1}, "y", "channels"),
        ((16, 512, 8, 8), (1024, 512, 4, 4), {"stride": 2, "padding": 1}, "w", "channels"),
        ((1, 8, 7, 7, 8), (64, 8, 6, 6, 8), {"padding": "same"}, "y", "channels"),
        ((1, 8, 7, 7, 8), (64, 8, 6, 6, 8), {"padding": "same"}, "w", "channels"),
        ((64, 8, 25, 25, 25), (8, 8, 5, 5, 5), {"padding": 2}, "y", "batch"),
        ((64, 8, 25, 25, 25), (8, 8, 5, 5, 5), {"padding": 2}, "x", "batch"),
        ((64, 6, 26, 26, 26), (1, 6, 2, 2, 2), {}, "y", "rows"),
        ((1, 8, 25, 25, 25), (8, 8, 5, 5, 5), {"padding": 2}, "y", "rows"),
        ((1, 6, 26, 26, 26), (1, 6, 2, 2, 2), {}, "x", "rows"),
    ],
)
def test_wide_layers_put_channels_in_the_lanes_narrow_ones_images_and_few_images_places(
    x: tuple[int, ...], w: tuple[int, ...], options: dict[str, Any], slot: str, path: str
) -> None:
    found = gk.conv_plan(x, w, slot=slot, **options)
    assert found.path == path
    assert {"batch", "channels"} <= set(found.costs) <= PATHS[slot]
    assert path in str(found)


def test_few_positions_read_large_weights_where_they_lie() -> None:
    g = conv_geometry("test", (1, 512, 8, 8), (1024, 512, 4, 4), 2, 1, 1, 1)
    assert plan(g, "x", CONV_ALGORITHMS["auto"]).path == "im2col"
    arrays = draw(g, integers=True)
    np.testing.assert_array_equal(run(g, "x", arrays, "auto"), run(g, "x", arrays, "channels"))
    assert gk.conv_plan((64, 512, 8, 8), (1024, 512, 4, 4), stride=2, padding=1, slot="x").path == "channels"
    assert gk.conv_plan((1, 128, 8, 8), (256, 128, 4, 4), stride=2, padding=1, slot="x").path == "im2col"
    assert gk.conv_plan((1, 128, 16, 16), (256, 128, 4, 4), stride=2, padding=1, slot="x").path == "channels"


def test_a_path_asked_for_by_name_is_taken() -> None:
    for name in ("batch", "rows", "channels", "im2col", "fft"):
        found = gk.conv_plan((16, 4, 9, 9), (4, 4, 3, 3), algorithm=name)
        assert found.path == name
        assert "asked for" in found.why
    dilated = gk.conv_plan((16, 4, 9, 9), (4, 4, 3, 3), dilation=2, algorithm="fft")
    assert dilated.path in PATHS["y"]
    assert "fft was asked for and does not cover" in dilated.why
    strided = gk.conv_plan((16, 4, 9, 9), (4, 4, 3, 3), stride=2, slot="x", algorithm="rows")
    assert strided.path in {"batch", "channels"}
    assert "rows was asked for and does not cover" in strided.why


def test_a_measured_choice_is_remembered_and_computes_the_same_sums() -> None:
    g = geometry_of(next(c for c in CONVOLUTIONS if c.name == "2d wide, few positions"))
    arrays = draw(g, integers=True)
    for slot in "yxw":
        want = run(g, slot, arrays, "im2col")
        np.testing.assert_array_equal(run(g, slot, arrays, "measured"), want)
        first = plan(g, slot, CONV_ALGORITHMS["measured"]).path
        assert first in PATHS[slot]
        np.testing.assert_array_equal(run(g, slot, arrays, "measured"), want)
        assert plan(g, slot, CONV_ALGORITHMS["measured"]).path == first


def test_the_log_says_once_for_every_geometry_which_path_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    x, w = gk.randn(2, 3, 11, 7), gk.randn(5, 3, 3, 2)
    gk.ops.conv(x, w)
    assert not caplog.records
    with caplog.at_level(logging.DEBUG, "gankernels.conv"):
        gk.ops.conv(x, w)
        gk.ops.conv(x, w)
    assert len(caplog.records) == 1
    assert "(2, 3, 11, 7)" in caplog.text
    assert "multiply-adds" in caplog.text


def test_a_wrong_slot_algorithm_or_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="slot"):
        gk.conv_plan((1, 1, 4), (1, 1, 2), slot="z")
    with pytest.raises(ValueError, match="algorithm"):
        gk.conv_plan((1, 1, 4), (1, 1, 2), algorithm="guess")
    with pytest.raises(ValueError, match="conv_plan"):
        gk.conv_plan((1, 1, 4), (1, 2, 2))
