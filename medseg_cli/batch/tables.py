"""`cases.jsonl` and `cases.csv`: the records of a batch as tables, made anew from them each time."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medseg_cli.batch import frame_tables, records
from medseg_cli.batch.record import Record
from medseg_cli.writers.formats import FORMATS
from medseg_cli.writers.spreadsheet import harmless

STAGES = ("read", "segment", "write")
COLUMNS = (
    "id",
    "status",
    "reason",
    "hint",
    "flags",
    "preset",
    "input",
    "input_sha256",
    "settings_sha256",
    "mask",
    "mask_sha256",
    *(f"{stage}_seconds" for stage in STAGES),
    "seconds",
    "peak_rss_mib",
    "started",
    "finished",
    "host",
    "labels",
)
"""Of `cases.csv`, before one column per label and measure."""
MEASURES = ("volume_ml", "area_mm2")
"""Of labels, that have columns "<measure> <label>" where any case has a value."""
ELLIPSE = ("circumference_mm", "long_axis_mm", "short_axis_mm", "circumference_px", "long_axis_px", "short_axis_px")
"""Of the ellipses of labels, likewise; a cine's are those of its most elliptic frame."""

SPREAD = ("agreement", "variation")
"""Of answers that were compared, likewise: their mean Dice with the mask, and the relative deviation of their sizes."""


def write(out: Path) -> list[Record]:
    """Write both tables from the records, and `areas.csv`; the records, by id.

    Runs that share a folder wait for each other here.
    """
    with records.locked(out, "tables"):
        found = records.read_all(out)
        lines = (json.dumps(each.to_json(), ensure_ascii=False, allow_nan=False) for each in found)
        records.write_text(out, out / "cases.jsonl", "".join(f"{line}\n" for line in lines))
        records.write_text(out, out / "cases.csv", to_csv(found))
        frame_tables.write(out, found)
    return found


def to_csv(found: Sequence[Record]) -> str:
    """One row per case; an empty cell is a value that does not exist."""
    text = io.StringIO()
    measured = _measured(found)
    writer = csv.DictWriter(text, [*COLUMNS, *measured], lineterminator="\n")
    writer.writeheader()
    for each in found:
        row = {**_row(each), **{key: _sizes(each).get(key) for key in measured}}
        writer.writerow({key: harmless(value) for key, value in row.items()})
    return text.getvalue()


def _row(record: Record) -> dict[str, Any]:
    mask = next((each for each in record.outputs if _is_label_map(each["kind"])), {})
    seconds = {each["stage"]: each["seconds"] for each in record.stages}
    return {
        "id": record.id,
        "status": record.status,
        "reason": record.reason,
        "hint": (record.error or {}).get("hint"),
        "flags": " ".join(dict.fromkeys(each["code"] for each in record.flags)),
        "preset": record.preset,
        "input": record.input.get("path"),
        "input_sha256": record.input.get("sha256"),
        "settings_sha256": record.settings_sha256,
        "mask": mask.get("path"),
        "mask_sha256": mask.get("sha256"),
        **{f"{stage}_seconds": seconds.get(stage) for stage in STAGES},
        "seconds": record.seconds,
        "peak_rss_mib": record.peak_rss_mib,
        "started": record.started,
        "finished": record.finished,
        "host": record.worker.get("host"),
        "labels": "; ".join(each["name"] for each in record.labels if not each["empty"]),
    }


def _is_label_map(kind: str) -> bool:
    """Not a report or picture, nor a surface, a table, or a map of what a network thought: as `mask` of the report."""
    return kind in FORMATS and FORMATS[kind].content == "voxels"


def _sizes(record: Record) -> dict[str, float]:
    return (
        {
            f"{measure} {label['name']}": label[measure]
            for measure in MEASURES
            for label in record.labels
            if label.get(measure) is not None
        }
        | {
            f"{measure} {label['name']}": label["ellipse"][measure]
            for measure in ELLIPSE
            for label in record.labels
            if (label.get("ellipse") or {}).get(measure) is not None
        }
        | {
            f"{measure} {label['name']}": value
            for measure in SPREAD
            for label in record.labels
            if (value := _compared(label.get("spread") or {}, measure)) is not None
        }
    )


def _compared(spread: dict[str, Any], measure: str) -> float | None:
    found = spread.get(measure)
    return found["mean"] if isinstance(found, dict) else found


def _measured(found: Sequence[Record]) -> list[str]:
    """Columns that any case fills, in the order of first mention, volumes before areas, then ellipses."""
    keys = dict.fromkeys(key for each in found for key in _sizes(each))
    return sorted(keys, key=lambda key: (*MEASURES, *ELLIPSE, *SPREAD).index(key.split(" ", 1)[0]))
