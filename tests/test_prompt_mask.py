"""Coarse masks as prompts: what is read from which file, and what is refused with which numbers."""

from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image

from medseg_cli.errors import InputError
from medseg_cli.prompt_mask import read_regions
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan

TILT = np.array([[1.0, 0, 0, -20.0], [0, 0.8, 0.6, 11.0], [0, -0.6, 0.8, 300.0], [0, 0, 0, 1.0]])
AFFINE = TILT @ np.diag([0.7, 0.7, 2.5, 1.0])


def nifti(path: Path, values: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


def labels(*, dtype: type = np.uint8) -> np.ndarray:
    values = np.zeros((12, 10, 6), dtype)
    values[1:4, 2:5, 3] = 5
    values[6:9, 2:5, 1:4] = 2
    return values


@pytest.fixture
def scan(tmp_path: Path) -> Scan:
    noise = np.random.default_rng(0).normal(size=(12, 10, 6)).astype(np.float32)
    return load_scan(nifti(tmp_path / "scan.nii.gz", noise))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_every_value_is_an_object(tmp_path: Path, scan: Scan, dtype: type) -> None:
    path = nifti(tmp_path / "mask.nii.gz", labels(dtype=dtype))
    targets = read_regions(path, scan)
    assert [(target.id, target.region.value) for target in targets] == [("2", 2), ("5", 5)]
    for target in targets:
        assert np.array_equal(target.region.voxels, labels() == target.region.value)
        assert target.region.labels is targets[0].region.labels, "a volume per object would fill the memory"
        assert target.region.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert (target.region.path, target.clicks, target.boxes, target.label) == (path, (), (), "")


def test_another_format_on_the_same_grid_is_fine(tmp_path: Path, scan: Scan) -> None:
    image = sitk.GetImageFromArray(labels().transpose(2, 1, 0))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ AFFINE
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, tmp_path / "mask.nrrd")
    assert [target.region.value for target in read_regions(tmp_path / "mask.nrrd", scan)] == [2, 5]


def test_a_full_mask_is_one_object(tmp_path: Path, scan: Scan) -> None:
    (target,) = read_regions(nifti(tmp_path / "mask.nii.gz", np.full(scan.shape, 255, np.uint8)), scan)
    assert target.region.voxels.all()


def test_rounded_geometry_is_the_same_grid(tmp_path: Path, scan: Scan) -> None:
    near, far = AFFINE.copy(), AFFINE.copy()
    near[0, 3] += 0.06  # less than a tenth of 0.7 mm
    far[0, 3] += 0.08
    assert read_regions(nifti(tmp_path / "near.nii.gz", labels(), near), scan)
    with pytest.raises(InputError, match=r"lies up to 0\.08 mm away"):
        read_regions(nifti(tmp_path / "far.nii.gz", labels(), far), scan)


@pytest.mark.parametrize(
    ("values", "affine", "text"),
    [
        (np.zeros((12, 10, 6), np.uint8), AFFINE, "is empty: all 720 voxels are 0"),
        (labels()[:, :, :5], AFFINE, "has 12 x 10 x 5 voxels"),
        (labels().transpose(1, 0, 2), AFFINE, "has 10 x 12 x 6 voxels"),
        (labels()[::-1], AFFINE @ np.diag([-1.0, 1, 1, 1]), "LAS, 0.7 x 0.7 x 2.5 mm"),
        (labels(), np.diag([0.7, 0.7, 2.5, 1.0]), "first voxel at ras 0, 0, 0, against RAS"),
        (labels() * 0.5, AFFINE, "is no mask: 3 different values from 0 to 2.5"),
        (-labels(dtype=np.int16), AFFINE, "is no mask: 3 different values from -5 to 0"),
        (np.arange(720, dtype=np.int16).reshape(12, 10, 6), AFFINE, "is no mask: 720 different values from 0 to 719"),
    ],
    ids=["empty", "cut", "transposed", "flipped", "moved", "fractions", "negative", "a scan"],
)
def test_what_does_not_fit_is_refused_with_its_numbers(
    tmp_path: Path, scan: Scan, values: np.ndarray, affine: np.ndarray, text: str
) -> None:
    path = nifti(tmp_path / "mask.nii.gz", np.ascontiguousarray(values), affine)
    with pytest.raises(InputError) as caught:
        read_regions(path, scan)
    assert text in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint


def png(path: Path, values: np.ndarray, mode: str = "L") -> Path:
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture
def picture(tmp_path: Path) -> Scan:
    return load_scan(png(tmp_path / "xray.png", np.random.default_rng(0).integers(0, 255, (20, 30)).astype(np.uint8)))


@pytest.mark.parametrize("mode", ["L", "1", "RGB", "P"])
def test_black_and_white_is_one_object_in_any_png(tmp_path: Path, picture: Scan, mode: str) -> None:
    drawn = np.zeros((20, 30), np.uint8)
    drawn[4:9, 10:22] = 255
    (target,) = read_regions(png(tmp_path / "mask.png", drawn, mode), picture)
    assert np.array_equal(target.region.voxels[:, :, 0].T, drawn > 0)


def test_a_picture_says_nothing_of_its_place(tmp_path: Path, picture: Scan) -> None:
    drawn = np.zeros((30, 20, 1), np.uint8)
    drawn[3:9, 3:9] = 1
    (target,) = read_regions(nifti(tmp_path / "mask.nii.gz", drawn), picture)
    assert target.region.voxels.sum() == 36


@pytest.mark.parametrize(("size", "text"), [((21, 30), "has 30 x 21 pixels"), ((30, 20), "has 20 x 30 pixels")])
def test_a_picture_of_another_size_is_refused(tmp_path: Path, picture: Scan, size: tuple[int, int], text: str) -> None:
    with pytest.raises(InputError) as caught:
        read_regions(png(tmp_path / "mask.png", np.eye(*size, dtype=np.uint8)), picture)
    assert text in caught.value.message
    assert "xray.png has 30 x 20 pixels" in caught.value.message


def test_jpeg_smears_a_mask_and_is_refused(tmp_path: Path, picture: Scan) -> None:
    rows, columns = np.mgrid[:20, :30]
    drawn = np.where((rows - 10) ** 2 + (columns - 15) ** 2 < 60, 255, 0).astype(np.uint8)
    Image.fromarray(drawn).save(tmp_path / "mask.jpg", quality=60)
    with pytest.raises(InputError, match=r"is no mask: \d+ different values") as caught:
        read_regions(tmp_path / "mask.jpg", picture)
    assert "JPEG" in caught.value.hint
