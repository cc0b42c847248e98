"""DICOM SEG of frames over time.

The standard lets frames of a SEG go without a place in the patient where each names the picture that it was derived
from (PS3.3 A.51: frame of reference, plane position and orientation are required without that reference only).
highdicom makes objects of many frames with places only, so stand-ins get some, which are taken out again afterwards.
What tells the frames apart is then TemporalPositionIndex, the frame's number in the source.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from medseg_cli.readers.dicom.header import DicomHeader
from medseg_cli.scan import Scan
from medseg_cli.writers import dicom_source as common

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_STAND_IN_SPACE = "2.25.0"
_FRAME_CONTENT, _TEMPORAL_INDEX, _POSITION = 0x00209111, 0x00209128, 0x00200032
_OF_SPACE = ("FrameOfReferenceUID", "PositionReferenceIndicator")


def planes_of(scan: Scan) -> common.Planes:
    """Places for stand-ins: frame k lies at z = -k mm, for highdicom begins with the highest."""
    row, column, up = np.eye(3)
    return common.Planes(row, column, -np.arange(scan.shape[2])[:, None] * up, (*scan.spacing[:2], 1.0))


def place(sources: list[Dataset], planes: common.Planes) -> None:
    """Give stand-ins these places, in a space of their own."""
    for dataset, position in zip(sources, planes.positions, strict=True):
        dataset.FrameOfReferenceUID = _STAND_IN_SPACE
        dataset.PixelSpacing = [common.decimal(planes.spacing[1]), common.decimal(planes.spacing[0])]
        dataset.SliceThickness = dataset.SpacingBetweenSlices = "1"
        dataset.ImagePositionPatient = [common.decimal(value) for value in position]
        dataset.ImageOrientationPatient = [common.decimal(value) for value in (*planes.row, *planes.column)]


def over_time(dataset: Dataset, scan: Scan, header: DicomHeader) -> None:
    """Take the stand-ins' places out of an object; where the pictures state one, it comes in their place."""
    shared = dataset.SharedFunctionalGroupsSequence[0]
    place_axis = _name_dimension(dataset)
    for group in dataset.PerFrameFunctionalGroupsSequence:
        number = -round(float(group.PlanePositionSequence[0].ImagePositionPatient[2]))
        frame = header.frames[number]
        content = group.FrameContentSequence[0]
        content.TemporalPositionIndex = frame.index + 1
        indices = content.DimensionIndexValues
        indices = list(indices) if hasattr(indices, "__iter__") else [indices]
        indices[place_axis] = frame.index + 1
        content.DimensionIndexValues = indices
        if scan.position_known and frame.position is not None:
            group.PlanePositionSequence[0].ImagePositionPatient = [common.decimal(value) for value in frame.position]
        else:
            del group.PlanePositionSequence
    _place_shared(dataset, shared, scan, header)


def _name_dimension(dataset: Dataset) -> int:
    """Make time of the dimension that was the place; which of the dimensions that is."""
    for number, dimension in enumerate(dataset.DimensionIndexSequence):
        if dimension.DimensionIndexPointer == _POSITION:
            dimension.DimensionIndexPointer = _TEMPORAL_INDEX
            dimension.FunctionalGroupPointer = _FRAME_CONTENT
            dimension.DimensionDescriptionLabel = "Temporal Position Index"
            if "DimensionOrganizationType" in dataset:
                del dataset.DimensionOrganizationType
            return number
    raise AssertionError("highdicom names the place as a dimension")


def _place_shared(dataset: Dataset, shared: Dataset, scan: Scan, header: DicomHeader) -> None:
    first = header.frames[0]
    if scan.position_known and first.orientation is not None:
        measures = shared.PixelMeasuresSequence[0]
        del measures.SpacingBetweenSlices
        if first.thickness:
            measures.SliceThickness = common.decimal(first.thickness)
        else:
            del measures.SliceThickness
        if not scan.spacing_known:
            del shared.PixelMeasuresSequence
        turned: list[Any] = [common.decimal(value) for value in first.orientation]
        shared.PlaneOrientationSequence[0].ImageOrientationPatient = turned
        dataset.FrameOfReferenceUID = common.space_of(scan, header)
        return
    # Pixel sizes stand in the picture's own regions. Here they would need a slice thickness, which a loop has not.
    del shared.PixelMeasuresSequence
    del shared.PlaneOrientationSequence
    for keyword in _OF_SPACE:
        if keyword in dataset:
            delattr(dataset, keyword)
