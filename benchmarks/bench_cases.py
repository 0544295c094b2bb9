"""Single operations by pytest-benchmark, from the Case list that the tests use: for following one kernel over commits.

python -m pytest benchmarks/bench_cases.py --benchmark-autosave
python -m pytest benchmarks/bench_cases.py --benchmark-compare -k D25
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gankernels as gk
from gankernels.testing.cases import Case, cases

FULL = [c for c in cases(None, "full") if c.flops < 1e11]  # a second at 100 GFLOP/s


@pytest.mark.parametrize("case", FULL, ids=str)
def test_speed(case: Case, benchmark: Any) -> None:
    """One forward pass; extra_info has its arithmetic."""
    operation = getattr(gk.ops, case.op)
    inputs = [gk.from_array(a) for a in case.inputs(np.float32)]

    def run() -> Any:
        with gk.no_grad():
            return operation(*inputs, **case.arguments)

    result = benchmark(run)
    assert result.shape == case.output
    seconds = benchmark.stats.stats.median
    benchmark.extra_info |= {"gflops": case.flops / seconds * 1e-9, "gb_per_s": case.bytes() / seconds * 1e-9}
