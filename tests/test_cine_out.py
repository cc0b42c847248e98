"""Masks of frames over time: every format read back, DICOM references, areas frame by frame, pictures, scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bright_box
import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_out import absent
from dicom_phantom import SERIES_UID, decimal, loop, region, save
from PIL import Image
from pydicom.tag import Tag

from medseg_cli.errors import InputError, UsageError
from medseg_cli.measure import measure
from medseg_cli.readers.dicom import seg
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import dicom_seg, formats, masks, npz, preview, scan_file

DISC, SPECK = Label(1, "disc", (200, 30, 60)), Label(2, "speck", (20, 200, 40))
T, J, I = 6, 24, 32  # noqa: E741
TIMES = [0, 40, 40, 40, 40, 80]


@pytest.fixture
def frames() -> np.ndarray:
    """(T, J, I) uint8: a bright square that grows by one pixel to the right per frame; grey noise round it."""
    values = np.random.default_rng(3).integers(0, 60, (T, J, I)).astype(np.uint8)
    for t in range(T):
        values[t, 8:14, 10 : 15 + t] = 200
    return values


@pytest.fixture
def cine(frames: np.ndarray, tmp_path: Path) -> Scan:
    """The loop as DICOM, with pixels of 0.5 x 0.25 mm and an uneven step in time."""
    dataset = loop(frames, FrameTimeVector=decimal(TIMES), FrameIncrementPointer=Tag("FrameTimeVector"))
    dataset.SequenceOfUltrasoundRegions = [region((0, 0, I - 1, J - 1), (0.05, 0.025))]
    return read_file(save(dataset, tmp_path / "loop.dcm"), ReadOptions())


def segmented(scan: Scan, *, empty: bool = False) -> Segmentation:
    """The square in frames 1 to 5, in two parts in frame 4, and a speck in frame 3."""
    mask = (scan.voxels[0] >= 200).astype(np.uint8)
    mask[:, :, 0] = 0
    mask[12, 8:14, 4] = 0
    mask[0, 0, 3] = 2
    return Segmentation(mask * np.uint8(not empty), (DISC, SPECK, Label(3, "nowhere")), scan)


def test_areas_and_never_a_volume(cine: Scan) -> None:
    disc, speck, nowhere = measure(segmented(cine))
    pixels = (0, 36, 42, 48, 48, 60)  # 6 rows of 5 + t columns; frame 4 lacks one of nine
    assert disc.frames is not None
    assert disc.frames.pixels == pixels
    assert disc.area_mm2 == pytest.approx(np.mean(pixels[1:]) * 0.125)
    assert (disc.volume_mm3, disc.centroid_ras, disc.components) == (None, None, 2)
    assert disc.shape.max_diameter_mm is None
    assert not disc.touches_border, "the last frame is no edge"
    assert speck.touches_border
    assert (speck.area_mm2, nowhere.area_mm2) == (pytest.approx(0.125), 0)
    assert set(disc.reasons) >= {"volume_mm3", "centroid_ras_mm", "max_diameter_mm", "surface_mm2", "perimeter_mm"}


@pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.nrrd", "mask.mha"])
def test_the_mask_of_a_dicom_loop_has_time_as_its_fourth_axis(name: str, cine: Scan, tmp_path: Path) -> None:
    result = segmented(cine)
    masks.write_mask(result, tmp_path / name)
    back = read_file(tmp_path / name, ReadOptions())
    assert back.cine
    assert np.array_equal(back.voxels[0], result.mask)
    assert np.allclose(back.affine, cine.affine)
    if name.startswith("mask.nii"):
        header = nib.load(tmp_path / name).header
        assert header.get_data_shape() == (I, J, 1, T)
        assert header.get_xyzt_units() == ("mm", "sec")
        assert header["pixdim"][4] == pytest.approx(0.048), "240 ms in five steps"
    else:
        image = SimpleITK.ReadImage(str(tmp_path / name))
        assert image.GetSize() == (I, J, 1, T)
        assert image.GetSpacing() == pytest.approx((0.5, 0.25, 1, 0.048))


def test_the_loop_itself_as_nifti(cine: Scan, tmp_path: Path) -> None:
    """For datasets that are brought into another layout: image and mask have one shape."""
    scan_file.write(cine, tmp_path / "image.nii.gz")
    back = read_file(tmp_path / "image.nii.gz", ReadOptions())
    assert nib.load(tmp_path / "image.nii.gz").shape == (I, J, 1, T)
    assert np.array_equal(back.voxels, cine.voxels)
    assert np.allclose(back.affine, cine.affine)
    assert back.frame_seconds == pytest.approx(0.048 * np.arange(T))


def test_other_formats(cine: Scan, tmp_path: Path) -> None:
    result = segmented(cine)
    masks.write_mask(result, tmp_path / "mask.seg.nrrd")
    assert SimpleITK.ReadImage(str(tmp_path / "mask.seg.nrrd")).GetSize() == (I, J, T)
    npz.write(result, tmp_path / "mask.npz")
    with np.load(tmp_path / "mask.npz", allow_pickle=False) as arrays:
        assert np.array_equal(arrays["segs"].transpose(2, 1, 0), result.mask)
        assert arrays["frame_seconds"] == pytest.approx(np.cumsum(TIMES) / 1000)
    for name, error, words in (
        ("png", UsageError, "6 frames over time"),
        ("stl", UsageError, "needs a volume, but the scan has 6 frames over time"),
        ("mgz", UsageError, "frames over time"),
        ("rtstruct", InputError, "one place over time"),
    ):
        with pytest.raises(error, match=words):
            formats.check_fits(list(map(formats.FORMATS.get, [name])), cine, formats.Choices())  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(I, J, 1, T), (I, J, T)])
def test_the_mask_of_a_nifti_is_the_files_own(shape: tuple[int, ...], frames: np.ndarray, tmp_path: Path) -> None:
    affine = np.array([[0.3, 0.02, 0, 5], [-0.013333, 0.45, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1]])
    image = nib.Nifti1Image(frames.transpose(2, 1, 0).reshape(shape), affine)
    image.header.set_xyzt_units("mm", "msec")
    if len(shape) == 4:
        image.header["pixdim"][4] = 25
    nib.save(image, tmp_path / "loop.nii.gz")
    scan = read_file(tmp_path / "loop.nii.gz", ReadOptions(cine=len(shape) == 3))
    result = segmented(scan)
    masks.write_mask(result, tmp_path / "mask.nii.gz")
    own, mask = nib.load(tmp_path / "loop.nii.gz"), nib.load(tmp_path / "mask.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), result.mask.reshape(shape))
    assert np.array_equal(mask.affine, own.affine)
    for key, count in (("dim", 8), ("pixdim", len(shape) + 1)):
        assert np.array_equal(mask.header[key][:count], own.header[key][:count])
    assert (mask.header["sform_code"], mask.header["qform_code"]) == (2, 0)
    assert mask.header.get_xyzt_units() == (("mm", "msec") if len(shape) == 4 else ("mm", "unknown"))


@pytest.mark.parametrize("empty", [False, True], ids=["found", "empty"])
@pytest.mark.parametrize("seg_type", ["binary", "fractional", "labelmap"])
def test_frames_of_a_seg_name_those_of_the_loop(seg_type: Any, empty: bool, cine: Scan, tmp_path: Path) -> None:
    result = segmented(cine, empty=empty)
    dicom_seg.write(result, tmp_path / "seg.dcm", seg_type=seg_type)
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    uid = pydicom.dcmread(tmp_path / "loop.dcm").SOPInstanceUID
    named = []
    for group in dataset.PerFrameFunctionalGroupsSequence:
        source = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == uid
        named.append(source.ReferencedFrameNumber)
        assert group.FrameContentSequence[0].TemporalPositionIndex == source.ReferencedFrameNumber
        assert "PlanePositionSequence" not in group
    if not empty:
        assert named == ([2, 3, 4, 5, 6] if seg_type == "labelmap" else [2, 3, 4, 5, 6, 4])
    shared = dataset.SharedFunctionalGroupsSequence[0]
    assert "FrameOfReferenceUID" not in dataset
    assert "PlaneOrientationSequence" not in shared
    assert "PixelMeasuresSequence" not in shared, "there is no slice thickness to put there"
    assert absent(tmp_path / "seg.dcm") == set(), (
        "a frame of reference is required only where no frame names its source"
    )
    pointers = [int(each.DimensionIndexPointer) for each in dataset.DimensionIndexSequence]
    assert pointers[-1] == Tag("TemporalPositionIndex")
    theirs = highdicom.seg.segread(tmp_path / "seg.dcm").get_pixels_by_source_frame(
        uid, list(range(1, T + 1)), combine_segments=True, assert_missing_frames_are_empty=True
    )
    assert np.array_equal(theirs.transpose(2, 1, 0), result.mask)
    ours = seg.read(tmp_path / "seg.dcm")
    assert np.array_equal(seg.widen(ours.voxels[0].astype(np.uint16), ours, cine), result.mask)


def test_a_seg_of_frames_at_one_place(frames: np.ndarray, tmp_path: Path) -> None:
    """A cine of MR: its SEG lies where its pictures lie, and in their frame of reference."""
    dataset = loop(frames, FrameTime="70", FrameIncrementPointer=Tag("FrameTime"), Modality="MR")
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = decimal([1, 2, 3]), decimal([0, 1, 0, 0, 0, -1])
    dataset.PixelSpacing, dataset.FrameOfReferenceUID = ["2", "1.5"], SERIES_UID + ".7"
    scan = read_file(save(dataset, tmp_path / "mr.dcm"), ReadOptions())
    dicom_seg.write(segmented(scan), tmp_path / "seg.dcm")
    made = pydicom.dcmread(tmp_path / "seg.dcm")
    assert made.FrameOfReferenceUID == SERIES_UID + ".7"
    orientation = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    assert [float(each) for each in orientation] == [0, 1, 0, 0, 0, -1]
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert ([float(each) for each in measures.PixelSpacing], "SliceThickness" in measures) == ([2, 1.5], False)
    for group in made.PerFrameFunctionalGroupsSequence:
        assert [float(each) for each in group.PlanePositionSequence[0].ImagePositionPatient] == [1, 2, 3]
    ours = seg.read(tmp_path / "seg.dcm")
    assert ours.cine
    assert np.array_equal(seg.widen(ours.voxels[0].astype(np.uint16), ours, scan), segmented(scan).mask)


def test_a_seg_of_pictures_of_several_loops_is_refused(cine: Scan, tmp_path: Path) -> None:
    dicom_seg.write(segmented(cine), tmp_path / "seg.dcm")
    dataset = pydicom.dcmread(tmp_path / "seg.dcm")
    other = dataset.PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    other.ReferencedSOPInstanceUID = "1.2.3"
    dataset.save_as(tmp_path / "two.dcm")
    with pytest.raises(InputError, match="lie on 2 different pictures"):
        seg.read(tmp_path / "two.dcm")


def test_the_picture_shows_frames(cine: Scan) -> None:
    titles = [panel.title for panel in preview.panels(segmented(cine), measure(segmented(cine)))]
    assert titles == ["frame 1 of 0 to 5, 0.04 s", "frame 3 of 0 to 5, 0.12 s", "frame 5 of 0 to 5, 0.24 s"]
    empty = segmented(cine, empty=True)
    assert [panel.title for panel in preview.panels(empty, measure(empty), (3, 3, 2))] == ["frame 2 of 0 to 5, 0.08 s"]


def test_segment_and_report(cine: Scan, tmp_path: Path, in_process: Any) -> None:
    """From the loop to its mask through the command line, with a network whose answer is known beforehand."""
    bright_box.register()
    bright_box.preset(tmp_path, size=64, whole_image=True)
    code, _, err = in_process(
        *("segment", "loop.dcm", "-o", "mask.nii.gz", "--preset", "bright-box.yaml", "--format", "nifti,dicom-seg")
    )
    assert code == 0, err
    found = json.loads((tmp_path / "mask.json").read_text())
    mask = np.asarray(nib.load(tmp_path / "mask.nii.gz").dataobj)[:, :, 0]
    assert mask.shape == (I, J, T)
    assert found["input"]["frames"] == {
        "count": T,
        "seconds": pytest.approx(np.cumsum(TIMES) / 1000),
        "per_second": 20.83333,
    }
    assert found["input"]["region_ij_inclusive"] == [[0, 0], [I - 1, J - 1]]
    label = found["labels"][0]
    assert label["volume_mm3"] is None
    areas = mask.sum((0, 1))
    assert label["frames"]["pixels_per_frame"] == areas.tolist()
    assert label["frames"]["area_mm2"]["max"] == pytest.approx(areas.max() * 0.125)
    truth = cine.voxels[0] >= 200
    assert 2 * (mask.astype(bool) & truth).sum() / (mask.sum() + truth.sum()) > 0.9
    assert Image.open(tmp_path / "mask.png").size[0] > 400
    assert f"in {T} of {T} frames" in err


def test_frames_are_scored_as_cases(tmp_path: Path, in_process: Any) -> None:
    """Dice 1 where both agree, 0.8 where one lies 2 of 10 pixels aside, 1 where both are empty; 2 pixels are 1 mm."""
    for name, shift in (("ref", 0), ("pred", 2)):
        values = np.zeros((40, 30, 1, 3), np.uint8)
        values[5:15, 5:15, 0, 0] = 1
        values[5 + shift : 15 + shift, 5:15, 0, 1] = 1
        (tmp_path / name).mkdir()
        nib.save(nib.Nifti1Image(values, np.diag([0.5, 0.5, 1, 1])), tmp_path / name / "a.nii.gz")
    code, _, err = in_process("evaluate", "pred", "ref", "-o", "out")
    assert code == 0, err
    (row,) = json.loads((tmp_path / "out/summary.json").read_text())["metric_per_case"]
    scores = row["metrics"]["1"]
    assert scores["Dice"] == pytest.approx((1 + 0.8 + 1) / 3)
    assert scores["HD_mm"] == pytest.approx((0 + 1) / 2)
    assert scores["area_mm2"] == pytest.approx(2 * 25 / 3)
