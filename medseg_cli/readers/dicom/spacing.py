"""Pixel size in mm: in the patient, at the detector, on a film, or in a calibrated ultrasound region."""

from __future__ import annotations

from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import ultrasound
from medseg_cli.readers.dicom.values import number, numbers

SAME_SIZE = 0.01
"""Pixel sizes stated twice that differ by less than this part are one: writers round."""


def pixel_spacing(header: Any, name: str) -> tuple[tuple[float, float] | None, str]:
    """((between columns, between rows) in mm, note); None when the file does not say, or contradicts itself.

    PixelSpacing holds in the patient. ImagerPixelSpacing (CR, DX, XA) holds at the detector and is divided by the
    stated magnification; NominalScannedPixelSpacing holds on a digitised film. Of an ultrasound
    picture its calibrated region holds; where another element says something else, neither is believed.
    """
    region = ultrasound.calibration(header)
    found, note = _stated(header, name)
    if found is None:
        return region.spacing, region.note
    if region.spacing is None:
        return found, note
    if any(abs(a - b) > SAME_SIZE * b for a, b in zip(found, region.spacing, strict=True)):
        sizes = [f"{x:.4g} x {y:.4g} mm" for x, y in (found, region.spacing)]
        return None, f"the pixel spacing is {sizes[0]}, that of the ultrasound region {sizes[1]}: neither is used"
    return region.spacing, region.note


def _stated(header: Any, name: str) -> tuple[tuple[float, float] | None, str]:
    """What one of the elements for pixel spacing says."""
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
    return None, ""
