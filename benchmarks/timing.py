"""Clocks: contenders take turns in one process, so that a busy minute of the machine meets all of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Run = Callable[[], Any]

SETTLE_S = 0.01  # after this the other side's idle threads have stopped spinning; far longer and ours wake up slowly
WARM_S = 0.05  # shorter runs are made once uncounted after the other side's turn: its data are in the caches
CALL_S = 0.01  # shorter runs are repeated until a sample takes so long
SETTLING = 3  # calls that do not count: compilation, recordings for replay, pages of memory
SLOW_S = 2.0  # a call of seconds settles in one: the first, which finds its memory, may still take twice as long
SLOWER = 1.3  # a rival that is this much slower than the best one in the first round leaves the race
HOPELESS = 2.5  # the same for calls of seconds that do not count


@dataclass(frozen=True)
class Times:
    """Seconds of one contender.

    Attributes
    ----------
    median, low, high : float
        Of the rounds: median and quartiles.
    fastest : float
    rounds : int
    """

    median: float
    low: float
    high: float
    fastest: float
    rounds: int

    @classmethod
    def of(cls, samples: list[float]) -> Times:
        """Summary of the samples of all rounds."""
        low, middle, high = np.percentile(samples, [25, 50, 75])
        return cls(float(middle), float(low), float(high), min(samples), len(samples))


def clock(run: Run, calls: int = 1, warm: bool = False) -> float:
    """Seconds of one call, the mean of `calls`; `warm` makes one before them that does not count."""
    time.sleep(SETTLE_S)
    if warm:
        run()
    start = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - start) / calls


def race(contenders: Mapping[str, Run], budget_s: float, max_rounds: int = 11) -> dict[str, Times]:
    """Times of every contender.

    The first calls of each are not counted: SETTLING, or one that takes seconds. The round after them decides how many
    rounds fit into the budget, at least 2 together with it, and drops what is much slower than the fastest other
    contender; those whose name begins with "ours" always stay.
    """
    first: dict[str, float] = {}
    for name, run in contenders.items():
        try:
            first[name] = clock(run)
        except Exception as error:  # a rival that cannot run the workload is no rival: say so, and go on
            if name.startswith("ours"):
                raise
            print(f"{name} failed: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
    names = list(first)
    for _ in range(SETTLING - 1):
        for name, t in first.items():
            if t <= SLOW_S:
                contenders[name]()
    quickest = min((t for name, t in first.items() if not name.startswith("ours")), default=0.0)
    probe = {
        name: t if t > max(SLOW_S, HOPELESS * quickest) and not name.startswith("ours") and "compile" not in name
        else clock(contenders[name])
        for name, t in first.items()
    }  # fmt: skip
    calls = {name: max(1, round(CALL_S / max(t, 1e-7))) for name, t in probe.items()}
    samples: dict[str, list[float]] = {name: [probe[name]] if calls[name] == 1 else [] for name in names}
    best = min((t for name, t in probe.items() if not name.startswith("ours")), default=0.0)
    racing = [name for name in names if name.startswith("ours") or probe[name] <= SLOWER * best]
    one_round = sum(max(probe[name] * (calls[name] + 1), SETTLE_S) for name in racing)
    for _ in range(int(np.clip(budget_s / one_round, 1, max_rounds))):
        for name in racing:
            samples[name].append(clock(contenders[name], calls[name], warm=probe[name] < WARM_S))
    return {name: Times.of(taken or [probe[name]]) for name, taken in samples.items()}
