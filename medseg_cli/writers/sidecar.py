"""The JSON beside a mask: what was segmented, with what, where, and what came out. Documented in `docs/outputs.md`."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medseg_cli.biometry import report_of
from medseg_cli.frame_areas import frame_rate
from medseg_cli.frame_areas import report_of as areas_in_time
from medseg_cli.measure import Measurement, sizes
from medseg_cli.prompt import Box, Click, Prompt, Region, locate, locate_box
from medseg_cli.quality import check
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.versions import versions

if TYPE_CHECKING:
    from medseg_cli.device import Runtime
    from medseg_cli.preset import Preset
    from medseg_cli.stages import Stages

SCHEMA = "medseg-segmentation/1"


@dataclass(frozen=True)
class Run:
    """What a report says about the run besides its result.

    Args:
        preset: what was run.
        prompt: what the user pointed at, every place with three coordinates.
        runtime: where it computed.
        stages: what it cost.
        command: the command line, or () when called from Python.
        random_weights: True stamps the report: the mask means nothing.
        typed: `prompt` as the user typed it, without what is drawn; None where that is the same.
        notes: what the user should know about this run, besides the scan's and the segmentation's own notes.
        compiled: what --compile did; None without it.
    """

    preset: Preset
    prompt: Prompt
    runtime: Runtime
    stages: Stages
    command: tuple[str, ...] = ()
    random_weights: bool = False
    notes: tuple[str, ...] = ()
    typed: Prompt | None = None
    compiled: dict[str, Any] | None = None


def describe(segmentation: Segmentation, measurements: Sequence[Measurement], run: Run) -> dict[str, Any]:
    """The whole report as JSON-ready data; values that do not exist are None and have a reason beside them."""
    scan = segmentation.scan
    empty = [each.empty for each in measurements]
    facts = dict(segmentation.provenance)
    weights, kernels = facts.pop("weights", None), facts.pop("kernels", None)
    for told in ("preset", "prompted"):  # under keys of their own
        facts.pop(told, None)
    flags = check(segmentation, measurements, run.preset)
    absent = {flag.label for flag in flags if flag.code == "presence"}
    status = "empty" if all(empty) else "partly empty" if any(empty) else "ok"
    if all(empty) and absent >= {each.label.value for each in measurements}:
        status = "absent"
    return {
        "schema": SCHEMA,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "status": status,
        "random_weights": run.random_weights,
        "flags": [asdict(flag) for flag in flags],
        "notes": [*scan.provenance.notes, *run.notes, *segmentation.notes],
        "input": _input(scan),
        "prompts": _prompts(run, scan),
        "labels": [_label(each) | _spread(segmentation, each) for each in measurements],
        "preset": {
            "name": run.preset.name,
            "file": str(run.preset.path) if run.preset.path else None,
            "sha256": sha256(run.preset.path) if run.preset.path else None,
            "overrides": run.preset.changes,
        },
        "weights": weights,
        "pipeline": {**_with_sizes(facts, scan), "name": run.preset.pipeline},
        "run": {
            "device": run.runtime.describe(),
            "precision": run.runtime.precision,
            "seed": run.runtime.seed,
            "deterministic": run.runtime.deterministic,
            "kernels": kernels,
            "command": list(run.command),
            "working_directory": str(Path.cwd()),
        },
        "precision": _precision(run.runtime),
        "compile": run.compiled or {"compiled": False, "blocks": 0, "artefact": None},
        "seconds": round(run.stages.seconds, 3),
        "stages": run.stages.records,
        "software": {**versions(), "platform": platform.platform()},
    }


def _precision(runtime: Runtime) -> dict[str, str | None]:
    """What was asked for, what was used, and for "auto" the reason in words."""
    return {"asked": runtime.asked or None, "used": runtime.precision, "why": runtime.why or None}


def write(report: dict[str, Any], path: Path) -> None:
    """Write a report as indented UTF-8 JSON; NaN and infinity are refused because JSON has neither."""
    path.write_text(to_json(report) + "\n", encoding="utf-8")


def to_json(report: dict[str, Any]) -> str:
    """A report as text. Short lists of numbers stay on one line, so that people can read it."""
    text = json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False)
    number = r"-?[0-9][0-9.eE+-]*"
    text = re.sub(rf"\[\n\s*((?:{number},\s+)*{number})\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    # A file name may hold bytes that are no UTF-8.
    return text.encode("utf-8", "backslashreplace").decode()


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _with_sizes(facts: Any, scan: Scan) -> Any:
    """What a pipeline says, with mm³ and mm² beside each count of voxels; None as in `labels`, for the same reasons."""
    if isinstance(facts, list):
        return [_with_sizes(each, scan) for each in facts]
    if not isinstance(facts, dict):
        return facts
    told: dict[str, Any] = {}
    for key, value in facts.items():
        told[key] = _with_sizes(value, scan)
        if key in ("removed_voxels", "added_voxels"):
            volume, area, _ = sizes(scan, value)
            what = key.removesuffix("_voxels")
            told[f"{what}_mm3"] = None if volume is None else round(volume, 6)
            told[f"{what}_mm2"] = None if area is None else round(area, 6)
    return told


def _input(scan: Scan) -> dict[str, Any]:
    origin = scan.provenance
    return {
        "path": str(origin.path),
        "name": origin.path.name,
        "format": origin.format,
        "modality": scan.modality or None,
        "sha256": origin.sha256,
        "series_uid": origin.series_uid or None,
        "shape_ijk": list(scan.shape),
        "channels": int(scan.voxels.shape[0]),
        "spacing_mm": [round(value, 6) for value in scan.spacing] if scan.spacing_known else None,
        "spacing_known": scan.spacing_known,
        "frames": _frames(scan) if scan.cine else None,
        "region_ij_inclusive": None if scan.region is None else [list(scan.region[:2]), list(scan.region[2:])],
        "orientation": scan.orientation,
        "affine_ijk_to_ras_mm": [[float(value) for value in row] for row in scan.affine],
    }


def _frames(scan: Scan) -> dict[str, Any]:
    """How many pictures a cine has, and when they were taken."""
    times = scan.frame_seconds
    return {
        "count": scan.shape[2],
        "seconds": None if times is None else list(times),
        "per_second": frame_rate(times),
    }


def _prompts(run: Run, scan: Scan) -> list[dict[str, Any]]:
    """One entry per object; an image that needed no prompt has one with `whole_image`."""
    if not run.prompt.targets and run.preset.prompts.whole_image:
        return [
            {"id": "1", "label": None, "clicks": [], "boxes": [], "region": None, "text": None, "whole_image": True}
        ]
    typed = {target.id: target for target in (run.typed or run.prompt).targets}
    entries = []
    for target in run.prompt.targets:
        said = typed.get(target.id, target)
        clicks, boxes = zip(said.clicks, target.clicks, strict=True), zip(said.boxes, target.boxes, strict=True)
        entries.append(
            {
                "id": target.id,
                "label": target.label or None,
                "clicks": [_click(before.position, click, scan) for before, click in clicks],
                "boxes": [_box((before.first, before.second), box, scan) for before, box in boxes],
                "region": _region(target.region) if target.region else None,
                "text": {"positive": list(target.text.positive), "negative": list(target.text.negative)}
                if target.text
                else None,
                "whole_image": False,
            }
        )
    return entries


def _click(typed: tuple[float, ...], click: Click, scan: Scan) -> dict[str, Any]:
    (ijk,), ras = _places([locate(click, scan)], scan)
    return {
        "typed": list(typed),
        "coords": click.frame,
        "sign": "+" if click.positive else "-",
        "ijk": ijk,
        "ras_mm": ras and ras[0],
    }


def _box(typed: tuple[tuple[float, ...], tuple[float, ...]], box: Box, scan: Scan) -> dict[str, Any]:
    ijk, ras = _places(locate_box(box, scan), scan)
    return {"typed": [list(corner) for corner in typed], "coords": box.frame, "ijk_inclusive": ijk, "ras_mm": ras}


def _places(
    ijk: Sequence[tuple[float, ...]], scan: Scan
) -> tuple[list[list[float] | None], list[list[float] | None] | None]:
    """Voxels, and the same places in mm where the scan knows what a millimetre is."""
    world = scan.voxel_to_world(np.array(ijk), "ras")
    return [_rounded(each) for each in ijk], [_rounded(each) for each in world] if scan.spacing_known else None


def _region(region: Region) -> dict[str, Any]:
    return {
        "path": str(region.path),
        "sha256": region.sha256,
        "value": region.value,
        "voxels": int(np.count_nonzero(region.voxels)),
    }


def _label(measurement: Measurement) -> dict[str, Any]:
    label = measurement.label
    first, last = measurement.first_ijk, measurement.last_ijk
    volume = measurement.volume_mm3
    return {
        "value": label.value,
        "name": label.name,
        "snomed": label.snomed or None,
        "color": "#{:02x}{:02x}{:02x}".format(*label.color),
        "empty": measurement.empty,
        "voxels": measurement.voxels,
        "volume_mm3": None if volume is None else round(volume, 3),
        "volume_ml": None if volume is None else round(volume / 1000, 6),
        "area_mm2": None if measurement.area_mm2 is None else round(measurement.area_mm2, 3),
        "centroid_ijk": _rounded(measurement.centroid_ijk),
        "centroid_ras_mm": _rounded(measurement.centroid_ras),
        "bounding_box_ijk_inclusive": None if first is None or last is None else [list(first), list(last)],
        "touches_border": measurement.touches_border,
        "components": measurement.components,
        **{key: _significant(value) for key, value in asdict(measurement.shape).items()},
        "intensity": (
            {key: _significant(value) for key, value in asdict(measurement.intensity).items()}
            if measurement.intensity
            else None
        ),
        **({"frames": frames} if (frames := areas_in_time(measurement.frames)) else {}),
        **({"ellipse": report_of(measurement.ellipses)} if label.shape else {}),
        "reasons": measurement.reasons,
    }


def _spread(segmentation: Segmentation, measurement: Measurement) -> dict[str, Any]:
    """How far answers lie apart, where they were compared: see docs/uncertainty.md."""
    spread = segmentation.spread
    if spread is None:
        return {}
    facts = spread.scores[measurement.label.value]
    volume, area, _ = sizes(segmentation.scan, 1)
    measured: dict[str, float | None] = {}
    for name in ("mean", "sd"):
        count = facts[f"{name}_voxels"]
        measured[f"{name}_mm3"] = None if volume is None else _significant(volume * count)
        measured[f"{name}_mm2"] = None if area is None else _significant(area * count)
    return {"spread": {"answers": spread.answers, "of": spread.of, **facts, **measured}}


def _significant(value: float | None) -> float | None:
    """Seven digits: what float32 holds. Whole numbers stay what they are."""
    return float(f"{value:.7g}") if isinstance(value, float) else value


def _rounded(point: Iterable[float] | None) -> list[float] | None:
    """Micrometres are enough; adding 0.0 turns -0.0 into 0.0."""
    return None if point is None else [round(float(value), 3) + 0.0 for value in point]
