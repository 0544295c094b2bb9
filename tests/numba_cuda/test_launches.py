"""What a step of training costs in launches, and that a replayed one does nothing but launch."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba_pairs import skip_module_without_device

import gankernels as gk
from gankernels.backends import cuda_numba
from gankernels.gan import Trainer, recipes
from gankernels.gan.config import configure
from gankernels.gan.recipes import Request
from gankernels.ops import common

skip_module_without_device()
launching: Any = import_module("gankernels.backends.cuda_numba.launch")
if not launching.SIMULATED:
    pytest.skip("counts launches that do not run", allow_module_level=True)

SMALL = ["data.events=40", "data.grid=[4, 5, 3]", "model.channels=2"]


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the kernels that were launched; none of them runs."""
    found: list[str] = []
    monkeypatch.setattr(launching.Start, "_simulated", lambda self, *_: found.append(self.kernel.__name__))
    launching.start.cache_clear()
    yield found
    launching.start.cache_clear()
    common._device_scalar.cache_clear()  # numbers that no kernel has written


@pytest.mark.parametrize(
    ("name", "settings", "plain", "replayed", "penalized"),
    [("toy-gaussian", [], 150, 92, 114), ("quickstart", SMALL, 645, 225, 277)],
)
def test_a_step_of_a_small_recipe_is_so_many_launches_and_replayed_steps_no_python(
    launches: list[str], name: str, settings: list[str], plain: int, replayed: int, penalized: int, tmp_path: Path,
    monkeypatch: Any,
) -> None:  # fmt: skip
    monkeypatch.setattr(Trainer, "_check_losses", lambda *_: None)  # numbers that no kernel has written
    settings = [*settings, "train.batch=4", "train.max_steps=30", "train.progress=off"]
    with gk.device("cuda"):
        recipe: Any = recipes.get(name)
        session = recipe.open(Request(configure(recipe.config, None, settings), directory=tmp_path))
        trainer = Trainer(session.gan, session.batches, session.config.train, None)
        counts, calls = [], []
        for _ in range(16):
            launches.clear()
            called = 0

            def count(frame: Any, event: str, _: Any) -> None:
                nonlocal called
                called += event == "call" and "gankernels/ops" in frame.f_code.co_filename

            sys.setprofile(count)
            try:
                trainer.train_step()
            finally:
                sys.setprofile(None)
            counts.append(len(launches))
            calls.append(called)
        session.close()
    assert {key: r.reason for key, r in trainer.updates._replays.items() if r.reason is not None} == {}
    assert max(counts[1:4]) <= plain, "the first steps run in Python"
    assert max(counts[13:]) <= replayed, "elementwise kernels are joined"
    assert counts[12] <= penalized, "with the gradient penalty of every fourth step"
    assert max(calls[-4:]) < 0.2 * calls[1], "operations are not called again"


def test_a_launch_of_known_grid_configures_nothing(launches: list[str]) -> None:
    x = cuda_numba.from_host(np.zeros(6, np.float32))
    for _ in range(3):
        cuda_numba.unary("square", x, x)
    assert launches == ["unary_kernel"] * 3
    assert launching.start.cache_info().misses == 1


def test_warming_up_compiles_the_kernel_of_chains_too(launches: list[str]) -> None:
    with gk.device("cuda"):
        gk.warmup(gk.nn.Linear(3, 2), (4, 3))
    assert "chain_kernel" in launches
