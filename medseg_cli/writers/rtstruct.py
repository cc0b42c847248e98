"""RT structure sets: each label as contours on the slices of its series.

The object is rt-utils's. Its contours are not: rt-utils 1.2 draws them through the centres of the border pixels (half a
pixel too small all round, one point for one voxel), swaps the two pixel spacings, places slices at their mean distance,
and cuts holes open two pixels wide. Ours run along the pixels' edges, at the slices' own positions; see `outlines`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.header import DicomHeader
from medseg_cli.scan import Scan
from medseg_cli.segmentation import RANDOM_WEIGHTS, Label, Segmentation
from medseg_cli.writers import dicom_maker as maker
from medseg_cli.writers import dicom_source as common
from medseg_cli.writers.atomic import atomic_output
from medseg_cli.writers.dicom_codes import long_string
from medseg_cli.writers.outlines import Polygon, outlines

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

WHAT = "an RTSTRUCT"
SERIES_NUMBERS = 2000
"""What is added to the number of the scan's series."""
AXIAL = 0.999
"""Cosine between the slices' normal and the patient's long axis from which on slices count as axial."""


def check(scan: Scan) -> None:
    """Find out before the work whether an RTSTRUCT can refer to the scan.

    Raises:
        UsageError: it is no DICOM series.
        InputError: its files lack UIDs, contradict each other, or its slices are not those of the scan's grid.
    """
    _header(scan)


def _header(scan: Scan) -> DicomHeader:
    header = common.header_of(scan, WHAT)
    where = scan.provenance.path
    if scan.cine:
        raise InputError(
            f"{where}: its frames are one place over time, and {WHAT} holds one contour per place",
            "write dicom-seg or nifti instead",
        )
    if not scan.position_known:
        raise InputError(
            f"{where}: the file does not say where it lies in the patient, an RTSTRUCT has contours in mm",
            "write dicom-seg or png instead",
        )
    if header.regridded:
        raise InputError(
            f"{where}: contours lie on slices of the series, but {header.regridded}",
            "write dicom-seg, which has a grid of its own, or nifti",
        )
    return header


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write the labels as one RTSTRUCT object; it appears whole or not at all. A label without voxels has no contours.

    Args:
        segmentation: of a scan that was read from DICOM, on the grid of its files.
        path: of the file.
        overwrite: whether it may replace one.

    Returns:
        Notes on slices that are not axial, and on a frame of reference that had to be made.

    Raises:
        UsageError, InputError: as `check`; or `path` may not or cannot be written.
    """
    header = _header(segmentation.scan)
    with atomic_output(path, overwrite) as temporary:
        dataset = build(segmentation, header)
        dataset.save_as(temporary, enforce_file_format=True)
    notes = common.space_notes(segmentation.scan, header)
    planes = common.planes_of(segmentation.scan, header)
    if abs(float(np.cross(planes.row, planes.column)[2])) < AXIAL:
        return (*notes, "the contours lie on slices that are not axial: some planning systems refuse such an RTSTRUCT")
    return notes


def build(segmentation: Segmentation, header: DicomHeader) -> Dataset:
    """The object in memory."""
    from pydicom.dataset import Dataset

    planes = common.planes_of(segmentation.scan, header)
    series = common.stand_ins(segmentation.scan, header, planes)
    dataset = _structure_set(segmentation, series, header)
    for number, label in enumerate(sorted(segmentation.labels, key=lambda each: each.value), start=1):
        contours = _contours(segmentation.mask, label, planes, series)
        for contour in contours:
            common.name_sources(contour.ContourImageSequence, header.frames)
        drawn = Dataset()
        drawn.ROIDisplayColor = list(label.color)
        drawn.ReferencedROINumber = number
        if contours:
            drawn.ContourSequence = contours
        dataset.ROIContourSequence.append(drawn)
        _name_roi(dataset, segmentation, label, number, series)
    return dataset


def _structure_set(segmentation: Segmentation, series: list[Dataset], header: DicomHeader) -> Dataset:
    """The object without any structure: rt-utils's, with what it says of itself put right."""
    from rt_utils import ds_helper

    dataset = ds_helper.create_rtstruct_dataset(series)
    first = series[0]
    dataset.SpecificCharacterSet = common.UTF8
    dataset.Manufacturer = "medseg"
    dataset.ManufacturerModelName = maker.maker(segmentation)
    dataset.SoftwareVersions = maker.software()
    del dataset.InstitutionName
    random = segmentation.is_random
    dataset.SeriesDescription = maker.description(segmentation)
    dataset.SeriesNumber = common.series_number(header, SERIES_NUMBERS)
    dataset.InstanceNumber = 1
    dataset.SeriesDate, dataset.SeriesTime = dataset.StructureSetDate, dataset.StructureSetTime
    dataset.StructureSetLabel = "RANDOM WEIGHTS" if random else "medseg"
    dataset.StructureSetName = long_string(RANDOM_WEIGHTS) if random else maker.description(segmentation)
    told = maker.parameters(segmentation)
    dataset.StructureSetDescription = long_string(", ".join(f"{key} {value}" for key, value in told.items()), 1024)
    dataset.OperatorsName = ""
    dataset.FrameOfReferenceUID = first.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = ""
    common.identify(dataset, header)
    for study in dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence:
        for each in study.RTReferencedSeriesSequence:
            named = common.name_sources(each.ContourImageSequence, header.frames)
            each.ContourImageSequence = common.once_per_file(named)
    return dataset


def _contours(mask: NDArray[Any], label: Label, planes: common.Planes, series: list[Dataset]) -> list[Dataset]:
    """The label's contours, slice by slice, which name stand-ins as their pictures."""
    from rt_utils import ds_helper

    inside = mask == label.value
    columns, rows = np.flatnonzero(inside.any((1, 2))), np.flatnonzero(inside.any((0, 2)))
    contours = []
    for k in np.flatnonzero(inside.any((0, 1))):
        first = np.array([columns[0], rows[0]], np.float64)
        for polygon in outlines(inside[columns[0] : columns[-1] + 1, rows[0] : rows[-1] + 1, k]):
            contour = ds_helper.create_contour(series[k], _in_patient(polygon + first, planes, int(k)))
            contour.NumberOfContourPoints = len(polygon)
            contours.append(contour)
    return contours


def _in_patient(polygon: Polygon, planes: common.Planes, k: int) -> list[str]:
    """(N, 2) corners in voxel index (i, j) → x, y, z of each in LPS mm, to a tenth of a micrometre."""
    across = polygon[:, :1] * planes.spacing[0] * planes.row + polygon[:, 1:] * planes.spacing[1] * planes.column
    points = (planes.positions[k] + across).ravel()
    assert np.abs(points).max() < 1e6, "a decimal string holds 16 characters"
    return [f"{value:.4f}" for value in points]


def _name_roi(dataset: Dataset, segmentation: Segmentation, label: Label, number: int, series: list[Dataset]) -> None:
    """Name, colour and origin of structure `number`."""
    from pydicom.dataset import Dataset
    from rt_utils import ds_helper
    from rt_utils.utils import ROIData

    data = ROIData(
        mask="",
        color=list(label.color),
        number=number,
        name=long_string(label.name) or f"structure {number}",
        frame_of_reference_uid=series[0].FrameOfReferenceUID,
        description=RANDOM_WEIGHTS if segmentation.is_random else long_string(label.name, 1024),
        roi_generation_algorithm=maker.algorithm_type(segmentation),
    )
    roi = ds_helper.create_structure_set_roi(data)
    roi.ROIGenerationDescription = maker.description(segmentation)
    dataset.StructureSetROISequence.append(roi)
    observed = Dataset()
    observed.ObservationNumber = observed.ReferencedROINumber = number
    observed.RTROIInterpretedType = observed.ROIInterpreter = ""
    if label.snomed:
        observed.RTROIIdentificationCodeSequence = [_code(label)]
    dataset.RTROIObservationsSequence.append(observed)


def _code(label: Label) -> Dataset:
    from pydicom.dataset import Dataset

    from medseg_cli.writers.dicom_codes import codes_of

    _, kind = codes_of(label)
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = kind.value, kind.scheme_designator, kind.meaning
    return item
