"""The emulator catches what a GPU would not say: a removed __syncthreads is reported by every kernel that needs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from gankernels.backends import cuda
from gankernels.backends.device_array import DeviceArray

if cuda.native is None or not cuda.native.emulated:
    pytest.skip("the CUDA module of this copy is not built for the emulator", allow_module_level=True)

native = cuda.native


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    yield
    native.emulator_skip_barrier("")
    native.emulator_seed(1)
    native.emulator_checks(True)


def _array(*shape: int) -> Any:
    return cuda.from_host(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def _sum() -> Any:
    y = cuda.empty((1,), np.float32)
    cuda.sum(_array(3000), y)
    return y


def _moments() -> Any:
    mean, variance = cuda.empty((3,), np.float32), cuda.empty((3,), np.float32)
    cuda.channel_moments(_array(4, 3, 500), mean, variance)
    return variance


def _softmax() -> Any:
    y = cuda.empty((2, 300), np.float32)
    cuda.softmax(_array(2, 300), y)
    return y


KERNELS: dict[str, Callable[[], Any]] = {"sum": _sum, "channel_moments": _moments, "softmax": _softmax}
if hasattr(native, "matmul"):

    def _matmul() -> Any:
        y = cuda.empty((1, 70, 70), np.float32)
        cuda.matmul(_array(1, 70, 40), _array(1, 40, 70), y, 0)
        return y

    KERNELS["matmul"] = _matmul


@pytest.mark.parametrize("name", KERNELS)
def test_every_barrier_of_a_kernel_is_missed_when_it_is_removed(name: str) -> None:
    run = KERNELS[name]
    before = set(native.emulator_barriers())
    run()
    sites = set(native.emulator_barriers())
    own = sites - before or sites
    caught = set()
    for site in sorted(own):
        native.emulator_skip_barrier(site)
        try:
            run()
        except RuntimeError as error:
            assert "race in" in str(error) or "barrier" in str(error)  # noqa: PT017
            caught.add(site)
    native.emulator_skip_barrier("")
    run()  # and all is well with it
    assert caught, f"none of {sorted(own)} was missed"
    # matmul's first barrier matters from the second tile of a block on; softmax's last one only where its two joins are
    # given the same shared memory
    if sites - before and name not in ("matmul", "softmax"):
        assert caught == own


@pytest.mark.parametrize("seed", [0, 1, 2, 12345])
def test_results_do_not_depend_on_the_order_of_threads(seed: int) -> None:
    native.emulator_seed(seed)
    results = [cuda.to_host(run()).tobytes() for run in KERNELS.values()]
    native.emulator_seed(99)
    assert results == [cuda.to_host(run()).tobytes() for run in KERNELS.values()]


def test_an_access_outside_of_an_array_is_named() -> None:
    a = _array(100)
    a.shape = (200,)
    with pytest.raises(RuntimeError, match=r"emulator: .*a write of .* bytes outside of every array"):
        cuda.fill(a, 1.0)


def test_neighbours_that_share_a_word_are_told_apart() -> None:
    a = cuda.cast(_array(70), "bfloat16")
    cuda.unary("negate", a[1:], a[1:])  # every thread in two bytes of its own
    over_the_same = DeviceArray(a.buffer, (30,), np.float32, cuda)
    for x, y in [(a[:-1], a[1:]), (a[2:], a[:-2]), (a[1:31], over_the_same)]:
        with pytest.raises(RuntimeError, match="race in global memory"):
            native.copy(x, y) if x.dtype == y.dtype else native.cast(x, y)


def test_memory_is_not_zero_before_it_is_written() -> None:
    assert np.isnan(cuda.to_host(cuda.empty((10,), np.float32))).all()


def test_memory_given_back_is_used_again_and_out_of_memory_says_what_is_held() -> None:
    cuda.empty_cache()
    first = cuda.empty((1000,), np.float64)
    address = first.ptr
    del first
    again = cuda.empty((1000,), np.float64)
    assert again.ptr == address
    held = cuda.memory_stats()
    assert held["in_use"] >= 8000
    assert held["reserved"] >= held["in_use"]
    cuda.set_memory_limit(held["reserved"] + 4096)
    try:
        with pytest.raises(MemoryError, match=r"an array of 0\.76 MiB was asked for.*At most \d+ % of this batch fits"):
            cuda.empty((100000,), np.float64)
    finally:
        cuda.set_memory_limit(None)


def test_arrays_of_another_kind_are_refused() -> None:
    x = _array(4)
    with pytest.raises(TypeError):
        cuda.native.copy(np.zeros(4, np.float32), x)
    with pytest.raises(TypeError):
        cuda.native.copy(x, x.broadcast_to((4, 4))[0].broadcast_to((2, 4)))
    with pytest.raises(TypeError, match="float32, float64, int64 or bool"):
        cuda.empty((3,), np.int32)
