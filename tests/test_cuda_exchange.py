"""Device memory and other libraries through the public API, on the emulated device: limits, streams, both protocols."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels import backends
from gankernels.backends import cuda

pytestmark = pytest.mark.skipif(
    cuda.why_not() is not None or not cuda.native.emulated, reason="the CUDA module is not built for the emulator"
)


@pytest.fixture(autouse=True)
def _compiled_backend() -> Iterator[None]:
    backends.serve("cuda", cuda)
    yield
    gk.set_memory_limit(None, "cuda")
    backends.serve("cuda", None)


class Foreign:
    """An array of another library that describes its memory by the CUDA array interface only."""

    def __init__(self, owner: gk.Tensor, **changes: Any) -> None:
        self.owner = owner
        self.__cuda_array_interface__ = {**owner.__cuda_array_interface__, **changes}


def test_statistics_follow_arrays_and_the_cache_goes_back_when_told() -> None:
    gk.empty_cache("cuda")
    before = gk.memory_stats("cuda")
    t = gk.zeros(1 << 18, device="cuda")
    held = gk.memory_stats("cuda")
    assert held["in_use"] - before["in_use"] == t.numel() * 4
    assert held["live_arrays"] - before["live_arrays"] == 1
    del t
    kept = gk.memory_stats("cuda")
    assert kept["in_use"] == before["in_use"]
    assert kept["reserved"] == held["reserved"]
    gk.empty_cache("cuda")
    assert gk.memory_stats("cuda")["reserved"] == before["reserved"]
    gk.reset_peak_memory("cuda")
    assert gk.memory_stats("cuda")["peak_in_use"] == before["in_use"]
    gk.synchronize("cuda")


def test_beyond_the_limit_the_error_says_what_was_asked_what_is_held_and_what_fits() -> None:
    gk.empty_cache("cuda")
    kept = gk.zeros(1 << 20, device="cuda")
    gk.set_memory_limit(gk.memory_stats("cuda")["reserved"] + (8 << 20), "cuda")
    with pytest.raises(
        MemoryError, match=r"16\.00 MiB was asked for; arrays hold \d+\.\d+ MiB.*the limit is"
    ) as caught:
        gk.zeros(1 << 22, device="cuda")
    assert "% of this batch fits" in str(caught.value)
    gk.set_memory_limit(None, "cuda")
    assert gk.zeros(1 << 22, device="cuda").shape == (1 << 22,)
    assert kept.shape == (1 << 20,)


def test_a_limit_must_be_a_number_of_bytes_and_the_cpu_has_none() -> None:
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="expected None or an int of at least 1"):
            gk.set_memory_limit(wrong, "cuda")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match=r"set_memory_limit: the backend of 'cpu', gankernels\.backends\.cpu"):
        gk.set_memory_limit(1 << 30, "cpu")
    gk.synchronize("cpu")


def test_an_array_described_by_the_cuda_array_interface_is_copied_after_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited: list[int] = []
    monkeypatch.setattr(cuda, "wait_for_stream", waited.append)
    owner = gk.tensor(np.arange(6.0).reshape(2, 3).astype(np.float32), device="cuda")
    copy = gk.tensor(Foreign(owner, stream=7))
    assert waited == [7]
    assert copy.device == "cuda"
    assert np.array_equal(copy.cpu().numpy(), owner.cpu().numpy())
    turned = gk.tensor(Foreign(owner, shape=(3, 2), strides=(4, 12)))
    assert np.array_equal(turned.cpu().numpy(), owner.cpu().numpy().T)
    last = owner.data.ptr + 20
    backwards = gk.tensor(Foreign(owner, shape=(6,), strides=(-4,), data=(last, False)), dtype=np.float64)
    assert np.array_equal(backwards.cpu().numpy(), np.arange(6.0)[::-1])


@pytest.mark.parametrize(("changes", "said"), [({"stream": 0}, "stream 0"), ({"mask": object()}, "masked")])
def test_what_the_interface_leaves_open_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TypeError, match=f"cannot read the Foreign on 'cuda': .*{said}"):
        gk.tensor(Foreign(gk.zeros(3, device="cuda"), **changes))


def test_an_export_lets_the_readers_stream_wait_and_not_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting: list[int] = []
    monkeypatch.setattr(cuda, "make_stream_wait", waiting.append)
    monkeypatch.setattr(cuda, "synchronize", lambda: pytest.fail("the host waited"))
    t = gk.zeros(3, device="cuda")
    for stream in (9, -1, cuda.stream()):
        t.__dlpack__(stream=stream)
    assert waiting == [9]
    assert t.__cuda_array_interface__["stream"] == cuda.stream()
