"""Rows of the whole-command benchmark: two ways to one result, of which the times count only if the results agree."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

ROUNDS = 5
SECONDS = 12.0
"""A row ends after `ROUNDS` rounds, or after the first one that is past this time."""


@dataclass(frozen=True)
class Row:
    """One stage.

    Args:
        case: "image", "volume", "ct" or "start".
        stage: what is measured, and after "naive:" what it is measured against.
        naive_ms, ours_ms: medians of interleaved runs; None where the results differ.
        ratio: naive / ours of the medians.
        difference: of the results, as the row's own measure has it.
        tolerance: above which the row has failed.
        note: sizes of files, shares.
        goal: ratio that was set as a goal, if any.
        rounds: how often each was measured.
    """

    case: str
    stage: str
    naive_ms: float | None
    ours_ms: float | None
    ratio: float | None
    difference: float
    tolerance: float
    note: str = ""
    goal: float | None = None
    rounds: int = 0

    @property
    def failed(self) -> bool:
        """Whether the two results differ, or cannot be compared."""
        return not self.difference <= self.tolerance


Run = Callable[[], Any]
Distance = Callable[[Any, Any], float]


def largest(expected: Any, result: Any) -> float:
    """Largest absolute difference of two arrays; infinite where their shapes differ."""
    left, right = np.asarray(expected), np.asarray(result)
    if left.shape != right.shape:
        return float("inf")
    return float(np.abs(left.astype(np.float64) - right).max(initial=0.0))


def relative(expected: Any, result: Any) -> float:
    """‖result - expected‖ / ‖expected‖; infinite where the shapes differ."""
    left, right = np.asarray(expected, dtype=np.float64), np.asarray(result, dtype=np.float64)
    return float(np.linalg.norm(right - left) / np.linalg.norm(left)) if left.shape == right.shape else float("inf")


def share(expected: Any, result: Any) -> float:
    """Share of values that are not equal; infinite where the shapes differ."""
    left, right = np.asarray(expected), np.asarray(result)
    return float(np.mean(left != right)) if left.shape == right.shape else float("inf")


def compare(
    case: str,
    stage: str,
    naive: Run,
    ours: Run,
    distance: Distance = largest,
    tolerance: float = 0.0,
    note: str = "",
    goal: float | None = None,
    rounds: int = ROUNDS,
) -> Row:
    """Check that both agree, then measure them in turns, because a shared machine changes its speed within a minute."""
    difference = distance(naive(), ours())
    if not difference <= tolerance:
        return Row(case, stage, None, None, None, difference, tolerance, note, goal)
    slow: list[float] = []
    fast: list[float] = []
    begun = time.perf_counter()
    while not slow or (len(slow) < rounds and time.perf_counter() - begun < SECONDS):
        slow.append(_clock(naive))
        fast.append(_clock(ours))
    left, right = statistics.median(slow), statistics.median(fast)
    times = (round(left, 2), round(right, 2), round(left / right, 2))
    return Row(case, stage, *times, difference, tolerance, note, goal, len(slow))


def _clock(run: Run) -> float:
    """Milliseconds of wall time."""
    start = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - start)
