"""Numbers about the quality of one object's mask: distances in mm, volumes in mm³, never voxels.

**Surface.** The voxels of an object that share a face with a voxel outside it; beyond the edge of the image is outside.
A volume of one slice, and a picture, has the outline in its plane as surface. Distances run from the centre of a
surface voxel to the nearest centre of the other mask's surface, both ways. That is what MONAI does; DeepMind's
`surface-distance` takes patches of area between voxels instead, so that it differs by a fraction of a voxel.

**Percentiles.** Linear between ranks. HD95 is the larger of the 95th percentiles of both directions (not the percentile
of both together); ASSD is the mean of both directions' distances together; NSD counts the surface voxels of both masks
that lie within the tolerance, the tolerance included.

**Empty masks.** Both empty: nothing was to be found and nothing was, so Dice, IoU and NSD are 1. One empty: they are 0.
Distances, and shares that would divide by zero (precision without a prediction, recall, detection rate and relative
volume error without a reference), do not exist then: they are None, left out of means, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

NSD_MM = (1.0, 2.0)
"""Tolerances of NSD where nobody says otherwise."""
HIT = 0.5
"""Share of a part that must be covered before it counts as found, where nobody says otherwise."""
ROUNDING = 1e-9
"""A distance this much beyond a tolerance, relatively, still lies within: spacings are no exact binary numbers."""


@dataclass(frozen=True)
class Score:
    """One mask against its reference; the module's docstring has the conventions.

    Args:
        dice: 2 |A ∩ B| / (|A| + |B|).
        iou: |A ∩ B| / |A ∪ B|.
        tp, fp, fn, tn: voxels inside both, the mask alone, the reference alone, neither.
        precision, recall: TP / (TP + FP) and TP / (TP + FN).
        hd_mm: Hausdorff distance.
        hd95_mm: larger of the 95th percentiles of both directions.
        assd_mm: average symmetric surface distance.
        nsd: tolerance in mm → normalised surface Dice.
        volume_mm3, reference_mm3: volumes.
        volume_error: (volume - reference) / reference.
        reference_parts, found_parts: connected parts of the reference (voxels that share a face, an edge or a corner),
            and how many of them the mask covers by at least the share that makes a hit.
        mask_parts, false_parts: connected parts of the mask, and how many of them the reference covers by less.
    """

    dice: float
    iou: float
    tp: int
    fp: int
    fn: int
    tn: int
    precision: float | None
    recall: float | None
    hd_mm: float | None
    hd95_mm: float | None
    assd_mm: float | None
    nsd: Mapping[float, float]
    volume_mm3: float
    reference_mm3: float
    volume_error: float | None
    reference_parts: int
    found_parts: int
    mask_parts: int
    false_parts: int

    @property
    def emptiness(self) -> str:
        """Which masks are empty, in words; "" if neither is. It is why values are None."""
        mask, reference = self.tp + self.fp == 0, self.tp + self.fn == 0
        if mask and reference:
            return "both are empty"
        return "the prediction is empty" if mask else "the reference is empty" if reference else ""

    @property
    def detection_rate(self) -> float | None:
        """Share of the reference's parts that were found."""
        return self.found_parts / self.reference_parts if self.reference_parts else None


def score(
    mask: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    spacing: tuple[float, float, float],
    *,
    nsd_mm: tuple[float, ...] = NSD_MM,
    hit: float = HIT,
    grid: tuple[int, ...] | None = None,
) -> Score:
    """Score a mask (I, J, K) against a reference (I, J, K) on the same grid.

    Args:
        mask, reference: of one shape; they may be cut to a box that holds both objects.
        spacing: mm along i, j, k. With (1, 1, 1) for a picture of unknown pixel size, "mm" means pixels.
        nsd_mm: tolerances.
        hit: share of a part that must be covered.
        grid: (I, J, K) of the whole grid, where the masks were cut.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != reference.shape:
        raise ValueError(f"mask {mask.shape} and reference {reference.shape} lie on different grids")
    whole = grid or mask.shape
    mask, reference = _cut(mask, reference)
    tp = int(np.count_nonzero(mask & reference))
    fp, fn = int(np.count_nonzero(mask)) - tp, int(np.count_nonzero(reference)) - tp
    union, voxel = tp + fp + fn, float(np.prod(spacing))
    volume, expected = (tp + fp) * voxel, (tp + fn) * voxel
    surface = _distances(mask, reference, spacing, whole)
    found, parts = _covered(reference, mask, hit)
    true, mask_parts = _covered(mask, reference, hit)
    return Score(
        dice=2 * tp / (union + tp) if union else 1.0,
        iou=tp / union if union else 1.0,
        tp=tp,
        fp=fp,
        fn=fn,
        tn=int(np.prod(whole)) - union,
        precision=tp / (tp + fp) if tp + fp else None,
        recall=tp / (tp + fn) if tp + fn else None,
        hd_mm=_larger(surface, 100),
        hd95_mm=_larger(surface, 95),
        assd_mm=float(np.concatenate(surface).mean()) if surface else None,
        nsd={limit: _within(surface, limit, default=0.0 if union else 1.0) for limit in nsd_mm},
        volume_mm3=volume,
        reference_mm3=expected,
        volume_error=(volume - expected) / expected if expected else None,
        reference_parts=parts,
        found_parts=found,
        mask_parts=mask_parts,
        false_parts=mask_parts - true,
    )


def _cut(mask: NDArray[np.bool_], reference: NDArray[np.bool_]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Both, cut to the smallest box that holds both objects; what lies outside changes no number but TN."""
    either = mask | reference
    spans = []
    for axis in range(either.ndim):
        at = np.flatnonzero(either.any(axis=tuple(other for other in range(either.ndim) if other != axis)))
        spans.append(slice(int(at[0]), int(at[-1]) + 1) if at.size else slice(0, 0))
    box = tuple(spans)
    return mask[box], reference[box]


Distances = tuple[NDArray[np.float64], NDArray[np.float64]]
"""From each surface voxel of the mask to the reference's surface, and the other way, in mm; () if one is empty."""


def _distances(
    mask: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float], whole: tuple[int, ...]
) -> Distances | tuple[()]:
    if not (mask.any() and reference.any()):
        return ()
    # In a single slice taken as a volume, every voxel would count as surface.
    thick = [axis for axis in range(3) if whole[axis] > 1]
    if len(thick) < 2:
        thick = [0, 1, 2]
    flat = tuple(axis for axis in range(3) if axis not in thick)
    sides = np.array([spacing[axis] for axis in thick])
    one, two = (_border(each.squeeze(flat)) for each in (mask, reference))
    return _to_nearest(one, two, sides), _to_nearest(two, one, sides)


def _border(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return mask & ~ndimage.binary_erosion(mask)


def _to_nearest(border: NDArray[np.bool_], other: NDArray[np.bool_], sides: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,): mm from each voxel of a border to the nearest of the other. Voxels of both borders need no search."""
    distances = np.zeros(int(np.count_nonzero(border)))
    apart = ~other[border]
    if apart.any():
        tree = KDTree(np.argwhere(other) * sides)
        distances[apart] = tree.query(np.argwhere(border)[apart] * sides)[0]
    return distances


def _larger(surface: Distances | tuple[()], percentile: float) -> float | None:
    return max(float(np.percentile(each, percentile)) for each in surface) if surface else None


def _within(surface: Distances | tuple[()], limit: float, default: float) -> float:
    if not surface:
        return default
    return float((np.concatenate(surface) <= limit * (1 + ROUNDING)).mean())


def _covered(parts_of: NDArray[np.bool_], by: NDArray[np.bool_], share: float) -> tuple[int, int]:
    """(parts of one mask that the other covers by at least `share`, all its parts)."""
    if not parts_of.any():
        return 0, 0
    # As bytes, and in a copy: cc3d 4.1 fails on some bool arrays, and reads strides of views as it finds them.
    parts = cc3d.connected_components(np.ascontiguousarray(parts_of).astype(np.uint8), connectivity=26)
    sizes = np.bincount(parts.ravel())[1:]
    inside = np.bincount(parts[by], minlength=len(sizes) + 1)[1:]
    return int(np.count_nonzero(inside >= share * sizes)), len(sizes)
