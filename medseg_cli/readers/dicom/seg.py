"""Reading DICOM SEG objects as label maps: for what is compared with masks, never as scans.

An object holds the slices on which something is, and no others. The label map read from it is the smallest even grid
that holds them; `widen` lays it onto a whole one. Frames on an ultrasound loop or an X-ray have no place in the
patient: each names the picture that it lies on, and the grid counts those, from the first on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import pixels
from medseg_cli.readers.dicom.files import Source, head_of, looks_like_dicom
from medseg_cli.readers.dicom.frames import Frame, common_values, quiet_pydicom, read_dataset
from medseg_cli.readers.dicom.geometry import EVEN_TOLERANCE, affine_of, directions
from medseg_cli.readers.dicom.multiframe import enhanced_frames
from medseg_cli.readers.dicom.seg_pictures import is_over_time, pictures
from medseg_cli.readers.dicom.values import MALFORMED, item, number, text, whole
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

FORMAT = "dicom-seg"
"""`Provenance.format` of what is read here."""
SOP_CLASSES = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
"""Segmentation, and label map segmentation."""
ALIGNED = 0.05
"""Part of a voxel by which the voxels of an object may miss those of another grid."""


def is_seg(path: Path) -> bool:
    """Whether a file is a DICOM SEG object."""
    if not path.is_file() or not looks_like_dicom(head_of(path)):
        return False
    with quiet_pydicom():
        try:
            header = read_dataset(path, path.name, stop_before_pixels=True, specific_tags=["SOPClassUID"])
        except InputError:
            return False
        return text(header, "SOPClassUID") in SOP_CLASSES


def read(path: Path) -> Scan:
    """The label map of a DICOM SEG: segment numbers as values, on the smallest even grid that holds its frames.

    Raises:
        InputError: damaged, segments that overlap, or frames that do not make a stack.
    """
    with quiet_pydicom():
        dataset = read_dataset(path, path.name)
        frames = _frames(dataset, path)
        placeless = all(frame.position is None for frame in frames)
        over_time = placeless or is_over_time(dataset)
        step, levels = (1.0, pictures(dataset, path)) if over_time else _levels(frames, dataset, path)
        columns, rows = frames[0].size
        labels = np.zeros((int(levels.max()) + 1, rows, columns), np.float32)
        notes = []
        if text(dataset, "SegmentationType") == "FRACTIONAL":
            notes.append(f"{path.name} is fractional: a voxel is inside from half of its largest value on")
        for level, segment, plane in zip(levels, _segments(dataset, path), _planes(dataset, frames), strict=True):
            inside = plane > 0
            lost = int(np.count_nonzero(labels[level][inside]))
            if lost:
                raise InputError(
                    f"{path}: segment {segment} overlaps others in {lost} voxels of a slice: no label map holds that",
                    "write its segments as masks of their own",
                )
            labels[level][inside] = plane[inside] if segment == 0 else segment
    first = frames[int(np.argmin(levels))]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    provenance = Provenance(path, FORMAT, digest, notes=tuple(notes))
    if placeless:
        affine = RAS_TO_LPS @ np.diag([*(first.pixel_spacing or (1.0, 1.0)), step, 1.0])
        known = first.pixel_spacing is not None
        voxels = labels.transpose(2, 1, 0)[None]
        return Scan(voxels, affine, provenance, "", known, position_known=False, cine=len(labels) > 1)
    row, column, normal = directions(first, [])
    assert first.pixel_spacing is not None, "checked with the levels"
    assert first.position is not None, "checked with the levels"
    affine = RAS_TO_LPS @ affine_of(row, column, normal, (*first.pixel_spacing, step), np.asarray(first.position))
    return Scan(labels.transpose(2, 1, 0)[None], affine, provenance, cine=over_time and len(labels) > 1)


def _frames(dataset: Any, path: Path) -> list[Frame]:
    try:
        common = common_values(dataset, Source(path, path.name))
        frames = enhanced_frames(dataset, common, whole(dataset, "NumberOfFrames") or 1)
    except MALFORMED as error:
        raise InputError(f"{path}: its frames do not say where they lie ({error})", "export it again") from error
    bare = [f for f in frames if f.position is None or f.orientation is None or f.pixel_spacing is None]
    if bare and not all(frame.position is None for frame in frames):
        raise InputError(
            f"{path}: {len(bare)} of its {len(frames)} frames do not say where they lie", "export it again"
        )
    return frames


def _levels(frames: list[Frame], dataset: Any, path: Path) -> tuple[float, NDArray[np.int64]]:
    """(mm from slice to slice, number of each frame's slice from the lowest on)."""
    row, column, normal = directions(frames[0], [])
    turns = np.array([frame.orientation for frame in frames]) - np.array(frames[0].orientation)
    turned = float(np.abs(turns).max())
    offsets = np.array([frame.position for frame in frames]) - np.array(frames[0].position)
    aside = float(np.abs(offsets @ np.stack([row, column], axis=1)).max())
    spacing = frames[0].pixel_spacing
    assert spacing is not None, "checked by the caller"
    if turned > 1e-3 or aside > 0.25 * min(spacing):
        raise InputError(
            f"{path}: its frames are no stack: directions differ by up to {turned:.3g}, "
            f"places by {aside:.3g} mm within the slice",
            "export it again as one volume",
        )
    depths = offsets @ normal
    depths -= depths.min()
    found = np.diff(np.unique(np.round(depths, 4)))
    shared = item(item(dataset, "SharedFunctionalGroupsSequence"), "PixelMeasuresSequence")
    stated = None if shared is None else number(shared, "SpacingBetweenSlices", path.name)
    for step in (abs(stated or 0.0), float(found.min(initial=np.inf)), frames[0].thickness or 1.0):
        if 0 < step < np.inf and np.abs(depths / step - np.rint(depths / step)).max() <= EVEN_TOLERANCE:
            return step, np.rint(depths / step).astype(np.int64)
    raise InputError(
        f"{path}: its slices are unevenly spaced, from {found.min():.4g} to {found.max():.4g} mm",
        "export it again on an even grid",
    )


def _segments(dataset: Any, path: Path) -> Iterator[int]:
    """Segment number of each frame; 0 in a label map."""
    shared = item(item(dataset, "SharedFunctionalGroupsSequence"), "SegmentIdentificationSequence")
    for own in dataset.PerFrameFunctionalGroupsSequence:
        named = item(own, "SegmentIdentificationSequence") or shared
        found = None if named is None else whole(named, "ReferencedSegmentNumber")
        if found is None and text(dataset, "SegmentationType") != "LABELMAP":
            raise InputError(f"{path}: a frame does not say which segment it shows", "export it again")
        yield found or 0


def _planes(dataset: Any, frames: list[Frame]) -> Iterator[NDArray[Any]]:
    """(rows, columns) per frame: label values, or whether the voxel is in the frame's segment."""
    labelmap = text(dataset, "SegmentationType") == "LABELMAP"
    # What was not looked at counts as background, as do the slices that are not there.
    outside = whole(dataset, "PixelPaddingValue") or 0
    half = 0.5
    if text(dataset, "SegmentationType") == "FRACTIONAL":
        half = 0.5 * (whole(dataset, "MaximumFractionalValue") or 255)
    packed = whole(dataset, "BitsAllocated") == 1 and not pixels.transfer_syntax(dataset).is_compressed
    stored = (
        _bits(dataset, frames) if packed else pixels.decoded(dataset, list(range(len(frames))), frames[0].source.name)
    )
    for plane in stored:
        if labelmap:
            yield np.where(plane == outside, 0, plane)
        else:
            yield plane >= half


def _bits(dataset: Any, frames: list[Frame]) -> Iterator[NDArray[np.uint8]]:
    """Frames of one bit per voxel, which need not begin with a byte; pydicom 3 loses its way in those."""
    columns, rows = frames[0].size
    size = columns * rows
    data = np.frombuffer(dataset.PixelData, np.uint8)
    if 8 * len(data) < size * len(frames):
        raise InputError(f"{frames[0].source.name}: pixel data end before the last of its {len(frames)} frames")
    for index in range(len(frames)):
        first, last = index * size, (index + 1) * size
        bits = np.unpackbits(data[first // 8 : -(-last // 8)], bitorder="little")
        yield bits[first % 8 :][:size].reshape(rows, columns)


def joint(first: Scan, second: Scan) -> Scan:
    """The smallest grid that holds those of two objects; its voxels are 0.

    Raises:
        InputError: the voxels of one are none of the other's grid, with the numbers.
    """
    index = _placed(second, first)
    low = np.minimum(index[0], 0)
    size = np.maximum(index[-1] + 1, first.shape) - low
    affine = first.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ low
    return replace(first, voxels=np.zeros((1, *size), np.float32), affine=affine)


def _placed(found: Scan, onto: Scan) -> NDArray[np.int64]:
    """(8, 3) voxel index in `onto` of the corners of `found`, the lowest first and the highest last.

    Frames on pictures without a place or a scale lie on the same pixels, the first on the first.
    """
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * (np.array(found.shape) - 1)
    if not found.position_known and not found.spacing_known:
        if found.shape[:2] != onto.shape[:2]:
            own, other = (f"{each.shape[0]}x{each.shape[1]}" for each in (found, onto))
            raise InputError(
                f"{found.provenance.path} lies on a picture of {own} pixels, {onto.provenance.path} has {other}",
                "compare it with a mask of the picture that it was made of",
            )
        return corners
    index = onto.world_to_voxel(found.voxel_to_world(corners.astype(np.float64), "ras"), "ras")
    first = np.rint(index[0]).astype(np.int64)
    off = float(np.abs(index - (corners + first)).max())
    if off > ALIGNED:
        raise InputError(
            f"{found.provenance.path} does not lie on the voxels of {onto.provenance.path}: "
            f"off by up to {off:.2f} voxels",
            "compare it with a mask of the series that it was made of",
        )
    return corners + first


def widen(labels: NDArray[np.uint16], found: Scan, onto: Scan) -> NDArray[np.uint16]:
    """A label map read here, on the whole grid of another scan or mask: (I, J, K) of `onto`.

    Raises:
        InputError: its voxels are none of that grid's, or one with a label lies outside; with the numbers.
    """
    first = _placed(found, onto)[0]
    wide = np.zeros(onto.shape, np.uint16)
    low, high = np.maximum(first, 0), np.minimum(first + found.shape, onto.shape)
    there = tuple(slice(a, max(a, b)) for a, b in zip(low, high, strict=True))
    here = tuple(slice(a - f, max(a, b) - f) for a, b, f in zip(low, high, first, strict=True))
    wide[there] = labels[here]
    lost = int(np.count_nonzero(labels)) - int(np.count_nonzero(wide))
    if lost:
        raise InputError(
            f"{lost} labelled voxels of {found.provenance.path} lie outside of {onto.provenance.path}",
            "check that both show the same patient and the same scan",
        )
    return wide
