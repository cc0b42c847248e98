"""Cleaning one object's mask: parts kept, small parts dropped, holes filled; in mm³, never voxels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg_cli.inference import EVERYWHERE, clicked_parts
from medseg_cli.preset_format import Postprocessing


def clean(
    mask: NDArray[np.bool_], clicks: NDArray[np.float64], spacing: tuple[float, float, float], how: Postprocessing
) -> NDArray[np.bool_]:
    """Apply a preset's post-processing to one object.

    Args:
        mask: (I, J, K).
        clicks: (N, 3) continuous voxel index of `mask`.
        spacing: mm along i, j, k.
        how: `keep` parts ("all", those "clicked", the "largest"), drop parts under `min_mm3`, fill enclosed holes.

    Returns:
        (I, J, K) bool.
    """
    if how.keep == "clicked":
        mask = clicked_parts(mask, clicks, spacing)
    if how.keep == "largest" or how.min_mm3 > 0:
        parts, count = ndimage.label(mask, EVERYWHERE)
        sizes = np.bincount(parts.ravel(), minlength=count + 1)
        sizes[0] = 0
        kept = sizes * np.prod(spacing) >= how.min_mm3
        if how.keep == "largest":
            kept &= np.arange(count + 1) == sizes.argmax()
        kept[0] = False
        mask = kept[parts]
    return ndimage.binary_fill_holes(mask) if how.fill_holes else mask
