"""RTSTRUCT: rasterised again by a reader of our own, what it says of itself, what it refuses; the outlines in it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import phantom
import pydicom
import pytest
from dicom_out import (
    MATRIX,
    SPACE,
    THING,
    TUMOUR,
    absent,
    archive,
    folder_of_slices,
    inside,
    one_file,
    rasterised,
    read,
    segmentation,
    x_ray,
)
from dicom_phantom import PATIENT, SERIES_UID, series, write
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rt_utils import RTStructBuilder

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import dicom
from medseg_cli.readers.options import ReadOptions
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import dicom_seg, rtstruct
from medseg_cli.writers.outlines import outlines

# rt-utils 1.2 sets attributes of files that pydicom 4 will not have.
pytestmark = pytest.mark.filterwarnings("ignore:.*will be removed in v4.0.*:DeprecationWarning")

SOURCES = {"series": folder_of_slices, "enhanced": one_file, "zip": archive}
REAL = (
    "mr_cmb_crc/SCAN_001/adc_image",
    "sts_rtstruct/STS_008/CT/image",
    "sts_rtstruct/STS_008/PET/image",
    "mr_pgbm_udacity/Study1__13_HCropVolume",
    "dicom2nifti/generic/compressed_j2k/001",
    "dicom2nifti/generic/anatomical/002_non_isotropic",
    "dicom2nifti/siemens_multiframe/anatomical/001/IM-0001-0001-0001.dcm",
)


def area(polygon: np.ndarray) -> float:
    """By the shoelace formula."""
    i, j = polygon.T
    return float(0.5 * abs(np.sum(i * np.roll(j, -1) - np.roll(i, -1) * j)))


@settings(max_examples=200)
@given(arrays.arrays(bool, arrays.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.booleans()))
def test_outlines_hold_the_pixels_and_their_area(plane: np.ndarray) -> None:
    """As exclusive or and as union alike, which readers differ in: no polygon fills another one's hole."""
    once, times = np.zeros(plane.shape, bool), np.zeros(plane.shape, int)
    polygons = outlines(plane)
    for polygon in polygons:
        within = inside(polygon, plane.shape)
        once ^= within
        times += within
        assert np.all(polygon % 1 == 0.5), "corners lie between pixels"
    assert np.array_equal(once, plane)
    assert np.array_equal(times, plane)
    assert sum(area(polygon) for polygon in polygons) == pytest.approx(plane.sum())


def test_outline_of_one_pixel_and_of_a_ring() -> None:
    (square,) = outlines(np.ones((1, 1), bool))
    assert sorted(map(tuple, square)) == [(-0.5, -0.5), (-0.5, 0.5), (0.5, -0.5), (0.5, 0.5)]
    ring = np.ones((5, 5), bool)
    ring[2, 2] = False
    (keyhole,) = outlines(ring)
    assert len(keyhole) == 4 + 4 + 1 + 2, "outside, hole, its first corner again, and the channel's mouth twice"
    assert area(keyhole) == 24


@pytest.mark.parametrize("source", SOURCES)
def test_the_mask_comes_back(source: str, tmp_path: Path) -> None:
    """Oblique slices with three different spacings: every voxel's centre is on the right side of the contours."""
    scan = read(SOURCES[source](tmp_path / source))
    result = segmentation(scan)
    rtstruct.write(result, tmp_path / "rt.dcm")
    found = rasterised(tmp_path / "rt.dcm", scan)
    assert list(found) == ["tumour", "thing", "nowhere"]
    for value, name in enumerate(found, start=1):
        assert np.array_equal(found[name], result.mask == value)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "PSR", "ILA", "SAL"])
def test_every_orientation(codes: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series", phantom.affine(codes)))
    result = segmentation(scan)
    notes = rtstruct.write(result, tmp_path / "rt.dcm")
    assert np.array_equal(rasterised(tmp_path / "rt.dcm", scan)["tumour"], result.mask == 1)
    axial = codes[2] in "SI"
    assert [("not axial" in note) for note in notes] == ([] if axial else [True])


@pytest.mark.parametrize("name", REAL)
def test_real_series(name: str, shared: Path, tmp_path: Path) -> None:
    scan = dicom.read(shared / "data/dicom" / name)
    columns, rows, slices = scan.shape
    i, j, k = np.indices(scan.shape)
    mask = np.zeros(scan.shape, np.uint8)
    away = np.hypot(i - 0.4 * columns, j - 0.5 * rows)
    mask[(away < (0.15 + 0.05 * (k % 3)) * columns) & (away > 0.05 * columns)] = 1
    mask[:, :, : slices // 4] = 0
    mask[:3, -2:, -1] = 2
    rtstruct.write(Segmentation(mask, (TUMOUR, THING), scan), tmp_path / "rt.dcm")
    found = rasterised(tmp_path / "rt.dcm", scan)
    assert np.array_equal(found["tumour"], mask == 1)
    assert np.array_equal(found["thing"], mask == 2)


def test_volume_of_the_contours_is_that_of_the_voxels(tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan)
    rtstruct.write(result, tmp_path / "rt.dcm")
    roi = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0]
    across = np.linalg.norm(np.diag([-1.0, -1.0, 1.0, 1.0])[:3, :3] @ MATRIX[:3, :3], axis=0)
    total = 0.0
    for contour in roi.ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        # Twice the area of a polygon in space is the length of its vector area.
        turned = np.cross(points, np.roll(points, -1, axis=0)).sum(axis=0)
        total += 0.5 * float(np.linalg.norm(turned)) * across[2]
    assert total == pytest.approx((result.mask == 1).sum() * np.prod(across), rel=1e-4)


def test_contours_name_their_slices(tmp_path: Path) -> None:
    folder = folder_of_slices(tmp_path / "series")
    scan = read(folder)
    rtstruct.write(segmentation(scan), tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    files = {str(each.SOPInstanceUID): each for each in map(pydicom.dcmread, folder.iterdir())}
    for roi in dataset.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            (named,) = contour.ContourImageSequence
            picture = files[str(named.ReferencedSOPInstanceUID)]
            assert named.ReferencedSOPClassUID == picture.SOPClassUID
            normal = np.cross(*np.array(picture.ImageOrientationPatient, float).reshape(2, 3))
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            away = (points - np.array(picture.ImagePositionPatient, float)) @ normal
            assert np.abs(away).max() < 1e-3
    (frame,) = dataset.ReferencedFrameOfReferenceSequence
    (study,) = frame.RTReferencedStudySequence
    (referenced,) = study.RTReferencedSeriesSequence
    assert frame.FrameOfReferenceUID == SPACE
    assert study.ReferencedSOPInstanceUID == SERIES_UID + ".9"
    assert referenced.SeriesInstanceUID == SERIES_UID
    assert {str(each.ReferencedSOPInstanceUID) for each in referenced.ContourImageSequence} == set(files)


def test_frames_of_an_enhanced_object_are_named_by_number(tmp_path: Path) -> None:
    path = one_file(tmp_path)
    scan = read(path)
    rtstruct.write(segmentation(scan), tmp_path / "rt.dcm")
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        (named,) = contour.ContourImageSequence
        place = groups[int(named.ReferencedFrameNumber) - 1].PlanePositionSequence[0].ImagePositionPatient
        normal = np.cross(MATRIX[:3, 0], MATRIX[:3, 1]) * (-1, -1, 1)
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        assert np.abs((points - np.array(place, float)) @ normal / np.linalg.norm(normal)).max() < 1e-3
    study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    (file,) = study.RTReferencedSeriesSequence[0].ContourImageSequence
    assert file.ReferencedSOPInstanceUID == pydicom.dcmread(path).SOPInstanceUID
    assert list(file.ReferencedFrameNumber) == [1, 2, 3, 4, 5]


def test_whose_it_is_and_what_made_it(tmp_path: Path) -> None:
    folder = folder_of_slices(tmp_path / "series")
    result = segmentation(read(folder), prompted=True)
    rtstruct.write(result, tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    assert (dataset.PatientName, dataset.PatientID, dataset.Modality) == (PATIENT, "id-1906", "RTSTRUCT")
    assert (dataset.StudyInstanceUID, dataset.FrameOfReferenceUID) == (SERIES_UID + ".9", SPACE)
    assert dataset.SeriesInstanceUID != SERIES_UID
    assert (dataset.Manufacturer, dataset.ManufacturerModelName) == ("medseg", "medseg hippocampus-mr")
    assert dataset.SeriesDescription.startswith("medseg ")
    assert "InstitutionName" not in dataset, "rt-utils would name its authors'"
    assert dataset.StructureSetDescription == f"preset hippocampus-mr, weights hippo, weights_sha256 {'ab' * 32}"
    names = [roi.ROIName for roi in dataset.StructureSetROISequence]
    assert names == ["tumour", "thing", "nowhere"]
    assert {roi.ROIGenerationAlgorithm for roi in dataset.StructureSetROISequence} == {"SEMIAUTOMATIC"}
    assert [list(roi.ROIDisplayColor) for roi in dataset.ROIContourSequence][:2] == [[200, 30, 60], [20, 200, 40]]
    assert "ContourSequence" not in dataset.ROIContourSequence[2], "an empty label is named and has no contour"
    (code,) = dataset.RTROIObservationsSequence[0].RTROIIdentificationCodeSequence
    assert (code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning) == ("108369006", "SCT", "Neoplasm")
    assert "RTROIIdentificationCodeSequence" not in dataset.RTROIObservationsSequence[1]
    assert RTStructBuilder.create_from(str(folder), str(tmp_path / "rt.dcm")).get_roi_names() == names


@pytest.mark.parametrize("source", SOURCES)
def test_nothing_that_dicom_requires_is_absent(source: str, tmp_path: Path) -> None:
    rtstruct.write(segmentation(read(SOURCES[source](tmp_path / source))), tmp_path / "rt.dcm")
    assert absent(tmp_path / "rt.dcm") == set()


def test_random_weights_are_stamped(tmp_path: Path) -> None:
    result = segmentation(read(folder_of_slices(tmp_path / "series")), weights={"name": "random", "random": True})
    rtstruct.write(result, tmp_path / "rt.dcm")
    dataset = pydicom.dcmread(tmp_path / "rt.dcm")
    stamp = "RANDOM WEIGHTS: this mask means nothing"
    assert dataset.SeriesDescription == dataset.StructureSetName == stamp
    assert dataset.StructureSetLabel == "RANDOM WEIGHTS"
    assert {roi.ROIDescription for roi in dataset.StructureSetROISequence} == {stamp}


def test_slices_a_little_off_their_grid_keep_their_own_positions(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"), FrameOfReferenceUID=SPACE)
    slices[2].ImagePositionPatient[2] = place = float(slices[2].ImagePositionPatient[2]) + 0.1
    scan = read(write(slices, tmp_path / "series"))
    rtstruct.write(Segmentation(np.ones(scan.shape, np.uint8), (TUMOUR,), scan), tmp_path / "rt.dcm")
    contour = pydicom.dcmread(tmp_path / "rt.dcm").ROIContourSequence[0].ContourSequence[2]
    assert [float(value) for value in contour.ContourData[2::3]] == pytest.approx([place] * 4)


def test_same_frame_of_reference_as_the_seg_of_a_series_that_states_none(tmp_path: Path) -> None:
    scan = read(write(series(phantom.voxels(), MATRIX), tmp_path / "series"))
    notes = rtstruct.write(segmentation(scan), tmp_path / "rt.dcm")
    dicom_seg.write(segmentation(scan), tmp_path / "seg.dcm")
    one, other = pydicom.dcmread(tmp_path / "rt.dcm"), pydicom.dcmread(tmp_path / "seg.dcm")
    assert one.FrameOfReferenceUID == other.FrameOfReferenceUID
    assert one.StructureSetROISequence[0].ReferencedFrameOfReferenceUID == other.FrameOfReferenceUID
    assert "states no FrameOfReferenceUID" in notes[0]


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """rt-utils prints where it writes and that a structure is empty; stdout is for data."""
    result = segmentation(read(folder_of_slices(tmp_path / "series")))
    rtstruct.write(replace(result, mask=np.zeros_like(result.mask)), tmp_path / "rt.dcm")
    assert capfd.readouterr() == ("", "")
    assert not any(mask.any() for mask in rasterised(tmp_path / "rt.dcm", result.scan).values())


def test_what_has_no_slices_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="an RTSTRUCT refers to the DICOM series of its scan, but phantom is nifti"):
        rtstruct.check(phantom.scan())
    with pytest.raises(InputError, match="does not say where it lies in the patient"):
        rtstruct.check(read(x_ray(tmp_path)))
    slices = series(phantom.voxels((9, 7, 8)), phantom.affine("LPS"), FrameOfReferenceUID=SPACE)
    del slices[3]
    scan = dicom.read(write(slices, tmp_path / "series"), ReadOptions(on_gap="resample"))
    with pytest.raises(InputError, match="resampled: 9x7x7 voxels in the files, 9x7x8 in the mask"):
        rtstruct.write(Segmentation(np.ones(scan.shape, np.uint8), (TUMOUR,), scan), tmp_path / "rt.dcm")
    assert not (tmp_path / "rt.dcm").exists()
