"""DICOM SEG: read back by hand, by highdicom and by dcmqi; whose it is, what it says of itself, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import highdicom
import numpy as np
import phantom
import pydicom
import pytest
import region_growing
from dicom_out import (
    MATRIX,
    SPACE,
    THING,
    TUMOUR,
    absent,
    archive,
    by_dcmqi,
    folder_of_slices,
    on_full_grid,
    one_file,
    pixels,
    read,
    segmentation,
    x_ray,
)
from dicom_phantom import PATIENT, SERIES_UID, picture, save, series, write

from medseg_cli import pipelines
from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import dicom
from medseg_cli.readers.options import ReadOptions
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import dicom_seg

SOURCES = {"series": folder_of_slices, "enhanced": one_file, "zip": archive}
TYPES = ("binary", "fractional", "labelmap")
REAL = (
    "mr_cmb_crc/SCAN_001/adc_image",
    "sts_rtstruct/STS_008/CT/image",
    "sts_rtstruct/STS_008/PET/image",
    "mr_pgbm_udacity/Study1__13_HCropVolume",
    "dicom2nifti/generic/compressed_j2k/001",
    "dicom2nifti/generic/anatomical/002_non_isotropic",
    "dicom2nifti/siemens_multiframe/anatomical/001/IM-0001-0001-0001.dcm",
    "dicom2nifti/philips/anatomical/001",
)


def expected(mask: np.ndarray, seg_type: str, value: int) -> np.ndarray:
    """What the object has to hold of one label."""
    return (mask == value) * (255 if seg_type == "fractional" else 1)


@pytest.mark.parametrize("seg_type", TYPES)
@pytest.mark.parametrize("source", SOURCES)
def test_the_mask_comes_back_voxel_for_voxel(source: str, seg_type: str, tmp_path: Path) -> None:
    scan = read(SOURCES[source](tmp_path / source))
    result = segmentation(scan)
    notes = dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    found = on_full_grid(tmp_path / "seg.dcm", scan)
    assert notes == ()
    if seg_type == "labelmap":
        assert np.array_equal(found[0], result.mask)
        return
    for value in (1, 2):
        assert np.array_equal(found[value], expected(result.mask, seg_type, value))
    assert 3 not in found, "an empty segment has no frames"


@pytest.mark.parametrize("seg_type", TYPES)
def test_dcmqi_reads_the_same_mask(seg_type: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan)
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    found = by_dcmqi(tmp_path / "seg.dcm", scan, tmp_path)
    told = json.loads((tmp_path / "dcmqi-meta.json").read_text())
    segments = {each["labelID"]: each for group in told["segmentAttributes"] for each in group}
    assert set(found) == {1, 2}
    assert np.array_equal(found[1], result.mask == 1)
    assert np.array_equal(found[2], result.mask == 2)
    assert segments[1]["SegmentLabel"] == "tumour"
    assert segments[1]["SegmentedPropertyTypeCodeSequence"]["CodeValue"] == "108369006"
    assert np.allclose(segments[1]["recommendedDisplayRGBValue"], TUMOUR.color, atol=2)
    assert segments[2]["SegmentAlgorithmType"] == "AUTOMATIC"


@pytest.mark.parametrize("seg_type", TYPES)
def test_highdicom_reads_the_same_mask(seg_type: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan)
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    volume = highdicom.seg.segread(tmp_path / "seg.dcm").get_volume(combine_segments=True, skip_overlap_checks=True)
    values, matrix = np.asarray(volume.array), np.asarray(volume.affine)
    where = np.argwhere(values > 0)
    to_index = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ scan.affine) @ matrix
    index = where @ to_index[:3, :3].T + to_index[:3, 3]
    assert np.abs(index - np.rint(index)).max() < 1e-3
    mask = np.zeros(scan.shape, int)
    mask[tuple(np.rint(index).astype(int).T)] = values[tuple(where.T)]
    assert np.array_equal(mask, result.mask)


@pytest.mark.parametrize("seg_type", TYPES)
@pytest.mark.parametrize("name", REAL)
def test_real_series(name: str, seg_type: str, shared: Path, tmp_path: Path) -> None:
    scan = dicom.read(shared / "data/dicom" / name)
    columns, rows, slices = scan.shape
    i, j, k = np.indices(scan.shape)
    mask = np.zeros(scan.shape, np.uint8)
    mask[np.hypot(i - 0.4 * columns, j - 0.5 * rows) < (0.1 + 0.05 * (k % 3)) * columns] = 1
    mask[:, :, : slices // 4] = 0
    mask[:3, -2:, -1] = 2
    result = Segmentation(mask, (TUMOUR, THING), scan)
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    ours, theirs = on_full_grid(tmp_path / "seg.dcm", scan), by_dcmqi(tmp_path / "seg.dcm", scan, tmp_path)
    for value in (1, 2):
        here = ours[0] == value if seg_type == "labelmap" else ours[value] > 0
        assert np.array_equal(here, mask == value)
        assert np.array_equal(theirs[value], mask == value)


@pytest.mark.parametrize("source", SOURCES)
def test_frames_name_the_pictures_that_they_lie_on(source: str, tmp_path: Path) -> None:
    path = SOURCES[source](tmp_path / source)
    scan = read(path)
    dicom_seg.write(segmentation(scan), tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    files = [pydicom.dcmread(file) for file in tmp_path.rglob("*.dcm") if file.name != "seg.dcm"]
    positions = {}
    for file in files:
        if source == "enhanced":
            for number, group in enumerate(file.PerFrameFunctionalGroupsSequence, start=1):
                place = group.PlanePositionSequence[0].ImagePositionPatient
                positions[str(file.SOPInstanceUID), number] = place
        else:
            positions[str(file.SOPInstanceUID), None] = file.ImagePositionPatient
    for group in dataset.PerFrameFunctionalGroupsSequence:
        (named,) = group.DerivationImageSequence[0].SourceImageSequence
        assert named.ReferencedSOPClassUID == files[0].SOPClassUID
        assert named.SpatialLocationsPreserved == "YES"
        number = named.get("ReferencedFrameNumber")
        there = positions[str(named.ReferencedSOPInstanceUID), None if number is None else int(number)]
        assert np.allclose(np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), np.array(there, float))
    (referenced,) = dataset.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == SERIES_UID
    uids = [str(each.ReferencedSOPInstanceUID) for each in referenced.ReferencedInstanceSequence]
    assert sorted(uids) == sorted(str(file.SOPInstanceUID) for file in files)


def test_whose_it_is_and_what_made_it(tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    for name in ("one.dcm", "two.dcm"):
        dicom_seg.write(segmentation(scan), tmp_path / name)
    one, two = pydicom.dcmread(tmp_path / "one.dcm"), pydicom.dcmread(tmp_path / "two.dcm")
    assert (one.PatientName, one.PatientID) == (PATIENT, "id-1906")
    assert (one.StudyInstanceUID, one.FrameOfReferenceUID) == (SERIES_UID + ".9", SPACE)
    assert (one.StudyDate, one.StudyTime, one.StudyID) == ("20260102", "030405", "1")
    assert len({SERIES_UID, one.SeriesInstanceUID, two.SeriesInstanceUID}) == 3
    assert one.SOPInstanceUID != two.SOPInstanceUID
    assert (one.Modality, one.SegmentationType, one.SeriesNumber) == ("SEG", "BINARY", 1003)
    assert one.SeriesDescription.startswith("medseg ")
    assert one.SeriesDescription.endswith(" hippocampus-mr")
    assert one.Manufacturer == "medseg"
    segment = one.SegmentSequence[0]
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "medseg hippocampus-mr")
    assert algorithm.AlgorithmVersion == one.SoftwareVersions
    assert algorithm.AlgorithmParameters == f"preset=hippocampus-mr,weights=hippo,weights_sha256={'ab' * 32}"
    assert algorithm.AlgorithmFamilyCodeSequence[0].CodeMeaning == "Artificial Intelligence"


@pytest.mark.parametrize("seg_type", TYPES)
@pytest.mark.parametrize("source", [*SOURCES, "x-ray"])
def test_nothing_that_dicom_requires_is_absent(source: str, seg_type: str, tmp_path: Path) -> None:
    scan = read(x_ray(tmp_path) if source == "x-ray" else SOURCES[source](tmp_path / source))
    mask = np.zeros(scan.shape, np.uint8)
    mask[1:4, 2:5, 0] = 1
    dicom_seg.write(Segmentation(mask, (TUMOUR,), scan), tmp_path / "seg.dcm", seg_type=seg_type)
    assert absent(tmp_path / "seg.dcm") == set()


def test_a_pointed_at_object_is_semiautomatic(tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    dicom_seg.write(segmentation(scan, prompted=True), tmp_path / "seg.dcm")
    kinds = {each.SegmentAlgorithmType for each in pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence}
    assert kinds == {"SEMIAUTOMATIC"}


@pytest.mark.parametrize("seg_type", TYPES)
def test_random_weights_are_stamped(seg_type: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = segmentation(scan, weights={"name": "random", "sha256": None, "random": True})
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert dataset.SeriesDescription == dataset.ContentDescription == "RANDOM WEIGHTS: this mask means nothing"
    assert dataset.ContentLabel == "RANDOM_WEIGHTS"
    segments = [each for each in dataset.SegmentSequence if each.SegmentNumber != 0]
    assert all(each.SegmentAlgorithmName.startswith("RANDOM WEIGHTS") for each in segments)


@pytest.mark.parametrize(
    ("snomed", "category", "kind"),
    [
        ("108369006", ("49755003", "Morphologically Abnormal Structure"), ("108369006", "Neoplasm")),
        ("39607008", ("91723000", "Anatomical Structure"), ("39607008", "Lung")),
        ("5366008", ("91723000", "Anatomical Structure"), ("5366008", "Hippocampus")),
        ("", ("85756007", "Tissue"), ("85756007", "Tissue")),
        ("73211009", ("123037004", "Body structure"), ("73211009", "my thing")),
    ],
)
def test_codes(snomed: str, category: tuple[str, str], kind: tuple[str, str], tmp_path: Path) -> None:
    """Categories as DICOM PS3.16 lists them in CID 7191 to 7198; what it does not list keeps the code of the preset."""
    scan = read(folder_of_slices(tmp_path / "series"))
    result = replace(segmentation(scan), labels=(Label(1, "my thing", snomed=snomed), THING, Label(3, "nowhere")))
    dicom_seg.write(result, tmp_path / "seg.dcm")
    segment = pydicom.dcmread(tmp_path / "seg.dcm").SegmentSequence[0]
    assert segment.SegmentLabel == "my thing"
    for sequence, wanted in (
        (segment.SegmentedPropertyCategoryCodeSequence, category),
        (segment.SegmentedPropertyTypeCodeSequence, kind),
    ):
        (code,) = sequence
        assert (code.CodeValue, code.CodeMeaning, code.CodingSchemeDesignator) == (*wanted, "SCT")


@pytest.mark.parametrize("seg_type", TYPES)
def test_an_empty_mask_is_an_empty_frame_per_segment(seg_type: str, tmp_path: Path) -> None:
    scan = read(folder_of_slices(tmp_path / "series"))
    result = replace(segmentation(scan), mask=np.zeros(scan.shape, np.uint8))
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert dataset.NumberOfFrames == (1 if seg_type == "labelmap" else 3)
    assert not pixels(dataset).any()
    assert len(dataset.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5
    assert by_dcmqi(tmp_path / "seg.dcm", scan, tmp_path) == {}


def test_label_values_of_16_bits_with_gaps(tmp_path: Path) -> None:
    """A label map keeps the values; the other types must count from 1, and a note says so."""
    scan = read(folder_of_slices(tmp_path / "series"))
    mask = np.zeros(scan.shape, np.uint16)
    mask[2:4, 3, 1], mask[5, 1:3, 2] = 7, 300
    result = Segmentation(mask, (Label(300, "far"), Label(7, "near")), scan)
    assert dicom_seg.write(result, tmp_path / "map.dcm", seg_type="labelmap") == ()
    assert np.array_equal(on_full_grid(tmp_path / "map.dcm", scan)[0], mask)
    (note,) = dicom_seg.write(result, tmp_path / "bits.dcm")
    assert note == "segments of a DICOM SEG count from 1: label value 7 is segment 1, and so for 1 more"
    bits = on_full_grid(tmp_path / "bits.dcm", scan)
    names = {int(e.SegmentNumber): e.SegmentLabel for e in pydicom.dcmread(tmp_path / "bits.dcm").SegmentSequence}
    assert names == {1: "near", 2: "far"}
    assert np.array_equal(bits[1], mask == 7)
    assert np.array_equal(bits[2], mask == 300)


def test_a_fractional_object_says_occupancy(tmp_path: Path) -> None:
    """The mask holds no probabilities, and the object must not claim any."""
    scan = read(folder_of_slices(tmp_path / "series"))
    dicom_seg.write(segmentation(scan), tmp_path / "seg.dcm", seg_type="fractional")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (dataset.SegmentationFractionalType, dataset.MaximumFractionalValue) == ("OCCUPANCY", 255)


@pytest.mark.parametrize("policy", ["gap", "tilt"])
def test_repaired_series_have_a_grid_of_their_own(policy: str, tmp_path: Path) -> None:
    matrix, values = phantom.affine("LPS"), phantom.voxels((9, 7, 8))
    if policy == "tilt":
        matrix[:3, 2] += (0.0, 0.6, 0.0)
    slices = series(values, matrix, FrameOfReferenceUID=SPACE)
    if policy == "gap":
        del slices[3]
    folder = write(slices, tmp_path / "series")
    scan = dicom.read(folder, ReadOptions(on_gap="resample", on_tilt="shear"))
    mask = np.zeros(scan.shape, np.uint8)
    mask[1:4, 2:5, 2:6], mask[-1, -1, -1] = 1, 1
    (note,) = dicom_seg.write(Segmentation(mask, (TUMOUR,), scan), tmp_path / "seg.dcm")
    size = "x".join(map(str, scan.shape))
    assert f"9x7x{len(slices)} voxels in the files, {size} in the mask" in note
    assert np.array_equal(on_full_grid(tmp_path / "seg.dcm", scan)[1], mask)
    assert np.array_equal(by_dcmqi(tmp_path / "seg.dcm", scan, tmp_path)[1], mask > 0)
    referenced = pydicom.dcmread(tmp_path / "seg.dcm").ReferencedSeriesSequence[0].ReferencedInstanceSequence
    assert len(referenced) == len(slices)


def test_slices_a_little_off_their_grid_keep_their_own_positions(tmp_path: Path) -> None:
    """Positions are rounded in many headers; the frames lie where the pictures lie, not on the mean grid."""
    slices = series(phantom.voxels(), phantom.affine("LPS"), FrameOfReferenceUID=SPACE)
    stated = [float(each.ImagePositionPatient[2]) for each in slices]
    slices[2].ImagePositionPatient[2] = stated[2] + 0.04 * phantom.SPACING[2]
    scan = read(write(slices, tmp_path / "series"))
    dicom_seg.write(Segmentation(np.ones(scan.shape, np.uint8), (TUMOUR,), scan), tmp_path / "seg.dcm")
    groups = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    found = sorted(float(group.PlanePositionSequence[0].ImagePositionPatient[2]) for group in groups)
    assert found == pytest.approx(sorted([*stated[:2], stated[2] + 0.1, *stated[3:]]), abs=1e-9)


def test_an_x_ray_without_a_position(tmp_path: Path) -> None:
    scan = read(x_ray(tmp_path))
    mask = np.zeros(scan.shape, np.uint8)
    mask[2:5, 1:3, 0] = 1
    dicom_seg.write(Segmentation(mask, (TUMOUR,), scan), tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert np.array_equal(pixels(dataset)[0].T, mask[:, :, 0])
    (named,) = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence
    source = pydicom.dcmread(tmp_path / "x-ray.dcm")
    assert named.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert named.ReferencedSOPClassUID == source.SOPClassUID
    assert "FrameOfReferenceUID" not in dataset


def test_a_picture_of_a_loop_is_named_by_its_number(tmp_path: Path) -> None:
    """Ultrasound over time: a classic object of many frames, of which --channel picks one."""
    values = np.random.default_rng(0).integers(0, 200, (9, 7, 3)).astype(np.int16)
    dataset = picture(values[:, :, 0])
    dataset.SOPClassUID, dataset.Modality, dataset.NumberOfFrames = "1.2.840.10008.5.1.4.1.1.3.1", "US", 3
    dataset.PixelData = b"".join(picture(values[:, :, k]).PixelData for k in range(3))
    scan = dicom.read(save(dataset, tmp_path / "loop.dcm"), ReadOptions(channel=1))
    assert np.array_equal(scan.voxels[0, :, :, 0], values[:, :, 1])
    mask = np.zeros(scan.shape, np.uint8)
    mask[2:5, 1:3, 0] = 1
    dicom_seg.write(Segmentation(mask, (TUMOUR,), scan), tmp_path / "seg.dcm")
    (group,) = pydicom.dcmread(tmp_path / "seg.dcm").PerFrameFunctionalGroupsSequence
    (named,) = group.DerivationImageSequence[0].SourceImageSequence
    assert (named.ReferencedSOPInstanceUID, named.ReferencedFrameNumber) == (dataset.SOPInstanceUID, 2)


def test_a_scan_says_which_files_it_came_from(tmp_path: Path) -> None:
    folder = folder_of_slices(tmp_path / "series")
    places = {path: pydicom.dcmread(path).ImagePositionPatient for path in folder.iterdir()}
    scan = read(folder)
    assert set(scan.provenance.files) == set(places)
    index = scan.world_to_voxel(np.array([places[path] for path in scan.provenance.files], float), "lps")
    assert np.allclose(index, [(0, 0, k) for k in range(5)], atol=1e-6)
    packed = archive(tmp_path)
    assert read(packed).provenance.files == (packed,)


def test_a_series_without_a_frame_of_reference_gets_one_of_its_own(tmp_path: Path) -> None:
    scan = read(write(series(phantom.voxels(), MATRIX), tmp_path / "series"))
    uids = set()
    for name in ("one.dcm", "two.dcm"):
        (note,) = dicom_seg.write(segmentation(scan), tmp_path / name)
        assert "states no FrameOfReferenceUID" in note
        uids.add(pydicom.dcmread(tmp_path / name).FrameOfReferenceUID)
    assert len(uids) == 1, "all that is made of one series lies in one frame of reference"
    assert np.array_equal(on_full_grid(tmp_path / "one.dcm", scan)[1], segmentation(scan).mask == 1)


@pytest.mark.parametrize(
    ("charset", "patient"), [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎")]
)
def test_names_in_any_script(charset: str | list[str], patient: str, tmp_path: Path) -> None:
    folder = folder_of_slices(tmp_path / "series", SpecificCharacterSet=charset, PatientName=patient)
    scan = read(folder)
    name = "Niere, linke Hälfte \\ 腎臓 " + "x" * 60
    result = replace(segmentation(scan), labels=(Label(1, name), THING, Label(3, "nowhere")))
    dicom_seg.write(result, tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert str(dataset.PatientName) == patient
    segment = dataset.SegmentSequence[0]
    assert segment.SegmentLabel.startswith("Niere, linke Hälfte / 腎臓 xxx")
    assert len(segment.SegmentLabel) <= 64
    assert segment.SegmentDescription == name.replace("\\", "/")


def test_odd_headers_are_carried_over_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """A library that complains of what a patient's file says puts it into logs."""
    slices = series(phantom.voxels(), MATRIX, FrameOfReferenceUID=SPACE, PatientName="Nobody", PatientSex="X")
    for each in slices:
        each.add_new("PatientAge", "AS", "40 years")
        del each.StudyID
    folder = write(slices, tmp_path / "series")
    recwarn.clear()
    caplog.clear()
    dicom_seg.write(segmentation(read(folder)), tmp_path / "seg.dcm")
    told = [*(str(each.message) for each in recwarn), caplog.text]
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    assert (dataset.PatientName, dataset.PatientSex, dataset.PatientAge) == ("Nobody", "X", "40 years")
    assert dataset.StudyID == ""
    assert not [text for text in told if "Nobody" in text or "40 years" in text]


def test_what_is_no_dicom_series_is_refused(tmp_path: Path) -> None:
    scan = phantom.scan()
    with pytest.raises(UsageError, match="a DICOM SEG refers to the DICOM series of its scan, but phantom is nifti"):
        dicom_seg.write(phantom.segmentation(scan), tmp_path / "seg.dcm")
    assert list(tmp_path.iterdir()) == []


def test_series_that_nothing_can_refer_to_are_refused(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), MATRIX, FrameOfReferenceUID=SPACE)
    slices[1].SOPInstanceUID = slices[0].SOPInstanceUID
    scan = read(write(slices, tmp_path / "same"))
    with pytest.raises(InputError, match="5 slices share 4 SOPInstanceUIDs"):
        dicom_seg.check(scan)
    slices = series(phantom.voxels(), MATRIX, FrameOfReferenceUID=SPACE)
    slices[1].FrameOfReferenceUID = SPACE + ".1"
    with pytest.raises(InputError, match="2 different frames of reference"):
        dicom_seg.check(read(write(slices, tmp_path / "spaces")))
    slices = series(phantom.voxels(), MATRIX, FrameOfReferenceUID=SPACE)
    del slices[4].StudyInstanceUID
    with pytest.raises(InputError, match="1 of its 5 slices have no StudyInstanceUID"):
        dicom_seg.check(read(write(slices, tmp_path / "study")))


def test_from_the_command_line(
    in_process: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    region_growing.register()
    preset = region_growing.write_preset(tmp_path)
    values = np.full((20, 16, 6), 100, np.int16)
    values[5:9, 4:8, 2:4] = 400
    folder = write(series(values, MATRIX, FrameOfReferenceUID=SPACE), tmp_path / "series")
    words = ("segment", folder, "-o", "out/", "--preset", preset, "--point", "6,5,2")
    code, _, err = in_process(*words, "--format", "dicom-seg,rtstruct,nifti", "--seg-type", "labelmap")
    assert code == 0, err
    assert "removed in v4.0" not in err, "what libraries say to each other is for --verbose"
    assert PATIENT not in err
    scan = read(folder)
    dataset = pydicom.dcmread(tmp_path / "out/series_seg.dcm")
    assert dataset.SegmentationType == "LABELMAP"
    found = on_full_grid(tmp_path / "out/series_seg.dcm", scan)[0]
    assert np.array_equal(found > 0, scan.voxels[0] == 400)
    contours = pydicom.dcmread(tmp_path / "out/series_rtstruct.dcm")
    assert contours.FrameOfReferenceUID == dataset.FrameOfReferenceUID == SPACE
    image = phantom.write_volume(tmp_path / "scan.nii.gz", values, MATRIX)
    code, _, err = in_process("segment", image, "-o", "two/", *words[4:], "--format", "dicom-seg")
    assert code == 2
    assert "refers to the DICOM series of its scan" in err
