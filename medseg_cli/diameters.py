"""How long and how wide objects are, in mm: Feret diameters in space and in slices.

An object reaches half a voxel beyond the centres of its outermost voxels along each axis, as its mesh would. Only the
corners of its convex hull can be farthest apart, and only the first and last voxel of a row can be corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 256
"""Points whose distances to all others are held at a time."""


def extreme_points(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(N, D) indices among which the corners of the convex hull are: first or last in their row along an axis, and
    along each other axis of what is left.

    Args:
        mask: (I, J, K) or (I, J), not empty.
    """
    axis = int(np.argmax(np.abs(mask.strides)))
    first, last = _ends(np.moveaxis(mask, axis, 0))
    rows = np.argwhere(last >= 0)
    at = np.concatenate([first[last >= 0], last[last >= 0]])
    points = np.unique(np.insert(np.tile(rows, (2, 1)), axis, at, axis=1), axis=0)
    for other in range(mask.ndim):
        if other != axis:
            points = points[_outermost(points, other, mask.shape)]
    return points.astype(np.float64)


def _ends(planes: NDArray[np.bool_]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The first and the last of the planes (N, ...) in which each place is, in one pass each; N and -1 if in none."""
    first = np.full_like(planes[0], len(planes), dtype=np.int32)
    last = np.full_like(planes[0], -1, dtype=np.int32)
    for index, plane in enumerate(planes):
        np.copyto(last, index, where=plane)
    for index in reversed(range(len(planes))):
        np.copyto(first, index, where=planes[index])
    return first, last


def _outermost(points: NDArray[np.int64], axis: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Which of the points (N, D) are the first or the last of them in their row along an axis."""
    others = tuple(np.delete(points, axis, axis=1).T)
    at = points[:, axis]
    low = np.full(np.delete(shape, axis), shape[axis])
    high = np.full(np.delete(shape, axis), -1)
    np.minimum.at(low, others, at)
    np.maximum.at(high, others, at)
    ends: NDArray[np.bool_] = (at == low[others]) | (at == high[others])
    return ends


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
    rows = _Rows.of(np.moveaxis(mask, axis, 0))
    bounds = rows.diagonals(steps)
    best = (0.0, 0.0, 0)
    for index in np.argsort(-bounds, kind="stable"):
        if bounds[index] <= best[0]:
            break
        points = corners(rows.ends(int(index)), steps)
        length, way = longest(points)
        if length > best[0]:
            best = (length, width_across(points, way), int(index))
    return best


@dataclass(frozen=True, eq=False)
class _Rows:
    """Where the rows of slices begin and end, found in one pass: of a hull's corners each is one of these.

    Args:
        first, last: (K, R) index along each row of its first and last voxel; of an empty row `last` is -1.
        along: 1 or 2, the axis of (K, I, J) along which rows run; R counts the other.
    """

    first: NDArray[np.int32]
    last: NDArray[np.int32]
    along: int

    @classmethod
    def of(cls, slices: NDArray[np.bool_]) -> _Rows:
        """Of slices (K, I, J), in whatever order they lie in memory."""
        # What lies farthest apart in memory is gone through step by step, the rest at once.
        along = 1 if abs(slices.strides[1]) >= abs(slices.strides[2]) else 2
        first, last = _ends(np.moveaxis(slices, along, 0))
        return cls(first, last, along)

    def ends(self, index: int) -> NDArray[np.float64]:
        """(N, 2) first and last voxels of the rows of a slice, not empty."""
        rows = np.flatnonzero(self.last[index] >= 0)
        at = np.concatenate([self.first[index, rows], self.last[index, rows]])
        other = np.concatenate([rows, rows])
        return np.stack([at, other] if self.along == 1 else [other, at], axis=1).astype(np.float64)

    def diagonals(self, steps: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K,) what a diameter in each slice cannot exceed: the longer diagonal of its box; -1 without object."""
        seen = self.last >= 0
        wide = seen.shape[1] - seen.argmax(axis=1) - seen[:, ::-1].argmax(axis=1)
        long = self.last.max(axis=1) - self.first.min(axis=1) + 1
        sides = np.stack([long, wide] if self.along == 1 else [wide, long], axis=1)
        both = np.stack([sides @ steps.T, (sides * [1, -1]) @ steps.T])
        longer: NDArray[np.float64] = np.linalg.norm(both, axis=2).max(axis=0)
        return np.where(seen.any(axis=1), longer, -1.0)
