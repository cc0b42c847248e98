"""Linear interpolation and smoothing along one axis, each as a matrix (to, from) of weights.

Between grids whose axes are parallel both are done axis by axis, and the two of an axis are one matrix: lines of voxels
are added up three times, instead of eight neighbours gathered for each voxel of a smoothed copy of the scan.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TAIL = 4.0
"""Standard deviations after which a Gaussian is cut off."""
FEW_TAPS = 4
"""Up to this many weights per row, adding up lines beats a dense product."""


def interpolation(size: int, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(len(places), size): linear interpolation at continuous indices; what lies outside the axis counts as 0."""
    rows, low = np.arange(len(places)), np.floor(places).astype(np.int64)
    weights = np.zeros((len(places), size))
    for index, weight in ((low, low + 1 - places), (low + 1, places - low)):
        inside = (index >= 0) & (index < size)
        weights[rows[inside], index[inside]] += weight[inside]
    return weights


def smoothing(size: int, sigma: float) -> NDArray[np.float64]:
    """(size, size): a Gaussian of `sigma` voxels integrated over each voxel; rows sum to 1, at the ends too."""
    tail = int(max(TAIL * sigma, 0.5) + 0.5)
    edges = [math.erf((step - 0.5) / (math.sqrt(2) * sigma)) for step in range(-tail, tail + 2)]
    kernel = np.diff(edges) / 2
    weights = np.zeros((size, size))
    for step, value in zip(range(-tail, tail + 1), kernel, strict=True):
        if abs(step) < size:
            weights += np.diag(np.full(size - abs(step), value), step)
    return weights / weights.sum(axis=1, keepdims=True)


def apply(voxels: Tensor, weights: list[NDArray[np.float64] | None]) -> Tensor:
    """Weigh the last three axes of `voxels` (C, I, J, K) float32; None leaves an axis as it is.

    The axis that shrinks most goes first, which makes the work on the others small.
    """
    used = [(matrix, axis) for axis, matrix in enumerate(weights, 1) if matrix is not None]
    # Under autocast the products would run in bfloat16.
    with torch.autocast(voxels.device.type, enabled=False):
        for matrix, axis in sorted(used, key=lambda each: each[0].shape[0] / each[0].shape[1]):
            first, taps = _band(matrix)
            if axis < 3 and taps <= FEW_TAPS:
                voxels = _gathered(voxels, axis, matrix, first, taps)
            else:
                rows = torch.from_numpy(matrix).to(voxels)
                voxels = torch.movedim(torch.matmul(torch.movedim(voxels, axis, -1), rows.T), -1, axis)
    return voxels


def _band(matrix: NDArray[np.float64]) -> tuple[NDArray[np.int64], int]:
    """The first column in use of each row, and the most columns from there on that any row uses."""
    used = matrix != 0
    first = used.argmax(axis=1)
    last = matrix.shape[1] - 1 - used[:, ::-1].argmax(axis=1)
    # A row without any weight: argmax says 0 from both ends.
    return first, int(np.where(used.any(axis=1), last - first + 1, 1).max(initial=1))


def _gathered(voxels: Tensor, axis: int, matrix: NDArray[np.float64], first: NDArray[np.int64], taps: int) -> Tensor:
    """The product with a matrix of which each row uses at most `taps` columns: whole lines are read and added up."""
    rows = np.arange(len(matrix))
    shape = [-1 if a == axis else 1 for a in range(4)]
    total: Tensor | None = None
    for tap in range(taps):
        column = np.minimum(first + tap, matrix.shape[1] - 1)
        weight = np.where(first + tap < matrix.shape[1], matrix[rows, column], 0.0)
        line = voxels.index_select(axis, torch.from_numpy(column).to(voxels.device))
        factor = torch.from_numpy(weight).to(voxels).reshape(shape)
        total = line.mul_(factor) if total is None else total.addcmul_(line, factor)
    assert total is not None, "a row uses at least one column"
    return total
