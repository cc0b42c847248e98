"""What a panel of a preview draws over the scan: each object's line and, in pictures, its tint and its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medseg_cli.segmentation import Label

RGB = tuple[int, int, int]

TINT = 0.22
"""How much of an object's colour lies over the scan inside it."""


@dataclass(frozen=True)
class Shape:
    """One object in a panel.

    Args:
        label: which.
        window: rows and columns of the panel that hold it, and no more.
        inside: its pixels in the window.
        line: the outermost of them.
        place: x, y in the panel, deep inside its largest part, where a name may stand.
    """

    label: Label
    window: tuple[slice, slice]
    inside: NDArray[np.bool_]
    line: NDArray[np.bool_]
    place: tuple[int, int]


def shapes(mask: NDArray[np.unsignedinteger], labels: Sequence[Label], size: tuple[int, int]) -> list[Shape]:
    """The objects of a label map that are seen in a panel.

    Args:
        mask: (rows, columns) label values.
        labels: in the order of the legend.
        size: width and height of the panel in pixels.
    """
    width, height = size
    small = _resized(_resized(mask, 0, height), 1, width)
    windows = ndimage.find_objects(small)
    found = []
    for label in labels:
        window = windows[label.value - 1] if label.value <= len(windows) else None
        if window is not None:
            inside = small[window] == label.value
            x, y = _deepest(inside)
            place = (x + window[1].start, y + window[0].start)
            found.append(Shape(label, window, inside, _outline(inside), place))
    return found


def paint(image: Image.Image, drawn: Sequence[Shape], *, tinted: bool) -> Image.Image:
    """The panel with its objects on it; `tinted` lays their colours over their insides too."""
    pixels = np.asarray(image).copy()
    for shape in drawn if tinted else ():
        part, color = pixels[shape.window], np.array(shape.label.color)
        part[shape.inside] = np.rint((1 - TINT) * part[shape.inside] + TINT * color).astype(np.uint8)
    for shape in drawn:
        pixels[shape.window][shape.line] = shape.label.color
    return Image.fromarray(pixels)


def _resized(mask: NDArray[np.unsignedinteger], axis: int, length: int) -> NDArray[np.unsignedinteger]:
    """The mask with `length` pixels along `axis`. Where it shrinks, the highest of the merged values is kept, so that
    an object of one pixel is still seen in a picture of thousands."""
    size = mask.shape[axis]
    if length < size:
        return np.maximum.reduceat(mask, np.arange(length) * size // length, axis=axis)
    return np.take(mask, (2 * np.arange(length) + 1) * size // (2 * length), axis=axis)


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(H, W): the outermost two pixels inside an object, so that the line never hides what lies outside it."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return inside & ~core


def _deepest(inside: NDArray[np.bool_]) -> tuple[int, int]:
    """x, y of the pixel that is farthest from the object's edge; the middle one where there are several."""
    depth = ndimage.distance_transform_cdt(np.pad(inside, 1), "taxicab")
    best = np.argwhere(depth == depth.max()) - 1
    y, x = best[np.argmin(((best - best.mean(axis=0)) ** 2).sum(axis=1))]
    return int(x), int(y)
