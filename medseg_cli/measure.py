"""What there is to say about each object of a mask, in voxels and mm. Memory does not grow with the objects."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation


@dataclass(frozen=True)
class Measurement:
    """One object. Values that do not exist are None, never 0, and `reasons` says why.

    Args:
        label: which object.
        voxels: how many.
        volume_mm3: voxels times the voxel's volume.
        area_mm2: for a 2-D image or a DICOM X-ray only, instead of the volume.
        centroid_ijk: mean voxel index.
        centroid_ras: the same point in mm.
        first_ijk: smallest voxel index along each axis.
        last_ijk: largest voxel index along each axis (inclusive).
        touches_border: whether the object reaches the edge of the scan, so that it may be cut off there; axes of one
            voxel do not count.
        reasons: key of the JSON report → why its value is null.
    """

    label: Label
    voxels: int
    volume_mm3: float | None
    area_mm2: float | None
    centroid_ijk: tuple[float, float, float] | None
    centroid_ras: tuple[float, float, float] | None
    first_ijk: tuple[int, int, int] | None
    last_ijk: tuple[int, int, int] | None
    touches_border: bool | None
    reasons: dict[str, str]
    components: int | None = None

    @property
    def empty(self) -> bool:
        """Whether the object has no voxel."""
        return self.voxels == 0


def measure(segmentation: Segmentation) -> tuple[Measurement, ...]:
    """One `Measurement` per label, in the order of `segmentation.labels`."""
    profiles = [_profile(segmentation.mask, axis) for axis in range(3)]
    return tuple(_measure_label(segmentation, label, profiles) for label in segmentation.labels)


def _profile(mask: NDArray[np.unsignedinteger], axis: int) -> NDArray[np.int64]:
    """(values, size of axis): how many voxels of each value lie in each slice across `axis`."""
    values = int(mask.max(initial=0)) + 1
    slices = np.moveaxis(mask, axis, 0)
    return np.stack([np.bincount(each.ravel(), minlength=values) for each in slices], axis=1)


def _measure_label(segmentation: Segmentation, label: Label, profiles: list[NDArray[np.int64]]) -> Measurement:
    scan = segmentation.scan
    if label.value >= len(profiles[0]) or not profiles[0][label.value].any():
        volume, area, reasons = sizes(scan, 0)
        undefined = ("centroid_ijk", "centroid_ras_mm", "bounding_box_ijk_inclusive", "touches_border")
        reasons = {**reasons, **dict.fromkeys(undefined, "the object is empty")}
        return Measurement(label, 0, volume, area, None, None, None, None, None, reasons)
    counts = [profile[label.value] for profile in profiles]
    voxels = int(counts[0].sum())
    centroid = np.array([float(np.arange(len(count)) @ count) / voxels for count in counts])
    occupied = [np.flatnonzero(count) for count in counts]
    border = any(len(count) > 1 and bool(count[0] or count[-1]) for count in counts)
    volume, area, reasons = sizes(scan, voxels)
    return Measurement(
        label,
        voxels,
        volume,
        area,
        _triple(centroid),
        _triple(scan.voxel_to_world(centroid, "ras")[0]) if scan.spacing_known else None,
        (int(occupied[0][0]), int(occupied[1][0]), int(occupied[2][0])),
        (int(occupied[0][-1]), int(occupied[1][-1]), int(occupied[2][-1])),
        border,
        reasons,
    )


def sizes(scan: Scan, voxels: int) -> tuple[float | None, float | None, dict[str, str]]:
    """(mm³, mm², reasons) of so many voxels. None of them are 0 mm³: that is a measurement, not a missing value."""
    if not scan.spacing_known:
        why = "the image does not state its pixel size (give it with --spacing)"
        return None, None, {"volume_mm3": why, "volume_ml": why, "area_mm2": why, "centroid_ras_mm": why}
    if scan.is_picture:
        why = "a 2-D image has no volume"
        area = voxels * scan.spacing[0] * scan.spacing[1]
        return None, area, {"volume_mm3": why, "volume_ml": why}
    return voxels * scan.voxel_volume, None, {"area_mm2": "the scan is a volume"}


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
