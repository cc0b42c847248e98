"""Positions and orientations of slices → an even grid in the patient, or an error that says with numbers why not.

Slice axis k grows along the normal n = row direction x column direction, so (i, j, k) is always a right-handed frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.frames import Frame
from medseg_cli.readers.dicom.series import SAME_PLACE, place_numbers
from medseg_cli.readers.options import ReadOptions

EVEN_TOLERANCE = 0.05
"""Slices may lie off the even grid by this part of the slice spacing (positions are often rounded in the header)."""
LATERAL_TOLERANCE = 0.25
"""Slices may be displaced within their plane by this part of a pixel over the whole stack."""


@dataclass(frozen=True)
class Layout:
    """How frames make a volume.

    Args:
        frames: in slice order, k ascending.
        affine: (4, 4) float64, ijk → LPS mm, of the even orthogonal grid before `shear` and `depths` are applied.
        spacing_known: False when 1 mm had to be assumed in the plane.
        depths: (K,) slice depths in mm from the first one where they are to be resampled, else None.
        shear: (K, 2) displacement of each slice along i and j in voxels where it is to be undone, else None.
        notes: what was repaired, chosen or assumed.
        position_known: False when the file says nothing of where the picture lies.
        seconds: (K,) when each frame of a cine began, in s; None where that is unknown.
        cine: the frames are one picture over time.
    """

    frames: tuple[Frame, ...]
    affine: NDArray[np.float64]
    spacing_known: bool = True
    depths: NDArray[np.float64] | None = None
    shear: NDArray[np.float64] | None = None
    notes: tuple[str, ...] = ()
    position_known: bool = True
    seconds: tuple[float, ...] | None = None
    cine: bool = False


def arrange(frames: tuple[Frame, ...], options: ReadOptions, where: str) -> Layout:
    """The layout of the frames of one stack; `where` names the scan in messages.

    Raises:
        InputError: missing positions, duplicates, gaps, uneven spacing or tilt that no policy of `options` allows.
    """
    if len(frames) == 1:
        return arrange_single(frames[0], options)
    require_positions(frames, where)
    notes: list[str] = []
    row, column, normal = directions(frames[0], notes)
    spacing = in_plane_spacing(frames, options, where, notes)
    frames, positions = drop_duplicates(frames, normal, options, where, notes)
    if len(frames) == 1:
        return arrange_single(frames[0], options)
    depth = positions @ normal
    step, depths = slice_step(frames, depth - depth[0], options, where, notes)
    offsets = (positions - positions[0]) @ np.stack([row, column], axis=1)
    shear = undo_tilt(frames, offsets, depth - depth[0], spacing, options, where, notes)
    affine = affine_of(row, column, normal, (*spacing, step), positions[0])
    return Layout(frames, affine, True, depths, shear, tuple(notes))


def affine_of(
    row: NDArray[np.float64],
    column: NDArray[np.float64],
    normal: NDArray[np.float64],
    spacing: tuple[float, float, float],
    origin: NDArray[np.float64],
) -> NDArray[np.float64]:
    """(4, 4) ijk → LPS mm from three unit directions, mm per voxel and the first voxel's centre."""
    affine = np.eye(4)
    affine[:3, :3] = np.stack([row, column, normal], axis=1) * np.asarray(spacing)
    affine[:3, 3] = origin
    return affine


def arrange_single(frame: Frame, options: ReadOptions) -> Layout:
    """One picture plane: K = 1, with the thickness the file states as the voxel's third size."""
    notes: list[str] = []
    stated = options.spacing
    spacing = frame.pixel_spacing
    if spacing is None:
        if stated is not None:
            notes.append(f"no pixel spacing in the file, {stated[0]:g} x {stated[1]:g} mm was given")
        else:
            notes.append("no pixel spacing in the file, 1 mm assumed")
        if frame.spacing_note:
            notes.insert(0, frame.spacing_note)
        spacing = stated[:2] if stated is not None else (1.0, 1.0)
    elif frame.spacing_note:
        notes.append(frame.spacing_note)
    thickness = frame.thickness or (stated[2] if stated is not None else 0.0)
    if thickness <= 0:
        thickness = 1.0
        notes.append("a single slice without a stated thickness, 1 mm assumed across it")
    known = frame.pixel_spacing is not None or stated is not None
    if frame.position is None or frame.orientation is None:
        notes.append("no position in the patient is stated: world coordinates start at the first pixel, x to the left")
        return Layout((frame,), np.diag([*spacing, thickness, 1.0]), known, notes=tuple(notes), position_known=False)
    row, column, normal = directions(frame, notes)
    affine = affine_of(row, column, normal, (*spacing, thickness), np.asarray(frame.position))
    return Layout((frame,), affine, known, notes=tuple(notes))


def arrange_cine(frames: tuple[Frame, ...], options: ReadOptions) -> Layout:
    """Frames of one picture over time, in the order of the file: k counts frames, each 1 mm thick by convention."""
    clock = frames[0].clock
    assert clock is not None, "told before"
    flat = arrange_single(replace(frames[0], thickness=1.0), options)
    notes = (*flat.notes, clock.note) if clock.note else flat.notes
    return replace(flat, frames=frames, notes=notes, seconds=clock.seconds, cine=True)


def require_positions(frames: tuple[Frame, ...], where: str) -> None:
    """Refuse a stack in which a slice does not say where it lies."""
    missing = [frame for frame in frames if frame.position is None or frame.orientation is None]
    if not missing:
        return
    if len(missing) == len(frames):
        raise InputError(
            f"{where}: {len(frames)} pictures without a position in the patient (ImagePositionPatient), not a volume",
            "pick one with --channel, or name a single file",
        )
    raise InputError(
        f"{where}: {len(missing)} of {len(frames)} slices have no position or orientation ({names(missing)})",
        "remove these files, or export the series again",
    )


def names(frames: list[Frame] | tuple[Frame, ...], most: int = 4) -> str:
    """A few frame names for a message."""
    more = f" and {len(frames) - most} more" if len(frames) > most else ""
    return ", ".join(frame.name for frame in frames[:most]) + more


def directions(frame: Frame, notes: list[str]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors in LPS of increasing column index, row index, and their cross product."""
    assert frame.orientation is not None, "checked before"
    row, column = np.asarray(frame.orientation[:3]), np.asarray(frame.orientation[3:])
    lean = abs(float(row @ column))
    if lean > 1e-3:
        notes.append(f"image directions were not quite orthogonal (cosine {lean:.4f}), repaired")
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return row, column, np.cross(row, column)


def in_plane_spacing(
    frames: tuple[Frame, ...], options: ReadOptions, where: str, notes: list[str]
) -> tuple[float, float]:
    """(along i, along j) in mm. A volume without it is refused unless the user states it."""
    spacing = frames[0].pixel_spacing
    if spacing is not None:
        if frames[0].spacing_note:
            notes.append(frames[0].spacing_note)
        return spacing
    if options.spacing is None:
        raise InputError(
            f"{where}: no PixelSpacing in a volume of {len(frames)} slices", "state it with --spacing X,Y,Z"
        )
    notes.append(f"no PixelSpacing in the files, {options.spacing[0]:g} x {options.spacing[1]:g} mm was given")
    return options.spacing[:2]


def drop_duplicates(
    frames: tuple[Frame, ...], normal: NDArray[np.float64], options: ReadOptions, where: str, notes: list[str]
) -> tuple[tuple[Frame, ...], NDArray[np.float64]]:
    """Frames sorted along the normal with one per place, and their positions (K, 3) LPS.

    Raises:
        InputError: several frames at one place while `options.on_duplicate` is "error".
    """
    positions = np.asarray([frame.position for frame in frames])
    depth = positions @ normal
    number = [frame.instance if frame.instance is not None else 0 for frame in frames]
    order = sorted(range(len(frames)), key=lambda index: (depth[index], number[index], frames[index].name))
    places = np.asarray(place_numbers(depth))[order]
    count = int(places[-1]) + 1
    if count < len(frames):
        twice = [index for at, index in enumerate(order) if np.count_nonzero(places == places[at]) > 1]
        example = names([frames[index] for index in twice], 2)
        spread = float(np.ptp(positions[twice[:2]], axis=0).max())
        what = f"{len(frames)} slices at {count} positions, e.g. {example} at {depth[twice[0]]:.3f} mm along the normal"
        if spread > SAME_PLACE:
            raise InputError(f"{where}: slices side by side in one plane ({what}, {spread:.2f} mm apart), not a volume")
        if options.on_duplicate == "error":
            raise InputError(
                f"{where}: duplicate slices, {what}",
                "keep one of each with --on-duplicate first (or last, by instance number)",
            )
        groups = [[order[at] for at in np.flatnonzero(places == place)] for place in range(count)]
        chosen = 0 if options.on_duplicate == "first" else -1
        order = [sorted(group, key=lambda index: number[index])[chosen] for group in groups]
        notes.append(f"{len(frames) - count} duplicate slices dropped, the {options.on_duplicate} of each place kept")
    return tuple(frames[index] for index in order), positions[order]


def slice_step(
    frames: tuple[Frame, ...], depths: NDArray[np.float64], options: ReadOptions, where: str, notes: list[str]
) -> tuple[float, NDArray[np.float64] | None]:
    """(mm between slices of the even grid, depths (K,) to resample from or None when they are even already)."""
    steps = np.diff(depths)
    mean = float(depths[-1] / (len(depths) - 1))
    off = float(np.abs(depths - mean * np.arange(len(depths))).max()) / mean
    worst = float(np.abs(steps / mean - 1).max())
    if max(off, worst) <= EVEN_TOLERANCE:
        if off > 0.01:
            notes.append(f"slice positions are off an even grid by up to {off:.1%} of {mean:.4g} mm, taken as even")
        return mean, None
    median = float(np.median(steps))
    wide = np.flatnonzero(steps > 1.5 * median)
    if len(wide):
        at = int(wide[0])
        lost = int(np.round(steps[wide] / median - 1).sum())
        what = (
            f"gap: about {lost} slice(s) missing, steps are {median:.4g} mm but {steps[at]:.4g} mm "
            f"after slice {at + 1} of {len(frames)}"
        )
    else:
        at = int(np.argmax(np.abs(steps - median)))
        what = (
            f"uneven slice spacing: steps from {steps.min():.4g} to {steps.max():.4g} mm (median {median:.4g} mm), "
            f"e.g. {steps[at]:.4g} mm after slice {at + 1} of {len(frames)}"
        )
    if options.on_gap == "error":
        # File names can hold a patient's name: they belong into a message, not into the notes that are recorded.
        neighbours = f"between {frames[at].name} and {frames[at + 1].name}"
        raise InputError(f"{where}: {what}, {neighbours}", "interpolate onto an even grid with --on-gap resample")
    count = int(np.round(depths[-1] / median)) + 1
    if count > 8 * len(frames) + 8:
        raise InputError(f"{where}: {what}; an even grid would need {count} slices for {len(frames)} real ones")
    notes.append(f"{what}: resampled linearly from {len(frames)} to {count} slices")
    return float(depths[-1] / (count - 1)), depths


def undo_tilt(
    frames: tuple[Frame, ...],
    offsets: NDArray[np.float64],
    depths: NDArray[np.float64],
    spacing: tuple[float, float],
    options: ReadOptions,
    where: str,
    notes: list[str],
) -> NDArray[np.float64] | None:
    """(K, 2) displacement of each slice in voxels along i and j to undo, None when slices lie above each other.

    Args:
        offsets: (K, 2) mm along i and j from the first slice.
        depths: (K,) mm along the normal from the first slice.
    """
    voxels = offsets / np.asarray(spacing)
    largest = float(np.abs(voxels).max())
    if largest <= LATERAL_TOLERANCE:
        if largest > 0.05:
            notes.append(f"slices are displaced sideways by up to {largest:.2f} pixels, taken as straight")
        return None
    slope = depths @ offsets / (depths @ depths)
    angle = float(np.degrees(np.arctan(np.linalg.norm(slope))))
    scatter = float(np.abs(offsets - depths[:, None] * slope).max())
    what = (
        f"tilted gantry: slices lean by {angle:.2f} degrees ({np.abs(offsets).max():.2f} mm over {depths[-1]:.2f} mm)"
    )
    if scatter > min(spacing):
        what = f"slices are displaced sideways by up to {scatter:.2f} mm, not along a line"
    if options.on_tilt == "error":
        raise InputError(f"{where}: {what}", "shift the slices back with --on-tilt shear (linear interpolation)")
    notes.append(f"{what}: shifted back by linear interpolation")
    return voxels
