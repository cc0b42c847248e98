"""What of a scan its pictures show: a point, the objects with their surroundings, and the values of black and white."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseg_cli.measure import Measurement
from medseg_cli.segmentation import Segmentation

FIELD_MM = 120.0
"""Smallest field of view, where the scan is larger than that."""
SAMPLE = 1 << 22
"""Values that are looked at to find black and white."""
SOFT_TISSUE = (-160.0, 240.0)
"""HU window of CT whose object lies in it: level 40, width 400."""
FULL_COLOUR = (255.0, 65535.0)
"""Brightest value of colour images of 8 and 16 bits; they are shown in their own colours, not stretched."""


def center(
    segmentation: Segmentation, measurements: Sequence[Measurement], focus: tuple[float, float, float] | None
) -> tuple[int, int, int]:
    """The voxel of the largest object that is nearest to its centroid; `focus` if all objects are empty."""
    shape = np.array(segmentation.scan.shape)
    largest = max(measurements, key=lambda each: each.voxels, default=None)
    if largest is None or largest.empty or largest.first_ijk is None or largest.last_ijk is None:
        point = np.array(focus if focus is not None else (shape - 1) / 2)
        i, j, k = (int(v) for v in np.clip(np.rint(point), 0, shape - 1))
        return (i, j, k)
    box = tuple(slice(a, b + 1) for a, b in zip(largest.first_ijk, largest.last_ijk, strict=True))
    # Every voxel of a huge object would take gigabytes; one in a few is as good a middle.
    step = int(max(1.0, (largest.voxels / SAMPLE) ** 0.5))
    inside = np.argwhere(segmentation.mask[box][::step, ::step, ::step] == largest.label.value) * step
    if not len(inside):
        inside = np.argwhere(segmentation.mask[box] == largest.label.value)
    inside += np.array(largest.first_ijk)
    millimetres = (inside - np.array(largest.centroid_ijk)) * np.array(segmentation.scan.spacing)
    i, j, k = (int(v) for v in inside[np.argmin((millimetres**2).sum(axis=1))])
    return (i, j, k)


def field(
    segmentation: Segmentation, measurements: Sequence[Measurement], center: tuple[int, int, int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """First and last voxel of the field of view: all objects and some surroundings, inside the scan."""
    spacing, size = np.array(segmentation.scan.spacing), np.array(segmentation.scan.shape)
    found = [(each.first_ijk, each.last_ijk) for each in measurements if each.first_ijk and each.last_ijk]
    low = np.min([first for first, _ in found], axis=0) if found else np.array(center)
    high = np.max([last for _, last in found], axis=0) if found else np.array(center)
    extent, longest = float(((high - low + 1) * spacing).max()), float((size * spacing).max())
    if min(segmentation.scan.shape) > 1:
        side = max(FIELD_MM if segmentation.scan.spacing_known else longest, 2.2 * extent)
    else:
        # A speck is shown with its surroundings, anything larger where it lies in the whole.
        side = max(longest / 4, 4 * extent) if found and extent < longest / 8 else longest
    middle = (low + high) / 2
    half = side / spacing / 2
    # A field that would leave the scan moves inwards before it is cut.
    start = np.clip(np.floor(middle - half), 0, np.maximum(0, size - np.ceil(2 * half)))
    stop = np.minimum(start + np.ceil(2 * half), size) - 1
    return tuple(int(v) for v in start), tuple(int(v) for v in stop)


def window(
    segmentation: Segmentation, measurements: Sequence[Measurement], center: tuple[int, int, int]
) -> tuple[float, float]:
    """Grey values shown as black and white."""
    scan = segmentation.scan
    i, j, k = center
    if scan.voxels.shape[0] >= 3:
        return (0.0, next((top for top in FULL_COLOUR if scan.voxels.max() <= top), float(scan.voxels.max())))
    planes = (scan.voxels[:, i], scan.voxels[:, :, j], scan.voxels[:, :, :, k])
    seen = np.concatenate([plane.ravel()[:: -(-plane.size // SAMPLE)] for plane in planes])
    seen = seen[np.isfinite(seen)]
    if not seen.size:
        return (0.0, 1.0)
    if scan.modality == "CT" and seen.min() < -500 and SOFT_TISSUE[0] <= scan.voxels[0, i, j, k] <= SOFT_TISSUE[1]:
        return SOFT_TISSUE
    low, high = (float(value) for value in np.percentile(seen, (0.5, 99.5)))
    return (low, high) if high > low else (low - 1.0, low + 1.0)
