"""The kernels of the compiled CUDA backend against those of the CPU: the same bits where sums are exact or the order of
operations is the same, a few units of the last place where elementary functions are another library's.

Runs on a GPU, or on the emulator, which also checks races, bounds and barriers while it does. Shapes cross the borders
of packs (4), warps (32) and blocks (128, 256), and of the chunks into which long sums are cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cpu, cuda
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY

if cuda.why_not() is not None:
    pytest.skip(f"cuda cannot be used: {cuda.why_not()}", allow_module_level=True)

Array = np.ndarray[Any, np.dtype[Any]]
FLOATS = [np.float32, np.float64]
ALL = [np.float32, np.float64, np.int64, np.bool_]


def on_device(x: Array) -> Any:
    """x on the device with the same strides: the whole array behind a view goes there, the view is taken again."""
    base = x
    while isinstance(base.base, np.ndarray):
        base = base.base
    if base is x or not base.flags.c_contiguous:
        return (
            cuda.from_host(x)
            if 0 not in x.strides
            else cuda.from_host(np.ascontiguousarray(x[..., :1])).broadcast_to(x.shape)
        )
    from gankernels.backends.device_array import DeviceArray

    whole = cuda.from_host(base)
    offset = x.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    return DeviceArray(whole.buffer, x.shape, x.dtype, cuda, x.strides, offset)


def both(
    kernel: str, inputs: list[Array], outputs: list[Array], *rest: Any, before: tuple[Any, ...] = ()
) -> Iterator[Any]:
    """Pairs (CUDA's, the CPU's) of every output of one call; outputs are given with what they hold before."""
    device = [on_device(x) for x in outputs]
    getattr(cuda, kernel)(*before, *[on_device(x) for x in inputs], *device, *rest)
    host = [x.copy() for x in outputs]
    getattr(cpu, kernel)(*before, *inputs, *host, *rest)
    return zip([cuda.to_host(y) for y in device], host, strict=True)


def same_bits(pairs: Iterator[Any]) -> None:
    for actual, expected in pairs:
        np.testing.assert_array_equal(actual, expected)


def close(pairs: Iterator[Any], ulps: float) -> None:
    for actual, expected in pairs:
        with np.errstate(invalid="ignore"):
            spacing = np.spacing(np.minimum(np.abs(expected), np.finfo(expected.dtype).max))
            fine = (np.abs(actual - expected) <= ulps * spacing) | (actual == expected)
        fine |= np.isnan(actual) & np.isnan(expected)
        assert fine.all(), (actual[~fine][:3], expected[~fine][:3])


def nans(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 1, dtype)


def values(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype is np.bool_ else 9, shape).astype(dtype)


def integers(shape: tuple[int, ...], dtype: Any, seed: int = 0) -> Array:
    """Small whole numbers: their sums are exact in any order."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


def layouts(dtype: Any) -> list[Array]:
    """Contiguous (whole packs or not), permuted, stepped, reversed, broadcast, one element, none."""
    a = values((3, 5, 4, 8), dtype)
    return [
        values((1029,), dtype),
        a,
        a.transpose(3, 1, 0, 2),
        a[:, ::-1, ::2, 1::3],
        a[1:, :, :, 4:],
        np.broadcast_to(a[..., :1], a.shape),
        values((), dtype),
        a[:0],
    ]


SAMPLE = np.concatenate(
    [
        np.random.default_rng(0).normal(size=999) * 10.0 ** np.random.default_rng(1).uniform(-6, 2, 999),
        [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 88.0, -88.0, 1e-30],
    ]
)
ELEMENTARY = {"exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "sigmoid", "erf", "power", "elu", "softplus"}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("op", UNARY)
def test_unary_agrees_with_the_cpu_in_packs_and_element_by_element(op: str, dtype: Any) -> None:
    x = SAMPLE.astype(dtype)
    for p, q in [(1.0, 20.0), (0.3, 0.7), (0.0, 1.0), (2.5, 3.0)]:
        for view in (x, x[::-1], x[1:]):
            pairs = both("unary", [view], [nans(view.shape, dtype)], p, q, before=(op,))
            with np.errstate(all="ignore"):
                close(pairs, 8) if op in ELEMENTARY else same_bits(pairs)


UNCALLED = {"f": (), "i": ("divide", "atan2"), "b": ("divide", "atan2", "subtract", "power")}
CALLED = [(op, dtype) for op in BINARY for dtype in ALL if op not in UNCALLED[np.dtype(dtype).kind]]


@pytest.mark.parametrize(("op", "dtype"), CALLED)
def test_binary_agrees_with_the_cpu_in_every_layout(op: str, dtype: Any) -> None:
    for a in layouts(dtype):
        b = values(a.shape, dtype, 1)
        for left, right in ((a, b), (b, a)):
            pairs = both("binary", [left, right], [nans(a.shape, dtype)], before=(op,))
            close(pairs, 8) if op in ("power", "atan2") and np.dtype(dtype).kind == "f" else same_bits(pairs)


@pytest.mark.parametrize("dtype", ALL)
def test_comparisons_choices_and_copies_agree_with_the_cpu_in_every_layout(dtype: Any) -> None:
    for a in layouts(dtype):
        b, y = values(a.shape, dtype, 1), nans(a.shape, dtype)
        for op in COMPARE:
            same_bits(both("compare", [a, b], [np.zeros(a.shape, bool)], before=(op,)))
        same_bits(both("select", [values(a.shape, np.bool_, 2), a, b], [y]))
        same_bits(both("copy", [a], [y]))
        same_bits(both("copy", [a], [nans(a.shape[::-1], dtype).T]))
        same_bits(both("fill", [], [y], 3.0))
        if np.dtype(dtype).kind == "f":
            for slope in (0.0, 0.2):
                same_bits(both("gate", [a, b], [y], slope))
        for other in ALL:
            np.testing.assert_array_equal(cuda.to_host(cuda.cast(on_device(a), other)), cpu.cast(a, other))


SUMS = [
    ((1029,), (1,)),
    ((70001,), (1,)),  # chunks, then their join
    ((37, 300), (37, 1)),
    ((300, 37), (1, 37)),
    ((3000, 65), (1, 65)),
    ((6, 5, 4, 7, 3), (1, 5, 1, 1, 1)),
    ((6, 5, 4, 7, 3), (6, 1, 4, 1, 3)),
    ((4, 1, 5), (4, 1, 5)),
    ((2, 3, 9), (1, 1, 1)),
    ((0, 3), (1, 3)),
    ((3, 0), (3, 1)),
]


@pytest.mark.parametrize("dtype", [*FLOATS, np.int64])
@pytest.mark.parametrize(("shape", "result"), SUMS, ids=str)
def test_sums_of_whole_numbers_have_the_same_bits_over_any_axes(
    shape: tuple[int, ...], result: tuple[int, ...], dtype: Any
) -> None:
    x = integers(shape, dtype)
    same_bits(both("sum", [x], [nans(result, dtype)]))
    backwards = np.ascontiguousarray(x.T).T
    same_bits(both("sum", [backwards], [nans(result[::-1], dtype).T]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_sums_are_rounded_once_and_repeat(dtype: Any) -> None:
    x = values((33000,), dtype)
    results = []
    for _ in range(2):
        y = cuda.empty((1,), dtype)
        cuda.sum(cuda.from_host(x), y)
        results.append(cuda.to_host(y)[0])
    exact = float(np.sum(x.astype(np.longdouble)))
    scale = float(np.abs(x).astype(np.float64).sum())
    assert results[0] == results[1]
    assert abs(float(results[0]) - exact) <= np.finfo(dtype).eps * abs(exact) + 2e-15 * scale


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("columns", [1, 7, 129, 300])
def test_softmax_agrees_with_the_cpu(columns: int, dtype: Any) -> None:
    x = 5 * values((5, columns), dtype)
    for view in (x, np.asfortranarray(x)):
        close(both("softmax", [view], [nans(x.shape, dtype)]), 16)
        tol = 16 * np.finfo(dtype).eps * max(1.0, float(np.abs(x).max()))
        for actual, expected in both("log_softmax", [view], [nans(x.shape, dtype)]):
            assert not (np.abs(actual - expected) > tol).any()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(5, 3, 77), (130, 6, 1), (3, 40, 9), (2, 2, 9001), (1, 1, 1)])
def test_batch_normalisation_agrees_with_the_cpu(shape: tuple[int, ...], dtype: Any) -> None:
    x, ct = values(shape, dtype) + dtype(100), values(shape, dtype, 1)
    C, eps = shape[1], np.finfo(dtype).eps
    for view in (x, np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)):
        (mean, mean0), (variance, variance0) = both("channel_moments", [view], [nans((C,), dtype), nans((C,), dtype)])
        assert not (np.abs(mean - mean0) > 4 * eps * np.abs(mean0)).any()
        # joining two parts squares the difference of two means, each known to eps (of double) times its size
        joined = 16 * np.finfo(np.float64).eps * np.abs(mean0) * (np.sqrt(variance0) + 1)
        assert not (np.abs(variance - variance0) > 8 * eps * (variance0 + 1) + joined).any()
        scale, shift = values((C,), dtype, 2), values((C,), dtype, 3)
        same_bits(both("channel_affine", [view, scale, shift], [nans(shape, dtype)]))
        rstd = dtype(1) / np.sqrt(variance0 + dtype(1e-3))
        outputs = [nans(shape, dtype), nans((C,), dtype), nans((C,), dtype)]
        for actual, expected in both("batch_norm_backward", [view, ct, mean0, rstd, scale], outputs):
            bound = 64 * eps * (1 + np.abs(expected).max() + np.abs(ct).sum() * np.abs(rstd).max())
            assert not (np.abs(actual - expected) > bound).any()


WINDOWS: list[tuple[tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 37), {"kernel": (3,), "stride": (2,), "padding": ((1, 1),), "dilation": (1,)}),
    ((2, 3, 9, 10), {"kernel": (3, 2), "stride": (2, 1), "padding": ((1, 1), (1, 0)), "dilation": (1, 2)}),
    (
        (2, 2, 5, 6, 7),
        {"kernel": (2, 3, 3), "stride": (1, 2, 1), "padding": ((1, 0), (1, 1), (1, 1)), "dilation": (2, 1, 1)},
    ),
]


def window_pod(
    shape: tuple[int, ...], w: dict[str, Any], include_pad: int, divisor: int
) -> tuple[Any, tuple[int, ...]]:
    """The flat tuple of a WindowGeometry (core/geometry.hpp), and the shape of y."""
    d = len(shape) - 2
    fill = 3 - d
    lift = lambda v, one: (one,) * fill + tuple(v)
    lo, hi = [p[0] for p in w["padding"]], [p[1] for p in w["padding"]]
    y = [
        (n + a + b - dil * (k - 1) - 1) // s + 1
        for n, a, b, dil, k, s in zip(shape[2:], lo, hi, w["dilation"], w["kernel"], w["stride"], strict=True)
    ]
    pod = (
        *shape[:2], *lift(shape[2:], 1), *lift(w["kernel"], 1), *lift(y, 1), *lift(w["stride"], 1),
        *lift(w["dilation"], 1), *lift(lo, 0), *lift(hi, 0), include_pad, divisor,
    )  # fmt: skip
    return pod, (*shape[:2], *y)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("shape", "w"), WINDOWS, ids=lambda v: str(v)[:20])
def test_pooling_and_its_adjoints_have_the_bits_of_the_cpu(
    shape: tuple[int, ...], w: dict[str, Any], dtype: Any
) -> None:
    x = values(shape, dtype)
    x.flat[5] = np.nan
    pod, y_shape = window_pod(shape, w, 1, 0)
    ct = values(y_shape, dtype, 1)
    for view in (x, np.asfortranarray(x)):
        index = np.zeros(y_shape, np.int64)
        pairs = list(both("max_window", [view], [nans(y_shape, dtype), index], pod))
        same_bits(iter(pairs))
        index = pairs[1][1]
        same_bits(both("gather_window", [view, index], [nans(y_shape, dtype)]))
        same_bits(both("scatter_window", [ct, index], [nans(shape, dtype)]))
        whole = integers(shape, dtype)
        for include_pad, divisor in ((1, 0), (0, 0), (1, 5)):
            pod, _ = window_pod(shape, w, include_pad, divisor)
            same_bits(both("average_window", [whole], [nans(y_shape, dtype)], pod))
            same_bits(both("spread_window", [ct], [nans(shape, dtype)], pod))


@pytest.mark.parametrize("dtype", FLOATS)
def test_upsampling_and_block_sums_have_the_bits_of_the_cpu(dtype: Any) -> None:
    for small, factors in [((2, 3, 5), (4,)), ((2, 3, 5, 3), (2, 3)), ((2, 1, 3, 4, 5), (2, 3, 1))]:
        large = (*small[:2], *(n * f for n, f in zip(small[2:], factors, strict=True)))
        x, y = values(small, dtype), integers(large, dtype)
        same_bits(both("upsample_nearest", [x], [nans(large, dtype)]))
        same_bits(both("sum_blocks", [y], [nans(small, dtype)]))
        same_bits(both("sum_blocks", [np.asfortranarray(y)], [nans(small, dtype)]))


@pytest.mark.parametrize("dtype", ALL)
def test_rows_are_gathered_and_scattered_as_on_the_cpu(dtype: Any) -> None:
    index = np.random.default_rng(0).integers(0, 7, 75)
    for columns in (1, 5, 130):
        same_bits(both("gather_rows", [values((7, columns), dtype), index], [nans((75, columns), dtype)]))
        if np.dtype(dtype).kind == "f":
            rows = values((75, columns), dtype)
            same_bits(both("scatter_rows", [rows, index], [nans((7, columns), dtype)]))
            same_bits(both("scatter_rows", [np.asfortranarray(rows), index[::-1]], [nans((7, columns), dtype)]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("seed", "offset"), [(0, 0), (0x299F31D0A4093822, 0x85A308D3243F6A88), (7, (1 << 32) - 3)])
def test_random_numbers_have_the_bits_of_the_cpu(seed: int, offset: int, dtype: Any) -> None:
    for y in (nans((1029,), dtype), nans((7, 30), dtype), nans((30, 7), dtype).T, nans((0,), dtype)):
        same_bits(both("random_uniform", [], [y], seed, offset))
        for actual, expected in both("random_normal", [], [y], seed, offset):
            assert not (np.abs(actual - expected) > np.finfo(dtype).eps * (np.abs(expected) + 8)).any()
    for x in (values((1029,), dtype), np.asfortranarray(values((9, 31), dtype)), values((40,), dtype)[1:]):
        for p in (0.0, 0.3, 1.0):
            same_bits(both("dropout", [x], [nans(x.shape, dtype)], p, seed, offset))


def steps(dtype: Any) -> list[Callable[[], Iterator[Any]]]:
    n, g = 1031, values((1031,), dtype, 1)

    def state(seed: int) -> Array:
        return np.abs(values((n,), dtype, seed))

    none = np.zeros(0, dtype)

    def call(kernel: str, arrays: list[Array], *rest: Any) -> Iterator[Any]:
        device = [on_device(a) for a in arrays]
        getattr(cuda, kernel)(device[0], cuda.from_host(g), *device[1:], *rest)
        host = [a.copy() for a in arrays]
        getattr(cpu, kernel)(host[0], g, *host[1:], *rest)
        return zip([cuda.to_host(a) for a in device], host, strict=True)

    return [
        lambda: call("sgd_step", [state(2), none], 0.1, 0.0, 0.0, 0.01, False, 1),
        lambda: call("sgd_step", [state(2), np.full(n, np.nan, dtype)], 0.1, 0.9, 0.1, 0.01, True, 1),
        lambda: call("sgd_step", [state(2), state(3)], 0.1, 0.9, 0.1, 0.0, False, 2),
        lambda: call("adam_step", [state(2), state(3), state(4)], 1e-3, 0.5, 0.999, 1e-8, 0.01, True, 3),
        lambda: call("adam_step", [state(2), state(3), state(4)], 1e-3, 0.9, 0.999, 1e-8, 0.01, False, 1),
        lambda: call("rmsprop_step", [state(2), state(3), none, none], 1e-3, 0.9, 1e-7, 0.0, 0.0, False),
        lambda: call("rmsprop_step", [state(2), 9 + state(3), state(4), state(5)], 1e-3, 0.9, 1e-7, 0.1, 0.5, True),
        lambda: call("lerp", [state(2)], 0.25),
        lambda: call("lerp", [state(2)], 0.75),
    ]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("which", range(9))
def test_optimizer_steps_have_the_bits_of_the_cpu(which: int, dtype: Any) -> None:
    same_bits(steps(dtype)[which]())
