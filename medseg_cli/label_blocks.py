"""Finished blocks of class scores → a label map on another grid; the scores never exist there."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from medseg_kernels import upsample_argmax
from numpy.typing import NDArray

from medseg_cli.geometry import Grid, parallel_places
from medseg_cli.sliding import Block


def label_map(
    blocks: Iterable[Block], source: Grid, target: Grid, values: NDArray[np.unsignedinteger[Any]]
) -> NDArray[np.unsignedinteger[Any]]:
    """The value of the class with the largest interpolated score at each voxel; of equal ones the lowest class.

    Only label maps leave the device on which the scores are.

    Args:
        blocks: scores on `source`; each is used up before the next is asked for.
        source, target: grids whose axes are parallel, in any order and direction.
        values: (C,) what each class is called in the result; voxels outside the source are 0.

    Returns:
        (*target.shape) with the dtype of `values`.

    Raises:
        ValueError: grids at an angle.
    """
    places = parallel_places(source, target)
    mask = np.zeros(target.shape, values.dtype)
    sizes = [target.shape[axis] for axis in places.axes]
    index = [
        np.asarray(first + apart * np.arange(size), np.float64)
        for first, apart, size in zip(places.origin, places.step, sizes, strict=True)
    ]
    order = [places.axes.index(axis) for axis in range(3)]
    for block in blocks:
        runs = [_run(at, owned) for at, owned in zip(index, block.owned, strict=True)]
        if any(run.stop == run.start for run in runs):
            continue
        i, j, k = (float(at[run.start]) - low for at, run, low in zip(index, runs, block.low, strict=True))
        shape = (runs[0].stop - runs[0].start, runs[1].stop - runs[1].start, runs[2].stop - runs[2].start)
        classes = upsample_argmax(block.mean, shape, (i, j, k), places.step).cpu().numpy()
        mask[tuple(runs[axis] for axis in order)] = values[classes].transpose(order)
    return mask


def _run(places: NDArray[np.float64], owned: tuple[float, float]) -> slice:
    """The indices of rising or falling places that lie in an interval; -1 itself lies outside the volume."""
    low, high = owned
    inside = np.flatnonzero((places >= low) & (places < high) & (places > -1))
    return slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0)
