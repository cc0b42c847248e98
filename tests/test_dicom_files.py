"""Which files are read: folders, zips, DICOMDIR, single files, series, and what is no scan."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path

import numpy as np
import phantom
import pytest
from dicom_phantom import SERIES_UID, picture, save, series, write
from pydicom.fileset import FileSet

from medseg_cli.errors import InputError
from medseg_cli.readers import dicom
from medseg_cli.readers.dicom import files
from medseg_cli.readers.options import ReadOptions

AFFINE = phantom.affine("LPS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The phantom as a series of five files."""
    return write(series(phantom.voxels(), AFFINE), tmp_path / "series")


def zipped(folder: Path, path: Path, names: dict[str, str] | None = None) -> Path:
    """A zip of a folder's files; `names` renames members."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, (names or {}).get(file.name, f"scan/{file.name}"))
    return path


def test_other_files_are_passed_over(folder: Path) -> None:
    (folder / "README.txt").write_text("not a scan")
    (folder / ".DS_Store").write_bytes(b"\0\0\0\1Bud1" * 40)
    (folder / "._0000.dcm").write_bytes(b"\0\5\x16\7" * 40)
    (folder / "sub").mkdir()
    (folder / "0000.dcm").rename(folder / "sub" / "no-suffix")
    assert dicom.read(folder).shape == phantom.SHAPE


def test_hash_is_over_the_files_in_slice_order(folder: Path) -> None:
    by_height = sorted(folder.iterdir(), key=lambda path: dicom.read(path).affine[2, 3])
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in by_height]
    provenance = dicom.read(folder).provenance
    assert provenance.sha256 == hashlib.sha256("".join(digests).encode()).hexdigest()
    assert provenance.series_uid == SERIES_UID
    assert provenance.format == "dicom"
    assert dicom.read(by_height[0]).provenance.sha256 == digests[0]


def test_one_file_is_read_alone_and_says_so(folder: Path) -> None:
    scan = dicom.read(folder / "0000.dcm")
    assert scan.shape == (9, 7, 1)
    assert any("name its folder" in note for note in scan.provenance.notes)
    alone = save(series(phantom.voxels(), AFFINE)[0], folder.parent / "alone" / "one.dcm")
    assert not any("name its folder" in note for note in dicom.read(alone).provenance.notes)


def test_zip(folder: Path, tmp_path: Path) -> None:
    direct = dicom.read(folder)
    scan = dicom.read(zipped(folder, tmp_path / "scan.zip"))
    assert np.array_equal(scan.voxels, direct.voxels)
    assert np.array_equal(scan.affine, direct.affine)
    assert scan.provenance.sha256 == direct.provenance.sha256
    assert scan.provenance.path == tmp_path / "scan.zip"


def test_hostile_member_names_write_nothing_outside(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work" / "deep"
    work.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(work))
    names = {"0000.dcm": "../../evil.dcm", "0856.dcm": "/etc/evil.dcm", "0703.dcm": "C:\\evil.dcm"}
    archive = zipped(folder, tmp_path / "evil.zip", names)
    before = set(tmp_path.rglob("*"))
    assert dicom.read(archive).shape == phantom.SHAPE
    assert set(tmp_path.rglob("*")) == before
    assert not Path("/etc/evil.dcm").exists()


def test_zip_bomb_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "HARMLESS_ZIP_BYTES", 2**22)
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as bundle, bundle.open("a.dcm", "w") as member:
        for _ in range(5):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match="zip bomb"):
        dicom.read(archive)


def test_zip_that_lies_about_its_size(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit counts what comes out, not what the directory of the archive says."""
    monkeypatch.setattr(files, "check_size", lambda archive, members, folder: 1500)
    with pytest.raises(InputError, match="more than its headers say"):
        dicom.read(zipped(folder, tmp_path / "scan.zip"))


def test_too_many_members(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ZIP_FILES", 4)
    with pytest.raises(InputError, match="5 files in one zip"):
        dicom.read(zipped(folder, tmp_path / "scan.zip"))


def test_damaged_zips(folder: Path, tmp_path: Path) -> None:
    whole = zipped(folder, tmp_path / "scan.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    spoilt = bytearray(whole)
    spoilt[400:600] = bytes(200)
    (tmp_path / "spoilt.zip").write_bytes(spoilt)
    with zipfile.ZipFile(tmp_path / "text.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    for name, message in (("cut", "not a zip"), ("spoilt", "damaged zip"), ("text", "no DICOM files in this zip")):
        with pytest.raises(InputError, match=message):
            dicom.read(tmp_path / f"{name}.zip")


def test_dicomdir(folder: Path, tmp_path: Path) -> None:
    medium = FileSet()
    for path in sorted(folder.iterdir()):
        medium.add(path)
    medium.write(tmp_path / "medium")
    direct = dicom.read(folder)
    scan = dicom.read(tmp_path / "medium" / "DICOMDIR")
    assert np.array_equal(scan.voxels, direct.voxels)
    assert np.array_equal(dicom.read(tmp_path / "medium").voxels, direct.voxels)


def test_dicomdir_on_a_medium_with_files_missing(folder: Path, tmp_path: Path) -> None:
    medium = FileSet()
    for path in sorted(folder.iterdir()):
        medium.add(path)
    medium.write(tmp_path / "medium")
    images = [path for path in (tmp_path / "medium").rglob("*") if path.is_file() and path.name != "DICOMDIR"]
    images[0].unlink()
    with pytest.raises(InputError, match="named by the DICOMDIR, not on the medium"):
        dicom.read(tmp_path / "medium" / "DICOMDIR")


def test_dicomdir_cannot_leave_its_folder(folder: Path, tmp_path: Path) -> None:
    medium = FileSet()
    medium.add(folder / "0000.dcm")
    medium.write(tmp_path / "medium")
    path = tmp_path / "medium" / "DICOMDIR"
    data = path.read_bytes()
    assert b"PT000000" in data
    path.write_bytes(data.replace(b"PT000000", b"..      "))
    with pytest.raises(InputError, match="outside its own folder"):
        dicom.read(path)


def test_two_series_are_listed_and_picked(tmp_path: Path) -> None:
    write(series(phantom.voxels(), AFFINE), tmp_path, "a-")
    other = series(phantom.voxels() + 5, AFFINE, SeriesInstanceUID="1.2.3.4", SeriesNumber=1, Modality="MR")
    write(other, tmp_path, "b-")
    with pytest.raises(InputError, match="ambiguous, 2 series") as caught:
        dicom.read(tmp_path)
    assert "1: MR, volume, 9x7x5, phantom, 1.2.3.4\n2: CT, volume, 9x7x5, phantom" in caught.value.hint
    for choice, low in (("1", 105), ("1.2.3.4", 105), ("2", 100), (SERIES_UID, 100)):
        assert dicom.read(tmp_path, ReadOptions(series=choice)).voxels.min() == low
    for wrong in ("0", "3", "9.9", "-1"):
        with pytest.raises(InputError, match=f"no series '{wrong}'"):
            dicom.read(tmp_path, ReadOptions(series=wrong))
    assert [(one.number, one.modality, one.slices) for one in dicom.list_series(tmp_path)] == [
        (1, "MR", 5),
        (2, "CT", 5),
    ]


def test_echoes_of_one_series_are_told_apart(tmp_path: Path) -> None:
    for echo in (1, 2):
        write(series(phantom.voxels() + 1000 * echo, AFFINE, EchoNumbers=echo, Modality="MR"), tmp_path, f"{echo}-")
    with pytest.raises(InputError, match="one series holds 2 stacks") as caught:
        dicom.read(tmp_path)
    assert "EchoNumbers 1" in caught.value.hint
    assert dicom.read(tmp_path, ReadOptions(series="2")).voxels.min() == 2100
    assert dicom.read(tmp_path, ReadOptions(channel=0)).voxels.min() == 1100


def test_a_localizer_does_not_make_a_folder_ambiguous(folder: Path) -> None:
    scout = series(phantom.voxels((9, 7, 1)), phantom.affine("PIR"), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(scout, folder, "scout-")
    assert dicom.read(folder).shape == phantom.SHAPE
    assert [one.kind for one in dicom.list_series(folder)] == ["volume", "localizer"]
    alone = dicom.read(folder, ReadOptions(series="2"))
    assert any("localizer" in note for note in alone.provenance.notes)


@pytest.mark.parametrize(
    ("modality", "sop_class", "words"),
    [
        ("SEG", "1.2.840.10008.5.1.4.1.1.66.4", "it is a mask, not a scan"),
        ("RTSTRUCT", "1.2.840.10008.5.1.4.1.1.481.3", "contours"),
        ("SR", "1.2.840.10008.5.1.4.1.1.88.11", "structured report"),
        ("PR", "1.2.840.10008.5.1.4.1.1.11.1", "presentation state"),
    ],
)
def test_what_is_no_scan_is_named(modality: str, sop_class: str, words: str, folder: Path) -> None:
    other = picture(phantom.voxels()[:, :, 0])
    other.Modality, other.SOPClassUID, other.SeriesInstanceUID = modality, sop_class, "1.2.3.4"
    path = save(other, folder / "other.dcm")
    with pytest.raises(InputError, match=words):
        dicom.read(path)
    assert dicom.read(folder).shape == phantom.SHAPE, "it does not make the folder ambiguous"
    with pytest.raises(InputError, match=words):
        dicom.read(folder, ReadOptions(series="1.2.3.4"))


def test_siemens_mosaic_is_refused(tmp_path: Path) -> None:
    mosaic = picture(phantom.voxels()[:, :, 0])
    mosaic.Modality, mosaic.ImageType = "MR", ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    with pytest.raises(InputError, match="Siemens mosaic"):
        dicom.read(save(mosaic, tmp_path / "a.dcm"))


def test_empty_and_foreign_folders(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the folder is empty"):
        dicom.read(tmp_path)
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(InputError, match="none of its 1 files is DICOM"):
        dicom.read(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        dicom.read(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "empty"), (b"hello" * 100, "not DICOM"), (b"\0" * 128 + b"DICM", "without an image|no image|damaged")],
)
def test_a_damaged_file_in_a_series_is_named(content: bytes, reason: str, folder: Path) -> None:
    """It may be a slice: reading on without it would lose a part of the patient."""
    (folder / "0703.dcm").write_bytes(content)
    with pytest.raises(InputError, match=reason) as caught:
        dicom.read(folder / "0703.dcm")
    assert "0703.dcm" in caught.value.message
    if b"DICM" not in content:
        with pytest.raises(InputError, match=r"1 DICOM file\(s\) cannot be used: 0703\.dcm"):
            dicom.read(folder)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(folder: Path) -> None:
    (folder / "0703.dcm").chmod(0)
    with pytest.raises(InputError, match=r"0703\.dcm.*permission"):
        dicom.read(folder)


def test_a_channel_of_a_single_volume(folder: Path) -> None:
    assert dicom.read(folder, ReadOptions(channel=0)).shape == phantom.SHAPE
    with pytest.raises(InputError, match="there is no --channel 1"):
        dicom.read(folder, ReadOptions(channel=1))


def test_links_that_lead_nowhere_and_pipes(folder: Path) -> None:
    """A dangling link may stand for a slice; a pipe must not make the reader wait."""
    os.mkfifo(folder / "pipe")
    assert dicom.read(folder).shape == phantom.SHAPE
    (folder / "slice").symlink_to(folder / "gone")
    with pytest.raises(InputError, match="slice: a link that leads nowhere"):
        dicom.read(folder)


def test_files_without_preamble(folder: Path) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[132:])
    assert dicom.is_dicom(folder / "0000.dcm")
    assert dicom.read(folder).shape == phantom.SHAPE


def test_series_without_uids(tmp_path: Path) -> None:
    slices = series(phantom.voxels(), AFFINE)
    for dataset in slices:
        del dataset.SeriesInstanceUID
    assert dicom.read(write(slices, tmp_path)).shape == phantom.SHAPE
