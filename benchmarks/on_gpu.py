"""Everything that only a GPU can tell, in one command, part by part, at most ten minutes a call:

    python -m benchmarks.on_gpu                  # go on where the last call ended; results in build/on_gpu/results.json
    python -m benchmarks.on_gpu --part time      # only these parts: build, info, suite, sanitize, time
    python -m benchmarks.on_gpu --afresh         # forget what was done
    python -m benchmarks.on_gpu --emulated       # rehearse all of it without a GPU, at tiny sizes

It needs a checkout, an NVIDIA driver, nvcc, CMake, a C++ compiler, and in this Python numpy, pybind11, pytest,
hypothesis and torch; it fetches nothing and installs nothing. The parts are

    build      the modules for this GPU alone, into build/on_gpu; what compilers warn of is written down
    info       what `gankernels info` says: device, driver, embedded code
    suite      the whole test suite with --device cuda --require cuda, some files a piece; the tests of the Numba
               backend where Numba is installed
    sanitize   compute-sanitizer memcheck, racecheck and synccheck over the kernel tests, where the tool is
    time       python -m benchmarks --device cuda: compiled, Numba and PyTorch by turns in one process, a workload a
               piece; the layers of 3dgan first, because what cuDNN reaches there says what can be won

Other parts build first if that was not done. A piece that failed is written down with the end of its output and tried
again by the next call, after those that were not tried yet. The exit code is 1 if any failed, and 2 if the time ended
first: then the same command goes on, also within the build. A change of the sources makes all of it be done again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("build", "info", "suite", "sanitize", "time")
SOURCES = (".py", ".cu", ".cuh", ".cpp", ".hpp", ".inc", ".inl", ".cmake", ".in")
SUITE_FILES = 6  # test files in a piece
LEAST_S = 20.0  # with less time left no piece is begun
SANITIZED = ("tests/test_cuda_kernels.py", "tests/test_cuda_conv_kernels.py")
REHEARSED = ("tests/test_tensor.py", "tests/test_optim.py")
TIMED = (
    ("layers", "3dgan"), ("step", "3dgan"), ("generate", "3dgan"), ("step", "dcgan64"), ("step", "calogan-like"),
    ("step", "3dgan-angle"), ("generate", "calogan-like"), ("generate", "dcgan64"), ("generate", "3dgan-angle"),
    ("step", "toy"), ("generate", "toy"), ("layers", "calogan-like"), ("layers", "dcgan64"),
)  # fmt: skip
BATCHES = {"3dgan": 128, "3dgan-angle": 128, "calogan-like": 256, "dcgan64": 128, "toy": 64}


@dataclass(frozen=True)
class Piece:
    """A command, and what it leaves; "{minutes}" in it is most of the time that it is given."""

    name: str
    command: list[str]
    limit_s: float = 580.0
    result: Path | None = None  # JSON that it writes
    environment: dict[str, str] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run the pieces that are left; returns the exit code."""
    options = _parser().parse_args(arguments)
    default = ROOT / "build" / ("on_gpu_rehearsal" if options.emulated else "on_gpu")
    place = (options.out or default).resolve()
    if options.afresh and place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    record = _Record(place / "results.json", _fingerprint())
    if not (place / "package").exists():
        record.forget("build")
    asked = list(_pieces(place, options.part, options.emulated))
    end = time.monotonic() + 60.0 * options.minutes
    for piece in record.order(asked):
        left = end - time.monotonic()
        done = None
        if left >= min(LEAST_S, piece.limit_s):
            done = _run(piece, place, min(left, piece.limit_s))
            record.add(piece.name, done)
            print(f"{piece.name:<34} {done['status']:<8} {done['seconds']:7.1f} s  {done['last']}", flush=True)
        if done is None or (done["status"] == "late" and left <= piece.limit_s):
            print("the time is up; the same command goes on from here")
            return 2
        if piece.name == "build" and done["status"] != "passed":
            print("\n".join(done["output"]))
            return 1
    failed = record.failed(asked)
    print(f"{record.path}: {len(asked)} pieces, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    head, _, rest = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(
        prog="python -m benchmarks.on_gpu", description=head, epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    p.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="only these")
    p.add_argument("--minutes", type=float, default=9.5, help="of this call (default 9.5)")
    p.add_argument("--emulated", action="store_true", help="rehearse on the processor, at tiny sizes")
    p.add_argument("--afresh", action="store_true", help="forget what was done")
    p.add_argument("--out", type=Path, help="folder for builds and results (default build/on_gpu)")
    return p


# ---- the pieces ------------------------------------------------------------------------------------------------------
def _pieces(place: Path, parts: list[str], emulated: bool) -> Iterator[Piece]:
    """In the order of their importance; later ones need the first."""
    package, python = place / "package", sys.executable
    there = {"PYTHONPATH": str(package), "GANKERNELS_CUDA_BACKEND": "compiled", "PYTHONDONTWRITEBYTECODE": "1"}
    pytest = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--device", "cuda", "--require", "cuda"]
    mode = "emulated" if emulated else "on"
    yield Piece("build", [python, "-m", "benchmarks.on_gpu_build", str(place), mode], 3600.0)
    if "info" in parts:
        yield Piece("info", [python, "-m", "gankernels.info", "--json"], 60.0, environment=there)
    timed = list(_timed(place, there, emulated)) if "time" in parts else []
    yield from timed[:1]  # before anything else is spent on: what cuDNN makes of our layers
    if "suite" in parts:
        files = REHEARSED if emulated else [f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("test_*.py"))]
        for i in range(0, len(files), SUITE_FILES):
            yield Piece(f"suite {i // SUITE_FILES + 1}", [*pytest, *files[i : i + SUITE_FILES]], environment=there)
        if importlib.util.find_spec("numba") and not emulated:
            command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/numba_cuda"]
            yield Piece("suite numba", command, environment=there | {"GANKERNELS_CUDA_BACKEND": "numba"})
    yield from timed[1:]
    if "sanitize" in parts and not emulated:
        for tool in ("memcheck", "racecheck", "synccheck"):
            command = [_of_the_toolkit("compute-sanitizer"), "--tool", tool, "--error-exitcode", "9"]
            command += ["--target-processes", "all", *pytest, "-x", *SANITIZED]
            yield Piece(f"sanitize {tool}", command, environment=there)


def _of_the_toolkit(tool: str) -> str:
    """The program where it is found, or beside nvcc."""
    compiler = shutil.which("nvcc")
    beside = None if compiler is None else shutil.which(tool, path=str(Path(compiler).resolve().parent))
    return shutil.which(tool) or beside or tool


def _timed(place: Path, there: dict[str, str], emulated: bool) -> Iterator[Piece]:
    everyone = {k: v for k, v in there.items() if k != "GANKERNELS_CUDA_BACKEND"}  # Numba races too where it runs
    for part, workload in (("step", "toy"), ("generate", "toy")) if emulated else TIMED:
        result = place / f"time-{part}-{workload}.json"
        batches = f"1,{BATCHES[workload]}" if part == "generate" else str(BATCHES[workload])
        sizes = ["--batch", "4", "--budget", "0.01"] if emulated else ["--batch", batches, "--minutes", "{minutes}"]
        command = [sys.executable, "-m", "benchmarks", "--device", "cuda", "--part", part, "--workload", workload]
        yield Piece(f"time {part} {workload}", [*command, *sizes, "--json", str(result)], result=result,
                    environment=there if emulated else everyone)  # fmt: skip


# ---- running them ----------------------------------------------------------------------------------------------------
def _run(piece: Piece, place: Path, limit_s: float) -> dict[str, Any]:
    """Status, seconds, the end of the output, and the JSON of a piece."""
    if piece.result is not None:
        piece.result.unlink(missing_ok=True)
    inside = place / "package" if piece.name != "build" else ROOT
    command = [word.replace("{minutes}", f"{0.8 * limit_s / 60.0:.2f}") for word in piece.command]
    began = time.monotonic()
    if shutil.which(command[0]) is None:
        return {"status": "absent", "seconds": 0.0, "last": f"{command[0]} is not here", "output": []}
    with subprocess.Popen(
        command, cwd=inside, env=os.environ | piece.environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, errors="replace", start_new_session=True,
    ) as process:  # fmt: skip
        try:
            said, complaints = process.communicate(timeout=limit_s)
            status = "passed" if process.returncode == 0 else "failed"
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)  # compilers and tests that it started, too
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            said, complaints = process.communicate()
            status = "late"
    output = said + complaints
    lines = [line for line in output.splitlines() if line.strip()]
    found: dict[str, Any] = {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "last": "" if piece.name == "info" else _last(said if status == "passed" else output),
        "output": [] if status == "passed" else lines[-40:],
    }
    if piece.name == "info" and status == "passed":
        found["report"] = json.loads(said)
    if piece.name == "build":
        found["warnings"] = [line for line in lines if "warning:" in line or "warning #" in line]
    if piece.result is not None and piece.result.exists():
        found["measured"] = json.loads(piece.result.read_text())
    return found


def _last(output: str) -> str:
    lines = output.strip().splitlines()
    return lines[-1][:100] if lines else ""


class _Record:
    """What was done, in a JSON file that is whole after every piece."""

    def __init__(self, path: Path, sources: str) -> None:
        self.path, self.sources = path, sources
        self.pieces: dict[str, Any] = {}
        if path.exists():
            known = json.loads(path.read_text())
            if known["sources"] == sources:
                self.pieces = known["pieces"]

    def status(self, piece: Piece) -> str | None:
        """How a piece ended; None if it was not tried."""
        done = self.pieces.get(piece.name)
        return None if done is None else str(done["status"])

    def order(self, asked: list[Piece]) -> list[Piece]:
        """What is left to do: the build, what was not tried yet, what did not pass."""
        left = [p for p in asked if self.status(p) != "passed"]
        return sorted(left, key=lambda p: (p.name != "build", self.status(p) is not None))

    def failed(self, asked: list[Piece]) -> list[str]:
        """Those that did not pass; a tool that is not on this machine is no failure."""
        return [p.name for p in asked if self.status(p) not in ("passed", "absent")]

    def forget(self, name: str) -> None:
        """A piece must be run again."""
        self.pieces.pop(name, None)

    def add(self, name: str, done: dict[str, Any]) -> None:
        """Note a piece and write the file."""
        self.pieces[name] = done
        text = json.dumps({"sources": self.sources, "pieces": self.pieces}, indent=1)
        partly = self.path.with_suffix(".partly")
        partly.write_text(text + "\n")
        partly.replace(self.path)


def _fingerprint() -> str:
    """Of the sources that a piece depends on."""
    digest = hashlib.sha256((ROOT / "CMakeLists.txt").read_bytes() + (ROOT / "pyproject.toml").read_bytes())
    for folder in ("csrc", "gankernels", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SOURCES and path.name != "_build_info.py":  # which builds write
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
