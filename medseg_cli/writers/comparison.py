"""A picture of one object as a reference and a prediction have it: the slice in which they differ most."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medseg_cli.scan import Scan
from medseg_cli.slices import Plane, plane_of

REFERENCE, PREDICTION, BOTH = (45, 212, 238), (255, 145, 60), (255, 255, 255)
"""Colours of the lines; the third where both run in one place. Distinguishable by the colour-blind."""
PAPER, INSIDE = 24, 70
"""Grey values outside and inside both masks where there is no image."""
TINT = 0.45
"""How much of a line's colour fills what only one mask has, where there is no image."""
SIDE = 360
"""Longer side in pixels."""
MARGIN = 0.35
"""Surroundings shown on each side, as share of the object's extent."""
LEAST_MARGIN = 8
"""And at least so many voxels of them."""


def draw(
    scan: Scan, prediction: NDArray[np.bool_], reference: NDArray[np.bool_], *, has_image: bool
) -> tuple[bytes, str]:
    """The picture as PNG, and in words what it shows.

    Args:
        scan: what both masks lie on.
        prediction, reference: (I, J, K) the object; at least one of them has a voxel.
        has_image: whether the voxels of `scan` are an image; masks alone are drawn otherwise.

    Raises:
        InputError: a scan that is one voxel thick along two axes.
    """
    plane = plane_of(scan)
    index = _slice(prediction, reference, plane)
    two = [plane.take(each, index) for each in (prediction, reference)]
    window = _window(two[0] | two[1])
    found, truth = (each[window] for each in two)
    height, width = _size(found.shape, plane.pixel_mm)
    found, truth = (_enlarged(each, height, width) for each in (found, truth))
    if has_image:
        pixels = _grey(plane.take(scan.voxels, index)[(slice(None), *window)], height, width)
    else:
        pixels = _flat(found, truth)
    lines = [_outline(each) for each in (found, truth)]
    pixels[lines[0]], pixels[lines[1]] = PREDICTION, REFERENCE
    pixels[lines[0] & lines[1]] = BOTH
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    what = "image" if plane.count == 1 else f"{plane.name} slice {index} of {plane.count}"
    return file.getvalue(), what


def _slice(prediction: NDArray[np.bool_], reference: NDArray[np.bool_], plane: Plane) -> int:
    """Where most voxels differ; where most of the object is, if none do."""
    others = tuple(axis for axis in range(3) if axis != plane.through)
    differing = np.count_nonzero(prediction != reference, axis=others)
    return int(np.argmax(differing if differing.any() else np.count_nonzero(reference, axis=others)))


def _window(either: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of the object and its surroundings."""
    spans = []
    for axis, size in enumerate(either.shape):
        at = np.flatnonzero(either.any(axis=1 - axis))
        first, last = int(at[0]), int(at[-1])
        margin = max(LEAST_MARGIN, round(MARGIN * (last - first + 1)))
        spans.append(slice(max(0, first - margin), min(size, last + margin + 1)))
    return spans[0], spans[1]


def _size(shape: tuple[int, ...], pixel_mm: tuple[float, float]) -> tuple[int, int]:
    """(height, width) in pixels, in the proportions of the body."""
    high, wide = shape[0] * pixel_mm[0], shape[1] * pixel_mm[1]
    return max(1, round(SIDE * high / max(high, wide))), max(1, round(SIDE * wide / max(high, wide)))


def _enlarged(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    picture = Image.fromarray(np.ascontiguousarray(mask)).convert("L")
    return np.asarray(picture.resize((width, height), Image.Resampling.NEAREST)) > 0


def _grey(voxels: NDArray[np.float32], height: int, width: int) -> NDArray[np.uint8]:
    """(C, H, W) → (height, width, 3), from the 1st to the 99th percentile of what is shown."""
    values = np.nan_to_num(voxels[:3] if len(voxels) >= 3 else np.repeat(voxels[:1], 3, axis=0))
    low, high = (float(value) for value in np.percentile(values, (1, 99)))
    shades = np.clip((values - low) / max(high - low, 1e-6), 0, 1) * 255
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(shades, 0, -1)).astype(np.uint8))
    return np.array(picture.resize((width, height), Image.Resampling.BICUBIC))


def _flat(found: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Masks alone: grey inside both, a tint where only one is."""
    pixels = np.full((*found.shape, 3), PAPER, np.uint8)
    pixels[found & truth] = INSIDE
    for only, color in ((found & ~truth, PREDICTION), (truth & ~found, REFERENCE)):
        pixels[only] = np.rint(np.array(color) * TINT)
    return pixels


def _outline(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The outermost two pixels inside a mask."""
    core = inside
    for _ in range(2):
        padded = np.pad(core, 1)
        core = core & padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    return inside & ~core
