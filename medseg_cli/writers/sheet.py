"""How the panels of a preview become one picture: letters, scale bars, legend, stamp."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from medseg_cli.biometry import best
from medseg_cli.measure import Measurement

MARGIN, HEADER, LINE, SWATCH, LEAST_WIDTH = 10, 26, 20, 20, 460
INK, PAPER, WARNING = (235, 235, 235), (0, 0, 0), (255, 196, 0)

LEGEND_LINES = 40
"""Objects that the legend names; a picture of a thousand cells must not become a list of them."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Name:
    """An object's name in a panel.

    Args:
        text: the name.
        place: x, y in the panel where it is to stand.
        box: first x, first y, last x and last y of the object; a name that would cover it stands below or above it.
        pixels: how large the object is there; the larger one gets its name where two would overlap.
    """

    text: str
    place: tuple[int, int]
    box: tuple[int, int, int, int]
    pixels: int


@dataclass(frozen=True)
class Panel:
    """One plane with its objects, ready to be pasted.

    Args:
        title: what it shows.
        edges: letters at the left, right, top and bottom edge; empty for none.
        image: what to paste.
        scale: pixels per mm along its width; None leaves the scale bar out.
        names: to be written on it.
    """

    title: str
    edges: str
    image: Image.Image
    scale: float | None
    names: list[Name]


def compose(panels: list[Panel], measurements: Sequence[Measurement], stamp: str) -> Image.Image:
    """The panels side by side, a legend below, and the stamp across the top.

    Args:
        panels: from left to right.
        measurements: one line of the legend each.
        stamp: warning, or "".
    """
    height = max(panel.image.height for panel in panels)
    width = max(MARGIN + sum(panel.image.width + MARGIN for panel in panels), LEAST_WIDTH)
    legend = HEADER + height + MARGIN
    lines = _legend(measurements, width - 2 * MARGIN - SWATCH)
    picture = Image.new("RGB", (width, legend + LINE * max(1, len(lines)) + MARGIN), PAPER)
    pen = ImageDraw.Draw(picture)
    left = MARGIN
    for panel in panels:
        top = HEADER + (height - panel.image.height) // 2
        picture.paste(panel.image, (left, top))
        _write_names(pen, panel, left, top)
        _annotate(pen, panel, left, top)
        if panel.scale is not None:
            _scale_bar(pen, panel, left, top, panel.scale)
        left += panel.image.width + MARGIN
    for row, (color, text) in enumerate(lines):
        y = legend + row * LINE
        pen.rectangle((MARGIN, y + 3, MARGIN + 12, y + 15), fill=color)
        pen.text((MARGIN + SWATCH, y), text, fill=INK, font=_font(14))
    if stamp:
        pen.rectangle((0, 0, width, HEADER - 2), fill=WARNING)
        pen.text((width / 2, (HEADER - 2) / 2), stamp, fill=PAPER, font=_font(16), anchor="mm")
    return picture


def _legend(measurements: Sequence[Measurement], room: int) -> list[tuple[tuple[int, int, int], str]]:
    """Colour and text of each line; a name that is longer than `room` pixels is cut, its size is not."""
    shown = measurements if len(measurements) <= LEGEND_LINES else measurements[: LEGEND_LINES - 1]
    lines = []
    for each in shown:
        name, rest = each.label.name, legend_text(each).removeprefix(each.label.name)
        lines.append((each.label.color, _shortened(name, room - _font(14).getlength(rest)) + rest))
    if len(shown) < len(measurements):
        lines.append((PAPER, f"and {len(measurements) - len(shown)} more objects, listed in the report"))
    return lines


def _shortened(text: str, room: float) -> str:
    if _font(14).getlength(text) <= room:
        return text
    while text and _font(14).getlength(f"{text}...") > room:
        text = text[:-1]
    return f"{text}..."


def legend_text(measurement: Measurement) -> str:
    """One line about an object: name and size."""
    if measurement.empty:
        return f"{measurement.label.name}: EMPTY, nothing was segmented"
    if measurement.volume_mm3 is not None:
        size = f"{_figure(measurement.volume_mm3 / 1000)} mL"
    elif measurement.area_mm2 is not None:
        size = f"{_figure(measurement.area_mm2)} mm2"  # the font has no ²
    else:
        size = f"{measurement.voxels} pixel{'s' if measurement.voxels != 1 else ''}"
    if measurement.frames is not None:
        told = measurement.frames
        size = size if measurement.area_mm2 is not None else f"{_figure(told.mean_pixels)} pixels"
        size = f"{size} on average in {len(told.shown)} of {len(told.pixels)} frames"
    ellipse = best(measurement.ellipses)
    if ellipse is not None:
        size = f"{size}, ellipse {ellipse.circumference:.1f} {ellipse.unit} round"
    elif measurement.label.shape:
        size = f"{size}, no ellipse"
    cut = ", touches the edge of the scan" if measurement.touches_border else ""
    return f"{measurement.label.name}: {size}{cut}"


def _figure(value: float) -> str:
    """Three digits, or all of a whole number: 0.0123, 4.56, 26240."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def _write_names(pen: ImageDraw.ImageDraw, panel: Panel, left: int, top: int) -> None:
    """Each name on its object, inside the panel; one that would touch another is left to the legend."""
    taken: list[Box] = [_around(pen, (4, 3), panel.title, 13)] if panel.title else []
    for name in sorted(panel.names, key=lambda each: -each.pixels):
        text = _shortened(name.text, panel.image.width - 8)
        _, _, wide, high = _around(pen, (0, 0), text, 14)
        x, y = name.place[0] - wide / 2, name.place[1] - high / 2
        first_x, first_y, last_x, last_y = name.box
        if (last_x - first_x) * (last_y - first_y) < 4 * wide * high:
            x, below = (first_x + last_x - wide) / 2, last_y + 4
            y = below if below + high + 4 < panel.image.height else first_y - high - 4
        x = min(max(x, 4), max(4, panel.image.width - wide - 4))
        y = min(max(y, 4), max(4, panel.image.height - high - 4))
        box = _around(pen, (x, y), text, 14)
        if any(_touch(box, other) for other in taken):
            continue
        taken.append(box)
        _text(pen, (left + x, top + y), text, "la", 14)


def _around(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size: int) -> Box:
    return pen.textbbox(place, text, font=_font(size), anchor="la", stroke_width=2)


def _touch(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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
