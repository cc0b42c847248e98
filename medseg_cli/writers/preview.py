"""The picture beside a mask: axial, coronal and sagittal planes through the object, its outline over the scan.

A scan of one slice has one panel: all of it, or the surroundings of objects that would be specks there, with a tint and
the name on each object. Pictures (`Scan.is_picture`) are shown as stored, and so are a few frames of a cine.

Radiological convention: the patient's right is on the left of axial and coronal panels, anterior on the left of
sagittal ones; superior is up, anterior is up in axial panels. Planes are the scan's own slices nearest to the
anatomical ones, so an oblique scan is shown along its own axes, with the letters of the nearest directions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from medseg_cli.measure import Measurement
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import callipers, cine_frame, scene
from medseg_cli.writers.overlay import Shape, paint, shapes
from medseg_cli.writers.sheet import Name, Panel, compose

MARK = ("Software", "medseg preview")
"""Key and text in the PNG by which `is_preview` knows it."""
PANEL = 460
"""Longer side of the field of view in pixels, where there are three panels."""
FLAT_PANEL = 800
"""The same where there is one."""
FLAT_SHORT = 96
"""Shorter side where there is one panel: an image that would be flatter is stretched, which its title says."""
PIXELS_SEEN = 8
"""From this enlargement on, pixels are shown as squares."""


@dataclass(frozen=True)
class _View:
    """How a plane is drawn.

    Args:
        across: anatomical letter at the left and the right edge of the panel.
        down: anatomical letter at the top and the bottom edge.
    """

    title: str
    across: str
    down: str


VIEWS = (_View("axial", "RL", "AP"), _View("coronal", "RL", "SI"), _View("sagittal", "AP", "SI"))


def write(
    segmentation: Segmentation,
    measurements: Sequence[Measurement],
    path: Path,
    *,
    focus: tuple[float, float, float] | None = None,
    stamp: str = "",
) -> None:
    """Draw the picture as PNG.

    Args:
        segmentation: what to draw.
        measurements: of the same segmentation; they choose the planes and go into the legend.
        path: where to.
        focus: voxel ijk that the planes pass through if the mask is empty, such as a click; else the scan's middle.
        stamp: warning across the top.
    """
    words = PngImagePlugin.PngInfo()
    words.add_text(*MARK)
    picture = draw(segmentation, measurements, focus=focus, stamp=stamp)
    # A tenth larger than the smallest file, in a twentieth of the time, which a batch spends on every case.
    picture.save(path, format="PNG", compress_level=3, pnginfo=words)


def is_preview(path: Path) -> bool:
    """Whether `write` made the file, and not a user or `writers.image2d`.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        # Text comes before the pixels; Pillow would warn of huge pictures.
        return "\0".join(MARK).encode() in file.read(1024)


def draw(
    segmentation: Segmentation,
    measurements: Sequence[Measurement],
    *,
    focus: tuple[float, float, float] | None = None,
    stamp: str = "",
) -> Image.Image:
    """The picture as an RGB image; see `write`."""
    return compose(panels(segmentation, measurements, focus), measurements, stamp)


def panels(
    segmentation: Segmentation,
    measurements: Sequence[Measurement],
    focus: tuple[float, float, float] | None = None,
) -> list[Panel]:
    """The planes of the picture, see `write`: axial, coronal and sagittal, or the one of a scan of one slice."""
    scan = segmentation.scan
    if scan.cine and scan.shape[2] > 1:
        return _frames(segmentation, measurements, focus)
    center = scene.center(segmentation, measurements, focus)
    flat = min(scan.shape) == 1
    first, last = scene.field(segmentation, measurements, center)
    views = _flat_views(segmentation, first, last) if flat else VIEWS
    scale = (FLAT_PANEL if flat else PANEL) / max(
        (stop - start + 1) * mm for start, stop, mm in zip(first, last, scan.spacing, strict=True)
    )
    window = scene.window(segmentation, measurements, center)
    found = [_panel(segmentation, view, center, (first, last), scale, window) for view in views]
    return [_measured(each, measurements, 0, first, last) for each in found] if scan.is_picture else found


def _measured(
    panel: Panel, measurements: Sequence[Measurement], frame: int, first: tuple[int, ...], last: tuple[int, ...]
) -> Panel:
    """The panel of a picture, or of one frame of a cine, with the ellipses of its objects."""
    ellipses = [each.ellipses[frame] for each in measurements if each.ellipses]
    count = tuple(stop - start + 1 for start, stop in zip(first, last, strict=True))
    return replace(panel, image=callipers.draw(panel.image, filter(None, ellipses), first, count))


def _frames(
    segmentation: Segmentation, measurements: Sequence[Measurement], focus: tuple[float, float, float] | None
) -> list[Panel]:
    """The first, the middle and the last frame that shows an object; without any the one of `focus`."""
    count = segmentation.scan.shape[2]
    shown = np.flatnonzero(segmentation.mask.any(axis=(0, 1)))
    middle = count // 2 if focus is None else int(np.clip(round(focus[2]), 0, count - 1))
    chosen = dict.fromkeys(int(shown[at]) for at in (0, len(shown) // 2, -1)) if len(shown) else [middle]
    found = []
    for k in chosen:
        alone = cine_frame.alone(segmentation, k)
        picture, last = alone.scan, tuple(size - 1 for size in alone.scan.shape)
        center = (last[0] // 2, last[1] // 2, 0)
        side = max((picture.shape[0]) * picture.spacing[0], picture.shape[1] * picture.spacing[1])
        scale = (PANEL if len(chosen) > 1 else FLAT_PANEL) / side
        window = scene.window(alone, (), center)
        view = _View(cine_frame.title(segmentation.scan, k), "", "")
        panel = _panel(alone, view, center, ((0, 0, 0), last), scale, window)
        found.append(_measured(panel, measurements, k, (0, 0, 0), last))
    return found


def _flat_views(segmentation: Segmentation, first: tuple[int, ...], last: tuple[int, ...]) -> tuple[_View, ...]:
    """The one plane of a scan that is one voxel thick; a picture is shown as stored, without letters."""
    scan = segmentation.scan
    if scan.is_picture:
        whole = all(stop - start + 1 == size for start, stop, size in zip(first, last, scan.shape, strict=True))
        part = "" if whole else f"part of the image: x {first[0]} to {last[0]}, y {first[1]} to {last[1]}"
        return (_View(part, "", ""),)
    letter = scan.orientation[int(np.argmin(scan.shape))]
    return tuple(view for view in VIEWS if letter not in view.across + view.down)


def _panel(
    segmentation: Segmentation,
    view: _View,
    center: tuple[int, int, int],
    field: tuple[tuple[int, ...], tuple[int, ...]],
    scale: float,
    window: tuple[float, float],
) -> Panel:
    scan = segmentation.scan
    codes = scan.orientation
    horizontal = next((axis for axis in range(3) if codes[axis] in view.across), 0)
    vertical = next((axis for axis in range(3) if codes[axis] in view.down), 1)
    through = 3 - horizontal - vertical
    crop = [slice(first, last + 1) for first, last in zip(*field, strict=True)]
    crop[through] = slice(center[through], center[through] + 1)
    box = tuple(crop)
    order = (vertical, horizontal, through)
    grey = np.moveaxis(scan.voxels[(slice(None), *box)], [axis + 1 for axis in order], [1, 2, 3])[..., 0]
    mask = np.transpose(segmentation.mask[box], order)[..., 0]
    # An axis that points to the left or top edge's letter runs against the picture.
    if view.across and codes[horizontal] == view.across[0]:
        grey, mask = grey[:, :, ::-1], mask[:, ::-1]
    if view.down and codes[vertical] == view.down[0]:
        grey, mask = grey[:, ::-1], mask[::-1]
    width = mask.shape[1] * scan.spacing[horizontal] * scale
    height = mask.shape[0] * scan.spacing[vertical] * scale
    title, short = view.title, min(width, height)
    flat = min(scan.shape) == 1
    if flat and short < FLAT_SHORT:
        title = ", ".join(filter(None, [title, f"stretched {FLAT_SHORT / short:.3g} times across"]))
    least = FLAT_SHORT if flat else 1
    size = (max(least, round(width)), max(least, round(height)))
    squares = flat and min(size[0] / mask.shape[1], size[1] / mask.shape[0]) >= PIXELS_SEEN
    image = Image.fromarray(_eight_bit(grey, window)).resize(
        size, Image.Resampling.NEAREST if squares else Image.Resampling.BICUBIC, reducing_gap=3.0
    )
    drawn = shapes(mask, segmentation.labels, size)
    painted = paint(image.convert("RGB"), drawn, tinted=flat)
    bar = size[0] / (mask.shape[1] * scan.spacing[horizontal]) if scan.spacing_known else None
    return Panel(title, view.across + view.down, painted, bar, [_name(shape) for shape in drawn] if flat else [])


def _name(shape: Shape) -> Name:
    rows, columns = shape.window
    box = (columns.start, rows.start, columns.stop - 1, rows.stop - 1)
    return Name(shape.label.name, shape.place, box, int(np.count_nonzero(shape.inside)))


def _eight_bit(grey: NDArray[np.float32], window: tuple[float, float]) -> NDArray[np.uint8]:
    """(C, H, W) → (H, W) or (H, W, 3) uint8, a few rows at a time: a copy in float32 can be gigabytes."""
    low, high = window
    channels, rows, columns = grey.shape
    kept = 3 if channels >= 3 else 1
    shades = np.empty((rows, columns, kept), np.uint8)
    band = max(1, scene.SAMPLE // (columns * kept))
    for row in range(0, rows, band):
        part = np.nan_to_num(grey[:kept, row : row + band], nan=low)
        shades[row : row + band] = np.moveaxis(np.clip((part - low) / (high - low), 0, 1) * 255, 0, -1)
    return shades if kept == 3 else shades[..., 0]
