"""Areas over time as a table: one row per object and frame of a cine. Documented in `docs/outputs.md`."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from medseg_cli.frame_areas import areas_of
from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.spreadsheet import harmless

SUFFIX = "_areas.csv"
PLACE = ("case", "value", "label", "frame", "seconds")
AREAS = ("area_mm2", "area_px2")
"""Of which a table has one."""
MARKS = {"jump": "jumps", "gap": "gaps", "filled": "filled"}
"""Column → key of what the pipeline says of an object over time (see `pipelines.slice_time`)."""
COLUMNS = (*PLACE, *AREAS, *MARKS, "note")
"""All that a table may have, in order; the note is there after random weights alone."""


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """A CSV of the areas in every frame; see `formats.Format.target`.

    The area is in mm² (`area_mm2`) where the pixel size is known, else in pixels (`area_px2`). `seconds` is when the
    frame began, empty where the scan does not say. `jump`, `gap` and `filled` are 1 or 0, empty where the pipeline did
    not compare frames.

    Args:
        segmentation: of a cine, as `formats.check_fits` has found out.

    Raises:
        InputError: `path` may not or cannot be written.
    """
    absent = {"area_px2" if segmentation.scan.spacing_known else "area_mm2", "" if segmentation.is_random else "note"}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(column for column in COLUMNS if column not in absent)
    case = path.name.removesuffix(SUFFIX)
    for label in segmentation.labels:
        for row in _rows(segmentation, label):
            table.writerow([harmless(case), label.value, harmless(label.name), *row])
    with atomic_output(path, overwrite) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")
    return ()


def _rows(segmentation: Segmentation, label: Label) -> Iterator[list[Any]]:
    """From the frame's number on."""
    scan = segmentation.scan
    areas = areas_of(np.count_nonzero(segmentation.mask == label.value, axis=(0, 1)).tolist(), 0, scan)
    assert areas is not None
    objects = segmentation.provenance.get("objects") or []
    facts = (objects[label.value - 1].get("time") if label.value <= len(objects) else None) or {}
    marked = [set(facts[key]) if key in facts else None for key in MARKS.values()]
    times = scan.frame_seconds
    for frame, count in enumerate(areas.pixels):
        yield [
            frame,
            "" if times is None else round(times[frame], 6),
            count if areas.pixel_mm2 is None else round(count * areas.pixel_mm2, 3),
            *("" if each is None else int(frame in each) for each in marked),
            *([RANDOM_WEIGHTS] if segmentation.is_random else []),
        ]
