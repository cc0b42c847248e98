"""Callipers, dotted lines, letters and coloured marks that a machine has burned into an ultrasound picture.

They are told from tissue by what tissue cannot do: an ultrasound beam has a width, so that echoes rise and fall over
several pixels, while drawn lines are thin, of one shade, and end from one pixel to the next. What is not all of that is
left alone: a mark that stays does less harm than tissue that goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

WIDEST = 0.013
"""Lines are thinner than this share of the picture's shorter side, and than `LEAST_WIDEST` pixels in small ones."""
LEAST_WIDEST = 7
STANDS_OUT = 60
"""Grey values by which a line is brighter than what is left when thin things are taken away."""
JUMP = 70
"""Grey values by which a drawn edge falls from one pixel to the next."""
HARD = 0.45
"""Share of a mark's outline that has to fall so."""
HARD_SIDE = 0.35
"""Share of the outline on each of the four sides that has to fall so: a blanked corner cuts tissue on two or three."""
SHADES = 25.0
"""Standard deviation of the grey values inside a mark that counts as one shade."""
COLOURED = 40
"""Difference between the most and the least of red, green and blue that makes a colour."""
TOUCHING = np.ones((3, 3), dtype=bool)


def find_marks(picture: NDArray[np.uint8], inside: NDArray[np.bool_] | None = None) -> NDArray[np.bool_]:
    """Pixels (H, W) of a picture (H, W, 3) that were drawn on it; colour flow is not.

    Args:
        picture: red, green and blue.
        inside: (H, W), where marks are wanted; what lies elsewhere, such as a bar of colours, says nothing about them.
    """
    red, green, blue = picture[..., 0], picture[..., 1], picture[..., 2]
    grey, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    coloured = grey - least >= COLOURED
    if inside is not None:
        coloured &= inside
    widest = _widest(grey.shape)
    # Wherever such a square fits in, one axis after the other: pixel by pixel, large pictures took minutes.
    if coloured.any() and ndimage.minimum_filter(coloured, widest, mode="constant", cval=0).any():
        # Wide colour is flow or stiffness: what is below it is unknown, and what is drawn in it too.
        coloured[:] = False
    marks = _drawn(grey, widest) | coloured
    return marks if inside is None else marks & inside


def painted(marks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels (H, W) that `without` replaces: marks and, for their soft edges, the pixel round them."""
    grown: NDArray[np.bool_] = ndimage.binary_dilation(marks, TOUCHING)
    return grown


def without(picture: NDArray[np.uint8], marks: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) with marks (H, W), and the pixel round them, replaced by a mean of what lies about them."""
    gone = painted(marks)
    if not gone.any() or gone.all():
        return picture
    result = picture.copy()
    missing = gone.copy()
    sigma = 1.5
    while missing.any():
        weight = ndimage.gaussian_filter((~gone).astype(np.float32), sigma, truncate=3.0)
        known = missing & (weight > 0.05)
        for channel in range(3):
            kept = np.where(gone, 0, picture[..., channel]).astype(np.float32)
            mean = ndimage.gaussian_filter(kept, sigma, truncate=3.0)
            result[..., channel][known] = np.rint(mean[known] / weight[known]).clip(0, 255).astype(np.uint8)
        missing &= ~known
        sigma *= 2
    return result


def _widest(shape: tuple[int, ...]) -> int:
    """Side of the square, in pixels, that fits into no line; odd."""
    return max(LEAST_WIDEST, round(WIDEST * min(shape))) | 1


def _drawn(grey: NDArray[np.uint8], widest: int) -> NDArray[np.bool_]:
    """Bright marks: thin, of one shade, with hard edges."""
    thin = grey - ndimage.grey_opening(grey, (widest, widest)) >= STANDS_OUT
    if not thin.any():
        return thin
    # Of an edge between two shades only the brighter side is the line.
    thin &= grey >= 0.75 * ndimage.maximum_filter(grey, 3)
    parts, count = ndimage.label(thin, TOUCHING)
    # Little of a picture is thin: the rest need not be looked at again.
    places = np.nonzero(thin)
    own, shades = parts[places], grey[places].astype(np.int16)
    falls, outline, sides = np.zeros(count + 1), np.zeros(count + 1), np.zeros(count + 1)
    for axis in (0, 1):
        for side in (1, -1):
            beside = [*places]
            beside[axis] = places[axis] - side
            # What the picture's own edge cuts does not end there.
            seen = (beside[axis] >= 0) & (beside[axis] < grey.shape[axis])
            near = (beside[0][seen], beside[1][seen])
            ends = parts[near] != own[seen]
            hard = ends & (shades[seen] - grey[near] >= JUMP)
            here, there = (np.bincount(own[seen][each], minlength=count + 1) for each in (ends, hard))
            outline += here
            falls += there
            sides += there >= HARD_SIDE * here
    sizes = np.bincount(own, minlength=count + 1)
    sums = np.bincount(own, shades, minlength=count + 1)
    squares = np.bincount(own, shades.astype(np.float64) ** 2, minlength=count + 1)
    mean = sums / np.maximum(1, sizes)
    spread = np.sqrt(np.maximum(0, squares / np.maximum(1, sizes) - mean**2))
    good = (falls >= HARD * outline) & (sides == 4) & (spread <= SHADES) & (sizes >= 2)
    good[0] = False
    return good[parts]
