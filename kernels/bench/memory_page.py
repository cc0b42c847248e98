"""docs/memory.md from the JSON of a run of `bench_memory.py`."""

from __future__ import annotations

from typing import Any

INTRODUCTION = """# Memory

How much memory a run takes follows from the scan, and from nothing else: neither from the number of labels nor from how
many slices there are beyond those of the scan and of its mask.

| what | bytes per voxel of the scan | when |
|---|---|---|
| the scan | 4 | always: values are held in float32 |
| the mask | 1 (2 where a label is above 255) | always |
| the mask in the file's order | the same | while it is written |

On top come Python, torch and MONAI (about 0.7 GB) and the amounts below, which are fixed.

## How pipeline dynunet keeps it flat

- The scan at the network's spacing is sampled part by part, when windows ask for it. Up to 32 million voxels of it are
  kept instead (128 MiB), since sampling twice costs time. What intensities are normalised by (quantiles, mean) is found
  in slabs.
- Logits are added up for one row of windows at a time. What no later row reaches is divided by its weights and goes on;
  the rest moves to the front. At most 1 GiB of them is held. Where a row would be larger (many labels, large windows)
  the volume goes in tiles, and windows on their borders are predicted twice.
- From the finished part, labels on the scan's own grid are made in blocks: interpolation and argmax in one operation,
  `upsample_argmax`. Logits never exist on the scan's grid, nor, on a GPU, on the host.

The result is that of the naive way. Voxels may differ where two classes are equal but for rounding, about 1e-6 of the
largest logit. A test holds this for grids of all orientations, flipped, cut and at any spacing."""

LIMITS = """
## What still grows

- Cleaning (`keep: largest`, `--min-mm3`, holes) numbers the parts of one label in a box round it, with up to 4 bytes
  per voxel of that box.
- Several objects of 3DSAM-adapter: 4 bytes per voxel more, since who is the likelier one is kept.
- The slice pipelines keep embeddings up to the preset's `memory_mb` (512 MiB)."""


def page(run: dict[str, Any]) -> str:
    """The page; every figure comes from `run`."""
    setting = run["setting"]
    lines = [
        INTRODUCTION,
        "",
        "## Measured",
        "",
        f"Written by `{setting['command']}` on {setting['date']}; do not edit. {setting['cores']} cores, "
        f"{setting['threads']} threads used, load average {setting['load']} at the end (above the number of "
        "cores, times and their ratio say little; peaks do not depend on it).",
        f"Windows of {setting['patch']}³ voxels at 1.5 mm that overlap by {setting['share']:.0%}, a small network of "
        "random weights, a phantom of 0.8 x 0.8 x 1 mm. Each row is two fresh processes;",
        "their peaks hold Python, torch and the scan. The last column is the share of voxels that differ.",
        "",
        "| scan | labels | naive | ours | RAM, naive / ours | time, naive / ours | masks differ |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in run["rows"]),
    ]
    if run["command"]:
        lines += ["", *_command(run["command"], setting["goal_gib"])]
    return "\n".join([*lines, LIMITS, ""])


def _row(row: dict[str, Any]) -> str:
    naive, ours = row["naive"], row["ours"]
    shape = " x ".join(str(size) for size in row["shape"])
    here = f"{ours['peak_gib']:.2f} GiB, {ours['seconds']:.0f} s"
    if naive is None:
        return f"| {shape} | {row['labels']} | not run: needs about {row['needs_gib']:.0f} GiB | {here} | - | - | - |"
    there = f"{naive['peak_gib']:.2f} GiB, {naive['seconds']:.0f} s"
    ratios = f"{naive['peak_gib'] / ours['peak_gib']:.1f} | {naive['seconds'] / ours['seconds']:.2f}"
    return f"| {shape} | {row['labels']} | {there} | {here} | {ratios} | {row['difference']:.1e} |"


def _command(whole: dict[str, Any], goal: float) -> list[str]:
    verdict = "below" if whole["peak_gib"] <= goal else "ABOVE"
    lines = [
        f"The whole command, `{whole['command']}`: {whole['wall_s']:.0f} s, peak {whole['peak_gib']:.2f} GiB, "
        f"{verdict} the goal of {goal:.0f} GB.",
        "",
        "| stage | s | peak, GiB |",
        "|---|---|---|",
    ]
    return lines + [
        f"| {stage['stage']} | {stage['seconds']:.1f} | {(stage['peak_rss_mib'] or 0) / 1024:.2f} |"
        for stage in whole["stages"]
    ]
