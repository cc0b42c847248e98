"""Cleaning one object's mask: parts kept, small parts dropped, holes filled; limits are in mm³, never in voxels.

Parts hang together over faces, edges and corners (26-neighbourhood), so holes are closed over faces alone (6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.inference import parts_at
from medseg_cli.preset_format import Postprocessing
from medseg_cli.scan import Scan

ROUNDING = 1e-6
"""Relative error of a volume in mm³ that spacings kept as float32 in a file can cause."""


@dataclass(frozen=True, eq=False)
class Cleaned:
    """An object after cleaning.

    Args:
        mask: (I, J, K) bool, never the array that was handed in.
        steps: what each step that was asked for did, in order, ready for JSON: {"step": "keep largest" (or "keep
            clicked"), "parts": before it, "removed_voxels"}, {"step": "min_mm3 50", "parts_removed",
            "removed_voxels"}, {"step": "fill holes", "added_voxels"}. What that is in mm³ depends on whether the scan
            knows its spacing: the report says it.
    """

    mask: NDArray[np.bool_]
    steps: list[dict[str, Any]]


def check_limit(how: Postprocessing, scan: Scan, *, chosen: bool) -> tuple[str, ...]:
    """Whether a limit in mm³ means anything in `scan`.

    Args:
        how: the cleaning to come.
        scan: what is segmented.
        chosen: whether the user set the limit for this run, which the preset does not.

    Returns:
        What the user should know, one sentence each.

    Raises:
        InputError: the user's own limit, and a scan whose pixel size is unknown.
    """
    if scan.spacing_known or how.min_mm3 == 0:
        return ()
    if chosen:
        raise InputError(
            f"--min-mm3 {how.min_mm3:g} means nothing in {scan.provenance.path}: the pixel size is unknown",
            "give it with --spacing X,Y,Z in mm (Z 1 makes mm³ of a picture mm²), or leave --min-mm3 out",
        )
    return (
        f"the preset drops parts under {how.min_mm3:g} mm³, but the pixel size is unknown: each pixel counted as 1 mm³ "
        "(--spacing states it, --min-mm3 0 drops none)",
    )


def clean(
    mask: NDArray[np.bool_], clicks: NDArray[np.float64], spacing: tuple[float, float, float], how: Postprocessing
) -> Cleaned:
    """Apply a preset's post-processing to one object.

    Args:
        mask: (I, J, K); views are fine.
        clicks: (N, 3) continuous voxel index of `mask`, inside the object. Without any, keeping the "clicked" parts
            keeps all.
        spacing: mm along i, j, k.
        how: `keep` parts ("all", those "clicked", the "largest"), drop parts under `min_mm3`, fill holes. Holes of a
            volume are cavities enclosed on all sides; an object of one slice is filled in its plane. Filling a
            volume slice by slice would close what is open: a vertebra's canal, a heart's chambers.
    """
    place = _bounds(mask)
    part = mask[place].copy()
    steps: list[dict[str, Any]] = []
    if how.keep != "all" or how.min_mm3 > 0:
        _drop_parts(part, clicks - [side.start for side in place], spacing, how, steps)
    if how.fill_holes:
        # What was dropped has widened the box: within it, an object of one slice would not be seen as such.
        inner = part[_bounds(part)]
        steps.append({"step": "fill holes", "added_voxels": _fill(inner)})
    cleaned = np.zeros(mask.shape, dtype=bool)
    cleaned[place] = part
    return Cleaned(cleaned, steps)


def _bounds(mask: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The box round the object, as index slices; of no voxel when it is empty."""
    sides = [np.flatnonzero(mask.any(axis=axes)) for axes in ((1, 2), (0, 2), (0, 1))]
    i, j, k = (slice(int(side[0]), int(side[-1]) + 1) if len(side) else slice(0, 0) for side in sides)
    return i, j, k


def _drop_parts(
    mask: NDArray[np.bool_],
    clicks: NDArray[np.float64],
    spacing: tuple[float, float, float],
    how: Postprocessing,
    steps: list[dict[str, Any]],
) -> None:
    """Take parts out of `mask`, in place: first those that `keep` does not want, then the small ones of the rest."""
    parts, sizes = _label(mask, connectivity=26)
    volumes = sizes * float(np.prod(spacing))
    kept = sizes > 0
    if how.keep != "all":
        wanted = np.ones_like(kept)
        if how.keep == "largest":
            wanted = np.arange(len(sizes)) == sizes.argmax()
        elif len(clicks):
            wanted = parts_at(parts, len(sizes) - 1, clicks, spacing)
        steps.append(
            {"step": f"keep {how.keep}", "parts": int(kept.sum()), "removed_voxels": int(sizes[kept & ~wanted].sum())}
        )
        kept &= wanted
    if how.min_mm3 > 0:
        small = kept & (volumes < how.min_mm3 * (1 - ROUNDING))
        steps.append(
            {
                "step": f"min_mm3 {how.min_mm3:g}",
                "parts_removed": int(small.sum()),
                "removed_voxels": int(sizes[small].sum()),
            }
        )
        kept &= ~small
    # Slice by slice: numpy would turn all labels into 8-byte indices at once.
    for place, labels in zip(mask, parts, strict=True):
        place[...] = kept[labels]


def _fill(mask: NDArray[np.bool_]) -> int:
    """Close the holes of `mask` in place: of a volume those in 3-D, of one slice those in its plane.

    Args:
        mask: (I, J, K), no larger than the object: a background part that reaches its faces is open.

    Returns:
        Voxels added.
    """
    planes = [axis for axis in range(3) if mask.shape[axis] == 1]
    flat = mask.squeeze(planes[0]) if planes else mask
    outside, sizes = _label(~flat, connectivity=6 if flat.ndim == 3 else 4)
    holes = sizes > 0
    for axis in range(flat.ndim):
        for side in (0, -1):
            holes[np.unique(outside.take([side] if flat.size else [], axis=axis))] = False
    for place, labels in zip(flat, outside, strict=True):
        place |= holes[labels]
    return int(sizes[holes].sum())


def _label(
    mask: NDArray[np.bool_], connectivity: Literal[4, 6, 26]
) -> tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.int64]]:
    """Numbered parts of a mask of two or three axes, and the voxels of each; number 0, outside, counts as none."""
    if not mask.any():
        return np.zeros(mask.shape, np.uint16), np.zeros(1, np.int64)
    # As bytes: the labelling of bool arrays in cc3d 4.1 fails where a line of voxels begins and ends with an object.
    parts = cc3d.connected_components(mask.view(np.uint8), connectivity=connectivity)
    sizes = cc3d.statistics(parts, no_slice_conversion=True)["voxel_counts"].astype(np.int64)
    sizes[0] = 0
    return parts, sizes
