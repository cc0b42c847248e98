"""NRRD, MetaImage and GIPL, above all what SimpleITK alone would read wrongly without a word."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import zlib
from pathlib import Path

import numpy as np
import phantom
import pytest
import SimpleITK

from medseg_cli.errors import DeviceError, InputError
from medseg_cli.readers import ReadOptions, payload
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan
from medseg_cli.writers.masks import write_mask

VALUES = phantom.voxels((4, 3, 2))
RAW = VALUES.tobytes(order="F")


def read(path: Path, **options: object) -> Scan:
    return read_file(path, ReadOptions(**options))


def nrrd(path: Path, raw: bytes = RAW, **fields: str | None) -> Path:
    """A NRRD of `VALUES` with a header typed by hand; fields are overridden, added, or left out with None."""
    lines = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "4 3 2",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(10,20,30)",
    } | {key.replace("_", " "): value for key, value in fields.items()}
    header = "".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(b"NRRD0004\n" + header.encode() + b"\n" + raw)
    return path


def mha(path: Path, raw: bytes = RAW, **fields: str | None) -> Path:
    """A MetaImage of `VALUES` with a header typed by hand; fields are overridden, added, or left out with None."""
    lines = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "10 20 30",
        "ElementSpacing": "1 2 3",
        "DimSize": "4 3 2",
    } | fields
    lines |= {"ElementType": fields.get("ElementType", "MET_SHORT")}
    lines |= {"ElementDataFile": fields.get("ElementDataFile", "LOCAL")}
    last = lines.pop("ElementDataFile")
    header = "".join(f"{key} = {value}\n" for key, value in lines.items() if value is not None)
    path.write_bytes(header.encode() + f"ElementDataFile = {last}\n".encode() + raw)
    return path


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1)),
        ("LPS", (-1, -1)),
        ("right-anterior-superior", (1, 1)),
        ("RAS", (1, 1)),
        ("left-anterior-superior", (-1, 1)),
    ],
)
def test_nrrd_spaces(tmp_path: Path, space: str, signs: tuple[int, int]) -> None:
    scan = read(nrrd(tmp_path / "s.nrrd", space=space))
    x, y = signs
    expected = np.array([[x, 0, 0, 10 * x], [0, 2 * y, 0, 20 * y], [0, 0, 3, 30], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(scan.affine, expected)
    np.testing.assert_array_equal(scan.voxels[0], VALUES)
    assert scan.provenance.notes == ()


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed"])
def test_nrrd_spaces_without_anatomy_are_said(tmp_path: Path, space: str) -> None:
    (note,) = read(nrrd(tmp_path / "s.nrrd", space=space)).provenance.notes
    assert "names no anatomy" in note


def test_nrrd_with_voxel_sizes_only(tmp_path: Path) -> None:
    fields = {"space": None, "space_directions": None, "space_origin": None, "kinds": None}
    scan = read(nrrd(tmp_path / "s.nrrd", **fields | {"spacings": "1 2 3"}))
    assert scan.spacing == (1, 2, 3)
    assert "no anatomical space" in scan.provenance.notes[0]


def test_nrrd_space_with_time_is_refused_because_itk_leaves_its_signs_alone(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="time axis"):
        read(nrrd(tmp_path / "s.nrrd", space="right-anterior-superior-time"))


@pytest.mark.parametrize("directions", ["(1,0,0) (0.001,2,0) (0,0,3)"])
def test_slight_shear_is_straightened_and_the_mask_keeps_the_files_own(tmp_path: Path, directions: str) -> None:
    path = nrrd(tmp_path / "s.nrrd", space_directions=directions)
    scan = read(path)
    assert "straightened" in scan.provenance.notes[0]
    mask = SimpleITK.ReadImage(str(write_mask(phantom.segmentation(scan), tmp_path / "mask.nrrd")))
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-15)
    assert mask.GetOrigin() == image.GetOrigin()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"space_directions": "(1,0,0) (0.5,2,0) (0,0,3)"}, "right angles"),
        ({"space_directions": "(1,0,0) (1,0,0) (0,0,3)"}, "cannot be decoded|right angles"),
        ({"space_directions": "(0,0,0) (0,1,0) (0,0,3)"}, "cannot be decoded|voxel size"),
        ({"space_directions": "(nan,nan,nan) (0,1,0) (0,0,3)"}, "NaN or infinity"),
        ({"space_origin": "(nan,0,0)"}, "NaN or infinity"),
        ({"space": None, "space_directions": None, "space_origin": None, "spacings": "1 0 1"}, "voxel size"),
        ({"space": None, "space_directions": None, "space_origin": None, "spacings": "1 -2 1"}, "voxel size"),
        ({"sizes": "4 3 200"}, "truncated"),
        ({"sizes": "99999 99999 99999"}, "truncated"),
        ({"sizes": "4 3"}, "cannot be decoded"),
        ({"type": "block"}, "cannot be decoded"),
        ({"data_file": "elsewhere.raw"}, "does not exist"),
        ({"data_file": "slice%03d.raw 1 2 1"}, "pattern"),
    ],
)
def test_bad_nrrd_is_refused_in_words(tmp_path: Path, fields: dict[str, str | None], message: str) -> None:
    path = nrrd(tmp_path / "bad.nrrd", **fields)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert "\n" not in caught.value.message


def test_truncated_nrrd(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated"):
        read(nrrd(tmp_path / "cut.nrrd", RAW[:-10]))
    path = nrrd(tmp_path / "cutgz.nrrd", gzip.compress(RAW)[:-12], encoding="gzip")
    with pytest.raises(InputError, match="packed data end early"):
        read(path)


def test_detached_nrrd_hashes_both_files(tmp_path: Path) -> None:
    (tmp_path / "data.raw").write_bytes(RAW)
    path = nrrd(tmp_path / "s.nhdr", b"", data_file="data.raw")
    scan = read(path)
    np.testing.assert_array_equal(scan.voxels[0], VALUES)
    digests = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, tmp_path / "data.raw"))
    assert scan.provenance.sha256 == hashlib.sha256(digests.encode()).hexdigest()


@pytest.mark.parametrize("order", ["first", "last"])
def test_a_list_of_volumes_in_a_nrrd_wants_a_channel(tmp_path: Path, order: str) -> None:
    both = np.stack([VALUES, VALUES + 5000])
    directions = "(1,0,0) (0,2,0) (0,0,3)"
    if order == "first":
        raw = both.tobytes(order="F")
        fields = {"sizes": "2 4 3 2", "space_directions": f"none {directions}", "kinds": "list domain domain domain"}
    else:
        raw = VALUES.tobytes(order="F") + (VALUES + 5000).astype(np.int16).tobytes(order="F")
        fields = {"sizes": "4 3 2 2", "space_directions": f"{directions} none", "kinds": "domain domain domain list"}
    path = nrrd(tmp_path / "list.nrrd", raw, dimension="4", **fields)
    with pytest.raises(InputError, match="holds 2 volumes"):
        read(path)
    np.testing.assert_array_equal(read(path, channel=1).voxels[0], VALUES + 5000)


def test_metaimage_plain_compressed_and_detached(tmp_path: Path) -> None:
    expected = np.array([[-1, 0, 0, -10], [0, -2, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
    SimpleITK.WriteImage(phantom.sitk_image(VALUES, expected), str(tmp_path / "packed.mha"), useCompression=True)
    SimpleITK.WriteImage(phantom.sitk_image(VALUES, expected), str(tmp_path / "pair.mhd"))
    for path in (mha(tmp_path / "typed.mha"), tmp_path / "packed.mha", tmp_path / "pair.mhd"):
        scan = read(path)
        np.testing.assert_array_equal(scan.voxels[0], VALUES)
        np.testing.assert_allclose(scan.affine, expected)
    (tmp_path / "pair.raw").unlink()
    with pytest.raises(InputError, match=r"names its data file .*pair.raw, which does not exist"):
        read(tmp_path / "pair.mhd")


def test_metaimage_2d_and_4d(tmp_path: Path) -> None:
    flat = mha(
        tmp_path / "flat.mha", NDims="2", DimSize="4 6", TransformMatrix="1 0 0 1", Offset="5 6", ElementSpacing="2 3"
    )
    scan = read(flat)
    assert scan.shape == (4, 6, 1)
    np.testing.assert_allclose(scan.affine, [[-2, 0, 0, -5], [0, -3, 0, -6], [0, 0, 1, 0], [0, 0, 0, 1]])
    four = mha(
        tmp_path / "four.mha",
        RAW + (VALUES + 7).astype(np.int16).tobytes(order="F"),
        NDims="4",
        DimSize="4 3 2 2",
        TransformMatrix="1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 1",
        Offset="0 0 0 0",
        ElementSpacing="1 2 3 1",
    )
    with pytest.raises(InputError, match="holds 2 volumes"):
        read(four)
    np.testing.assert_array_equal(read(four, channel=1).voxels[0], VALUES + 7)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Offset": "nan 1 1"}, "Offset holds NaN"),
        ({"TransformMatrix": "1 0 0 0 inf 0 0 0 1"}, "TransformMatrix holds NaN"),
        ({"TransformMatrix": "1 0.3 0 0 1 0 0 0 1"}, "right angles"),
        ({"TransformMatrix": "0 0 0 0 1 0 0 0 1"}, "cannot be decoded|voxel size"),
        ({"ElementSpacing": "0 1 1"}, r"voxel size \(ElementSpacing\) is 0 1 1"),
        ({"ElementSpacing": "-1 1 1"}, r"voxel size \(ElementSpacing\) is -1 1 1"),
        ({"ElementSpacing": "nan 1 1"}, r"voxel size \(ElementSpacing\) is nan"),
        ({"DimSize": None}, "has no DimSize"),
        ({"DimSize": "4 3"}, "NDims is 3, DimSize is 4 3"),
        ({"DimSize": "4 3 0"}, "DimSize is 4 3 0"),
        ({"DimSize": "40000 40000 40000"}, "truncated"),
        ({"ElementNumberOfChannels": "3", "DimSize": "2 2 2"}, "holds 3 volumes"),
        ({"ElementType": "MET_NONSENSE"}, "cannot be decoded"),
        ({"CompressedData": "True", "CompressedDataSize": "4000"}, "truncated"),
        ({"CompressedData": "True", "CompressedDataSize": "many"}, "truncated"),
        ({"CompressedData": "True"}, "without a CompressedDataSize"),
        ({"CompressedData": "True", "CompressedDataSize": "48"}, "damaged"),
    ],
)
def test_bad_metaimage_is_refused_in_words(tmp_path: Path, fields: dict[str, str | None], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read(mha(tmp_path / "bad.mha", **fields))
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".gipl.gz"])
def test_a_flipped_bit_in_packed_data_is_never_read_as_voxels(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 900, (20, 20, 20)).astype(np.int16)
    path = phantom.write_volume(tmp_path / f"whole{suffix}", noise, phantom.affine("LPS"))
    whole = path.read_bytes()
    read(path)
    for position in (-2000, -500, -30, -2):
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"damaged|truncated|cannot be decoded"):
            read(path)
    path.write_bytes(whole[:-40])
    with pytest.raises(InputError, match=r"damaged|truncated|cannot be decoded"):
        read(path)


def test_packed_data_that_hold_less_than_declared(tmp_path: Path) -> None:
    packed = zlib.compress(RAW[:-10])
    with pytest.raises(InputError, match="48 bytes declared, 38 unpacked"):
        read(mha(tmp_path / "s.mha", packed, CompressedData="True", CompressedDataSize=str(len(packed))))
    whole = zlib.compress(RAW)
    with pytest.raises(InputError, match="packed data end early"):
        read(mha(tmp_path / "t.mha", whole, CompressedData="True", CompressedDataSize=str(len(whole) - 6)))


def test_bzip2_nrrd_and_text_nrrd(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="packed with bzip2, which is not read"):
        read(nrrd(tmp_path / "b.nrrd", bz2.compress(RAW), encoding="bzip2"))
    text = " ".join(str(value) for value in VALUES.ravel(order="F")).encode()
    np.testing.assert_array_equal(read(nrrd(tmp_path / "t.nrrd", text, encoding="ascii")).voxels[0], VALUES)


def test_truncated_metaimage(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="truncated"):
        read(mha(tmp_path / "cut.mha", RAW[:-10]))


def test_more_than_fits_into_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = nrrd(tmp_path / "s.nrrd")
    monkeypatch.setattr(payload, "available_memory", lambda: 100)
    with pytest.raises(DeviceError, match="of memory"):
        read(path)


@pytest.mark.parametrize("suffix", [".gipl", ".gipl.gz"])
def test_gipl_states_no_directions_and_that_is_said(tmp_path: Path, suffix: str) -> None:
    matrix = np.array([[-1.5, 0, 0, -7], [0, -2, 0, -8], [0, 0, 3, 9], [0, 0, 0, 1.0]])
    path = tmp_path / f"s{suffix}"
    SimpleITK.WriteImage(phantom.sitk_image(VALUES, matrix), str(path))
    scan = read(path)
    np.testing.assert_array_equal(scan.voxels[0], VALUES)
    np.testing.assert_allclose(scan.affine, matrix)
    assert "GIPL states no directions" in scan.provenance.notes[0]


def test_complex_values_are_refused(tmp_path: Path) -> None:
    image = SimpleITK.GetImageFromArray(np.ones((2, 3, 4), np.complex64))
    SimpleITK.WriteImage(image, str(tmp_path / "c.nrrd"))
    with pytest.raises(InputError, match="complex"):
        read(tmp_path / "c.nrrd")
