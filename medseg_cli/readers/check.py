"""Is it an image at all? Checks that need only the voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.scan import Scan

FEW_VALUES = 10
"""An image has more grey values than this; a binary or small label map has not."""

MANY_LABELS = 256
PIECEWISE = 0.8
"""In a label map at least this share of the neighbouring voxel pairs that touch an object have equal values."""

_SAMPLE = 1 << 20
_PART = 1 << 22
"""Values that are looked through at a time: what is counted of them must not take more memory than the scan itself."""


def looks_like_mask(scan: Scan) -> bool:
    """Whether the voxels are labels: whole numbers from 0, few of them, or more in large flat patches.

    Up to `FEW_VALUES` distinct values always count as labels (0 and 255 of a PNG mask too); up to `MANY_LABELS` do when
    the image is flat nearly everywhere.
    """
    if scan.voxels.shape[0] != 1:
        return False
    voxels = scan.voxels[0]
    flat = voxels.reshape(-1)
    sample = flat[:: max(flat.size // _SAMPLE, 1)]
    if sample.min() < 0 or not np.array_equal(sample, np.rint(sample)) or np.unique(sample).size > MANY_LABELS:
        return False
    values = _distinct(flat)
    if values is None or values.size < 2 or values[0] != 0:
        return False
    return values.size <= FEW_VALUES or (values.size <= MANY_LABELS and _flatness(voxels) >= PIECEWISE)


def check_image(scan: Scan) -> None:
    """Refuse a constant image and a label map.

    Raises:
        InputError: which of the two it is.
    """
    low, high = float(scan.voxels.min()), float(scan.voxels.max())
    if low == high:
        raise InputError(f"{scan.provenance.path} is constant: every {scan.cell} is {low:g}", "choose the scan itself")
    if looks_like_mask(scan):
        raise InputError(
            f"{scan.provenance.path} looks like a mask, not a scan: whole numbers from 0 to {high:g}, "
            f"{np.unique(scan.voxels[0]).size} different ones",
            "give the scan that the mask was drawn on",
        )


def _distinct(flat: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Sorted distinct values; None when there are negative, fractional or very large ones."""
    counts = np.zeros(np.iinfo(np.uint16).max + 1, dtype=np.int64)
    for first in range(0, flat.size, _PART):
        part = flat[first : first + _PART]
        if not (part.min() >= 0 and part.max() < counts.size):
            return None
        whole = part.astype(np.uint16)
        if not np.array_equal(part, whole):
            return None
        counts += np.bincount(whole, minlength=counts.size)
    return np.flatnonzero(counts).astype(np.float32)


def _flatness(voxels: NDArray[np.float32]) -> float:
    """Share of equal values among neighbouring voxel pairs of which at least one is not 0."""
    equal = touching = 0
    step = max(1, _PART // max(1, voxels[0].size))
    for axis in range(3):
        along = (slice(None),) * axis
        first, second = voxels[(*along, slice(None, -1))], voxels[(*along, slice(1, None))]
        for start in range(0, len(first), step):
            here, beside = first[start : start + step], second[start : start + step]
            inside = here != 0
            equal += int(np.count_nonzero((here == beside) & inside))
            inside |= beside != 0
            touching += int(np.count_nonzero(inside))
    return equal / touching if touching else 0.0
