"""Label maps of one slice as PNG: pixel (x, y), counted from the upper left corner, is voxel (x, y, 0).

PNG holds no geometry. For a 2-D image that loses nothing; whoever needs the position in the patient of an X-ray's mask
writes a volume format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.writers.atomic import atomic_output

SUFFIXES = (".png",)

FOREGROUND = 255
"""Value of every object in a mask without label values: white in any viewer."""

MAX_EDGE = (1 << 31) - 1
"""Longest edge that the PNG specification allows."""


def write(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, values: Literal["labels", "0/255"]
) -> None:
    """Write the mask as greyscale PNG, 8 bits deep, or 16 where a label is above 255.

    Args:
        segmentation: of a scan with K = 1.
        path: where to; it appears whole or not at all.
        overwrite: whether it may replace a file.
        values: "labels" writes the label values, "0/255" one value for all objects.

    Raises:
        InputError: `path` may not or cannot be written.
    """
    from PIL import Image, PngImagePlugin

    assert segmentation.scan.shape[2] == 1, "only one slice fits into a picture"
    if max(segmentation.scan.shape) > MAX_EDGE:
        raise InputError(f"{path}: no PNG can be {segmentation.scan.shape} pixels large", "write .nii.gz instead")
    words = PngImagePlugin.PngInfo()
    if segmentation.is_random:
        words.add_text("Comment", RANDOM_WEIGHTS)
    with atomic_output(path, overwrite) as temporary:
        Image.fromarray(_rows(segmentation, values)).save(temporary, format="PNG", pnginfo=words)


def dtype(segmentation: Segmentation, values: Literal["labels", "0/255"]) -> type[np.uint8] | type[np.uint16]:
    """What `write` stores; told by the labels there are, so that an empty mask has the depth of a full one."""
    highest = max((label.value for label in segmentation.labels), default=0)
    return np.uint16 if values == "labels" and highest > np.iinfo(np.uint8).max else np.uint8


def _rows(segmentation: Segmentation, values: Literal["labels", "0/255"]) -> NDArray[np.unsignedinteger[Any]]:
    """(J, I): rows of the picture from top to bottom."""
    plane = segmentation.mask[:, :, 0].T
    if values == "0/255":
        return np.where(plane > 0, np.uint8(FOREGROUND), np.uint8(0))
    return np.ascontiguousarray(plane.astype(dtype(segmentation, values)))
