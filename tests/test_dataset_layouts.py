"""Datasets in the layouts that people have: which label belongs to which scan, and what stays together in a split."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg_cli.datasets import Case, load_pair, read_cases, split_cases
from medseg_cli.errors import InputError

SQUARE = np.zeros((20, 24), np.uint8)
SQUARE[5:12, 6:15] = 255


def draw(path: Path, pixels: np.ndarray = SQUARE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def pairs(cases: tuple[Case, ...]) -> list[tuple[str, str, str]]:
    return [(case.id, case.image.name, case.label.name) for case in cases]


def test_two_folders_with_equal_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c.v2"):
        draw(tmp_path / "images" / f"{name}.png")
        draw(tmp_path / "masks" / f"{name}.tif")
    (tmp_path / "images" / "LICENCE.md").write_text("CC0")
    expected = [("a", "a.png", "a.tif"), ("b", "b.png", "b.tif"), ("c.v2", "c.v2.png", "c.v2.tif")]
    assert pairs(read_cases(tmp_path)) == expected


def test_masks_beside_images_in_folders_of_classes(tmp_path: Path) -> None:
    for name in ("benign/x 1", "malignant/y 1"):
        draw(tmp_path / f"{name}.png")
        draw(tmp_path / f"{name}_mask.png")
    draw(tmp_path / "malignant" / "y 1_mask_1.png")
    cases = read_cases(tmp_path)
    assert pairs(cases) == [
        ("x 1", "x 1.png", "x 1_mask.png"),
        ("y 1_mask", "y 1.png", "y 1_mask.png"),
        ("y 1_mask_1", "y 1.png", "y 1_mask_1.png"),
    ]
    assert [case.group for case in cases] == ["x 1", "y 1", "y 1"]


def test_a_name_with_masked_in_it_is_no_mask(tmp_path: Path) -> None:
    draw(tmp_path / "two" / "images" / "x_masked_1.png")
    draw(tmp_path / "two" / "masks" / "x_masked_1.png")
    draw(tmp_path / "beside" / "x_masked.png")
    draw(tmp_path / "beside" / "x_masked_mask.png")
    assert pairs(read_cases(tmp_path / "two")) == [("x_masked_1", "x_masked_1.png", "x_masked_1.png")]
    assert pairs(read_cases(tmp_path / "beside")) == [("x_masked", "x_masked.png", "x_masked_mask.png")]


def test_nnunet(tmp_path: Path) -> None:
    for folder, name in (("imagesTr", "p_1_0000"), ("imagesTr", "p_2_0000"), ("labelsTr", "p_1"), ("labelsTr", "p_2")):
        (tmp_path / folder).mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.uint8), np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1}, "file_ending": ".nii.gz"}))
    assert pairs(read_cases(tmp_path)) == [
        ("p_1", "p_1_0000.nii.gz", "p_1.nii.gz"),
        ("p_2", "p_2_0000.nii.gz", "p_2.nii.gz"),
    ]
    (tmp_path / "imagesTr" / "p_2_0000.nii.gz").unlink()
    with pytest.raises(InputError, match="p_2_0000"):
        read_cases(tmp_path)


def test_a_decathlon_entry_may_name_patient_and_modality(tmp_path: Path) -> None:
    entries = []
    for patient in "abc":
        for kind in ("CT", "MR"):
            path = tmp_path / patient / f"{kind}.nii.gz"
            path.parent.mkdir(exist_ok=True)
            nib.save(nib.Nifti1Image(np.eye(4, dtype=np.int16)[..., None], np.eye(4)), path)
            name = f"{patient}/{path.name}"
            entries.append({"image": name, "label": name, "id": f"{patient}-{kind}", "group": patient})
            if kind == "CT":
                entries[-1]["modality"] = "CT"
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "training": entries}))
    split = split_cases(read_cases(tmp_path), 0)
    for part in (split.train, split.validation, split.test):
        first, second = part
        assert [case.id[2:] for case in part] == ["CT", "MR"]
        assert first.group == second.group
        assert [load_pair(case)[0].modality for case in part] == ["CT", "MR"]


def sa_med2d(folder: Path, split: bool) -> None:
    """Four images of two patients with two masks each, by the names of SA-Med2D; listed from the folder above."""
    train: dict[str, list[str]] = {}
    test: dict[str, str] = {}
    for patient in ("p1", "p2", "p3"):
        for index in (7, 8):
            name = f"ct_00--Organs--{patient}--x_00{index}"
            image = draw(folder / "images" / f"{name}.png")
            for number in (0, 1):
                mask = draw(folder / "masks" / f"{name}--000{number}_000.png")
                if split and patient == "p3":
                    test[f"{folder.name}/masks/{mask.name}"] = f"{folder.name}/images/{image.name}"
                else:
                    train.setdefault(f"{folder.name}/images/{image.name}", []).append(
                        f"{folder.name}/masks/{mask.name}"
                    )
    (folder / "image2label_train.json").write_text(json.dumps(train))
    if test:
        (folder / "label2image_test.json").write_text(json.dumps(test))


@pytest.mark.parametrize("seed", range(5))
def test_sa_med2d_keeps_patients_together(tmp_path: Path, seed: int) -> None:
    sa_med2d(tmp_path / "data", split=False)
    cases = read_cases(tmp_path / "data")
    assert len(cases) == 12
    split = split_cases(cases, seed)
    patients = [{case.id.split("--")[2] for case in part} for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in patients] == [1, 1, 1]
    assert set.union(*patients) == {"p1", "p2", "p3"}


def test_sa_med2d_test_listing_is_the_test_part(tmp_path: Path) -> None:
    sa_med2d(tmp_path / "data", split=True)
    split = split_cases(read_cases(tmp_path / "data"), 0)
    assert {case.group for case in split.test} == {"ct_00--Organs--p3"}
    assert {case.group for case in split.train} != {case.group for case in split.validation}
    assert len(split.test) == len(split.train) == len(split.validation) == 4


def test_an_image_in_both_listings_is_refused(tmp_path: Path) -> None:
    sa_med2d(tmp_path / "data", split=True)
    training, testing = tmp_path / "data" / "image2label_train.json", tmp_path / "data" / "label2image_test.json"
    image, mask = "data/images/ct_00--Organs--p1--x_007.png", "data/masks/ct_00--Organs--p1--x_007--0000_000.png"
    testing.write_text(json.dumps({**json.loads(testing.read_text()), mask: image}))
    with pytest.raises(InputError, match=f"two cases called {Path(mask).stem}"):
        read_cases(tmp_path / "data")
    facts = json.loads(training.read_text())
    facts[image].remove(mask)
    training.write_text(json.dumps(facts))
    with pytest.raises(InputError, match="p1 is listed for any use and for test"):
        split_cases(read_cases(tmp_path / "data"), 0)


def test_the_real_layout_of_sa_med2d(shared: Path) -> None:
    cases = read_cases(shared / "data" / "sam-med2d-layout")
    listed = json.loads((shared / "data" / "sam-med2d-layout" / "image2label_train.json").read_text())
    assert len(cases) == 30
    assert sum(not case.part for case in cases) == sum(len(masks) for masks in listed.values())


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({}, "no dataset.json"),
        ({"images/a.png": SQUARE, "masks/b.png": SQUARE}, r"no mask is called like a\.png"),
        ({"image2label_train.json": "[]"}, "not a listing"),
        ({"image2label_train.json": '{"images/a.png": "masks/a.png"}'}, "where file names are expected"),
        ({"image2label_train.json": '{"images/a.png": ["masks/a.png"]}'}, "does not exist"),
        ({"dataset.json": '{"labels": {}}'}, "lists no training case"),
    ],
)
def test_folders_in_no_layout_are_said(tmp_path: Path, files: dict[str, object], words: str) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            (tmp_path / name).write_text(content)
        else:
            draw(tmp_path / name, content)
    with pytest.raises(InputError, match=words):
        read_cases(tmp_path)


def test_shades_at_the_edge_of_a_mask_count_from_half(tmp_path: Path) -> None:
    soft = SQUARE.copy()
    soft[5, 6:15], soft[11, 6:15], soft[0, 0] = 100, 150, 3
    case = Case("a", draw(tmp_path / "a.png", SQUARE // 2), draw(tmp_path / "m.png", soft))
    _, labels = load_pair(case)
    expected = SQUARE > 0
    expected[5] = False
    assert np.array_equal(labels[:, :, 0].T, expected.astype(int))


def test_a_label_map_as_picture_keeps_its_values(tmp_path: Path) -> None:
    values = np.zeros((20, 24), np.uint8)
    values[2:6, 2:6], values[10:14, 10:20] = 1, 7
    case = Case("a", draw(tmp_path / "a.png", SQUARE // 2), draw(tmp_path / "m.png", values))
    _, labels = load_pair(case)
    assert np.array_equal(labels[:, :, 0].T, values)


def test_empty_and_misfitting_masks_are_said(tmp_path: Path) -> None:
    image = draw(tmp_path / "a.png", SQUARE // 2)
    with pytest.raises(InputError, match="labels nothing"):
        load_pair(Case("a", image, draw(tmp_path / "empty.png", SQUARE * 0)))
    with pytest.raises(InputError, match="does not lie on the grid"):
        load_pair(Case("a", image, draw(tmp_path / "small.png", SQUARE[1:])))
    colours = np.stack([SQUARE * 0, SQUARE, SQUARE * 0], axis=2)
    with pytest.raises(InputError, match="colour image"):
        load_pair(Case("a", image, draw(tmp_path / "green.png", colours)))


def test_values_below_zero_are_nothing(tmp_path: Path) -> None:
    values = np.zeros((9, 8, 7), np.int16)
    values[2:5, 2:5, 2:5], values[6:, 6:, 5:] = 3, -1
    for name in ("a.nii.gz", "m.nii.gz"):
        nib.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / name)
    _, labels = load_pair(Case("a", tmp_path / "a.nii.gz", tmp_path / "m.nii.gz"))
    assert set(np.unique(labels)) == {0, 3}


def test_a_picture_of_a_mask_lies_on_a_scan_of_its_size_wherever_that_is(tmp_path: Path) -> None:
    """An X-ray states its pixel size, the PNG drawn on it does not."""
    scan = np.full((24, 20, 1), 7, np.int16)
    nib.Nifti1Image(scan, np.diag([0.2, 0.2, 1, 1])).to_filename(tmp_path / "a.nii.gz")
    found, labels = load_pair(Case("a", tmp_path / "a.nii.gz", draw(tmp_path / "m.png")))
    assert found.spacing == pytest.approx((0.2, 0.2, 1))
    assert np.array_equal(labels[:, :, 0].T, SQUARE > 0)
