"""A case in memory: the scan and its label values on one grid, and what keeps the two from being a case."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets.case import Case, Finding
from medseg_cli.datasets.outline import outlined
from medseg_cli.errors import InputError
from medseg_cli.readers import ReadOptions, load_labels, load_scan
from medseg_cli.readers.detect import detect
from medseg_cli.scan import Scan

SAME_GRID_MM = 1e-3
"""Largest difference of two affines on one grid."""
WHOLE = 1e-3
"""Largest distance of a label value from a whole number: scaled and compressed files miss them by rounding."""
COUNTED = 1 << 16
"""Label values below it are counted in one pass."""
SAME_SPACING = 0.01
"""Largest relative difference between the voxel size that a list states and that of a file."""


def load_pair(case: Case) -> tuple[Scan, NDArray[np.int64]]:
    """A case's scan and its label values (I, J, K), 0 = nothing.

    A grey picture of a mask (0 and 255, with shades in between where it was resized or compressed) has one object,
    value 1, where it is above half. Values below 0 (regions to be ignored, in some data sets) are nothing, and so is
    the value `Case.ignore`.

    Raises:
        InputError: unreadable files, image and label on different grids, a label in colours, with fractions, without
            a single voxel, or an outline that encloses nothing or several areas.
    """
    scan, label = open_case(case, load_scan)
    problem = next(problems(case, scan, label), None)
    if problem is not None:
        raise problem.error()
    values = label_values(case, label)
    if not np.any(values > 0):
        raise empty(case).error()
    return scan, values


def open_case(case: Case, load: Callable[[Path, ReadOptions], Scan]) -> tuple[Scan, Scan]:
    """The scan of a case, and its label file as if it were one.

    Args:
        case: names both.
        load: reads a file: `readers.load_scan`, or what reads the same without MONAI.

    Raises:
        InputError: one of them cannot be read.
    """
    return open_image(case, load), open_label(case, load)


def open_image(case: Case, load: Callable[[Path, ReadOptions], Scan]) -> Scan:
    """The scan of a case, with what the dataset says about it; for `load` and errors see `open_case`."""
    picture = case.spacing is not None and case.image.is_file() and detect(case.image).format == "image"
    scan = load(case.image, ReadOptions(channel=case.channel, spacing=case.spacing if picture else None))
    return replace(scan, modality=case.modality) if case.modality and not scan.modality else scan


def open_label(case: Case, load: Callable[[Path, ReadOptions], Scan]) -> Scan:
    """The label file of a case as if it were a scan; for `load` and errors see `open_case`."""
    if case.captioned:
        raise InputError(
            f"{case.image} has a caption and no mask", "captions train presets that take text (medseg presets list)"
        )
    both = case.label == case.image and detect(case.label).format == "npz"
    return load_labels(case.label) if both else load(case.label, ReadOptions())


def problems(case: Case, scan: Scan, label: Scan) -> Iterator[Finding]:
    """Why a scan and a label file are no case: different grids, colours, fractions, an outline in doubt."""
    # Pictures say nothing about where their pixels lie.
    placed = "image" not in (scan.provenance.format, label.provenance.format)
    if scan.shape != label.shape or (placed and not np.allclose(scan.affine, label.affine, atol=SAME_GRID_MM)):
        yield Finding(
            "geometry",
            f"{case.label} does not lie on the grid of {case.image}: {label.shape} and {scan.shape} {scan.cell}s, "
            f"affines differ by up to {np.abs(scan.affine - label.affine).max():g} mm",
            "export the mask again on its scan's grid, or leave the case out",
            case.label,
        )
    if case.spacing and not np.allclose(scan.spacing, case.spacing, rtol=SAME_SPACING):
        stated, found = ("x".join(f"{size:g}" for size in sizes) for sizes in (case.spacing, scan.spacing))
        text = f"{case.image} has {scan.cell}s of {found} mm, its list says {stated}"
        yield Finding("geometry", text, "correct the list, or leave the spacing out", case.image)
    if label.voxels.shape[0] > 1:
        text = f"{case.label} is a colour image, which names no objects"
        yield Finding("colour", text, "save it in grey: 0 outside", case.label)
        return
    off = np.abs(label.voxels - np.rint(label.voxels)) > WHOLE
    if off.any():
        example = float(label.voxels[off][0])
        text = f"{case.label} holds fractions, for example {example:g}, in {int(off.sum())} {label.cell}s: no label map"
        yield Finding("float", text, "resample it with nearest neighbour, or threshold it", case.label)
    elif case.outline and np.any(label.voxels > 0):
        yield from _outline_problems(case, label)


def _outline_problems(case: Case, label: Scan) -> Iterator[Finding]:
    if label.shape[2] != 1:
        text = f"{case.label} has {label.shape[2]} slices, and an outline is one picture"
        yield Finding("outline", text, "draw it in the picture that it belongs to", case.label)
        return
    problem = outlined(label.voxels[0, :, :, 0]).problem
    if problem:
        remedy = "close the line, or leave the case out; masks that are filled are called x_mask.png beside x.png"
        yield Finding("outline", f"{case.label} {problem}", remedy, case.label)


def label_values(case: Case, label: Scan) -> NDArray[np.int64]:
    """The values (I, J, K) of a label file that has none of `problems`; see `load_pair`."""
    values = np.rint(label.voxels[0]).astype(np.int64).clip(min=0)
    if case.outline:
        return outlined(values[:, :, 0]).filled[:, :, None].astype(np.int64)
    if case.ignore is not None:
        values[values == case.ignore] = 0
    if case.binary:
        return (values > 0).astype(np.int64)
    if label.provenance.format == "image" and is_picture_of_mask(values):
        values = (values > 127).astype(np.int64)
    return values


def count_values(values: NDArray[np.int64]) -> dict[int, int]:
    """Label value → voxels, of all values above 0."""
    if int(values.max(initial=0)) < COUNTED:
        counts = np.bincount(values.ravel())
        return {int(value): int(counts[value]) for value in np.flatnonzero(counts) if value > 0}
    found, numbers = np.unique(values, return_counts=True)
    return {int(value): int(count) for value, count in zip(found, numbers, strict=True) if value > 0}


def empty(case: Case) -> Finding:
    """What there is to say about a label file that labels nothing."""
    return Finding("empty", f"{case.label} labels nothing", "leave the case out of the dataset", case.label)


def is_picture_of_mask(values: NDArray[np.int64]) -> bool:
    """Whether values are a mask drawn in white, with shades at its edge, and no label map."""
    inside = values[values > 0]
    return bool(inside.size) and 250 <= int(inside.max()) <= 255 and float((inside >= 250).mean()) > 0.5
