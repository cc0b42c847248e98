"""Objects with many frames: enhanced CT/MR/PET (geometry per frame), classic multi-frame (2-D pictures over time)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import cine
from medseg_cli.readers.dicom.frames import Frame, orientation, rescale
from medseg_cli.readers.dicom.spacing import pixel_spacing
from medseg_cli.readers.dicom.values import MALFORMED, item, number, numbers, text, whole

MAX_FRAMES = 100_000

_TAGS = (
    ("FrameContentSequence", "StackID"),
    ("MREchoSequence", "EffectiveEchoTime"),
    ("MRImageFrameTypeSequence", "FrameType"),
    ("CTImageFrameTypeSequence", "FrameType"),
    ("FrameContentSequence", "TemporalPositionIndex"),
    ("MRDiffusionSequence", "DiffusionBValue"),
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("FrameContentSequence", "FrameAcquisitionNumber"),
    ("FrameContentSequence", "FrameAcquisitionDateTime"),
)


def is_enhanced(header: Any) -> bool:
    """Whether the geometry of each frame stands in functional groups."""
    try:
        return bool(header.get("PerFrameFunctionalGroupsSequence"))
    except MALFORMED:
        return False


def flat_frames(frame: Frame, count: int, header: Any) -> list[Frame]:
    """The frames of a classic multi-frame object: pictures at the same place, or at none that is stated."""
    if count > MAX_FRAMES:
        raise InputError(f"{frame.source.name}: states {count} frames, more than {MAX_FRAMES}")
    clock = cine.clock(header, count, frame.source.name)
    return [replace(frame, index=index, instance=index + 1, clock=clock) for index in range(count)]


def enhanced_frames(header: Any, common: dict[str, Any], count: int) -> list[Frame]:
    """One frame per item of PerFrameFunctionalGroupsSequence; what an item lacks is taken from the shared groups.

    Raises:
        InputError: fewer items than frames, or malformed geometry, naming the file and the frame.
    """
    name = common["source"].name
    items = list(header.PerFrameFunctionalGroupsSequence)
    if len(items) != count:
        raise InputError(f"{name}: states {count} frames and describes {len(items)}")
    try:
        shared = (header.get("SharedFunctionalGroupsSequence") or [None])[0]
    except MALFORMED as error:
        raise InputError(f"{name}: SharedFunctionalGroupsSequence is damaged ({error})") from error
    top_spacing = pixel_spacing(header, name)
    return [enhanced_frame(own, shared, header, top_spacing, common, index) for index, own in enumerate(items)]


def enhanced_frame(
    own: Any,
    shared: Any,
    header: Any,
    top_spacing: tuple[tuple[float, float] | None, str],
    common: dict[str, Any],
    index: int,
) -> Frame:
    """One frame; the frame's own group wins over the shared one, and that over top-level elements."""
    name = f"{common['source'].name} frame {index + 1}"

    def group(keyword: str) -> Any:
        found = item(own, keyword)
        if found is None and shared is not None:
            found = item(shared, keyword)
        return header if found is None else found

    measures = group("PixelMeasuresSequence")
    spacing, note = top_spacing if measures is header else pixel_spacing(measures, name)
    thickness = number(measures, "SpacingBetweenSlices", name) or number(measures, "SliceThickness", name)
    transform = group("PixelValueTransformationSequence")
    tags = {}
    for sequence, keyword in _TAGS:
        macro = group(sequence)
        value = "" if macro is header else text(macro, keyword)
        if value:
            tags[keyword] = value
    content = group("FrameContentSequence")
    return Frame(
        index=index,
        position=numbers(group("PlanePositionSequence"), "ImagePositionPatient", 3, name),
        orientation=orientation(group("PlaneOrientationSequence"), name),
        pixel_spacing=spacing,
        spacing_note=note,
        thickness=abs(thickness) if thickness else None,
        rescale=rescale(transform, name),
        tags=tags,
        **{**common, "instance": whole(content, "InStackPositionNumber") or index + 1},
    )
