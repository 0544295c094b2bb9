"""Recorded elementwise kernels run again as chains: in fewer launches, with the same bits."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
from numba_pairs import DTYPES, normals, skip_module_without_device

from gankernels.backends import cuda_numba
from gankernels.backends.opcodes import BINARY, COMPARE, UNARY
from gankernels.testing.bounds import assert_same_bits

skip_module_without_device()
chain: Any = import_module("gankernels.backends.cuda_numba.chain")
launching: Any = import_module("gankernels.backends.cuda_numba.launch")

LONG = 2 * chain.SHORT  # elements that more than one block does


def again(work: Callable[[], None], arrays: list[Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record `work`, run the recording from where it began, compare all arrays; names of the kernels it launched."""
    before = [cuda_numba.to_host(a) for a in arrays]
    recording = cuda_numba.Recording(cuda_numba.Memory())
    recording.start()
    work()
    recording.stop()
    expected = [cuda_numba.to_host(a) for a in arrays]
    for a, values in zip(arrays, before, strict=True):
        cuda_numba.copy(cuda_numba.from_host(values), a)
    found: list[str] = []
    call = launching.Start.__call__
    with monkeypatch.context() as patch:
        patch.setattr(
            launching.Start, "__call__", lambda self, *a: (found.append(self.kernel.__name__), call(self, *a))
        )
        recording.run(0, len(recording), [])
    for i, (a, want) in enumerate(zip(arrays, expected, strict=True)):
        assert_same_bits(cuda_numba.to_host(a), want, f"array {i}")
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (5, LONG // 4)], ids=["one block", "several"])
def test_every_operation_of_a_chain_has_the_bits_of_its_kernel(
    shape: tuple[int, int], dtype: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (cuda_numba.from_host(np.abs(normals(shape, dtype, i)) + dtype(0.1)) for i in range(2))
    column = cuda_numba.from_host(normals((shape[1],), dtype, 2))
    parameters = [(op, p) for op in UNARY for p in ((2.0, 0.5, -0.5, -1.0, 3.0, 1.7) if op == "power" else (0.3,))]
    outputs = {
        name: cuda_numba.from_host(np.zeros(shape, np.bool_ if name in COMPARE else dtype))
        for name in [*parameters, *BINARY, *COMPARE, "gate", "gate_zero", "select", "copy", "fill", "lerp", "affine"]
        + ["bias", "norm"]
    }
    x3 = a.reshape(*shape, 1)

    def work() -> None:
        for op, p in parameters:
            cuda_numba.unary(op, a, outputs[op, p], p, 0.9)
        for op in BINARY:
            cuda_numba.binary(op, a, column, outputs[op])
        for op in COMPARE:
            cuda_numba.compare(op, a, b, outputs[op])
        cuda_numba.gate(outputs["subtract"], a, outputs["gate"], 0.3)
        cuda_numba.gate(outputs["subtract"], a, outputs["gate_zero"], 0.0)
        cuda_numba.select(outputs["less"], a, b, outputs["select"])
        cuda_numba.copy(column, outputs["copy"])
        cuda_numba.fill(outputs["fill"], 2.5)
        cuda_numba.lerp(outputs["lerp"], a, 0.3)
        cuda_numba.lerp(outputs["lerp"], b, 0.8)
        cuda_numba.channel_affine(x3, column, column, outputs["affine"].reshape(x3.shape))
        cuda_numba.norm_epilogue(x3, column, column, outputs["norm"].reshape(x3.shape), 0.2, 0.0, 0, 0)
        cuda_numba.fused._epilogue(outputs["bias"], column, 0.2, 0.0, 0, 0)

    assert again(work, list(outputs.values()), monkeypatch) == ["chain_kernel"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_short_chain_may_read_what_other_elements_wrote(dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (cuda_numba.from_host(normals((6, 7), dtype, i)) for i in range(2))
    sums, whole = (cuda_numba.from_host(np.zeros(shape, dtype)) for shape in ((6, 1), (1, 1)))

    def work() -> None:  # softmax without its shift, and a step with y transposed
        cuda_numba.unary("exp", x, y)
        cuda_numba.sum(y, sums)
        cuda_numba.binary("divide", y, sums, y)
        cuda_numba.sum(sums, whole)
        cuda_numba.binary("add", y, whole, x)
        cuda_numba.copy(x.reshape(7, 6).T, y)

    assert again(work, [x, y, sums, whole], monkeypatch) == ["chain_kernel"]


def test_a_long_chain_ends_where_elements_of_other_threads_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = (cuda_numba.from_host(normals((4, LONG), np.float32, i)) for i in range(2))

    def work() -> None:
        cuda_numba.unary("square", x, y)
        cuda_numba.unary("affine", y, x, 2.0, 1.0)
        cuda_numba.copy(x.reshape(LONG, 4).T, y)
        cuda_numba.unary("negate", y, y)

    assert again(work, [x, y], monkeypatch) == ["chain_kernel", "chain_kernel"]


def test_kernels_that_are_not_elementwise_are_passed_only_by_what_they_do_not_touch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x, y, z, other = (cuda_numba.from_host(normals((4, 4), np.float32, i)) for i in range(4))

    def work() -> None:
        cuda_numba.unary("square", x, x)
        cuda_numba.matmul(x.reshape(1, 4, 4), y.reshape(1, 4, 4), z.reshape(1, 4, 4))
        cuda_numba.unary("negate", other, other)
        cuda_numba.unary("negate", x, x)
        cuda_numba.unary("exp", z, y)

    assert again(work, [x, y, z, other], monkeypatch) == ["chain_kernel", "matmul_kernel", "chain_kernel"]


def test_a_sum_in_two_steps_keeps_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x = cuda_numba.from_host(normals((1, 200 * launching.THREADS), np.float32))
    y = cuda_numba.from_host(np.zeros((1, 1), np.float32))

    def work() -> None:
        cuda_numba.sum(x, y)
        cuda_numba.unary("square", y, y)
        cuda_numba.unary("negate", y, y)

    assert again(work, [y], monkeypatch) == ["sum_kernel", "sum_kernel", "chain_kernel"]


def test_arrays_of_whole_numbers_and_large_ones_keep_their_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain, "_MOST_ELEMENTS", 7)
    x, i = (cuda_numba.from_host(np.arange(8).astype(t)) for t in (np.float32, np.int64))

    def work() -> None:
        for _ in range(2):
            cuda_numba.unary("square", x, x)
            cuda_numba.binary("add", i, i, i)

    assert again(work, [x, i], monkeypatch) == ["unary_kernel", "binary_kernel"] * 2


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_overlapping_views_gives_the_same(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(seed)
    arrays = [cuda_numba.from_host(normals((12, 24), np.float32, i)) for i in range(3)]

    def views(a: Any) -> list[Any]:
        return [a[:6, :10], a[6:, :10], a[3:9, 4:14], a.T[:6, :10], a[::2, ::2][:, :10], a[:6, 10:20], a[:1, :10]]

    steps = []
    for _ in range(14):
        *inputs, output = (views(arrays[rng.integers(3)])[rng.integers(7)] for _ in range(3))
        if output.shape[0] == 6 and not any(np.shares_memory(_host(output), _host(v)) for v in inputs):
            steps.append((("add", "multiply", "maximum")[rng.integers(3)], *inputs, output))

    def work() -> None:
        for op, a, b, y in steps:
            cuda_numba.binary(op, a, b, y)

    assert len(again(work, arrays, monkeypatch)) <= len(steps)


def _host(a: Any) -> Any:
    host = cuda_numba.arrays.host_view(a)
    assert host is not None
    return host
