"""Numbers about the quality of one object's mask: spacing in mm, volumes in mm³, never voxels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Score:
    """One mask against its reference.

    Args:
        dice: 2 |A ∩ B| / (|A| + |B|); 1 when both are empty.
        hd95_mm: MONAI's 95 % Hausdorff distance, the larger of both directions; None when a mask is empty.
        volume_mm3, reference_mm3: volumes.
        volume_error: (volume - reference) / reference; None for an empty reference.
    """

    dice: float
    hd95_mm: float | None
    volume_mm3: float
    reference_mm3: float
    volume_error: float | None


def score(mask: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]) -> Score:
    """Score a mask (I, J, K) against a reference (I, J, K) on the same grid with `spacing` mm along i, j, k.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != reference.shape:
        raise ValueError(f"mask {mask.shape} and reference {reference.shape} lie on different grids")
    total = int(mask.sum()) + int(reference.sum())
    dice = 2 * int((mask & reference).sum()) / total if total else 1.0
    volume, expected = (float(each.sum()) * float(np.prod(spacing)) for each in (mask, reference))
    hd95 = _hd95(mask, reference, spacing) if mask.any() and reference.any() else None
    return Score(dice, hd95, volume, expected, (volume - expected) / expected if expected else None)


def _hd95(mask: NDArray[np.bool_], reference: NDArray[np.bool_], spacing: tuple[float, float, float]) -> float:
    import torch
    from monai.metrics import compute_hausdorff_distance

    # In a single slice taken as a volume, every voxel would count as surface.
    thick = [axis for axis in range(3) if mask.shape[axis] > 1]
    if len(thick) < 2:
        thick = [0, 1, 2]
    flat = tuple(axis for axis in range(3) if axis not in thick)
    pair = [
        torch.from_numpy(np.ascontiguousarray(each.squeeze(flat)))[None, None].float() for each in (mask, reference)
    ]
    sides = [spacing[axis] for axis in thick]
    distance = compute_hausdorff_distance(*pair, include_background=True, percentile=95, spacing=sides)
    return float(distance.item())
