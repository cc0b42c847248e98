"""The kernel benchmark as a page: `make bench WHAT=kernels PAGE=FILE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from measuring import Row

GOALS: Mapping[str, tuple[str, float]] = {
    "ViT-B encoder, 1024 px, bf16 (baseline: segment_anything, fp32)": ("C1", 3.5),
    "ViT-B encoder, 1024 px, fp32 (baseline: segment_anything, fp32)": ("C2, C9", 1.45),
    "ViT-B encoder, 256 px, bf16 (baseline: segment_anything, fp32)": ("C3", 3.3),
    "ViT-B encoder, 256 px, fp32 (baseline: segment_anything, fp32)": ("C3", 1.5),
    "mask decoder, 8 boxes, 1024 px, bf16 (baseline: segment_anything, fp32)": ("C4", 4.0),
    "mask decoder, 8 boxes, 1024 px, fp32 (baseline: segment_anything, fp32)": ("C4", 2.0),
    "3DSAM stem, fp32": ("C6", 10.0),
    "3DSAM block, bf16 weights": ("C6", 3.0),
    "3DSAM block, fp32": ("C6", 1.5),
}
"""How a row begins → the number of the goal that it measures on a CPU, and the ratio that was set."""
MEMORY_GOAL = ("ViT-B encoder, 1024 px", "C5", 8.0)
_INTRODUCTION = """\
Each operation and network of medseg beside the computation that it replaces: the same weights, the same inputs, in one
process and in turns. A row whose results differ by more than its tolerance ends the benchmark; *error* is the distance
of the results, relative to the baseline's. Read the ratios: milliseconds are those of one machine at one hour. Weights
are random, with biases and positions that are not zero. Goals C1 to C9 are those that were set before the work began;
C7 (gScoreCAM) comes with MedCLIP-SAM, C8 (files) is in [benchmarks](benchmarks.md). Each row is the median of up to 15
rounds, fewer where one takes seconds. What bounds the exact encoder at 256 pixels is matrix products: `torch.profiler`
gives them three quarters of the original's time and 85 % of ours (249 of 294 ms on the machine below), so that the
ratio would be 1.8 if everything else were free. It came out between 1.4 and 1.6 from run to run.
"""


def page(facts: Mapping[str, Any], rows: Sequence[Row], memory: Mapping[str, Mapping[str, float]], gpu: str) -> str:
    """Markdown.

    Args:
        facts: device, hardware, versions.
        rows: measured.
        memory: what → MB of "original" and "ours".
        gpu: the table of the GPU rows, or why there is none.
    """
    said = ", ".join(f"{name} {value}" for name, value in facts.items())
    lines = [
        "# Benchmarks of operations and networks",
        "",
        "Written by `make bench WHAT=kernels PAGE=...`; do not edit.",
    ]
    lines += [_INTRODUCTION, f"Measured on: {said}, seed 0.", ""]
    lines += ["| what | baseline, ms | ours, ms | ratio | error | goal |", "|---|---:|---:|---:|---:|---|"]
    for row in rows:
        name, least = _goal(row.what)
        goal = f"{name}: {least:g}, {'met' if row.ratio >= least else 'missed'}" if name else ""
        times = f"{row.baseline_ms:.1f} | {row.ours_ms:.1f} | {row.ratio:.2f}"
        lines.append(f"| {row.what} | {times} | {row.difference:.1e} | {goal} |")
    lines += ["", "Memory that a forward pass in float32 adds to weights and input:", ""]
    lines += ["| what | baseline, MB | ours, MB | ratio | goal |", "|---|---:|---:|---:|---|"]
    for what, peak in memory.items():
        ratio = peak["original"] / peak["ours"]
        begins, name, least = MEMORY_GOAL
        goal = f"{name}: {least:g}, {'met' if ratio >= least else 'missed'}" if what.startswith(begins) else ""
        lines.append(f"| {what} | {peak['original']:.0f} | {peak['ours']:.0f} | {ratio:.1f} | {goal} |")
    return "\n".join([*lines, "", "## On a GPU", "", gpu, ""])


def _goal(what: str) -> tuple[str, float]:
    return next((goal for begins, goal in GOALS.items() if what.startswith(begins)), ("", 0.0))
