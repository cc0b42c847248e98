"""The surface of an object of a label map, as triangles in world millimetres."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Points = NDArray[np.float64]
Triangles = NDArray[np.int64]

SHRINK, GROW = 0.5, -0.53
"""Steps of a round of smoothing. Source: Taubin, "A signal processing approach to fair surface design", 1995."""
LEEWAY = 0.5
"""How far smoothing moves a point along each voxel axis, in voxels: the surface stays in its layer of voxels."""
_VOLUME_STEPS = 10
_VOLUME_REACHED = 1e-4


@dataclass(frozen=True, eq=False)
class Shape:
    """A closed surface whose triangles turn counter-clockwise as seen from outside.

    Args:
        vertices: (N, 3) float64 world mm.
        faces: (M, 3) int64 rows of `vertices`.
    """

    vertices: Points
    faces: Triangles

    @property
    def volume(self) -> float:
        """mm³ inside, by the divergence theorem; negative where the triangles turn the wrong way."""
        return _volume(self.vertices, self.faces)


def shape_of(inside: NDArray[np.bool_], start: tuple[int, int, int], affine: Points, smooth: int) -> Shape:
    """The surface halfway between the centres of voxels inside and outside an object, by marching cubes.

    Args:
        inside: (I, J, K) the object, or the part of the scan that holds it; at least one voxel.
        start: voxel index (i, j, k) of its first voxel in the scan.
        affine: (4, 4) voxel index → world mm, of any handedness.
        smooth: rounds of smoothing; afterwards the surface encloses the volume of the object's voxels, as far as points
            may move by `LEEWAY`. With 0, corners of voxels stay cut off.
    """
    from skimage.measure import marching_cubes

    padded = np.pad(inside, 1).astype(np.float32)
    found, faces, _, _ = marching_cubes(padded, 0.5)
    ijk = found.astype(np.float64) - 1 + np.array(start)
    faces = faces.astype(np.int64)
    matrix, origin = affine[:3, :3], affine[:3, 3]
    if _volume(ijk @ matrix.T, faces) < 0:
        faces = faces[:, ::-1].copy()
    if smooth:
        ijk = _smoothed(ijk, faces, matrix, smooth, np.count_nonzero(inside) * abs(float(np.linalg.det(matrix))))
    return Shape(ijk @ matrix.T + origin, faces)


def _smoothed(ijk: Points, faces: Triangles, matrix: Points, rounds: int, volume: float) -> Points:
    """Points (N, 3), voxel index, smoothed in world mm and moved along their normals until the volume is `volume`."""
    mean = _neighbours(faces, len(ijk))
    back = np.linalg.inv(matrix).T
    # From the middle, so that the volume is the difference of small numbers.
    middle = ijk.mean(0)
    start = (ijk - middle) @ matrix.T
    points = start
    for _ in range(rounds):
        for step in (SHRINK, GROW):
            points = points + step * (mean @ points - points)
    for _ in range(_VOLUME_STEPS):
        points = start + np.clip((points - start) @ back, -LEEWAY, LEEWAY) @ matrix.T
        missing = volume - _volume(points, faces)
        if abs(missing) <= _VOLUME_REACHED * volume:
            break
        areas = _areas(points, faces)
        points = points + missing / float(np.linalg.norm(areas, axis=1).sum()) * _normals(areas, faces, len(points))
    return (points @ back) + middle


def _neighbours(faces: Triangles, count: int) -> sparse.csr_matrix:
    """(N, N) whose product with points is the mean of each one's neighbours."""
    # Each edge of a closed surface belongs to two triangles, which walk it in opposite directions.
    pairs = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    near = sparse.csr_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return sparse.diags(1 / np.asarray(near.sum(1)).ravel()) @ near


def _areas(points: Points, faces: Triangles) -> Points:
    """(M, 3) outward normal of each triangle, as long as its area."""
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a) / 2


def _normals(areas: Points, faces: Triangles, count: int) -> Points:
    """(N, 3) unit normal of each point, zero where its triangles cancel out."""
    summed = np.stack(
        [np.bincount(faces.ravel(), np.repeat(areas[:, axis], 3), count) for axis in range(3)],
        axis=1,
    )
    length = np.linalg.norm(summed, axis=1, keepdims=True)
    return np.divide(summed, length, out=np.zeros_like(summed), where=length > 0)


def _volume(points: Points, faces: Triangles) -> float:
    a, b, c = (points[faces[:, corner]] for corner in range(3))
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)
