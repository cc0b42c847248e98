"""Formats of a segmentation: each says the same voxels in the same place, and one run writes several or none."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import nibabel as nib
import nrrd
import numpy as np
import phantom
import pytest
import region_growing
import SimpleITK
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medseg_cli import pipelines
from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import ReadOptions
from medseg_cli.readers.files import read_file
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import formats, members, outputs
from medseg_cli.writers.formats import FORMATS, Choices

VOLUMES = ("nifti", "nrrd", "seg-nrrd", "mha", "mgz", "npz")
BESIDE = tuple(name for name, each in FORMATS.items() if each.needs in ("any", "volume") and each.content != "maps")
"""Formats that any volume can be written in."""
COARSE = ("nifti", "mgz")
"""Formats whose headers count in float32."""
LESION = "4147007"
LIVER = "10200004"


def three_labels(dtype: type = np.uint8) -> Segmentation:
    """Two structures with codes and one that is empty, on an oblique grid."""
    plain = phantom.segmentation(phantom.scan("SRP", angles=(0.3, -0.2, 0.1)), dtype)
    first, second = (label.value for label in plain.labels)
    labels = (
        Label(first, "Left lobe of liver", (221, 130, 101), LIVER),
        Label(second, 'a "mass"/lesion ~^|', (0, 128, 255), LESION),
        Label(7, "gone", (1, 2, 3)),
    )
    return Segmentation(plain.mask, labels, plain.scan)


def write(name: str, segmentation: Segmentation, folder: Path, **choices: Any) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"mask{FORMATS[name].suffix}"
    formats.write(FORMATS[name], segmentation, path, choices=Choices(**choices))
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    codes=st.sampled_from(phantom.ORIENTATIONS),
    angles=st.tuples(*[st.floats(-0.7, 0.7)] * 3),
    spacing=st.tuples(*[st.floats(0.05, 20.0)] * 3),
    origin=st.tuples(*[st.floats(-1000.0, 1000.0)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    values=st.lists(st.integers(1, 65535), min_size=1, max_size=4, unique=True),
    seed=st.integers(0, 1000),
)
@example("LAS", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (2, 3, 4), [65535], 0)
def test_every_voxel_survives_every_volume_format_in_its_place(
    tmp_path: Path,
    codes: str,
    angles: tuple[float, float, float],
    spacing: tuple[float, float, float],
    origin: tuple[float, float, float],
    shape: tuple[int, int, int],
    values: list[int],
    seed: int,
) -> None:
    matrix = phantom.affine(codes, spacing, origin, angles)
    mask = np.random.default_rng(seed).choice(np.array([0, *values], np.uint16), shape)
    scan = Scan(np.zeros((1, *shape), np.float32), matrix, Provenance(Path("x"), "nifti", "0" * 64))
    segmentation = Segmentation(mask, tuple(Label(value, f"s{value}") for value in values), scan)
    for name in VOLUMES:
        path = tmp_path / f"mask{FORMATS[name].suffix}"
        formats.write(FORMATS[name], segmentation, path, overwrite=True)
        back = read_file(path, ReadOptions())
        np.testing.assert_array_equal(back.voxels[0], mask, err_msg=name)
        atol = 1e-6 * np.abs(matrix).max() if name in COARSE else 1e-9 * np.abs(matrix).max()
        np.testing.assert_allclose(back.affine, matrix, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_slicer_segmentation_as_pynrrd_and_simpleitk_read_it(tmp_path: Path, dtype: type) -> None:
    segmentation = three_labels(dtype)
    path = write("seg-nrrd", segmentation, tmp_path)
    assert path.name == "mask.seg.nrrd"
    voxels, header = nrrd.read(str(path))
    np.testing.assert_array_equal(voxels, segmentation.mask)
    assert voxels.dtype == dtype
    lps = RAS_TO_LPS @ segmentation.scan.affine
    assert header["space"] == "left-posterior-superior"
    np.testing.assert_allclose(header["space directions"].T, lps[:3, :3], rtol=1e-12)
    np.testing.assert_allclose(header["space origin"], lps[:3, 3], rtol=1e-12)
    assert header["kinds"] == ["domain"] * 3
    second = segmentation.labels[1].value
    assert [header[f"Segment{n}_ID"] for n in range(3)] == ["Segment_1", f"Segment_{second}", "Segment_7"]
    assert [header[f"Segment{n}_LabelValue"] for n in range(3)] == ["1", str(second), "7"]
    assert [header[f"Segment{n}_Layer"] for n in range(3)] == ["0"] * 3
    assert header["Segment0_Name"] == "Left lobe of liver"
    assert header["Segment2_Extent"] == "0 -1 0 -1 0 -1", "an empty segment"
    for number, value in ((0, 1), (1, second)):
        ijk = np.argwhere(voxels == value)
        first, last = ijk.min(0), ijk.max(0)
        expected = " ".join(f"{a} {b}" for a, b in zip(first, last, strict=True))
        assert header[f"Segment{number}_Extent"] == expected
    color = [float(part) * 255 for part in header["Segment0_Color"].split()]
    np.testing.assert_allclose(color, (221, 130, 101), atol=1e-3)
    # As Slicer's own list of terms has them.
    assert "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~" in header["Segment0_Tags"]
    assert "~SCT^49755003^Morphologically Altered Structure~SCT^4147007^Mass~" in header["Segment1_Tags"]
    assert "~SCT^85756007^Tissue~SCT^85756007^Tissue~" in header["Segment2_Tags"]
    for number in range(3):
        tags = dict(part.partition(":")[::2] for part in header[f"Segment{number}_Tags"].split("|") if part)
        assert len(tags["TerminologyEntry"].split("~")) == 7, "category, type, modifier, region... of Slicer's form"
    image = SimpleITK.ReadImage(str(path))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image).T, segmentation.mask)
    assert image.GetMetaData("Segment1_Name") == 'a "mass"/lesion ~^|'


def test_names_and_colours_stand_in_the_nifti_file(tmp_path: Path) -> None:
    segmentation = three_labels()
    (extension,) = nib.load(write("nifti", segmentation, tmp_path)).header.extensions
    assert extension.get_code() == 30, "Caret's"
    root = ElementTree.fromstring(extension.content.rstrip(b"\0"))
    assert root.tag == "CaretExtension"
    rows = {int(row.get("Key")): row for row in root.findall("VolumeInformation/LabelTable/Label")}
    assert {key: row.text for key, row in rows.items()} == {
        0: "background",
        **{label.value: label.name for label in segmentation.labels},
    }
    assert [round(float(rows[1].get(part)) * 255) for part in ("Red", "Green", "Blue", "Alpha")] == [221, 130, 101, 255]
    assert root.find("VolumeInformation/VolumeType").text == "Label"


def test_the_scans_own_extensions_do_not_go_into_the_mask(tmp_path: Path) -> None:
    image = nib.Nifti1Image(phantom.voxels(), np.eye(4))
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, 1970"))
    nib.save(image, tmp_path / "scan.nii")
    scan = read_file(tmp_path / "scan.nii", ReadOptions())
    segmentation = phantom.segmentation(scan)
    formats.write(FORMATS["nifti"], segmentation, tmp_path / "mask.nii")
    assert b"Jane" not in (tmp_path / "mask.nii").read_bytes()
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "mask.nii").dataobj), segmentation.mask)


def test_label_tables(tmp_path: Path) -> None:
    segmentation = three_labels(np.uint16)
    snap = write("labels-itksnap", segmentation, tmp_path).read_text().splitlines()
    rows = [line for line in snap if not line.startswith("#")]
    assert [line.split(maxsplit=7)[0] for line in rows] == ["0", "1", "300", "7"]
    assert rows[1].split(maxsplit=7) == ["1", "221", "130", "101", "1", "1", "1", '"Left lobe of liver"']
    assert rows[2].endswith("\"a 'mass'/lesion ~^|\"")
    slicer = write("labels-slicer", segmentation, tmp_path).read_text().splitlines()
    rows = [line.split(" ") for line in slicer if not line.startswith("#")]
    assert rows[0] == ["0", "Background", "0", "0", "0", "0"]
    assert rows[1] == ["1", "Left_lobe_of_liver", "221", "130", "101", "255"]
    assert {len(row) for row in rows} == {6}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mask.ctbl", "mask.label.txt"]


def test_an_archive_without_pickle_that_medseg_reads_too(tmp_path: Path) -> None:
    segmentation = three_labels(np.uint16)
    path = write("npz", segmentation, tmp_path)
    with np.load(path, allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["segs"].transpose(2, 1, 0), segmentation.mask)
        np.testing.assert_array_equal(archive["affine"], segmentation.scan.affine)
        np.testing.assert_allclose(archive["spacing"], segmentation.scan.spacing)
        assert archive["values"].tolist() == [1, 300, 7]
        assert archive["names"].tolist() == [label.name for label in segmentation.labels]
        assert archive["colors"][0].tolist() == [221, 130, 101]
        assert archive["snomed"].tolist() == [LIVER, LESION, ""]
        lps = archive["direction"].reshape(3, 3) * archive["spacing"]
        np.testing.assert_allclose(lps, (RAS_TO_LPS @ segmentation.scan.affine)[:3, :3], atol=1e-12)
    before = path.read_bytes()
    formats.write(FORMATS["npz"], segmentation, path, overwrite=True)
    assert path.read_bytes() == before, "the same mask is the same bytes"


def test_one_file_per_structure(tmp_path: Path) -> None:
    segmentation = three_labels(np.uint16)
    folder = write("nifti-split", segmentation, tmp_path)
    found = {path.name: nib.load(path) for path in folder.iterdir()}
    assert set(found) == {"Left_lobe_of_liver.nii.gz", "a__mass__lesion.nii.gz", "gone.nii.gz"}
    for name, value in (("Left_lobe_of_liver", 1), ("a__mass__lesion", 300), ("gone", 7)):
        image = found[f"{name}.nii.gz"]
        np.testing.assert_array_equal(np.asarray(image.dataobj), segmentation.mask == value)
        assert image.get_data_dtype() == np.uint8
        np.testing.assert_allclose(image.affine, segmentation.scan.affine, atol=1e-5)


@given(words=st.lists(st.text(max_size=120), min_size=1, max_size=6))
@example(words=["Liver", "liver", "LIVER_2", "..", "", "con", "a/b", "a\\b", "a_b", "x" * 300, "NUL.txt"])
def test_names_of_structures_are_fit_for_files_and_unique(words: list[str]) -> None:
    names = members.names([Label(value, word) for value, word in enumerate(words, start=1)])
    assert len({name.lower() for name in names.values()}) == len(words)
    for name in names.values():
        assert 0 < len(name) < 200
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert not name.startswith(".")
        assert name.lower().partition(".")[0] not in ("con", "nul", "aux", "prn", "com1")


@pytest.mark.parametrize("name", [name for name in BESIDE if name not in ("labels-tsv", "mgz")])
def test_random_weights_are_said_in_every_format(tmp_path: Path, name: str) -> None:
    stamped = replace(three_labels(), provenance={"weights": {"random": True}})
    path = write(name, stamped, tmp_path)
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if name.startswith("nifti"):
            text = bytes(nib.load(file).header["descrip"]).decode()
        elif name == "npz":
            text = str(np.load(file)["note"])
        else:
            text = file.read_bytes()[:6000].decode(errors="replace")
        assert "RANDOM WEIGHTS" in text, file


def test_mgh_has_no_room_for_that_stamp(tmp_path: Path) -> None:
    stamped = replace(three_labels(), provenance={"weights": {"random": True}})
    with pytest.raises(UsageError, match="stamped"):
        write("mgz", stamped, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", [name for name in BESIDE if FORMATS[name].content != "shapes"])
def test_an_empty_mask_is_written_all_the_same(tmp_path: Path, name: str) -> None:
    full = three_labels()
    empty = Segmentation(np.zeros_like(full.mask), full.labels, full.scan)
    path = write(name, empty, tmp_path)
    if name in VOLUMES:
        assert not read_file(path, ReadOptions()).voxels.any()
    else:
        assert path.exists()


def test_formats_as_users_type_them() -> None:
    assert formats.parse(["nifti,DICOM_SEG", "stl", "nifti"]) == ("nifti", "dicom-seg", "stl")
    assert formats.parse([]) == ()
    with pytest.raises(UsageError, match="'sgt'") as caught:
        formats.parse(["sgt"])
    assert "seg-nrrd" in caught.value.hint


def test_the_help_names_every_format() -> None:
    from medseg_cli.app import app

    text = " ".join(CliRunner().invoke(app, ["segment", "--help"], env={"COLUMNS": "400"}).output.split())
    for name in FORMATS:
        assert name in text


def places(plan: outputs.Outputs, folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in plan.files]


def test_names_beside_a_named_mask_and_in_a_folder(tmp_path: Path) -> None:
    scan = phantom.write_volume(tmp_path / "brain.nii.gz", phantom.voxels(), np.eye(4))
    wanted = ("nifti", "seg-nrrd", "stl", "dicom-seg", "rtstruct", "labels-itksnap")
    named = outputs.plan(scan, f"{tmp_path}/m.nii", wanted=wanted, preview=False)
    beside = ["m.seg.nrrd", "m_stl", "m_seg.dcm", "m_rtstruct.dcm", "m.label.txt", "m.json"]
    assert places(named, tmp_path) == [*beside, "m.nii"], "m.nii is the NIfTI that was asked for"
    case = ["brain_seg.seg.nrrd", "brain_stl", "brain_seg.dcm", "brain_rtstruct.dcm", "brain_seg.label.txt"]
    into = outputs.plan(scan, f"{tmp_path}/out/", wanted=wanted, preview=False)
    assert places(into, tmp_path / "out") == [*case, "brain_seg.json", "brain_seg.nii.gz"]
    assert outputs.plan(scan, f"{tmp_path}/m.seg.nrrd").report.name == "m.json"
    deep = outputs.plan_case(tmp_path, "a/b/c", wanted=("mha", "png"))
    assert places(deep, tmp_path) == ["a/b/c_seg_preview.png", "a/b/c_seg.png", "a/b/c_seg.json", "a/b/c_seg.mha"]


@pytest.mark.parametrize(("name", "hint"), [("m.stl", "stl"), ("m.ply", "ply"), ("m", ".nii.gz")])
def test_names_that_are_no_masks_say_what_to_type(tmp_path: Path, name: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        outputs.plan(tmp_path / "scan.nii.gz", f"{tmp_path}/{name}")
    assert hint in caught.value.hint


def staged(folder: Path, wanted: tuple[str, ...], segmentation: Segmentation, *, overwrite: bool = False) -> None:
    plan = outputs.plan_case(folder, "case", wanted=wanted, preview=False)
    with outputs.staged(plan, overwrite=overwrite) as stand_ins:
        outputs.write(segmentation, stand_ins, Choices())
        stand_ins.report.write_text("report")


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("last", ["glb", "stl", "npz", "labels-slicer"])
def test_when_one_format_fails_none_appears(tmp_path: Path, last: str, monkeypatch: pytest.MonkeyPatch) -> None:
    segmentation = three_labels()
    staged(tmp_path, ("nifti", last), segmentation)
    before = everything(tmp_path)
    module, _, function = FORMATS[last].target.partition(":")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"{module}.{function}", full)
    other = Segmentation(segmentation.mask[::-1].copy(), segmentation.labels, segmentation.scan)
    with pytest.raises(InputError, match=r"(?i)no space left"):
        staged(tmp_path, ("nifti", "seg-nrrd", "ply", last), other, overwrite=True)
    assert everything(tmp_path) == before
    assert not list(tmp_path.glob(".medseg-*"))


@pytest.mark.parametrize("name", [*BESIDE, "png"])
def test_a_disk_that_takes_no_more_is_one_clear_line_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    """Files of this process cannot grow beyond 64 bytes for a while, as on a full disk."""
    resource = pytest.importorskip("resource")
    rng = np.random.default_rng(0)
    full = three_labels()
    shape = (*full.mask.shape[:2], 1) if name == "png" else full.mask.shape
    scan = Scan(np.zeros((1, *shape), np.float32), full.scan.affine, full.scan.provenance)
    noise = Segmentation(rng.choice(np.array([0, 1, 2, 7], np.uint8), shape), full.labels, scan)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, hard))
    try:
        with pytest.raises(InputError, match="cannot write") as caught:
            staged(tmp_path, (name,), noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in caught.value.message
    assert list(tmp_path.iterdir()) == []


def test_surfaces_of_an_earlier_run_do_not_outlive_it(tmp_path: Path) -> None:
    full = three_labels()
    staged(tmp_path, ("nifti", "stl", "glb"), full)
    assert (tmp_path / "case_stl" / "Left_lobe_of_liver.stl").exists()
    with pytest.raises(InputError, match="exists"):
        staged(tmp_path, ("nifti", "stl", "glb"), full)
    one = Segmentation(np.where(full.mask == 2, 2, 0).astype(np.uint8), full.labels, full.scan)
    staged(tmp_path, ("nifti", "stl", "glb"), one, overwrite=True)
    assert [path.name for path in (tmp_path / "case_stl").iterdir()] == ["a__mass__lesion.stl"]
    none = Segmentation(np.zeros_like(full.mask), full.labels, full.scan)
    staged(tmp_path, ("nifti", "stl", "glb"), none, overwrite=True)
    assert sorted(everything(tmp_path)) == ["case_seg.json", "case_seg.nii.gz"]


def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "case_stl").mkdir()
    (tmp_path / "case_stl" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="something else"):
        staged(tmp_path, ("nifti", "stl"), three_labels(), overwrite=True)
    assert everything(tmp_path) == {"case_stl/thesis.txt": b"precious"}


Medseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg) -> Medseg:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    region_growing.register()
    return in_process


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(0).normal(100, 2, (40, 30, 20)).astype(np.float32)
    voxels[10:18, 10:16, 8:12] = 200
    return phantom.write_volume(tmp_path / "brain.nii.gz", voxels, phantom.affine("LPS", (1.0, 1.0, 2.0)))


def read_mask(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / "brain_seg.nii.gz").dataobj)


def test_one_command_writes_them_all(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path)
    point = ("--point", "12,12,10")
    code, _, err = medseg("segment", scan, "-o", "out/", "-p", preset, *point, "--format", ",".join(BESIDE))
    assert code == 0, err
    report = json.loads((tmp_path / "out" / "brain_seg.json").read_text())
    listed = {each["path"]: each for each in report["output"]["files"]}
    there = everything(tmp_path / "out")
    assert set(there) == {*listed, "brain_seg.json", "brain_seg.png"}
    for path, each in listed.items():
        assert hashlib.sha256(there[path]).hexdigest() == each["sha256"]
        assert len(there[path]) == each["bytes"]
    assert {each["format"] for each in listed.values()} == set(BESIDE)
    assert report["output"]["mask"] == "brain_seg.nii.gz"
    assert report["output"]["mask_sha256"] == listed["brain_seg.nii.gz"]["sha256"]
    for name in VOLUMES:
        mask = read_file(tmp_path / "out" / f"brain_seg{FORMATS[name].suffix}", ReadOptions())
        assert mask.voxels.sum() == 8 * 6 * 4
    (tmp_path / "truth").mkdir()
    phantom.write_volume(tmp_path / "truth" / "brain.nii.gz", read_mask(tmp_path / "out"), nib.load(scan).affine)
    code, out, err = medseg("evaluate", tmp_path / "out", tmp_path / "truth", "--json")
    assert code == 0, f"of the formats beside each other, evaluate takes the mask that the report names: {err}"
    assert [Path(case["prediction_file"]).name for case in json.loads(out)["metric_per_case"]] == ["brain_seg.nii.gz"]
    code, _, err = medseg("segment", scan, "-o", "out/", "-p", preset, *point, "--format", "stl")
    assert code == 3
    assert "brain_seg.png exists" in err


def test_bids_names_from_the_command_line(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = region_growing.write_preset(tmp_path)
    scan = scan.rename(tmp_path / "sub-07_ses-1_T1w.nii.gz")
    words = ("segment", scan, "-o", "d/", "-p", preset, "--point", "12,12,10", "--naming", "bids", "--no-preview")
    code, _, err = medseg(*words)
    assert code == 0, err
    stem = "sub-07/ses-1/anat/sub-07_ses-1_desc-medsegT1w_dseg"
    expected = {".bidsignore", "dataset_description.json", f"{stem}.json", f"{stem}.nii.gz", f"{stem}.tsv"}
    assert set(everything(tmp_path / "d")) == expected
    assert json.loads((tmp_path / "d" / f"{stem}.json").read_text())["Manual"] is False
    scan = scan.rename(tmp_path / "my scan.nii.gz")
    code, _, err = medseg("segment", scan, "-o", "d/", "-p", preset, "--point", "12,12,10", "--naming", "bids")
    assert code == 0, err
    assert "is no BIDS name" in err
    assert (tmp_path / "d" / "sub-myScan" / "anat" / "sub-myScan_desc-medseg_dseg.nii.gz").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-o", "out/", "--format", "dicom-seg"), "refers to the DICOM series"),
        (("-o", "out/", "--format", "nifti,png"), "is one picture, but the scan has 20 slices"),
        (("-o", "out/", "--format", "nifti", "--format", "stk"), "there is no format 'stk'"),
        (("-o", "out/", "--format", "nifti", "--no-ml"), "only PNG masks"),
        (("-o", "m.nii.gz", "--naming", "bids"), "--naming bids names the files itself"),
        (("-o", "m.stl"), "does not name a mask"),
    ],
)
def test_what_does_not_fit_is_said_before_the_work(
    medseg: Medseg, scan: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    preset = region_growing.write_preset(tmp_path, trouble="crash")
    before = everything(tmp_path)
    code, _, err = medseg("segment", scan, "-p", preset, "--point", "12,12,10", *words)
    assert code == 2, err
    assert said in err
    assert "outgrew" not in err
    assert everything(tmp_path) == before


def test_a_picture_has_volume_formats_but_no_surface(medseg: Medseg, tmp_path: Path) -> None:
    from PIL import Image

    values = np.random.default_rng(0).integers(20, 150, (20, 30), np.uint8)
    values[5:10, 5:15] = 200
    Image.fromarray(values).save(tmp_path / "x.png")
    preset = region_growing.write_preset(tmp_path)
    words = ("segment", "x.png", "-p", preset, "--point", "7,7,0")
    code, _, err = medseg(*words, "-o", "out/", "--format", "png,nifti,seg-nrrd,npz,labels-itksnap")
    assert code == 0, err
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out/x_seg.png")) > 0, values == 200)
    for name in ("nifti", "seg-nrrd", "npz"):
        back = read_file(tmp_path / f"out/x_seg{FORMATS[name].suffix}", ReadOptions())
        np.testing.assert_array_equal(back.voxels[0, :, :, 0].T > 0, values == 200)
    code, _, err = medseg(*words, "-o", "other/", "--format", "png,stl")
    assert code == 2
    assert "stl needs a volume, but the scan has one slice" in err
    assert not (tmp_path / "other").exists()
