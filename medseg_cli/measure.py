"""What there is to say about each object of a mask: size, place, shape and the values inside.

Every object is looked at in the smallest box that holds it, one after the other, so that many take no more memory.
Objects that reach the edge of the scan keep their numbers; `touches_border` says that they may be cut off there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from medseg_cli.biometry import Biometry, biometry_of, measures_ellipses
from medseg_cli.frame_areas import NO_PLACE, NO_SHAPE_OVER_TIME, NO_VOLUME, FrameAreas, areas_of
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.shapes import NO_SHAPE, Shape, shape_of

UNKNOWN_SIZE = "the image does not state its pixel size (give it with --spacing)"
EMPTY = "the object is empty"
LENGTHS = ("max_diameter_mm", "min_diameter_mm", "axial_diameter_mm", "axial_short_mm", "axial_slice")


@dataclass(frozen=True)
class Intensity:
    """The scan's values inside an object, in the scan's own units; voxels that are not finite do not count.

    Args:
        mean, sd, median, min, max: as they say; `sd` is that of all values (not an estimate from a sample).
        p05, p95: 5th and 95th percentile, linear between ranks.
    """

    mean: float
    sd: float
    median: float
    min: float
    max: float
    p05: float
    p95: float


@dataclass(frozen=True)
class Measurement:
    """One object. Values that do not exist are None, never 0, and `reasons` says why.

    Args:
        label: which object.
        voxels: how many.
        volume_mm3: voxels times the voxel's volume.
        area_mm2: for a 2-D image or a DICOM X-ray only, instead of the volume; of a cine the mean of the frames that
            show the object.
        centroid_ijk: mean voxel index.
        centroid_ras: the same point in mm.
        first_ijk: smallest voxel index along each axis.
        last_ijk: largest voxel index along each axis (inclusive).
        touches_border: whether the object reaches the edge of the scan, so that it may be cut off there; axes of one
            voxel do not count, nor does time.
        reasons: key of the JSON report → why its value is null.
        components: connected parts (voxels that share a face, an edge or a corner); of a cine the most in one frame.
        shape: surface and diameters.
        intensity: values inside; None for colours.
        ellipses: of a label of that shape, one per frame (a picture has one), None where a frame has none; () for other
            labels, empty ones and volumes.
        frames: areas over time; None of what is no cine.
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
    reasons: dict[str, str] = field(default_factory=dict)
    components: int | None = None
    shape: Shape = NO_SHAPE
    intensity: Intensity | None = None
    ellipses: tuple[Biometry | None, ...] = ()
    frames: FrameAreas | None = None

    @property
    def empty(self) -> bool:
        """Whether the object has no voxel."""
        return self.voxels == 0


def measure(segmentation: Segmentation, *, shapes: bool = True) -> tuple[Measurement, ...]:
    """One `Measurement` per label, in the order of `segmentation.labels`.

    Args:
        segmentation: any.
        shapes: False leaves out surface, diameters and values, for who needs sizes and places only.
    """
    from scipy import ndimage

    boxes = ndimage.find_objects(segmentation.mask, max((label.value for label in segmentation.labels), default=1))
    return tuple(_measure_label(segmentation, label, boxes[label.value - 1], shapes) for label in segmentation.labels)


def _measure_label(
    segmentation: Segmentation, label: Label, box: tuple[slice, slice, slice] | None, shapes: bool
) -> Measurement:
    scan = segmentation.scan
    if box is None:
        return _empty(label, scan)
    mask = segmentation.mask[box] == label.value
    columns = np.count_nonzero(mask, axis=2)
    counts = (columns.sum(axis=1), columns.sum(axis=0), np.count_nonzero(mask, axis=(0, 1)))
    voxels = int(counts[0].sum())
    first, last = np.array([part.start for part in box]), np.array([part.stop - 1 for part in box])
    centroid = first + [float(np.arange(len(count)) @ count) / voxels for count in counts]
    border = any(
        size > 1 and bool(low == 0 or high == size - 1)
        for low, high, size in list(zip(first, last, scan.shape, strict=True))[: 2 if scan.cine else 3]
    )
    volume, area, reasons = sizes(scan, voxels)
    frames = areas_of(counts[2], int(first[2]), scan)
    shape, intensity = NO_SHAPE, None
    ellipses: tuple[Biometry | None, ...] = ()
    if shapes:
        shape = shape_of(mask, scan, first)
        intensity, why = _intensity(scan, box, mask)
        ellipses, none = _ellipses(segmentation, label)
        reasons |= _reasons(shape, scan) | why | none
    return Measurement(
        label,
        voxels,
        volume,
        frames.mean_mm2 if frames else area,
        _triple(centroid),
        _triple(scan.voxel_to_world(centroid, "ras")[0]) if scan.spacing_known and not scan.cine else None,
        (int(first[0]), int(first[1]), int(first[2])),
        (int(last[0]), int(last[1]), int(last[2])),
        border,
        reasons,
        max(_components(mask[:, :, k]) for k in range(mask.shape[2])) if scan.cine else _components(mask),
        shape,
        intensity,
        ellipses,
        frames,
    )


def _empty(label: Label, scan: Scan) -> Measurement:
    volume, area, reasons = sizes(scan, 0)
    place = ("centroid_ijk", "centroid_ras_mm", "bounding_box_ijk_inclusive", "touches_border", "components")
    undefined = (*place, "surface_mm2", "perimeter_mm", *LENGTHS, "intensity", *(["ellipse"] if label.shape else []))
    reasons = {**reasons, **dict.fromkeys(undefined, EMPTY)}
    frames = areas_of((), 0, scan)
    area = frames.mean_mm2 if frames else area
    return Measurement(label, 0, volume, area, None, None, None, None, None, reasons, frames=frames)


def _components(mask: NDArray[np.bool_]) -> int:
    import cc3d

    # As bytes, and in a copy: cc3d 4.1 fails on some bool arrays, and reads strides of views as it finds them.
    plain = np.ascontiguousarray(mask).view(np.uint8)
    if mask.ndim == 2:
        return int(cc3d.connected_components(plain, connectivity=8, return_N=True)[1])
    return int(cc3d.connected_components(plain, connectivity=26, return_N=True)[1])


def _intensity(
    scan: Scan, box: tuple[slice, slice, slice], mask: NDArray[np.bool_]
) -> tuple[Intensity | None, dict[str, str]]:
    """The values inside, or why there are none."""
    if scan.voxels.shape[0] > 1:
        return None, {"intensity": f"a scan of several channels has no single value per {scan.cell}"}
    i, j, k = box
    values = scan.voxels[0, i, j, k][mask]
    values = values[np.isfinite(values)]
    if not values.size:
        return None, {"intensity": f"no {scan.cell} of the object has a finite value"}
    low, least, median, most, high = np.percentile(values, [5, 0, 50, 100, 95])
    mean, deviation = values.mean(dtype=np.float64), values.std(dtype=np.float64)
    return Intensity(*(float(each) for each in (mean, deviation, median, least, most, low, high))), {}


def _ellipses(segmentation: Segmentation, label: Label) -> tuple[tuple[Biometry | None, ...], dict[str, str]]:
    """The ellipse of an object in every frame, and why there is none at all."""
    if not label.shape:
        return (), {}
    if not measures_ellipses(segmentation.scan):
        return (), {"ellipse": "the scan is a volume, and ellipses are measured in pictures"}
    frames = segmentation.mask == label.value
    found = [
        biometry_of(frames[:, :, k], segmentation.scan, label.rim, k, segmentation.tissue)
        if frames[:, :, k].any()
        else (None, "")
        for k in range(frames.shape[2])
    ]
    if any(each for each, _ in found):
        return tuple(each for each, _ in found), {}
    return (), {"ellipse": next(why for _, why in found if why)}


def _reasons(shape: Shape, scan: Scan) -> dict[str, str]:
    """Why parts of a shape do not exist."""
    if scan.cine or not scan.spacing_known:
        why = NO_SHAPE_OVER_TIME if scan.cine else UNKNOWN_SIZE
        return dict.fromkeys(("surface_mm2", "perimeter_mm", *LENGTHS), why)
    if scan.is_picture:
        unasked = ("surface_mm2", "axial_diameter_mm", "axial_short_mm", "axial_slice")
        return dict.fromkeys(unasked, "a 2-D image has neither a surface nor slices")
    return dict.fromkeys(("perimeter_mm", "min_diameter_mm"), "the scan is a volume")


def sizes(scan: Scan, voxels: int) -> tuple[float | None, float | None, dict[str, str]]:
    """(mm³, mm², reasons) of so many voxels. None of them are 0 mm³: that is a measurement, not a missing value.

    Voxels of a cine are of several frames, and have no area together.
    """
    if scan.cine:
        never = {"volume_mm3": NO_VOLUME, "volume_ml": NO_VOLUME, "centroid_ras_mm": NO_PLACE}
        return None, None, never if scan.spacing_known else {**never, "area_mm2": UNKNOWN_SIZE}
    if not scan.spacing_known:
        keys = ("volume_mm3", "volume_ml", "area_mm2", "centroid_ras_mm")
        return None, None, dict.fromkeys(keys, UNKNOWN_SIZE)
    if scan.is_picture:
        why = "a 2-D image has no volume"
        area = voxels * scan.spacing[0] * scan.spacing[1]
        return None, area, {"volume_mm3": why, "volume_ml": why}
    return voxels * scan.voxel_volume, None, {"area_mm2": "the scan is a volume"}


def _triple(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return (x, y, z)
