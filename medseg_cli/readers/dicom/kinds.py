"""What a DICOM object is: an image that can be segmented, or something else that is named in words."""

from __future__ import annotations

from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.values import text, whole, words

_BY_MODALITY = {
    "SEG": "DICOM SEG object: it is a mask, not a scan",
    "RTSTRUCT": "RTSTRUCT object: it holds contours, not a scan",
    "RTDOSE": "RT Dose object: it is a dose map, not a scan",
    "RTPLAN": "RT Plan object: it holds a treatment plan, not a scan",
    "SR": "structured report: it holds text and measurements, not a scan",
    "KO": "key object selection: it points to images and holds none",
    "PR": "presentation state: it says how to show images and holds none",
    "REG": "registration object: it holds a transform, not a scan",
    "RWV": "real world value mapping: it holds a table, not a scan",
    "ECG": "waveform object: it holds a signal, not a scan",
    "ANN": "microscopy annotations: they hold shapes, not a scan",
    "SM": "whole-slide microscopy: a tiled pyramid, which is not read yet",
    "DOC": "encapsulated document, not a scan",
}
_BY_CLASS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "SEG",
    "1.2.840.10008.5.1.4.1.1.66.7": "SEG",
    "1.2.840.10008.5.1.4.1.1.481.2": "RTDOSE",
    "1.2.840.10008.5.1.4.1.1.481.3": "RTSTRUCT",
    "1.2.840.10008.5.1.4.1.1.481.5": "RTPLAN",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "SM",
}
_SAMPLES = {"MONOCHROME1": 1, "MONOCHROME2": 1, "PALETTE COLOR": 1, "ARGB": 4, "CMYK": 4, "RGB": 3, "HSV": 3}
"""Samples of a pixel by PhotometricInterpretation (PS3.3 C.7.6.3.1.2); all kinds of YBR have three."""
_VOLUME_ULTRASOUND = "1.2.840.10008.5.1.4.1.1.6.2"


def refusal(header: Any) -> str:
    """Why the object is not a scan, in words; empty for an image.

    Surface and label-map segmentations, reports, plans and the like are told by SOP class first, then by modality.
    """
    sop_class = text(header, "SOPClassUID")
    modality = text(header, "Modality").upper()
    known = _BY_MODALITY.get(_BY_CLASS.get(sop_class, modality))
    if known:
        return known
    if "MOSAIC" in words(header, "ImageType"):
        return "Siemens mosaic: the slices of a volume are tiled in one picture, not read; convert it with dcm2niix"
    if sop_class == _VOLUME_ULTRASOUND:
        return "enhanced ultrasound volume: its frames lie in a transducer frame, which is not read"
    if not whole(header, "Rows") or not whole(header, "Columns"):
        return f"{modality or 'DICOM'} object without an image"
    return ""


def check_samples(header: Any, name: str) -> None:
    """Refuse a header that contradicts itself: read by one half of it, colour would be taken for grey.

    Raises:
        InputError: SamplesPerPixel is not what PhotometricInterpretation means; `name` says in which file.
    """
    kind = text(header, "PhotometricInterpretation").upper()
    meant = 3 if kind.startswith("YBR_") else _SAMPLES.get(kind)
    stated = whole(header, "SamplesPerPixel")
    if meant is None or stated == meant:
        return
    raise InputError(
        f"{name}: PhotometricInterpretation {kind} means {meant} sample{'s' if meant > 1 else ''} per pixel, "
        f"SamplesPerPixel is {'missing' if stated is None else stated}",
        "its header contradicts itself: export it again",
    )


def is_localizer(header: Any) -> bool:
    """Whether the image is a scout for planning, not a diagnostic scan."""
    return bool({"LOCALIZER", "SCOUT", "TOPOGRAM"} & set(words(header, "ImageType")))
