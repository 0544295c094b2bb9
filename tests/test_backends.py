"""Which module serves a device: by name, by environment variable, and what is said when none can."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_cuda
import pytest

import gankernels as gk
from gankernels import backends
from gankernels.backends import cpu, registry

CORE = Path(__file__).resolve().parents[1] / "csrc" / "core"


@pytest.fixture(autouse=True)
def _no_backend_chosen(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = backends._serving.get("cuda")
    monkeypatch.delenv(backends.CHOICE, raising=False)
    backends.serve("cuda", None)
    yield
    backends.serve("cuda", before)


def install(monkeypatch: pytest.MonkeyPatch, **reasons: str | None) -> dict[str, Any]:
    """Put a module in the place of each CUDA backend that gives this reason."""
    modules = {}
    for kind, reason in reasons.items():
        module = modules[kind] = ModuleType(backends.CUDA_BACKENDS[kind])
        module.why_not = lambda reason=reason: reason  # type: ignore[attr-defined]
        module.name = "cuda"  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return modules


@pytest.mark.parametrize("file", ["kernels.inc", "epilogues.inc"])
def test_the_registry_names_the_kernels_of_the_sources(file: str) -> None:
    declared = re.findall(r"^template <class [^>]*>\s+void (\w+)\(", (CORE / file).read_text(), re.M)
    assert list(registry.KERNELS if file == "kernels.inc" else registry.EPILOGUES) == declared


@pytest.mark.parametrize("backend", [cpu, fake_cuda], ids=lambda b: b.__name__)
def test_a_backend_has_every_kernel_and_every_function_on_arrays(backend: ModuleType) -> None:
    names = (*registry.KERNELS, *registry.EPILOGUES, *registry.ARRAYS, "name")
    missing = [n for n in names if not hasattr(backend, n)]
    assert not missing


def test_the_compiled_backend_is_taken_before_numba(monkeypatch: pytest.MonkeyPatch) -> None:
    found = install(monkeypatch, compiled=None, numba=None)
    assert backends.get("cuda") is found["compiled"]


def test_numba_serves_where_the_compiled_backend_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    found = install(monkeypatch, compiled="no kernels for compute capability 7.5", numba=None)
    assert backends.get("cuda") is found["numba"]
    served = registry.served()["cuda"]
    assert served["reason"] == "compiled: no kernels for compute capability 7.5; numba: usable"


def test_the_environment_insists_on_one_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    found = install(monkeypatch, compiled=None, numba=None)
    monkeypatch.setenv(backends.CHOICE, "numba")
    assert backends.get("cuda") is found["numba"]
    install(monkeypatch, numba="the driver is too old")
    backends.serve("cuda", None)
    with pytest.raises(gk.DeviceError) as raised:
        backends.get("cuda")
    assert str(raised.value) == (
        "device 'cuda' cannot be used: numba: the driver is too old; "
        "GANKERNELS_CUDA_BACKEND=numba allows no other backend"
    )


@pytest.mark.cpu_only
def test_without_a_backend_both_reasons_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, compiled="there is no NVIDIA driver", numba="numba-cuda is not installed")
    with pytest.raises(gk.DeviceError) as raised:
        gk.zeros(2, device="cuda")
    assert str(raised.value) == (
        "device 'cuda' cannot be used: compiled: there is no NVIDIA driver; numba: numba-cuda is not installed"
    )
    assert backends.why_not("cuda") is not None
    assert gk.zeros(2).device == "cpu"


def test_a_name_that_is_no_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(backends.CHOICE, "cublas")
    with pytest.raises(gk.DeviceError, match="GANKERNELS_CUDA_BACKEND is 'cublas'; expected one of compiled, numba"):
        backends.get("cuda")
    with pytest.raises(gk.DeviceError, match="there is no device 'gpu'; the names are 'cpu' and 'cuda'"):
        backends.get("gpu")


@pytest.mark.parametrize("kind", backends.CUDA_BACKENDS)
def test_a_backend_says_why_not_without_raising(kind: str) -> None:
    module, reason = backends.cuda_backend(kind)
    assert (module is None) is (reason is not None)
    assert reason is None or len(reason) > 10


def test_a_module_that_is_missing_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in backends.CUDA_BACKENDS.values():
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(gk.DeviceError, match=r"compiled: .+; numba: .+"):
        backends.get("cuda")
