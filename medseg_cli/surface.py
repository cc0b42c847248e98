"""How large the surface of an object is, and how long its outline in a picture: Crofton's formula on any grid.

Lines in one direction cross a surface as often as the surface, seen from there, is large; the mean over all directions
is half the surface (of an outline in the plane 2/π of its length). On a grid the lines run between neighbours: 13
directions in space, 4 in a plane. Their weights are those non-negative ones with which flat surfaces of all
orientations come out right with the least mean square error, so that a stretched or sheared grid has its own weights.

Counting the faces of voxels gives half as much again for a ball, however fine the grid; marching cubes on a mask, whose
vertices lie halfway between voxels, 9 % too much. Here a ball of six voxels' radius is within 2 %; flat faces that lie
exactly along the grid come out 7 % too small (tests/test_surface.py, docs/quality.md).
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

ORIENTATIONS = 2000
"""Flat surfaces that the weights are fitted to."""


def boundary(mask: NDArray[np.bool_], steps: NDArray[np.float64]) -> float:
    """Surface of an object in mm², or the length of its outline in mm.

    Args:
        mask: (I, J, K), or (I, J) for an outline. What lies beyond the array is outside.
        steps: (D, D) float64, D = mask.ndim: column d is the step of axis d in mm.
    """
    padded = np.pad(mask, 1)
    total = 0.0
    for offset, weight in zip(*_weights(tuple(map(tuple, steps.tolist()))), strict=True):
        here = tuple(slice(max(-step, 0), size - max(step, 0)) for step, size in zip(offset, padded.shape, strict=True))
        there = tuple(
            slice(max(step, 0), size - max(-step, 0)) for step, size in zip(offset, padded.shape, strict=True)
        )
        total += weight * np.count_nonzero(padded[here] != padded[there])
    return float(total)


@lru_cache(maxsize=64)
def _weights(steps: tuple[tuple[float, ...], ...]) -> tuple[tuple[tuple[int, ...], ...], tuple[float, ...]]:
    """(neighbours, mm² or mm that a crossing on the way to each of them is worth)."""
    from scipy.optimize import nnls

    matrix = np.array(steps)
    half = [offset for offset in product((-1, 0, 1), repeat=len(matrix)) if offset > (0,) * len(matrix)]
    ways = np.array(half) @ matrix.T
    lengths = np.linalg.norm(ways, axis=1)
    # A line along a way passes through a cross-section of cell / length; a flat surface shows it |cosine| of itself.
    seen = np.abs(_normals(len(matrix)) @ (ways / lengths[:, None]).T)
    weights, _ = nnls(seen, np.ones(len(seen)))
    cell = abs(float(np.linalg.det(matrix)))
    return tuple(half), tuple((weights * cell / lengths).tolist())


def _normals(dimensions: int) -> NDArray[np.float64]:
    """(`ORIENTATIONS`, D) unit vectors, evenly spread: on the circle, or on the sphere along a spiral."""
    place = np.arange(ORIENTATIONS) + 0.5
    if dimensions == 2:
        angle = 2 * np.pi * place / ORIENTATIONS
        return np.stack([np.cos(angle), np.sin(angle)], axis=1)
    height = 1 - 2 * place / ORIENTATIONS
    turn = np.pi * (1 + 5**0.5) * place
    radius = np.sqrt(1 - height**2)
    return np.stack([radius * np.cos(turn), radius * np.sin(turn), height], axis=1).astype(np.float64)
