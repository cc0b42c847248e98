"""Overlapping windows over a volume, whose mean is handed on block by block: no more of it is held than is unfinished.

A row of windows is predicted, what no later row reaches is divided by its weights and handed on, and the rest moves to
the front. Windows, weights and mean are those of MONAI's `sliding_window_inference`, which a test holds this against.
Where even one row is too large, the volume goes in several tiles across; windows on their borders are predicted twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from math import prod

import torch
from monai.data.utils import compute_importance_map
from torch import Tensor

Index = tuple[int, int, int]

LEAST_WEIGHT = 1e-3
"""Of a window's corner, relative to its middle."""
TOGETHER = 1 << 21
"""Voxels of windows that go through a network together on a GPU: many small windows need no more memory than one of
128³. A CPU takes window by window."""


@dataclass(frozen=True, eq=False)
class Block:
    """A finished part of the mean.

    Args:
        mean: (C, i, j, k) float32; the next block overwrites it.
        low: index of its first voxel.
        owned: half-open interval along each axis. A place anywhere in the volume lies in the intervals of exactly one
            block, and its neighbours are in the block; so do places less than a voxel outside the volume.
    """

    mean: Tensor
    low: Index
    owned: tuple[tuple[float, float], tuple[float, float], tuple[float, float]]


@dataclass(frozen=True)
class Windows:
    """Where windows lie.

    Args:
        shape: of the volume.
        edge: of a window.
        share: part of a window that its neighbour covers too, 0 to less than 1.
    """

    shape: Index
    edge: Index
    share: float

    def starts(self, axis: int) -> list[int]:
        """First indices of the windows along an axis; before the volume, once, where it is smaller than a window."""
        size, edge = self.shape[axis], self.edge[axis]
        if size <= edge:
            return [-((edge - size) // 2)]
        step = max(1, int(edge * (1 - self.share)))
        return [min(first, size - edge) for first in range(0, size - edge + step, step)]


def mean_blocks(
    predict: Callable[[Tensor], Tensor],
    part: Callable[[Index, Index], Tensor],
    windows: Windows,
    classes: int,
    device: torch.device,
    most: int,
    together: int | None = None,
) -> Iterator[Block]:
    """Predictions of overlapping windows, averaged with the weights of a Gaussian round their middles.

    Args:
        predict: (N, 1, *edge) → (N, C, *edge), on `device`.
        part: voxels from the first index to the second, exclusive → (1, i, j, k) on `device`. Beyond the volume,
            windows see zeros.
        windows: where they lie.
        classes: C.
        device: where predictions are added up.
        most: predicted values that are held at a time, unless a single window has more.
        together: most windows N of a row that are predicted at once; None: what `TOGETHER` allows, 1 on a CPU.
    """
    if together is None:
        together = 1 if device.type == "cpu" else max(1, TOGETHER // prod(windows.edge))
    along = min(range(3), key=lambda axis: _planes(windows, axis) * prod(windows.shape) / windows.shape[axis])
    weights = compute_importance_map(windows.edge, mode="gaussian", sigma_scale=0.125, device=device)
    weights = weights.float().clamp(min=max(LEAST_WEIGHT, float(weights.min())))
    for tile in _tiles(windows, along, most // classes):
        yield from _Tile(predict, part, windows, weights, along, tile, classes, together).blocks(device)


def _planes(windows: Windows, axis: int) -> int:
    """Planes across an axis that a row of windows and the end of the one before it fill."""
    return min(windows.edge[axis] + 1, windows.shape[axis])


def _tiles(windows: Windows, along: int, most: int) -> Iterator[tuple[tuple[int, int], ...]]:
    """The volume cut across, so that rows along axis `along` have at most about `most` voxels: its own voxels."""
    counts = [1, 1, 1]

    def edges() -> list[int]:
        return [-(-size // count) for size, count in zip(windows.shape, counts, strict=True)]

    def held() -> int:
        sides = [min(edge + 1, size) for edge, size in zip(edges(), windows.shape, strict=True)]
        return prod(sides) // sides[along] * _planes(windows, along)

    while held() > most:
        wide = [axis for axis in range(3) if axis != along and edges()[axis] > 1]
        if not wide:
            break
        counts[max(wide, key=lambda axis: edges()[axis] / windows.edge[axis])] += 1
    cuts = [[*range(0, size, edge), size] for size, edge in zip(windows.shape, edges(), strict=True)]
    yield from product(*(list(pairwise(each)) for each in cuts))


@dataclass(frozen=True, eq=False)
class _Tile:
    """A part of the volume: its own voxels `own` from the first to the last, exclusive, along each axis."""

    predict: Callable[[Tensor], Tensor]
    part: Callable[[Index, Index], Tensor]
    windows: Windows
    weights: Tensor
    along: int
    own: tuple[tuple[int, int], ...]
    classes: int
    together: int

    def blocks(self, device: torch.device) -> Iterator[Block]:
        """Row after row of windows along the axis."""
        axis, size, edge = self.along, self.windows.shape[self.along], self.windows.edge[self.along]
        # One voxel more across: places between two tiles have neighbours in both.
        low = [first for first, _ in self.own]
        high = [min(last + 1, of) for (_, last), of in zip(self.own, self.windows.shape, strict=True)]
        shape = [stop - start for start, stop in zip(low, high, strict=True)]
        shape[axis] = _planes(self.windows, axis)
        total, weight = torch.zeros((self.classes, *shape), device=device), torch.zeros((1, *shape), device=device)
        starts = self.windows.starts(axis)
        base, unfinished = 0, 0
        for start, after in zip(starts, [*starts[1:], size], strict=True):
            low[axis], high[axis] = base, min(start + edge, size)
            self._add(start, low, high, total, weight)
            fresh = (axis + 1, unfinished - base, after - unfinished)
            total.narrow(*fresh).div_(weight.narrow(*fresh))
            yield Block(total.narrow(axis + 1, 0, after - base), _index(low), self._owned(base, unfinished, after))
            for values in (total, weight):
                _move(values, axis + 1, after - 1 - base, high[axis] - base)
            base, unfinished = after - 1, after

    def _add(self, start: int, low: list[int], high: list[int], total: Tensor, weight: Tensor) -> None:
        """Predict the windows that begin at `start` along the axis, and add what lies between `low` and `high`."""
        edge, axis = self.windows.edge, self.along
        firsts = [
            [each for each in self.windows.starts(a) if each < high[a] and each + edge[a] > low[a]] for a in range(3)
        ]
        firsts[axis] = [start]
        begin = _index([max(0, each[0]) for each in firsts])
        end = _index([min(of, each[-1] + e) for of, each, e in zip(self.windows.shape, firsts, edge, strict=True)])
        image = self.part(begin, end)
        for corner, scores in self._scores(image, begin, [_index(list(each)) for each in product(*firsts)]):
            there, here = [slice(None)], [slice(None)]
            for c, e, first, last in zip(corner, edge, low, high, strict=True):
                near, far = max(c, first), min(c + e, last)
                there.append(slice(near - first, far - first))
                here.append(slice(near - c, far - c))
            seen = self.weights[None][tuple(here)]
            total[tuple(there)].addcmul_(scores[tuple(here)].to(total), seen)
            weight[tuple(there)].add_(seen)

    def _scores(self, image: Tensor, begin: Index, corners: list[Index]) -> Iterator[tuple[Index, Tensor]]:
        """Each corner of a window in the volume with its scores (C, *edge); `image` begins at `begin`."""
        for first in range(0, len(corners), self.together):
            some = corners[first : first + self.together]
            places = [[c - b for c, b in zip(corner, begin, strict=True)] for corner in some]
            scores = self.predict(torch.stack([_window(image, place, self.windows.edge) for place in places]))
            yield from zip(some, scores, strict=True)

    def _owned(
        self, base: int, unfinished: int, after: int
    ) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
        """Places whose neighbours lie between the planes `base` and `after`, in this tile."""
        own = [(low if low > 0 else -1, high) for low, high in self.own]
        own[self.along] = (base if unfinished else -1, after - 1 if after < self.windows.shape[self.along] else after)
        i, j, k = ((float(low), float(high)) for low, high in own)
        return i, j, k


def _window(image: Tensor, corner: list[int], edge: Index) -> Tensor:
    """The part (1, *edge) of an image (1, i, j, k) from `corner` on, which may lie outside; there are zeros."""
    inside = [slice(max(c, 0), c + e) for c, e in zip(corner, edge, strict=True)]
    found = image[(slice(None), *inside)]
    pads = [(max(0, -c), max(0, c + e - size)) for c, e, size in zip(corner, edge, image.shape[1:], strict=True)]
    if not any(map(any, pads)):
        return found
    return torch.nn.functional.pad(found, [pad for side in reversed(pads) for pad in side])


def _move(values: Tensor, axis: int, by: int, stop: int) -> None:
    """Planes `by` to `stop` to the front, in place, and zeros behind them."""
    if not by:
        return
    for plane in range(stop - by):
        values.select(axis, plane).copy_(values.select(axis, plane + by))
    values.narrow(axis, stop - by, values.shape[axis] - (stop - by)).zero_()


def _index(values: list[int]) -> Index:
    i, j, k = values
    return (i, j, k)
