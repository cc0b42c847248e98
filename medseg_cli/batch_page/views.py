"""What the page shows of a case, written while its scan is in memory: small volumes of scan and mask, and pictures.

`<case>.view.json` tells what they are; it is written last, so that where it is, the rest is too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.batch_page import shrink
from medseg_cli.measure import Measurement, measure
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import cine_frame, scene, view_file
from medseg_cli.writers.atomic import atomic_output

SCHEMA = "medseg-view/1"
FOLDER = ".medseg/views"
"""Where views lie in a batch's output folder."""
MOST, MOST_FLAT = 1 << 21, 1 << 19
"""Voxels of a view: 128³ of a volume, 724² of one slice."""
BESIDE = 0.5
"""How far beyond black and white grey values are kept, as a share of the window's width: it can be moved so far."""
PLANES = {"S": "axial", "I": "axial", "A": "coronal", "P": "coronal", "R": "sagittal", "L": "sagittal"}
"""Where the one voxel of a flat scan's thin axis points → the plane that shows it."""

_ENDS = {"scan": "scan.nii.gz", "mask": "mask.nii.gz", "picture": "picture.webp", "thumbnail": "thumbnail.webp"}


def write_view(
    segmentation: Segmentation,
    measurements: Sequence[Measurement],
    path: Path,
    *,
    focus: tuple[float, float, float] | None = None,
    stamp: str = "",
) -> Path:
    """Write what the page shows of a case; the path of its thumbnail.

    Args:
        segmentation: with its scan.
        measurements: of the same segmentation.
        path: beginning of the files' paths, without suffix: `<out>/.medseg/views/<case>`. Folders are made.
        focus: voxel ijk in the middle where the mask is empty.
        stamp: warning across the picture.

    Raises:
        InputError: a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, found, aimed = segmentation, measurements, focus
    if whole.scan.cine:
        segmentation, measurements, focus = _of_one_frame(whole, focus)
    scan = segmentation.scan
    center = scene.center(segmentation, measurements, focus)
    first, last = ((side[0], side[1], side[2]) for side in scene.field(segmentation, measurements, center))
    shape = (last[0] - first[0] + 1, last[1] - first[1] + 1, last[2] - first[2] + 1)
    flat = min(scan.shape) == 1
    step = shrink.steps(shape, scan.spacing, MOST_FLAT if flat else MOST)
    affine = shrink.shrunken_affine(scan.affine, first, step)
    box = tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))
    window = scene.window(segmentation, measurements, center)
    files = {kind: path.with_name(f"{path.name}.{end}") for kind, end in _ENDS.items()}
    _write_scan(scan, box, step, affine, window, files["scan"])
    view_file.write_nifti(shrink.labels(segmentation.mask[box], step), affine, files["mask"], labels=True)
    view_file.write_pictures(whole, found, files["picture"], files["thumbnail"], focus=aimed, stamp=stamp)
    facts = {
        "schema": SCHEMA,
        "files": {kind: each.name for kind, each in files.items()},
        "shape_ijk": list(scan.shape),
        "first_ijk": list(first),
        "last_ijk": list(last),
        "step_ijk": list(step),
        "affine_ras_mm_to_ijk": np.linalg.inv(scan.affine).tolist(),
        "center_ras_mm": scan.voxel_to_world(np.array(center, dtype=np.float64), "ras")[0].tolist(),
        "window": None if _is_colour(scan) else list(window),
        "picture": scan.is_picture,
        "plane": _plane(scan) if flat else None,
        "spacing_known": scan.spacing_known,
    }
    with atomic_output(path.with_name(f"{path.name}.view.json"), overwrite=True) as part:
        part.write_text(json.dumps(facts, indent=1, allow_nan=False), encoding="utf-8")
    return files["thumbnail"]


def _of_one_frame(
    whole: Segmentation, focus: tuple[float, float, float] | None
) -> tuple[Segmentation, Sequence[Measurement], tuple[float, float, float] | None]:
    """The frame of a cine in which most is segmented, else that of `focus`: viewers would take time for a direction."""
    counts = np.count_nonzero(whole.mask, axis=(0, 1))
    middle = len(counts) // 2 if focus is None else int(np.clip(round(focus[2]), 0, len(counts) - 1))
    alone = cine_frame.alone(whole, int(np.argmax(counts)) if counts.any() else middle)
    return alone, measure(alone, shapes=False), None if focus is None else (focus[0], focus[1], 0.0)


def path_of(thumbnail: Path) -> Path | None:
    """The `path` of `write_view`, given the thumbnail that it returned; None if it did not write that."""
    end = f".{_ENDS['thumbnail']}"
    return thumbnail.with_name(thumbnail.name.removesuffix(end)) if thumbnail.name.endswith(end) else None


def read_view(path: Path) -> dict[str, Any] | None:
    """What `write_view` wrote under `path`, `files` as whole paths; None where a file is missing or is no such view."""
    try:
        facts = json.loads(path.with_name(f"{path.name}.view.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(facts, dict) or facts.get("schema") != SCHEMA:
        return None
    # By their own rule, not by the names in the file, which could lead anywhere.
    files = {kind: path.with_name(f"{path.name}.{end}") for kind, end in _ENDS.items()}
    return {**facts, "files": files} if all(each.is_file() for each in files.values()) else None


def _is_colour(scan: Scan) -> bool:
    return scan.voxels.shape[0] >= 3


def _plane(scan: Scan) -> str:
    return "axial" if scan.is_picture else PLANES[scan.orientation[int(np.argmin(scan.shape))]]


def _write_scan(
    scan: Scan,
    box: tuple[slice, ...],
    step: shrink.Triple,
    affine: NDArray[np.float64],
    window: tuple[float, float],
    path: Path,
) -> None:
    """Colours as they are; grey values in 255 steps over the window and half as much on either side."""
    low, high = window
    if _is_colour(scan):
        channels = [shrink.means(scan.voxels[channel][box], step) for channel in range(3)]
        colours = np.stack([_stored(each, low, high) for each in channels], axis=-1)
        view_file.write_nifti(colours, affine, path)
        return
    values = shrink.means(scan.voxels[0][box], step)
    beside = BESIDE * (high - low)
    darkest, brightest = max(float(values.min()), low - beside), min(float(values.max()), high + beside)
    if brightest <= darkest:
        brightest = darkest + 1.0
    slope = (brightest - darkest) / 255
    view_file.write_nifti(_stored(values, darkest, brightest), affine, path, slope=slope, inter=darkest)


def _stored(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    return np.rint(np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)
