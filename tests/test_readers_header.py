"""A header read alone says what reading the whole scan says, and refuses what it shows to be wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import enhanced, save, series, write
from phantom import VOLUME_SUFFIXES, affine, voxels, write_volume
from PIL import Image

from medseg_cli.errors import MedsegError
from medseg_cli.readers import ReadOptions, load_scan, read_header


def agree(path: Path, options: ReadOptions | None = None) -> None:
    header, scan = read_header(path, options), load_scan(path, options)
    assert header.format == scan.provenance.format
    assert header.shape == scan.shape
    assert header.spacing == pytest.approx(scan.spacing, rel=1e-5)
    assert header.spacing_known == scan.spacing_known
    assert header.channels == scan.voxels.shape[0]
    assert header.modality == scan.modality
    assert header.scan_bytes == scan.voxels.size * 4


@pytest.mark.parametrize("suffix", VOLUME_SUFFIXES)
def test_volumes(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"scan{suffix}"
    write_volume(path, voxels(), affine("LPS", angles=(0.1, 0.2, 0.3)))
    agree(path)


def test_pictures_in_colour_and_grey(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (6, 9), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 255, (6, 9, 3), np.uint8)).save(tmp_path / "colour.jpg")
    agree(tmp_path / "grey.png")
    agree(tmp_path / "grey.png", ReadOptions(spacing=(0.2, 0.3, 1.0)))
    agree(tmp_path / "colour.jpg")


def test_dicom_series_and_enhanced_objects(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    write(series(voxels(), affine()), tmp_path / "series")
    agree(tmp_path / "series")
    save(enhanced(voxels(), affine(), range(voxels().shape[2])), tmp_path / "one.dcm")
    agree(tmp_path / "one.dcm")


def test_an_uneven_series_has_the_size_that_it_is_resampled_to(tmp_path: Path) -> None:
    slices = series(voxels((9, 7, 8)), affine())
    write([each for k, each in enumerate(slices) if k not in (3, 4)], tmp_path)
    with pytest.raises(MedsegError, match=r"gap|missing|uneven"):
        read_header(tmp_path)
    agree(tmp_path, ReadOptions(on_gap="resample"))


def test_medsams_npz(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    np.savez(tmp_path / "a.npz", imgs=values, gts=np.ones_like(values), spacing=[1, 2, 3])
    agree(tmp_path / "a.npz")


def test_what_the_header_shows_to_be_wrong_is_refused_without_reading_on(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    write_volume(path, voxels(), affine())
    path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(MedsegError, match="truncated"):
        read_header(path)
    with pytest.raises(MedsegError, match="does not exist"):
        read_header(tmp_path / "gone.nii")


def test_a_4d_file_needs_a_channel(tmp_path: Path) -> None:
    import nibabel as nib

    nib.Nifti1Image(np.zeros((4, 5, 6, 3), np.int16), np.eye(4)).to_filename(tmp_path / "x.nii.gz")
    with pytest.raises(MedsegError, match="3 volumes"):
        read_header(tmp_path / "x.nii.gz")
    header = read_header(tmp_path / "x.nii.gz", ReadOptions(channel=1))
    assert (header.shape, header.volumes) == ((4, 5, 6), 3)


def test_real_files(shared: Path) -> None:
    agree(shared / "data" / "misc-3d" / "itksnap" / "MRIcrop-orig.gipl.gz")
    agree(shared / "data" / "misc-3d" / "pyradiomics" / "brain1_image.nrrd")
    agree(shared / "data" / "dicom" / "mr_cmb_crc" / "SCAN_001" / "adc_image")
    agree(next((shared / "data" / "misc-3d" / "medsam2-npz").glob("*.npz")))
