"""Native kernels of locally connected convolutions against a float64 loop over taps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conv_problems import EMPTY, Problem, assert_views_serve, fill, geometries, geometry
from hypothesis import given, settings
from hypothesis import strategies as st

from gankernels import _cpu
from gankernels.geometry import ConvGeometry

pytestmark = pytest.mark.cpu_only


@settings(max_examples=40, deadline=None)
@given(g=geometries(largest=6), seed=st.integers(0, 99))
def test_unshared_weights_are_right_in_every_slot(g: ConvGeometry, seed: int) -> None:
    p = fill(g, seed=seed, integers=True, local=True)
    for slot in "yxw":
        np.testing.assert_array_equal(p.run(slot), p.expected(slot).astype(np.float32), err_msg=f"{slot} {g}")


UNSHARED = {
    "groups": geometry((1, 4, 5, 6), (6, 2, 3, 2), groups=2, padding=1, stride=(1, 2)),
    "groups of one channel": geometry((1, 18, 3, 4), (18, 1, 2, 2), groups=18),
    "many channels": geometry((1, 19, 3, 4), (21, 19, 2, 3), padding=1),
    "one input channel": geometry((1, 1, 4, 5), (18, 1, 3, 2), padding=(0, 1)),
    "one output channel": geometry((1, 18, 4, 5), (1, 18, 3, 2), dilation=(1, 2)),
    "one position": geometry((1, 3, 2, 2), (5, 3, 2, 2)),
    "padding alone": geometry((1, 2, 3), (3, 2, 2), padding=4, stride=2),
}


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("name", UNSHARED)
def test_unshared_weights_are_right_for_any_batch(slot: str, name: str, restore_knobs: None) -> None:
    for batch in (1, 3, 7, 16, 25, 150):
        p = fill(replace(UNSHARED[name], batch=batch), integers=True, local=True)
        want = p.expected(slot)
        for isa in _cpu.isa_present():
            _cpu.set_isa(isa)
            for dtype in (np.float32, np.float64):
                q = Problem(p.g, p.x.astype(dtype), p.w.astype(dtype), p.y.astype(dtype), True)
                np.testing.assert_array_equal(q.run(slot), want, err_msg=f"{isa} {batch} {dtype.__name__}")


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("batch", [2, 40])
def test_unshared_weights_give_the_same_bits_on_any_number_of_threads(
    slot: str, batch: int, restore_knobs: None
) -> None:
    p = fill(replace(UNSHARED["many channels"], batch=batch), local=True)
    results = []
    for threads in (1, 2, 3):
        _cpu.set_num_threads(threads)
        results.append(p.run(slot))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("batch", [2, 20])
def test_unshared_weights_of_any_strides_are_read_and_written(slot: str, batch: int) -> None:
    assert_views_serve(fill(replace(UNSHARED["groups"], batch=batch), integers=True, local=True), slot)


@pytest.mark.parametrize("g", EMPTY.values(), ids=EMPTY)
@pytest.mark.parametrize("slot", ["y", "x", "w"])
def test_unshared_weights_of_zero_sizes_give_zeros(g: ConvGeometry, slot: str) -> None:
    p = fill(g, local=True)
    np.testing.assert_array_equal(p.run(slot), p.expected(slot).astype(np.float32))
