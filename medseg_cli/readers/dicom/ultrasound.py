"""DICOM ultrasound regions (PS3.3 C.8.5.5): which part of a picture shows tissue, and how large its pixels are there.

A picture can hold several regions: B-mode beside B-mode, M-mode or spectra below it, an ECG. Only 2-D regions of tissue
(or of flow over tissue) count. A scale is believed where all of them state the same one, in cm, and lie in the picture;
otherwise the pixel size is unknown and a note says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from medseg_cli.readers.dicom.values import MALFORMED, whole

Box = tuple[int, int, int, int]

PLANE, TISSUE, FLOW, CENTIMETRES = 1, 1, 2, 3
SAME_SCALE = 1e-3
"""Scales that differ by less than this part of each other are one."""
ENDS = 1
"""Some scanners count the last pixel from 1: a region may reach this far beyond the picture, and is cut there."""
_FORMATS = {2: "M-mode", 3: "spectral", 4: "waveform", 5: "graphics"}


@dataclass(frozen=True)
class Calibration:
    """What the regions of a picture say.

    Args:
        spacing: mm between columns and between rows; None where they state none, or contradict each other.
        box: (x0, y0, x1, y1) pixels that show tissue, both ends inclusive; None where that is no single box.
        note: what was chosen, or why there is no pixel size; "" where there are no regions.
    """

    spacing: tuple[float, float] | None = None
    box: Box | None = None
    note: str = ""


@dataclass(frozen=True)
class _Region:
    form: int | None
    kind: int | None
    box: Box | None
    spacing: tuple[float, float] | None


def calibration(header: Any) -> Calibration:
    """The calibration of a picture by its SequenceOfUltrasoundRegions."""
    try:
        regions = [_region(item) for item in header.get("SequenceOfUltrasoundRegions") or []]
    except MALFORMED:
        return Calibration(note="the ultrasound regions are damaged: the pixel size is not taken from them")
    planes = [each for each in regions if each.form == PLANE]
    # Some writers leave the type of data out, which is tissue then: a flow picture lies over one of tissue.
    shown = [each for each in planes if each.kind in (TISSUE, None)]
    tissue = shown or [each for each in planes if each.kind == FLOW]
    if not regions:
        return Calibration()
    if not tissue:
        kinds = ", ".join(dict.fromkeys(_FORMATS.get(each.form or 0, "unknown") for each in regions))
        return Calibration(note=f"no ultrasound region shows tissue ({kinds}): the pixel size is unknown")
    size = (whole(header, "Columns") or 0, whole(header, "Rows") or 0)
    outside = next((each.box for each in tissue if each.box is not None and not _fits(each.box, size)), None)
    if outside is not None:
        return Calibration(
            note=f"the ultrasound region, x {outside[0]} to {outside[2]} and y {outside[1]} to {outside[3]}, does not "
            f"fit the picture of {size[0]}x{size[1]} pixels, which was perhaps resized or cropped: its pixel size is "
            "not used (--spacing states one)"
        )
    return _agreed(tissue, size, len(regions) - len(tissue))


def _agreed(tissue: list[_Region], size: tuple[int, int], others: int) -> Calibration:
    """What regions that lie in the picture say together."""
    box = _outer([each.box for each in tissue], size)
    scales = [each.spacing for each in tissue if each.spacing is not None]
    if len(scales) < len(tissue):
        return Calibration(None, box, "the ultrasound region states no pixel size in cm")
    first = scales[0]
    if any(abs(a - b) > SAME_SCALE * b for scale in scales for a, b in zip(scale, first, strict=True)):
        listed = ", ".join(f"{x:.4g} x {y:.4g}" for x, y in dict.fromkeys(scales))
        return Calibration(
            None, box, f"{len(tissue)} ultrasound regions have different pixel sizes ({listed} mm): none is used"
        )
    note = "pixel spacing is that of the calibrated ultrasound region"
    if len(tissue) > 1:
        note = f"pixel spacing is that of {len(tissue)} calibrated ultrasound regions, which agree"
    if others:
        note += f"; {others} other region(s) (M-mode, spectra, curves) were passed over"
    return Calibration(first, box, note)


def _region(item: Any) -> _Region:
    corners = [
        whole(item, f"RegionLocation{end}") for end in ("MinX0", "MinY0", "MaxX1", "MaxY1")
    ]  # PS3.3: in pixels of the picture, counted from 0
    x0, y0, x1, y1 = corners
    box = None if x0 is None or y0 is None or x1 is None or y1 is None else (x0, y0, x1, y1)
    spacing = None
    if whole(item, "PhysicalUnitsXDirection") == whole(item, "PhysicalUnitsYDirection") == CENTIMETRES:
        x, y = (abs(float(item.get(keyword) or 0)) * 10 for keyword in ("PhysicalDeltaX", "PhysicalDeltaY"))
        spacing = (round(x, 6), round(y, 6)) if min(x, y) > 1e-6 and max(x, y) < 1e3 else None
    return _Region(whole(item, "RegionSpatialFormat"), whole(item, "RegionDataType"), box, spacing)


def _fits(box: Box, size: tuple[int, int]) -> bool:
    x0, y0, x1, y1 = box
    return 0 <= x0 <= x1 < size[0] + ENDS and 0 <= y0 <= y1 < size[1] + ENDS


def _outer(boxes: list[Box | None], size: tuple[int, int]) -> Box | None:
    """The box that holds all others, cut to the picture; None where there is none such (pictures side by side)."""
    stated = [box for box in boxes if box is not None]
    if len(stated) < len(boxes):
        return None
    for x0, y0, x1, y1 in stated:
        if all(x0 <= a and y0 <= b and c <= x1 and d <= y1 for a, b, c, d in stated):
            return (x0, y0, min(x1, size[0] - 1), min(y1, size[1] - 1))
    return None
