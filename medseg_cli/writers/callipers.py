"""The measured ellipse of an object in a picture, as sonographers see it: dots, and a cross at each end of its axes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medseg_cli.biometry import Biometry, Pair

INK, PAPER = (255, 255, 255), (0, 0, 0)
GAP = 10.0
"""Pixels of the panel from dot to dot, so that the mask's own line is seen between them."""
ARM = 5
"""Pixels from the middle of a cross to its ends."""


def draw(image: Image.Image, found: Iterable[Biometry], first: tuple[int, ...], count: tuple[int, ...]) -> Image.Image:
    """The panel with ellipses on it.

    Args:
        image: RGB, voxels `first` to `first + count - 1` along i (to the right) and j (down).
        found: ellipses in that picture.
        first, count: (i, j, ...).
    """
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    scale = np.array(image.size) / np.array(count[:2])

    def pixels(indices: NDArray[np.float64]) -> NDArray[np.float64]:
        placed: NDArray[np.float64] = (indices[:, :2] - first[:2] + 0.5) * scale
        return placed

    for each in found:
        for x, y in _dots(pixels(round_of(each, 2000))):
            pen.rectangle((x - 0.5, y - 0.5, x + 0.5, y + 0.5), fill=INK)
        for x, y in pixels(np.array([*each.long_axis_ijk, *each.short_axis_ijk])):
            for width, colour in ((3, PAPER), (1, INK)):
                pen.line((x - ARM, y, x + ARM, y), fill=colour, width=width)
                pen.line((x, y - ARM, x, y + ARM), fill=colour, width=width)
    return drawn


def round_of(found: Biometry, count: int) -> NDArray[np.float64]:
    """(count, 3) voxel indices on an ellipse."""

    def half(axis: Pair) -> NDArray[np.float64]:
        reach: NDArray[np.float64] = (np.array(axis[1]) - axis[0]) / 2
        return reach

    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)[:, None]
    along, across = np.cos(turn) * half(found.long_axis_ijk), np.sin(turn) * half(found.short_axis_ijk)
    points: NDArray[np.float64] = np.array(found.center_ijk) + along + across
    return points


def _dots(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of the points (N, 2) of a line that are about `GAP` apart."""
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    at = np.searchsorted(way, np.arange(0.0, way[-1] - GAP / 2, GAP))
    dots: NDArray[np.float64] = line[at]
    return dots
