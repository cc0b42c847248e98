"""Surface and diameters of one object on the grid of its scan."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg_cli import diameters
from medseg_cli.scan import Scan
from medseg_cli.surface import boundary


@dataclass(frozen=True)
class Shape:
    """How large and how long an object is; None for what a scan of its kind does not have.

    Args:
        surface_mm2: of a volume, by Crofton's formula (`surface`).
        perimeter_mm: of a picture, likewise; holes have an outline too.
        max_diameter_mm: between the two points that are farthest apart (Feret).
        min_diameter_mm: of a picture: least distance of two parallel lines that hold the object between them.
        axial_diameter_mm: of a volume: largest diameter within one slice of the axis nearest to feet-head.
        axial_short_mm: extent across it in the same slice.
        axial_slice: index of that slice along its voxel axis.
    """

    surface_mm2: float | None = None
    perimeter_mm: float | None = None
    max_diameter_mm: float | None = None
    min_diameter_mm: float | None = None
    axial_diameter_mm: float | None = None
    axial_short_mm: float | None = None
    axial_slice: int | None = None


NO_SHAPE = Shape()


def shape_of(mask: NDArray[np.bool_], scan: Scan, first: NDArray[np.int64]) -> Shape:
    """The shape of an object.

    Args:
        mask: (I, J, K), cut to the box that holds the object; not empty.
        scan: on whose grid it lies.
        first: (3,) voxel index of the box's first voxel.
    """
    if not scan.spacing_known or scan.cine:
        return NO_SHAPE
    if scan.is_picture:
        flat, steps = mask[:, :, 0], _plane(scan.affine[:3, :2])
        points = diameters.corners(diameters.extreme_points(flat), steps)
        return Shape(
            perimeter_mm=boundary(flat, steps),
            max_diameter_mm=diameters.longest(points)[0],
            min_diameter_mm=diameters.least_width(points),
        )
    steps = scan.affine[:3, :3]
    points = diameters.corners(diameters.extreme_points(mask), steps)
    axis = next(index for index, letter in enumerate(scan.orientation) if letter in "SI")
    within = np.delete(steps, axis, axis=1)
    length, across, index = diameters.longest_in_slices(mask, axis, _plane(within))
    return Shape(
        surface_mm2=boundary(mask, steps),
        max_diameter_mm=diameters.longest(points)[0],
        axial_diameter_mm=length,
        axial_short_mm=across,
        axial_slice=int(first[axis]) + index,
    )


def _plane(steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2): the two steps (3, 2) in mm, in coordinates of the plane that they span."""
    upper: NDArray[np.float64] = np.linalg.qr(steps)[1]
    return upper
