"""One comparison of two ways to the same result: agreement first, then interleaved times."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDS = 15
SECONDS = 25.0
"""A comparison ends after `ROUNDS` rounds, or after the third one that is past this time."""

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Processor time, with one thread, is for machines that others compute on; it knows nothing of a GPU."""
chosen = ["wall"]


@dataclass(frozen=True)
class Row:
    """One comparison: median milliseconds of baseline and ours, their ratio, the relative distance of the results."""

    what: str
    baseline_ms: float
    ours_ms: float
    ratio: float
    difference: float


def compare(what: str, baseline: Callable[[], Tensor], ours: Callable[[], Tensor], tolerance: float = 1e-4) -> Row:
    """Measure both, in turns, because a shared machine changes its speed within a minute.

    Raises:
        SystemExit: ‖ours - baseline‖ / ‖baseline‖ is not below `tolerance`; no speed is reported.
    """
    expected, result = baseline().float(), ours().float()
    difference = float((result - expected).norm() / expected.norm())
    if not difference < tolerance:
        raise SystemExit(f"{what}: results differ by {difference:.1e}, no speed is reported")
    del expected, result
    slow: list[float] = []
    fast: list[float] = []
    begun = time.perf_counter()
    while len(slow) < ROUNDS and (len(slow) < 3 or time.perf_counter() - begun < SECONDS):
        slow.append(clock(baseline))
        fast.append(clock(ours))
    left, right = statistics.median(slow), statistics.median(fast)
    return Row(what, round(left, 2), round(right, 2), round(left / right, 2), difference)


def clock(run: Callable[[], Tensor]) -> float:
    """Milliseconds by the chosen clock."""
    now = CLOCKS[chosen[0]]
    start = now()
    run()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return 1000 * (now() - start)
