"""A case in memory: the scan and its label values on one grid."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets.case import Case
from medseg_cli.errors import InputError
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan

SAME_GRID_MM = 1e-3
"""Largest difference of two affines on one grid."""


def load_pair(case: Case) -> tuple[Scan, NDArray[np.int64]]:
    """A case's scan and its label values (I, J, K), 0 = nothing.

    A grey picture of a mask (0 and 255, with shades in between where it was resized or compressed) has one object,
    value 1, where it is above half. Values below 0 (regions to be ignored, in some data sets) are nothing.

    Raises:
        InputError: unreadable files, image and label on different grids, a label in colours or without a single voxel.
    """
    scan, label = load_scan(case.image), load_scan(case.label)
    # Pictures say nothing about where their pixels lie.
    placed = "image" not in (scan.provenance.format, label.provenance.format)
    if scan.shape != label.shape or (placed and not np.allclose(scan.affine, label.affine, atol=SAME_GRID_MM)):
        raise InputError(
            f"{case.label} does not lie on the grid of {case.image}: {label.shape} and {scan.shape} voxels, "
            f"affines differ by up to {np.abs(scan.affine - label.affine).max():g} mm"
        )
    if case.modality and not scan.modality:
        scan = replace(scan, modality=case.modality)
    if label.voxels.shape[0] > 1:
        raise InputError(f"{case.label} is a colour image, which names no objects", "save it in grey: 0 outside")
    values = np.rint(label.voxels[0]).astype(np.int64).clip(min=0)
    if label.provenance.format == "image" and _is_picture_of_mask(values):
        values = (values > 127).astype(np.int64)
    if not np.any(values > 0):
        raise InputError(f"{case.label} has no labelled voxel", "leave the case out of the dataset")
    return scan, values


def _is_picture_of_mask(values: NDArray[np.int64]) -> bool:
    inside = values[values > 0]
    return bool(inside.size) and 250 <= int(inside.max()) <= 255 and float((inside >= 250).mean()) > 0.5
