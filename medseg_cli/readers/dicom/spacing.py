"""Pixel size in mm: in the patient, at the detector, on a film, or in a calibrated ultrasound region."""

from __future__ import annotations

from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.values import MALFORMED, number, numbers


def pixel_spacing(header: Any, name: str) -> tuple[tuple[float, float] | None, str]:
    """((between columns, between rows) in mm, note); None when the file does not say.

    PixelSpacing holds in the patient. ImagerPixelSpacing (CR, DX, XA) holds at the detector and is divided by the
    stated magnification; NominalScannedPixelSpacing holds on a digitised film.
    """
    for keyword, note in (
        ("PixelSpacing", ""),
        ("ImagerPixelSpacing", "pixel spacing is that at the detector (ImagerPixelSpacing)"),
        ("NominalScannedPixelSpacing", "pixel spacing is that of the scanned film (NominalScannedPixelSpacing)"),
    ):
        value = numbers(header, keyword, 2, name)
        if value is None:
            continue
        if min(value) <= 0:
            raise InputError(f"{name}: {keyword} is {list(value)} mm, it must be positive")
        rows, columns = value
        if keyword == "ImagerPixelSpacing":
            factor = number(header, "EstimatedRadiographicMagnificationFactor", name)
            if factor and factor > 0:
                return (columns / factor, rows / factor), f"{note}, divided by the stated magnification {factor:g}"
            note += ", magnification not corrected"
        return (columns, rows), note
    return ultrasound_spacing(header)


def ultrasound_spacing(header: Any) -> tuple[tuple[float, float] | None, str]:
    """Pixel spacing from the calibrated 2-D region of an ultrasound image; None unless there is exactly one scale."""
    scales = set()
    try:
        for region in header.get("SequenceOfUltrasoundRegions") or []:
            tissue = region.get("RegionSpatialFormat") == 1
            centimetres = region.get("PhysicalUnitsXDirection") == region.get("PhysicalUnitsYDirection") == 3
            if tissue and centimetres:
                x, y = abs(float(region.PhysicalDeltaX)) * 10, abs(float(region.PhysicalDeltaY)) * 10
                scales.add((round(x, 6), round(y, 6)))
    except MALFORMED:
        return None, ""
    scales.discard((0.0, 0.0))
    if len(scales) != 1 or min(next(iter(scales))) <= 0:
        return None, ""
    return scales.pop(), "pixel spacing is that of the calibrated ultrasound region"
