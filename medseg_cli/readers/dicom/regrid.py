"""Linear resampling along one axis at a time: uneven slices onto an even grid, tilted stacks onto an orthogonal one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def even(volume: NDArray[np.float32], depths: NDArray[np.float64], step: float) -> NDArray[np.float32]:
    """Interpolate slices at ascending `depths` (mm) onto an even grid.

    Args:
        volume: (K, ...) one slice per depth.
        depths: (K,) ascending, first one 0.
        step: mm between the new slices; the last new slice lies at the last depth.

    Returns:
        (K', ...) float32, K' = depths[-1] / step + 1.
    """
    count = int(np.round(depths[-1] / step)) + 1
    result = np.empty((count, *volume.shape[1:]), dtype=np.float32)
    for k, depth in enumerate(np.arange(count) * step):
        below = int(np.clip(np.searchsorted(depths, depth, side="right") - 1, 0, len(depths) - 2))
        weight = np.float32(np.clip((depth - depths[below]) / (depths[below + 1] - depths[below]), 0, 1))
        result[k] = (1 - weight) * volume[below] + weight * volume[below + 1]
    return result


def straighten(
    volume: NDArray[np.float32], shear: NDArray[np.float64], outside: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Shift each slice within its plane so that all lie straight above each other.

    Args:
        volume: (K, J, I) slices.
        shear: (K, 2) where each slice's first pixel lies, in voxels along i and j from the grid's origin.
        outside: value of voxels that no slice covers.

    Returns:
        The volume on a grid enlarged so that nothing is cut off, and (2,) the index along i and j, on the old grid,
        of the new grid's first voxel.
    """
    first = np.floor(shear.min(axis=0) + 1e-6).astype(np.int64)
    last = np.ceil(shear.max(axis=0) - 1e-6).astype(np.int64)
    slices, rows, columns = volume.shape
    width, height = columns + last[0] - first[0], rows + last[1] - first[1]
    result = np.empty((slices, height, width), dtype=np.float32)
    for k in range(slices):
        wide = shifted(volume[k], float(shear[k, 0] - first[0]), int(width), outside)
        result[k] = shifted(wide.T, float(shear[k, 1] - first[1]), int(height), outside).T
    return result, first


def shifted(plane: NDArray[np.float32], shift: float, length: int, outside: float) -> NDArray[np.float32]:
    """(A, B) → (A, length): column b moves to b + shift, linearly interpolated, `outside` where nothing arrives."""
    at = np.arange(length) - shift
    below = np.floor(at + 1e-9).astype(np.int64)
    weight = np.clip(at - below, 0, 1).astype(np.float32)
    last = plane.shape[1] - 1
    result = (1 - weight) * plane[:, np.clip(below, 0, last)] + weight * plane[:, np.clip(below + 1, 0, last)]
    # Half a voxel beyond the first and last sample still belongs to them.
    result[:, (at < -0.5) | (at > last + 0.5)] = outside
    return result.astype(np.float32, copy=False)
