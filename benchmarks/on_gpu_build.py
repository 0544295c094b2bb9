"""The build of `python -m benchmarks.on_gpu`: both modules by CMake, and beside them copies of what uses them.

    python -m benchmarks.on_gpu_build FOLDER on|emulated

FOLDER/package then holds gankernels with its modules, tests, benchmarks and what the tests read; nothing is installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("gankernels", "tests", "benchmarks", "csrc")


def architecture() -> str:
    """Compute capability of the first GPU as CMake numbers it, or "" for those of the package."""
    try:
        asked = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return said.split()[0].replace(".", "") if said.split() else ""


def main(folder: Path, mode: str) -> int:
    """Build; returns the exit code of what failed, or 0."""
    build = folder / "modules"
    found = subprocess.run([sys.executable, "-m", "pybind11", "--cmakedir"], capture_output=True, text=True)
    if found.returncode != 0:
        print("pybind11 is not in this Python; run: pip install pybind11", file=sys.stderr)
        return 1
    configure = [
        "cmake", "-S", str(ROOT), "-B", str(build), "-DCMAKE_BUILD_TYPE=Release", f"-DGANKERNELS_CUDA={mode}",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={found.stdout.strip()}",
    ]  # fmt: skip
    if mode == "on" and architecture():
        configure.append(f"-DGANKERNELS_CUDA_ARCHS={architecture()}")
    jobs = str(os.cpu_count() or 2)
    for command in (configure, ["cmake", "--build", str(build), "--parallel", jobs, "--target", "_cpu", "_cuda"]):
        code = subprocess.run(command).returncode
        if code:
            return code
    package = folder / "package"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    for name in COPIED:
        ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build_info.py")
        shutil.copytree(ROOT / name, package / name, ignore=ignored)
    for path in ROOT.iterdir():
        if path.is_file() and (path.suffix in (".md", ".toml", ".txt") or path.name == "LICENSE"):
            shutil.copy(path, package)
    for made in (*build.glob("_c*.so"), build / "_build_info.py"):
        shutil.copy(made, package / "gankernels")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]).resolve(), sys.argv[2]))
