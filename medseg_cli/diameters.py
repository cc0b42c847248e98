"""How long and how wide objects are, in mm: Feret diameters in space and in slices.

An object reaches half a voxel beyond the centres of its outermost voxels along each axis, as its mesh would. Only the
corners of its convex hull can be farthest apart, and only the first and last voxel of a row can be corners.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Points whose distances to all others are held at a time."""


def extreme_points(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, D) indices among which the corners of the convex hull are: first or last in their row along every axis.

    Args:
        mask: (I, J, K) or (I, J), not empty.
    """
    ends = mask.copy()
    for axis, size in enumerate(mask.shape):
        rows = mask.any(axis=axis, keepdims=True)
        first = mask.argmax(axis=axis, keepdims=True)
        last = size - 1 - np.flip(mask, axis).argmax(axis=axis, keepdims=True)
        at = np.zeros(mask.shape, bool)
        for place in (first, last):
            np.put_along_axis(at, place, rows, axis)
        ends &= at
    return np.argwhere(ends).astype(np.float64)


def corners(points: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(M, D) corners in mm of the convex hull of voxels, half a voxel beyond their centres along each axis.

    Args:
        points: (N, D) voxel indices.
        steps: (D, D): column d is the step of axis d in mm.
    """
    centres = _hull(points)
    half = np.concatenate([np.eye(points.shape[1]), -np.eye(points.shape[1])]) / 2
    return _hull((centres[:, None] + half).reshape(-1, points.shape[1])) @ steps.T


def _hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The corners of the convex hull; all points where they lie in one plane or on one line."""
    from scipy.spatial import ConvexHull, QhullError

    if len(points) <= points.shape[1] + 1:
        return points
    try:
        return points[ConvexHull(points).vertices]
    except QhullError:
        return points


def longest(points: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """(mm, (D,) unit vector) of the two points (M, D), in mm, that are farthest apart."""
    best, way = 0.0, np.zeros(points.shape[1])
    for start in range(0, len(points), BLOCK):
        block = points[start : start + BLOCK]
        squares = ((block[:, None] - points[None, start:]) ** 2).sum(axis=2)
        here, there = np.unravel_index(int(squares.argmax()), squares.shape)
        if squares[here, there] > best:
            best, way = float(squares[here, there]), points[start + there] - block[here]
    return best**0.5, way / best**0.5 if best else way


def width_across(points: NDArray[np.float64], way: NDArray[np.float64]) -> float:
    """Extent in mm of points (M, 2) across a direction (2,)."""
    across = points @ np.array([-way[1], way[0]])
    return float(np.ptp(across))


def least_width(points: NDArray[np.float64]) -> float:
    """Least extent in mm of points (M, 2), the corners of a convex hull, between two parallel lines."""
    from scipy.spatial import ConvexHull

    # One of the two lines lies along an edge of the hull.
    normals = ConvexHull(points).equations[:, :2]
    return float(np.ptp(points @ normals.T, axis=0).min())


def longest_in_slices(mask: NDArray[np.bool_], axis: int, steps: NDArray[np.float64]) -> tuple[float, float, int]:
    """(longest diameter within one slice, extent across it in that slice, index of the slice): as RECIST measures.

    Args:
        mask: (I, J, K), not empty.
        axis: across the slices.
        steps: (2, 2): the steps of the other axes, in order, in mm.
    """
    slices = np.moveaxis(mask, axis, 0)
    bounds = _diagonals(slices, steps)
    best = (0.0, 0.0, 0)
    for index in np.argsort(-bounds, kind="stable"):
        if bounds[index] <= best[0]:
            break
        points = corners(extreme_points(slices[index]), steps)
        length, way = longest(points)
        if length > best[0]:
            best = (length, width_across(points, way), int(index))
    return best


def _diagonals(slices: NDArray[np.bool_], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(K,) what a diameter in each slice (K, I, J) cannot exceed: the longer diagonal of its box; -1 without object."""
    extents = []
    for other in (2, 1):
        rows: NDArray[np.bool_] = np.any(slices, axis=other)
        extents.append(rows.shape[1] - rows.argmax(axis=1) - rows[:, ::-1].argmax(axis=1))
    sides = np.stack(extents, axis=1)
    diagonals = np.stack([sides @ steps.T, (sides * [1, -1]) @ steps.T])
    longer: NDArray[np.float64] = np.linalg.norm(diagonals, axis=2).max(axis=0)
    return np.where(slices.any(axis=(1, 2)), longer, -1.0)
