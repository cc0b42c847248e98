"""Rows G1 to G7: what a GPU does with kernels and networks, beside its baselines and beside what is possible at all.

Each row runs both ways once and compares the results; where they differ, or one of them fails, the row says so and
carries no time. Then both are timed in turns. `Sizes()` is what is published; tests run every row with small ones on a
CPU, so that nothing but the GPU itself is new in the first run on one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

import measuring
import torch
from bench_gpu_cases import PARTS, Case, Sizes
from torch import Tensor

SECONDS = 0.1
"""A timing repeats what is shorter until it takes about so long."""


@dataclass(frozen=True)
class GpuRow:
    """One comparison.

    Args:
        goal: row of the goals, G1 to G7.
        what: what is measured and against what.
        must, stretch: ratios that were set as goals; None where the goal is another figure.
        difference, tolerance: relative distance of the results.
        baseline_ms, ours_ms, ratio: medians of interleaved runs; None where the row failed.
        floor_ms, tflops: what the device could do at best, and what it did; None where unknown.
        baseline_mb, ours_mb: highest memory of one run beyond what was there; None on a CPU.
        problem: why there are no times.
    """

    goal: str
    what: str
    must: float | None
    stretch: float | None
    difference: float
    tolerance: float
    baseline_ms: float | None = None
    ours_ms: float | None = None
    ratio: float | None = None
    floor_ms: float | None = None
    tflops: float | None = None
    baseline_mb: float | None = None
    ours_mb: float | None = None
    problem: str = ""


def rows(device: torch.device, sizes: Sizes | None = None) -> list[GpuRow]:
    """All rows; call it without inference mode, since some are about gradients."""
    sizes = sizes or Sizes()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    return [measured(case, device) for case in chain.from_iterable(part(device, sizes) for part in PARTS)]


def measured(case: Case, device: torch.device) -> GpuRow:
    """Agreement first, then times in turns."""
    row = GpuRow(case.goal, case.what, case.must, case.stretch, float("inf"), case.tolerance)
    try:
        expected, result = case.baseline().float(), case.ours().float()
    except RuntimeError as error:
        return replace(row, problem=f"{type(error).__name__}: {str(error).splitlines()[0]}")
    row = replace(row, difference=float((result - expected).norm() / expected.norm()))
    if not row.difference <= row.tolerance:
        return replace(row, problem="results differ")
    del expected, result
    memory = [peak(run, device) for run in (case.baseline, case.ours)]
    times = [max(1, int(SECONDS * 1000 / measuring.clock(run))) for run in (case.baseline, case.ours)]
    found: list[list[float]] = [[], []]
    for _ in range(measuring.ROUNDS):
        for run, count, kept in zip((case.baseline, case.ours), times, found, strict=True):
            kept.append(measuring.clock(partial(repeated, run, count)) / count)
    slow, fast = (sorted(kept)[len(kept) // 2] for kept in found)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    return replace(
        row, baseline_ms=slow, ours_ms=fast, ratio=slow / fast, baseline_mb=memory[0], ours_mb=memory[1],
        floor_ms=case.work.floor_ms(name) if case.work else None,
        tflops=case.work.flops / fast / 1e9 if case.work else None,
    )  # fmt: skip


def repeated(run: Callable[[], Tensor], count: int) -> Tensor:
    """The result of the last of `count` runs."""
    for _ in range(count - 1):
        run()
    return run()


def peak(run: Callable[[], Tensor], device: torch.device) -> float | None:
    """MB of one run at its highest, beyond what was there."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def table(found: list[GpuRow]) -> str:
    """Lines for the terminal."""
    return "".join(line(row) for row in found)


def line(row: GpuRow) -> str:
    """One row: times, ratio and goal, share of the floor, memory."""
    if row.baseline_ms is None or row.ours_ms is None:
        return f"{row.goal} FAILED {row.what}: {row.problem} (difference {row.difference:.1e})\n"
    text = f"{row.goal} {row.baseline_ms:9.3f} ms -> {row.ours_ms:9.3f} ms  x{row.ratio:<6.2f} {row.what}"
    if row.must is not None and row.ratio is not None:
        text += f"; goal {row.must:g} {'met' if row.ratio >= row.must else 'MISSED'}, stretch {row.stretch:g}"
    if row.tflops is not None:
        text += f"; {row.tflops:.1f} TFLOP/s"
    if row.floor_ms is not None:
        text += f", {row.floor_ms / row.ours_ms:.0%} of the device's floor {row.floor_ms:.3f} ms"
    if row.baseline_mb is not None and row.ours_mb is not None:
        text += f"; {row.baseline_mb:.0f} MB -> {row.ours_mb:.0f} MB"
    return f"{text}; difference {row.difference:.1e}\n"
