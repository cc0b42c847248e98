"""Geometry that must never drift: the landmark stays at its millimetre, whatever the grid, the format and the road."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
import SimpleITK
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from phantom import LANDMARK, LANDMARK_VALUE, ORIENTATIONS, VOLUME_SUFFIXES

from medseg_cli.prompt import Click, locate
from medseg_cli.readers import ReadOptions, load_scan
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan
from medseg_cli.writers.masks import write_mask

OBLIQUE = (0.2, -0.35, 0.5)
SEVERELY_OBLIQUE = (0.75, 0.7, -0.8)


def assert_click_hits_landmark(scan: Scan, expected_ras: np.ndarray) -> None:
    """Clicks at the landmark's millimetres, in RAS and in LPS, find the landmark's voxel."""
    for frame, sign in (("ras", 1.0), ("lps", -1.0)):
        position = (sign * expected_ras[0], sign * expected_ras[1], expected_ras[2])
        ijk = np.rint(locate(Click(tuple(float(v) for v in position), frame), scan)).astype(int)
        assert scan.voxels[0][tuple(ijk)] == LANDMARK_VALUE
        assert tuple(ijk) == LANDMARK


@pytest.mark.parametrize("codes", ORIENTATIONS)
@pytest.mark.parametrize("angles", [(0.0, 0.0, 0.0), OBLIQUE], ids=["straight", "oblique"])
def test_all_48_orientations_through_every_format(
    tmp_path: Path, codes: str, angles: tuple[float, float, float]
) -> None:
    matrix = phantom.affine(codes, angles=angles)
    for suffix in VOLUME_SUFFIXES:
        path = phantom.write_volume(tmp_path / f"scan{suffix}", phantom.voxels(), matrix)
        scan = read_file(path, ReadOptions())
        np.testing.assert_array_equal(scan.voxels[0], phantom.voxels())
        np.testing.assert_allclose(scan.affine, matrix, atol=1e-4)
        np.testing.assert_allclose(scan.spacing, phantom.SPACING, atol=1e-5)
        assert scan.orientation == codes
        assert_click_hits_landmark(scan, phantom.landmark_ras(matrix))
        if suffix == ".nii.gz":
            np.testing.assert_allclose(scan.affine, nib.load(path).affine, atol=1e-5)


def test_the_48_orientations_are_24_of_each_handedness() -> None:
    signs = [np.sign(np.linalg.det(phantom.affine(codes)[:3, :3])) for codes in ORIENTATIONS]
    assert len(set(ORIENTATIONS)) == 48
    assert signs.count(-1.0) == signs.count(1.0) == 24


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.sampled_from(ORIENTATIONS),
    angles=st.tuples(*[st.floats(-0.7, 0.7)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 20.0)] * 3),
    origin=st.tuples(*[st.floats(-1000.0, 1000.0)] * 3),
    suffix=st.sampled_from(VOLUME_SUFFIXES),
)
def test_any_geometry_survives_any_format(
    tmp_path: Path,
    codes: str,
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    suffix: str,
) -> None:
    matrix = phantom.affine(codes, spacing, origin, angles)
    scan = read_file(phantom.write_volume(tmp_path / f"scan{suffix}", phantom.voxels(), matrix), ReadOptions())
    np.testing.assert_array_equal(scan.voxels[0], phantom.voxels())
    np.testing.assert_allclose(
        scan.voxel_to_world(np.array([LANDMARK]), "ras")[0], phantom.landmark_ras(matrix), atol=2e-3
    )
    assert_click_hits_landmark(scan, phantom.landmark_ras(matrix))


@pytest.mark.parametrize(("source", "target"), list(product((*VOLUME_SUFFIXES, ".mgh"), (*VOLUME_SUFFIXES, ".mgh"))))
def test_masks_through_every_reader_writer_pair(tmp_path: Path, source: str, target: str) -> None:
    for codes, angles, dtype in (
        ("LPS", OBLIQUE, np.uint8),
        ("PIR", SEVERELY_OBLIQUE, np.uint16),
        ("RAS", (0, 0, 0), np.uint8),
    ):
        matrix = phantom.affine(codes, angles=angles)
        scan = read_file(phantom.write_volume(tmp_path / f"scan{source}", phantom.voxels(), matrix), ReadOptions())
        segmentation = phantom.segmentation(scan, dtype)
        path = write_mask(segmentation, tmp_path / f"mask{target}", overwrite=True)
        back = read_file(path, ReadOptions())
        np.testing.assert_array_equal(back.voxels[0], segmentation.mask)
        np.testing.assert_allclose(back.affine, scan.affine, atol=1e-5)


@pytest.mark.parametrize("source", VOLUME_SUFFIXES)
@pytest.mark.parametrize("target", [".nii.gz", ".nrrd", ".mha"])
def test_a_mask_lies_on_its_scan_as_simpleitk_sees_both(tmp_path: Path, source: str, target: str) -> None:
    matrix = phantom.affine("PIR", angles=OBLIQUE)
    scan_path = phantom.write_volume(tmp_path / f"scan{source}", phantom.voxels(), matrix)
    segmentation = phantom.segmentation(read_file(scan_path, ReadOptions()))
    image = SimpleITK.ReadImage(str(write_mask(segmentation, tmp_path / f"mask{target}")))
    expected = phantom.sitk_image(segmentation.mask, matrix)
    assert image.GetPixelIDTypeAsString() == "8-bit unsigned integer"
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), SimpleITK.GetArrayFromImage(expected))
    for index in ((0, 0, 0), (8, 6, 4), LANDMARK):
        np.testing.assert_allclose(
            image.TransformIndexToPhysicalPoint(index), expected.TransformIndexToPhysicalPoint(index), atol=1e-4
        )


@pytest.mark.parametrize("shape", [(9, 7, 1), (1, 7, 5), (9, 1, 5), (1, 1, 5)])
@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_one_voxel_thick_volumes(tmp_path: Path, shape: tuple[int, int, int], suffix: str) -> None:
    matrix = phantom.affine("LSA", angles=OBLIQUE)
    scan = read_file(phantom.write_volume(tmp_path / f"thin{suffix}", phantom.voxels(shape), matrix), ReadOptions())
    assert scan.shape == shape
    np.testing.assert_allclose(scan.affine, matrix, atol=1e-4)
    mask = phantom.segmentation(scan)
    back = read_file(write_mask(mask, tmp_path / "mask.nii.gz"), ReadOptions())
    np.testing.assert_array_equal(back.voxels[0], mask.mask)


def test_the_same_scan_in_two_formats_answers_a_click_alike(tmp_path: Path) -> None:
    matrix = phantom.affine("SAR", angles=OBLIQUE)
    scans = [
        load_scan(phantom.write_volume(tmp_path / f"s{suffix}", phantom.voxels(), matrix)) for suffix in VOLUME_SUFFIXES
    ]
    click = Click(tuple(float(v) for v in phantom.landmark_ras(matrix) + 0.1), "ras")
    where = np.array([locate(click, scan) for scan in scans])
    np.testing.assert_allclose(where, np.broadcast_to(where[0], where.shape), atol=1e-4)


def _nifti_files(shared: Path) -> list[Path]:
    data = shared / "data"
    hippocampi = sorted((data / "hippocampus-mr" / "imagesTr").glob("*.nii.gz"))[::40]
    return [
        *hippocampi,
        *sorted((data / "misc-3d").rglob("*.nii.gz")),
        *sorted((data / "total-ct-mr").glob("*sm.nii.gz")),
    ]


def test_real_nifti_files_lie_where_simpleitk_puts_them(shared: Path) -> None:
    files = [path for path in _nifti_files(shared) if "4d" not in path.name]
    assert len(files) > 10
    for path in files:
        scan, image = read_file(path, ReadOptions()), SimpleITK.ReadImage(str(path))
        assert scan.shape == image.GetSize()[:3], path
        _assert_same_world(scan, image, path)
        np.testing.assert_allclose(
            scan.voxels[0],
            SimpleITK.GetArrayFromImage(image).astype(np.float32).transpose(2, 1, 0),
            rtol=1e-5,
            atol=1e-3,
        )


def test_real_nrrd_and_gipl_files_lie_where_simpleitk_puts_them(shared: Path) -> None:
    misc = shared / "data" / "misc-3d"
    files = [*misc.rglob("*.nrrd"), *misc.rglob("*.gipl.gz")]
    assert len(files) >= 5
    for path in files:
        scan, image = read_file(path, ReadOptions()), SimpleITK.ReadImage(str(path))
        _assert_same_world(scan, image, path)
        np.testing.assert_array_equal(scan.voxels[0], SimpleITK.GetArrayFromImage(image).transpose(2, 1, 0))


def _assert_same_world(scan: Scan, image: SimpleITK.Image, path: Path) -> None:
    """All eight corners, within a hundredth of a voxel: the two round the float32 header differently."""
    corners = np.array(list(product((0, 1), repeat=3))) * (np.array(scan.shape) - 1)
    ours = scan.voxel_to_world(corners, "lps")
    theirs = [image.TransformContinuousIndexToPhysicalPoint(corner.tolist()) for corner in corners.astype(float)]
    np.testing.assert_allclose(ours, theirs, atol=0.01 * min(scan.spacing), err_msg=str(path))


def test_real_masks_overlay_their_scans_after_a_round_trip(shared: Path, tmp_path: Path) -> None:
    path = shared / "data" / "misc-3d" / "pyradiomics" / "brain1_image.nrrd"
    scan = load_scan(path)
    mask = phantom.segmentation(scan)
    written = SimpleITK.ReadImage(str(write_mask(mask, tmp_path / "mask.nrrd")))
    image = SimpleITK.ReadImage(str(path))
    assert written.GetSpacing() == image.GetSpacing()
    assert written.GetOrigin() == image.GetOrigin()
    assert written.GetDirection() == image.GetDirection()
