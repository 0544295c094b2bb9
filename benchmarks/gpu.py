"""On a GPU (--device cuda): every backend that runs there, and PyTorch, by turns.

"ours" is the backend that gankernels takes by itself, the other one races under its name. What is compiled just in time
is compiled in the first calls, into an empty cache: "compile_s" says how long that took, the times are those after it.
"""

from __future__ import annotations

import os
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

PARTS = ("step", "generate", "layers")


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


def _finished(run: Run) -> Run:
    def finished() -> Any:
        result = run()
        torch.cuda.synchronize()
        return result

    return finished


def rows(bench: Bench, part: str, name: str, threads: int, batch: int, which: tuple[str, ...]) -> list[Row]:
    """The rows of one part of a workload, float32."""
    w = WORKLOADS[name]
    modules = usable()
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


def _whole(bench: Bench, w: Workload, modules: dict[str, Any], part: str, threads: int, batch: int) -> Row:
    contenders: dict[str, Run] = {}
    first: dict[str, float] = {}
    error = 0.0
    for label, module in modules.items():
        backends.serve("cuda", module)
        gan = w.gan(True)
        real = w.real(gan, batch)
        gan.to("cuda")
        real = real.to("cuda")
        generate = partial(gan.sample, real.conditions, gk.Generator(SEED))
        run: Run = our_step(gan, w.config, real) if part == "step" else generate
        contenders[label] = _served(module, run)
        first[label] = clock(contenders[label])
        error = max(error, check_step(w, module, min(batch, 16)))
    if torch.cuda.is_available():
        gan = w.gan(True)
        rival = Rival(w.name, gan, w.config, w.real(gan, batch), device="cuda")
        contenders["pytorch"] = _finished(rival.step if part == "step" else rival.sample)
    times = race(contenders, bench.budget_s)
    compile_s = {label: max(0.0, taken - times[label].median) for label, taken in first.items()}
    return bench.row(part, w.name, "float32", threads, batch, times, error=error, compile_s=compile_s)


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
    if torch.cuda.is_available():
        contenders["pytorch"] = _finished(layers.torch_pass(unit, kind, x, ct, "eager", False, "cuda"))
    times = race(contenders, bench.budget_s / 4)
    return bench.row(
        "layers", w.name, "float32", threads, batch, times, error=error, layer=unit.path, what=unit.text(),
        compile_s=compile_s, **{"pass": kind},
    )  # fmt: skip
