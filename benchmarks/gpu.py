"""On a GPU (--device cuda): every backend that runs there, and PyTorch, by turns.

"ours" is the backend that gankernels takes by itself, the other one races under its name. What is compiled just in time
is compiled in the first calls, into an empty cache: "compile_s" says how long that took, the times are those after it.

PyTorch computes as we do in plain float32 (TF32 off, cuDNN choosing by the clock): eager, channels last, compiled.
What both sides reach with coarser products on tensor cores, TF32 and bfloat16 (autocast), is timed in a race of its own
and stands under "coarser", not in the ratio. Those answers are compared with float32's, but for training steps.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np
import torch

import gankernels as gk
from benchmarks import answers, layers
from benchmarks.parts import Bench, Row, layer_bound, step_bound
from benchmarks.rival import Rival
from benchmarks.timing import Run, clock, race
from benchmarks.workloads import SEED, WORKLOADS, Workload, fix_noise, off_the_kink, our_step, with_sgd
from gankernels import backends, nn
from gankernels.ops.conv import using_conv_algorithm

PARTS = ("step", "generate", "layers")
DEVICE = "cuda"  # of PyTorch
OURS_COARSER: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "ours tf32": partial(using_conv_algorithm, "tf32"),
    "ours bfloat16": partial(gk.autocast, "bfloat16"),
}
UNITS = {"tf32": 2.0**-11, "bfloat16": answers.U16}  # rounding of a factor


def usable() -> dict[str, Any]:
    """The backends for "cuda" that run here, the one that serves first; GANKERNELS_CUDA_BACKEND leaves one.

    Raises
    ------
    DeviceError
        If there is none.
    """
    first = backends.get("cuda")
    if os.environ.get(backends.CHOICE):
        return {"ours": first}
    others = {kind: backends.cuda_backend(kind)[0] for kind in backends.CUDA_BACKENDS}
    return {"ours": first, **{kind: m for kind, m in others.items() if m is not None and m is not first}}


def name() -> str:
    """The GPU, as PyTorch calls it."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "a GPU that PyTorch does not see"


def _served(module: Any, run: Run) -> Run:
    """The run on one backend, until it has finished."""

    def served() -> Any:
        backends.serve("cuda", module)
        result = run()
        module.synchronize()
        return result

    return served


def _within(context: Callable[[], AbstractContextManager[None]], run: Run) -> Run:
    def within() -> Any:
        with context():
            return run()

    return within


def _finished(run: Run, tf32: bool) -> Run:
    """PyTorch's run until it has finished, products in TF32 or in float32."""

    def finished() -> Any:
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
        torch.backends.cudnn.allow_tf32 = tf32
        result = run()
        torch.cuda.synchronize()
        return result

    return finished


def _coarser(modules: Mapping[str, Any]) -> dict[str, Callable[[], AbstractContextManager[None]]]:
    """Our ways on tensor cores, which the Numba backend does not use."""
    return {} if modules["ours"] is backends.cuda_backend("numba")[0] else OURS_COARSER


def _raced(contenders: dict[str, Run], budget_s: float) -> tuple[dict[str, Any], dict[str, Any]]:
    """Times in float32, and those with coarser products."""
    exact = {label: run for label, run in contenders.items() if label.split()[-1] not in UNITS}
    rest = {label: run for label, run in contenders.items() if label not in exact}
    coarser = race(rest, budget_s) if rest else {}
    return race(exact, budget_s), {label: asdict(times) for label, times in coarser.items()}


def rows(bench: Bench, part: str, name: str, threads: int, batch: int, which: tuple[str, ...]) -> list[Row]:
    """The rows of one part of a workload, float32."""
    w = WORKLOADS[name]
    modules = usable()
    torch.backends.cudnn.benchmark = True
    try:
        if part == "layers":
            return _layers(bench, w, modules, threads, batch, which)
        return [_whole(bench, w, modules, part, threads, batch)]
    finally:
        backends.serve("cuda", modules["ours"])


# ---- training steps and generation -----------------------------------------------------------------------------------
def _state(gan: Any) -> dict[str, Any]:
    networks = ("generator", "discriminator")
    values = {f"{n}.{k}": v for n in networks for k, v in getattr(gan, n).state_dict().items() if v.dtype.kind == "f"}
    return {k: v.cpu().numpy().copy() for k, v in values.items()}


def check_step(w: Workload, module: Any, batch: int) -> float:
    """Compare how one step of plain gradient descent moves every layer, there and on the CPU."""
    config = with_sgd(w.config, w.checked_rate)
    noise = np.random.default_rng(2).standard_normal((batch, w.gan(False).latent), dtype=np.float32)

    def moved(device: str) -> tuple[Any, Any]:
        gan = w.gan(False)
        off_the_kink(gan)
        real, before = w.real(gan, batch), _state(gan)
        gan.to(device)
        fix_noise(gan, noise)
        _served(module, our_step(gan, config, real.to(device)))()
        return before, _state(gan)

    gan = w.gan(False)
    bound = step_bound(gan, w.real(gan, batch), batch)
    backends.serve("cuda", module)
    before, want = moved("cpu")
    return answers.same_step(f"{w.name}, step on cuda, batch {batch}", before, moved("cuda")[1], want, bound)


def _ours(w: Workload, part: str, batch: int) -> Run:
    """Steps or generation of a new GAN on the backend that serves."""
    gan = w.gan(True)
    real = w.real(gan, batch)
    gan.to("cuda")
    real = real.to("cuda")
    return our_step(gan, w.config, real) if part == "step" else partial(gan.sample, real.conditions, gk.Generator(SEED))


def _whole(bench: Bench, w: Workload, modules: dict[str, Any], part: str, threads: int, batch: int) -> Row:
    contenders: dict[str, Run] = {}
    first: dict[str, float] = {}
    error = 0.0
    for label, module in modules.items():
        backends.serve("cuda", module)
        contenders[label] = _served(module, _ours(w, part, batch))
        first[label] = clock(contenders[label])
        error = max(error, check_step(w, module, min(batch, 16)))
    backends.serve("cuda", modules["ours"])
    for label, context in _coarser(modules).items():
        contenders[label] = _within(context, _served(modules["ours"], _ours(w, part, batch)))
    if part == "generate":
        _check_coarser(w, modules, min(batch, 16))
    if torch.cuda.is_available():
        for label, ways in _rivals(bench, w).items():
            gan = w.gan(True)
            rival = Rival(w.name, gan, w.config, w.real(gan, batch), device=DEVICE, **ways)
            contenders[label] = _finished(rival.step if part == "step" else rival.sample, label == "tf32")
    times, coarser = _raced(contenders, bench.budget_s)
    compile_s = {label: max(0.0, taken - times[label].median) for label, taken in first.items()}
    return bench.row(part, w.name, "float32", threads, batch, times, error=error, compile_s=compile_s, coarser=coarser)


def _rivals(bench: Bench, w: Workload) -> dict[str, dict[str, Any]]:
    """How PyTorch runs, by label; the coarser ones channels last, as tensor cores want it."""
    last = {} if w.rank == 0 else {"layout": "channels_last"}
    found: dict[str, dict[str, Any]] = {"eager": {}, "tf32": last, "bfloat16": {**last, "dtype": "bfloat16"}}
    if last:
        found["channels_last"] = last
    if bench.compiled != "none":
        found["compile"] = {**(last if w.rank == 3 else {}), "compiled": True}
    return found


def _check_coarser(w: Workload, modules: dict[str, Any], batch: int) -> None:
    """Compare images of coarser products with those of float32."""
    gan = w.gan(True)
    depth = sum(map(len, layers.all_units(gan, w.real(gan, 2))))
    want = _ours(w, "generate", batch)().cpu().numpy()
    for label, context in _coarser(modules).items():
        got = _within(context, _ours(w, "generate", batch))().cpu().numpy()
        answers.same_images(f"{w.name}, {label}, batch {batch}", got, want, 4.0 * depth * UNITS[label.split()[-1]])


# ---- layers ----------------------------------------------------------------------------------------------------------
def _layers(
    bench: Bench, w: Workload, modules: dict[str, Any], threads: int, batch: int, which: tuple[str, ...]
) -> list[Row]:
    def units() -> list[layers.Unit]:
        gan = w.gan(True)
        found = [u for side in layers.all_units(gan, w.real(gan, 2)) for u in side]
        return [u for u in found if not which or any(part in u.path for part in which)]

    made = []
    there = {label: units() for label in modules}
    for at, unit in enumerate(units()):
        for kind in layers.PASSES:
            made.append(
                _layer(bench, w, unit, {k: (m, there[k][at]) for k, m in modules.items()}, kind, threads, batch)
            )
    return made


def _layer(
    bench: Bench, w: Workload, unit: layers.Unit, there: dict[str, tuple[Any, layers.Unit]], kind: str, threads: int,
    batch: int,
) -> Row:  # fmt: skip
    x, ct = layers.arrays(unit, batch)
    want = layers.our_pass(unit, kind, x, ct)().numpy()
    contenders: dict[str, Run] = {}
    compile_s: dict[str, float] = {}
    error = 0.0
    for label, (module, copy) in there.items():
        backends.serve("cuda", module)
        block = nn.Sequential(*copy.modules).to("cuda")
        compile_s[label] = gk.warmup(block, x.shape)
        contenders[label] = _served(module, layers.our_pass(copy, kind, x, ct))
        what = f"{unit.path}, {kind}, {label} on cuda"
        got = contenders[label]().cpu().numpy()
        error = max(error, answers.same_images(what, got, want, layer_bound(unit, kind, batch)))
    ours, copy = there["ours"]
    backends.serve("cuda", ours)
    for label, context in _coarser({"ours": ours}).items():
        with context():  # a gradient's graph is recorded here
            contenders[label] = _within(context, _served(ours, layers.our_pass(copy, kind, x, ct)))
        limit = 4.0 * UNITS[label.split()[-1]] + layer_bound(unit, kind, batch)
        answers.same_images(f"{unit.path}, {kind}, {label}", contenders[label]().cpu().numpy(), want, limit)
    if torch.cuda.is_available():
        last = "eager" if w.rank == 0 else "channels_last"
        for label, layout in {"eager": "eager", last: last, "tf32": last, "bfloat16": last}.items():
            run = layers.torch_pass(unit, kind, x, ct, layout, label == "bfloat16", DEVICE)
            contenders[label] = _finished(run, label == "tf32")
    times, coarser = _raced(contenders, bench.budget_s / 4)
    return bench.row(
        "layers", w.name, "float32", threads, batch, times, error=error, layer=unit.path, what=unit.text(),
        compile_s=compile_s, coarser=coarser, **{"pass": kind},
    )  # fmt: skip
