"""The convolutions and products of the compiled CUDA backend: every path by name, every slot, against a float64 loop.

Runs on a GPU, or on the emulator, which also checks races, bounds and barriers while it does. Integer inputs are exact
in tf32 and bf16 too, so that every path must give the same bits. Shapes are small but cross slices of k (16), tiles of
n (8, 32, 48, 64) and m (128), the parts of long sums and the phases of strides.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cpu, cuda
from gankernels.backends.opcodes import CONV_ALGORITHMS, MATMUL_PRECISIONS
from gankernels.geometry import ConvGeometry, conv_geometry, conv_transpose_geometry, upsample_conv_geometry
from gankernels.testing import bounds, oracle

if cuda.why_not() is not None:
    pytest.skip(f"cuda cannot be used: {cuda.why_not()}", allow_module_level=True)

Array = np.ndarray[Any, np.dtype[Any]]
SLOTS = ["conv", "conv_transpose", "conv_weight"]
EXACT = ["auto", "direct", "im2col"]
TENSOR_CORES = {"tf32": 2.0**-11, "bf16": 2.0**-8}  # roundings of a factor


def geometry(x: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_geometry("test", x, w, **options)


def up(y: tuple[int, ...], w: tuple[int, ...], **options: Any) -> ConvGeometry:
    return conv_transpose_geometry("test", y, w, **options)


GEOMETRIES = {
    "1-D": geometry((3, 4, 40), (6, 4, 7), padding=3),
    "2-D same, even kernel": geometry((3, 4, 7, 6), (5, 4, 4, 2), padding="same"),
    "3-D, an odd tile": geometry((2, 5, 4, 5, 11), (7, 5, 3, 3, 3), padding=1),
    "3-D to six": geometry((2, 3, 3, 6, 9), (6, 3, 2, 3, 8), padding=((1, 0), (1, 1), (4, 3))),
    "from one channel": geometry((2, 1, 4, 5, 6), (32, 1, 3, 2, 5), padding="same"),
    "to one channel": geometry((4, 6, 4, 4, 5), (1, 6, 2, 2, 2)),
    "many outputs": geometry((2, 3, 9, 9), (130, 3, 1, 1)),
    "many inputs": geometry((2, 70, 4, 5), (9, 70, 2, 3), padding=1),
    "strided": geometry((2, 5, 9, 11), (6, 5, 3, 3), stride=2, padding=1),
    "stride over kernel": geometry((2, 3, 11, 13), (4, 3, 2, 2), stride=(5, 4)),
    "strided and dilated": geometry((2, 2, 7, 8, 9), (4, 2, 2, 3, 2), stride=(2, 3, 2), dilation=(3, 2, 4), padding=2),
    "groups": geometry((2, 6, 6, 7), (9, 2, 3, 3), groups=3, padding=1),
    "depthwise": geometry((2, 4, 6, 7), (8, 1, 3, 3), groups=4, padding=1),
    "kernel over x": geometry((3, 2, 2, 3), (3, 2, 5, 6), padding=4),
    "only padding": geometry((2, 2, 3), (2, 2, 2), padding=7, stride=4, dilation=3),
    "transposed": up((2, 5, 3, 4, 3), (5, 6, 4, 4, 4), stride=2, padding=1),
    "output padding": up((2, 4, 5, 4), (4, 3, 3, 2), stride=(3, 2), output_padding=(2, 1)),
    "no image": geometry((0, 3, 5, 6), (4, 3, 3, 3)),
    "no input channel": geometry((2, 0, 5, 6), (4, 0, 3, 3)),
    "no cell": geometry((2, 3, 0, 6), (4, 3, 2, 3), padding=1),
}


def inputs(slot: str, g: ConvGeometry, dtype: Any = np.float32, integers: bool = True) -> tuple[Array, Array]:
    rng = np.random.default_rng(0)
    first, second = {
        "conv": (g.x_shape, g.w_shape),
        "conv_transpose": (g.y_shape, g.w_shape),
        "conv_weight": (g.x_shape, g.y_shape),
    }[slot]
    draw = lambda shape: rng.integers(-3, 4, shape) if integers else rng.standard_normal(shape)
    return draw(first).astype(dtype), draw(second).astype(dtype)


def on_device(kernel: str, arrays: tuple[Array, ...], shape: tuple[int, ...], *rest: Any) -> Array:
    out = cuda.from_host(np.full(shape, np.nan, arrays[0].dtype))
    getattr(cuda, kernel)(*map(cuda.from_host, arrays), out, *rest)
    return cuda.to_host(out)


def run(slot: str, g: ConvGeometry, a: Array, b: Array, algorithm: str) -> Array:
    shape = {"conv": g.y_shape, "conv_transpose": g.x_shape, "conv_weight": g.w_shape}[slot]
    return on_device(slot, (a, b), shape, g.pod, CONV_ALGORITHMS[algorithm])


def expected(slot: str, g: ConvGeometry, a: Array, b: Array) -> Array:
    wanted: Array = getattr(oracle, slot)(a.astype(np.float64), b.astype(np.float64), g)
    return wanted


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_every_path_gives_the_same_bits_where_sums_are_exact(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    a, b = inputs(slot, g)
    want = expected(slot, g, a, b)
    for algorithm in (*EXACT, *TENSOR_CORES):
        np.testing.assert_array_equal(run(slot, g, a, b, algorithm), want.astype(np.float32), err_msg=algorithm)
    np.testing.assert_array_equal(run(slot, g, a.astype(np.float64), b.astype(np.float64), "auto"), want)


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", ["3-D, an odd tile", "strided and dilated", "transposed", "groups"])
def test_real_sums_stay_within_the_derived_bound(name: str, slot: str) -> None:
    g = GEOMETRIES[name]
    for dtype in (np.float32, np.float64):
        a, b = inputs(slot, g, dtype, integers=False)
        want, bound = expected(slot, g, a, b), getattr(bounds, slot + "_bound")(a, b, g, dtype)
        for algorithm in EXACT:
            bounds.assert_close(run(slot, g, a, b, algorithm), want, bound, f"{algorithm} {dtype.__name__}")
    a, b = inputs(slot, g, np.float32, integers=False)
    sums, bound = expected(slot, g, np.abs(a), np.abs(b)), getattr(bounds, slot + "_bound")(a, b, g, np.float32)
    for algorithm, u in TENSOR_CORES.items():  # both factors are rounded; sums in float32, of 16 at a time in any order
        limit = (2 * u + u * u) * sums + 2 * bound
        bounds.assert_close(run(slot, g, a, b, algorithm), expected(slot, g, a, b), limit, algorithm)


def test_a_long_sum_is_cut_into_parts_and_comes_out_the_same_every_time() -> None:
    g = geometry((8, 2, 16, 33), (3, 2, 2, 3), padding=1)  # 8*17*33 products: parts of at least 128
    a, b = inputs("conv_weight", g, integers=False)
    bound = bounds.conv_weight_bound(a, b, g, np.float32)
    for algorithm in EXACT:
        first = run("conv_weight", g, a, b, algorithm)
        bounds.assert_close(first, expected("conv_weight", g, a, b), bound, algorithm)
        if cuda.native.emulated:
            cuda.native.emulator_seed(7)  # another order of threads and blocks
        bounds.assert_same_bits(run("conv_weight", g, a, b, algorithm), first, algorithm)
        if cuda.native.emulated:
            cuda.native.emulator_seed(1)


HUGE = {
    "stride 2^31-1": geometry((2, 3, 5, 6), (4, 3, 2, 2), stride=2**31 - 1),
    "padding 10^6": geometry((1, 1, 4), (2, 1, 3), padding=10**6, stride=10**5),
    "padding and stride 2^30": geometry((2, 2, 4, 3), (2, 2, 1, 2), padding=2**30, stride=2**30),
    "dilation 10^6": geometry((1, 1, 4), (2, 1, 3), padding=10**6, dilation=10**6),
    "kernel 1000": geometry((1, 1, 4), (1, 1, 1000), padding=997),
}


@pytest.mark.parametrize("slot", SLOTS)
@pytest.mark.parametrize("name", HUGE)
def test_huge_parameters_are_right(name: str, slot: str) -> None:
    g = HUGE[name]
    if name == "dilation 10^6" and cuda.native.emulated:
        pytest.skip("two million positions are too many for the emulator")
    a, b = inputs(slot, g)
    np.testing.assert_array_equal(run(slot, g, a, b, "auto"), expected(slot, g, a, b).astype(np.float32))


@pytest.mark.parametrize("algorithm", [*EXACT, "tf32"])
@pytest.mark.parametrize("slot", SLOTS)
def test_views_with_any_strides_are_read_and_written(slot: str, algorithm: str) -> None:
    g = GEOMETRIES["groups"]
    a, b = inputs(slot, g)
    want = expected(slot, g, a, b).astype(np.float32)

    def awkward(x: Array) -> Any:  # reversed axes in a wider array: permuted, with gaps
        wide = cuda.from_host(np.ascontiguousarray(np.repeat(x.T, 2, axis=-1)))
        return wide.transpose(tuple(range(x.ndim))[::-1])[::2]

    out = awkward(np.full_like(want, np.nan))
    getattr(cuda, slot)(awkward(a), awkward(b), out, g.pod, CONV_ALGORITHMS[algorithm])
    np.testing.assert_array_equal(cuda.to_host(out), want)


@pytest.mark.parametrize("algorithm", [*EXACT, *TENSOR_CORES])
def test_upsampling_and_convolution_in_one_are_those_of_the_cpu(algorithm: str) -> None:
    g = upsample_conv_geometry("test", (2, 4, 3, 3, 4), (6, 2, 3, 2, 4), (2, 1, 3), padding=(1, 0, 2), groups=2)
    rng = np.random.default_rng(0)
    x, w, y = (rng.integers(-3, 4, s).astype(np.float32) for s in (g.x_shape, g.w_shape, g.y_shape))
    for kernel, arrays, shape in (
        ("upsample_conv", (x, w), g.y_shape),
        ("upsample_conv_transpose", (y, w), g.x_shape),
        ("upsample_conv_weight", (x, y), g.w_shape),
    ):
        want = np.full(shape, np.nan, np.float32)
        getattr(cpu, kernel)(*arrays, want, g.pod, CONV_ALGORITHMS["direct"])
        got = on_device(kernel, arrays, shape, g.pod, CONV_ALGORITHMS[algorithm])
        np.testing.assert_array_equal(got, want, err_msg=kernel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name", ["1-D", "2-D same, even kernel", "strided", "strided and dilated", "groups", "no cell"]
)
def test_unshared_weights_and_columns_are_those_of_the_cpu(name: str, dtype: Any) -> None:
    g = GEOMETRIES[name]
    rng = np.random.default_rng(0)
    w_shape = (*g.w_shape[:2], prod(g.y), prod(g.kernel))
    shapes = (g.x_shape, w_shape, g.y_shape, g.columns_shape)
    x, w, y, cols = (rng.integers(-3, 4, s).astype(dtype) for s in shapes)
    for kernel, arrays, shape in (
        ("local_conv", (x, w), g.y_shape),
        ("local_conv_transpose", (y, w), g.x_shape),
        ("local_conv_weight", (x, y), w_shape),
        ("im2col", (x,), g.columns_shape),
        ("col2im", (cols,), g.x_shape),
    ):
        want = np.full(shape, np.nan, dtype)
        getattr(cpu, kernel)(*arrays, want, g.pod)
        np.testing.assert_array_equal(on_device(kernel, arrays, shape, g.pod), want, err_msg=kernel)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1), (2, 3, 4, 5), (1, 130, 20, 70), (1, 13, 9, 200), (1, 5, 700, 1), (1, 7, 0, 3), (0, 2, 2, 2)],
)
def test_matmul_is_exact_on_integers_for_any_layout(shape: tuple[int, ...], dtype: Any) -> None:
    B, M, K, N = shape
    rng = np.random.default_rng(1)
    a, b = rng.integers(-4, 5, (B, M, K)).astype(dtype), rng.integers(-4, 5, (B, K, N)).astype(dtype)
    turned = lambda m: cuda.from_host(np.ascontiguousarray(m.transpose(0, 2, 1))).transpose((0, 2, 1))
    for left in (cuda.from_host, turned):
        for right in (cuda.from_host, turned):
            for result in (cuda.from_host, turned):
                out = result(np.full((B, M, N), np.nan, dtype))
                cuda.matmul(left(a), right(b), out, MATMUL_PRECISIONS["full"])
                np.testing.assert_array_equal(cuda.to_host(out), a @ b)


@pytest.fixture
def whole_barriers() -> Iterator[None]:
    yield
    cuda.native.emulator_skip_barrier("")


@pytest.mark.skipif(not cuda.native.emulated, reason="a GPU does not say that a barrier is missing")
@pytest.mark.parametrize(("algorithm", "source", "count"), [("direct", "conv_direct", 2), ("tf32", "gemm", 3)])
def test_every_missing_barrier_is_reported(algorithm: str, source: str, count: int, whole_barriers: None) -> None:
    g = GEOMETRIES["3-D, an odd tile"]
    a, b = inputs("conv", g)
    run("conv", g, a, b, algorithm)
    sites = [s for s in cuda.native.emulator_barriers() if s.startswith(source + ".")]
    assert len(sites) == count
    for site in sites:
        cuda.native.emulator_skip_barrier(site)
        with pytest.raises(RuntimeError, match="emulator: "):
            run("conv", g, a, b, algorithm)


@pytest.mark.skipif(not cuda.native.emulated, reason="a GPU may have copied in time")
@pytest.mark.parametrize("algorithm", ["direct", "tf32"])
def test_a_missing_wait_for_copies_is_reported(algorithm: str, whole_barriers: None) -> None:
    g = GEOMETRIES["3-D, an odd tile"]
    a, b = inputs("conv", g)
    cuda.native.emulator_skip_barrier("cp_async_wait")
    with pytest.raises(RuntimeError, match=r"copies \(cp\.async\) that it never waited for"):
        run("conv", g, a, b, algorithm)


def rounded(a: Array, precision: str) -> Array:
    """Factors as tensor cores read them: to nearest, ties of tf32 away from zero and of bf16 to even."""
    bits = a.view(np.uint32)
    if precision == "tf32":
        return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)
    return ((bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)).view(
        np.float32
    )


@pytest.mark.parametrize("precision", TENSOR_CORES)
@pytest.mark.parametrize("shape", [(1, 40, 70, 33), (3, 5, 9, 130), (2, 129, 17, 2), (1, 6, 600, 20)])
def test_products_on_tensor_cores_are_those_of_rounded_factors(shape: tuple[int, ...], precision: str) -> None:
    B, M, K, N = shape
    a, b = (
        np.random.default_rng(i).standard_normal(s).astype(np.float32) for i, s in enumerate([(B, M, K), (B, K, N)])
    )
    exact_a, exact_b = rounded(a, precision), rounded(b, precision)
    assert not np.array_equal(a, exact_a)
    # the cores' own sums may cut digits where float32 arithmetic rounds them: twice the error of a rounded sum
    limit = 2 * bounds.matmul_bound(exact_a, exact_b, np.float32)
    got = on_device("matmul", (a, b), (B, M, N), MATMUL_PRECISIONS[precision])
    bounds.assert_close(got, exact_a.astype(np.float64) @ exact_b.astype(np.float64), limit, precision)
    bounds.assert_same_bits(on_device("matmul", (a, b), (B, M, N), MATMUL_PRECISIONS[precision]), got, "again")
    full = on_device("matmul", (a, b), (B, M, N), MATMUL_PRECISIONS["full"])
    bounds.assert_close(full, a.astype(np.float64) @ b, bounds.matmul_bound(a, b, np.float32), "full")
