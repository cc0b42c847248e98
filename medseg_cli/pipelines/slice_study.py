"""A case as 2-D methods learn from it: an image, or a volume that is seen slice by slice, in all planes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg_cli.datasets import Case, load_pair
from medseg_cli.intensity import Display, display_of
from medseg_cli.pipelines.by_slice import Options
from medseg_cli.pipelines.loading import options_of
from medseg_cli.preset import Preset
from medseg_cli.scan import Scan
from medseg_cli.slices import Plane, plane_of

LEAST_PIXELS = 12
"""Fewer pixels of an object in a view or slice are not worth a prompt."""


@dataclass(frozen=True, eq=False)
class Study:
    """One case in memory.

    Args:
        name: the image's path.
        voxels: (C, I, J, K) float32, the scan's units, C = 1 or 3.
        labels: (I, J, K) label values, 0 = nothing.
        planes: the ways in which it is sliced.
        display: how its values become grey values.
        slices: per plane, the slices that hold enough of any object.
    """

    name: str
    voxels: NDArray[np.float32]
    labels: NDArray[np.uint16]
    planes: tuple[Plane, ...]
    display: Display
    slices: tuple[NDArray[np.int64], ...]


def read_study(case: Case, preset: Preset, kind: type[Options]) -> Study:
    """A case in memory, shown as a preset says; `kind` is what the preset's options are.

    Raises:
        InputError: unreadable files, image and label on different grids, or no slice with enough of an object.
    """
    scan, labels = load_pair(case)
    planes = _planes(scan, preset, kind)
    slices = tuple(_slices(labels, plane) for plane in planes)
    shown = display_of(scan, preset)
    return Study(str(case.image), scan.voxels, labels.astype(np.uint16), planes, shown, slices)


def object_in(labels: NDArray[np.uint16], everything: bool, rng: Generator) -> tuple[int, NDArray[np.bool_]]:
    """A label value and its pixels (H, W), of those that are there a random one; 0 and all labelled pixels."""
    if everything:
        return 0, np.ascontiguousarray(labels > 0)
    values = np.unique(labels)
    value = int(rng.choice(values[values > 0]))
    return value, np.ascontiguousarray(labels == value)


def bounds(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Half-open box x0 y0 x1 y1 of a mask that is not empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)


def _slices(labels: NDArray[np.int64], plane: Plane) -> NDArray[np.int64]:
    """Slices with at least `LEAST_PIXELS` labelled pixels; the fullest one where none has as many."""
    counts = np.count_nonzero(np.moveaxis(labels, plane.through, 0), axis=(1, 2))
    return np.flatnonzero(counts >= min(LEAST_PIXELS, counts.max()))


def _planes(scan: Scan, preset: Preset, kind: type[Options]) -> tuple[Plane, ...]:
    """The ways in which a scan is shown: every one, unless it is an image or the preset names one."""
    name = options_of(preset, kind).slices
    if 1 in scan.shape or name != "finest":
        return (plane_of(scan, name),)
    return tuple(plane_of(scan, each) for each in ("axial", "coronal", "sagittal"))
