"""The benchmark harness: its names, its answers against PyTorch at tiny sizes, its schema, its table and pictures."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gankernels as gk

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def _benchmarks() -> None:
    """`import benchmarks` finds the folder of the checkout, wherever the tests run."""
    if "benchmarks" not in sys.modules:
        folder = ROOT / "benchmarks"
        spec = importlib.util.spec_from_file_location(
            "benchmarks", folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        assert spec is not None
        assert spec.loader is not None
        sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["benchmarks"])


def part(name: str) -> Any:
    """A module of the harness."""
    if name in ("rival", "parts", "layers", "gpu"):
        pytest.importorskip("torch")
    return importlib.import_module(f"benchmarks.{name}")


def times(seconds: float) -> dict[str, float]:
    return {"median": seconds, "low": seconds, "high": seconds, "fastest": seconds, "rounds": 3}


def row(kind: str, workload: str, ours: float | None, rival: float, **changes: Any) -> dict[str, Any]:
    """A measurement as benchmarks.parts gives it."""
    base = {
        "part": kind, "workload": workload, "dtype": "float32", "threads": 2, "batch": 64,
        "ours": None if ours is None else times(ours), "rivals": {"channels_last": times(rival)},
        "best_rival": "channels_last", "ratio": None if ours is None else rival / ours,
        "gflops": 10.0, "percent_of_roof": 5.0, "error": 1e-6, "note": "",
    }  # fmt: skip
    return base | changes


@pytest.fixture
def result() -> dict[str, Any]:
    machine = dict.fromkeys(part("report").MACHINE, "x")
    machine["roofs"] = {"2": {"float32_gflops": 200.0, "bfloat16_gflops": 400.0, "copy_gb_per_s": 20.0}}
    rows = [
        row("step", "3dgan", 0.1, 0.9),
        row("step", "3dgan", None, 0.5, dtype="bfloat16", note="not available", ours_float32=times(0.1)),
        row("step", "dcgan64", 2.0, 1.0),
        row("generate", "3dgan", 0.01, 0.08, batch=1024),
        row("generate", "3dgan", 0.001, 0.002, batch=1),
        row("layers", "3dgan", 2e-3, 1e-3, layer="discriminator.body.0", what="Conv 1 to 32, 5x5x5",
            **{"pass": "forward"}),
        row("memory", "toy", None, 1.0, rivals={}, best_rival=None, ratio=2.0, added_mb={"ours": 10.0, "eager": 20.0},
            memory={side: {"before_mb": 1.0, "peak_mb": 9.0} for side in ("ours", "eager")}),
        *(row("growth", "3dgan", 0.01 * n, 1.0, rivals={}, best_rival=None, ratio=None, batch=n, what="generate",
              us_per_event=100.0) for n in (16, 32)),
        *(row("growth", "3dgan", 0.01, 1.0, rivals={}, best_rival=None, ratio=None, what="volume", cells=n**3,
              ns_per_cell=50.0) for n in (25, 51)),
    ]  # fmt: skip
    return {"machine": machine, "rows": rows, "skipped": [], "wrong": []}


def test_the_workloads_have_the_names_of_the_command() -> None:
    assert tuple(part("workloads").WORKLOADS) == part("command").NAMES
    assert {"3dgan", "3dgan-angle", "calogan-like", "dcgan64", "toy"} == set(part("command").NAMES)


@pytest.mark.parametrize("quick", [True, False])
def test_the_plan_has_every_workload_and_every_part(quick: bool) -> None:
    command = part("command")
    tasks = command.plan(2, quick)
    assert {t.workload for t in tasks} == set(command.NAMES)
    assert {t.part for t in tasks} == set(command.PARTS)
    assert len(set(tasks)) == len(tasks)


def test_options_choose_from_the_plan() -> None:
    command = part("command")
    options = command.parser().parse_args(
        ["--part", "step", "--workload", "toy", "--dtype", "float32", "--batch", "32", "--threads", "1"]
    )
    assert command.chosen(options, 1) == [command.Task("step", "toy", "float32", 1, 32)]


@pytest.mark.cpu_only
@pytest.mark.parametrize(("name", "batch"), [("toy", 16), ("calogan-like", 2)])
def test_a_step_moves_the_weights_as_pytorch_does(name: str, batch: int) -> None:
    parts = part("parts")
    error = parts.check_step(part("workloads").WORKLOADS[name], "float32", batch)
    assert np.isfinite(error)


@pytest.mark.cpu_only
def test_a_step_of_another_gan_is_a_wrong_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, workloads = part("parts"), part("workloads")
    right = parts.our_step
    monkeypatch.setattr(
        parts, "our_step", lambda gan, config, real: right(gan, workloads.replace(config, g_steps=2), real)
    )
    with pytest.raises(part("answers").WrongAnswer, match="toy"):
        parts.check_step(workloads.WORKLOADS["toy"], "float32", 16)


@pytest.mark.cpu_only
@pytest.mark.parametrize("name", ["3dgan", "calogan-like", "toy"])
def test_generated_images_are_those_of_pytorch(name: str) -> None:
    rival, workloads, answers, layers = part("rival"), part("workloads"), part("answers"), part("layers")
    import torch

    w = workloads.WORKLOADS[name]
    gan = w.gan(True)
    real = w.real(gan, 2)
    noise = np.random.default_rng(0).standard_normal((2, gan.latent), dtype=np.float32)
    found, _ = layers.all_units(gan, real)
    workloads.fix_noise(gan, noise)
    made = rival.Rival(name, gan, w.config, real, layout="channels_last")
    made.fixed = torch.from_numpy(noise)
    bound = answers.chain_bound(len(found), max(u.fan_in for u in found))
    images = gan.sample(real.conditions, gk.Generator(1)).numpy()
    answers.same_images(name, images, made.sample().numpy(), bound)
    with pytest.raises(answers.WrongAnswer):
        answers.same_images(name, images * np.float32(1.01), made.sample().numpy(), bound)


@pytest.mark.cpu_only
def test_every_pass_of_a_locally_connected_layer_and_of_an_upsampled_convolution_agrees_with_pytorch() -> None:
    layers, workloads = part("layers"), part("workloads")
    for name in ("calogan-like", "3dgan"):
        w = workloads.WORKLOADS[name]
        gan = w.gan(True)
        found, _ = layers.all_units(gan, w.real(gan, 2))
        unit = next(u for u in found if "Locally" in u.text() or len(u.modules) > 1)
        x, ct = layers.arrays(unit, 2)
        for which in layers.PASSES:
            got = layers.our_pass(unit, which, x, ct)().numpy()
            for layout in ("eager", "channels_last"):
                want = layers.torch_pass(unit, which, x, ct, layout, False)().numpy()
                assert got.shape == want.shape
                assert not (part("answers").relative(got, want) > 1e-5)


def test_a_step_that_the_rival_rounds_worse_than_we_do_is_right_and_one_further_off_is_wrong() -> None:
    answers = part("answers")
    before = {"g.a.weight": np.zeros(4)}
    exact = {"g.a.weight": np.array([1.0, 2.0, 3.0, 4.0])}
    rival = {"g.a.weight": exact["g.a.weight"] + 0.1}

    def same(off: float) -> float:
        ours = {"g.a.weight": exact["g.a.weight"] - off}
        return float(answers.same_step("toy", before, ours, rival, 1e-6, lambda: exact))

    assert not (same(0.09) > 0.05)
    for off in (0.11, np.nan):
        with pytest.raises(answers.WrongAnswer, match="layer g"):
            same(off)


@pytest.mark.cpu_only
def test_flops_of_3dgan_are_those_of_its_layers() -> None:
    layers, workloads = part("layers"), part("workloads")
    w = workloads.WORKLOADS["3dgan"]
    gan = w.gan(True)
    g, d = layers.all_units(gan, w.real(gan, 2))
    convolutions = [sum(u.flops for u in side if "Linear" not in u.text()) for side in (g, d)]
    assert convolutions == pytest.approx([510e6, 1570e6], rel=0.01)


def test_a_result_survives_writing_and_reading(result: dict[str, Any], tmp_path: Path) -> None:
    report = part("report")
    report.write(tmp_path / "new" / "result.json", result)
    assert report.read(tmp_path / "new" / "result.json") == result


@pytest.mark.parametrize("broken", ["machine", "rows", "ratio", "rival", "times"])
def test_a_result_of_another_schema_is_refused(broken: str, result: dict[str, Any]) -> None:
    report = part("report")
    if broken in ("machine", "rows"):
        del result[broken]
    elif broken == "ratio":
        del result["rows"][0]["ratio"]
    elif broken == "rival":
        result["rows"][0]["best_rival"] = "nobody"
    else:
        del result["rows"][0]["ours"]["median"]
    with pytest.raises(ValueError, match="benchmark result"):
        report.check(result)


def test_the_table_has_a_line_for_each_workload_and_says_where_ours_is_slower(result: dict[str, Any]) -> None:
    text = part("report").table(result)
    assert "| 3dgan | 64, 1024 | 100 ms / 900 ms channels_last (**9.00**) |" in text
    assert "100 ms in float32 / 500 ms channels_last (**5.00**)" in text
    assert "step of dcgan64 at batch 64" in text
    assert "discriminator.body.0" in text
    assert "toy (batch 64) 10 / 20" in text
    for r in result["rows"]:
        assert part("report").line(r)


def test_the_pictures_are_drawn(result: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = part("report")
    report.picture(result, tmp_path / "bars.png")
    report.growth_picture(result, tmp_path / "growth.png")
    assert all((tmp_path / name).read_bytes()[:4] == b"\x89PNG" for name in ("bars.png", "growth.png"))


def test_a_race_counts_every_contender_and_drops_the_slow_rival() -> None:
    import time

    timing = part("timing")
    found = timing.race(
        {"ours": lambda: time.sleep(0.004), "a": lambda: time.sleep(0.001), "b": lambda: time.sleep(0.02)}, 0.2
    )
    assert found["ours"].rounds > 1
    assert found["a"].rounds > 1
    assert found["b"].rounds == 1
    assert found["a"].low <= found["a"].median <= found["a"].high


def test_a_race_does_not_count_the_first_call_of_a_step_of_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    timing = part("timing")
    seconds = {"ours": iter([5.0, *[2.0] * 20]), "rival": iter([9.0, *[6.0] * 20]), "hopeless": iter([99.0])}
    runs = {name: (lambda name=name: name) for name in seconds}
    monkeypatch.setattr(timing, "clock", lambda run, calls=1, warm=False: next(seconds[run()]))
    found = timing.race(runs, budget_s=1.0)
    assert (found["ours"].median, found["ours"].rounds) == (2.0, 2)
    assert (found["rival"].median, found["rival"].rounds) == (6.0, 2)
    assert (found["hopeless"].median, found["hopeless"].rounds) == (99.0, 1)


# ---- on a GPU --------------------------------------------------------------------------------------------------------
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    import fake_cuda

    from gankernels import backends

    monkeypatch.delenv(backends.CHOICE, raising=False)
    monkeypatch.setitem(backends._serving, "cuda", fake_cuda)
    monkeypatch.setattr(backends, "cuda_backend", lambda kind: (fake_cuda if kind == "compiled" else cpu_twin, None))
    cpu_twin = _Twin(fake_cuda)
    return fake_cuda


class _Twin:
    """Another module with the functions of one."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.mark.cpu_only
@pytest.mark.parametrize(("kind", "which"), [("step", ()), ("generate", ()), ("layers", ("generator.0",))])
def test_the_backends_of_a_gpu_race_side_by_side_and_compilation_is_apart(
    monkeypatch: pytest.MonkeyPatch, kind: str, which: tuple[str, ...], result: dict[str, Any]
) -> None:
    parts, gpu, report = part("parts"), part("gpu"), part("report")
    module = _stand_in(monkeypatch)
    launched = sum(module.launches.values())
    found = gpu.rows(parts.Bench(0.01, "none", 1), kind, "toy", 1, 4, which)
    assert sum(module.launches.values()) > launched
    assert gk.backends.get("cuda") is module
    for r in found:
        assert set(r["compile_s"]) == {"ours", "numba"}
        assert r["rivals"].keys() >= {"numba"}
        assert min(r["compile_s"].values()) >= 0.0
        assert r["error"] < 1e-3
        assert "| compiled in ours " in report.line(r)
    report.check(result | {"rows": found})
    if kind != "layers":
        assert "Compilation in the first call, apart from the times above" in report.table(result | {"rows": found})


@pytest.mark.cpu_only
@pytest.mark.parametrize(("kind", "which"), [("step", ()), ("generate", ()), ("layers", ("generator.0",))])
def test_coarser_products_race_apart_and_leave_the_ratio_alone(
    monkeypatch: pytest.MonkeyPatch, kind: str, which: tuple[str, ...], result: dict[str, Any]
) -> None:
    parts, gpu, report = part("parts"), part("gpu"), part("report")
    _stand_in(monkeypatch)
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "synchronize", lambda: None)
    for settings, name in ((gpu.torch.backends.cudnn, "allow_tf32"), (gpu.torch.backends.cudnn, "benchmark")):
        monkeypatch.setattr(settings, name, getattr(settings, name))
    precision = gpu.torch.get_float32_matmul_precision()
    try:
        found = gpu.rows(parts.Bench(0.01, "none", 1), kind, "toy", 1, 4, which)
    finally:
        gpu.torch.set_float32_matmul_precision(precision)
    for r in found:
        assert set(r["rivals"]) == {"numba", "eager"}
        assert set(r["coarser"]) == {"ours tf32", "ours bfloat16", "tf32", "bfloat16"}
        assert r["ratio"] == r["rivals"][r["best_rival"]]["median"] / r["ours"]["median"]
        assert " | coarser: " in report.line(r)
    if kind != "layers":
        assert f"With coarser products, apart from the ratios above: {kind} of toy" in report.table(
            result | {"rows": found}
        )


@pytest.mark.cpu_only
def test_without_a_gpu_the_command_says_why(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from gankernels import backends

    monkeypatch.delenv(backends.CHOICE, raising=False)
    monkeypatch.delitem(backends._serving, "cuda", raising=False)
    monkeypatch.setattr(backends, "cuda_backend", lambda kind: (None, "there is no GPU here"))
    assert part("command").main(["--device", "cuda"]) == 1
    said = capsys.readouterr().err
    assert said == "--device cuda cannot be used: compiled: there is no GPU here; numba: there is no GPU here\n"


def test_a_plan_for_a_gpu_has_its_parts_in_float32() -> None:
    command = part("command")
    tasks = command.chosen(command.parser().parse_args(["--device", "cuda"]), 2)
    assert {t.part for t in tasks} == {"step", "generate", "layers"}
    assert {(t.dtype, t.threads) for t in tasks} == {("float32", 2)}
