"""docs/benchmarks.md from the JSON of a run of `bench_command.py`."""

from __future__ import annotations

from typing import Any

TITLES = {
    "start": "Start of the command line",
    "image": "An X-ray image",
    "volume": "A small volume",
    "ct": "A CT of {shape} voxels",
}

EXPORT = 0.1
"""Share of the wall time that resampling and export may take."""

LIMITS = """
## What limits it

- Start: `torch` is half of it. MONAI imports all of itself whatever one asks it for; what it imports of others for
  features that medseg does not use (transformers, pandas, matplotlib, torchvision and more) is kept out, see
  `medseg_cli/lean_imports.py`. The naive first row imports all of that.
- `read .nii.gz`: one gzip stream is unpacked on one core, and ISA-L needs a third of `get_fdata`'s whole time for the
  CT: no reader of such files gets past a ratio of 3. Ours unpacks in one thread, turns slabs of voxels into float32,
  last axis fastest, in another and hashes the file in a third; `get_fdata` leaves the file's order and hashes nothing.
  With less than two free cores the three come one after the other and the ratio falls to 1.5.
- `write the mask`: ISA-L packs a label map in a fortieth of gzip's time and leaves a file half as large again. What is
  left is turning voxels from the array's order into the file's, one byte at a time, in two threads (about 70 ms of one
  core for the CT), and telling the disk to keep it (fsync), which the naive way does not do.
- `resample`: the result is made plane by plane, so that all that a plane needs stays in the cache; what is left is
  reading every slice of the scan twice.
- `three cases` and `load torch ...`: what overlaps is unpacking, hashing and copying, which need no Python lock; the
  network itself uses all cores, so that on two of them only the gaps between its operations can be filled.
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
        f"benchmark of their own, `make bench WHAT=kernels`. All figures of this run: `{setting['json']}`.",
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
    return "\n".join([*lines, *_whole(run), *_shortfalls(run), LIMITS, ""])


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


def _whole(run: dict[str, Any]) -> list[str]:
    """Memory of the whole commands, and what share of them is resampling and export."""
    if not run["commands"]:
        return []
    lines = ["", "## Memory and export of the whole commands", ""]
    lines += ["| scan | as float32, MiB | peak, MiB | peak of the formulas, MiB | resample and export, goal 10 % | |"]
    lines += ["|---|---|---|---|---|---|"]
    for each in run["commands"]:
        share = each["export_share"]
        sizes = f"{each['scan_mib']:.0f} | {each['peak_mib']:.0f} | {each['naive_peak_mib']:.0f}"
        lines.append(f"| {each['case']} | {sizes} | {share:.1%} | {'met' if share <= EXPORT else 'missed'} |")
    return [
        *lines,
        "",
        "Resample and export: stages `segment/postprocess` and `write` of the command; for the small volume also its "
        "crops and what is pasted back, by the rows above. torch and MONAI alone are 600 to 700 MiB of each peak.",
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
