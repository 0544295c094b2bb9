"""The diagnosis that users paste into reports: complete, valid JSON, without private data."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import gankernels as gk
from gankernels import info
from gankernels.backends import cpu, registry


def test_the_report_names_versions_parts_and_what_was_chosen() -> None:
    report = info.collect()
    assert report["versions"]["gankernels"] == gk.__version__
    assert report["devices"]["cpu"] == {"usable": True, "why_not": None}
    assert report["isa"] == {
        "compiled": cpu.isa_compiled(),
        "present": cpu.isa_present(),
        "chosen": cpu.isa(),
        "bf16_products": cpu.has_bf16_products(),
        "tiles": {"why_not": cpu.why_no_tiles(), "emulated": cpu.tiles_are_emulated()},
    }
    assert report["threads"]["used"] == gk.num_threads()
    assert report["conv_algorithm"] == gk.conv_algorithm()


def test_a_device_that_cannot_be_used_comes_with_the_reason() -> None:
    cuda = info.collect()["devices"]["cuda"]
    assert cuda["usable"] or len(cuda["why_not"]) > 10


def test_tiles_that_cannot_be_used_come_with_the_reason() -> None:
    report = info.collect()
    why_not = report["isa"]["tiles"]["why_not"]
    assert ("amx" in report["isa"]["present"]) == (why_not is None)
    assert why_not is None or why_not in info.text(report)


def test_json_and_text_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert info.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == info.collect()
    assert info.main([]) == 0
    page = capsys.readouterr().out
    for name in (gk.__version__, cpu.isa(), "h5py", "convolution algorithm"):
        assert name in page


def test_an_absent_package_comes_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    report = info.collect()
    assert all(entry["version"] is None for entry in report["optional"].values())
    page = info.text(report)
    assert "absent; pip install 'gankernels[calo]'" in page


def test_every_command_names_an_extra_that_exists() -> None:
    pyproject = (Path(__file__).resolve().parents[1] / "pyproject.toml").read_text()
    for _, _, command in info.OPTIONAL.values():
        if "gankernels[" in command:
            assert f"\n{command.split('[')[1].split(']')[0]} = [" in pyproject


def test_no_path_and_no_name_of_the_user_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2-hunter2")
    page = json.dumps(info.collect()) + info.text(info.collect())
    assert "hunter2" not in page
    assert str(Path.home()) not in page
    assert os.sep + "lib" not in page


def test_the_environment_variables_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANKERNELS_ISA", "scalar")
    assert "GANKERNELS_ISA=scalar" in info.text(info.collect())


def test_every_kernel_comes_with_the_backend_that_serves_it() -> None:
    kernels = info.collect()["kernels"]
    assert set(kernels["cpu"]["kernels"].values()) == {"compiled"}
    assert list(kernels["cuda"]["kernels"]) == list(registry.KERNELS)
    assert kernels["cuda"]["reason"].startswith("compiled: ")
    assert "numba: " in kernels["cuda"]["reason"]
    page = info.text(info.collect())
    assert f"  cpu   compiled (built in), all {len(registry.KERNELS)}" in page


def test_kernels_that_are_served_by_different_backends_are_listed_apart() -> None:
    report = info.collect()
    report["kernels"]["cuda"]["kernels"] = {**dict.fromkeys(registry.KERNELS, "compiled"), "lerp": "numba"}
    assert "1: lerp" in info.text(report)


def test_a_device_that_cannot_be_used_is_explained_once() -> None:
    report = info.collect()
    report["devices"]["cuda"] = {"usable": False, "why_not": "numba: there is no GPU"}
    report["kernels"]["cuda"] = {"reason": "numba: there is no GPU", "kernels": dict.fromkeys(registry.KERNELS)}
    page = info.text(report)
    assert page.count("there is no GPU") == 1
    assert f"  cuda  none of the {len(registry.KERNELS)}, for the reason above" in page
