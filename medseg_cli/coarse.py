"""From a saliency map to a coarse mask, and from that to boxes and clicks for a prompted model (spec sections 5, 6)."""

from __future__ import annotations

import cc3d
import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""Columns and rows (x0, y0, x1, y1) in pixels; x1 and y1 lie one beyond the mask's last pixel, as in the official code,
but not outside the picture."""


def two_means(saliency: NDArray[np.floating]) -> NDArray[np.bool_]:
    """The brighter of the two groups into which k-means splits the values: its best split, which is Otsu's threshold.

    Args:
        saliency: (H, W). A constant map has no brighter group.
    """
    values, counts = np.unique(saliency, return_counts=True)
    if len(values) < 2:
        return np.zeros(saliency.shape, bool)
    counts = counts.astype(np.float64)
    below, total = np.cumsum(counts)[:-1], counts.sum()
    sums = np.cumsum(counts * values)
    low, high = sums[:-1] / below, (sums[-1] - sums[:-1]) / (total - below)
    split = int(np.argmax(below * (total - below) * (high - low) ** 2))
    brighter: NDArray[np.bool_] = saliency > values[split]
    return brighter


def largest_parts(mask: NDArray[np.bool_], count: int) -> NDArray[np.bool_]:
    """The `count` largest parts of (H, W), which hang together over edges and corners; of equal ones the first."""
    if not mask.any():
        return mask.copy()
    parts = cc3d.connected_components(mask.view(np.uint8), connectivity=8)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    kept = np.argsort(-sizes, kind="stable")[:count]
    found: NDArray[np.bool_] = np.isin(parts, kept[sizes[kept] > 0])
    return found


def boxes(mask: NDArray[np.bool_], *, apart: bool = False, margin: int = 0) -> tuple[Box, ...]:
    """Boxes round a coarse mask; none where it is empty.

    Args:
        mask: (H, W).
        apart: one box for each part instead of one for all, the largest part first.
        margin: pixels by which each box is widened, within the picture.
    """
    if not mask.any():
        return ()
    if not apart:
        return (_box(mask, margin),)
    parts = cc3d.connected_components(mask.view(np.uint8), connectivity=8)
    sizes = np.bincount(parts.ravel())[1:]
    return tuple(_box(parts == part + 1, margin) for part in np.argsort(-sizes, kind="stable"))


def _box(mask: NDArray[np.bool_], margin: int) -> Box:
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        max(int(columns[0]) - margin, 0),
        max(int(rows[0]) - margin, 0),
        min(int(columns[-1]) + 1 + margin, width - 1),
        min(int(rows[-1]) + 1 + margin, height - 1),
    )


def points(mask: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.int64]:
    """Up to `count` pixels (x, y) of the mask (H, W), drawn without replacement from `seed` alone."""
    rows, columns = np.nonzero(mask)
    chosen = np.random.default_rng(seed).permutation(len(rows))[:count]
    return np.stack([columns[chosen], rows[chosen]], axis=1).astype(np.int64)
