"""The only place that resamples. Grids are affines + shapes; every result says on which grid it lies.

A `Grid` is a lattice of voxels in RAS mm. A "working grid" is the scan's own lattice, axes permuted and flipped to an
anatomical order and spaced as a model wants it; it keeps the scan's obliquity, so nothing is rotated needlessly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform
from torch import Tensor

from medseg_cli import axis_weights
from medseg_cli.scan import Scan, orientation_codes

SLAB = 64
"""Slices that `resample_in_slabs` moves at a time."""
ALIAS_RATIO = 1.25
"""Scans finer than the target grid by more than this factor along an axis are smoothed along it before sampling."""
FULLY_IN_VIEW = 0.5
"""Share of interpolation weight from inside the scan above which a voxel counts as scanned."""

PARALLEL = 1e-6
"""Source voxels by which an axis may drift sideways over the whole target and still count as parallel."""


@dataclass(frozen=True, eq=False)
class Grid:
    """A lattice: `affine` (4, 4) float64 maps its voxel index to RAS mm, `shape` is its extent (I, J, K)."""

    affine: NDArray[np.float64]
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """mm per step along i, j, k."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return (float(i), float(j), float(k))

    def window(self, start: NDArray[np.int64], shape: tuple[int, int, int]) -> Grid:
        """The part (or extension) of this lattice that begins at voxel `start` and has `shape` voxels."""
        affine = self.affine.copy()
        affine[:3, 3] = self.affine[:3, :3] @ start + self.affine[:3, 3]
        return Grid(affine, shape)

    def index_of(self, ijk: NDArray[np.float64], other: Grid) -> NDArray[np.float64]:
        """Voxel indices (N, 3) of `other` as continuous voxel indices (N, 3) of this grid."""
        matrix = np.linalg.inv(self.affine) @ other.affine
        return ijk @ matrix[:3, :3].T + matrix[:3, 3]


def scan_grid(scan: Scan) -> Grid:
    """The scan's own grid."""
    return Grid(scan.affine, scan.shape)


def working_grid(grid: Grid, orientation: str | None, spacing: tuple[float, float, float] | None) -> Grid:
    """A scan's lattice reordered to `orientation` (e.g. "RAS") with voxels of `spacing` mm along those axes.

    The first voxel's outer corner lies on the scan's, and the shape covers the scan. None keeps what the scan has.
    """
    axes, flips = _reorder(orientation_codes(grid.affine), orientation or orientation_codes(grid.affine))
    matrix = grid.affine[:3, :3][:, axes] * flips
    size = np.array(grid.shape)[axes]
    old = np.linalg.norm(matrix, axis=0)
    new = np.array(spacing) if spacing else old
    first = np.zeros(3)
    first[axes] = np.where(flips > 0, -0.5, size - 0.5)
    corner = grid.affine[:3, :3] @ first + grid.affine[:3, 3]
    affine = np.eye(4)
    affine[:3, :3] = matrix / old * new
    affine[:3, 3] = corner + affine[:3, :3] @ np.full(3, 0.5)
    shape = np.maximum(1, np.ceil(size * old / new - 1e-6)).astype(int)
    return Grid(affine, (int(shape[0]), int(shape[1]), int(shape[2])))


def _reorder(source: str, target: str) -> tuple[list[int], NDArray[np.float64]]:
    """Which source axis serves each target axis, and whether it runs the same way (+1) or must be flipped (-1)."""
    opposite = dict(zip("RLAPSI", "LRPAIS", strict=True))
    axes, flips = [], []
    for letter in target:
        axes.append(next(i for i, have in enumerate(source) if have in (letter, opposite[letter])))
        flips.append(1.0 if source[axes[-1]] == letter else -1.0)
    return axes, np.array(flips)


def resample(
    voxels: Tensor, source: Grid, target: Grid, smooth: bool = True, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Linear interpolation of `voxels` onto `target`.

    Grids with parallel axes, as a scan and its working grid are, take three matrix products; all others go through
    MONAI's `SpatialResample`, which a test holds the products against.

    Args:
        voxels: (C, I, J, K) on `source`.
        source, target: any two grids; only the part of `source` under `target` is read.
        smooth: smooth along axes on which the source is much finer than the target (no aliasing).
        device: where to compute, and where the result lies; that of `voxels` when absent. Only the part of the source
            under the target goes there.

    Returns:
        (C, *target.shape) float32, zero outside the source; and (1, *target.shape) float32, the share of each target
        voxel's interpolation weight that lay inside the source (1 inside, 0 outside).
    """
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (np.array(target.shape) - 1)
    there = source.index_of(corners.astype(np.float64), target)
    matrix = np.linalg.inv(source.affine)[:3, :3] @ target.affine[:3, :3]
    step = np.linalg.norm(matrix, axis=1)
    margin = np.ceil(2 * step) + 1
    low = np.maximum(np.floor(there.min(0) - margin), 0).astype(int)
    high = np.minimum(np.ceil(there.max(0) + margin) + 1, source.shape).astype(int)
    if np.any(low >= high):
        empty = torch.zeros((len(voxels), *target.shape), device=device or voxels.device)
        return empty, torch.zeros((1, *target.shape), device=empty.device)
    part = voxels[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]].to(device or voxels.device).float()
    blur = _blur(part, step if smooth else np.ones(3))
    axes = _parallel(matrix, target.shape)
    window = source.window(low, (int(part.shape[1]), int(part.shape[2]), int(part.shape[3])))
    if axes is None:
        return _resample_oblique(axis_weights.apply(part, blur), window, target)
    return _resample_parallel(part, window, target, axes, blur)


def _parallel(matrix: NDArray[np.float64], shape: tuple[int, int, int]) -> list[int] | None:
    """The target axis that runs along each source axis; None if one of them runs across.

    Args:
        matrix: (3, 3) source voxels per step along each target axis.
        shape: of the target.
    """
    axes = [int(axis) for axis in np.abs(matrix).argmax(axis=1)]
    if sorted(axes) != [0, 1, 2]:
        return None
    across = np.abs(matrix) * (np.array(shape) - 1)
    across[range(3), axes] = 0.0
    return axes if across.max() <= PARALLEL else None


@dataclass(frozen=True)
class Places:
    """Where the voxels of a target lie in a source whose axes are parallel to its own.

    Args:
        axes: the target axis that runs along each source axis.
        origin: continuous source index of the target's first voxel, along each source axis.
        step: source voxels from one target voxel to the next along them, negative where the axis runs the other way.
    """

    axes: tuple[int, int, int]
    origin: tuple[float, float, float]
    step: tuple[float, float, float]


def parallel_places(source: Grid, target: Grid) -> Places:
    """Where the voxels of `target` lie in `source`.

    Raises:
        ValueError: their axes are not parallel, as those of a scan and of its working grid are.
    """
    matrix = np.linalg.inv(source.affine) @ target.affine
    axes = _parallel(matrix[:3, :3], target.shape)
    if axes is None:
        raise ValueError(f"axes are not parallel: {matrix[:3, :3].round(6).tolist()} source voxels per step")
    i, j, k = axes
    steps = (float(matrix[0, i]), float(matrix[1, j]), float(matrix[2, k]))
    return Places((i, j, k), (float(matrix[0, 3]), float(matrix[1, 3]), float(matrix[2, 3])), steps)


def _resample_parallel(
    part: Tensor, source: Grid, target: Grid, axes: list[int], blur: list[NDArray[np.float64] | None]
) -> tuple[Tensor, Tensor]:
    """`resample` where source axis a runs along target axis `axes[a]`, in either direction."""
    weights: list[NDArray[np.float64] | None] = []
    inside = part.new_ones((1, 1, 1, 1))
    for axis, along in enumerate(axes):
        index = np.zeros((target.shape[along], 3))
        index[:, along] = np.arange(target.shape[along])
        rows = axis_weights.interpolation(source.shape[axis], source.index_of(index, target)[:, axis])
        inside = inside * torch.from_numpy(rows.sum(axis=1)).to(part).reshape(
            [-1 if a == axis else 1 for a in range(-1, 3)]
        )
        smoothed = blur[axis]
        weights.append(rows if smoothed is None else rows @ smoothed)
    order = [0, *(1 + axes.index(axis) for axis in range(3))]
    return axis_weights.apply(part, weights).permute(order).contiguous(), inside.permute(order).contiguous()


def _resample_oblique(part: Tensor, source: Grid, target: Grid) -> tuple[Tensor, Tensor]:
    """`resample` between any two grids, without smoothing."""
    from monai.data import MetaTensor
    from monai.transforms import SpatialResample

    part = torch.cat([part, torch.ones_like(part[:1])])
    # MONAI misplaces axes of a single voxel: zeros round the source, and a second voxel on such axes of the target.
    part = torch.nn.functional.pad(part, (1,) * 6)
    cut = source.window(np.array([-1, -1, -1]), (int(part.shape[1]), int(part.shape[2]), int(part.shape[3])))
    mover = SpatialResample(mode="bilinear", padding_mode="zeros", align_corners=True, dtype=torch.float32)
    moved = mover(
        MetaTensor(part, affine=torch.from_numpy(cut.affine)),
        dst_affine=torch.from_numpy(target.affine),
        spatial_size=tuple(max(size, 2) for size in target.shape),
    ).as_tensor()
    moved = moved[:, : target.shape[0], : target.shape[1], : target.shape[2]]
    return moved[:-1], moved[-1:]


def resample_in_slabs(voxels: Tensor, source: Grid, target: Grid) -> NDArray[np.float32]:
    """One channel onto a large grid, `SLAB` slices at a time, so that the working memory stays small.

    Args:
        voxels: (1, I, J, K) on `source`.
        source, target: as in `resample`; nothing is smoothed.

    Returns:
        (*target.shape) float32, zero outside the source.
    """
    whole = np.empty(target.shape, np.float32)
    for first in range(0, target.shape[2], SLAB):
        depth = min(SLAB, target.shape[2] - first)
        slab = target.window(np.array([0, 0, first]), (target.shape[0], target.shape[1], depth))
        whole[:, :, first : first + depth] = resample(voxels, source, slab, smooth=False)[0][0].numpy()
    return whole


def resample_labels(labels: NDArray[np.integer], source: Grid, target: Grid) -> NDArray[np.uint16]:
    """A label map onto another grid: the value with the largest share of each voxel's interpolation weight.

    Args:
        labels: (I, J, K) whole numbers from 0 to 65535 on `source`; outside of it there is 0.
        source, target: as in `resample`; nothing is smoothed. Memory does not grow with the number of values.
    """
    chosen = np.zeros(target.shape, np.uint16)
    best = np.zeros(target.shape, np.float32)
    elsewhere = np.ones(target.shape, np.float32)
    for value in np.unique(labels[labels > 0]).tolist():
        share = resample(torch.from_numpy(labels == value)[None], source, target, smooth=False)[0][0].numpy()
        elsewhere -= share
        better = share > best
        chosen[better] = value
        best[better] = share[better]
    chosen[elsewhere > best] = 0
    return chosen


def nearest_labels(labels: NDArray[np.integer], source: Grid, target: Grid) -> NDArray[np.integer]:
    """A label map (I, J, K) onto another grid: each voxel takes the nearest one's value, 0 outside the source."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    inside = np.ones(target.shape, dtype=bool)
    flat = np.zeros(target.shape, dtype=np.int64)
    for row, size in zip(matrix[:3], source.shape, strict=True):
        i, j, k = (weight * np.arange(count) for weight, count in zip(row, target.shape, strict=False))
        place = np.rint(i[:, None, None] + j[:, None] + k + row[3]).astype(np.int64)
        inside &= (place >= 0) & (place < size)
        flat = flat * size + place.clip(0, size - 1)
    moved: NDArray[np.integer] = np.where(inside, labels.ravel()[flat], 0).astype(labels.dtype)
    return moved


def nearest(labels: NDArray[np.uint16], source: Grid, target: Grid) -> NDArray[np.uint16]:
    """Label values (I, J, K) on `source` at the voxel centres of `target`, nearest neighbour; 0 beyond the source."""
    matrix = np.linalg.inv(source.affine) @ target.affine
    moved: NDArray[np.uint16] = affine_transform(
        labels, matrix[:3, :3], matrix[:3, 3], output_shape=target.shape, order=0, mode="constant", cval=0
    )
    return moved


def _blur(part: Tensor, step: NDArray[np.float64]) -> list[NDArray[np.float64] | None]:
    """For each axis the Gaussian, sigma (step - 1) / 2 source voxels, where a step spans over `ALIAS_RATIO` of them."""
    # A kernel much longer than the axis costs time and changes nothing.
    sigma = np.where(step > ALIAS_RATIO, np.minimum((step - 1) / 2, part.shape[1:]), 0.0)
    return [
        axis_weights.smoothing(size, float(value)) if value else None
        for size, value in zip(part.shape[1:], sigma, strict=True)
    ]


def overlap(target: Grid, source: Grid) -> tuple[slice, slice, slice]:
    """The part of `target`, as index slices, in which voxels of `source` can have any influence."""
    corners = np.array([[a, b, c] for a in (0, 1) for b in (0, 1) for c in (0, 1)]) * (np.array(source.shape) + 1) - 1
    there = target.index_of(corners.astype(np.float64), source)
    low = np.clip(np.floor(there.min(0)), 0, target.shape).astype(int)
    high = np.clip(np.ceil(there.max(0)) + 1, low, target.shape).astype(int)
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k
