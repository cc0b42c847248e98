"""Real DICOM files against SimpleITK, a decoder and geometry of their own. Skipped without the development data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from medseg_cli.errors import InputError
from medseg_cli.readers import dicom
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import RAS_TO_LPS, Scan

SERIES = (
    "dicom/dcmqi/segmentations/23x38x3/image",
    "dicom/dcmqi/segmentations/23x38x3/multiframe/mf.dcm",
    "dicom/dcmqi/segmentations/ct-3slice",
    "dicom/dicom2nifti/failing/slicecount/001",
    "dicom/dicom2nifti/ge/anatomical/001",
    "dicom/dicom2nifti/generic/anatomical/001",
    "dicom/dicom2nifti/generic/anatomical/001_implicit",
    "dicom/dicom2nifti/generic/anatomical/002_non_isotropic",
    "dicom/dicom2nifti/generic/compressed/001",
    "dicom/dicom2nifti/generic/compressed_j2k/001",
    "dicom/dicom2nifti/generic/compressed_jpeg/001",
    "dicom/dicom2nifti/generic/compressed_jpegls/001",
    "dicom/dicom2nifti/generic/compressed_rle/001",
    "dicom/dicom2nifti/generic/rgb/001",
    "dicom/dicom2nifti/hyperfine/anatomical/001/001.dcm",
    "dicom/dicom2nifti/philips/anatomical/001",
    "dicom/dicom2nifti/philips/anatomical/001_implicit",
    "dicom/dicom2nifti/siemens/anatomical/001",
    "dicom/dicom2nifti/siemens_multiframe/anatomical/001/IM-0001-0001-0001.dcm",
    "dicom/mr_cmb_crc/SCAN_001/adc_image",
    "dicom/mr_pgbm_udacity/Study1__13_HCropVolume",
    "dicom/mr_pgbm_udacity/Study2__14_HCropVolume",
    "dicom/sts_rtstruct/STS_008/CT/image",
    "dicom/sts_rtstruct/STS_008/MR_T1/image",
    "dicom/sts_rtstruct/STS_008/PET/image",
    "total-ct-mr/example_ct_dicom",
)
LOSSY = {".50": 25, ".51": 5, ".53": 5, ".55": 5, ".81": 1, ".91": 1}
"""Largest mean difference in HU that the lossy transfer syntaxes of one CT slice may have, by the end of their UID."""


@pytest.fixture(scope="module")
def data(shared: Path) -> Path:
    """../shared/data."""
    return shared / "data"


def simpleitk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(C, K, J, I) voxels and (4, 4) kji-free ijk→LPS affine, slices sorted by SimpleITK where it can."""
    if path.is_dir():
        reader = SimpleITK.ImageSeriesReader()
        files = reader.GetGDCMSeriesFileNames(str(path))
        # A series without UIDs is none to GDCM's sorter.
        reader.SetFileNames(files if len(files) > 1 else sorted(str(file) for file in path.iterdir()))
        image = reader.Execute()
    else:
        image = SimpleITK.ReadImage(str(path))
    voxels = SimpleITK.GetArrayFromImage(image)
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    return (np.moveaxis(voxels, 3, 0) if voxels.ndim == 4 else voxels[None]), affine


@pytest.mark.parametrize("name", SERIES)
def test_same_voxels_at_the_same_places_as_simpleitk(name: str, data: Path) -> None:
    scan = dicom.read(data / name)
    theirs, affine = simpleitk(data / name)
    ours_to_theirs = np.linalg.inv(affine) @ RAS_TO_LPS @ scan.affine
    corners = np.array([[i, j, k, 1.0] for i in (0, 1) for j in (0, 1) for k in (0, 1)]).T
    corners[:3] *= (np.array(scan.shape) - 1)[:, None]
    index = ours_to_theirs @ corners
    assert np.abs(index - np.rint(index)).max() < 1e-3
    where = np.rint(index[:3]).astype(int)
    assert where.min() == 0, "the grids do not cover the same place"
    assert tuple(where.max(axis=1) + 1) == scan.shape == theirs.shape[:0:-1]
    flipped = theirs[:, ::-1] if ours_to_theirs[2, 2] < 0 else theirs
    assert np.allclose(scan.voxels.transpose(0, 3, 2, 1), flipped, rtol=1e-6, atol=1e-5)


def test_one_slice_in_every_transfer_syntax(data: Path) -> None:
    folder = data / "dicom" / "cornerstone_transfer_syntaxes"
    reference = dicom.read(folder / "CTImage.dcm")
    found = sorted(folder.glob("CTImage.dcm_*.dcm"))
    assert len(found) == 15
    for path in found:
        scan = dicom.read(path)
        tolerance = LOSSY.get(path.name[-7:-4], 0)
        # The 8- and 12-bit ones had to squeeze -3024 to 1378 HU into fewer steps.
        assert np.abs(scan.voxels - reference.voxels).mean() <= tolerance, path.name
        assert np.allclose(scan.affine, reference.affine), path.name


def read_failing(data: Path, name: str, **options: object) -> Scan:
    return dicom.read(data / "dicom" / "dicom2nifti" / "failing" / name / "001", ReadOptions(**options))


def test_tilted_gantry(data: Path) -> None:
    with pytest.raises(InputError, match=r"tilted gantry: slices lean by 14\.00 degrees"):
        read_failing(data, "gantrytilting")
    scan = read_failing(data, "gantrytilting", on_tilt="shear")
    # 5 mm along z between slices tilted by 14 degrees.
    assert scan.spacing[2] == pytest.approx(5 * np.cos(np.radians(14)), abs=1e-3)


def test_missing_slice(data: Path) -> None:
    with pytest.raises(InputError, match=r"gap: about 1 slice\(s\) missing, steps are 5 mm but 10 mm"):
        read_failing(data, "sliceincrement")
    assert read_failing(data, "sliceincrement", on_gap="resample").shape == (512, 512, 5)


def test_mixed_orientations(data: Path) -> None:
    with pytest.raises(InputError, match="one series holds 2 stacks"):
        read_failing(data, "sliceorientation")
    shapes = [read_failing(data, "sliceorientation", series=number).shape for number in ("1", "2")]
    assert shapes == [(288, 288, 2), (288, 288, 2)]


def test_no_volume_at_all(data: Path) -> None:
    with pytest.raises(InputError, match="4 pictures all at one position"):
        read_failing(data, "notavolume")
    assert read_failing(data, "notavolume", channel=0).shape == (512, 512, 1)


def test_mosaic(data: Path) -> None:
    with pytest.raises(InputError, match="Siemens mosaic"):
        dicom.read(data / "dicom" / "dicom2nifti" / "siemens" / "fmri" / "001")


def test_every_file_is_read_or_refused_in_words(data: Path) -> None:
    """Nothing but an InputError may come out, and most images must come in."""
    read, refused, unnamed = 0, 0, []
    for path in sorted((data / "dicom" / "pydicom_tests").rglob("*")):
        if path.is_dir():
            continue
        try:
            scan = dicom.read(path, ReadOptions(channel=0))
        except InputError as error:
            refused += 1
            unnamed += [] if path.name in error.message else [error.message]
            continue
        read += 1
        assert np.isfinite(scan.voxels).all(), path.name
    assert unnamed == []
    assert read >= 80
    assert refused >= 50


def test_every_segmentation_object_is_named_as_such(data: Path) -> None:
    paths = [*(data / "dicom" / "dcmqi").rglob("*.seg"), *(data / "dicom" / "highdicom").glob("seg_*.dcm")]
    assert len(paths) >= 10
    for path in paths:
        with pytest.raises(InputError, match="it is a mask, not a scan"):
            dicom.read(path)


def test_dicomdirs_list_what_their_folder_lists(data: Path) -> None:
    folder = data / "dicom" / "pydicom_tests" / "dicomdirtests"
    listed = dicom.list_series(folder / "DICOMDIR")
    assert {one.modality for one in listed} == {"CR", "CT", "MR"}
    volume = next(one for one in listed if one.description == "SmartScore - Gated 0.5 sec")
    scan = dicom.read(folder / "DICOMDIR", ReadOptions(series=volume.uid))
    assert scan.shape == (16, 16, 5)
