"""Memory, transfers and the choice of the Numba backend; optimizer steps; networks that train on it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numba_pairs import DTYPES, needs_device, normals

import gankernels as gk
from gankernels import backends
from gankernels.backends import cpu, cuda_numba, driver
from gankernels.testing.bounds import rounding


@pytest.fixture
def served() -> Iterator[None]:
    """This backend is the one of "cuda", whatever else is built."""
    backends.serve("cuda", cuda_numba)
    yield
    backends.serve("cuda", None)


STEPS: dict[str, tuple[str, int, tuple[Any, ...], bool]] = {
    "sgd": ("sgd_step", 0, (0.1, 0.0, 0.0, 0.01, False, 1), False),
    "momentum, first": ("sgd_step", 1, (0.1, 0.9, 0.3, 0.0, False, 1), False),
    "nesterov": ("sgd_step", 1, (0.1, 0.9, 0.0, 0.1, True, 2), False),
    "adam": ("adam_step", 2, (0.01, 0.9, 0.999, 1e-8, 0.1, False, 3), False),
    "adamw": ("adam_step", 2, (0.01, 0.5, 0.9, 1e-8, 0.1, True, 1), False),
    "rmsprop": ("rmsprop_step", 1, (0.01, 0.9, 1e-8, 0.1, 0.0, False), True),
    "centered rmsprop": ("rmsprop_step", 3, (0.01, 0.99, 1e-8, 0.0, 0.5, True), True),
    "lerp": ("lerp", 0, (0.3,), False),
}


@needs_device
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", STEPS)
def test_optimizer_steps_agree_with_the_cpu(name: str, dtype: Any) -> None:
    kernel, states, factors, pads = STEPS[name]
    p, g = normals((53,), dtype), normals((53,), dtype, 1)
    state = [np.abs(normals((53,), dtype, 2 + i)) + dtype(1) for i in range(states)]
    if kernel == "sgd_step" and not states:
        state = [np.zeros(0, dtype)]
    if kernel == "rmsprop_step":
        state += [np.zeros(0, dtype)] * (3 - len(state)) if pads else []
    expected = [a.copy() for a in (p, g, *state)]
    getattr(cpu, kernel)(*expected, *factors)
    placed = [cuda_numba.from_host(a) for a in (p, g, *state)]
    getattr(cuda_numba, kernel)(*placed, *factors)
    for got, want in zip(placed, expected, strict=True):
        error = np.abs(cuda_numba.to_host(got).astype(np.float64) - want)
        assert not (error > 40 * rounding(dtype) * (1 + np.abs(want))).any()


@needs_device
def test_memory_comes_back_and_is_used_again() -> None:
    before = cuda_numba.memory_stats()
    for _ in range(5):
        a = cuda_numba.empty((3000,), np.float32)
        del a
    after = cuda_numba.memory_stats()
    assert after["allocated_bytes"] == before["allocated_bytes"]
    assert after["driver_allocations"] <= before["driver_allocations"] + 1
    cuda_numba.empty_cache()
    assert cuda_numba.memory_stats()["reserved_bytes"] == after["allocated_bytes"]
    cuda_numba.synchronize()


@needs_device
def test_a_kernel_refuses_arrays_of_the_host() -> None:
    x = cuda_numba.full((3,), 1.0, np.float32)
    with pytest.raises(TypeError, match="given a ndarray; expected an array on 'cuda'"):
        cuda_numba.binary("add", x, np.ones(3, np.float32), x)


@needs_device
def test_arrays_travel_there_and_back_in_any_layout() -> None:
    for a in (
        np.array(2.5),
        np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)[::-1],
        np.zeros((0, 3)),
        np.array([True]),
    ):
        np.testing.assert_array_equal(cuda_numba.to_host(cuda_numba.from_host(a)), a)
    x = cuda_numba.from_host(np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(cuda_numba.to_host(x.T[::-1]), np.arange(6.0).reshape(2, 3).T[::-1])


@needs_device
def test_a_network_trains_on_the_device_as_on_the_cpu(served: None) -> None:
    losses = {}
    for device in ("cpu", "cuda"):
        gk.manual_seed(0)
        net = gk.nn.Sequential(
            gk.nn.Conv2d(1, 3, 3, padding=1), gk.nn.BatchNorm2d(3), gk.nn.LeakyReLU(0.2), gk.nn.MaxPool2d(2),
            gk.nn.Dropout(0.25), gk.nn.Flatten(), gk.nn.Linear(12, 1),
        ).to(device)  # fmt: skip
        optimizer = gk.optim.Adam(net.parameters(), lr=1e-2)
        x = gk.tensor(normals((4, 1, 4, 4), np.float32), device=device)
        losses[device] = []
        for _ in range(2):
            loss = gk.nn.functional.softplus(net(x)).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[device].append(loss.item())
    assert not (np.abs(np.subtract(*losses.values())) > 1e-5).any()


def test_the_names_are_those_of_the_cpu_backend() -> None:
    listed = {name for family in cuda_numba.FAMILIES.values() for name in family.split()}
    assert {name for name in listed if not hasattr(cpu, name)} <= {"synchronize", "copy_parts"}
    assert not set(cuda_numba.FAMILIES) & listed  # a module of the name would hide the function
    with pytest.raises(AttributeError, match="has no attribute 'convolve'"):
        _ = cuda_numba.convolve


def run(code: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if k not in ("NUMBA_ENABLE_CUDASIM", "GANKERNELS_CUDA_BACKEND")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=kept | environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout + done.stderr


ASK = "import gankernels as gk\ntry: gk.zeros(2, device='cuda')\nexcept Exception as e: print(type(e).__name__, e)"


def test_a_forced_backend_without_a_driver_says_so() -> None:
    if driver.problem() is None:
        pytest.skip("there is a driver here")
    said = run(ASK, GANKERNELS_CUDA_BACKEND="numba")
    assert said.startswith("DeviceError device 'cuda' cannot be used: numba: ")
    assert said.endswith("; GANKERNELS_CUDA_BACKEND=numba allows no other backend\n")
    assert "no NVIDIA driver" in said or "pip install 'gankernels[numba]'" in said


def test_a_forced_backend_without_its_package_says_how_to_install_it() -> None:
    hide = "import importlib.metadata as m\ndef absent(name): raise m.PackageNotFoundError(name)\nm.version = absent\n"
    said = run(hide + ASK, GANKERNELS_CUDA_BACKEND="numba")
    assert "numba: numba-cuda is not installed; run: pip install 'gankernels[numba]'" in said


def test_a_backend_of_another_name_is_refused_with_the_names() -> None:
    said = run(ASK, GANKERNELS_CUDA_BACKEND="opencl")
    assert "GANKERNELS_CUDA_BACKEND is 'opencl'; expected one of compiled, numba" in said


def test_a_version_that_is_not_known_to_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_numba.available.importlib.metadata, "version", lambda name: "0.9.1")
    assert re.search(r"numba-cuda 0.9.1 is installed, but gankernels needs >=0.30,<1.0", str(cuda_numba.why_not()))


def test_importing_gankernels_does_not_import_numba() -> None:
    code = "import sys, gankernels\nfrom gankernels.backends import cuda_numba\nprint('numba' in sys.modules)"
    assert run(code).strip() == "False"
