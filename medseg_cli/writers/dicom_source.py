"""What DICOM SEG and RTSTRUCT have in common: the series they refer to, and whose it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers.dicom.header import DicomHeader
from medseg_cli.scan import RAS_TO_LPS, Scan

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from medseg_cli.readers.dicom.frames import Frame

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
UTF8 = "ISO_IR 192"
_STATED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""Elements that every object must have, if only empty."""


@dataclass(frozen=True)
class Planes:
    """Where the slices of a mask lie. Everything in LPS, mm.

    Args:
        row, column: (3,) unit vectors of increasing column index i and row index j.
        positions: (K, 3) centre of each slice's first voxel.
        spacing: along i, j, k.
    """

    row: NDArray[np.float64]
    column: NDArray[np.float64]
    positions: NDArray[np.float64]
    spacing: tuple[float, float, float]


def header_of(scan: Scan, what: str) -> DicomHeader:
    """The DICOM header of a scan to which an object called `what` can refer.

    Raises:
        UsageError: the scan is no DICOM series.
        InputError: its files lack what a reference needs, or contradict each other.
    """
    header = scan.header
    if not isinstance(header, DicomHeader):
        raise UsageError(
            f"{what} refers to the DICOM series of its scan, but {scan.provenance.path} is {scan.provenance.format}",
            "segment the DICOM series itself, or write nifti, nrrd, seg-nrrd or mha",
        )
    where = scan.provenance.path
    for keyword, values in _identities(header.frames).items():
        absent = values.count("")
        if absent:
            raise InputError(
                f"{where}: {absent} of its {len(values)} slices have no {keyword}, {what} cannot refer to them",
                "write nifti instead, or export the series again",
            )
        if keyword != "SOPInstanceUID" and len(set(values)) > 1:
            raise InputError(
                f"{where}: its slices have {len(set(values))} different {keyword}, {what} needs one",
                "write nifti instead, or export the series again",
            )
    pictures = {(frame.sop_uid, frame.index) for frame in header.frames}
    if len(pictures) < len(header.frames):
        raise InputError(
            f"{where}: {len(header.frames)} slices share {len(pictures)} SOPInstanceUIDs, "
            f"{what} could not tell them apart",
            "write nifti instead, or export the series again",
        )
    if scan.position_known and {frame.space_uid for frame in header.frames} != {header.frames[0].space_uid}:
        spaces = len({frame.space_uid for frame in header.frames})
        raise InputError(f"{where}: its slices lie in {spaces} different frames of reference", "write nifti instead")
    return header


def _identities(frames: tuple[Frame, ...]) -> dict[str, list[str]]:
    return {
        "SOPInstanceUID": [frame.sop_uid for frame in frames],
        "SOPClassUID": [frame.sop_class for frame in frames],
        "SeriesInstanceUID": [frame.series_uid for frame in frames],
        "StudyInstanceUID": [frame.study_uid for frame in frames],
    }


def space_of(scan: Scan, header: DicomHeader) -> str:
    """FrameOfReferenceUID of the series; where it has positions and none of that, one that follows from its own UID.

    So that all objects made of such a series share one, and nothing else has it.
    """
    from pydicom.uid import generate_uid

    first = header.frames[0]
    if first.space_uid or not scan.position_known:
        return first.space_uid
    return str(generate_uid(entropy_srcs=["medseg frame of reference of series", first.series_uid]))


def space_notes(scan: Scan, header: DicomHeader) -> tuple[str, ...]:
    """A note where `space_of` had to make one."""
    if not scan.position_known or header.frames[0].space_uid:
        return ()
    return ("the series states no FrameOfReferenceUID: the DICOM output has one of its own, made from the series' UID",)


def planes_of(scan: Scan, header: DicomHeader) -> Planes:
    """The slices of the scan's grid: where it is that of the pictures, at the pictures' own positions."""
    affine = RAS_TO_LPS @ scan.affine
    count = scan.shape[2]
    positions = affine[:3, 3] + np.arange(count)[:, None] * affine[:3, 2]
    stated = [frame.position for frame in header.frames]
    if not header.regridded and all(each is not None for each in stated):
        assert len(stated) == count, f"{len(stated)} frames for {count} slices"
        positions = np.asarray(stated, dtype=np.float64)
    directions = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return Planes(directions[:, 0], directions[:, 1], positions, scan.spacing)


def stand_ins(scan: Scan, header: DicomHeader, planes: Planes) -> list[Dataset]:
    """One single-frame dataset per picture, in slice order, with the geometry that reading has settled on.

    Headers lack elements that they should have, state other spacings than their positions, or hold many frames; the
    libraries that write objects take them at their word. Each stand-in has a UID of its own, see `name_sources`, and
    no patient, see `identify`.
    """
    made, space = [], space_of(scan, header)
    for k, frame in enumerate(header.frames):
        dataset = _empty()
        for keyword in _STATED:
            setattr(dataset, keyword, None)
        dataset.SOPClassUID, dataset.SOPInstanceUID = SECONDARY_CAPTURE, _stand_in_uid(k)
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = frame.study_uid, frame.series_uid
        dataset.Modality = frame.modality or "OT"
        dataset.Columns, dataset.Rows = frame.size
        if scan.spacing_known:
            dataset.PixelSpacing = [decimal(planes.spacing[1]), decimal(planes.spacing[0])]
        if space:
            dataset.FrameOfReferenceUID = space
        if scan.position_known:
            assert frame.position is not None, "checked while reading"
            dataset.ImagePositionPatient = [decimal(value) for value in frame.position]
            dataset.ImageOrientationPatient = [decimal(value) for value in (*planes.row, *planes.column)]
            # Of the mask's voxels: how thick the pictures were taken is nothing that the mask knows.
            dataset.SliceThickness = dataset.SpacingBetweenSlices = decimal(planes.spacing[2])
        made.append(dataset)
    return made


def identify(dataset: Dataset, header: DicomHeader) -> None:
    """Say of an object made from stand-ins whose it is: patient, study and clinical trial as the first file says it.

    Elements are carried over as they are, odd ones too: no library sees them, and none can complain of them aloud.
    """
    for element in header.first:
        dataset.add(element)
    for keyword in _STATED:
        if keyword not in dataset:
            setattr(dataset, keyword, None)


def _empty() -> Dataset:
    from pydicom.dataset import Dataset

    return Dataset()


def _stand_in_uid(k: int) -> str:
    return f"2.25.{k + 1}"


def name_sources(items: Iterable[Dataset], frames: tuple[Frame, ...]) -> list[Dataset]:
    """References to stand-ins → to the pictures themselves; a file of many frames is named once per item given."""
    names = {_stand_in_uid(k): frame for k, frame in enumerate(frames)}
    named = []
    for item in items:
        frame = names.get(str(item.ReferencedSOPInstanceUID))
        if frame is not None:
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = frame.sop_class, frame.sop_uid
            if frame.numbered:
                item.ReferencedFrameNumber = frame.index + 1
        named.append(item)
    return named


def once_per_file(items: Iterable[Dataset]) -> list[Dataset]:
    """References to frames → one per file, naming all of the frames that were referred to."""
    files: dict[str, Dataset] = {}
    numbers: dict[str, list[int]] = {}
    for item in items:
        uid = str(item.ReferencedSOPInstanceUID)
        files.setdefault(uid, item)
        if "ReferencedFrameNumber" in item:
            numbers.setdefault(uid, []).append(int(item.ReferencedFrameNumber))
    for uid, found in numbers.items():
        files[uid].ReferencedFrameNumber = sorted(set(found))
    return list(files.values())


def files_of(frames: tuple[Frame, ...]) -> list[Dataset]:
    """One reference per file, in slice order."""
    references = {}
    for frame in frames:
        reference = references[frame.sop_uid] = _empty()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = frame.sop_class, frame.sop_uid
    return list(references.values())


def decimal(value: float) -> str:
    """A number as a DICOM decimal string of at most 16 characters; the nearest one there is."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(float(value))


def series_number(header: DicomHeader, base: int) -> int:
    """A number for a new series that tells which series it belongs to."""
    number = header.frames[0].series_number or 0
    return base + number if 0 <= number < 1_000_000 else base
