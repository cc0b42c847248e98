"""docs/benchmarks.md from the JSON of a run of `bench_command.py`."""

from __future__ import annotations

from typing import Any

TITLES = {
    "start": "Start of the command line",
    "image": "An X-ray image",
    "volume": "A small volume",
    "ct": "A CT of {shape} voxels",
}

LIMITS = """
## What limits it

- Start and the first seconds of `read`: imports. torch is one half; the other is MONAI, whose `__init__` imports all of
  MONAI whatever one asks it for, and torchvision, which segment_anything imports.
- `read .nii.gz`: one gzip stream is unpacked on one core. Ours also turns the voxels into float32, last axis fastest,
  and hashes the file; `get_fdata` leaves the file's order.
- `write the mask`: how much faster than gzip 6 depends on the mask; smooth organs as drawn here pack fast with either.
- Ratios under a load average above the number of cores swing by tens of percent from run to run."""


def page(run: dict[str, Any]) -> str:
    """The page; every figure comes from `run`."""
    setting = run["setting"]
    lines = [
        "# Benchmarks",
        "",
        f"Written by `{setting['command']}` on {setting['date']}; do not edit. Each row first checks that both",
        "ways give the same result, then times them in turns; a row whose results differ says FAILED and carries no",
        "time. Read the ratios: milliseconds are those of one machine at one hour. Kernels and networks have a",
        "benchmark of their own, `make bench WHAT=kernels`.",
        "",
        f"- machine: {setting['hardware']}, {setting['cores']} cores, {setting['threads']} threads used, "
        f"load average {setting['load'][0]} at the start and {setting['load'][1]} at the end",
        "- versions: " + ", ".join(f"{name} {version}" for name, version in setting["versions"].items()),
        f"- seed {setting['seed']}; volume: {setting['volume']}",
    ]
    for case, title in TITLES.items():
        rows = [row for row in run["rows"] if row["case"] == case]
        if not rows:
            continue
        lines += ["", f"## {title.format(shape=setting['ct'])}", "", _table(rows)]
        for command in run["commands"]:
            if command["case"] == case:
                lines += ["", *_command(command)]
    return "\n".join([*lines, *_shortfalls(run), LIMITS, ""])


def _table(rows: list[dict[str, Any]]) -> str:
    lines = ["| stage | naive, ms | ours, ms | ratio | rounds | difference | |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        times = (
            f"{row['naive_ms']:.0f} | {row['ours_ms']:.0f} | {row['ratio']:.2f}" if row["ratio"] else "- | - | FAILED"
        )
        lines.append(f"| {row['stage']} | {times} | {row['rounds']} | {row['difference']:.1e} | {row['note']} |")
    return "\n".join(lines)


def _command(command: dict[str, Any]) -> list[str]:
    """One whole command: its stages, their share of the wall time, and the peak of its memory."""
    outer = [stage for stage in command["stages"] if "/" not in stage["stage"]]
    wall = command["wall_s"]
    text = ", ".join(f"{each['stage']} {each['seconds']:.2f} s ({each['seconds'] / wall:.0%})" for each in outer)
    return [
        f"The whole command, `{command['command']}`: {wall:.1f} s from shell to shell, of which {text}. "
        f"Peak memory {command['peak_mib']:.0f} MiB.",
    ]


def _shortfalls(run: dict[str, Any]) -> list[str]:
    slow = [row for row in run["rows"] if row["goal"] and not (row["ratio"] or 0) >= row["goal"]]
    goals = [row for row in run["rows"] if row["goal"]]
    if not goals:
        return []
    lines = ["", "## Goals", "", f"{len(goals) - len(slow)} of {len(goals)} goals were met in this run."]
    lines += [
        f"- missed: {row['case']}, {row['stage']}: {row['ratio'] or 'FAILED'}, goal {row['goal']}" for row in slow
    ]
    return lines
