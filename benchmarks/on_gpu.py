"""Everything that only a GPU can tell, in one command, part by part, at most ten minutes a call:

    python -m benchmarks.on_gpu                  # go on where the last call ended; results in build/on_gpu/results.json
    python -m benchmarks.on_gpu --part time      # only these parts: build, info, suite, sanitize, time
    python -m benchmarks.on_gpu --afresh         # forget what was done
    python -m benchmarks.on_gpu --emulated       # rehearse all of it without a GPU, at tiny sizes

It needs a checkout, an NVIDIA driver, nvcc, CMake, a C++ compiler, and in this Python numpy, pybind11, pytest,
hypothesis and torch; it fetches nothing and installs nothing. The parts are

    build      the modules for this GPU alone, into build/on_gpu, warnings as errors
    info       what `gankernels info` says: device, driver, embedded code
    suite      the whole test suite with --device cuda --require cuda, some files a piece
    sanitize   compute-sanitizer memcheck, racecheck and synccheck over the kernel tests, where the tool is
    time       python -m benchmarks --device cuda: compiled, Numba and PyTorch by turns in one process, a workload a
               piece; the layers of 3dgan first, because what cuDNN reaches there says what can be won

A piece that failed is written down with the end of its output and tried again by the next call; the exit code is 1 if
any failed, and 2 if the time ended first. A change of the sources makes all of it be done again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
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
    """A command, and what its output leaves."""

    name: str
    command: list[str]
    limit_s: float = 580.0
    result: Path | None = None  # JSON that it writes
    environment: dict[str, str] = field(default_factory=dict)


def main(arguments: list[str] | None = None) -> int:
    """Run the pieces that are left; returns the exit code."""
    options = _parser().parse_args(arguments)
    place = options.out or ROOT / "build" / ("on_gpu_rehearsal" if options.emulated else "on_gpu")
    if options.afresh and place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True, exist_ok=True)
    record = _Record(place / "results.json", _fingerprint())
    end = time.monotonic() + 60.0 * options.minutes
    for piece in _pieces(place, options.part, options.emulated):
        if record.passed(piece.name):
            continue
        left = end - time.monotonic()
        if left < min(20.0, piece.limit_s):
            print("the time is up; the same command goes on from here")
            return 2
        done = _run(piece, place, min(left, piece.limit_s))
        record.add(piece.name, done)
        print(f"{piece.name:<34} {done['status']:<8} {done['seconds']:7.1f} s  {done['last']}", flush=True)
        if piece.name == "build" and done["status"] != "passed":
            print("\n".join(done["output"]))
            return 1
    failed = record.failed()
    print(f"{record.path}: {len(record.pieces)} pieces, failed: {', '.join(failed) or 'none'}")
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
    if "build" in parts or not package.exists():
        yield Piece("build", [python, "-m", "benchmarks.on_gpu_build", str(place), "emulated" if emulated else "on"])
    if "info" in parts:
        yield Piece("info", [python, "-m", "gankernels.info", "--json"], 60.0, environment=there)
    timed = list(_timed(place, there, emulated)) if "time" in parts else []
    yield from timed[:1]  # before anything else is spent on: what cuDNN makes of our layers
    if "suite" in parts:
        files = REHEARSED if emulated else [f"tests/{p.name}" for p in sorted((ROOT / "tests").glob("test_*.py"))]
        for i in range(0, len(files), SUITE_FILES):
            yield Piece(f"suite {i // SUITE_FILES + 1}", [*pytest, *files[i : i + SUITE_FILES]], environment=there)
    yield from timed[1:]
    if "sanitize" in parts and not emulated:
        for tool in ("memcheck", "racecheck", "synccheck"):
            command = ["compute-sanitizer", "--tool", tool, "--error-exitcode", "9", "--target-processes", "all"]
            yield Piece(f"sanitize {tool}", [*command, *pytest, "-x", *SANITIZED], environment=there)


def _timed(place: Path, there: dict[str, str], emulated: bool) -> Iterator[Piece]:
    everyone = {k: v for k, v in there.items() if k != "GANKERNELS_CUDA_BACKEND"}  # Numba races too where it runs
    for part, workload in (("step", "toy"), ("generate", "toy")) if emulated else TIMED:
        result = place / f"time-{part}-{workload}.json"
        batches = f"1,{BATCHES[workload]}" if part == "generate" else str(BATCHES[workload])
        sizes = ["--batch", "4", "--budget", "0.01"] if emulated else ["--batch", batches, "--minutes", "9"]
        command = [sys.executable, "-m", "benchmarks", "--device", "cuda", "--part", part, "--workload", workload]
        yield Piece(f"time {part} {workload}", [*command, *sizes, "--json", str(result)], result=result,
                    environment=there if emulated else everyone)  # fmt: skip


# ---- running them ----------------------------------------------------------------------------------------------------
def _run(piece: Piece, place: Path, limit_s: float) -> dict[str, Any]:
    """Status, seconds, the end of the output, and the JSON of a piece."""
    if piece.result is not None:
        piece.result.unlink(missing_ok=True)
    inside = place / "package" if piece.name != "build" else ROOT
    began = time.monotonic()
    try:
        done = subprocess.run(
            piece.command, cwd=inside, env=os.environ | piece.environment, capture_output=True, text=True,
            timeout=limit_s,
        )  # fmt: skip
        status, output = ("passed" if done.returncode == 0 else "failed"), done.stdout + done.stderr
    except subprocess.TimeoutExpired as late:
        status, output = "late", "".join(t if isinstance(t, str) else t.decode() for t in (late.stdout or b"",))
    except FileNotFoundError as error:
        status, output = "absent", f"{error.filename} is not here"
    lines = [line for line in output.splitlines() if line.strip()]
    found: dict[str, Any] = {
        "status": status,
        "seconds": round(time.monotonic() - began, 1),
        "last": lines[-1][:100] if lines and piece.name != "info" else "",
        "output": [] if status == "passed" else lines[-40:],
    }
    if piece.name == "info" and status == "passed":
        found["report"] = json.loads(output)
    if piece.result is not None and piece.result.exists():
        found["measured"] = json.loads(piece.result.read_text())
    return found


class _Record:
    """What was done, in a JSON file that is whole after every piece."""

    def __init__(self, path: Path, sources: str) -> None:
        self.path, self.sources = path, sources
        self.pieces: dict[str, Any] = {}
        if path.exists():
            known = json.loads(path.read_text())
            if known["sources"] == sources:
                self.pieces = known["pieces"]

    def passed(self, name: str) -> bool:
        """Whether a piece need not be run again."""
        return self.pieces.get(name, {}).get("status") == "passed"

    def failed(self) -> list[str]:
        """Pieces that ran and did not pass; a tool that is not on this machine is no failure."""
        return [name for name, done in self.pieces.items() if done["status"] not in ("passed", "absent")]

    def add(self, name: str, done: dict[str, Any]) -> None:
        """Note a piece and write the file."""
        self.pieces[name] = done
        text = json.dumps({"sources": self.sources, "pieces": self.pieces}, indent=1)
        partly = self.path.with_suffix(".partly")
        partly.write_text(text + "\n")
        partly.replace(self.path)


def _fingerprint() -> str:
    """Of the sources that a piece depends on."""
    digest = hashlib.sha256()
    for folder in ("csrc", "gankernels", "tests", "benchmarks"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SOURCES and path.name != "_build_info.py":  # which builds write
                digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


if __name__ == "__main__":
    raise SystemExit(main())
