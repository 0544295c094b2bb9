"""What is measured: training steps, generation, layers, peak memory, and how the cost grows. Each gives rows.

A row is a dict: "part", "workload", "dtype", "threads", "batch", "ours" and "rivals" (Times by name), "best_rival",
"ratio" (best rival's median / ours), "gflops" and "percent_of_roof" of ours, counted as if convolved directly, "error"
(largest relative difference of the answers), "note".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

import numpy as np
import torch

import gankernels as gk
from benchmarks import answers, layers, machine
from benchmarks.rival import OnnxGenerator, Rival, state
from benchmarks.timing import Run, Times, race
from benchmarks.workloads import SEED, WORKLOADS, Workload, fix_noise, off_the_kink, our_step, with_sgd
from gankernels import nn

Row = dict[str, Any]
COMPARED = 64  # generated events that are compared
LARGEST_FOR_ALL = 16  # above this batch, 3-D steps are timed against the fastest rival of that batch only
NO_BF16 = "not available: this version has no bfloat16"


@dataclass
class Bench:
    """What all parts share.

    Parameters
    ----------
    budget_s : float
        Time for the rounds of one measurement.
    compiled : "all", "some" or "none"
        Where torch.compile takes part. It needs half a minute for a training step: "some" leaves out bfloat16 other
        than dcgan64's, one thread where there are two, and generation of 16.
    threads : int
        The most that are used.
    """

    budget_s: float
    compiled: str = "some"
    threads: int = 2
    roofs: dict[int, dict[str, float]] = field(default_factory=dict)
    chosen: dict[tuple[str, ...], str] = field(default_factory=dict)
    checked: dict[tuple[str, str], float] = field(default_factory=dict)

    def use(self, threads: int) -> None:
        """So many threads on both sides."""
        gk.set_num_threads(threads)
        torch.set_num_threads(threads)
        if threads not in self.roofs:
            self.roofs[threads] = machine.roof(threads)

    def measure_roofs_again(self, rows: list[Row]) -> None:
        """Keep the higher roof of the beginning and of now: a busy moment must not flatter us."""
        for threads, before in self.roofs.items():
            self.use(threads)
            now = machine.roof(threads)
            self.roofs[threads] = {name: max(value, now[name]) for name, value in before.items()}
        for row in rows:
            if row["gflops"] is not None:
                row["percent_of_roof"] = 100.0 * row["gflops"] / self.roofs[row["threads"]][f"{row['dtype']}_gflops"]

    def row(
        self, part: str, workload: str, dtype: str, threads: int, batch: int, times: dict[str, Times], *,
        flops: float = 0.0, error: float | None = None, note: str = "", **extra: Any,
    ) -> Row:  # fmt: skip
        """Ours, the best rival, their ratio; flops are those of the whole run."""
        times = dict(times)
        ours = times.pop("ours", None)
        if "ours in float32" in times:
            extra["ours_float32"] = asdict(times.pop("ours in float32"))
        best = min(times, key=lambda name: times[name].median) if times else None
        gflops = flops / ours.median * 1e-9 if ours and flops else None
        return {
            "part": part,
            "workload": workload,
            **extra,
            "dtype": dtype,
            "threads": threads,
            "batch": batch,
            "ours": None if ours is None else asdict(ours),
            "rivals": {name: asdict(t) for name, t in times.items()},
            "best_rival": best,
            "ratio": times[best].median / ours.median if ours and best else None,
            "gflops": gflops,
            "percent_of_roof": None if gflops is None else 100.0 * gflops / self.roofs[threads][f"{dtype}_gflops"],
            "error": error,
            "note": note,
        }


def our_cast(dtype: str) -> AbstractContextManager[Any] | None:
    """The context that our side computes in; None if this version has none for the dtype."""
    if dtype == "float32":
        return nullcontext()
    cast = getattr(gk, "autocast", None)
    return None if cast is None else cast(dtype)


def _cast(run: Run, dtype: str) -> Run:
    def cast() -> Any:
        context = our_cast(dtype)
        assert context is not None
        with context:
            return run()

    return run if dtype == "float32" else cast


def _noise(gan: Any, n: int) -> Any:
    return np.random.default_rng(2).standard_normal((n, gan.latent), dtype=np.float32)


# ---- training steps --------------------------------------------------------------------------------------------------
def step_bound(gan: Any, real: Any, batch: int) -> float:
    """What rounding and the kinks of activations explain in how a step of plain gradient descent moves a layer."""
    found = [u for side in layers.all_units(gan, real) for u in side]
    longest = max(max(u.fan_in, batch * prod(u.y[1:])) for u in found)
    cells = min(batch * prod(u.y) for u in found if prod(u.y) > 1)
    return answers.step_bound(2 * len(found), longest, cells)


def check_step(w: Workload, dtype: str, batch: int) -> float:
    """Compare how one step with plain gradient descent moves every layer; the largest relative difference."""
    config = with_sgd(w.config, w.checked_rate)
    start, gan = w.gan(False), w.gan(False)
    for made in (start, gan):
        off_the_kink(made)
    real = w.real(gan, batch)
    fix_noise(gan, _noise(gan, batch))
    networks = ("generator", "discriminator")
    before = {
        f"{n}.{k}": v.numpy().copy()
        for n in networks
        for k, v in getattr(gan, n).state_dict().items()
        if v.numpy().dtype.kind == "f"
    }

    def rival_after(cast: str) -> dict[str, Any]:
        made = Rival(w.name, start, config, real, dtype=cast)
        made.fixed = torch.from_numpy(_noise(gan, batch))
        made.step()
        return {f"{n}.{k}": v for n in networks for k, v in state(getattr(made, n)).items()}

    want = rival_after("float32")
    bound = step_bound(gan, real, batch)
    if dtype == "bfloat16":
        theirs = answers.same_step(f"{w.name}, autocast", before, rival_after(dtype), want, np.inf)
        bound += 2.0 * theirs + sum(map(len, layers.all_units(gan, real))) * answers.U16
    _cast(our_step(gan, config, real), dtype)()
    ours = {f"{n}.{k}": v.numpy() for n in networks for k, v in getattr(gan, n).state_dict().items()}
    what = f"{w.name}, step, {dtype}, batch {batch}"
    return answers.same_step(what, before, ours, want, bound, lambda: rival_after("float64"))


def steps(bench: Bench, name: str, dtype: str, threads: int, batch: int) -> list[Row]:
    """Whole training steps with the workload's optimizers and dropout."""
    w = WORKLOADS[name]
    bench.use(threads)
    available = our_cast(dtype) is not None
    small = min(batch, w.checked)
    if available and (name, dtype) not in bench.checked:
        bench.checked[name, dtype] = check_step(w, dtype, small)
    gan = w.gan(True)
    real = w.real(gan, batch)
    contenders: dict[str, Run] = {}
    if available:
        contenders["ours"] = _cast(our_step(gan, w.config, real), dtype)
    if dtype != "float32":
        contenders["ours in float32"] = our_step(w.gan(True), w.config, real)
    key = (name, dtype, str(threads))
    only = bench.chosen.get(key) if w.rank == 3 and batch > LARGEST_FOR_ALL else None
    for label in [only] if only else rival_labels(bench, w, dtype, threads):
        contenders[label] = _rival(w, label, gan, real, dtype).step
    times = race(contenders, bench.budget_s)
    flops = layers.step_flops(gan, real, w.config.g_steps) * batch
    row = bench.row(
        "step", name, dtype, threads, batch, times, flops=flops,
        error=bench.checked.get((name, dtype)), note="" if available else NO_BF16,
    )  # fmt: skip
    bench.chosen.setdefault(key, row["best_rival"])
    return [row]


def rival_labels(bench: Bench, w: Workload, dtype: str, threads: int, batch: int = 0) -> list[str]:
    """PyTorch's ways that take part. Compiled 3-D networks are laid out channels last, where their convolutions are
    fastest."""
    labels = ["eager"] if w.rank == 0 else ["eager", "channels_last"]
    cheap = threads == bench.threads and batch != 16 and (dtype == "float32" or (w.name == "dcgan64" and not batch))
    return [*labels, "compile"] if bench.compiled == "all" or (bench.compiled == "some" and cheap) else labels


def _rival(w: Workload, label: str, gan: Any, real: Any, dtype: str) -> Rival:
    compiled = label == "compile"
    layout = "channels_last" if label == "channels_last" or (compiled and w.rank == 3) else "contiguous"
    return Rival(w.name, gan, w.config, real, layout=layout, compiled=compiled, dtype=dtype)


# ---- generation ------------------------------------------------------------------------------------------------------
def generation(bench: Bench, name: str, dtype: str, threads: int, batch: int) -> list[Row]:
    """Images of a batch in evaluation mode, noise included, weights frozen; PyTorch, ONNX Runtime (frozen, too)."""
    w = WORKLOADS[name]
    bench.use(threads)
    gan = w.gan(True)
    gan.frozen = True
    real = w.real(gan, batch)
    found, _ = layers.all_units(gan, real)
    bound = answers.chain_bound(len(found), max(u.fan_in for u in found))
    noise = _noise(gan, batch)
    key = ("generate", name, dtype, str(threads))
    only = bench.chosen.get(key) if batch > 128 else None  # pieces of 128 events
    labels = [only] if only else rival_labels(bench, w, dtype, threads, batch)
    if dtype == "float32" and only in (None, "onnxruntime"):
        labels = [label for label in labels if label != "onnxruntime"] + ["onnxruntime"]
    rivals = {label: _rival(w, "eager" if label == "onnxruntime" else label, gan, real, dtype) for label in labels}
    contenders: dict[str, Run] = {}
    note, error = "", None
    if our_cast(dtype) is None:
        note = NO_BF16
    else:
        rng, drawn = gk.Generator(SEED), gan.noise
        contenders["ours"] = _cast(lambda: gan.sample(real.conditions, rng), dtype)
        fix_noise(gan, noise)
        few = {k: v[: min(batch, COMPARED)] for k, v in real.conditions.items()}
        ours = _cast(lambda: gan.sample(few, rng), dtype)().numpy()
        gan.noise = drawn
    for label, made in rivals.items():
        made.fixed = torch.from_numpy(noise)
        kept, made.conditions = made.conditions, {k: v[:COMPARED] for k, v in made.conditions.items()}
        try:
            run = _onnx(made, threads) if label == "onnxruntime" else made.sample
            want = torch.as_tensor(run()).float().numpy()
        except ImportError as missing:
            note = f"{note} {missing}; run: pip install onnx onnxruntime".strip()
            continue
        finally:
            made.conditions, made.fixed = kept, None
        contenders[label] = run
        if note != NO_BF16:
            limit = bound if dtype == "float32" else 4.0 * len(found) * answers.U16
            error = max(error or 0.0, answers.same_images(f"{name}, {label}, batch {batch}", ours, want, limit))
    times = race(contenders, bench.budget_s)
    flops = sum(u.flops for u in found) * batch
    row = bench.row("generate", name, dtype, threads, batch, times, flops=flops, error=error, note=note)
    bench.chosen[key] = row["best_rival"]
    return [row]


def _onnx(made: Rival, threads: int) -> Run:
    return OnnxGenerator(made, threads).sample


# ---- layers ----------------------------------------------------------------------------------------------------------
def layer_rows(bench: Bench, name: str, dtype: str, threads: int, batch: int, which: tuple[str, ...] = ()) -> list[Row]:
    """Every layer with weights, three passes; a convolution after an Upsample also without fusion."""
    w = WORKLOADS[name]
    bench.use(threads)
    gan = w.gan(True)
    rows = []
    for unit in (u for side in layers.all_units(gan, w.real(gan, 2)) for u in side):
        if which and not any(part in unit.path for part in which):
            continue
        x, ct = layers.arrays(unit, batch)
        for kind in layers.PASSES:
            rows.append(_layer_row(bench, w, unit, kind, dtype, threads, x, ct))
    return rows


def layer_bound(unit: layers.Unit, kind: str, batch: int) -> float:
    """What rounding explains in one pass of a layer."""
    terms = batch * prod(unit.y[1:]) if kind == "weight gradient" else max(unit.fan_in, prod(unit.y) // unit.y[0])
    return answers.chain_bound(2, terms)


def _layer_row(
    bench: Bench, w: Workload, unit: layers.Unit, kind: str, dtype: str, threads: int, x: Any, ct: Any
) -> Row:
    batch, bf16 = len(x), dtype == "bfloat16"
    contenders: dict[str, Run] = {}
    context = our_cast(dtype)
    if context is not None:
        with context:
            contenders["ours"] = _cast(layers.our_pass(unit, kind, x, ct), dtype)
    for layout in ("eager", "channels_last")[: 1 if w.rank == 0 else 2]:
        contenders[layout] = layers.torch_pass(unit, kind, x, ct, layout, bf16)
    error = None
    if context is not None:
        bound = 4.0 * answers.U16 if bf16 else layer_bound(unit, kind, batch)
        want = contenders["eager"]().float().numpy()
        error = answers.same_images(f"{unit.path}, {kind}", contenders["ours"]().numpy(), want, bound)
    budget = bench.budget_s / 4
    times = race(contenders, budget)
    extra: Row = {}
    if len(unit.modules) > 1 and context is not None:
        before = gk.fusion()
        gk.set_fusion(False)
        try:
            unfused = layers.our_pass(unit, kind, x, ct)
            alone = race({"ours": unfused}, budget)["ours"]
        finally:
            gk.set_fusion(before)
        extra["unfused"] = asdict(alone)
    return bench.row(
        "layers", w.name, dtype, threads, batch, times, flops=unit.flops * batch, error=error,
        note="" if context is not None else NO_BF16, layer=unit.path, what=unit.text(), **{"pass": kind}, **extra,
    )  # fmt: skip


# ---- memory ----------------------------------------------------------------------------------------------------------
def memory(bench: Bench, name: str, dtype: str, threads: int, batch: int) -> list[Row]:
    """Peak memory that two training steps add to a process that holds the networks and a batch."""
    bench.use(threads)
    found: dict[str, dict[str, float]] = {}
    environment = os.environ | {"GANKERNELS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    for side in ("ours", "contiguous" if WORKLOADS[name].rank == 0 else "channels_last"):
        command = [sys.executable, "-m", "benchmarks", "--memory-of", f"{name}:{side}:{batch}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=machine.ROOT, env=environment)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])}: {done.stderr.strip().splitlines()[-1:]}")
        found[side] = json.loads(done.stdout.splitlines()[-1])
    row = bench.row("memory", name, dtype, threads, batch, {}, memory=found)
    added = {side: m["peak_mb"] - m["before_mb"] for side, m in found.items()}
    ours = added.pop("ours")
    return [row | {"added_mb": {"ours": ours, **added}, "ratio": min(added.values()) / max(ours, 1.0)}]


# ---- growth ----------------------------------------------------------------------------------------------------------
def growth_with_batch(bench: Bench, threads: int, batches: list[int], what: str) -> list[Row]:
    """Seconds of 3dgan's generation or training step over the batch."""
    w = WORKLOADS["3dgan"]
    bench.use(threads)
    rows = []
    for n in batches:
        gan = w.gan(True)
        real = w.real(gan, n)
        rng = gk.Generator(SEED)
        run: Run = our_step(gan, w.config, real) if what == "step" else lambda: gan.sample(real.conditions, rng)  # noqa: B023
        times = race({"ours": run}, bench.budget_s / 2)
        row = bench.row("growth", "3dgan", "float32", threads, n, times, what=what)
        rows.append(row | {"us_per_event": times["ours"].median / n * 1e6})
    return rows


def growth_with_volume(bench: Bench, threads: int, sizes: list[int], batch: int) -> list[Row]:
    """Forward and gradients of 3dgan's convolutions of the discriminator on n^3 cells."""
    bench.use(threads)
    body = WORKLOADS["3dgan"].gan(True).discriminator.body
    block = nn.Sequential(*list(body.children())[:-2])  # without pooling and flatten
    parameters = list(block.parameters())
    rows = []
    for n in sizes:
        x = gk.from_array(np.random.default_rng(1).random((batch, 1, n, n, n), dtype=np.float32))

        def run(x: Any = x) -> Any:
            return gk.grad(gk.sum(block(x)), parameters)

        times = race({"ours": run}, bench.budget_s / 2)
        row = bench.row("growth", "3dgan", "float32", threads, batch, times, what="volume", cells=n**3)
        rows.append(row | {"ns_per_cell": times["ours"].median / (batch * n**3) * 1e9})
    return rows


MEASURES: dict[str, Callable[..., list[Row]]] = {
    "step": steps,
    "generate": generation,
    "layers": layer_rows,
    "memory": memory,
}
