"""Products of factors rounded to bfloat16, on every instruction set: values, rounding of special numbers, equal bits.

The reference rounds the operands here and multiplies in float64. Products of 8-bit significands are exact in float32,
so what is left are the additions: K products meet at most K + 1 of them (pairs are added first or one after the other,
parts of a sum at the end), each off by at most u = 2^-24 of the magnitudes met so far: gamma_{K+2} * sum of |x||w|, the
bound of float32 sums. It is doubled for the products of pairs, whose rounding of the inner sum the processors' manuals
leave open, and 2^-126 is added for each factor that a processor takes for zero because it is subnormal.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cpu
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry
from gankernels.ops.conv_plan import plan
from gankernels.testing import oracle
from gankernels.testing.bounds import (
    assert_close,
    assert_same_bits,
    conv_bound,
    conv_transpose_bound,
    conv_weight_bound,
    matmul_bound,
)
from gankernels.testing.cases import cases

pytestmark = pytest.mark.usefixtures("restore_knobs")
BF16, AUTO, FAST = (CONV_ALGORITHMS[name] for name in ("bf16", "bf16_auto", "bf16_fast"))
FULL, HALF = MATMUL_PRECISIONS["full"], MATMUL_PRECISIONS["bf16"]


def rounded(x: Any) -> Any:
    """float32 to the nearest bfloat16, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    nearest = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(x), np.float32(np.nan), nearest).reshape(x.shape)


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


GEOMETRIES = {
    **{str(case): case.geometry for case in cases("conv", "edge")},
    "wide": geometry((3, 70, 6, 7), (75, 70, 3, 3), padding=1),
    "wide, strided groups": geometry((2, 82, 9, 8), (72, 41, 3, 4), stride=2, padding=(2, 1), groups=2),
    "wide, dilated": geometry((1, 35, 4, 9, 7), (50, 35, 2, 3, 2), dilation=(1, 2, 3), padding=(1, 2, 0)),
    "few outputs, odd channels": geometry((3, 37, 5, 4), (4, 37, 3, 2), padding=1),
    "few outputs, blocks": geometry((1, 301, 3, 4), (3, 301, 2, 1), padding=(1, 0)),
    "transposed": conv_transpose_geometry("test", (3, 53, 4, 3), (53, 67, 4, 4), stride=2, padding=1),
}


def operands(g: ConvGeometry) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(3)
    x, w, y = (rng.standard_normal(shape).astype(np.float32) for shape in (g.x_shape, g.w_shape, g.y_shape))
    return x, w, y


def run(slot: str, g: ConvGeometry, x: Any, w: Any, y: Any, algorithm: int) -> Any:
    out = np.full({"x": g.x_shape, "w": g.w_shape, "y": g.y_shape}[slot], np.nan, x.dtype)
    if slot == "y":
        cpu.conv(x, w, out, g.pod, algorithm)
    elif slot == "x":
        cpu.conv_transpose(y, w, out, g.pod, algorithm)
    else:
        cpu.conv_weight(x, y, out, g.pod, algorithm)
    return out


def expected(slot: str, g: ConvGeometry, x: Any, w: Any, y: Any) -> tuple[Any, Any]:
    """The sums of the rounded factors and the bound of what they may be off by."""
    wide = {"x": rounded(x).astype(np.float64), "w": rounded(w).astype(np.float64), "y": rounded(y).astype(np.float64)}
    first, second = (wide[name] for name in {"y": "xw", "x": "yw", "w": "xy"}[slot])
    reference, bound = {
        "y": (oracle.conv, conv_bound),
        "x": (oracle.conv_transpose, conv_transpose_bound),
        "w": (oracle.conv_weight, conv_weight_bound),
    }[slot]
    return reference(first, second, g), 2.0 * bound(first, second, g, np.float32) + 1e-30


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_convolution_is_that_of_its_rounded_factors_within_the_derived_bound(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    x, w, y = operands(g)
    want, bound = expected(slot, g, x, w, y)
    for isa, algorithm in product(cpu.isa_present(), (BF16, AUTO)):
        cpu.set_isa(isa)
        assert_close(run(slot, g, x, w, y, algorithm), want, bound, f"{isa}, algorithm {algorithm}")


@pytest.mark.parametrize("slot", ["y", "x", "w"])
@pytest.mark.parametrize("name", ["wide", "wide, strided groups", "few outputs, blocks"])
def test_the_bits_do_not_depend_on_the_threads(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    x, w, y = operands(g)
    found = []
    for threads in (1, 2, 3):
        cpu.set_num_threads(threads)
        found.append(run(slot, g, x, w, y, BF16))
    assert_same_bits(found[1], found[0])
    assert_same_bits(found[2], found[0])


@pytest.mark.parametrize("slot", ["y", "x", "w"])
def test_strided_arrays_are_read_as_they_are(slot: str) -> None:
    g = GEOMETRIES["wide, strided groups"]
    x, w, y = operands(g)
    gapped = [np.repeat(a, 2, -1)[..., ::2].transpose(1, 0, 3, 2).copy().transpose(1, 0, 3, 2) for a in (x, w, y)]
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        assert_same_bits(run(slot, g, *gapped, BF16), run(slot, g, x, w, y, BF16), isa)


def special_numbers() -> Any:
    """Ties, neighbours of ties, the largest numbers, zeros, infinities, NaN with small payloads, random bits."""
    ties = (np.arange(0x3F80, 0x3FC0, dtype=np.uint32) << 16) | 0x8000
    named = [0x7F7FFFFF, 0x7F7F7FFF, 0x7F7F8000, 0, 0x80000000, 0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF]
    drawn = np.random.default_rng(5).integers(0, 2**32, 1000, dtype=np.uint64).astype(np.uint32)
    return np.concatenate([ties, ties - 1, ties + 1, np.array(named, np.uint32), drawn]).view(np.float32)


@pytest.mark.parametrize("isa", cpu.isa_present())
def test_numbers_are_rounded_to_nearest_even_and_what_is_not_finite_passes(isa: str) -> None:
    cpu.set_isa(isa)
    x = special_numbers()
    x = x[~((np.abs(x) < 2.0**-126) & (x != 0))]  # subnormal numbers may become zero
    with np.errstate(invalid="ignore"):
        want = rounded(x)
    one = np.ones((1, 1, 1), np.float32)
    g = geometry((1, 1, len(x)), (1, 1, 1))
    assert_close(run("y", g, x.reshape(1, 1, -1), one, one, BF16).ravel(), want, 0.0, "conv")
    alone = np.zeros((1, len(x), 16), np.float32)  # a product that keeps every number apart from the others
    cpu.matmul(x.reshape(1, -1, 1), np.ones((1, 1, 16), np.float32), alone, HALF)
    assert_close(alone[0, :, 3], want, 0.0, "matmul")


def test_a_nan_in_a_weights_gradient_reaches_its_own_channel_only() -> None:
    g = geometry((3, 20, 5, 6), (36, 20, 3, 3), padding=1)
    x, w, y = operands(g)
    x[1, 7, 2, 2] = np.nan
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        found = run("w", g, x, w, y, BF16)
        assert np.isnan(found[:, 7]).any()
        assert np.isfinite(np.delete(found, 7, 1)).all()


SHAPES = [(1, 1, 1, 1), (2, 30, 64, 33), (1, 12, 301, 50), (3, 20, 600, 49), (1, 129, 257, 100), (1, 9, 1, 9),
          (1, 5, 700, 3), (1, 7, 0, 30), (1, 40, 0, 40), (1, 300, 7, 17), (2, 3, 4, 5)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_matrix_product_is_that_of_its_rounded_factors_for_any_layout(shape: tuple[int, ...]) -> None:
    B, M, K, N = shape
    rng = np.random.default_rng(1)
    a, b = (rng.standard_normal(s).astype(np.float32) for s in ((B, M, K), (B, K, N)))
    turned = lambda m: np.ascontiguousarray(m.transpose(0, 2, 1)).transpose(0, 2, 1)
    gapped = lambda m: np.repeat(np.repeat(m, 2, 1), 3, 2)[:, ::2, ::3]
    wide = rounded(a).astype(np.float64), rounded(b).astype(np.float64)
    bound = 2.0 * matmul_bound(*wide, np.float32) + 1e-30
    for isa in cpu.isa_present():
        cpu.set_isa(isa)
        bits = []
        for threads, left, right, result in product(
            (1, 3), (a, turned(a), gapped(a)), (b, turned(b)), (turned, gapped)
        ):
            cpu.set_num_threads(threads)
            c = result(np.full((B, M, N), np.nan, np.float32))
            cpu.matmul(left, right, c, HALF)
            assert_close(c, wide[0] @ wide[1], bound, isa)
            bits.append((left is a and right is b, np.ascontiguousarray(c)))
        plain = [c for same, c in bits if same]
        for c in plain[1:]:
            assert_same_bits(c, plain[0])


def test_float64_is_not_touched() -> None:
    g = GEOMETRIES["wide"]
    x, w, y = (a.astype(np.float64) for a in operands(g))
    for slot, algorithm in product("xwy", (BF16, AUTO, FAST)):
        unrounded = CONV_ALGORITHMS["fast" if algorithm == FAST else "auto"]
        assert_same_bits(run(slot, g, x, w, y, algorithm), run(slot, g, x, w, y, unrounded))
    a, found = x[0].reshape(1, 70, -1), [np.full((1, 70, 70), np.nan) for _ in range(2)]
    for c, precision in zip(found, (FULL, HALF), strict=True):
        cpu.matmul(a, a.transpose(0, 2, 1), c, precision)
    assert_same_bits(found[1], found[0])


def test_the_plan_names_the_path_and_takes_fft_only_where_it_may() -> None:
    g = geometry((16, 512, 8, 8), (1024, 512, 4, 4), stride=2, padding=1)
    wide = plan(g, "y", AUTO)
    assert wide.path == ("bf16" if cpu.has_bf16_products() else "channels"), wide
    assert plan(g, "y", AUTO, np.float64).path == "channels"
    g = geometry((16, 32, 25, 25, 25), (8, 32, 5, 5, 5), padding=2)
    assert plan(g, "y", FAST).path == "fft"
    assert "fft" not in plan(g, "y", AUTO).costs
    cpu.set_isa("scalar")
    assert not cpu.has_bf16_products()
    assert plan(g, "y", BF16).path in ("batch", "channels")
