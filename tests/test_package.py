"""What `import gankernels` costs and brings, and that there is one version."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import gankernels as gk

pytestmark = pytest.mark.cpu_only
ROOT = Path(__file__).resolve().parents[1]


def _python(code: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


def test_import_needs_numpy_only_prints_nothing_and_starts_no_thread() -> None:
    code = """
import sys, os
import gankernels
heavy = {"h5py", "matplotlib", "tqdm", "torch", "safetensors", "tensorboard", "scipy"} & set(sys.modules)
assert not heavy, heavy
if os.path.isdir("/proc/self/task"):
    import threading
    import numpy
    assert threading.active_count() == 1
"""
    done = _python(code)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_import_starts_no_native_thread() -> None:
    code = """
import os, sys
import numpy
count = lambda: len(os.listdir("/proc/self/task")) if os.path.isdir("/proc/self/task") else 1
before = count()
import gankernels
sys.exit(count() - before)
"""
    assert _python(code).returncode == 0


def test_the_rooms_that_need_extras_are_reached_lazily() -> None:
    done = _python("import gankernels as gk; print(gk.calo.__name__, gk.gan.__name__, gk.info.__name__)")
    assert done.stdout.split() == ["gankernels.calo", "gankernels.gan", "gankernels.info"], done.stderr


def test_an_unknown_name_of_the_package_is_an_attribute_error() -> None:
    done = _python("import gankernels as gk; gk.no_such_name")
    assert "AttributeError: module 'gankernels' has no attribute 'no_such_name'" in done.stderr


def test_every_public_name_exists() -> None:
    assert [name for name in gk.__all__ if not hasattr(gk, name)] == []


def test_the_version_has_three_numbers_and_heads_the_changelog() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+", gk.__version__)
    assert f"## {gk.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_a_checkout_without_the_native_module_says_how_to_install(tmp_path: Path) -> None:
    for source in (ROOT / "gankernels").rglob("*.py"):
        target = tmp_path / source.relative_to(ROOT)
        if source.name not in ("_cpu.py", "_build_info.py"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(source.read_text())
    done = subprocess.run(
        [sys.executable, "-c", "import gankernels"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: gankernels: the compiled module gankernels._cpu is missing")
    assert last.endswith("pip install .")
    assert "During handling" not in done.stderr


def test_the_information_page_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gankernels.info"], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("gankernels")
