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
PLANE = 1 << 14
"""Values in a plane of the result from which its planes are made one by one: fewer do not pay for being told to."""


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

    The axis that shrinks most goes first, which makes the work on the others small. Where every value is the sum of a
    few, the result is made plane by plane: all that a plane needs stays in the cache.
    """
    planes = _planes(voxels, weights)
    if planes is not None:
        return planes
    used = [(matrix, axis) for axis, matrix in enumerate(weights, 1) if matrix is not None]
    # Under autocast the products would run in bfloat16.
    with torch.autocast(voxels.device.type, enabled=False):
        for matrix, axis in sorted(used, key=lambda each: each[0].shape[0] / each[0].shape[1]):
            first, taps = _band(matrix)
            if axis < 3 and taps <= FEW_TAPS:
                voxels = _added(voxels, axis, _taps(matrix, first, taps, voxels))
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


def _planes(voxels: Tensor, weights: list[NDArray[np.float64] | None]) -> Tensor | None:
    """`apply`, one plane across the first axis after the other; None where that is no gain."""
    given = [matrix for matrix in weights if matrix is not None]
    if len(given) < 3 or voxels.device.type != "cpu" or given[0].shape[0] > given[0].shape[1]:
        return None
    i, j, k = (len(matrix) for matrix in given)
    bands = [_band(matrix) for matrix in given]
    if j * k < PLANE or max(taps for _, taps in bands) > FEW_TAPS:
        return None
    along, across, last = (_taps(matrix, *band, voxels) for matrix, band in zip(given, bands, strict=True))
    result = voxels.new_empty((len(voxels), i, j, k))
    for channel, planes in zip(voxels, result, strict=True):
        for index, plane in enumerate(planes):
            (columns, factors), *more = along
            line = channel[int(columns[index])] * float(factors[index])
            for columns, factors in more:
                line.add_(channel[int(columns[index])], alpha=float(factors[index]))
            plane.copy_(_added(_added(line, 0, across), 1, last))
    return result


Taps = list[tuple[Tensor, Tensor]]
"""Per tap the column that each row uses, and its weight, both (rows,)."""


def _taps(matrix: NDArray[np.float64], first: NDArray[np.int64], taps: int, like: Tensor) -> Taps:
    """A matrix of which each row uses at most `taps` columns from `first` on; dtype and device are those of `like`."""
    rows = np.arange(len(matrix))
    found = []
    for tap in range(taps):
        column = np.minimum(first + tap, matrix.shape[1] - 1)
        weight = np.where(first + tap < matrix.shape[1], matrix[rows, column], 0.0)
        found.append((torch.from_numpy(column).to(like.device), torch.from_numpy(weight).to(like)))
    return found


def _added(values: Tensor, axis: int, taps: Taps) -> Tensor:
    """Along one axis, the weighted sum of the lines that each row uses."""
    shape = [-1 if a == axis else 1 for a in range(values.ndim)]
    (columns, factors), *more = taps
    total = values.index_select(axis, columns).mul_(factors.reshape(shape))
    for columns, factors in more:
        total.addcmul_(values.index_select(axis, columns), factors.reshape(shape))
    return total
