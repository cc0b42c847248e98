"""What shows why a text's mask is where it is: its maps through the scan, a picture of one, and its scores."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.prompt import Text
from medseg_cli.slices import Plane

IN_MEMORY = 256 * 2**20
"""Bytes of all maps of a scan up to which they are kept in memory; more lie in a nameless file on disk."""
STRENGTH = 0.65
"""How much of a picture's pixel the colour of the map hides where the map is 1."""


@dataclass(frozen=True, eq=False)
class Maps:
    """Maps of texts on a scan's grid, and which slices have one.

    Args:
        plane: in which the scan is sliced.
        values: mask value → (I, J, K) float32, 0 to 1 in each slice, 0 where nobody looked.
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

    def keep(self, value: int, index: int, saliency: NDArray[np.float32]) -> None:
        """Put the map (H, W) of a slice where it belongs."""
        self.plane.take(self.values[value], index)[...] = saliency
        self.slices[value - 1].add(index)

    def over(self, value: int, index: int, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The map of a slice in colours over its picture (H, W, 3): blue where it is low, red where it is high."""
        heat = np.asarray(self.plane.take(self.values[value], index), np.float32)[..., None]
        colours = np.concatenate([1.5 - abs(4 * heat - peak) for peak in (3, 2, 1)], axis=-1).clip(0, 1) * 255
        share = STRENGTH * heat
        shown: NDArray[np.uint8] = ((1 - share) * picture + share * colours).round().astype(np.uint8)
        return shown


def scores_of(
    texts: Sequence[Text],
    margin: NDArray[np.float64],
    probability: NDArray[np.float64],
    looked: Sequence[Sequence[int]],
) -> list[dict[str, Any]]:
    """All numbers of the C labels of a run, JSON-ready.

    Args:
        texts: what was asked for.
        margin, probability: (C, K), of each slice.
        looked: slices with a map, of each label.
    """
    return [
        {
            "positive": list(text.positive),
            "negative": list(text.negative),
            "slices": [
                {
                    "slice": index,
                    "margin": round(float(margin[number, index]), 6),
                    "probability": round(float(probability[number, index]), 6),
                    "map": index in looked[number],
                }
                for index in range(margin.shape[1])
            ],
        }
        for number, text in enumerate(texts)
    ]
