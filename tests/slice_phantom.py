"""Bright ellipsoids on dark noise, and a tiny but real 2-D network (`bright_box`) whose masks of them are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bright_box
import numpy as np
import phantom

from medseg_cli import device, pipelines
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.prompt import Box, Click, Prompt, Region, Target
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

OBLIQUE = (0.25, -0.2, 0.3)
DARK, BRIGHT = 50.0, 200.0
SMALL = (40, 36, 30)
MIDDLE, AXES = (20.3, 17.6, 14.5), (12.0, 10.0, 9.0)
"""Centre and half axes of the small phantom's ellipsoid, in voxels: slices 6 to 23 across k."""


def ellipsoid(shape: tuple[int, int, int], middle: tuple[float, ...], axes: tuple[float, ...]) -> np.ndarray:
    """(I, J, K) bool."""
    offsets = np.indices(shape) - np.array(middle)[:, None, None, None]
    return (offsets**2 / np.array(axes)[:, None, None, None] ** 2).sum(0) <= 1


def scan_of(voxels: np.ndarray, codes: str = "LPS", modality: str = "MR", **geometry: tuple) -> Scan:
    values = voxels if voxels.ndim == 4 else voxels[None]
    provenance = Provenance(Path("phantom.nii.gz"), "nifti", "ab" * 32)
    return Scan(values.astype(np.float32), phantom.affine(codes, **geometry), provenance, modality)


def painted(truth: np.ndarray, bright: float | np.ndarray = BRIGHT) -> np.ndarray:
    """Voxels as bright as `bright` where `truth` is, on dark noise: no two slices are the same picture."""
    return np.where(truth, bright, DARK + np.random.default_rng(7).uniform(0, 10, truth.shape))


def small(spacing: tuple[float, float, float] = (1.0, 1.0, 3.0)) -> tuple[Scan, np.ndarray]:
    """A bright ellipsoid, and where it is."""
    truth = ellipsoid(SMALL, MIDDLE, AXES)
    return scan_of(painted(truth), spacing=spacing), truth


def two_blobs() -> tuple[Scan, np.ndarray, np.ndarray]:
    first = ellipsoid(SMALL, (11.0, 17.0, 12.5), (8.0, 8.0, 6.0))
    second = ellipsoid(SMALL, (29.0, 17.0, 15.5), (7.0, 9.0, 8.0))
    return scan_of(painted(first | second), spacing=(1.0, 1.0, 3.0)), first, second


def box_round(truth: np.ndarray, through: int, first: int, last: int | None = None, margin: int = 3) -> Box:
    """The box round `truth` in slice `first` across axis `through`, reaching to slice `last`."""
    where = np.argwhere(np.take(truth, [first], axis=through))
    low, high = np.maximum(where.min(0) - margin, 0), np.minimum(where.max(0) + margin, np.array(truth.shape) - 1)
    low[through], high[through] = first, first if last is None else last
    return Box(tuple(low.astype(float)), tuple(high.astype(float)))


def boxed(*boxes: Box, id: str = "1") -> Target:
    return Target(id, "", boxes=boxes)


def clicked(*positions: tuple[float, ...], minus: tuple[tuple[float, ...], ...] = (), id: str = "1") -> Target:
    clicks = [Click(position) for position in positions] + [Click(position, positive=False) for position in minus]
    return Target(id, "", tuple(clicks))


def region_of(voxels: np.ndarray, id: str = "1") -> Target:
    return Target(id, "", region=Region(voxels, Path("coarse.nii.gz"), "0" * 64, 1))


def build(folder: Path, **settings: Any) -> SlicePipeline:
    chosen = bright_box.preset(folder, **{"size": 40, **settings})
    return pipelines.build(chosen, device.select("cpu"))  # type: ignore[return-value]


def segment(pipeline: SlicePipeline, scan: Scan, *targets: Target) -> Segmentation:
    return pipeline.segment(scan, Prompt(targets), Stages())


def facts(result: Segmentation) -> tuple[int, int, int]:
    """Slices prompted, encoded, and taken from the cache."""
    slices = result.provenance["slices"]
    return slices["prompted"], slices["encoded"], slices["from_cache"]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())
