"""How the panels of a preview become one picture: letters, scale bars, legend, stamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medseg_cli.measure import Measurement

MARGIN, HEADER, LINE, LEAST_WIDTH = 10, 26, 20, 460
INK, PAPER, WARNING = (235, 235, 235), (0, 0, 0), (255, 196, 0)

RGB = tuple[int, int, int]


@dataclass(frozen=True)
class Panel:
    """One plane, ready to be pasted.

    Args:
        title: what it shows.
        edges: letters at the left, right, top and bottom edge; empty for none.
        image: the scan.
        outlines: colour and (H, W) pixels of each object's line.
    """

    title: str
    edges: str
    image: Image.Image
    outlines: list[tuple[RGB, NDArray[np.bool_]]]


def compose(panels: list[Panel], measurements: Sequence[Measurement], scale: float | None, stamp: str) -> Image.Image:
    """The panels side by side, a legend below, and the stamp across the top.

    Args:
        panels: from left to right.
        measurements: one line of the legend each.
        scale: pixels per mm; None leaves the scale bars out.
        stamp: warning, or "".
    """
    height = max(panel.image.height for panel in panels)
    width = max(MARGIN + sum(panel.image.width + MARGIN for panel in panels), LEAST_WIDTH)
    legend = HEADER + height + MARGIN
    picture = Image.new("RGB", (width, legend + LINE * max(1, len(measurements)) + MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)
    left = MARGIN
    for panel in panels:
        top = HEADER + (height - panel.image.height) // 2
        pixels = np.asarray(panel.image).copy()
        for color, line in panel.outlines:
            pixels[line] = color
        picture.paste(Image.fromarray(pixels), (left, top))
        _annotate(pen, panel, left, top)
        if scale is not None:
            _scale_bar(pen, panel, left, top, scale)
        left += panel.image.width + MARGIN
    for row, each in enumerate(measurements):
        y = legend + row * LINE
        pen.rectangle((MARGIN, y + 3, MARGIN + 12, y + 15), fill=each.label.color)
        pen.text((MARGIN + 20, y), legend_text(each), fill=INK, font=_font(14))
    if stamp:
        pen.rectangle((0, 0, width, HEADER - 2), fill=WARNING)
        pen.text((width / 2, (HEADER - 2) / 2), stamp, fill=PAPER, font=_font(16), anchor="mm")
    return picture


def legend_text(measurement: Measurement) -> str:
    """One line about an object: name and size."""
    if measurement.empty:
        return f"{measurement.label.name}: EMPTY, nothing was segmented"
    if measurement.volume_mm3 is not None:
        size = f"{measurement.volume_mm3 / 1000:.3g} mL"
    elif measurement.area_mm2 is not None:
        size = f"{measurement.area_mm2:.4g} mm2"  # the font has no ²
    else:
        size = f"{measurement.voxels} pixels"
    cut = ", touches the edge of the scan" if measurement.touches_border else ""
    return f"{measurement.label.name}: {size}{cut}"


def _annotate(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    wide, high = panel.image.size
    _text(pen, (left + 4, top + 3), panel.title, "la", 13)
    places = (
        (left + 4, top + high / 2, "lm"),
        (left + wide - 4, top + high / 2, "rm"),
        (left + wide / 2, top + 3, "ma"),
        (left + wide / 2, top + high - 4, "md"),
    )
    for letter, (x, y, anchor) in zip(panel.edges, places, strict=False):
        _text(pen, (x, y), letter, anchor, 18)


def _scale_bar(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int, scale: float) -> None:
    """A bar of a round number of mm, at most a third of the panel."""
    room = panel.image.width / scale / 3
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm <= room), default=0)
    if not length:
        return
    right, y = left + panel.image.width - 8, top + panel.image.height - 10
    start = right - length * scale
    pen.line((start - 1, y, right + 1, y), fill=PAPER, width=5)
    pen.line((start, y, right, y), fill=INK, width=3)
    _text(pen, ((start + right) / 2, y - 6), f"{length} mm", "md", 13)


def _text(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, anchor: str, size: int) -> None:
    pen.text(place, text, fill=INK, font=_font(size), anchor=anchor, stroke_width=2, stroke_fill=PAPER)


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
