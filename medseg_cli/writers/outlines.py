"""Outlines of a mask's slice: closed polygons along the edges of its pixels, holes joined to what surrounds them.

A polygon along pixel edges has the pixels' own area, and every pixel's centre lies half a pixel or more inside or
outside of it, so that any reader which asks whether a centre is inside gets the mask back.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Polygon = NDArray[np.float64]
"""(N, 2) corners in continuous voxel index (i, j), the last joined to the first; centres at whole numbers."""


def outlines(plane: NDArray[np.bool_]) -> list[Polygon]:
    """One polygon per part of an (I, J) mask; pixels that touch at a corner only are separate parts.

    A hole is joined to its part's outline by a channel of no width between pixels ("keyhole"), run along both ways:
    in the union of polygons as in their exclusive or, it stays a hole.
    """
    from scipy import ndimage

    parts, count = ndimage.label(plane)
    outer: list[Polygon | None] = [None] * (count + 1)
    holes: list[list[Polygon]] = [[] for _ in range(count + 1)]
    for polygon, part in _rings(parts):
        if _signed_area(polygon) > 0:
            assert outer[part] is None, "a part has one outline"
            outer[part] = polygon
        else:
            holes[part].append(polygon)
    joined = []
    for outline, inside in zip(outer[1:], holes[1:], strict=True):
        assert outline is not None, "every part has an outline"
        for hole in sorted(inside, key=lambda each: float(each[:, 0].min())):
            outline = _join(outline, hole)
        joined.append(outline)
    return joined


def _rings(parts: NDArray[np.integer]) -> list[tuple[Polygon, int]]:
    """(corners, number of the part) of each closed line between a part and what is none of it."""
    from skimage.measure import find_contours

    padded = np.pad(parts, 1)
    rings = []
    # At level 0.5 the points of a line are the middles of pixel edges. "low": pixels that touch at a corner are apart.
    for line in find_contours((padded > 0).astype(np.float64), 0.5, fully_connected="low", positive_orientation="high"):
        ends = line[0]
        beside = (int(np.floor(ends[0])), int(np.floor(ends[1]))), (int(np.ceil(ends[0])), int(np.ceil(ends[1])))
        part = max(int(padded[pixel]) for pixel in beside)
        rings.append((_corners(line) - 1.0, part))
    return rings


def _corners(line: NDArray[np.float64]) -> Polygon:
    """The corners between middles of pixel edges. (N + 1, 2) closed line → (M, 2).

    A middle has one coordinate between pixels. Where it is the other one at the next middle, the line turns, and the
    corner has both; where it is the same, the line goes straight on.
    """
    before, after = line[:-1], line[1:]
    along = before[:, 0] % 1 != 0
    turns = along != (after[:, 0] % 1 != 0)
    first = np.where(along, before[:, 0], after[:, 0])
    second = np.where(along, after[:, 1], before[:, 1])
    return np.stack([first, second], axis=1)[turns]


def _signed_area(polygon: Polygon) -> float:
    """In pixels; positive round a part, negative round a hole, as `find_contours` turns."""
    i, j = polygon.T
    return float(0.5 * np.sum(i * np.roll(j, -1) - np.roll(i, -1) * j))


def _join(outline: Polygon, hole: Polygon) -> Polygon:
    """The outline with a channel towards smaller i from the hole's first corner along i to the nearest edge."""
    start = int(np.argmin(hole[:, 0]))
    corner = hole[start]
    following = np.roll(outline, -1, axis=0)
    upright = outline[:, 0] == following[:, 0]
    low, high = np.minimum(outline[:, 1], following[:, 1]), np.maximum(outline[:, 1], following[:, 1])
    met = np.flatnonzero(upright & (outline[:, 0] < corner[0]) & (low <= corner[1]) & (high >= corner[1]))
    assert len(met), "a hole lies within its part"
    at = int(met[np.argmax(outline[met, 0])])
    door = np.array([[outline[at, 0], corner[1]]])
    ring = np.concatenate([hole[start:], hole[: start + 1]])
    return np.concatenate([outline[: at + 1], door, ring, door, outline[at + 1 :]])
