"""Planes through a scan: which way it is sliced, what a slice looks like as a picture, and the way back to voxels.

A picture is a slice turned the way radiologists look at it (anterior or superior up, the patient's right on the left in
axial and coronal planes, anterior on the left in sagittal ones), by swapping and flipping axes only: every pixel is one
voxel. 2-D images, and single DICOM frames, are shown as stored.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Prompt, Target
from medseg_cli.scan import Scan

PlaneName = Literal["finest", "axial", "coronal", "sagittal", "acquisition"]
THROUGH = {"axial": "SI", "coronal": "AP", "sagittal": "RL"}
"""Anatomical direction across each plane."""
TOP_LEFT = "ASR"
"""Where a picture's upper left corner lies: anterior or superior up, right or (in sagittal planes) anterior left."""
SAME_SPACING = 1.01
"""Spacings that differ by less than this factor count as equal when the finest plane is chosen."""


@dataclass(frozen=True)
class Plane:
    """One way of slicing a scan.

    Args:
        name: "axial", "coronal", "sagittal", "image" for a 2-D image, or "frame" for the frames of a cine.
        through: voxel axis across the slices, 0 to 2 for i, j, k.
        rows, columns: voxel axes down and across the picture.
        flip_rows, flip_columns: whether they run against the picture.
        shape: (I, J, K) of the scan.
        spacing: mm along i, j, k.
    """

    name: str
    through: int
    rows: int
    columns: int
    flip_rows: bool
    flip_columns: bool
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def count(self) -> int:
        """Number of slices."""
        return self.shape[self.through]

    @property
    def axis(self) -> str:
        """Letter of the voxel axis across the slices."""
        return "ijk"[self.through]

    @property
    def height(self) -> int:
        """Rows of a picture."""
        return self.shape[self.rows]

    @property
    def width(self) -> int:
        """Columns of a picture."""
        return self.shape[self.columns]

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """(height, width) of a pixel in mm."""
        return (self.spacing[self.rows], self.spacing[self.columns])

    def take(self, voxels: NDArray[Any], index: int) -> NDArray[Any]:
        """The picture (..., H, W) of slice `index` of `voxels` (..., I, J, K), a view."""
        moved = np.moveaxis(voxels, (self.through - 3, self.rows - 3, self.columns - 3), (-3, -2, -1))
        picture = moved[..., index, :, :]
        if self.flip_rows:
            picture = picture[..., ::-1, :]
        return picture[..., ::-1] if self.flip_columns else picture

    def put(self, voxels: NDArray[Any], index: int, picture: NDArray[Any]) -> None:
        """Write a picture (H, W) into slice `index` of `voxels` (I, J, K)."""
        self.take(voxels, index)[...] = picture

    def to_picture(self, ijk: NDArray[np.float64]) -> NDArray[np.float64]:
        """Voxel indices (N, 3) → (N, 2) pixel index (x across, y down), pixel centres at whole numbers."""
        x, y = ijk[:, self.columns], ijk[:, self.rows]
        x = self.width - 1 - x if self.flip_columns else x
        y = self.height - 1 - y if self.flip_rows else y
        return np.stack([x, y], axis=1)

    def to_voxels(self, xy: NDArray[np.float64], index: int) -> NDArray[np.float64]:
        """Pixel indices (N, 2), x across and y down, of slice `index` → voxel indices (N, 3) ijk."""
        ijk = np.empty((len(xy), 3))
        ijk[:, self.columns] = self.width - 1 - xy[:, 0] if self.flip_columns else xy[:, 0]
        ijk[:, self.rows] = self.height - 1 - xy[:, 1] if self.flip_rows else xy[:, 1]
        ijk[:, self.through] = index
        return ijk


def plane_of(scan: Scan, name: PlaneName = "finest") -> Plane:
    """The plane in which `scan` is sliced.

    Args:
        scan: any; an image of one voxel along an axis has one plane only.
        name: "finest" is the plane whose pixels are smallest, across the axis of widest spacing (axial if equal);
            "acquisition" is the file's own stack of slices: NIfTI's slice axis if its header names one, else k. Of a
            cine every name means its frames.

    Raises:
        UsageError: the plane asked for would be one voxel wide.
        InputError: a scan that is one voxel thick along two axes.
    """
    codes = scan.orientation
    flat = [axis for axis in range(3) if scan.shape[axis] == 1]
    if scan.cine:
        through = 2
    elif name in THROUGH:
        through = next(axis for axis in range(3) if codes[axis] in THROUGH[name])
    elif name == "acquisition":
        through = _stack_axis(scan)
    else:
        through = flat[-1] if flat else _coarsest_axis(scan)
    if len(flat) > 1:
        raise InputError(
            f"{scan.provenance.path} is a line of {' x '.join(map(str, scan.shape))} {scan.cell}s",
            f"2-D models need two {scan.cell}s or more each way",
        )
    if scan.cine and 1 in scan.shape[:2]:
        raise InputError(
            f"the frames of {scan.provenance.path} are lines of {' x '.join(map(str, scan.shape[:2]))} pixels",
            "2-D models need two pixels or more each way",
        )
    if flat and through != flat[0]:
        raise UsageError(
            f"{scan.provenance.path} is one voxel thick along {'ijk'[flat[0]]}: its {name} slices would be lines",
            "leave --slices out",
        )
    rest = [axis for axis in range(3) if axis != through]
    as_stored = scan.provenance.format == "image" or (scan.provenance.format == "dicom" and scan.shape[2] == 1)
    as_stored |= scan.cine and not scan.position_known
    title = "frame" if scan.cine else next(plane for plane, letters in THROUGH.items() if codes[through] in letters)
    if as_stored and through == 2:
        title = "image" if scan.provenance.format == "image" and not scan.cine else title
        return Plane(title, 2, 1, 0, False, False, scan.shape, scan.spacing)
    # Rows run along S-I, or along A-P where the slice is axial; columns along what is left.
    rows = next((axis for axis in rest if codes[axis] in "SI"), None)
    if rows is None:
        rows = next(axis for axis in rest if codes[axis] in "AP")
    columns = next(axis for axis in rest if axis != rows)
    return Plane(
        title, through, rows, columns, codes[rows] in TOP_LEFT, codes[columns] in TOP_LEFT, scan.shape, scan.spacing
    )


def _coarsest_axis(scan: Scan) -> int:
    widest = max(scan.spacing)
    equal = [axis for axis in range(3) if scan.spacing[axis] * SAME_SPACING >= widest]
    return next((axis for axis in equal if scan.orientation[axis] in "SI"), equal[-1])


def _stack_axis(scan: Scan) -> int:
    """NIfTI may name its slice axis in `dim_info`; elsewhere, slices are stacked along k."""
    named = scan.header.get_dim_info()[2] if hasattr(scan.header, "get_dim_info") else None
    return 2 if named is None else int(named)


def in_volume(prompt: Prompt, scan: Scan, plane: Plane, index: int | None) -> Prompt:
    """The prompt with every place in a plane (x, y) completed to voxel ijk; what has three coordinates stays.

    Args:
        prompt: clicks and boxes.
        scan: where they lie.
        plane: which way the scan is sliced; x and y are its two other voxel axes, in the order i, j, k.
        index: the slice that places in a plane lie in; None is right for a 2-D image only.

    Raises:
        InputError: (x, y) for a volume without `index`, or in mm, or `index` outside the scan.
        UsageError: `index` for a prompt that has three coordinates everywhere.
    """
    flat = plane.count == 1
    places = [click.position for target in prompt.targets for click in target.clicks]
    places += [corner for target in prompt.targets for box in target.boxes for corner in (box.first, box.second)]
    if index is not None and not 0 <= index < plane.count:
        raise InputError(
            f"there is no slice {index} along {plane.axis} in {scan.provenance.path}",
            f"valid: 0..{plane.count - 1} ({plane.name} slices)",
        )
    if index is not None and places and all(len(place) == 3 for place in places):
        raise UsageError("--slice goes with prompts of two coordinates, these have three", "leave --slice out")
    if not flat and index is None and any(len(place) == 2 for place in places):
        what, which = "volume", f"{plane.name} slice along {plane.axis}"
        if scan.cine:
            what, which = "cine", "frame"
        raise InputError(
            f"{scan.provenance.path} is a {what} of {scan.shape} voxels, and a prompt has two coordinates",
            f"give three, or add --slice N: the {which}, 0..{plane.count - 1}",
        )
    number = 0 if index is None else index
    first, second = (axis for axis in range(3) if axis != plane.through)

    def full(place: tuple[float, ...], frame: str) -> tuple[float, ...]:
        if len(place) != 2:
            return place
        if frame != "ijk" and scan.provenance.format != "image":
            raise InputError(
                f"a place in a slice is counted in {scan.cell}s, not in {frame} mm", "give x,y,z, or use --coords ijk"
            )
        if frame != "ijk":
            return (*place, 0.0)
        whole = [0.0, 0.0, 0.0]
        whole[plane.through], whole[first], whole[second] = float(number), place[0], place[1]
        return tuple(whole)

    return Prompt(tuple(_complete(target, full) for target in prompt.targets))


def _complete(target: Target, full: Any) -> Target:
    clicks = tuple(replace(click, position=full(click.position, click.frame)) for click in target.clicks)
    boxes = tuple(
        replace(box, first=full(box.first, box.frame), second=full(box.second, box.frame)) for box in target.boxes
    )
    return replace(target, clicks=clicks, boxes=boxes)
