"""The command: which measurements are made, in which order, and what becomes of them.

    python -m benchmarks                                   # everything, at most 20 minutes on 2 cores
    python -m benchmarks --quick                           # small sizes, at most 3 minutes: does it run?
    python -m benchmarks --part step --workload 3dgan --batch 64 --dtype float32 --threads 2
    python -m benchmarks --part layers --workload 3dgan --layer discriminator --conv-algorithm fft
    python -m benchmarks --part profile --workload 3dgan   # a training step by kernel, percent of the roofs
    python -m benchmarks --device cuda --workload 3dgan    # on a GPU: compiled, Numba and PyTorch side by side
    python -m benchmarks --table                           # the README's table from the last written JSON

A measurement is a row: ours and every rival by turns in one process, medians and quartiles, after their answers were
compared; a wrong answer is not timed, is named, and makes the exit code 1. What does not fit into --minutes is left out
from the end of the plan and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parent / "results"
PARTS = ("step", "generate", "layers", "memory", "growth", "profile")
NAMES = ("3dgan", "3dgan-angle", "calogan-like", "dcgan64", "toy")
DTYPES = ("float32", "bfloat16")
ONE_BRANCH = ("branches.0", "features.0", "head")


@dataclass(frozen=True)
class Task:
    """One call of a measure."""

    part: str
    workload: str
    dtype: str
    threads: int
    batch: int


def plan(threads: int, quick: bool) -> list[Task]:
    """The default measurements, most important first."""
    large = {"3dgan": 3, "3dgan-angle": 3}
    if quick:
        small = {"3dgan": 8, "3dgan-angle": 2}
        steps = [Task("step", w, d, threads, small.get(w, 16)) for d in DTYPES for w in NAMES]
        made = [Task("generate", w, "float32", threads, n) for w in NAMES for n in (1, small.get(w, 16))]
        layers = [Task("layers", w, "float32", threads, 2) for w in NAMES if w not in large]
        return [*steps, *made, *layers, Task("memory", "3dgan", "float32", threads, 2),
                Task("growth", "3dgan", "float32", threads, 16),
                Task("profile", "3dgan", "float32", threads, 2)]  # fmt: skip
    tasks: list[Task] = []
    for w in NAMES:
        tasks += [Task("step", w, "float32", threads, n) for n in ((16, 64) if w in large else (64,))]
    for w in NAMES:
        tasks += [Task("generate", w, "float32", threads, n) for n in (1, 16, 128, 1024)]
    for w in NAMES:
        tasks += [Task("step", w, "bfloat16", threads, n) for n in ((16, 64) if w in large else (64,))]
    tasks += [Task("memory", w, "float32", threads, 16 if w == "3dgan-angle" else 64) for w in NAMES]
    tasks += [Task("layers", w, "float32", threads, 16 if w in large else 64) for w in NAMES]
    tasks += [Task("growth", "3dgan", "float32", threads, 16)]
    tasks += [Task("profile", w, "float32", threads, 16 if w == "3dgan-angle" else 64) for w in NAMES]
    tasks += [Task("generate", w, "bfloat16", threads, n) for w in NAMES for n in (1, 128)]
    if threads > 1:
        tasks += [Task("step", w, "float32", 1, 16) for w in NAMES]
        tasks += [Task("generate", w, "float32", 1, n) for w in NAMES for n in (1, 16)]
        tasks += [Task("step", w, "bfloat16", 1, 16) for w in NAMES]
    return tasks


def chosen(options: argparse.Namespace, threads: int) -> list[Task]:
    """The plan, or what the options ask for."""
    tasks = plan(threads, options.quick)
    if options.device == "cuda":  # one row for each workload and batch: the processor's threads hardly matter
        kept = (t for t in tasks if t.part in ("step", "generate", "layers") and t.threads == threads)
        tasks = [t for t in kept if t.dtype == "float32"]
    keep = [t for t in tasks if t.part in options.part and t.workload in options.workload and t.dtype in options.dtype]
    if options.batch or options.threads:
        asked: dict[Task, None] = {}
        for t in keep:
            for n in options.batch or [t.batch]:
                for k in options.threads or [t.threads]:
                    asked[Task(t.part, t.workload, t.dtype, k, n)] = None
        if options.threads and not options.batch:  # the plan's own pairs of threads and batch
            own = {(t.part, t.workload, t.dtype, t.threads) for t in keep}
            asked = {t: None for t in asked if t in keep or (t.part, t.workload, t.dtype, t.threads) not in own}
        keep = list(asked)
    return keep


def measure(bench: Any, task: Task, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of a task."""
    from benchmarks import parts

    few = ONE_BRANCH if task.workload == "calogan-like" else ()  # the other two differ in size only
    which = tuple(filter(None, options.layer.split(","))) or few
    if options.device == "cuda":
        from benchmarks import gpu

        return gpu.rows(bench, task.part, task.workload, task.threads, task.batch, which)
    if task.part == "growth":
        sizes = ([25, 31], 2) if options.quick else ([25, 32, 38, 45, 51], 16)
        made = [16, 64] if options.quick else [16, 32, 64, 128, 256, 512, 1024]
        stepped = [16] if options.quick else [16, 32, 64, 128]
        return [
            *parts.growth_with_batch(bench, task.threads, made, "generate"),
            *parts.growth_with_batch(bench, task.threads, stepped, "step"),
            *parts.growth_with_volume(bench, task.threads, *sizes),
        ]
    if task.part == "profile":
        from benchmarks.profile import profile

        return profile(bench, task.workload, task.dtype, task.threads, task.batch)
    if task.part == "layers":
        return parts.layer_rows(bench, task.workload, task.dtype, task.threads, task.batch, which)
    return parts.MEASURES[task.part](bench, task.workload, task.dtype, task.threads, task.batch)


def run(options: argparse.Namespace, arguments: list[str], say: Callable[[str], None]) -> dict[str, Any]:
    """Measure and return the result."""
    import gankernels as gk
    from benchmarks import answers, machine, parts, report

    gk.set_conv_algorithm(options.conv_algorithm)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2
    threads = max(options.threads or [min(cores, 2)])
    budget = options.budget if options.budget is not None else (0.4 if options.quick else 3.0)
    minutes = options.minutes if options.minutes is not None else (2.5 if options.quick else 18.5)
    compiled = options.compile or ("none" if options.quick else "some")
    bench = parts.Bench(budget, compiled, threads)
    described = machine.describe(arguments)
    if options.device == "cuda":
        from benchmarks import gpu

        described["processor"] = f"{gpu.name()}; {described['processor']}"
    say(f"{described['processor']} ({described['isa']}), PyTorch {described['torch']}, commit {described['commit']}")
    rows: list[dict[str, Any]] = []
    skipped: list[str] = []
    wrong: list[str] = []
    start = time.monotonic()
    for task in chosen(options, threads):
        named = f"{task.part} {task.workload} {task.dtype}, {task.threads} thread(s), batch {task.batch}"
        if time.monotonic() - start > 60.0 * minutes:
            skipped.append(named)
            continue
        known = set(bench.roofs)
        began = time.monotonic()
        try:
            found = measure(bench, task, options)
        except answers.WrongAnswer as error:
            wrong.append(f"{named}: {error}")
            say(f"WRONG ANSWER, not timed: {wrong[-1]}")
            continue
        for k in bench.roofs.keys() - known:
            say(f"roof with {k} thread(s): " + ", ".join(f"{name} {v:.0f}" for name, v in bench.roofs[k].items()))
        for row in found:
            row["took_s"] = (time.monotonic() - began) / len(found)
            say(report.line(row))
        rows += found
    for name in skipped:
        say(f"left out after {minutes:g} minutes: {name}")
    bench.measure_roofs_again(rows)
    roofs = {str(k): v for k, v in bench.roofs.items()}
    return {"machine": {**described, "roofs": roofs}, "rows": rows, "skipped": skipped, "wrong": wrong,
            "minutes": (time.monotonic() - start) / 60.0}  # fmt: skip


def _list() -> None:
    from benchmarks.workloads import WORKLOADS

    for w in WORKLOADS.values():
        print(f"{w.name:13} {w.summary}")
    print(f"\nparts: {', '.join(PARTS)}; dtypes: {', '.join(DTYPES)}")


def _several(known: tuple[str, ...]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is unknown; expected some of {', '.join(known)}")
        return names

    return parse


def _numbers(text: str) -> list[int]:
    values = [int(v) for v in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"expected numbers of at least 1, got {text}")
    return values


def parser() -> argparse.ArgumentParser:
    """The options."""
    doc = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="gankernels against PyTorch and ONNX Runtime, answers compared before they are timed.",
        epilog=doc[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--quick", action="store_true", help="small sizes without torch.compile, at most 3 minutes")
    p.add_argument("--workload", type=_several(NAMES), default=list(NAMES), help=f"some of {', '.join(NAMES)}")
    p.add_argument("--part", type=_several(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    p.add_argument("--dtype", type=_several(DTYPES), default=list(DTYPES), help="float32, bfloat16 or both")
    p.add_argument("--threads", type=_numbers, help="numbers of threads (default: 2 and, for some, 1)")
    p.add_argument("--batch", type=_numbers, help="batches instead of those of the plan")
    p.add_argument("--layer", default="", help="layers whose name holds one of these (part layers)")
    p.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda needs an NVIDIA GPU: steps, "
                   "generation and layers in float32 by every backend that runs there (GANKERNELS_CUDA_BACKEND="
                   "compiled or numba leaves one) and PyTorch; just-in-time compilation is timed apart")  # fmt: skip
    p.add_argument("--conv-algorithm", default="auto", choices=("auto", "direct", "im2col", "fft", "fast"),
                   help="convolutions of our side")  # fmt: skip
    p.add_argument("--compile", choices=("all", "some", "none"), help="where torch.compile takes part: some leaves "
                   "out bfloat16 (but dcgan64), 1 thread, generation of 16 (default some, quick none)")  # fmt: skip
    p.add_argument("--budget", type=float, help="seconds for the rounds of one measurement (default 3, quick 0.4)")
    p.add_argument("--minutes", type=float, help="start nothing new after so long (default 18.5, quick 2.5)")
    p.add_argument("--json", type=Path, help="write the result there (a run of everything: results/benchmarks.json)")
    p.add_argument("--table", nargs="?", const=RESULTS / "benchmarks.json", type=Path, metavar="JSON",
                   help="print the README's table from a result and end")  # fmt: skip
    p.add_argument("--picture", nargs="?", const=RESULTS / "benchmarks.json", type=Path, metavar="JSON",
                   help="draw the pictures of a result beside it and end")  # fmt: skip
    p.add_argument("--list", action="store_true", help="name the workloads and end")
    p.add_argument("--memory-of", help=argparse.SUPPRESS)
    return p


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    p = parser()
    options = p.parse_args(arguments)
    from benchmarks import report

    if options.table:
        print(report.table(report.read(options.table)))
        return 0
    if options.picture:
        _draw(report.read(options.picture), options.picture)
        return 0
    if options.list:
        _list()
        return 0
    if options.device == "cuda":
        from gankernels import backends

        reason = backends.why_not("cuda")
        if reason is not None:
            print(f"--device cuda cannot be used: {reason}", file=sys.stderr)
            return 1
    if importlib.util.find_spec("torch") is None:
        print("the benchmarks compare with PyTorch, which is not installed; run: "
              "pip install torch --index-url https://download.pytorch.org/whl/cpu", file=sys.stderr)  # fmt: skip
        return 1
    if options.memory_of:
        from benchmarks.memory import memory_of

        name, side, batch = options.memory_of.split(":")
        print(json.dumps(memory_of(name, side, int(batch))))
        return 0
    with tempfile.TemporaryDirectory(prefix="gankernels-compiled-", ignore_cleanup_errors=True) as folder:
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", folder)  # an interrupted run leaves no half of a library
        os.environ["NUMBA_CACHE_DIR"] = folder  # kernels are compiled in this run, and the seconds of it reported
        result = run(options, arguments, lambda text: print(text, flush=True))
    everything = options.part == list(PARTS) and options.workload == list(NAMES)
    whole = everything and options.device == "cpu" and not options.quick
    path = options.json or (RESULTS / "benchmarks.json" if whole else None)
    if path is not None:
        report.write(path, result)
        _draw(result, path)
    print()
    print(report.table(result))
    return 1 if result["wrong"] else 0


def _draw(result: dict[str, Any], path: Path) -> None:
    from benchmarks import report

    try:
        import matplotlib  # noqa: F401
    except ImportError:
        print("no pictures without matplotlib; run: pip install matplotlib", file=sys.stderr)
        return
    measured = {r["part"] for r in result["rows"] if r["part"] == "growth" or r["ratio"]}
    if measured & {"step", "generate"}:
        report.picture(result, path.with_suffix(".png"))
    if "growth" in measured:
        report.growth_picture(result, path.with_name(f"{path.stem}-growth.png"))
