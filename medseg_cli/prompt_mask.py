"""A coarse mask file as prompt: one object per value, on the scan's own grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.prompt import Region, Target
from medseg_cli.readers import load_scan, looks_like_mask
from medseg_cli.scan import Scan

SAME_PLACE = 0.1
"""Voxels may lie this far from those of the scan, in units of its smallest spacing: files round their geometry."""
_RESAMPLE = "resample the mask onto the scan's grid with nearest neighbour, or draw it on this very scan"


def read_regions(path: Path, scan: Scan) -> tuple[Target, ...]:
    """The objects of a mask file, in order of their values; `id` is the value.

    Args:
        path: any format that scans come in, or a DICOM SEG. Every value above 0 is one object, so 0 and 255 are one.
        scan: what it was drawn on.

    Raises:
        InputError: unreadable, no mask, empty, or not on the grid of `scan`, with the numbers of both.
    """
    found = _read(path, scan)
    values = _values(found, path)
    check_grid(found, scan)
    labels = values.astype(np.uint16)
    # Slice by slice: numpy would turn all values into 8-byte indices at once.
    counts = sum(np.bincount(each.ravel(), minlength=np.iinfo(np.uint16).max + 1) for each in labels)
    numbers = [int(value) for value in np.flatnonzero(counts) if value]
    if not numbers:
        raise InputError(
            f"mask {path} is empty: all {values.size} {scan.cell}s are 0", "give a mask with an object in it"
        )
    return tuple(
        Target(str(number), "", region=Region(labels, path, found.provenance.sha256, number)) for number in numbers
    )


def _read(path: Path, scan: Scan) -> Scan:
    from medseg_cli.readers.dicom import seg

    if not seg.is_seg(path):
        return load_scan(path)
    found = seg.read(path)
    # It holds the slices with an object only.
    whole = seg.widen(found.voxels[0].astype(np.uint16), found, scan)
    return Scan(whole.astype(np.float32)[None], scan.affine, found.provenance)


def _values(found: Scan, path: Path) -> NDArray[np.float32]:
    """(I, J, K) label values."""
    voxels = found.voxels
    if voxels.shape[0] > 1 and not np.array_equal(voxels[1:], np.broadcast_to(voxels[:1], voxels[1:].shape)):
        raise InputError(
            f"mask {path} is a colour image, which names no objects",
            "save it in grey: 0 outside, 255 or 1, 2, 3 inside",
        )
    grey = Scan(voxels[:1], found.affine, found.provenance)
    # A constant mask, all inside or all outside, is one too.
    if not looks_like_mask(grey) and not _is_constant_label(voxels[0]):
        low, high = float(voxels.min()), float(voxels.max())
        raise InputError(
            f"{path} is no mask: {np.unique(voxels[0]).size} different values from {low:g} to {high:g}",
            "a mask holds 0 outside and one whole number per object; "
            "PNG keeps it exactly, JPEG and smooth resizing do not",
        )
    return voxels[0]


def _is_constant_label(voxels: NDArray[np.float32]) -> bool:
    value = float(voxels.flat[0])
    return value in range(np.iinfo(np.uint16).max + 1) and bool((voxels == value).all())


def check_grid(found: Scan, scan: Scan, hint: str = _RESAMPLE) -> None:
    """Whether every voxel of a mask lies on its voxel of a scan, or of another mask.

    Raises:
        InputError: it does not, with the geometry of both and `hint`.
    """
    mask, image = found.provenance.path, scan.provenance.path
    if found.shape != scan.shape:
        raise InputError(f"mask {mask} has {_size(found)}, {image} has {_size(scan)}", hint)
    if "image" in (found.provenance.format, scan.provenance.format):
        return  # Pictures say nothing about where their pixels lie.
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(scan.shape) - 1)
    apart = np.linalg.norm(found.voxel_to_world(corners, "ras") - scan.voxel_to_world(corners, "ras"), axis=1).max()
    if apart > SAME_PLACE * min(scan.spacing):
        raise InputError(
            f"mask {mask} lies up to {apart:.3g} mm away from {image}: {_geometry(found)}, against {_geometry(scan)}",
            hint,
        )


def _size(scan: Scan) -> str:
    i, j, k = scan.shape
    return f"{i} x {j} pixels" if k == 1 else f"{i} x {j} x {k} voxels"


def _geometry(scan: Scan) -> str:
    origin = ", ".join(f"{value:.4g}" for value in scan.affine[:3, 3])
    spacing = " x ".join(f"{value:.4g}" for value in scan.spacing)
    return f"{scan.orientation}, {spacing} mm, first voxel at ras {origin}"
