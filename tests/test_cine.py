"""Frames over time read from DICOM, NIfTI and ITK files: values, times, pixel sizes, and what is never guessed."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from dicom_phantom import decimal, loop, picture, region, save, write
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.tag import Tag
from pydicom.uid import JPEGBaseline8Bit, RLELossless

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers.files import read_file, read_header
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan

TIME, VECTOR = Tag("FrameTime"), Tag("FrameTimeVector")


@pytest.fixture
def frames() -> np.ndarray:
    """(T, J, I) uint8: 5 frames of 6 rows and 10 columns, no two pixels of a frame alike."""
    t, j, i = np.indices((5, 6, 10))
    return (i + 10 * j + 40 * t).astype(np.uint8)


def read(path: Path, **options: Any) -> Scan:
    """The scan; what its header says beforehand must be true of it."""
    chosen = ReadOptions(**options)
    scan, header = read_file(path, chosen), read_header(path, chosen)
    assert (header.shape, header.cine, header.spacing) == (scan.shape, scan.cine, pytest.approx(scan.spacing))
    return scan


def test_a_grey_loop(frames: np.ndarray, tmp_path: Path) -> None:
    dataset = loop(frames, FrameTime="40", FrameIncrementPointer=TIME)
    dataset.SequenceOfUltrasoundRegions = [region((1, 0, 8, 5), (0.03, -0.02))]
    scan = read(save(dataset, tmp_path / "loop.dcm"))
    assert np.array_equal(scan.voxels[0], frames.transpose(2, 1, 0))
    assert scan.cine
    assert scan.flat
    assert not scan.is_picture
    assert scan.frame_seconds == pytest.approx((0, 0.04, 0.08, 0.12, 0.16))
    assert scan.spacing == pytest.approx((0.3, 0.2, 1))
    assert (scan.region, scan.modality, scan.position_known) == ((1, 0, 8, 5), "US", False)
    one = read(tmp_path / "loop.dcm", channel=3)
    assert np.array_equal(one.voxels[0, :, :, 0], frames[3].T)
    assert (one.cine, one.is_picture, one.region, one.frame_seconds) == (False, True, (1, 0, 8, 5), None)


def colours(frames: np.ndarray) -> np.ndarray:
    """(T, J, I, 3) RGB, smooth, with columns in pairs of one colour as 4:2:2 stores them."""
    t, j, i = np.indices(frames.shape)
    return np.stack([100 + 10 * (i // 2) + j, 60 + 5 * (i // 2) + 3 * t, 200 - 8 * j - 4 * (i // 2)], -1).astype(
        np.uint8
    )


def ybr(rgb: np.ndarray) -> np.ndarray:
    """YBR_FULL by the matrix of PS3.3 C.7.6.3.1.2."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    return np.clip(np.rint(rgb @ matrix.T + (0, 128, 128)), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "PALETTE COLOR"])
def test_colour_loops(photometric: str, frames: np.ndarray, tmp_path: Path) -> None:
    wanted, within = colours(frames), 0 if photometric == "RGB" else 2
    stored = ybr(wanted) if photometric.startswith("YBR") else wanted
    dataset = loop(stored, photometric)
    if photometric == "YBR_FULL_422":
        # Two pixels: Y1 Y2 Cb Cr.
        pairs = stored.reshape(*stored.shape[:2], -1, 2, 3)
        packed = np.stack([pairs[..., 0, 0], pairs[..., 1, 0], pairs[..., 0, 1], pairs[..., 0, 2]], -1)
        dataset.PixelData = packed.tobytes()
    elif photometric == "PALETTE COLOR":
        dataset = loop(frames, photometric)
        table = np.random.default_rng(1).integers(0, 256, (3, 256)).astype(np.uint8)
        for name, values in zip(("Red", "Green", "Blue"), table, strict=True):
            setattr(dataset, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
            setattr(dataset, f"{name}PaletteColorLookupTableData", (values.astype("<u2") << 8).tobytes())
        wanted, within = table.T[frames], 0
    scan = read(save(dataset, tmp_path / "loop.dcm"))
    assert scan.cine
    assert np.abs(scan.voxels.transpose(3, 2, 1, 0) - wanted).max() <= within


@pytest.mark.parametrize("photometric", ["HSV", "YBR_PARTIAL_422"])
def test_colours_that_no_decoder_turns_into_rgb_are_refused(
    photometric: str, frames: np.ndarray, tmp_path: Path
) -> None:
    path = save(loop(colours(frames), photometric), tmp_path / "loop.dcm")
    with pytest.raises(InputError, match=rf"loop\.dcm.*({photometric} is no kind of colour|cannot be decoded)"):
        read_file(path, ReadOptions())


def test_pictures_that_a_file_does_not_count_are_told(frames: np.ndarray, tmp_path: Path) -> None:
    few = read(save(loop(frames, NumberOfFrames=3), tmp_path / "few.dcm"))
    assert np.array_equal(few.voxels[0], frames[:3].transpose(2, 1, 0))
    assert "3 frame(s) are stated and read, and there are pixels of 5" in few.provenance.notes
    for stated in (0, None):
        one = read(save(loop(frames, NumberOfFrames=stated), tmp_path / f"{stated}.dcm"))
        assert one.shape == (10, 6, 1)
        assert "1 frame(s) are stated and read, and there are pixels of 5" in one.provenance.notes
    assert not [
        note for note in read(save(loop(frames), tmp_path / "all.dcm")).provenance.notes if "stated and" in note
    ]
    with pytest.raises(InputError, match=r"-3 frames \(NumberOfFrames\)"):
        read_file(save(loop(frames, NumberOfFrames=-3), tmp_path / "none.dcm"), ReadOptions())


@pytest.mark.parametrize(("step", "said"), [(3e38, r"3e\+38 s: it is not used"), (1e-30, "1e-30 s: it is not used")])
def test_a_nifti_whose_clock_is_damaged_has_no_times(
    step: float, said: str, frames: np.ndarray, tmp_path: Path
) -> None:
    image = nib.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], np.eye(4))
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = step
    nib.save(image, tmp_path / "loop.nii.gz")
    scan = read(tmp_path / "loop.nii.gz")
    assert (scan.cine, scan.frame_seconds) == (True, None)
    assert any(re.search(said, note) for note in scan.provenance.notes)


def test_packed_loops(frames: np.ndarray, tmp_path: Path) -> None:
    rle = loop(colours(frames), "RGB")
    path = save(rle, tmp_path / "plain.dcm")
    rle.compress(RLELossless)
    rle.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path / "rle.dcm").voxels, read(path).voxels)
    packed = []
    for frame in frames:
        memory = io.BytesIO()
        Image.fromarray(np.kron(frame, np.ones((8, 8), np.uint8))).save(memory, "JPEG", quality=95)
        packed.append(memory.getvalue())
    jpeg = loop(np.kron(frames, np.ones((1, 8, 8), np.uint8)))
    save(jpeg, tmp_path / "jpeg.dcm")
    jpeg.PixelData = encapsulate(packed)
    jpeg["PixelData"].VR = "OB"
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    jpeg.save_as(tmp_path / "jpeg.dcm", enforce_file_format=True)
    theirs = np.stack([np.asarray(Image.open(io.BytesIO(one))) for one in packed])
    assert np.array_equal(read(tmp_path / "jpeg.dcm").voxels[0], theirs.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("elements", "seconds", "said"),
    [
        ({"FrameTime": "33.333", "FrameIncrementPointer": TIME}, [0, 0.033333, 0.066666, 0.099999, 0.133332], None),
        ({"FrameTime": "50"}, [0, 0.05, 0.1, 0.15, 0.2], None),
        (
            {"FrameTimeVector": ["0", "20", "40", "20", "20"], "FrameIncrementPointer": VECTOR},
            [0, 0.02, 0.06, 0.08, 0.1],
            "20 to 40 ms apart",
        ),
        (
            {"FrameTime": "50", "FrameTimeVector": ["0", "20", "20", "20", "20"], "FrameIncrementPointer": TIME},
            [0, 0.05, 0.1, 0.15, 0.2],
            None,
        ),
        ({"CineRate": "25"}, [0, 0.04, 0.08, 0.12, 0.16], "rate to show them at (CineRate)"),
        ({"RecommendedDisplayFrameRate": "10"}, [0, 0.1, 0.2, 0.3, 0.4], "RecommendedDisplayFrameRate"),
        ({"FrameTime": "50", "CineRate": "40"}, [0, 0.05, 0.1, 0.15, 0.2], "20 per second; it says CineRate 40 too"),
        ({"FrameTimeVector": ["0", "20", "20"]}, None, "3 times for 5 frames"),
        ({"FrameTimeVector": ["0", "20", "-5", "20", "20"]}, None, "does not grow"),
        ({"FrameTime": "0"}, None, "not stated"),
        ({"FrameTime": "1e300"}, None, "FrameTime is 1e+300 ms: it is not used"),
        ({"FrameTime": "1e-12"}, None, "FrameTime is 1e-12 ms: it is not used"),
        ({"CineRate": "2000000000"}, None, "not stated"),
        (
            {"FrameTimeVector": ["0", "20", "1e200", "20", "20"]},
            None,
            "20 to 1e+200 ms apart: its times are not used",
        ),
        ({}, None, "not stated"),
    ],
)
def test_times(
    elements: dict[str, Any], seconds: list[float] | None, said: str | None, frames: np.ndarray, tmp_path: Path
) -> None:
    scan = read(save(loop(frames, **elements), tmp_path / "loop.dcm"))
    assert scan.frame_seconds == (None if seconds is None else pytest.approx(seconds))
    apart = [note for note in scan.provenance.notes if "apart" in note or "frame" in note.lower()]
    assert [said in note for note in apart] == ([True] if said else [])


def test_a_time_that_is_no_number_is_an_error(frames: np.ndarray, tmp_path: Path) -> None:
    dataset = loop(frames)
    dataset.add_new(TIME, "LO", "fast")
    with pytest.raises(InputError, match=r"loop\.dcm: FrameTime cannot be read"):
        read_file(save(dataset, tmp_path / "loop.dcm"), ReadOptions())


WHOLE = (0, 0, 9, 5)


@pytest.mark.parametrize(
    ("regions", "spacing", "box", "said"),
    [
        ([region(WHOLE)], (0.5, 0.5), WHOLE, "calibrated ultrasound region"),
        ([region((0, 0, 10, 6))], (0.5, 0.5), WHOLE, "calibrated"),  # counted from 1
        ([region((2, 0, 9, 3)), region((0, 4, 9, 5), (0.01, 5), 3, 3, x=4, y=7)], (0.5, 0.5), (2, 0, 9, 3), "passed"),
        (
            [region((0, 0, 4, 5)), region((5, 0, 9, 5))],
            (0.5, 0.5),
            None,
            "2 calibrated ultrasound regions, which agree",
        ),
        ([region(WHOLE), region((2, 2, 4, 4), kind=2)], (0.5, 0.5), WHOLE, "calibrated"),
        ([region((0, 0, 4, 5)), region((5, 0, 9, 5), (0.02, 0.02))], None, None, "different pixel sizes (0.5 x 0.5"),
        ([region((0, 0, 19, 11))], None, None, "does not fit the picture of 10x6 pixels"),
        ([region((5, 0, 2, 5))], None, None, "does not fit"),
        ([region(WHOLE, form=2)], None, None, "no ultrasound region shows tissue (M-mode)"),
        ([region(WHOLE, x=0, y=0)], None, WHOLE, "no pixel size in cm"),
        ([region(WHOLE, (0.0, 0.05))], None, WHOLE, "no pixel size in cm"),
        ([], None, None, "1 mm assumed"),
    ],
    ids=[
        *("one", "counted from 1", "spectrum", "two alike", "flow within", "two sizes", "resized", "turned"),
        *("M-mode", "no unit", "zero", "none"),
    ],
)
def test_regions(
    regions: list[Any],
    spacing: tuple[float, float] | None,
    box: tuple[int, int, int, int] | None,
    said: str,
    frames: np.ndarray,
    tmp_path: Path,
) -> None:
    """Of a loop and of a single picture alike."""
    many = loop(frames, FrameTime="40", SequenceOfUltrasoundRegions=regions)
    one = loop(frames[:1], SequenceOfUltrasoundRegions=regions)
    for name, dataset in (("loop", many), ("still", one)):
        path = save(dataset, tmp_path / f"{name}.dcm")
        scan = read(path)
        assert scan.spacing_known == (spacing is not None)
        assert scan.spacing[:2] == pytest.approx(spacing or (1.0, 1.0))
        assert scan.region == box
        assert any(said in note for note in scan.provenance.notes)
        if spacing is None:
            assert read(path, spacing=(0.2, 0.1, 1.0)).spacing[:2] == pytest.approx((0.2, 0.1))
        else:
            with pytest.raises(UsageError, match="--spacing is for images that state no pixel size"):
                read_file(path, ReadOptions(spacing=(0.2, 0.1, 1.0)))


def test_a_spacing_that_contradicts_the_region_is_not_believed(frames: np.ndarray, tmp_path: Path) -> None:
    told = {"SequenceOfUltrasoundRegions": [region(WHOLE)]}
    agree = read(save(loop(frames, PixelSpacing=["0.5", "0.5"], **told), tmp_path / "a.dcm"))
    differ = read(save(loop(frames, PixelSpacing=["0.4", "0.4"], **told), tmp_path / "b.dcm"))
    assert agree.spacing_known
    assert agree.spacing[:2] == pytest.approx((0.5, 0.5))
    assert not differ.spacing_known
    assert any("0.4 x 0.4 mm" in note and "0.5 x 0.5 mm" in note for note in differ.provenance.notes)


def test_frames_that_may_not_be_over_time_need_a_word(frames: np.ndarray, tmp_path: Path) -> None:
    capture = loop(frames, SOPClassUID="1.2.840.10008.5.1.4.1.1.7.2", Modality="OT")
    detector = loop(frames, FrameIncrementPointer=Tag("DetectorVector"))
    both = loop(frames, FrameTime="40", FrameIncrementPointer=[TIME, Tag("DetectorVector")])
    for name, dataset in (("capture", capture), ("detector", detector), ("both", both)):
        path = save(dataset, tmp_path / f"{name}.dcm")
        with pytest.raises(InputError, match="2-D over time and not a volume") as caught:
            read_file(path, ReadOptions())
        assert "read all frames with --cine" in caught.value.hint
        assert read(path, cine=True).cine


def test_a_volume_is_no_cine_whatever_is_said(tmp_path: Path) -> None:
    from dicom_phantom import series

    values = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    folder = write(series(values, np.diag([1.0, 1, 2, 1])), tmp_path / "ct")
    with pytest.raises(InputError, match="6 slices lie at different places"):
        read_file(folder, ReadOptions(cine=True))
    stills = [picture(values[:, :, k]) for k in range(3)]
    with pytest.raises(InputError, match="3 pictures of several files"):
        read_file(write(stills, tmp_path / "stills"), ReadOptions(cine=True))


def test_loops_of_one_series_are_scans_of_their_own(frames: np.ndarray, tmp_path: Path) -> None:
    save(loop(frames), tmp_path / "us/a.dcm")
    save(loop(frames + np.uint8(7)), tmp_path / "us/b.dcm")
    with pytest.raises(InputError, match="one series holds 2 stacks") as caught:
        read_file(tmp_path / "us", ReadOptions())
    assert "1: US, cine, 10x6x5" in caught.value.hint
    assert read(tmp_path / "us", series="2").voxels.min() == 7
    (tmp_path / "us/c.dcm").write_bytes((tmp_path / "us/b.dcm").read_bytes())
    again = read(tmp_path / "us", series="2")
    assert again.shape == (10, 6, 5)
    assert "identical copies" in " ".join(again.provenance.notes)


def test_frames_at_one_place_in_the_patient(frames: np.ndarray, tmp_path: Path) -> None:
    """A cine of MR: the affine is the picture's, and k no direction of it."""
    dataset = loop(frames, FrameTime="70", FrameIncrementPointer=TIME, Modality="MR", SliceThickness="8")
    dataset.ImagePositionPatient, dataset.ImageOrientationPatient = decimal([1, 2, 3]), decimal([0, 1, 0, 0, 0, -1])
    dataset.PixelSpacing = ["2", "1.5"]
    scan = read(save(dataset, tmp_path / "mr.dcm"))
    assert scan.cine
    assert scan.position_known
    lps = np.array([[0, 0, -1, 1], [1.5, 0, 0, 2], [0, -2, 0, 3], [0, 0, 0, 1]])
    assert np.allclose(scan.affine, np.diag([-1, -1, 1, 1]) @ lps)
    assert read_file(tmp_path / "mr.dcm", ReadOptions(on_duplicate="first")).shape == (10, 6, 1)


@pytest.mark.parametrize(
    ("unit", "step", "seconds"),
    [("sec", 0.04, 0.04), ("msec", 40, 0.04), ("usec", 40000, 0.04), ("unknown", 0.04, None), ("sec", 0, None)],
)
def test_nifti_over_time(unit: str, step: float, seconds: float | None, frames: np.ndarray, tmp_path: Path) -> None:
    image = nib.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], np.diag([0.3, 0.2, 5, 1]))
    image.header["pixdim"][4] = step
    image.header.set_xyzt_units("mm", unit)
    nib.save(image, tmp_path / "loop.nii.gz")
    scan = read(tmp_path / "loop.nii.gz")
    assert scan.cine
    assert np.array_equal(scan.voxels[0], frames.transpose(2, 1, 0))
    assert scan.spacing == pytest.approx((0.3, 0.2, 1))
    expected = None if seconds is None else pytest.approx([seconds * frame for frame in range(5)])
    assert scan.frame_seconds == expected
    assert "read as 5 frames over time" in scan.provenance.notes[0]
    assert np.array_equal(read(tmp_path / "loop.nii.gz", channel=2).voxels[0, :, :, 0], frames[2].T)


def test_nifti_that_is_perhaps_not_over_time(frames: np.ndarray, tmp_path: Path) -> None:
    flat = nib.Nifti1Image(frames.transpose(2, 1, 0)[:, :, None], np.eye(4))
    flat.header.set_xyzt_units("mm", "ppm")
    nib.save(flat, tmp_path / "spectra.nii.gz")
    with pytest.raises(InputError, match="holds 5 volumes"):
        read_file(tmp_path / "spectra.nii.gz", ReadOptions())
    volume = nib.Nifti1Image(np.zeros((4, 4, 3, 5), np.uint8), np.eye(4))
    nib.save(volume, tmp_path / "bold.nii.gz")
    with pytest.raises(InputError, match="holds 5 volumes"):
        read_file(tmp_path / "bold.nii.gz", ReadOptions(cine=True))
    stack = nib.Nifti1Image(frames.transpose(2, 1, 0), np.diag([0.3, 0.2, 5, 1]))
    nib.save(stack, tmp_path / "stack.nii.gz")
    as_volume, as_cine = read(tmp_path / "stack.nii.gz"), read(tmp_path / "stack.nii.gz", cine=True)
    assert not as_volume.cine
    assert as_volume.spacing[2] == pytest.approx(5)
    assert as_cine.cine
    assert as_cine.spacing == pytest.approx((0.3, 0.2, 1))
    assert as_cine.frame_seconds is None
    assert "as --cine says" in as_cine.provenance.notes[-1]


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_over_time(suffix: str, frames: np.ndarray, tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(frames[:, None], isVector=False)
    image.SetSpacing((0.3, 0.2, 5, 0.04))
    SimpleITK.WriteImage(image, str(tmp_path / f"loop{suffix}"))
    scan = read(tmp_path / f"loop{suffix}")
    assert scan.cine
    assert np.array_equal(scan.voxels[0], frames.transpose(2, 1, 0))
    assert scan.spacing == pytest.approx((0.3, 0.2, 1))
    assert scan.frame_seconds is None
    assert np.array_equal(read(tmp_path / f"loop{suffix}", channel=4).voxels[0, :, :, 0], frames[4].T)


def test_a_picture_stays_one(tmp_path: Path) -> None:
    Image.fromarray(np.arange(60, dtype=np.uint8).reshape(6, 10)).save(tmp_path / "a.png")
    assert not read(tmp_path / "a.png", cine=True).cine


@pytest.mark.parametrize("name", ["examples_ybr_color.dcm", "examples_palette.dcm"])
def test_real_pictures_that_were_resized_after_calibration(name: str, shared: Path) -> None:
    """The first is a loop of 320x240 whose region reaches x 595: half of what was scanned, at half of its scale."""
    scan = read(shared / "data/dicom/pydicom_tests" / name)
    assert not scan.spacing_known
    assert scan.region is None
    assert any("does not fit the picture" in note for note in scan.provenance.notes)
    if name == "examples_ybr_color.dcm":
        assert scan.voxels.shape == (3, 320, 240, 30)
        assert scan.frame_seconds is not None
        assert scan.frame_seconds[-1] == pytest.approx(29 * 0.033333)


def test_info_tells_of_frames_rate_and_region(frames: np.ndarray, tmp_path: Path, in_process: Any) -> None:
    dataset = loop(frames, FrameTime="40", FrameIncrementPointer=TIME)
    dataset.SequenceOfUltrasoundRegions = [region((1, 0, 8, 5), (0.03, 0.02))]
    save(dataset, tmp_path / "loop.dcm")
    code, out, _ = in_process("info", "loop.dcm")
    assert code == 0
    lines = dict(line.split(None, 1) for line in out.splitlines() if line)
    assert lines["frames"] == "5 over time, 25 per second, the last at 0.16 s"
    assert "ultrasound region     x 1 to 8, y 0 to 5" in out
    assert lines["spacing"] == "0.3 x 0.2 mm"
    code, _, err = in_process("info", "loop.dcm", "--cine", "--channel", 1)
    assert code == 2
    assert "--cine reads all frames, --channel one" in err
