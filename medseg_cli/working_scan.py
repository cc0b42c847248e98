"""A scan as a network for volumes sees it: on its working lattice, normalised, part by part.

A large scan is never there as a whole at the lattice's spacing: what is asked for is sampled when it is asked for. Only
what intensities are normalised by needs all of it, which goes by in slabs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import Tensor

from medseg_cli.geometry import FULLY_IN_VIEW, Grid, resample, scan_grid
from medseg_cli.intensity import Scale, scale_of
from medseg_cli.preset_intensity import ClipZScore, EightBit, Percentile, Window, ZScore
from medseg_cli.scan import Scan

HELD = 1 << 25
"""Voxels up to which the lattice's image is kept, 128 MiB: sampled once."""
SLAB = 1 << 23
"""Voxels that go by at a time."""

Index = tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class WorkingScan:
    """A normalised scan on its working lattice; `working_scan` makes it.

    Args:
        lattice: the grid of the image.
        device: where parts lie.
    """

    lattice: Grid
    device: torch.device
    _voxels: Tensor
    _grid: Grid
    _scale: Scale
    _held: Tensor | None

    def part(self, low: Index, high: Index) -> Tensor:
        """Intensities (1, i, j, k) float32 of the voxels from `low` to `high`, exclusive, inside the lattice."""
        if self._held is not None:
            return self._held[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        return self._scale.apply(*_sampled(self._voxels, self._grid, self.lattice, low, high, self.device))


def working_scan(
    scan: Scan,
    lattice: Grid,
    how: ZScore | ClipZScore | Percentile | Window | EightBit,
    device: torch.device,
    held: int = HELD,
) -> WorkingScan:
    """Find out what a scan is normalised by; nothing of it is changed.

    Args:
        scan: one channel.
        lattice: any grid.
        how: the preset's `preprocessing.intensity`.
        device: where to compute.
        held: most voxels of a lattice whose image is kept.

    Raises:
        ModelError: an intensity method for 2-D models.
    """
    voxels, grid = torch.from_numpy(scan.voxels), scan_grid(scan)
    keep = prod(lattice.shape) <= held
    kept = torch.empty((1, *lattice.shape), device=device) if keep else None
    valid = torch.empty((1, *lattice.shape), dtype=torch.bool, device=device) if keep else None
    count = 0
    for low, high in _slabs(lattice):
        if kept is not None and valid is not None:
            place = slice(low[0], high[0])
            kept[:, place], valid[:, place] = _sampled(voxels, grid, lattice, low, high, device)
            count += int(torch.count_nonzero(valid[:, place]))
        elif not isinstance(how, ClipZScore):
            count += int(torch.count_nonzero(_sampled(voxels, grid, lattice, low, high, device)[1]))

    def values() -> Iterator[Tensor]:
        for low, high in _slabs(lattice):
            if kept is not None and valid is not None:
                yield kept[:, low[0] : high[0]][valid[:, low[0] : high[0]]]
            else:
                image, inside = _sampled(voxels, grid, lattice, low, high, device)
                yield image[inside]

    scale = scale_of(values, count, how)
    if kept is not None and valid is not None:
        for low, high in _slabs(lattice):
            place = slice(low[0], high[0])
            kept[:, place] = scale.apply(kept[:, place], valid[:, place])
    return WorkingScan(lattice, device, voxels, grid, scale, kept)


def _sampled(
    voxels: Tensor, grid: Grid, lattice: Grid, low: Index, high: Index, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Intensities (1, i, j, k) in the scan's units on a part of the lattice, and where the scan has data."""
    i, j, k = (stop - start for start, stop in zip(low, high, strict=True))
    image, weight = resample(voxels, grid, lattice.window(np.array(low), (i, j, k)), device=device)
    return image.div_(weight.clamp(min=FULLY_IN_VIEW)), weight > FULLY_IN_VIEW


def _slabs(lattice: Grid) -> Iterator[tuple[Index, Index]]:
    """The lattice in slabs of its first axis, which keeps the order of its voxels."""
    size, across, along = lattice.shape
    depth = max(1, SLAB // (across * along))
    for first in range(0, size, depth):
        yield (first, 0, 0), (min(first + depth, size), across, along)
