"""Every kernel compiles for GPUs that are not here: the simulator accepts what the compiler refuses."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gankernels.backends import cuda_numba

if os.environ.get("GANKERNELS_COMPILE_ALL") != "1" or cuda_numba.available.is_simulated():
    pytest.skip("takes a minute of processor time: GANKERNELS_COMPILE_ALL=1 pytest tests/numba_cuda/test_ptx.py",
                allow_module_level=True)  # fmt: skip

import numba
from numba import cuda
from numba_calls import every_call

launching: Any = importlib.import_module("gankernels.backends.cuda_numba.launch")
CAPABILITIES = [(8, 0), (9, 0)]


@pytest.fixture(scope="module")
def launches() -> Iterator[dict[tuple[Any, ...], Any]]:
    """(kernel, types of its arguments) -> kernel, of all launches."""
    found: dict[tuple[Any, ...], Any] = {}

    def record(kernel: Any, arguments: tuple[Any, ...]) -> None:
        signature = tuple(numba.typeof(a) for a in arguments)
        found[(id(kernel), *signature)] = (kernel, signature)

    launching.recording(record)
    try:
        for call in every_call():
            call()
        yield found
    finally:
        launching.recording(None)


def test_every_backend_function_is_among_the_calls(launches: dict[tuple[Any, ...], Any]) -> None:
    called = {name for family in cuda_numba.FAMILIES.values() for name in family.split()}
    transfers = {"synchronize", "memory_stats", "empty_cache", "empty", "full", "contiguous", "from_host", "to_host",
                 "Recording", "Memory"}  # fmt: skip
    source = (Path(__file__).parents[1] / "numba_calls.py").read_text()
    missing = [name for name in sorted(called - transfers) if f"device.{name}(" not in source]
    assert not missing


@pytest.mark.parametrize("capability", CAPABILITIES, ids=lambda c: f"sm_{c[0]}{c[1]}")
def test_every_kernel_compiles_to_ptx(
    launches: dict[tuple[Any, ...], Any], capability: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    dispatcher = importlib.import_module("numba.cuda.dispatcher")
    # functions that kernels call ask the GPU for its capability
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: SimpleNamespace(compute_capability=capability))
    refused = []
    for kernel, signature in launches.values():
        name = kernel.py_func.__name__
        try:
            ptx, _ = cuda.compile(kernel.py_func, signature, cc=capability, device=False, abi="numba", output="ptx")
        except Exception as error:
            refused.append(f"{name}{signature}: {error}")
            continue
        assert f".target sm_{capability[0]}{capability[1]}" in ptx
        # the sums of a tile live in registers: arrays that the compiler puts into memory would make it useless
        assert ("conv" not in name and "matmul" not in name) or "__local_depot" not in ptx, name
    assert not refused, "\n\n".join(refused)
    assert len(launches) > 200
