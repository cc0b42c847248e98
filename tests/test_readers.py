"""The one door: what a path is, MONAI's `LoadImage` in between, and what is refused before it is segmented."""

from __future__ import annotations

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import ReadOptions, check_image, load_scan, looks_like_mask
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Provenance, Scan

FILES = {".nii": "NIfTI", ".nii.gz": "NIfTI (gzip)", ".nrrd": "NRRD", ".mha": "MetaImage", ".mgz": "MGH (gzip)"}


def scan_of(values: np.ndarray) -> Scan:
    voxels = np.asarray(values, np.float32).reshape((-1, *values.shape[-3:]))
    return Scan(voxels, np.eye(4), Provenance(Path("made.nii"), "nifti", ""))


@pytest.mark.parametrize("suffix", FILES)
def test_through_monai_nothing_changes(tmp_path: Path, suffix: str) -> None:
    path = phantom.write_volume(
        tmp_path / f"s{suffix}", phantom.voxels(), phantom.affine("PIR", angles=(0.1, 0.2, 0.3))
    )
    ours, theirs = read_file(path, ReadOptions()), load_scan(str(path))
    np.testing.assert_array_equal(ours.voxels, theirs.voxels)
    np.testing.assert_array_equal(ours.affine, theirs.affine)
    assert ours.provenance == theirs.provenance
    assert theirs.voxels.dtype == np.float32
    assert type(theirs.header) is type(ours.header)


def test_the_metatensor_carries_our_affine(tmp_path: Path) -> None:
    from monai.transforms import LoadImage

    from medseg_cli.readers.monai_reader import ScanReader

    matrix = phantom.affine("LPS", angles=(0.3, 0.2, 0.1))
    path = phantom.write_volume(tmp_path / "s.nrrd", phantom.voxels(), matrix)
    tensor = LoadImage(reader=ScanReader(), image_only=True)(path)
    assert tuple(tensor.shape) == (1, *phantom.SHAPE)
    np.testing.assert_allclose(tensor.affine.numpy(), matrix, atol=1e-10)
    assert str(tensor.meta["space"]) == "RAS"


def test_monais_own_readers_never_take_over_what_ours_refuses(tmp_path: Path) -> None:
    from monai.transforms import LoadImage

    from medseg_cli.readers.monai_reader import ScanReader

    values = np.zeros((4, 4, 4, 3), np.int16)
    path = phantom.write_volume(tmp_path / "four.nii.gz", values, np.eye(4))
    assert tuple(LoadImage(image_only=True)(path).shape) == values.shape
    with pytest.raises(InputError, match="holds 3 volumes"):
        LoadImage(reader=ScanReader(), image_only=True)(path)
    with pytest.raises(InputError, match="holds 3 volumes"):
        load_scan(path)


def test_pure_readers_need_no_monai_and_no_torch(tmp_path: Path, root: Path) -> None:
    path = phantom.write_volume(tmp_path / "s.nii.gz", phantom.voxels(), phantom.affine())
    code = (
        "import sys; from pathlib import Path; from medseg_cli.readers.files import read_file; "
        "from medseg_cli.readers import ReadOptions; "
        f"print(read_file(Path({str(path)!r}), ReadOptions()).shape, 'monai' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "(9, 7, 5) False False"


@pytest.mark.parametrize("content", FILES)
@pytest.mark.parametrize("named", [*FILES, ".png", ".dcm"])
def test_a_name_that_contradicts_the_content_is_refused_naming_both(tmp_path: Path, content: str, named: str) -> None:
    path = phantom.write_volume(tmp_path / f"right{content}", phantom.voxels(), phantom.affine())
    wrong = path.rename(tmp_path / f"wrong{named}")
    if content == named:
        assert read_file(wrong, ReadOptions()).shape == phantom.SHAPE
        return
    with pytest.raises(InputError) as caught:
        read_file(wrong, ReadOptions())
    claimed = {**FILES, ".png": "PNG", ".dcm": "DICOM"}[named]
    assert f"is named as {claimed}, but its content is {FILES[content]}" in caught.value.message


@pytest.mark.parametrize("content", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_name_without_a_suffix_claims_nothing(tmp_path: Path, content: str) -> None:
    path = phantom.write_volume(tmp_path / f"s{content}", phantom.voxels(), phantom.affine("LAS"))
    scan = read_file(path.rename(tmp_path / "scan_without_suffix"), ReadOptions())
    np.testing.assert_array_equal(scan.voxels[0], phantom.voxels())
    assert scan.orientation == "LAS"


def test_upper_case_suffixes(tmp_path: Path) -> None:
    path = phantom.write_volume(tmp_path / "s.nii.gz", phantom.voxels(), phantom.affine())
    assert read_file(path.rename(tmp_path / "S.NII.GZ"), ReadOptions()).shape == phantom.SHAPE


def test_a_name_with_dots_spaces_and_umlauts(tmp_path: Path) -> None:
    for suffix in FILES:
        path = phantom.write_volume(tmp_path / f"Müller 1.2.3 größe{suffix}", phantom.voxels(), phantom.affine())
        assert load_scan(path).shape == phantom.SHAPE


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.nii.gz", b"", r"empty \(0 bytes\)"),
        ("text.nii", b"this is no scan", "is named as NIfTI, but its content is damaged or of no known kind"),
        ("noise.nii.gz", bytes(range(256)) * 4, "is named as NIfTI"),
        ("noise.png", bytes(range(256)) * 4, "is named as PNG"),
        ("text.txt", b"this is no scan", "is of no kind that medseg reads"),
        ("anim.gif", b"GIF89a" + bytes(64), "is GIF, which medseg does not read"),
        ("array.npy", b"\x93NUMPY" + bytes(64), "is NumPy"),
        ("old.hdr", (348).to_bytes(4, "little") + bytes(344), "is Analyze 7.5"),
        ("paper.pdf", b"%PDF-1.7", "is PDF"),
    ],
)
def test_what_is_no_scan_is_refused_in_words(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load_scan(path)
    assert name in caught.value.message
    assert caught.value.hint


def test_missing_and_unreadable_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="does not exist"):
        load_scan(tmp_path / "nowhere.nii.gz")
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(InputError, match=r"cannot read .*Not a directory"):
        load_scan(tmp_path / "file" / "scan.nii.gz")
    path = phantom.write_volume(tmp_path / "secret.nii", phantom.voxels(), phantom.affine())
    path.chmod(0)
    if os.access(path, os.R_OK):

        def denied(self: Path, *args: object, **kwargs: object) -> None:
            raise PermissionError(13, "Permission denied", str(self))

        monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"cannot read .*secret.nii: Permission denied"):
        load_scan(path)


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty"):
        load_scan(tmp_path / "empty")


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    phantom.write_volume(tmp_path / "s.nii", phantom.voxels(), phantom.affine())
    assert load_scan("~/s.nii").shape == phantom.SHAPE


def test_options_without_a_use_are_usage_errors(tmp_path: Path) -> None:
    path = phantom.write_volume(tmp_path / "s.nii", phantom.voxels(), phantom.affine())
    with pytest.raises(UsageError, match=r"--series picks a DICOM series, but .*s.nii is NIfTI"):
        load_scan(path, ReadOptions(series="1"))
    with pytest.raises(UsageError, match="--spacing is for images that state no voxel size"):
        load_scan(path, ReadOptions(spacing=(1.0, 1.0, 1.0)))


def test_constant_images_and_masks_are_refused() -> None:
    check_image(scan_of(phantom.voxels()))
    with pytest.raises(InputError, match="is constant: every voxel is 7"):
        check_image(scan_of(np.full((4, 4, 4), 7)))
    mask = np.zeros((10, 10, 10))
    mask[2:5, 3:6, 4:7] = 1
    with pytest.raises(InputError, match="looks like a mask, not a scan: whole numbers from 0 to 1, 2 different ones"):
        check_image(scan_of(mask))


@pytest.mark.parametrize("part", [500, 1 << 22])
def test_masks_are_told_from_images(part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medseg_cli.readers.check._PART", part)
    blocks = np.kron(np.arange(64).reshape(4, 4, 4), np.ones((8, 8, 8)))
    assert looks_like_mask(scan_of(blocks))
    assert looks_like_mask(scan_of(np.where(np.indices((6, 6, 6))[0] > 2, 255, 0)))
    noise = np.random.default_rng(0)
    assert not looks_like_mask(scan_of(noise.integers(0, 60, (16, 16, 16))))
    assert not looks_like_mask(scan_of(noise.normal(size=(16, 16, 16))))
    assert not looks_like_mask(scan_of(blocks - 5))
    assert not looks_like_mask(scan_of(np.stack([blocks] * 3)))
    blocks[-1, -1, -1] = 62.5
    assert not looks_like_mask(scan_of(blocks))


def test_to_ask_whether_it_is_a_mask_takes_less_memory_than_the_scan() -> None:
    scan = scan_of(np.random.default_rng(0).integers(0, 200, (256, 256, 256), dtype=np.uint8))
    tracemalloc.start()
    try:
        assert not looks_like_mask(scan)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < scan.voxels.nbytes


def test_real_scans_are_no_masks_and_real_masks_are(shared: Path) -> None:
    misc, total = shared / "data" / "misc-3d", shared / "data" / "total-ct-mr"
    for name in ("t2_t2", "mt_mt0", "t1_t1w"):
        assert not looks_like_mask(load_scan(misc / "spinalcord_sct" / f"{name}.nii.gz")), name
    for path in (total / "example_seg_fast_force_split.nii.gz", total / "example_seg_mr.nii.gz"):
        assert looks_like_mask(load_scan(path)), path
    assert not looks_like_mask(load_scan(total / "example_mr_sm.nii.gz"))
    assert looks_like_mask(load_scan(misc / "itksnap" / "MRIcrop-seg.gipl.gz"))


def test_notices_of_libraries_never_reach_the_user(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    image = nib.Nifti1Image(phantom.voxels(), phantom.affine())
    image.header["pixdim"][1] = -1
    nib.save(image, tmp_path / "s.nii")
    caplog.clear()
    load_scan(tmp_path / "s.nii")
    assert caplog.records == []
