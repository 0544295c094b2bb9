"""The thread pool under concurrent callers, changes of its size, and fork."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import gankernels as gk
from gankernels.backends import cpu

pytestmark = pytest.mark.cpu_only
SIZE = 200_000


def exp_sum(seed: int) -> float:
    x = np.random.default_rng(seed).normal(size=SIZE)
    y, total = np.full_like(x, np.nan), np.full(1, np.nan)
    cpu.unary("exp", x, y)
    cpu.sum(y, total)
    return float(total[0])


def test_callers_in_several_python_threads_take_turns(thread_counts: tuple[int, ...]) -> None:
    expected = [exp_sum(i) for i in range(8)]
    for n in thread_counts:
        gk.set_num_threads(n)
        with ThreadPoolExecutor(4) as callers:
            assert list(callers.map(exp_sum, list(range(8)) * 5)) == expected * 5


def test_the_pool_changes_size_between_calls(thread_counts: tuple[int, ...]) -> None:
    expected = exp_sum(1)
    for n in (*thread_counts, 7, 1, 2):
        gk.set_num_threads(n)
        assert gk.num_threads() == n
        for _ in range(20):
            assert exp_sum(1) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_a_pool_of_its_own(tmp_path: Path) -> None:
    script = """
import os, warnings
import numpy as np
from gankernels.backends import cpu
warnings.simplefilter("ignore")
cpu.set_num_threads(2)
x = np.ones(200_000)
y = np.zeros_like(x)
cpu.unary("exp", x, y)
child = os.fork()
if child == 0:
    z = np.zeros_like(x)
    cpu.unary("exp", x, z)
    os._exit(0 if (z == y).all() else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, cwd=tmp_path)
