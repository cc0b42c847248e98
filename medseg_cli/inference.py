"""Covering an object with cubic crops: the crop follows the object instead of cutting it off.

The first crop lies round the clicks; where it sits badly on the object that it finds, a better centred one replaces it.
Where the object then reaches a crop's border inside the scan, another crop is centred there, prompted by the clicks in
it or else by a voxel of the object found so far. Overlapping predictions are averaged with weights that fall
towards a crop's border.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

BORDER = 3
"""Object voxels this close to a crop's face call for another crop."""
CENTRED = 1 / 12
"""A crop is centred well enough when the object's middle is off by no more than this share of its edge."""
MOVES = 4
"""How often the first crop may be moved towards the object's middle."""
REACH_MM = 5.0
"""How far beside an object a click may lie and still mean it."""
EVERYWHERE = np.ones((3, 3, 3), dtype=bool)
"""26-neighbourhood."""


@dataclass
class Canvas:
    """Averaged crops on the part of the working lattice that they cover.

    Args:
        start: (3,) lattice index of the first voxel.
        total, weight: (I, J, K) weighted probabilities and their weights.
    """

    start: NDArray[np.int64]
    total: NDArray[np.float32]
    weight: NDArray[np.float32]

    @property
    def probability(self) -> NDArray[np.float32]:
        """(I, J, K) mean probability, 0 where no crop was."""
        return np.divide(self.total, self.weight, out=np.zeros_like(self.total), where=self.weight > 0)

    def add(self, start: NDArray[np.int64], crop: NDArray[np.float32], importance: NDArray[np.float32]) -> None:
        """Blend in a crop (P, P, P) that begins at lattice voxel `start`, growing the canvas as needed."""
        low = np.minimum(self.start, start)
        high = np.maximum(self.start + self.total.shape, start + crop.shape)
        if np.any(low < self.start) or np.any(high > self.start + self.total.shape):
            before, after = self.start - low, high - self.start - self.total.shape
            widths = list(zip(before.tolist(), after.tolist(), strict=True))
            self.total, self.weight, self.start = np.pad(self.total, widths), np.pad(self.weight, widths), low
        place = tuple(slice(int(a), int(a + p)) for a, p in zip(start - self.start, crop.shape, strict=True))
        self.total[place] += crop * importance
        self.weight[place] += importance


@dataclass(frozen=True, eq=False)
class Ask:
    """A crop that is to be predicted.

    Args:
        start: (3,) its first voxel on the working lattice.
        clicks: (N, 3) in crop voxels.
        held: voxels of the canvas so far.
    """

    start: NDArray[np.int64]
    clicks: NDArray[np.float64]
    held: int


@dataclass
class Coverage:
    """What `follow` found.

    Args:
        canvas: the averaged crops.
        object: the object's voxels on the canvas.
        starts: first lattice voxel of each crop on the canvas.
        crops: how many crops were predicted, those that were replaced by better centred ones included.
        complete: False when the limit on crops ended it.
    """

    canvas: Canvas
    object: NDArray[np.bool_]
    starts: list[NDArray[np.int64]] = field(default_factory=list)
    crops: int = 0
    complete: bool = True


def follow(
    clicks: NDArray[np.float64],
    size: int,
    extent: tuple[int, int, int],
    spacing: tuple[float, float, float],
    max_crops: int,
) -> Generator[Ask, NDArray[np.float32], Coverage]:
    """Ask for crop after crop until the clicked object is covered.

    Args:
        clicks: (N, 3) continuous voxel index on the working lattice, inside `extent`.
        size: edge P of a crop in voxels.
        extent: (I, J, K) of the scan on the working lattice.
        spacing: mm per lattice step along each axis.
        max_crops: stop after this many; `complete` is then False.

    Yields:
        The next crop, whose object probability (P, P, P) is to be sent.

    Returns:
        Coverage; its object is `clicked_parts` of probability > 0.5.
    """
    middle = (clicks.min(0) + clicks.max(0)) / 2
    together = bool(np.all(np.ptp(clicks, axis=0) < size - 2 * BORDER))
    queue = [middle] if together else list(clicks)
    coverage = _empty(_start(queue[0], size), size)
    previous = coverage
    elsewhere = _around(middle, size) if together else []
    moves = 0
    while queue:
        if coverage.crops == max_crops:
            coverage.complete = False
            break
        start = _start(queue.pop(0), size)
        probability = yield Ask(start, _clicks_in(start, clicks, size), coverage.canvas.total.size)
        _add(coverage, start, probability, clicks, spacing)
        if elsewhere and not previous.object.any() and not coverage.object.any() and coverage.crops < max_crops:
            queue = [elsewhere.pop(0)]
            coverage = _empty(_start(queue[0], size), size, coverage.crops)
            continue
        if previous.object.any() and not coverage.object.any():
            # The move lost the object: what was found before it stands.
            previous.crops, coverage, together = coverage.crops, previous, False
        if together and len(coverage.starts) == 1 and moves < MOVES and coverage.crops < max_crops:
            better = _better_centre(coverage, clicks, size)
            if better is not None:
                moves += 1
                previous, coverage = coverage, _empty(_start(better, size), size, coverage.crops)
                queue = [better]
                continue
        if not queue:
            queue = _next_centres(coverage, size, extent)
    return coverage


def _empty(start: NDArray[np.int64], size: int, crops: int = 0) -> Coverage:
    total, weight = np.zeros((2, size, size, size), np.float32)
    return Coverage(Canvas(start, total, weight), np.zeros((size, size, size), dtype=bool), crops=crops)


def _around(middle: NDArray[np.float64], size: int) -> list[NDArray[np.float64]]:
    """Six other places for a first crop, when a click finds nothing at its own: it means that something is there."""
    return [middle + sign * size / 6 * np.eye(3)[axis] for axis in range(3) for sign in (-1, 1)]


def _clicks_in(start: NDArray[np.int64], clicks: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """(N, 3) in crop voxels: the clicks in the crop at `start`, or else its middle, which is a voxel of the object."""
    inside = clicks[np.all((clicks - start > -0.5) & (clicks - start < size - 0.5), axis=1)] - start
    return inside if len(inside) else np.full((1, 3), size // 2, dtype=np.float64)


def _add(
    coverage: Coverage,
    start: NDArray[np.int64],
    probability: NDArray[np.float32],
    clicks: NDArray[np.float64],
    spacing: tuple[float, float, float],
) -> None:
    """Add the crop at `start` to the coverage."""
    coverage.canvas.add(start, probability, _importance(len(probability)))
    coverage.starts.append(start)
    coverage.crops += 1
    coverage.object = clicked_parts(coverage.canvas.probability > 0.5, clicks - coverage.canvas.start, spacing)


def _better_centre(coverage: Coverage, clicks: NDArray[np.float64], size: int) -> NDArray[np.float64] | None:
    """The middle of the object, as far as all clicks stay in the crop; None when the crop sits well already."""
    found = np.argwhere(coverage.object) + coverage.canvas.start
    if not len(found):
        return None
    reach = size // 2 - BORDER
    middle = np.clip((found.min(0) + found.max(0)) / 2, clicks.max(0) - reach, clicks.min(0) + reach)
    off = np.abs(middle - coverage.starts[0] - size // 2).max()
    return middle if off > CENTRED * size else None


def clicked_parts(
    mask: NDArray[np.bool_], clicks: NDArray[np.float64], spacing: tuple[float, float, float]
) -> NDArray[np.bool_]:
    """The 26-connected parts of `mask` that hold a click; a click beside them takes the nearest within `REACH_MM`.

    Args:
        mask: (I, J, K).
        clicks: (N, 3) continuous voxel index of `mask`; it may lie outside.
        spacing: mm along i, j, k.
    """
    if not mask.any():
        return mask
    # As bytes: the labelling of bool arrays in cc3d 4.1 fails where a line of voxels begins and ends with an object.
    parts, count = cc3d.connected_components(mask.view(np.uint8), connectivity=26, return_N=True)
    found: NDArray[np.bool_] = parts_at(parts, count, clicks, spacing)[parts]
    return found


def parts_at(
    parts: NDArray[np.unsignedinteger[Any]],
    count: int,
    clicks: NDArray[np.float64],
    spacing: tuple[float, float, float],
) -> NDArray[np.bool_]:
    """Which of the numbered `parts` (I, J, K), 1 to `count`, hold a click as in `clicked_parts`: (count + 1,)."""
    chosen = np.zeros(count + 1, dtype=bool)
    reach = np.ceil(REACH_MM / np.array(spacing)).astype(int)
    for click in clicks:
        voxel = np.round(click).astype(int)
        low, high = np.maximum(voxel - reach, 0), np.minimum(voxel + reach + 1, parts.shape)
        if np.any(low >= high):
            continue
        near = parts[low[0] : high[0], low[1] : high[1], low[2] : high[2]]
        where = np.argwhere(near)
        if len(where):
            distance = (((where + low - voxel) * spacing) ** 2).sum(1)
            if distance.min() <= REACH_MM**2:
                chosen[near[tuple(where[distance.argmin()])]] = True
    return chosen


def _start(centre: NDArray[np.float64], size: int) -> NDArray[np.int64]:
    return np.floor(centre + 0.5).astype(np.int64) - size // 2


def _importance(size: int) -> NDArray[np.float32]:
    """(P, P, P) weights: a cosine hill along each axis, never zero."""
    hill = 0.02 + np.sin(np.pi * (np.arange(size) + 0.5) / size) ** 2
    return (hill[:, None, None] * hill[None, :, None] * hill[None, None, :]).astype(np.float32)


def _next_centres(coverage: Coverage, size: int, extent: tuple[int, int, int]) -> list[NDArray[np.float64]]:
    """Where the object runs into a border that is not the scan's: a voxel of the object, or none."""
    loose = coverage.object.copy()
    for start in coverage.starts:
        low = np.where(start <= 0, 0, start + BORDER) - coverage.canvas.start
        high = np.where(start + size >= extent, np.array(extent), start + size - BORDER) - coverage.canvas.start
        low, high = np.maximum(low, 0), np.maximum(high, 0)
        loose[low[0] : high[0], low[1] : high[1], low[2] : high[2]] = False
    voxels = np.argwhere(loose) + coverage.canvas.start
    voxels = voxels[np.all((voxels >= 0) & (voxels < extent), axis=1)]
    if not len(voxels):
        return []
    return [_inside(voxels[np.abs(voxels - voxels[0]).max(1) < size // 2].mean(0), voxels)]


def _inside(point: NDArray[np.float64], voxels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The voxel nearest to `point`, so that a crop's middle lies in the object."""
    return voxels[np.argmin(((voxels - point) ** 2).sum(1))].astype(np.float64)
