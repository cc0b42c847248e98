"""A scan and its mask on a coarser grid: means of blocks, and labels that keep their size, so that none vanishes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Triple = tuple[int, int, int]


def steps(shape: Triple, spacing: Sequence[float], most: int) -> Triple:
    """How many voxels along each axis become one, so that at most `most` are left: the finest axis shrinks first.

    Args:
        shape: (I, J, K) in voxels.
        spacing: mm along i, j, k.
        most: voxels that may be left.
    """
    chosen = [1, 1, 1]
    while True:
        left = [-(-size // step) for size, step in zip(shape, chosen, strict=True)]
        if left[0] * left[1] * left[2] <= most:
            return (chosen[0], chosen[1], chosen[2])
        coarse = [mm * step if more > 1 else np.inf for mm, step, more in zip(spacing, chosen, left, strict=True)]
        chosen[int(np.argmin(coarse))] += 1


def shrunken_affine(affine: NDArray[np.float64], first: Triple, step: Triple) -> NDArray[np.float64]:
    """(4, 4) index→RAS mm of blocks of `step` voxels of which the first begins at voxel `first`.

    A block's centre lies (step - 1) / 2 voxels behind its first voxel's centre.
    """
    shrunken = affine.copy()
    shrunken[:3, :3] = affine[:3, :3] * np.array(step)
    shrunken[:3, 3] = affine[:3, :3] @ (np.array(first) + (np.array(step) - 1) / 2) + affine[:3, 3]
    return shrunken


def means(values: NDArray[np.float32], step: Triple) -> NDArray[np.float32]:
    """(I, J, K) → mean of every block; values that are not finite count as the smallest that is.

    The last block along an axis may be smaller than `step`; its mean is that of what it has.
    """
    finite = values[np.isfinite(values)] if not np.isfinite(values.sum(dtype=np.float64)) else values
    low = float(finite.min()) if finite.size else 0.0
    sums = _sums(lambda rows: np.nan_to_num(values[rows], nan=low, posinf=low, neginf=low), _triple(values.shape), step)
    return (sums / _sizes(_triple(values.shape), step)).astype(np.float32)


def labels(mask: NDArray[np.unsignedinteger], step: Triple) -> NDArray[np.unsignedinteger]:
    """(I, J, K) label values → those of the blocks, each object with about its own volume.

    An object gets the blocks of which it fills most, as many as its volume is worth and at least one: specks and thin
    vessels stay. Blocks that it fills alike are treated alike, so that there may be a few more. Where two objects want
    a block, the one that fills more of it has it.
    """
    if step == (1, 1, 1):
        return mask
    shape = _triple(mask.shape)
    small = np.zeros([-(-size // each) for size, each in zip(shape, step, strict=True)], mask.dtype)
    share = np.zeros(small.shape, np.float32)
    for value, window in enumerate(ndimage.find_objects(mask), start=1):
        if window is None:
            continue
        blocks = tuple(slice(side.start // n, -(-side.stop // n)) for side, n in zip(window, step, strict=True))
        box = tuple(slice(side.start * n, side.stop * n) for side, n in zip(blocks, step, strict=True))
        filled = _sums(_rows_of(mask[box], value), _triple(mask[box].shape), step)
        wanted = max(1, round(float(filled.sum()) / (step[0] * step[1] * step[2])))
        least = np.partition(filled.ravel(), -min(wanted, filled.size))[-min(wanted, filled.size)]
        here = (filled >= max(float(least), 1.0)) & (filled > share[blocks])
        small[blocks][here] = value
        share[blocks][here] = filled[here]
    return small


def _sums(source: Callable[[slice], NDArray], shape: Triple, step: Triple) -> NDArray[np.float32]:
    """Sum of every block. `source` gives the rows of a slice along i, so that nothing large is ever copied."""
    starts = [np.arange(0, size, each) for size, each in zip(shape, step, strict=True)]
    sums = np.empty([len(each) for each in starts], np.float32)
    for row, start in enumerate(starts[0]):
        plane = source(slice(start, start + step[0])).sum(axis=0, dtype=np.float32)
        sums[row] = np.add.reduceat(np.add.reduceat(plane, starts[1], axis=0), starts[2], axis=1)
    return sums


def _rows_of(mask: NDArray[np.unsignedinteger], value: int) -> Callable[[slice], NDArray]:
    """Where `mask` has `value`, some rows at a time."""
    return lambda rows: mask[rows] == value


def _sizes(shape: Triple, step: Triple) -> NDArray[np.float32]:
    """Voxels in every block."""
    sides = [
        np.minimum(each, size - np.arange(0, size, each)).astype(np.float32)
        for size, each in zip(shape, step, strict=True)
    ]
    return sides[0][:, None, None] * sides[1][None, :, None] * sides[2][None, None, :]


def _triple(shape: Sequence[int]) -> Triple:
    i, j, k = shape
    return (i, j, k)
