"""Headers → frames: one `Frame` per picture plane, be it a file of its own or one of many in an enhanced object."""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import cine, kinds, ultrasound
from medseg_cli.readers.dicom.files import Source
from medseg_cli.readers.dicom.spacing import pixel_spacing
from medseg_cli.readers.dicom.values import MALFORMED, number, numbers, text, whole, words

ORTHONORMAL_TOLERANCE = 1e-2
"""Of the lengths of the image directions and the cosine between them; headers are often rounded."""
HEADER_TAGS = [
    "SOPClassUID",
    "SOPInstanceUID",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "SeriesNumber",
    "SeriesDescription",
    "Modality",
    "ImageType",
    "InstanceNumber",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "NominalScannedPixelSpacing",
    "EstimatedRadiographicMagnificationFactor",
    "SequenceOfUltrasoundRegions",
    "SliceThickness",
    "SpacingBetweenSlices",
    "RescaleSlope",
    "RescaleIntercept",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
    "TemporalPositionIdentifier",
    "EchoNumbers",
    "EchoTime",
    "DiffusionBValue",
    "TriggerTime",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
    "FrameReferenceTime",
    "FrameIncrementPointer",
    "FrameTime",
    "FrameTimeVector",
    "CineRate",
    "RecommendedDisplayFrameRate",
]
SPLIT_TAGS = (
    "EchoNumbers",
    "EchoTime",
    "TemporalPositionIdentifier",
    "ImageType",
    "DiffusionBValue",
    "TriggerTime",
    "FrameReferenceTime",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ContentTime",
)
"""Elements by which several volumes of one series can be told apart, the most meaningful first."""


@dataclass(frozen=True)
class Frame:
    """One picture plane and where it lies. Lengths in mm, directions and positions in LPS.

    Args:
        source: the file that holds it.
        index: 0-based number within that file.
        series_uid, series_number, description, modality: of its series; empty or None when absent.
        refusal: why it is no scan, in words; empty for an image.
        localizer: a scout image.
        size: (columns, rows).
        samples: 1 grey, 3 colour.
        position: centre of the first pixel.
        orientation: direction of increasing column index, then of increasing row index.
        pixel_spacing: (between columns, between rows), i.e. along i and j.
        spacing_note: how the pixel spacing was found, when not from PixelSpacing.
        thickness: spacing between slices, or slice thickness; used for a lone slice only.
        rescale: (slope, intercept) from stored values to units.
        instance: instance number within the series, or frame number.
        sop_uid, sop_class: SOPInstanceUID and SOPClassUID.
        study_uid, space_uid: StudyInstanceUID and FrameOfReferenceUID; empty when absent.
        numbered: the file can hold many frames, so that a reference to this one needs its number.
        region: (x0, y0, x1, y1) pixels that show tissue, both ends inclusive; None where the file does not say.
        clock: of a classic object with many frames: whether and when they follow each other; None of any other.
        tags: values of `SPLIT_TAGS` (classic) or functional groups (enhanced) as text, by element name.
    """

    source: Source
    index: int
    series_uid: str = ""
    series_number: int | None = None
    description: str = ""
    modality: str = ""
    refusal: str = ""
    localizer: bool = False
    size: tuple[int, int] = (0, 0)
    samples: int = 1
    position: tuple[float, ...] | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, float] | None = None
    spacing_note: str = ""
    thickness: float | None = None
    rescale: tuple[float, float] = (1.0, 0.0)
    instance: int | None = None
    sop_uid: str = ""
    sop_class: str = ""
    study_uid: str = ""
    space_uid: str = ""
    numbered: bool = False
    region: tuple[int, int, int, int] | None = None
    clock: cine.Clock | None = None
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """For messages: the file, and the frame when it is not the only one."""
        return self.source.name if self.index == 0 else f"{self.source.name} frame {self.index + 1}"


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom about malformed values while we check them ourselves."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            logger.setLevel(level)


def read_dataset(file: Any, name: str, **options: Any) -> Any:
    """A pydicom dataset from a path or a binary stream; files without preamble are read too.

    Raises:
        InputError: the file is damaged, naming it.
    """
    from pydicom import dcmread
    from pydicom.errors import InvalidDicomError

    try:
        try:
            return dcmread(file, **options)
        except InvalidDicomError:
            if hasattr(file, "seek"):
                file.seek(0)
            return dcmread(file, force=True, **options)
    except (zlib.error, RecursionError, MemoryError, *MALFORMED) as error:
        raise InputError(f"{name}: damaged DICOM file ({one_line(error)})") from error


def one_line(error: BaseException) -> str:
    """An exception's text on one line, cut to a readable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def read_frames(source: Source) -> list[Frame]:
    """The frames of one file; one refused frame when it holds no scan.

    Raises:
        InputError: damaged file or malformed geometry, naming the file.
    """
    from medseg_cli.readers.dicom import multiframe

    with quiet_pydicom():
        header = read_dataset(source.path, source.name, stop_before_pixels=True, specific_tags=HEADER_TAGS)
        common = common_values(header, source)
        if common["refusal"]:
            return [Frame(index=0, **common)]
        kinds.check_samples(header, source.name)
        # Some writers state 0 for a single picture.
        count = whole(header, "NumberOfFrames") or 1
        if count < 1:
            raise InputError(f"{source.name}: states {count} frames (NumberOfFrames)")
        if multiframe.is_enhanced(header):
            return multiframe.enhanced_frames(header, common, count)
        frame = classic_frame(header, common)
        if count == 1:
            return [frame]
        return multiframe.flat_frames(frame, count, header)


def common_values(header: Any, source: Source) -> dict[str, Any]:
    """What all frames of a file share, as `Frame` arguments."""
    palette = text(header, "PhotometricInterpretation") == "PALETTE COLOR"
    return {
        "source": source,
        "series_uid": text(header, "SeriesInstanceUID"),
        "series_number": whole(header, "SeriesNumber"),
        "description": text(header, "SeriesDescription"),
        "modality": text(header, "Modality").upper(),
        "refusal": kinds.refusal(header),
        "localizer": kinds.is_localizer(header),
        "size": (whole(header, "Columns") or 0, whole(header, "Rows") or 0),
        "samples": 3 if palette else whole(header, "SamplesPerPixel") or 1,
        "instance": whole(header, "InstanceNumber"),
        "sop_uid": text(header, "SOPInstanceUID"),
        "sop_class": text(header, "SOPClassUID"),
        "study_uid": text(header, "StudyInstanceUID"),
        "space_uid": text(header, "FrameOfReferenceUID"),
        "numbered": "NumberOfFrames" in header,
    }


def classic_frame(header: Any, common: dict[str, Any]) -> Frame:
    """The frame of a single-frame object, with the geometry of its top-level elements."""
    name = common["source"].name
    spacing, note = pixel_spacing(header, name)
    thickness = number(header, "SpacingBetweenSlices", name) or number(header, "SliceThickness", name)
    tags = {tag: "\\".join(words(header, tag)) for tag in SPLIT_TAGS}
    return Frame(
        index=0,
        position=numbers(header, "ImagePositionPatient", 3, name),
        orientation=orientation(header, name),
        pixel_spacing=spacing,
        spacing_note=note,
        thickness=abs(thickness) if thickness else None,
        rescale=rescale(header, name),
        region=ultrasound.calibration(header).box,
        tags={tag: value for tag, value in tags.items() if value},
        **common,
    )


def orientation(header: Any, name: str) -> tuple[float, ...] | None:
    """Direction of increasing column index, then of increasing row index, LPS; None when the object states none."""
    value = numbers(header, "ImageOrientationPatient", 6, name)
    if value is None:
        return None
    row, column = value[:3], value[3:]
    lengths = math.hypot(*row), math.hypot(*column)
    lean = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), lean) > ORTHONORMAL_TOLERANCE:
        raise InputError(
            f"{name}: ImageOrientationPatient is not orthonormal: lengths {lengths[0]:.4f} and {lengths[1]:.4f}, "
            f"cosine between them {lean:.4f}"
        )
    return value


def rescale(header: Any, name: str) -> tuple[float, float]:
    """(slope, intercept) of an object or of a pixel value transformation, (1, 0) when it states none."""
    slope, intercept = number(header, "RescaleSlope", name), number(header, "RescaleIntercept", name)
    if slope == 0:
        raise InputError(f"{name}: RescaleSlope is 0, all its values would be equal")
    return (1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
