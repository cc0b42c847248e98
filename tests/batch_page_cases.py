"""Cases of a batch made by hand, with views, and records as `medseg batch` writes them.

The phantom lies in world millimetres: a grey head round the origin, a red object to the patient's right, front and top,
and a green one to the left, back and bottom. Where they are seen is known whatever the grid's axes are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import phantom

from medseg_cli.batch import records
from medseg_cli.batch.record import Record
from medseg_cli.batch_page import views
from medseg_cli.measure import measure
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import sidecar

LABELS = (
    Label(1, "right front top", (230, 40, 40)),
    Label(2, "left back bottom", (40, 200, 60)),
    Label(3, "not there", (40, 60, 240)),
)
RED_RAS, GREEN_RAS = (22.0, 18.0, 14.0), (-24.0, -16.0, -15.0)
HEAD, AIR = 100.0, -50.0
HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=1>&amp;"


def head(codes: str = "RAS", angles: tuple[float, float, float] = (0.0, 0.0, 0.0), scale: float = 1.0) -> Segmentation:
    """The phantom on a grid whose axes point to `codes`, turned by `angles`; `scale` makes voxels smaller."""
    spacing = (2.0 * scale, 2.5 * scale, 3.0 * scale)
    shape = tuple(round(size / scale) for size in (50, 42, 34))
    affine = phantom.affine(codes, spacing, (0.0, 0.0, 0.0), angles)
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    ras = np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]
    voxels = np.where((ras**2).sum(axis=-1) < 42**2, HEAD, AIR).astype(np.float32)
    mask = np.zeros(shape, np.uint8)
    for label, place, radius in ((1, RED_RAS, 10), (2, GREEN_RAS, 9)):
        mask[((ras - place) ** 2).sum(axis=-1) < radius**2] = label
    scan = Scan(voxels[np.newaxis], affine, Provenance(Path("head.nii.gz"), "nifti", "0" * 64), "MR")
    return Segmentation(mask, LABELS, scan)


def photograph() -> Segmentation:
    """A colour picture of 60 x 40 pixels: blue above, yellow below, an object at the upper left."""
    voxels = np.zeros((3, 60, 40, 1), np.float32)
    voxels[2, :, :20], voxels[:2, :, 20:] = 200, 220
    mask = np.zeros((60, 40, 1), np.uint8)
    mask[5:20, 4:14] = 1
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    scan = Scan(voxels, affine, Provenance(Path("photo.png"), "image", "1" * 64), spacing_known=False)
    return Segmentation(mask, LABELS[:1], scan)


def record(
    out: Path, case: str, segmentation: Segmentation, flags: Sequence[dict[str, Any]] = (), *, random: bool = False
) -> Record:
    """Write outputs' report, view and record of a case into `out`."""
    measurements = measure(segmentation)
    begin = out / views.FOLDER / records.name_of(case)
    thumbnail = views.write_view(segmentation, measurements, begin)
    name = records.name_of(case)
    report = {
        "random_weights": random,
        "preset": {"name": "phantom", "sha256": "2" * 64, "overrides": {}},
        "weights": {"name": "made-up", "sha256": "3" * 64, "licence": "CC0-1.0", "random": random},
        "pipeline": {"name": "none", "objects": [{"id": "1", "predicted_iou": {"mean": 0.873}}]},
        "run": {"device": "cpu", "command": ["medseg", "batch", "scans", "-o", "out"]},
    }
    (out / f"{name}_seg.json").write_text(json.dumps(report), encoding="utf-8")
    made = Record(
        case,
        "flagged" if flags else "ok",
        reason=flags[0]["message"] if flags else "",
        input=sidecar._input(segmentation.scan),
        preset="phantom",
        outputs=({"path": f"{name}_seg.json", "kind": "report", "sha256": "4" * 64, "bytes": 10},),
        labels=tuple(sidecar._label(each) for each in measurements),
        flags=tuple(flags),
        seconds=1.5,
        thumbnail=thumbnail.relative_to(out).as_posix(),
    )
    records.write(out, made)
    return made


def failure(out: Path, case: str) -> Record:
    """Write the record of a case that failed."""
    error = {"code": 3, "kind": "InputError", "message": f"{case} is truncated", "hint": "copy it again <b>"}
    made = Record(case, "failed", reason=error["message"], error=error, input={"path": case}, preset="phantom")
    records.write(out, made)
    return made


def flag(message: str) -> dict[str, Any]:
    """A flag about an object's volume."""
    from medseg_cli.quality import Flag

    return asdict(Flag("volume", message, 1, 12.5, (None, 9.0)))
