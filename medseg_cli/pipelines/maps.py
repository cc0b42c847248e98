"""Maps of numbers on a scan's grid, one for each object, made slice by slice."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg_cli.slices import Plane

IN_MEMORY = 256 * 2**20
"""Bytes of all maps of a scan up to which they are kept in memory; more lie in a nameless file on disk."""
LONGEST = 2048
"""Pixels of a picture's longer edge; of larger ones every second, third... pixel is drawn."""
STRENGTH = 0.65
"""How much of a picture's pixel the colour of the map hides where the map is 1."""


@dataclass(frozen=True, eq=False)
class Maps:
    """A map of each object on a scan's grid, and which slices have one.

    Args:
        plane: in which the scan is sliced.
        values: mask value → (I, J, K) float32, from 0, and 0 where nobody looked.
        slices: of each mask value, in order, those with a map.
    """

    plane: Plane
    values: dict[int, NDArray[np.float32]]
    slices: tuple[set[int], ...]

    @classmethod
    def of(cls, plane: Plane, count: int) -> Maps:
        """Empty maps of mask values 1 to `count`."""
        whole = (*plane.shape, count)
        if 4 * int(np.prod(whole)) <= IN_MEMORY:
            room: NDArray[np.float32] = np.zeros(whole, np.float32, order="F")
        else:
            room = np.memmap(tempfile.TemporaryFile(), np.float32, mode="w+", shape=whole, order="F")  # noqa: SIM115
        return cls(
            plane, {value: room[..., value - 1] for value in range(1, count + 1)}, tuple(set() for _ in range(count))
        )

    def keep(self, value: int, index: int, picture: NDArray[np.float32]) -> None:
        """Put the map (H, W) of a slice where it belongs."""
        self.plane.take(self.values[value], index)[...] = picture
        self.slices[value - 1].add(index)

    def drop(self, value: int, index: int) -> None:
        """Make a slice one that nobody looked at."""
        self.plane.take(self.values[value], index)[...] = 0
        self.slices[value - 1].discard(index)

    def over(self, value: int, index: int, picture: NDArray[np.uint8], highest: float = 1.0) -> NDArray[np.uint8]:
        """The map of a slice in colours over its picture (H, W, 3): blue where it is low, red at `highest`."""
        step = -(-max(picture.shape[:2]) // LONGEST)
        picture = picture[::step, ::step]
        heat = np.asarray(self.plane.take(self.values[value], index)[::step, ::step], np.float32)[..., None] / highest
        colours = np.concatenate([1.5 - abs(4 * heat - peak) for peak in (3, 2, 1)], axis=-1).clip(0, 1) * 255
        share = STRENGTH * heat
        shown: NDArray[np.uint8] = ((1 - share) * picture + share * colours).round().astype(np.uint8)
        return shown
