"""What INPUT means: folders of any mix of files, with what is left out and what fails."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_phantom import SERIES_UID, series, write
from phantom import affine, voxels, write_volume
from PIL import Image

from medseg_cli.batch import inputs
from medseg_cli.batch.case import BatchCase, Cases
from medseg_cli.batch.listing import list_cases
from medseg_cli.batch.patterns import matches
from medseg_cli.errors import InputError
from medseg_cli.readers import load_scan
from medseg_cli.readers.options import ReadOptions


def ids(cases: Cases) -> list[str]:
    return [case.id for case in cases.cases]


def by_id(cases: Cases) -> dict[str, BatchCase]:
    return {case.id: case for case in cases.cases}


def nifti(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, voxels(), affine())
    return path


def dicom(folder: Path, uid: str = SERIES_UID, **elements: object) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    return sorted(write(series(voxels(), affine(), SeriesInstanceUID=uid, **elements), folder).iterdir())


def test_a_mixed_folder_gives_one_case_per_scan_in_natural_order(tmp_path: Path) -> None:
    nifti(tmp_path / "case10.nii.gz")
    nifti(tmp_path / "case2.nii.gz")
    nifti(tmp_path / "sub" / "deep" / "a.nrrd")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "xray.png")
    dicom(tmp_path / "patient" / "ct")
    (tmp_path / "README.md").write_text("about")
    (tmp_path / "table.csv").write_text("a,b\n")

    found = list_cases(tmp_path)

    assert ids(found) == ["case2", "case10", "patient/ct", "sub/deep/a", "xray"]
    assert all(case.problem is None for case in found.cases)
    assert any("passed over 2" in note for note in found.notes)


def test_series_of_one_folder_are_cases_of_their_own_and_read_their_own_files(tmp_path: Path) -> None:
    dicom(tmp_path / "all", SERIES_UID + ".1", SeriesNumber=1, SeriesDescription="T1 axial")
    for path in dicom(tmp_path / "x", SERIES_UID + ".2", SeriesNumber=2, SeriesDescription="T2/fat"):
        shutil.move(path, tmp_path / "all" / f"b-{path.name}")
    (tmp_path / "x").rmdir()

    found = list_cases(tmp_path)

    assert ids(found) == ["all/1-T1_axial", "all/2-T2-fat"]
    for case, end in zip(found.cases, (".1", ".2"), strict=True):
        scan = load_scan(case.scan, case.reading)
        assert scan.provenance.series_uid == SERIES_UID + end
        assert np.array_equal(scan.voxels[0], voxels())
        assert len(case.files) == voxels().shape[2]


def test_one_series_in_nested_folders_is_one_case_and_a_copy_elsewhere_another(tmp_path: Path) -> None:
    paths = dicom(tmp_path / "series")
    (tmp_path / "series" / "second").mkdir()
    for path in paths[2:]:
        shutil.move(path, tmp_path / "series" / "second" / path.name)
    shutil.copytree(tmp_path / "series", tmp_path / "series-copy")

    found = list_cases(tmp_path)

    assert ids(found) == ["series", "series-copy"]
    for case in found.cases:
        assert np.array_equal(load_scan(case.scan, case.reading).voxels[0], voxels())


def test_scouts_and_objects_without_pixels_are_left_out_with_a_note(tmp_path: Path) -> None:
    dicom(tmp_path / "ct")
    dicom(tmp_path / "scout", SERIES_UID + ".7", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    objects = series(voxels(), affine(), SeriesInstanceUID=SERIES_UID + ".8", Modality="RTSTRUCT")[:1]
    (tmp_path / "rt").mkdir()
    write(objects, tmp_path / "rt")

    found = list_cases(tmp_path)

    assert ids(found) == ["ct"]
    assert f"left out {voxels().shape[2]} DICOM: localizer (scout)" in found.notes
    assert "left out 1 DICOM: RTSTRUCT object" in found.notes


def test_damaged_scans_are_cases_that_fail_and_others_are_untouched(tmp_path: Path) -> None:
    nifti(tmp_path / "good.nii.gz")
    (tmp_path / "empty.nii.gz").touch()
    (tmp_path / "text.nrrd").write_text("this is no image")
    (tmp_path / "gone.nii.gz").symlink_to(tmp_path / "nowhere.nii.gz")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04 no archive")
    dicom(tmp_path / "whole")
    broken = dicom(tmp_path / "torn", SERIES_UID + ".5")
    broken[1].write_bytes(b"")
    (tmp_path / "lone").mkdir()
    (tmp_path / "lone" / "x.dcm").write_bytes(b"\0" * 500)

    found = by_id(list_cases(tmp_path))

    assert list(found) == ["broken", "empty", "gone", "good", "lone/x", "text", "torn", "whole"]
    assert [name for name, case in found.items() if case.problem is None] == ["good", "whole"]
    assert "0 bytes" in found["empty"].problem.message
    assert "link" in found["gone"].problem.message
    assert broken[1].name in found["torn"].problem.message


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no UTF-8, and pipes, are of Linux")
def test_names_that_are_no_text_get_ids_and_pipes_are_not_waited_for(tmp_path: Path) -> None:
    nifti(tmp_path / "good.nii.gz")
    os.rename(tmp_path / "good.nii.gz", os.fsencode(tmp_path) + b"/caf\xe9.nii.gz")
    os.mkfifo(tmp_path / "pipe.nii.gz")

    found = by_id(list_cases(tmp_path))

    assert list(found) == ["caf_", "pipe"]
    assert found["caf_"].problem is None
    assert len(inputs.digest(found["caf_"])) == 64
    assert found["pipe"].problem is not None
    assert inputs.digest(found["pipe"]) == ""


def test_the_outputs_of_medseg_and_the_output_folder_are_no_input(tmp_path: Path) -> None:
    nifti(tmp_path / "scan.nii.gz")
    nifti(tmp_path / "scan_seg.nii.gz")
    (tmp_path / "scan_seg.json").write_text(json.dumps({"schema": "medseg-segmentation/1"}))
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "scan_seg.png")
    nifti(tmp_path / "run" / "scan_seg.nii.gz")
    nifti(tmp_path / "old" / "scan_seg.nii.gz")
    (tmp_path / "old" / ".medseg" / "cases").mkdir(parents=True)
    nifti(tmp_path / ".hidden" / "a.nii.gz")
    nifti(tmp_path / "._scan.nii.gz")

    found = list_cases(tmp_path, out=tmp_path / "run")

    assert ids(found) == ["scan"]
    notes = " ".join(found.notes)
    assert "left out 4: outputs of medseg" in notes
    assert "left out 1: in the output folder" in notes
    assert "left out 2: hidden" in notes


def test_masks_are_left_out_by_folder_and_by_name_unless_patterns_say_what_is_wanted(tmp_path: Path) -> None:
    nifti(tmp_path / "images" / "a.nii.gz")
    nifti(tmp_path / "masks" / "a.nii.gz")
    nifti(tmp_path / "labelsTr" / "a.nii.gz")
    nifti(tmp_path / "b.nii.gz")
    nifti(tmp_path / "b_mask.nii.gz")
    nifti(tmp_path / "lone_seg.nii.gz")

    assert ids(list_cases(tmp_path)) == ["b", "images/a", "lone_seg"]
    assert ids(list_cases(tmp_path, include=("masks/**",))) == ["masks/a"]
    assert ids(list_cases(tmp_path, exclude=("images", "*_seg*"))) == ["b"]


def test_names_that_differ_by_suffix_or_capitals_get_ids_of_their_own(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    nifti(tmp_path / "a.nrrd")
    nifti(tmp_path / "Patient One.nii.gz")
    nifti(tmp_path / "con.nii.gz")

    assert ids(list_cases(tmp_path)) == ["_con", "a_nii-gz", "a_nrrd", "Patient_One"]


def test_links_in_a_circle_end_and_nothing_is_listed_twice(tmp_path: Path) -> None:
    nifti(tmp_path / "in" / "a" / "scan.nii.gz")
    (tmp_path / "in" / "a" / "up").symlink_to(tmp_path / "in")
    nifti(tmp_path / "elsewhere" / "far.nii.gz")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "in" / "b").symlink_to(tmp_path / "elsewhere")

    assert ids(list_cases(tmp_path / "in")) == ["a/scan", "b/far"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_a_folder_that_cannot_be_opened_is_a_failed_case(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    (tmp_path / "closed").mkdir(mode=0)
    found = by_id(list_cases(tmp_path))
    assert "cannot be opened" in found["closed"].problem.message


def test_pictures_without_a_place_are_a_case_each_and_volumes_on_one_grid_one(tmp_path: Path) -> None:
    from dicom_phantom import picture

    pair = [picture(voxels()[:, :, k]) for k in range(2)]
    for each in pair:
        each.Modality = "DX"
    (tmp_path / "dx").mkdir()
    write(pair, tmp_path / "dx")
    dynamic = [
        each
        for time in (1, 2)
        for each in series(voxels(), affine(), SeriesInstanceUID=SERIES_UID + ".4", TemporalPositionIdentifier=time)
    ]
    (tmp_path / "dynamic").mkdir()
    write(dynamic, tmp_path / "dynamic")

    found = list_cases(tmp_path)

    assert [name.split("/")[0] for name in ids(found)] == ["dx", "dx", "dynamic"]
    with pytest.raises(InputError, match="2 stacks"):
        load_scan(found.cases[-1].scan, found.cases[-1].reading)


def test_series_in_a_zip_and_in_one_file_are_named_by_number(tmp_path: Path) -> None:
    dicom(tmp_path / "raw" / "a", SERIES_UID + ".1", SeriesNumber=1, SeriesDescription="one")
    dicom(tmp_path / "raw" / "b", SERIES_UID + ".2", SeriesNumber=2, SeriesDescription="two")
    shutil.make_archive(str(tmp_path / "in" / "study"), "zip", tmp_path / "raw")

    found = list_cases(tmp_path / "in")

    assert ids(found) == ["study/1-one", "study/2-two"]
    assert load_scan(found.cases[1].scan, found.cases[1].reading).provenance.series_uid == SERIES_UID + ".2"
    assert ids(list_cases(tmp_path / "in" / "study.zip")) == ["study/1-one", "study/2-two"]


def test_a_bids_dataset_gives_anatomical_images_of_its_raw_data(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text(json.dumps({"Name": "x", "BIDSVersion": "1.9.0"}))
    (tmp_path / ".bidsignore").write_text("# notes\n*_bad_T1w.nii.gz\nextra/\n")
    for name in (
        "sub-01/anat/sub-01_T1w",
        "sub-01/anat/sub-01_run-2_bad_T1w",
        "sub-01/anat/sub-01_label-lesion_mask",
        "sub-01/func/sub-01_task-rest_bold",
        "sub-01/dwi/sub-01_dwi",
        "sub-02/ses-1/anat/sub-02_ses-1_T2w",
        "sub-02/ses-1/pet/sub-02_ses-1_pet",
        "derivatives/tool/sub-01/anat/sub-01_T1w",
        "extra/sub-01_T1w",
    ):
        nifti(tmp_path / f"{name}.nii.gz")

    found = list_cases(tmp_path)

    assert found.kind == "BIDS dataset"
    assert ids(found) == [
        "sub-01/anat/sub-01_T1w",
        "sub-02/ses-1/anat/sub-02_ses-1_T2w",
        "sub-02/ses-1/pet/sub-02_ses-1_pet",
    ]
    assert "left out 2: of BIDS data types other than anat, ct, pet" in found.notes
    assert ids(list_cases(tmp_path / "sub-01")) == ["anat/sub-01_T1w"]
    assert ids(list_cases(tmp_path, include=("**/dwi/*",))) == ["sub-01/dwi/sub-01_dwi"]


def test_the_list_of_a_dataset_gives_its_images_labelled_or_not(tmp_path: Path) -> None:
    for name in ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz", "imagesTs/t.nii.gz"):
        nifti(tmp_path / name)
    listing = {
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "x"},
        "training": [
            {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
            {"image": "./imagesTr/gone.nii.gz"},
        ],
        "test": ["./imagesTs/t.nii.gz"],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(listing))

    for source in (tmp_path, tmp_path / "dataset.json"):
        found = by_id(list_cases(source))
        assert list(found) == ["a", "gone", "t"]
        assert "does not exist" in found["gone"].problem.message
        assert found["t"].modality == "MR"


def test_an_nnunet_dataset_gives_one_case_per_image_and_the_chosen_channel(tmp_path: Path) -> None:
    for name in ("imagesTr/a_0000", "imagesTr/a_0001", "imagesTs/b_0000", "imagesTs/b_0001", "labelsTr/a"):
        nifti(tmp_path / f"{name}.nii.gz")
    listing = {"channel_names": {"0": "T1", "1": "CT"}, "labels": {"background": 0, "x": 1}, "file_ending": ".nii.gz"}
    (tmp_path / "dataset.json").write_text(json.dumps(listing))
    found = list_cases(tmp_path, reading=ReadOptions(channel=1))

    assert [(case.id, case.scan.name, case.modality) for case in found.cases] == [
        ("a", "a_0001.nii.gz", "CT"),
        ("b", "b_0001.nii.gz", "CT"),
    ]
    assert all(load_scan(case.scan, case.reading).shape == voxels().shape for case in found.cases)


def test_a_pixel_size_of_the_run_is_for_scans_that_state_none(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "b.png")
    dicom(tmp_path / "ct")
    found = by_id(list_cases(tmp_path, reading=ReadOptions(spacing=(0.2, 0.3, 1.0))))
    assert {name: case.reading.spacing for name, case in found.items()} == {
        "a": None,
        "b": (0.2, 0.3, 1.0),
        "ct": None,
    }


def test_an_input_without_any_scan_says_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match="holds no scan; passed over 1"):
        list_cases(tmp_path)
    with pytest.raises(InputError, match="no input"):
        list_cases(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("path", "pattern", "expected"),
    [
        ("a/b/c.nii.gz", "*.nii.gz", True),
        ("a/b/c.nii.gz", "b", True),
        ("a/b/c.nii.gz", "a/*.nii.gz", False),
        ("a/b/c.nii.gz", "a/**/*.nii.gz", True),
        ("a/c.nii.gz", "a/**/*.nii.gz", True),
        ("a/b/c.nii.gz", "a/b/", True),
        ("a/b/c.nii.gz", "b/", True),
        ("x1.png", "x[0-9].png", True),
        ("xa.png", "x[!0-9].png", True),
        ("A.png", "a.png", False),
    ],
)
def test_patterns_mean_names_or_paths(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, (pattern,)) is expected
