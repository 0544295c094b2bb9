"""GANKERNELS_CUDA at configure time: four values, one error, always a reason."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.cpu_only
SWITCH = Path(__file__).resolve().parents[1] / "csrc" / "cuda_switch.cmake"
PROJECT = f"""
cmake_minimum_required(VERSION 3.18...3.31)
project(switch LANGUAGES CXX)
include("{SWITCH}")
message(STATUS "built=${{GK_CUDA_BUILT}} asked=${{gk_cuda}}")
"""

if shutil.which("cmake") is None or shutil.which("c++") is None:
    pytest.skip("cmake and a C++ compiler are needed to configure", allow_module_level=True)


def configure(folder: Path, value: str | None, *options: str) -> tuple[int, str]:
    (folder / "CMakeLists.txt").write_text(PROJECT)
    command = ["cmake", "-S", str(folder), "-B", str(folder / "build"), *options]
    if value is not None:
        command.append(f"-DGANKERNELS_CUDA={value}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, " ".join((done.stdout + done.stderr).split())


def test_off_is_a_build_without_cuda_that_says_so(tmp_path: Path) -> None:
    code, said = configure(tmp_path, "off")
    assert code == 0
    assert "built=False asked=off" in said
    assert "CUDA module not built: switched off" in said


@pytest.fixture
def no_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("PATH", f"/usr/bin:/bin:{Path(shutil.which('cmake') or '').parent}")
    if shutil.which("nvcc") is not None:
        pytest.skip("nvcc lies beside the C++ compiler here")
    for folder in Path("/usr/local").glob("cuda*/bin/nvcc"):
        pytest.skip(f"CMake finds {folder}")


def test_auto_is_the_default_and_says_once_what_it_decided(tmp_path: Path) -> None:
    code, said = configure(tmp_path, None)
    assert code == 0
    assert "asked=auto" in said
    assert said.count("gankernels: CUDA module ") == 1
    assert ("built=True" in said) == ("gankernels: CUDA module built for 80-real" in said)


def test_auto_builds_for_a_machine_with_a_driver_and_on_for_any(tmp_path: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc here")
    _, driver = configure(tmp_path, "auto", "-DGK_NVIDIA_SMI=/bin/true")
    assert "built=True" in driver
    if not Path("/proc/driver/nvidia/version").exists():
        (tmp_path / "none").mkdir()
        code, none = configure(tmp_path / "none", "auto", "-DGK_NVIDIA_SMI=GK_NVIDIA_SMI-NOTFOUND")
        assert (code, "built=False" in none) == (0, shutil.which("nvidia-smi") is None)
    (tmp_path / "on").mkdir()
    assert "built=True" in configure(tmp_path / "on", "on")[1]


def test_emulated_is_a_cuda_module_that_needs_no_nvcc(tmp_path: Path) -> None:
    code, said = configure(tmp_path, "emulated")
    assert code == 0
    assert "built=True asked=emulated" in said
    assert "CUDA module built for the emulator" in said


@pytest.mark.parametrize(
    ("asked", "works", "said"),
    [
        ("80;89", True, "CUDA module built for 80-real;89-real;89-virtual "),
        ("80;hopper", False, "GANKERNELS_CUDA_ARCHS holds 'hopper'; expected numbers as in 80;90"),
    ],
)
def test_the_architectures_can_be_named_and_the_last_one_comes_as_ptx_too(
    asked: str, works: bool, said: str, tmp_path: Path
) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("there is no nvcc here")
    code, output = configure(tmp_path, "on", f"-DGANKERNELS_CUDA_ARCHS={asked}")
    assert (code == 0) is works
    assert said in output


@pytest.mark.usefixtures("no_nvcc")
def test_on_without_a_compiler_is_an_error_with_the_reason(tmp_path: Path) -> None:
    code, said = configure(tmp_path, "ON")
    assert code != 0
    assert "GANKERNELS_CUDA=on, but the CUDA module cannot be built: " in said
    assert "Use GANKERNELS_CUDA=auto or off" in said


@pytest.mark.parametrize("value", ["maybe", "1", "auto;on"])
def test_another_value_is_an_error_that_names_the_four(value: str, tmp_path: Path) -> None:
    code, said = configure(tmp_path, value)
    assert code != 0
    assert f"GANKERNELS_CUDA is '{value}'; expected auto, on, off or emulated" in said


def test_a_broken_nvcc_is_a_reason_and_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "bin" / "nvcc"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}:/usr/bin:/bin:{Path(shutil.which('cmake') or '').parent}")
    monkeypatch.setenv("CUDACXX", str(fake))
    code, said = configure(tmp_path, "auto")
    assert code == 0
    assert "nvcc was found when the package was built, but it does not work" in said
