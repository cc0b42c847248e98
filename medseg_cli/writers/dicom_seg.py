"""DICOM Segmentation objects through highdicom: the mask as frames that refer to the series it was made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.header import DicomHeader
from medseg_cli.scan import Scan
from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers import dicom_cine
from medseg_cli.writers import dicom_maker as maker
from medseg_cli.writers import dicom_source as common
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.dicom_codes import codes_of, long_string

if TYPE_CHECKING:
    from highdicom.content import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.dataset import Dataset

SegType = Literal["binary", "fractional", "labelmap"]

WHAT = "a DICOM SEG"
SERIES_NUMBERS = 1000
"""What is added to the number of the scan's series."""
FULL = 255
"""What stands for 1 in a fractional object."""


def check(scan: Scan) -> None:
    """Find out before the work whether a DICOM SEG can refer to the scan.

    Raises:
        UsageError: it is no DICOM series.
        InputError: its files lack UIDs or a frame of reference, or contradict each other.
    """
    common.header_of(scan, WHAT)


def write(
    segmentation: Segmentation, path: Path, overwrite: bool = False, seg_type: SegType = "binary"
) -> tuple[str, ...]:
    """Write the mask as one DICOM SEG object; it appears whole or not at all.

    Frames without a voxel of their segment are left out, as is usual; a mask without any voxel becomes one empty frame
    per segment.

    Args:
        segmentation: of a scan that was read from DICOM.
        path: of the file.
        overwrite: whether it may replace one.
        seg_type: "binary": one bit per voxel and segment. "fractional": the same with 0 and 255 of 255, as occupancy,
            for a mask holds no probabilities. "labelmap": one frame per slice with the label values.

    Returns:
        Notes on the grid and the numbers of segments.

    Raises:
        UsageError, InputError: as `check`; or `path` may not or cannot be written.
    """
    header = common.header_of(segmentation.scan, WHAT)
    with atomic_output(path, overwrite) as temporary:
        dataset, notes = build(segmentation, header, seg_type)
        dataset.save_as(temporary, enforce_file_format=True)
    return notes


def build(segmentation: Segmentation, header: DicomHeader, seg_type: SegType) -> tuple[Dataset, tuple[str, ...]]:
    """The object in memory, and the notes of `write`.

    Raises:
        InputError: highdicom refuses an element of the series' own headers.
    """
    scan = segmentation.scan
    planes = dicom_cine.planes_of(scan) if scan.cine else common.planes_of(scan, header)
    sources = common.stand_ins(scan, header, planes)
    if scan.cine:
        dicom_cine.place(sources, planes)
    labels = sorted(segmentation.labels, key=lambda label: label.value)
    numbers = [label.value for label in labels] if seg_type == "labelmap" else list(range(1, len(labels) + 1))
    frames = _frames(segmentation.mask, labels, numbers)
    # highdicom keeps every frame of an empty mask, which can be hundreds of megabytes of nothing.
    empty = not frames.any()
    placed = _placed(planes, 1 if empty else len(frames)) if (empty or header.regridded) else {}
    try:
        dataset = _segmentation(
            segmentation,
            sources,
            frames[:1] if empty else frames,
            seg_type,
            _described(segmentation, labels, numbers),
            common.series_number(header, SERIES_NUMBERS),
            placed if scan.position_known or scan.cine else {},
        )
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{scan.provenance.path}: highdicom cannot make a DICOM SEG of this series ({reason})",
            "write nifti instead, or export the series again",
        ) from error
    if scan.cine:
        dicom_cine.over_time(dataset, scan, header)
    common.identify(dataset, header)
    _refer(dataset, header)
    return dataset, (*common.space_notes(scan, header), *_notes(header, labels, numbers))


def _frames(mask: NDArray[Any], labels: Sequence[Label], numbers: Sequence[int]) -> NDArray[Any]:
    """(I, J, K) label values → (K, J, I) segment numbers."""
    stack = np.ascontiguousarray(mask.transpose(2, 1, 0))
    values = [label.value for label in labels]
    if values == list(numbers):
        return stack
    table = np.zeros(max(values) + 1, np.uint8 if max(numbers) < 256 else np.uint16)
    table[values] = numbers
    return table[stack]


def _placed(planes: common.Planes, count: int) -> dict[str, Any]:
    """Arguments that say where the first `count` slices of the mask's own grid lie."""
    import highdicom as hd

    across, down, thick = (float(common.decimal(value)) for value in planes.spacing)
    return {
        "plane_positions": [
            hd.PlanePositionSequence("PATIENT", [float(common.decimal(value)) for value in position])
            for position in planes.positions[:count]
        ],
        "plane_orientation": hd.PlaneOrientationSequence(
            "PATIENT", [float(common.decimal(value)) for value in (*planes.row, *planes.column)]
        ),
        "pixel_measures": hd.PixelMeasuresSequence([down, across], thick, spacing_between_slices=thick),
    }


def _segmentation(
    segmentation: Segmentation,
    sources: list[Dataset],
    frames: NDArray[Any],
    seg_type: SegType,
    described: list[SegmentDescription],
    number: int,
    placed: dict[str, Any],
) -> Dataset:
    import highdicom as hd
    from pydicom.uid import ExplicitVRLittleEndian, RLELossless

    random = segmentation.is_random
    return hd.seg.Segmentation(
        source_images=sources,
        pixel_array=frames,
        segmentation_type=seg_type.upper(),
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=number,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="medseg",
        manufacturer_model_name=maker.maker(segmentation),
        software_versions=maker.software(),
        device_serial_number="none",
        fractional_type="OCCUPANCY",
        max_fractional_value=FULL,
        content_label="RANDOM_WEIGHTS" if random else "SEGMENTATION",
        content_description=RANDOM_WEIGHTS if random else maker.description(segmentation),
        series_description=maker.description(segmentation),
        # Bits are packed as they are; bytes that are nearly all zero are worth a code that every toolkit knows.
        transfer_syntax_uid=ExplicitVRLittleEndian if seg_type == "binary" else RLELossless,
        omit_empty_frames=bool(frames.any()),
        specific_character_set=common.UTF8,
        **placed,
    )


def _described(segmentation: Segmentation, labels: Sequence[Label], numbers: Sequence[int]) -> list[SegmentDescription]:
    import highdicom as hd

    described = []
    identification = _algorithm(segmentation)
    for label, number in zip(labels, numbers, strict=True):
        category, kind = codes_of(label)
        segment = hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=long_string(label.name) or f"segment {number}",
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=maker.algorithm_type(segmentation),
            algorithm_identification=identification,
            display_color=hd.color.CIELabColor.from_rgb(*label.color),
        )
        if segmentation.is_random:
            segment.SegmentDescription = RANDOM_WEIGHTS
        elif len(label.name) > len(segment.SegmentLabel):
            segment.SegmentDescription = long_string(label.name, 1024)
        described.append(segment)
    return described


def _algorithm(segmentation: Segmentation) -> AlgorithmIdentificationSequence:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    return hd.AlgorithmIdentificationSequence(
        name=long_string(RANDOM_WEIGHTS) if segmentation.is_random else maker.maker(segmentation),
        version=maker.software(),
        family=codes.cid7162.ArtificialIntelligence,
        source="medseg",
        parameters=maker.parameters(segmentation),
    )


def _refer(dataset: Dataset, header: DicomHeader) -> None:
    """Name the pictures in the place of their stand-ins."""
    frames = header.frames
    for group in dataset.PerFrameFunctionalGroupsSequence:
        for derivation in group.DerivationImageSequence:
            common.name_sources(derivation.SourceImageSequence, frames)
    dataset.SourceImageSequence = common.once_per_file(common.name_sources(dataset.SourceImageSequence, frames))
    for series in dataset.ReferencedSeriesSequence:
        # Whole files here, without frame numbers.
        series.ReferencedInstanceSequence = common.files_of(frames)


def _notes(header: DicomHeader, labels: Sequence[Label], numbers: Sequence[int]) -> tuple[str, ...]:
    notes = []
    if header.regridded:
        notes.append(f"the DICOM SEG has a grid of its own in the series' frame of reference: {header.regridded}")
    moved = [(label.value, number) for label, number in zip(labels, numbers, strict=True) if label.value != number]
    if moved:
        value, number = moved[0]
        notes.append(
            f"segments of a DICOM SEG count from 1: label value {value} is segment {number}"
            + (f", and so for {len(moved) - 1} more" if len(moved) > 1 else "")
        )
    return tuple(notes)
