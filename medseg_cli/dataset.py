"""Training and evaluation cases in memory, and their split. `dataset_layout` finds them in a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from medseg_cli.dataset_layout import Case, read_cases
from medseg_cli.errors import InputError
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan

__all__ = ["Case", "Split", "load_pair", "read_cases", "split_cases"]

SAME_GRID_MM = 1e-3
"""Largest difference of two affines on one grid."""


@dataclass(frozen=True)
class Split:
    """Cases by their use; the three are disjoint."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


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


def split_cases(cases: tuple[Case, ...], seed: int, test: float = 0.15, validation: float = 0.07) -> Split:
    """A seeded split by group; the same ids and seed give the same split on every machine.

    Args:
        cases: all cases. Where the dataset holds cases back itself (`part`), these are the test cases.
        seed: seed of the permutation of the sorted groups.
        test, validation: shares of the groups, at least one group each when there are three or more.

    Raises:
        InputError: fewer groups than parts.
    """
    held = {_group(case) for case in cases if case.part == "test"}
    groups = sorted({_group(case) for case in cases} - held)
    parts = 2 if held else 3
    if len(groups) < parts:
        count = f"{len(groups)} cases" if not held else f"{len(groups)} training cases"
        raise InputError(
            f"{count} cannot be split into train, validation and test", f"give at least {parts} of different patients"
        )
    shuffled = [groups[index] for index in np.random.default_rng(seed).permutation(len(groups))]
    n_test = 0 if held else max(1, round(test * len(groups)))
    n_validation = max(1, round(validation * len(groups)))
    tested = held | set(shuffled[:n_test])
    validated = set(shuffled[n_test : n_test + n_validation])
    rank = {group: place for place, group in enumerate([*shuffled, *sorted(held)])}
    ordered = sorted(cases, key=lambda case: (rank[_group(case)], case.id))
    return Split(
        tuple(case for case in ordered if _group(case) not in tested | validated),
        tuple(case for case in ordered if _group(case) in validated),
        tuple(case for case in ordered if _group(case) in tested),
    )


def _group(case: Case) -> str:
    return case.group or case.id
