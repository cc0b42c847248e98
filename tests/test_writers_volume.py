"""Masks on disk: the scan's own header, label values to the bit, and never half a file."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
import SimpleITK

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import ReadOptions
from medseg_cli.readers.files import read_file
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import atomic
from medseg_cli.writers.atomic import atomic_output, check_output
from medseg_cli.writers.masks import write_mask
from medseg_cli.writers.volume import SUFFIXES

MASK_HEADER_FIELDS = {
    "datatype", "bitpix", "dim", "vox_offset", "descrip", "aux_file", "db_name", "data_type", "intent_code",
    "intent_name", "cal_max", "cal_min", "scl_slope", "scl_inter", "toffset", "slice_code", "slice_duration",
    "slice_end", "xyzt_units", "pixdim",
}  # fmt: skip
"""Where a mask's header may differ from its scan's; everything else is the scan's, byte by byte."""


def from_nifti(tmp_path: Path) -> tuple[Segmentation, nib.Nifti1Header]:
    """A segmentation of a scan whose NIfTI header is as personal as they come."""
    image = nib.Nifti1Image(np.repeat(phantom.voxels()[..., np.newaxis], 2, axis=3), None)
    image.set_sform(phantom.affine("LPS", angles=(0.1, 0.2, 0.3)), code=4)
    image.set_qform(phantom.affine("LPS", angles=(0.1, 0.2, 0.3), origin=(1.0, 2.0, 3.0)), code=1)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"], image.header["aux_file"], image.header["db_name"] = b"Jane Doe", b"jane.txt", b"JaneDoe"
    image.header["cal_max"], image.header["cal_min"] = 1000, 10
    image.header["dim_info"] = 57
    image.header["pixdim"][4] = 2.5
    nib.save(image, tmp_path / "scan.nii.gz")
    scan = read_file(tmp_path / "scan.nii.gz", ReadOptions(channel=1))
    return phantom.segmentation(scan), nib.load(tmp_path / "scan.nii.gz").header


def test_a_nifti_mask_has_its_scans_header(tmp_path: Path) -> None:
    segmentation, own = from_nifti(tmp_path)
    mask = nib.load(write_mask(segmentation, tmp_path / "mask.nii.gz"))
    for field in set(own.keys()) - MASK_HEADER_FIELDS:
        np.testing.assert_array_equal(mask.header[field], own[field], err_msg=field)
    np.testing.assert_array_equal(mask.header["pixdim"][:4], own["pixdim"][:4])
    np.testing.assert_array_equal(mask.affine, own.get_sform())
    assert (int(mask.header["sform_code"]), int(mask.header["qform_code"])) == (4, 1)
    assert mask.header.get_xyzt_units() == ("mm", "unknown")
    assert mask.shape == phantom.SHAPE
    assert mask.get_data_dtype() == np.uint8
    assert mask.header.get_intent()[0] == "label"
    assert (float(mask.header["cal_max"]), float(mask.header["cal_min"])) == (0, 0)
    assert mask.header.get_slope_inter() in ((1.0, 0.0), (None, None))


def test_nothing_that_names_the_patient_goes_into_the_mask(tmp_path: Path) -> None:
    segmentation, _ = from_nifti(tmp_path)
    assert b"ane" not in write_mask(segmentation, tmp_path / "mask.nii").read_bytes()


def test_the_same_mask_is_the_same_bytes(tmp_path: Path) -> None:
    segmentation, _ = from_nifti(tmp_path)
    for suffix in (".nii.gz", ".nrrd", ".mha", ".mgz"):
        one = write_mask(segmentation, tmp_path / f"one{suffix}").read_bytes()
        assert one == write_mask(segmentation, tmp_path / f"two{suffix}").read_bytes(), suffix


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_scan_from_no_file_at_all(tmp_path: Path, suffix: str, dtype: type) -> None:
    segmentation = phantom.segmentation(phantom.scan("SRP", angles=(0.3, -0.2, 0.1)), dtype)
    path = write_mask(segmentation, tmp_path / f"mask{suffix}")
    back = read_file(path, ReadOptions())
    np.testing.assert_array_equal(back.voxels[0], segmentation.mask)
    np.testing.assert_allclose(back.affine, segmentation.scan.affine, atol=1e-5)
    if suffix.startswith(".nii"):
        image = nib.load(path)
        assert image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.get_qform(), image.get_sform(), atol=1e-5)
        assert image.header.get_xyzt_units()[0] == "mm"
    elif suffix in (".nrrd", ".mha"):
        kind = {np.uint8: "8-bit unsigned integer", np.uint16: "16-bit unsigned integer"}[dtype]
        assert SimpleITK.ReadImage(str(path)).GetPixelIDTypeAsString() == kind


@pytest.mark.parametrize("name", ["mask.txt", "mask", "mask.mhd", "mask.gz", "mask.dcm"])
def test_other_suffixes_are_usage_errors_that_list_those_that_work(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="format") as caught:
        write_mask(phantom.segmentation(phantom.scan()), tmp_path / name)
    assert ".nii.gz" in caught.value.hint
    assert ".nrrd" in caught.value.hint


def test_an_output_that_exists(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii.gz"
    path.write_bytes(b"precious")
    with pytest.raises(InputError, match="exists already") as caught:
        write_mask(phantom.segmentation(phantom.scan()), path)
    assert "--overwrite" in caught.value.hint
    assert path.read_bytes() == b"precious"
    write_mask(phantom.segmentation(phantom.scan()), path, overwrite=True)
    assert nib.load(path).shape == phantom.SHAPE
    assert os.listdir(tmp_path) == ["mask.nii.gz"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_folder_and_a_folder_as_output(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        write_mask(phantom.segmentation(phantom.scan()), tmp_path / "no" / f"mask{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(InputError, match="it is a folder"):
        write_mask(phantom.segmentation(phantom.scan()), tmp_path / f"folder{suffix}")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="there is no folder"):
        write_mask(phantom.segmentation(phantom.scan()), tmp_path / "file" / f"mask{suffix}")


def test_a_folder_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    try:
        if os.access(tmp_path, os.W_OK):
            monkeypatch.setattr(os, "access", lambda *_: False)
        with pytest.raises(InputError, match="permission denied"):
            check_output(tmp_path / "mask.nii.gz")
    finally:
        tmp_path.chmod(0o700)


def write_half(path: Path, error: BaseException) -> None:
    """Begin to write `path`, then run into `error`."""
    with atomic_output(path, overwrite=True) as temporary:
        temporary.write_bytes(b"half")
        raise error


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS])
def test_what_the_system_refuses_while_writing_leaves_nothing(tmp_path: Path, code: int) -> None:
    with pytest.raises(InputError, match=os.strerror(code).lower()):
        write_half(tmp_path / "mask.nii", OSError(code, os.strerror(code)))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, MemoryError])
def test_whatever_ends_the_block_leaves_nothing_and_keeps_the_old_file(tmp_path: Path, error: type) -> None:
    path = tmp_path / "mask.nii"
    path.write_bytes(b"old")
    with pytest.raises(error):
        write_half(path, error())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["mask.nii"]


def test_the_temporary_file_lies_beside_with_the_same_suffix(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "mask.nii.gz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.name.endswith(".nii.gz")
        assert temporary.name.startswith(".")
        temporary.write_bytes(b"whole")
        assert not (tmp_path / "mask.nii.gz").exists()
    assert (tmp_path / "mask.nii.gz").read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["mask.nii.gz"]


def test_a_file_that_appears_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mask.nii"

    def write() -> None:
        with atomic_output(path) as temporary:
            temporary.write_bytes(b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(InputError, match="appeared"):
        write()
    assert path.read_bytes() == b"theirs"
    assert os.listdir(tmp_path) == ["mask.nii"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs RLIMIT_FSIZE")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_real_write_that_the_system_cuts_short(tmp_path: Path, root: Path, suffix: str) -> None:
    path = tmp_path / f"mask{suffix}"
    code = f"""
import resource, signal
import numpy as np
import phantom
from dataclasses import replace
from medseg_cli.errors import InputError
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers.masks import write_mask
scan = phantom.scan(shape=(60, 60, 60))
mask = np.random.default_rng(0).integers(0, 200, scan.shape).astype(np.uint8)
segmentation = Segmentation(mask, tuple(Label(v, str(v)) for v in range(1, 201)), scan)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_mask(segmentation, {str(path)!r})
except InputError as error:
    print(error.message)
"""
    env = os.environ | {"PYTHONPATH": os.pathsep.join(str(root / part) for part in (".", "kernels", "tests"))}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert f"cannot write {path}" in done.stdout, done.stderr
    assert os.listdir(tmp_path) in ([], ["medseg-home"])


def test_itk_without_space_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("itk::ERROR: File cannot be written\nReason: Success")

    monkeypatch.setattr(SimpleITK, "WriteImage", full)
    monkeypatch.setattr(atomic.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10})())
    with pytest.raises(InputError, match="no space left"):
        write_mask(phantom.segmentation(phantom.scan()), tmp_path / "mask.nrrd")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_random_weights_are_stamped_into_the_file(tmp_path: Path, suffix: str) -> None:
    segmentation = dataclasses.replace(phantom.segmentation(phantom.scan()), provenance={"weights": {"random": True}})
    path = write_mask(segmentation, tmp_path / f"mask{suffix}")
    if suffix == ".nii.gz":
        assert b"RANDOM WEIGHTS" in bytes(nib.load(path).header["descrip"])
    else:
        assert "RANDOM WEIGHTS" in SimpleITK.ReadImage(str(path)).GetMetaData("medseg")


def test_what_cannot_be_stamped_is_refused(tmp_path: Path) -> None:
    segmentation = dataclasses.replace(phantom.segmentation(phantom.scan()), provenance={"weights": {"random": True}})
    with pytest.raises(UsageError, match="cannot be stamped"):
        write_mask(segmentation, tmp_path / "mask.mgz")
