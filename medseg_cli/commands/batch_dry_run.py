"""What `medseg batch --dry-run` prints: a line per case, and totals."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def text_of(told: dict[str, Any]) -> str:
    """What a batch would do, as text: one line per case, then totals.

    Args:
        told: as `batch.dry_run.describe` gives it.
    """
    heads = ("case", "format", "shape", "spacing (mm)", "size", "preset", "prompts", "memory", "time", "what happens")
    rows = [_planned(row) for row in told["cases"]]
    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    console = Console(width=10_000, color_system=None, force_terminal=False)
    with console.capture() as text:
        console.print(table)
    lines = [line.rstrip() for line in text.get().splitlines()]
    return "\n".join([*lines, "", *_planned_totals(told)])


def _planned(row: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a case."""
    shape, spacing = row["shape_ijk"], row["spacing_mm"]
    series = f" (series {row['series']})" if row["series"] else ""
    why = f": {' '.join(row['reason'].split())}" if row["reason"] else ""
    return (
        row["id"],
        f"{row['format'] or '?'}{series}",
        _shape(shape, cine=bool(row["cine"])) if shape else "?",
        "x".join(f"{mm:.3g}" for mm in spacing) if spacing else "?",
        _bytes(row["bytes"]),
        row["preset"],
        row["prompts"],
        _bytes(row["memory_bytes"]),
        "?" if row["seconds"] is None else f"{row['seconds']:.1f} s",
        f"{row['state']}{why}",
    )


def _shape(shape: list[int], *, cine: bool) -> str:
    return f"{shape[0]}x{shape[1]}, {shape[2]} frames" if cine else "x".join(map(str, shape))


def _planned_totals(told: dict[str, Any]) -> list[str]:
    totals = told["totals"]
    states = ", ".join(f"{count} {state}" for state, count in totals["states"].items())
    lines = [f"{totals['cases']} cases, {_bytes(totals['bytes'])}: {states}"]
    if totals["seconds"] is None:
        lines.append("time unknown: nothing was run with these presets yet; --limit 3 runs three cases to measure it")
    else:
        unknown = f", and {totals['seconds_unknown']} of unknown time" if totals["seconds_unknown"] else ""
        lines.append(f"about {totals['seconds'] / 60:.1f} minutes in one process{unknown}")
    lines.append(f"memory beside the model: {_bytes(totals['largest_memory_bytes'])} for the largest case")
    return lines


def _bytes(count: int | None) -> str:
    """Bytes for people."""
    if count is None:
        return "?"
    for unit, step in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= step:
            return f"{count / step:.1f} {unit}"
    return f"{count} B"
