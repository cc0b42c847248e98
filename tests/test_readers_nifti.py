"""NIfTI and MGH: which affine counts, what is repaired, and everything that must be refused in words."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest

from medseg_cli.errors import DeviceError, InputError, UsageError
from medseg_cli.readers import ReadOptions, payload
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan
from medseg_cli.writers.masks import write_mask


def read(path: Path, **options: object) -> Scan:
    return read_file(path, ReadOptions(**options))


def nifti(
    path: Path,
    values: np.ndarray | None = None,
    edit: Callable[[nib.Nifti1Header], None] | None = None,
    **geometry: object,
) -> Path:
    """The phantom as NIfTI at `path`; `edit` changes header fields afterwards, unchecked, in the bytes."""
    phantom.write_volume(path, phantom.voxels() if values is None else values, phantom.affine(**geometry))
    if edit is not None:
        edit_header(path, edit)
    return path


def edit_header(path: Path, edit: Callable[[nib.Nifti1Header], None]) -> None:
    raw = payload.unpack(path)
    header = nib.Nifti1Header(raw[:348], check=False)
    edit(header)
    changed = header.binaryblock + raw[348:]
    path.write_bytes(gzip.compress(changed) if path.suffix == ".gz" else changed)


def test_the_sform_counts_before_the_qform(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom.voxels(), None)
    near, far = phantom.affine("RAS"), phantom.affine("RAS", origin=(0.0, 0.0, 0.0))
    image.set_sform(near, 4)
    image.set_qform(far, 1)
    nib.save(image, tmp_path / "both.nii")
    scan = read(tmp_path / "both.nii")
    np.testing.assert_allclose(scan.affine, near, atol=1e-5)
    (note,) = scan.provenance.notes
    assert "sform (code 4) and qform (code 1) place voxels up to 52.4 mm apart; the sform is used" in note


def test_the_qform_counts_where_the_sform_code_is_zero(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom.voxels(), None)
    image.set_sform(phantom.affine("LPS"), 0)
    image.set_qform(phantom.affine("PSR"), 1)
    nib.save(image, tmp_path / "q.nii")
    scan = read(tmp_path / "q.nii")
    np.testing.assert_allclose(scan.affine, phantom.affine("PSR"), atol=1e-5)
    assert scan.provenance.notes == ()


def test_without_either_form_the_voxel_size_is_used_and_said(tmp_path: Path) -> None:
    def no_codes(header: nib.Nifti1Header) -> None:
        header["sform_code"] = header["qform_code"] = 0

    scan = read(nifti(tmp_path / "none.nii.gz", edit=no_codes))
    np.testing.assert_allclose(scan.affine, np.diag([*phantom.SPACING, 1.0]), atol=1e-6)
    assert "left and right cannot be told apart" in scan.provenance.notes[0]


def test_forms_that_mirror_each_other_are_refused_with_both_matrices(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom.voxels(), None)
    image.set_sform(np.diag([1.0, 1, 1, 1]), 1)
    image.set_qform(np.diag([-1.0, 1, 1, 1]), 1)
    nib.save(image, tmp_path / "mirror.nii")
    with pytest.raises(InputError, match=r"mirror images.*sform \[\[1 0 0 0\].*qform \[\[-1 0 0 0\]"):
        read(tmp_path / "mirror.nii")


def test_qfac_zero_is_read_as_one(tmp_path: Path) -> None:
    def q_only(header: nib.Nifti1Header) -> None:
        header["sform_code"] = 0
        header["pixdim"][0] = 0

    scan = read(nifti(tmp_path / "qfac.nii", edit=q_only, codes="RAS"))
    np.testing.assert_allclose(scan.affine, phantom.affine("RAS"), atol=1e-5)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (3, 0.001)])
def test_metres_and_micrometres_become_millimetres(tmp_path: Path, unit: int, factor: float) -> None:
    def set_unit(header: nib.Nifti1Header) -> None:
        header["xyzt_units"] = unit

    spacing = tuple(size / factor for size in phantom.SPACING)
    scan = read(nifti(tmp_path / "unit.nii", edit=set_unit, spacing=spacing, origin=(0.0, 0.0, 0.0)))
    np.testing.assert_allclose(scan.spacing, phantom.SPACING, rtol=1e-6)
    assert "converted to mm" in scan.provenance.notes[0]
    mask = write_mask(phantom.segmentation(scan), tmp_path / "mask.nii")
    np.testing.assert_allclose(read(mask).affine, scan.affine)


def sheared(path: Path, cosine: float) -> Path:
    matrix = phantom.affine("LPS", angles=(0.1, 0.2, 0.3))
    matrix[:3, 1] += cosine * matrix[:3, 0] / phantom.SPACING[0] * phantom.SPACING[1]
    image = nib.Nifti1Image(phantom.voxels(), None)
    image.set_sform(matrix, 1)
    nib.save(image, path)
    return path


def test_axes_slightly_off_right_angles_are_straightened_and_said(tmp_path: Path) -> None:
    path = sheared(tmp_path / "shear.nii.gz", 8e-4)
    scan = read(path)
    directions = scan.affine[:3, :3] / np.array(scan.spacing)
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(scan.spacing, phantom.SPACING, rtol=1e-5)
    stated = nib.load(path).affine
    centre = (np.array(phantom.SHAPE) - 1) / 2
    np.testing.assert_allclose(
        scan.voxel_to_world(centre, "ras")[0], nib.affines.apply_affine(stated, centre), atol=1e-9
    )
    (note,) = scan.provenance.notes
    assert "straightened" in note
    assert "no voxel moved by more than 0.0" in note
    mask = nib.load(write_mask(phantom.segmentation(scan), tmp_path / "mask.nii.gz"))
    np.testing.assert_array_equal(mask.affine, stated)


def test_really_sheared_axes_are_refused_with_the_matrix(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not at right angles \(cosine 0.00[12].*\[\[-0.8") as caught:
        read(sheared(tmp_path / "shear.nii.gz", 2e-3))
    assert "resample" in caught.value.hint


def _set(field: str, value: object, index: int | None = None) -> Callable[[nib.Nifti1Header], None]:
    def edit(header: nib.Nifti1Header) -> None:
        if index is None:
            header[field] = value
        else:
            header[field][index] = value

    return edit


def _qform_only(edit: Callable[[nib.Nifti1Header], None]) -> Callable[[nib.Nifti1Header], None]:
    def both(header: nib.Nifti1Header) -> None:
        header["sform_code"] = 0
        edit(header)

    return both


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_set("srow_x", np.nan, 0), r"\(sform\): the affine holds NaN or infinity: \[\[nan"),
        (_set("srow_z", np.inf, 3), "holds NaN or infinity"),
        (_set("srow_x", [0, 0, 0, 0]), "voxel size is 0 x 1.3 x 2.5 mm"),
        (_set("srow_y", [0.9, 0, 0, 0]), "voxel size is 1.27279 x 0 x 2.5 mm"),
        (_qform_only(_set("pixdim", 0, 1)), r"voxel size \(pixdim\) is 0 x 1.3 x 2.5"),
        (_qform_only(_set("pixdim", -1, 3)), r"voxel size \(pixdim\) is 0.9 x 1.3 x -1"),
        (_qform_only(_set("pixdim", np.nan, 2)), r"voxel size \(pixdim\) is 0.9 x nan x 2.5"),
        (_qform_only(_set("quatern_b", 2.0)), r"qform quaternion \(2, .*is not a rotation"),
        (_qform_only(_set("quatern_c", np.nan)), "NaN or infinity|not a rotation"),
        (_set("dim", 30000, slice(1, 4)), "truncated or its header is wrong: 30000 x 30000 x 30000"),
        (_set("dim", -3, 2), "declares 9 x -3 x 5 voxels"),
        (_set("dim", 0, 0), "not a NIfTI header|0 dimensions"),
        (_set("datatype", 9999), "unknown data type code 9999"),
        (_set("datatype", 32), "complex"),
        (_set("datatype", 128), "colour volume"),
        (_set("vox_offset", np.nan), "vox_offset"),
        (_set("vox_offset", 1e9), "truncated"),
    ],
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_damaged_headers_are_refused_in_words(
    tmp_path: Path, edit: Callable[[nib.Nifti1Header], None], message: str, suffix: str
) -> None:
    path = nifti(tmp_path / f"bad{suffix}", edit=edit)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == 3


def test_a_bad_qform_does_not_matter_beside_a_good_sform(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "q.nii", edit=_set("quatern_b", 2.0)))
    np.testing.assert_allclose(scan.affine, phantom.affine("RAS"), atol=1e-5)


@pytest.mark.parametrize("keep", [1, 2, 10, 50, 200, -60, -9, -4])
def test_truncated_gzip(tmp_path: Path, keep: int) -> None:
    path = nifti(tmp_path / "cut.nii.gz", np.random.default_rng(0).integers(0, 900, (20, 20, 20)).astype(np.int16))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated|damaged"):
        read(path)


def test_flipped_bits_in_the_gzip_stream(tmp_path: Path) -> None:
    path = nifti(tmp_path / "flip.nii.gz", np.random.default_rng(0).integers(0, 900, (20, 20, 20)).astype(np.int16))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0x55
    path.write_bytes(damaged)
    with pytest.raises(InputError, match=r"damaged|truncated"):
        read(path)


@pytest.mark.parametrize("keep", [0, 3, 347, 348, 352, 600])
def test_truncated_plain_file(tmp_path: Path, keep: int) -> None:
    path = nifti(tmp_path / "cut.nii")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated|empty|content is"):
        read(path)


def test_more_than_fits_into_memory_is_said_before_it_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nifti(tmp_path / "big.nii")
    monkeypatch.setattr(payload, "available_memory", lambda: 1000)
    with pytest.raises(DeviceError, match="9 x 7 x 5 voxels need") as caught:
        read(path)
    assert caught.value.exit_code == 5


def test_a_4d_file_wants_a_channel(tmp_path: Path) -> None:
    values = np.stack([phantom.voxels(), phantom.voxels() + 1000, phantom.voxels() + 2000], axis=3)
    for suffix in (".nii", ".nii.gz", ".mgz"):
        path = tmp_path / f"four{suffix}"
        phantom.write_volume(path, values, phantom.affine("PIR"))
        with pytest.raises(InputError, match="holds 3 volumes") as caught:
            read(path)
        assert "--channel 0 to --channel 2" in caught.value.hint
        scan = read(path, channel=1)
        np.testing.assert_array_equal(scan.voxels[0], phantom.voxels() + 1000)
        assert "volume 1 of 3" in scan.provenance.notes[0]
        with pytest.raises(InputError, match="there is no --channel 3"):
            read(path, channel=3)
        with pytest.raises(UsageError, match="counted from 0"):
            read(path, channel=-1)
        mask = write_mask(phantom.segmentation(scan), tmp_path / "mask.nii.gz", overwrite=True)
        assert nib.load(mask).shape == phantom.SHAPE


def test_trailing_single_dimensions_are_no_dimensions(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "five.nii", phantom.voxels()[..., np.newaxis, np.newaxis]))
    assert scan.voxels.shape == (1, *phantom.SHAPE)
    assert read(tmp_path / "five.nii", channel=0).shape == phantom.SHAPE


def test_5d_is_refused(tmp_path: Path) -> None:
    path = nifti(tmp_path / "five.nii", np.zeros((4, 3, 2, 1, 3), np.int16))
    with pytest.raises(InputError, match=r"is 5-D \(4 x 3 x 2 x 1 x 3\)"):
        read(path)
    with pytest.raises(InputError, match="5-D"):
        read(path, channel=0)


def test_a_2d_nifti_is_one_slice(tmp_path: Path) -> None:
    scan = read(nifti(tmp_path / "flat.nii", phantom.voxels()[:, :, 0]))
    assert scan.shape == (9, 7, 1)


def test_rgb_is_refused(tmp_path: Path) -> None:
    values = np.zeros(phantom.SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(InputError, match="RGB"):
        read(nifti(tmp_path / "rgb.nii.gz", values))


def test_nan_voxels_become_the_smallest_value_and_that_is_said(tmp_path: Path) -> None:
    values = phantom.voxels().astype(np.float32)
    values[0, 0, 0], values[1, 0, 0], values[2, 0, 0] = np.nan, np.inf, -np.inf
    scan = read(nifti(tmp_path / "nan.nii.gz", values))
    assert scan.voxels[0, 0, 0, 0] == scan.voxels[0, 2, 0, 0] == 103
    assert scan.voxels[0, 1, 0, 0] == phantom.LANDMARK_VALUE
    assert "3 of 315 values were NaN or infinite" in scan.provenance.notes[0]


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="every value is NaN or infinite"):
        read(nifti(tmp_path / "nan.nii", np.full(phantom.SHAPE, np.nan, np.float32)))


def test_slope_and_intercept(tmp_path: Path) -> None:
    def scale(header: nib.Nifti1Header) -> None:
        header["scl_slope"], header["scl_inter"] = 2.5, -1024

    path = nifti(tmp_path / "hu.nii.gz", edit=scale)
    scan = read(path)
    np.testing.assert_allclose(scan.voxels[0], phantom.voxels() * 2.5 - 1024)
    np.testing.assert_allclose(scan.voxels[0], nib.load(path).get_fdata())


def test_big_endian_and_nifti2_and_pairs(tmp_path: Path) -> None:
    matrix = phantom.affine("PIR", angles=(0.1, 0.2, 0.3))
    big = nib.Nifti1Image(phantom.voxels().astype(">i2"), matrix, nib.Nifti1Header(endianness=">"))
    nib.save(big, tmp_path / "big.nii")
    nib.save(nib.Nifti2Image(phantom.voxels(), matrix), tmp_path / "two.nii.gz")
    nib.save(nib.Nifti1Pair(phantom.voxels(), matrix), tmp_path / "pair.img")
    for name in ("big.nii", "two.nii.gz", "pair.hdr", "pair.img"):
        scan = read(tmp_path / name)
        np.testing.assert_array_equal(scan.voxels[0], phantom.voxels())
        np.testing.assert_allclose(scan.affine, matrix, atol=1e-5)
        mask = phantom.segmentation(scan)
        back = nib.load(write_mask(mask, tmp_path / "mask.nii", overwrite=True))
        np.testing.assert_array_equal(back.get_fdata(), mask.mask)
        np.testing.assert_array_equal(back.affine, nib.load(tmp_path / name).affine)
    (tmp_path / "pair.img").unlink()
    with pytest.raises(InputError, match="half of a pair"):
        read(tmp_path / "pair.hdr")


def test_the_hash_is_that_of_the_file(tmp_path: Path) -> None:
    path = nifti(tmp_path / "scan.nii.gz")
    assert read(path).provenance.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    nib.save(nib.Nifti1Pair(phantom.voxels(), np.eye(4)), tmp_path / "pair.img")
    digests = [hashlib.sha256((tmp_path / f"pair{suffix}").read_bytes()).hexdigest() for suffix in (".hdr", ".img")]
    assert read(tmp_path / "pair.hdr").provenance.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_large_integers_are_said_to_be_rounded(tmp_path: Path) -> None:
    values = phantom.voxels().astype(np.int32)
    values[0, 0, 0] = (1 << 24) + 1
    assert "rounded to float32" in read(nifti(tmp_path / "int.nii", values)).provenance.notes[0]


def test_mgh_without_an_orientation_says_so(tmp_path: Path) -> None:
    path = phantom.write_volume(tmp_path / "old.mgh", phantom.voxels(), phantom.affine("RAS"))
    raw = bytearray(path.read_bytes())
    raw[28:30] = b"\0\0"
    path.write_bytes(raw)
    scan = read(path)
    assert "goodRASFlag" in scan.provenance.notes[0]
    np.testing.assert_allclose(scan.affine, nib.load(path).affine)


@pytest.mark.parametrize("keep", [100, 284, 500])
def test_truncated_mgh(tmp_path: Path, keep: int) -> None:
    path = phantom.write_volume(tmp_path / "cut.mgh", phantom.voxels(), phantom.affine("RAS"))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"truncated|content is"):
        read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("slab", [1, 2 * 5 * 6 * 2, 2 * 5 * 6 * 3 + 1, 1 << 20])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "u1"])
def test_reading_slab_by_slab_is_reading_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, slab: int, dtype: str
) -> None:
    """One slice at a time, several, a last one that is smaller, and all; of a volume and of each of several."""
    monkeypatch.setattr(payload, "SLAB", slab)
    stored = np.random.default_rng(0).integers(0, 250, (5, 6, 7, 3)).astype(dtype)
    path = tmp_path / f"four{suffix}"
    nib.Nifti1Image(stored, np.eye(4)).to_filename(path)
    for volume in range(3):
        np.testing.assert_array_equal(read_file(path, ReadOptions(channel=volume)).voxels[0], stored[..., volume])


def test_what_is_damaged_behind_the_chosen_volume_is_told(tmp_path: Path) -> None:
    """The checksum at the end of the stream covers the volumes that nobody asked for."""
    path = tmp_path / "four.nii.gz"
    nib.Nifti1Image(np.random.default_rng(0).integers(0, 250, (20, 20, 20, 3)).astype("u1"), np.eye(4)).to_filename(
        path
    )
    damaged = bytearray(path.read_bytes())
    damaged[-7] ^= 0xFF
    path.write_bytes(damaged)
    with pytest.raises(InputError, match="is damaged"):
        read_file(path, ReadOptions(channel=0))


def test_several_large_integers_in_different_slabs_are_one_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(payload, "SLAB", 1)
    stored = np.zeros((2, 2, 3), np.int32)
    stored[0, 0] = [1 << 25, -(1 << 26), 7]
    nib.Nifti1Image(stored, np.eye(4)).to_filename(tmp_path / "large.nii")
    notes = read_file(tmp_path / "large.nii", ReadOptions()).provenance.notes
    assert [note for note in notes if "rounded" in note] == [
        f"values up to {1 << 26} were rounded to float32 (24 significant bits)"
    ]
