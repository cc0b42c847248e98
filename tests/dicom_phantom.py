"""The phantom of `phantom.py` as DICOM files, written with pydicom and no code of medseg.

Import it with `from dicom_phantom import ...` (tests/ is on pytest's path).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2.1"
ULTRASOUND_LOOP = "1.2.840.10008.5.1.4.1.1.3.1"
SERIES_UID = "1.2.826.0.1.3680043.10.99.1"
PATIENT = "Hopper^Grace"


def series(values: np.ndarray, matrix: np.ndarray, **elements: Any) -> list[Dataset]:
    """One dataset per slice of (I, J, K) int16 `values`, in the order of k.

    Args:
        values: stored values; i becomes the column and j the row.
        matrix: (4, 4) index→RAS mm; slice k lies where it maps (0, 0, k), so a sheared matrix makes a tilted stack.
        elements: further elements for every slice, by keyword.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :3] / spacing
    slices = []
    for k in range(values.shape[2]):
        dataset = picture(values[:, :, k])
        dataset.ImagePositionPatient = decimal(lps[:3, 3] + k * lps[:3, 2])
        dataset.ImageOrientationPatient = decimal([*directions[:, 0], *directions[:, 1]])
        dataset.PixelSpacing = decimal([spacing[1], spacing[0]])
        dataset.InstanceNumber = k + 1
        # Deliberately wrong: spacing between slices must come from the positions.
        dataset.SliceThickness = "7.5"
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        slices.append(dataset)
    return slices


def picture(values: np.ndarray) -> Dataset:
    """A CT slice of (I, J) int16 without any geometry."""
    dataset = Dataset()
    dataset.SOPClassUID = CT_IMAGE
    dataset.SOPInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = SERIES_UID
    dataset.StudyInstanceUID = SERIES_UID + ".9"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID = "20260102", "030405", "1"
    dataset.SeriesNumber = 3
    dataset.SeriesDescription = "phantom"
    dataset.PatientName = PATIENT
    dataset.PatientID = "id-1906"
    dataset.Modality = "CT"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    dataset.Columns, dataset.Rows = values.shape
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(values.dtype == np.int16)
    dataset.PixelData = np.ascontiguousarray(values.T).astype(values.dtype.newbyteorder("<")).tobytes()
    return dataset


def decimal(values: Sequence[float] | np.ndarray) -> list[str]:
    """Numbers as DICOM decimal strings: at most 16 characters each."""
    return [np.format_float_positional(value, precision=10, trim="0")[:16] for value in values]


def save(dataset: Dataset, path: Path) -> Path:
    """Write one dataset as a DICOM file."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write(slices: Sequence[Dataset], folder: Path, prefix: str = "") -> Path:
    """Write slices under names whose order says nothing about their position; the folder."""
    for number, dataset in enumerate(slices):
        save(dataset, folder / f"{prefix}{(number * 7919) % 1009:04d}.dcm")
    return folder


def enhanced(values: np.ndarray, matrix: np.ndarray, order: Sequence[int], **frame_content: Sequence[Any]) -> Dataset:
    """An enhanced CT object with the slices of (I, J, K) `values` as frames in the given `order` of k.

    Args:
        order: k of each frame; may name a slice several times.
        frame_content: elements of FrameContentSequence, one value per frame.
    """
    single = series(values, matrix)
    dataset = picture(values[:, :, 0])
    dataset.SOPClassUID = ENHANCED_CT_IMAGE
    dataset.NumberOfFrames = len(order)
    dataset.PixelData = b"".join(single[k].PixelData for k in order)
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = single[0].PixelSpacing
    measures.SliceThickness = "7.5"
    orientation.ImageOrientationPatient = single[0].ImageOrientationPatient
    shared.PixelMeasuresSequence = [measures]
    shared.PlaneOrientationSequence = [orientation]
    dataset.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number, k in enumerate(order):
        position, transform, content, frame = Dataset(), Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = single[k].ImagePositionPatient
        # Each frame has its own rescale, undone by its own offset.
        transform.RescaleSlope, transform.RescaleIntercept = "2", str(10 * k)
        for keyword, per_frame in frame_content.items():
            setattr(content, keyword, per_frame[number])
        frame.PlanePositionSequence = [position]
        frame.PixelValueTransformationSequence = [transform]
        frame.FrameContentSequence = [content]
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = frames
    return dataset


def loop(frames: np.ndarray, photometric: str = "MONOCHROME2", **elements: Any) -> Dataset:
    """A multi-frame ultrasound object without any geometry.

    Args:
        frames: (T, J, I) or (T, J, I, 3) uint8, as stored.
        photometric: what they mean.
        elements: further elements, by keyword; FrameTime and its pointer are not among those set here.
    """
    dataset = picture(np.zeros(frames.shape[2:0:-1], np.uint8))
    dataset.SOPClassUID, dataset.Modality = ULTRASOUND_LOOP, "US"
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.NumberOfFrames = len(frames)
    dataset.SamplesPerPixel = 3 if frames.ndim == 4 else 1
    dataset.PhotometricInterpretation = photometric
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if frames.ndim == 4:
        dataset.PlanarConfiguration = 0
    dataset.PixelData = np.ascontiguousarray(frames).tobytes()
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    return dataset


def region(
    box: tuple[int, int, int, int],
    delta: tuple[float, float] = (0.05, 0.05),
    form: int = 1,
    kind: int = 1,
    **units: int,
) -> Dataset:
    """An item of SequenceOfUltrasoundRegions.

    Args:
        box: x0, y0, x1, y1 in pixels, ends inclusive.
        delta: cm per pixel along x and y.
        form: RegionSpatialFormat: 1 2-D, 2 M-mode, 3 spectral.
        kind: RegionDataType: 1 tissue, 2 colour flow, 3 spectrum.
        units: x and y, codes of PhysicalUnits: 3 cm, 4 seconds.
    """
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = form, kind, 0
    item.RegionLocationMinX0, item.RegionLocationMinY0, item.RegionLocationMaxX1, item.RegionLocationMaxY1 = box
    item.PhysicalUnitsXDirection, item.PhysicalUnitsYDirection = units.get("x", 3), units.get("y", 3)
    item.PhysicalDeltaX, item.PhysicalDeltaY = delta
    return item
