"""Objects of which a file shows the border alone, as a line: what the line encloses, and why it may enclose nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

FLAW = 0.01
"""Areas below this share of the largest are flaws of a thick line, which belong to the object as the line does."""
TOUCHING = np.ones((3, 3), bool)
"""A line holds together at the corners of its pixels; what it encloses must not leak through them."""


@dataclass(frozen=True, eq=False)
class Outline:
    """A line and what it encloses.

    Args:
        filled: (I, J) the line's own pixels and those it encloses: the line belongs to the object.
        pieces: pixels of each connected piece of the line, the largest first.
        areas: pixels of each area that it encloses, the largest first; without `FLAW`s.
    """

    filled: NDArray[np.bool_]
    pieces: tuple[int, ...]
    areas: tuple[int, ...]

    @property
    def problem(self) -> str:
        """Why the object is in doubt, in words that follow the file's name; "" where it is not."""
        if not self.areas:
            i, j = np.nonzero(self.filled)
            return (
                f"shows no closed outline: {sum(self.pieces)} pixels, columns {i.min()} to {i.max()} and rows "
                f"{j.min()} to {j.max()}, that enclose nothing"
            )
        if len(self.areas) > 1:
            return f"shows an outline that encloses {len(self.areas)} areas, of {_listed(self.areas)} pixels"
        if len(self.pieces) > 1:
            return f"shows an outline in {len(self.pieces)} pieces, of {_listed(self.pieces)} pixels"
        return ""


def outlined(values: NDArray[np.generic]) -> Outline:
    """What a drawn line encloses; an empty picture has no pieces.

    A line that leaves the picture and comes back is closed along the edge of the picture.

    Args:
        values: (I, J), the line bright on black; shades at its sides count from half of the brightest on.
    """
    bright = values.astype(np.float64)
    line = bright * 2 > max(float(bright.max(initial=0)), 0.0)
    filled = ndimage.binary_fill_holes(line)
    if np.array_equal(filled, line):
        filled = _filled_to_the_edge(line)
    sizes = _sizes(filled & ~line, None)
    areas = tuple(size for size in sizes if size >= FLAW * sizes[0])
    return Outline(filled, _sizes(line, TOUCHING), areas)


def _filled_to_the_edge(line: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The line and the side of it on which the object lies, where it meets the edge of the picture at two places.

    What a convex outline encloses holds the middle between the two places, wherever the edge runs.
    """
    edge = np.ones_like(line)
    edge[1:-1, 1:-1] = False
    met, count = ndimage.label(line & edge, TOUCHING)
    if count != 2:
        return line
    middle = np.mean(ndimage.center_of_mass(met, met, (1, 2)), axis=0)
    sides, _ = ndimage.label(~line)
    own = sides[tuple(np.rint(middle).astype(int))]
    filled = line | ((sides == own) & (own > 0))
    # Where it reaches farther than the line, the line has a gap through which the surround came in.
    within = all(np.array_equal(filled.any(axis), line.any(axis)) for axis in (0, 1))
    return filled if within else line


def _sizes(pixels: NDArray[np.bool_], structure: NDArray[np.bool_] | None) -> tuple[int, ...]:
    """Pixels of each connected part, the largest first."""
    parts, count = ndimage.label(pixels, structure)
    return tuple(sorted(np.bincount(parts.ravel(), minlength=count + 1)[1:].tolist(), reverse=True))


def _listed(sizes: tuple[int, ...]) -> str:
    most = ", ".join(map(str, sizes[:3]))
    return f"{most} and fewer" if len(sizes) > 3 else most
