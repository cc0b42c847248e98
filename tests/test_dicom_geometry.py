"""Where DICOM voxels lie: all orientations, and every way in which a stack of slices can be wrong."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import phantom
import pytest
import SimpleITK
from dicom_phantom import save, series, write

from medseg_cli.errors import InputError
from medseg_cli.readers import dicom
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan

OBLIQUE = (0.3, -0.2, 0.4)


def landmark_of(scan: Scan) -> np.ndarray:
    """(3,) RAS mm of the phantom's landmark, found by its value."""
    where = np.argwhere(scan.voxels[0] == phantom.LANDMARK_VALUE)
    assert len(where) == 1, f"landmark found {len(where)} times"
    return scan.voxel_to_world(where.astype(float), "ras")[0]


@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
@pytest.mark.parametrize("codes", phantom.ORIENTATIONS)
def test_voxels_lie_where_they_were_put(codes: str, angles: tuple[float, float, float], tmp_path: Path) -> None:
    matrix = phantom.affine(codes, angles=angles)
    values = phantom.voxels()
    scan = dicom.read(write(series(values, matrix), tmp_path))
    assert np.allclose(landmark_of(scan), phantom.landmark_ras(matrix), atol=1e-5)
    assert np.allclose(scan.spacing, phantom.SPACING, atol=1e-6)
    # Slices are counted along the normal, so a left-handed grid comes back with k reversed and nothing else changed.
    expected = values if np.linalg.det(matrix[:3, :3]) > 0 else values[:, :, ::-1]
    assert np.array_equal(scan.voxels[0], expected)
    assert np.linalg.det(scan.affine[:3, :3]) > 0


def test_same_world_as_nifti(tmp_path: Path) -> None:
    """One phantom in two formats: the same value at the same place in mm."""
    from medseg_cli.readers.files import read_file

    matrix, values = phantom.affine("LIP", angles=OBLIQUE), phantom.voxels()
    here = dicom.read(write(series(values, matrix), tmp_path / "dicom"))
    there = read_file(phantom.write_volume(tmp_path / "scan.nii.gz", values, matrix), ReadOptions())
    for index in ((0, 0, 0), phantom.LANDMARK, (8, 6, 4)):
        place = there.voxel_to_world(np.array([index], dtype=float), "ras")
        voxel = np.rint(here.world_to_voxel(place, "ras")[0]).astype(int)
        assert here.voxels[(0, *voxel)] == there.voxels[(0, *index)]


def test_same_world_as_simpleitk(tmp_path: Path) -> None:
    matrix, values = phantom.affine("PSR", angles=OBLIQUE), phantom.voxels()
    folder = write(series(values, matrix), tmp_path)
    scan = dicom.read(folder)
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    for index in ((0, 0, 0), (8, 6, 4), phantom.LANDMARK):
        lps = scan.voxel_to_world(np.array([index], dtype=float), "lps")[0]
        assert image.GetPixel(image.TransformPhysicalPointToIndex(lps.tolist())) == scan.voxels[(0, *index)]


def test_order_of_files_and_instance_numbers_means_nothing(tmp_path: Path) -> None:
    matrix, values = phantom.affine("LPS"), phantom.voxels()
    straight = dicom.read(write(series(values, matrix), tmp_path / "straight"))
    slices = series(values, matrix)
    random.Random(0).shuffle(slices)
    for number, dataset in enumerate(slices):
        dataset.InstanceNumber = number + 1
    shuffled = dicom.read(write(slices, tmp_path / "shuffled"))
    assert np.array_equal(shuffled.voxels, straight.voxels)
    assert np.allclose(shuffled.affine, straight.affine)


def test_spacing_comes_from_positions_not_from_thickness(tmp_path: Path) -> None:
    scan = dicom.read(write(series(phantom.voxels(), phantom.affine("LPS"), SliceThickness="99"), tmp_path))
    assert scan.spacing[2] == pytest.approx(2.5)


def test_duplicates(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"))
    double = series(phantom.voxels() + 1000, phantom.affine("LPS"))[2]
    double.InstanceNumber = 50
    folder = write([*slices, double], tmp_path)
    with pytest.raises(InputError, match=r"6 slices at 5 positions.*45\.000 mm") as caught:
        dicom.read(folder)
    assert "--on-duplicate" in caught.value.hint
    first = dicom.read(folder, ReadOptions(on_duplicate="first"))
    assert np.array_equal(first.voxels[0], phantom.voxels())
    last = dicom.read(folder, ReadOptions(on_duplicate="last"))
    assert np.array_equal(last.voxels[0, :, :, 2], phantom.voxels()[:, :, 2] + 1000)
    assert np.array_equal(last.voxels[0, :, :, 3], phantom.voxels()[:, :, 3])
    assert any("duplicate" in note for note in last.provenance.notes)


def test_a_file_copied_twice_is_no_doubt(tmp_path: Path) -> None:
    folder = write(series(phantom.voxels(), phantom.affine("LPS")), tmp_path)
    (folder / "copy.dcm").write_bytes((folder / "0000.dcm").read_bytes())
    scan = dicom.read(folder)
    assert scan.shape == phantom.SHAPE
    assert any("1 identical copies" in note for note in scan.provenance.notes)


def test_gap(tmp_path: Path) -> None:
    """A missing slice is refused, and filled between its neighbours on demand."""
    ramp = np.zeros((4, 3, 6), dtype=np.int16) + 10 * np.arange(6, dtype=np.int16)
    slices = series(ramp, phantom.affine("LPS"))
    del slices[3]
    folder = write(slices, tmp_path)
    with pytest.raises(InputError, match=r"1 slice\(s\) missing, steps are 2\.5 mm but 5 mm") as caught:
        dicom.read(folder)
    assert "--on-gap resample" in caught.value.hint
    scan = dicom.read(folder, ReadOptions(on_gap="resample"))
    assert np.allclose(scan.voxels[0], ramp, atol=1e-4)
    assert scan.spacing[2] == pytest.approx(2.5)
    assert any("resampled linearly from 5 to 6" in note for note in scan.provenance.notes)
    assert ".dcm and " in caught.value.message
    assert ".dcm" not in repr(scan.provenance.notes), "file names can hold a patient's name"


def test_uneven_spacing(tmp_path: Path) -> None:
    """Values that grow linearly with the position stay linear after resampling, at the right places."""
    depths = np.array([0.0, 2.0, 4.6, 6.6, 8.0])
    slices = series(np.zeros((4, 3, 5), dtype=np.int16), phantom.affine("LPS", spacing=(1.0, 1.0, 1.0)))
    for depth, dataset in zip(depths, slices, strict=True):
        dataset.ImagePositionPatient = ["0", "0", f"{depth:.2f}"]
        dataset.PixelData = np.full((3, 4), round(100 * depth), dtype="<i2").tobytes()
    folder = write(slices, tmp_path)
    with pytest.raises(InputError, match=r"uneven slice spacing: steps from 1\.4 to 2\.6 mm \(median 2 mm\)"):
        dicom.read(folder)
    scan = dicom.read(folder, ReadOptions(on_gap="resample"))
    assert scan.shape == (4, 3, 5)
    heights = scan.voxel_to_world(np.array([[0.0, 0.0, k] for k in range(5)]), "ras")[:, 2]
    assert np.allclose(heights, [0, 2, 4, 6, 8])
    assert np.allclose(scan.voxels[0, 1, 1], 100 * heights, atol=1e-3)


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"))
    for dataset in slices:
        dataset.ImagePositionPatient[2] = (
            f"{float(dataset.ImagePositionPatient[2]) + 0.04 * (-1) ** dataset.InstanceNumber:.2f}"
        )
    scan = dicom.read(write(slices, tmp_path))
    assert scan.spacing[2] == pytest.approx(2.5, rel=0.02)
    assert any("taken as even" in note for note in scan.provenance.notes)


def tilted(values: np.ndarray, folder: Path, degrees: float) -> Path:
    """Slices 2 mm apart in z that are not tilted themselves but step sideways in y, as under a tilted gantry."""
    matrix = phantom.affine("LPS", spacing=(1.0, 1.0, 2.0))
    matrix[1, 2] = 2.0 * np.tan(np.radians(degrees))
    return write(series(values, matrix), folder)


def test_tilted_gantry(tmp_path: Path) -> None:
    """A ramp over the patient's y and z is read back from the sheared stack at the right places."""
    i, j, k = np.indices((6, 12, 5)).astype(float)
    matrix = phantom.affine("LPS", spacing=(1.0, 1.0, 2.0))
    matrix[1, 2] = 2.0 * np.tan(np.radians(20))
    y = matrix[1, 1] * j + matrix[1, 2] * k + matrix[1, 3]
    z = 2.0 * k + matrix[2, 3]
    folder = tilted(np.rint(50 * y + 7 * z + 3 * i).astype(np.int16), tmp_path, 20)
    with pytest.raises(InputError, match=r"tilted gantry: slices lean by 20\.00 degrees") as caught:
        dicom.read(folder)
    assert "--on-tilt shear" in caught.value.hint
    scan = dicom.read(folder, ReadOptions(on_tilt="shear"))
    directions = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    assert np.allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert scan.shape[0] == 6
    assert scan.shape[1] == 12 + 3
    index = np.array([[2.0, j, k] for j in range(4, 11) for k in range(5)])
    places = scan.voxel_to_world(index, "ras")
    expected = 50 * places[:, 1] + 7 * places[:, 2] + 3 * 2
    found = np.array([scan.voxels[(0, *voxel)] for voxel in index.astype(int)])
    covered = (index[:, 1] + 0.01 >= 3) & (index[:, 1] <= 11)
    assert np.allclose(found[covered], expected[covered], atol=1.0)


def test_barely_displaced_slices_are_no_tilt(tmp_path: Path) -> None:
    scan = dicom.read(tilted(phantom.voxels(), tmp_path, 0.5))
    assert any("sideways" in note for note in scan.provenance.notes)


def test_mixed_orientations_are_listed_apart(tmp_path: Path) -> None:
    write(series(phantom.voxels(), phantom.affine("LPS")), tmp_path, "axial-")
    write(series(phantom.voxels(), phantom.affine("LIP")), tmp_path, "coronal-")
    with pytest.raises(InputError, match="one series holds 2 stacks") as caught:
        dicom.read(tmp_path)
    assert "1: CT, volume, 9x7x5, phantom, axial" in caught.value.hint
    assert "2: CT, volume, 9x7x5, phantom, coronal" in caught.value.hint
    second = dicom.read(tmp_path, ReadOptions(series="2"))
    assert np.allclose(landmark_of(second), phantom.landmark_ras(phantom.affine("LIP")))


def test_mixed_sizes_are_listed_apart(tmp_path: Path) -> None:
    write(series(phantom.voxels(), phantom.affine("LPS")), tmp_path, "small-")
    write(series(phantom.voxels((11, 7, 4)), phantom.affine("LPS")), tmp_path, "large-")
    with pytest.raises(InputError, match="one series holds 2 stacks"):
        dicom.read(tmp_path)
    assert {dicom.read(tmp_path, ReadOptions(series=number)).shape for number in ("1", "2")} == {(9, 7, 5), (11, 7, 4)}


def test_a_slice_without_position_is_named(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"))
    del slices[1].ImagePositionPatient
    with pytest.raises(InputError, match=r"1 of 5 slices have no position or orientation \(0856\.dcm\)"):
        dicom.read(write(slices, tmp_path))


@pytest.mark.parametrize(
    ("keyword", "value", "message"),
    [
        ("PixelSpacing", ["0", "1"], "PixelSpacing is .* must be positive"),
        ("PixelSpacing", ["-1", "1"], "must be positive"),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "not orthonormal"),
        ("ImageOrientationPatient", ["0", "0", "0", "0", "0", "0"], "not orthonormal"),
        ("RescaleSlope", "0", "RescaleSlope is 0"),
        ("ImagePositionPatient", ["1", "2"], r"ImagePositionPatient should be 3 finite number\(s\)"),
    ],
)
def test_impossible_headers_are_named(keyword: str, value: object, message: str, tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"), **{keyword: value})
    with pytest.raises(InputError, match=message):
        dicom.read(write(slices, tmp_path))


def test_volume_without_pixel_spacing(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), phantom.affine("LPS"))
    for dataset in slices:
        del dataset.PixelSpacing
    folder = write(slices, tmp_path)
    with pytest.raises(InputError, match="no PixelSpacing in a volume of 5 slices"):
        dicom.read(folder)
    scan = dicom.read(folder, ReadOptions(spacing=(0.5, 0.6, 1.0)))
    assert scan.spacing == pytest.approx((0.5, 0.6, 2.5))


def test_one_slice_has_its_stated_thickness(tmp_path: Path) -> None:
    path = save(series(phantom.voxels(), phantom.affine("LPS"))[phantom.LANDMARK[2]], tmp_path / "one.dcm")
    scan = dicom.read(path)
    assert scan.shape == (9, 7, 1)
    assert scan.spacing == pytest.approx((0.9, 1.3, 7.5))
    assert np.allclose(landmark_of(scan), phantom.landmark_ras(phantom.affine("LPS")))
