"""The part of an ultrasound picture that shows tissue: a fan, a trapezoid or a rectangle against an even dark surround.

Found from pixels alone, and only where its border is plain. A side that fades, or that the picture itself cuts, is left
open: the sector then reaches to the picture's edge there. Too much is kept rather than tissue lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

DARKEST = 40
"""A surround is no brighter."""
LEAST_DARK = 0.02
"""Share of the picture that is of one dark shade where there is a surround."""
SURROUND = (1, 6)
"""Grey values that an even surround may lie above its most common one; the second where JPEG has left its waves."""
WINDOW = 9
"""Side in pixels of the squares in which lively pixels are counted."""
LEAST_PART = 0.02
"""Parts of the sector are at least as large, as a share of the picture; text and scales are smaller."""
REACH = 4.0
"""How near the outline has to be to tissue, in pixels, to be a border there."""
STEP = 7.0
"""How far inside and outside the border one looks for tissue and for nothing, in pixels."""
INSIDE, OUTSIDE = 0.6, 0.1
"""Share of lively pixels that is tissue, and that is nothing."""
LEAST_BRIGHT = 8.0
"""Grey values by which tissue at a border is brighter than the surround, on average; what fades away is not."""
STRETCH = 0.12
"""Length over which a border has to hold, as a share of the picture's shorter side."""
SUPPORT = 0.4
"""Share of a straight piece that has to be a plain border."""
MARGIN = 2.0
"""Pixels that are kept beyond the border."""
LEAST_AREA = 0.15
"""A sector that covers less of the picture is doubted."""
MOST_BEYOND = 0.05
"""A sector that leaves out a larger share of what is not dark is doubted."""
MOST_SHADES = 0.04
"""A sector beyond which more is grey, away from letters and scales, is doubted: tissue goes on there."""
MARK, NEAR_MARK = 60, 11
"""Grey values above the surround from which something in it is a mark, and the square round it that belongs to it."""


@dataclass(frozen=True, eq=False)
class Sector:
    """Where a picture shows tissue.

    Args:
        inside: (H, W) bool; all True where nothing was found.
        found: whether there is a border anywhere.
        why: one clause for the user, what it rests on or why it was left.
    """

    inside: NDArray[np.bool_]
    found: bool
    why: str

    @property
    def share(self) -> float:
        """Of the picture."""
        return float(self.inside.mean())


def find_sector(grey: NDArray[np.uint8], stated: NDArray[np.bool_] | None = None) -> Sector:
    """The sector of a picture.

    Args:
        grey: (H, W).
        stated: (H, W), the pixels that may show tissue according to the file; None where it is silent.
    """
    if stated is None:
        return _from_pixels(grey)
    drawn = _from_pixels(np.where(stated, grey, grey.min()))
    return Sector(stated & drawn.inside, True, f"the region that the file states; in it {drawn.why}")


def _from_pixels(grey: NDArray[np.uint8]) -> Sector:
    even, uneven = (_above(grey, _dark(grey) + step) for step in SURROUND)
    return even if even.found else uneven


def _above(grey: NDArray[np.uint8], level: int) -> Sector:
    """The sector if the surround is no brighter than `level`."""
    everything = np.ones(grey.shape, dtype=bool)
    lively = grey > level
    density = ndimage.uniform_filter(lively.astype(np.float32), WINDOW, mode="nearest")
    brightness = ndimage.uniform_filter(grey.astype(np.float32), WINDOW, mode="nearest") - level
    parts, count = ndimage.label(density > 0.5)
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    large = np.flatnonzero(sizes >= LEAST_PART * grey.size)
    tissue = np.isin(parts, large[large > 0])
    if not tissue.any():
        return Sector(everything, False, "no connected tissue was found")
    planes = _borders(tissue, lively, density, brightness)
    if not len(planes):
        return Sector(everything, False, "no side has a plain border")
    rows, columns = np.mgrid[: grey.shape[0], : grey.shape[1]].astype(np.float32)
    inside = everything
    for across, down, offset in planes.astype(np.float32):
        inside = inside & (across * columns + down * rows + offset <= MARGIN)
    beyond, shades = float((lively & ~inside).sum() / max(1, lively.sum())), _shades(grey, ~inside)
    if inside.mean() < LEAST_AREA:
        return Sector(everything, False, f"what was found covers {inside.mean():.0%} of the picture only")
    if beyond > MOST_BEYOND:
        return Sector(everything, False, f"{beyond:.0%} of what is not dark would lie beyond it")
    if shades > MOST_SHADES:
        return Sector(everything, False, f"{shades:.0%} of what lies beyond it is grey as tissue is")
    return Sector(inside, True, f"a plain border round {inside.mean():.0%} of the picture")


def _shades(grey: NDArray[np.uint8], outside: NDArray[np.bool_]) -> float:
    """Share of the surround that is neither dark nor near a bright mark, as letters and scales are: fading tissue."""
    dark = _dark(grey)
    marks = ndimage.binary_dilation(grey > min(254, dark + MARK), np.ones((NEAR_MARK, NEAR_MARK)))
    rest = outside & ~marks
    return float((rest & (grey > dark + SURROUND[1])).sum() / max(1, rest.sum()))


def _dark(grey: NDArray[np.uint8]) -> int:
    """Grey value of the surround: the most common dark one, if it is common enough to be one, else the least."""
    counts = np.bincount(grey.ravel(), minlength=256)[: DARKEST + 1]
    common = int(counts.argmax())
    return common if counts[common] >= LEAST_DARK * grey.size else int(grey.min())


def _borders(
    tissue: NDArray[np.bool_], lively: NDArray[np.bool_], density: NDArray[np.float32], brightness: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Half-planes (N, 3), a·x + b·y + c <= 0 inside: pieces of the convex outline that are plain borders."""
    # Counting in squares rounds corners off: the outline is that of the lively pixels themselves.
    whole = tissue | (lively & ndimage.binary_dilation(tissue, np.ones((WINDOW, WINDOW))))
    edge = whole & ~ndimage.binary_erosion(whole)
    rows, columns = np.nonzero(edge)
    if len(rows) < 3 or np.ptp(rows) < 2 or np.ptp(columns) < 2:
        return np.zeros((0, 3))
    hull = ConvexHull(np.stack([columns, rows], axis=1).astype(np.float64))
    corners = hull.points[hull.vertices]
    following = np.roll(corners, -1, axis=0)
    lengths = np.linalg.norm(following - corners, axis=1)
    along = (following - corners) / lengths[:, None]
    # Corners run anticlockwise in x and y: outwards is to the right of the way.
    normals = np.stack([along[:, 1], -along[:, 0]], axis=1)

    pieces = np.repeat(np.arange(len(corners)), np.maximum(1, np.rint(lengths)).astype(int))
    first = np.concatenate([[0], np.cumsum(np.bincount(pieces))[:-1]])
    steps = (np.arange(len(pieces)) - first[pieces] + 0.5) * (lengths / np.bincount(pieces))[pieces]
    places = corners[pieces] + steps[:, None] * along[pieces]
    near = _at(ndimage.distance_transform_edt(~tissue).astype(np.float32), places, 0.0) <= REACH
    within = places - STEP * normals[pieces]
    full = (_at(density, within, 0.0) >= INSIDE) & (_at(brightness, within, 0.0) >= LEAST_BRIGHT)
    # Past the picture's edge there is no telling: not a border.
    empty = _at(density, places + STEP * normals[pieces], 1.0) <= OUTSIDE
    plain = (near & full & empty).astype(np.float64)

    stretch = max(3, round(STRETCH * min(tissue.shape)))
    around = ndimage.uniform_filter1d(plain, min(stretch, len(plain)), mode="wrap")
    of_piece = np.bincount(pieces, plain) / np.bincount(pieces)
    of_stretch = np.bincount(pieces, around) / np.bincount(pieces)
    support = np.where(lengths >= stretch, of_piece, of_stretch)
    chosen = support >= SUPPORT
    return np.column_stack([normals, -(normals * corners).sum(1)])[chosen]


def _at(values: NDArray[np.float32], places: NDArray[np.float64], beyond: float) -> NDArray[np.float32]:
    """Values at places (N, 2) xy, to the nearest pixel; `beyond` outside the picture."""
    columns, rows = np.rint(places).astype(int).T
    good = (rows >= 0) & (rows < values.shape[0]) & (columns >= 0) & (columns < values.shape[1])
    found = np.full(len(places), beyond, dtype=np.float32)
    found[good] = values[rows[good], columns[good]]
    return found
