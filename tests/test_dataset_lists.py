"""Datasets that are listed in files: nnU-Net, decathlon, MONAI, CSV, SAMUS, and MedSAM's npz."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dataset_phantom import affine, drawn, labels, nifti, nnunet, picture, pictures, scan

from medseg_cli.datasets import load_pair, read_cases, read_dataset, read_splits, split_cases, table
from medseg_cli.errors import InputError


def change(listing: Path, **facts: Any) -> Path:
    listing.write_text(json.dumps({**json.loads(listing.read_text()), **facts}))
    return listing


def pairs_in(folder: Path, count: int = 3) -> list[dict[str, Any]]:
    for number in range(count):
        nifti(folder / "imagesTr" / f"p{number}.nii.gz", scan(number), affine(number))
        nifti(folder / "labelsTr" / f"p{number}.nii.gz", labels(number), affine(number))
    return [{"image": f"./imagesTr/p{n}.nii.gz", "label": f"./labelsTr/p{n}.nii.gz"} for n in range(count)]


def test_the_two_directions_of_a_label_map_mean_the_same(tmp_path: Path) -> None:
    first = read_dataset(nnunet(tmp_path / "nnunet"))
    entries = pairs_in(tmp_path / "msd")
    names = {"0": "background", "1": "liver", "2": "tumour"}
    (tmp_path / "msd" / "dataset.json").write_text(json.dumps({"labels": names, "training": entries}))
    second = read_dataset(tmp_path / "msd")
    assert (first.layout, second.layout) == ("nnU-Net v2", "Medical Segmentation Decathlon")
    assert first.labels == second.labels == {1: "liver", 2: "tumour"}
    assert first.notes == second.notes == ()
    change(tmp_path / "msd" / "dataset.json", labels={"background": 0, "liver": 1, "tumour": 2})
    swapped = read_dataset(tmp_path / "msd")
    assert swapped.labels == first.labels
    assert "as in nnU-Net" in swapped.notes[0]
    change(tmp_path / "nnunet" / "dataset.json", labels=names)
    swapped = read_dataset(tmp_path / "nnunet")
    assert swapped.labels == first.labels
    assert "as in the Medical Segmentation Decathlon" in swapped.notes[0]


@pytest.mark.parametrize(
    ("listed", "words"),
    [
        ({"liver": 1, "tumour": 1}, "value 1 is called liver and tumour"),
        ({"background": 1, "liver": 0}, "background is 1"),
        ({"1": "liver", "2": "liver"}, "two label values are called liver"),
        ({"liver": -1}, "no number from 0 upwards"),
        ({"1": "liver", "tumour": 2}, "no number from 0 upwards"),
        (["liver"], "labels is a list"),
        ({"liver": "first"}, "no number from 0 upwards"),
    ],
)
def test_label_maps_that_mean_nothing_are_refused(tmp_path: Path, listed: Any, words: str) -> None:
    change(nnunet(tmp_path) / "dataset.json", labels=listed)
    with pytest.raises(InputError, match=words):
        read_dataset(tmp_path)


def test_regions_and_the_ignored_value_of_nnunet(tmp_path: Path) -> None:
    nnunet(tmp_path, values=(1, 2, 3))
    listed = {"background": 0, "kidney": [1, 2], "tumour": 2, "ignore": 3}
    change(tmp_path / "dataset.json", labels=listed, regions_class_order=[1, 2])
    found = read_dataset(tmp_path)
    assert found.labels == {1: "kidney", 2: "tumour"}
    assert found.label_map.regions == {"kidney": (1, 2), "tumour": (2,)}
    assert [note.partition(":")[0].endswith("(kidney, tumour)") for note in found.notes] == [True, False]
    _, values = load_pair(found.cases[0])
    expected = labels(0, (1, 2, 3)).astype(int)
    expected[expected == 3] = 0
    assert np.array_equal(values, expected)


def test_channels_of_nnunet_are_one_case_and_which_is_read_is_said(tmp_path: Path) -> None:
    nnunet(tmp_path)
    for number in range(3):
        nifti(tmp_path / "imagesTr" / f"p{number}_0001.nii.gz", scan(number) + 7, affine(number))
    change(tmp_path / "dataset.json", channel_names={"0": "T1", "1": "FLAIR"})
    found = read_dataset(tmp_path)
    case = found.cases[1]
    assert [path.name for path in (case.image, *case.channels)] == [
        "p1_0000.nii.gz",
        "p1_0000.nii.gz",
        "p1_0001.nii.gz",
    ]
    assert found.notes == ("images have 2 channels; channel 0 (T1) is read, not 1 (FLAIR)",)
    assert case.modality == "MR"
    other = read_dataset(tmp_path, channel=1)
    assert np.array_equal(load_pair(other.cases[1])[0].voxels[0], scan(1) + 7)
    (tmp_path / "imagesTr" / "p2_0001.nii.gz").unlink()
    with pytest.raises(InputError, match="p2 has 1 channel, there is no channel 1"):
        read_dataset(tmp_path, channel=1)


def test_a_channel_of_the_decathlons_4d_images(tmp_path: Path) -> None:
    entries = pairs_in(tmp_path, 2)
    for number in range(2):
        volumes = np.stack([scan(number), scan(number) + 50], axis=3)
        nifti(tmp_path / "imagesTr" / f"p{number}.nii.gz", volumes, affine(number))
    facts = {"modality": {"0": "FLAIR", "1": "T1w"}, "training": entries}
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    for channel in (0, 1):
        found = read_dataset(tmp_path, channel)
        assert np.array_equal(load_pair(found.cases[1])[0].voxels[0], scan(1) + 50 * channel)
        assert f"channel {channel} ({('FLAIR', 'T1w')[channel]}) is read" in found.notes[0]


def test_test_cases_of_nnunet_and_files_without_a_partner(tmp_path: Path) -> None:
    nnunet(tmp_path)
    nifti(tmp_path / "imagesTs" / "t_0000.nii.gz", scan(9), affine(9))
    assert [case.part for case in read_cases(tmp_path)] == ["", "", ""]
    nifti(tmp_path / "labelsTs" / "t.nii.gz", labels(9), affine(9))
    assert [case.part for case in read_cases(tmp_path)] == ["", "", "", "test"]
    (tmp_path / "labelsTr" / "p0.nii.gz").unlink()
    with pytest.raises(InputError, match=r"p0_0000\.nii\.gz has no label"):
        read_cases(tmp_path)


def test_a_monai_datalist(tmp_path: Path) -> None:
    entries = pairs_in(tmp_path / "data", 6)
    for number, entry in enumerate(entries[:4]):
        entry["fold"] = number % 2
    entries[0] |= {"caption": "a liver", "modality": "MRI", "patient": "anna"}
    facts = {"training": entries[:4], "testing": [*entries[4:5], {"image": "./imagesTr/p5.nii.gz"}]}
    listing = tmp_path / "data" / "any_name.json"
    listing.write_text(json.dumps(facts))
    found = read_dataset(listing)
    assert found == read_dataset(tmp_path / "data")
    assert found.layout == "MONAI datalist"
    assert [case.part for case in found.cases] == ["", "", "", "", "test"]
    assert found.notes == ("1 test image has no label and no use here",)
    first = found.cases[0]
    assert (first.group, first.caption, first.modality, first.fold) == ("anna", "a liver", "MR", 0)
    split = read_splits(None, found.cases, fold=1)
    assert [[case.id for case in part] for part in (split.train, split.validation, split.test)] == [
        ["p0", "p2"],
        ["p1", "p3"],
        ["p4"],
    ]
    with pytest.raises(InputError, match="no fold 2: its folds are 0, 1"):
        read_splits(None, found.cases, fold=2)


@pytest.mark.parametrize("key", ["training", "testing"])
@pytest.mark.parametrize("wrong", [7, {"a": 1}, [["image", "label"]], [None]])
def test_lists_that_hold_no_pairs(tmp_path: Path, key: str, wrong: Any) -> None:
    listing = tmp_path / "list.json"
    listing.write_text(json.dumps({"training": pairs_in(tmp_path), key: wrong}))
    with pytest.raises(InputError, match="not a Medical Segmentation Decathlon listing"):
        read_cases(listing)


def test_an_order_of_regions_that_is_none(tmp_path: Path) -> None:
    change(nnunet(tmp_path) / "dataset.json", regions_class_order=["liver"])
    with pytest.raises(InputError, match="regions_class_order"):
        read_cases(tmp_path)


def test_an_auto3dseg_task_says_where_files_are(tmp_path: Path) -> None:
    entries = pairs_in(tmp_path / "elsewhere")
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "list.json").write_text(json.dumps({"training": entries}))
    (tmp_path / "task" / "task.yaml").write_text("modality: MRI\ndatalist: list.json\ndataroot: ../elsewhere\n")
    assert len(read_cases(tmp_path / "task")) == len(read_cases(tmp_path / "task" / "task.yaml")) == 3
    (tmp_path / "task" / "task.yaml").write_text("datalist: [\n")
    with pytest.raises(InputError, match="no task of Auto3DSeg"):
        read_cases(tmp_path / "task" / "task.yaml")


@pytest.mark.parametrize("listed", ["{root}/b/imagesTr/p0.nii.gz", "../b/imagesTr/p0.nii.gz", "x/../../b/p0.nii.gz"])
def test_a_decathlon_stays_in_its_folder_and_a_datalist_need_not(tmp_path: Path, listed: str) -> None:
    pairs_in(tmp_path / "b", 1)
    (tmp_path / "a" / "x").mkdir(parents=True)
    entry = {"image": listed.format(root=tmp_path), "label": "../b/labelsTr/p0.nii.gz"}
    listing = tmp_path / "a" / "dataset.json"
    listing.write_text(json.dumps({"training": [entry]}))
    with pytest.raises(InputError, match="which is not in its folder"):
        read_cases(listing)
    if "x/.." not in listed:
        (case,) = read_cases(listing.rename(tmp_path / "a" / "list.json"))
        assert np.array_equal(load_pair(case)[1], labels(0))


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"label": "a"}, "training 0 names no image"),
        ({"image": "imagesTr/p0.nii.gz"}, "training 0 names no label"),
        ({"image": 5, "label": "a"}, "are no file names"),
        ("imagesTr/none.nii.gz", "names no label"),
        (["a", "b"], "not a Medical Segmentation Decathlon listing"),
        ({"image": "imagesTr/p0.nii.gz", "label": "labelsTr/p0.nii.gz", "modality": "Voodoo"}, "is no modality"),
        ({"image": "imagesTr/p0.nii.gz", "label": "labelsTr/p0.nii.gz", "id": "../x"}, "no file could be called"),
        ({"image": "imagesTr/p0.nii.gz", "label": "labelsTr/p0.nii.gz", "spacing": "wide"}, "one to three sizes"),
    ],
)
def test_entries_that_are_none_are_said(tmp_path: Path, entry: Any, words: str) -> None:
    pairs_in(tmp_path, 1)
    (tmp_path / "dataset.json").write_text(json.dumps({"training": [entry]}))
    with pytest.raises(InputError, match=words):
        read_cases(tmp_path)


@pytest.mark.parametrize(("mark", "between"), [("", ","), ("\ufeff", ";"), ("", "\t")])
def test_a_csv_as_spreadsheets_write_it(tmp_path: Path, mark: str, between: str) -> None:
    pictures(tmp_path / "data")
    rows = [
        ("Image", "MASK", "patient", "fold", "caption", "spacing", "modality", "split"),
        ("data/images/x0.png", "data/masks/x0.png", "anna", "1", "a, b; c", "0.2x0.3", "US", "train"),
        ("data\\images\\x1.png", "data\\masks\\x1.png", "bert", "", "", "", "", "val"),
        (str(tmp_path / "data" / "images" / "x2.png"), "data/masks/x2.png", "cleo", "", "", "0.5", "", ""),
    ]
    quoted = "\n".join(between.join(f'"{cell}"' for cell in row) for row in rows)
    (tmp_path / "cases.csv").write_text(mark + quoted + "\n\n", encoding="utf-8")
    first, second, third = read_cases(tmp_path)
    assert (first.group, first.fold, first.caption, first.modality) == ("anna", 1, "a, b; c", "US")
    assert (first.part, second.part, third.part) == ("train", "validation", "")
    assert (first.spacing, second.spacing, third.spacing) == ((0.2, 0.3, 1.0), None, (0.5, 0.5, 1.0))
    found, _ = load_pair(first)
    assert found.spacing == pytest.approx((0.2, 0.3, 1.0))
    assert found.spacing_known
    assert found.modality == "US"
    assert not load_pair(second)[0].spacing_known


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"image,other\na,b\n", "has the columns image, other"),
        (b"image,label\na.png,\n", "line 2 names no label"),
        (b"image,label,label\na,b,c\n", "two columns label"),
        (b"image,label,fold\na,b,first\n", "fold 'first' is no number"),
        (b"image,label,part\na,b,maybe\n", "part 'maybe' is unknown"),
        (b"image,label\n\xff\xfe,b\n", "UTF-8"),
        (b"\xff\xfei\0m\0a\0g\0e\0", "no text in UTF-8"),
        (b"image,label\nnone.png,none.png\n", "does not exist"),
        (b"", "has the columns none"),
        (b"image,label\n", "holds no case"),
    ],
)
def test_csvs_that_are_none_are_said(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "cases.csv").write_bytes(text)
    with pytest.raises(InputError, match=words):
        read_cases(tmp_path / "cases.csv")


def test_a_table_of_diagnoses_is_no_list_of_cases(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "diagnoses.csv").write_text("image,label\nx0.png,benign\n")
    assert read_dataset(tmp_path).layout == "images and masks in two folders"


def test_pixel_sizes_beside_a_folder_of_images(tmp_path: Path, shared: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "sizes.csv").write_text("filename,pixel size(mm),other\nx1.png,0.25,9\n")
    found = read_dataset(tmp_path)
    assert [case.spacing for case in found.cases] == [None, (0.25, 0.25, 1.0), None]
    assert found.notes == ("spacing of each image: sizes.csv",)
    heads = read_cases(shared / "data" / "fetal-head-us")
    assert {case.id: case.spacing for case in heads}["003_HC"] == (0.0912911675193, 0.0912911675193, 1.0)


def test_a_stated_voxel_size_must_be_the_files_own(tmp_path: Path) -> None:
    nifti(tmp_path / "a.nii.gz", scan())
    nifti(tmp_path / "b.nii.gz", labels())
    (tmp_path / "cases.csv").write_text("image,label,spacing\na.nii.gz,b.nii.gz,1x1.25x2.5\n")
    assert load_pair(read_cases(tmp_path)[0])[0].spacing == pytest.approx((1, 1.25, 2.5))
    (tmp_path / "cases.csv").write_text("image,label,spacing\na.nii.gz,b.nii.gz,2x1.25x2.5\n")
    with pytest.raises(InputError, match=r"has voxels of 1x1\.25x2\.5 mm, its list says 2x1\.25x2\.5"):
        load_pair(read_cases(tmp_path)[0])


def test_samus(tmp_path: Path) -> None:
    for number, place in enumerate(("Breast", "Heart", "Heart", "Breast")):
        picture(tmp_path / place / "img" / f"n{number}.png", number)
        drawn(tmp_path / place / "label" / f"n{number}.png", number, value=128 if place == "Breast" else 3)
    lists = tmp_path / "MainPatient"
    lists.mkdir()
    (lists / "class.json").write_text('{"Breast": 2, "Heart": 4}')
    (lists / "train.txt").write_text("1/Breast/n0\n1/Heart/n1\n3/Heart/n1\n")
    (lists / "train-Breast.txt").write_text("1/Breast/n0\n")
    (lists / "val.txt").write_text("1/Heart/n2\n")
    (lists / "test.txt").write_text("Breast/n3\n")
    found = read_dataset(tmp_path)
    assert found.layout == "SAMUS"
    assert {case.id: case.part for case in found.cases} == {
        "Breast_n0": "train",
        "Heart_n1": "train",
        "Heart_n2": "validation",
        "Breast_n3": "test",
    }
    by_id = {case.id: load_pair(case)[1] for case in found.cases}
    # Two classes: whatever is above 0 is the object. More: the values count.
    assert set(np.unique(by_id["Breast_n0"])) == {0, 1}
    assert set(np.unique(by_id["Heart_n1"])) == {0, 3}
    split = split_cases(found.cases, 0)
    assert [[case.id for case in part] for part in (split.validation, split.test)] == [["Heart_n2"], ["Breast_n3"]]
    (lists / "class.json").write_text('{"Breast": 2}')
    with pytest.raises(InputError, match="does not name Heart"):
        read_cases(tmp_path)
    (lists / "val.txt").write_text("../../etc/passwd\n")
    with pytest.raises(InputError, match=r"line 1 is '\.\./\.\./etc/passwd'"):
        read_cases(tmp_path)
    (lists / "val.txt").write_text("1/../passwd\n")
    with pytest.raises(InputError, match="not in its folder"):
        read_cases(tmp_path)


def npz(path: Path, **arrays: Any) -> Path:
    np.savez_compressed(path, **arrays)
    return path


def test_medsams_npz(tmp_path: Path) -> None:
    image = scan(0).clip(0, 255).astype(np.uint8)
    mask = labels()
    spacing = np.array([0.5, 0.75, 3.0])
    npz(tmp_path / "CT_one.npz", imgs=image.transpose(2, 1, 0), gts=mask.transpose(2, 1, 0), spacing=spacing)
    found = read_dataset(tmp_path)
    assert found.layout == "MedSAM npz"
    loaded, values = load_pair(found.cases[0])
    assert np.array_equal(loaded.voxels[0], image)
    assert np.array_equal(values, mask)
    assert loaded.affine == pytest.approx(np.diag([-0.5, -0.75, 3.0, 1.0]))
    flat = npz(tmp_path / "flat.npz", imgs=np.dstack([image[:, :, 0].T] * 2 + [image[:, :, 1].T]), gts=mask[:, :, 1].T)
    loaded, values = load_pair(read_cases(flat)[0])
    assert loaded.voxels.shape == (3, *image.shape[:2], 1)
    assert np.array_equal(values[:, :, 0], mask[:, :, 1])
    assert not loaded.spacing_known


def test_the_real_npz_of_medsam2(shared: Path) -> None:
    path = next((shared / "data" / "misc-3d" / "medsam2-npz").glob("*.npz"))
    stored = np.load(path)
    loaded, values = load_pair(read_cases(path)[0])
    assert np.array_equal(values, stored["gts"].transpose(2, 1, 0))
    assert np.array_equal(loaded.voxels[0], stored["imgs"].transpose(2, 1, 0))
    assert loaded.spacing == pytest.approx(stored["spacing"])


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"gts": labels()}, "holds no array imgs, but gts"),
        ({"imgs": np.array([{"a": 1}], dtype=object), "gts": labels()}, "damaged"),
        ({"imgs": scan()[None, None], "gts": labels()}, "no scan"),
        ({"imgs": scan(), "gts": labels(), "spacing": np.ones(2)}, "spacing is"),
        ({"imgs": scan(), "gts": labels(), "spacing": np.array([0.0, 1, 1])}, "voxel size is 0"),
        ({"imgs": scan(), "gts": labels()[1:]}, "does not lie on the grid"),
    ],
)
def test_npz_files_that_are_no_case_are_said(tmp_path: Path, arrays: dict[str, np.ndarray], words: str) -> None:
    path = npz(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=words):
        load_pair(read_cases(path)[0])


def test_an_encrypted_npz_is_said(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", imgs=scan(), gts=labels())
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + place] |= 1
            at = data.find(mark, at + 4)
    path.write_bytes(data)
    with pytest.raises(InputError, match="encrypted"):
        load_pair(read_cases(path)[0])


def test_a_cut_npz_is_damaged(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", imgs=scan(), gts=labels())
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="damaged"):
        load_pair(read_cases(path)[0])


def test_the_same_names_in_several_folders_are_patients(tmp_path: Path, shared: Path) -> None:
    for place in ("p1", "p2"):
        picture(tmp_path / place / "T1_image.png", len(place))
        drawn(tmp_path / place / "T1_mask.png")
    assert [(case.id, case.group) for case in read_cases(tmp_path)] == [("p1_T1", "p1"), ("p2_T1", "p2")]
    tumours = read_cases(shared / "data" / "soft-tissue-sarcoma")
    assert sum(case.group == "STS_008" for case in tumours) == 3


def test_imagestr_and_labelstr_without_a_listing(tmp_path: Path) -> None:
    for name in ("a", "b"):
        nifti(tmp_path / "imagesTr" / f"{name}_0000.nii.gz", scan())
        nifti(tmp_path / "labelsTr" / f"{name}.nii.gz", labels())
    (tmp_path / "labels.json").write_text('{"liver": 1, "tumour": 2}')
    found = read_dataset(tmp_path)
    assert [case.label.name for case in found.cases] == ["a.nii.gz", "b.nii.gz"]
    assert found.labels == {1: "liver", 2: "tumour"}


@pytest.mark.parametrize(
    ("last", "what"), [("a.png,0.1,50", None), ("a.png,0.3,50", "spacing"), ("a.png,0.10,51", "circumference")]
)
def test_a_table_does_not_say_two_things_of_one_file(tmp_path: Path, last: str, what: str | None) -> None:
    """The last line used to win, and every length with it."""
    path = tmp_path / "sizes.csv"
    path.write_text(f"filename,pixel size(mm),head circumference (mm)\na.png,0.1,50\nb.png,0.2,60\n{last}\n")
    if what is None:
        assert table.facts_in(path)[0]["a.png"]["circumference"] == 50
        return
    with pytest.raises(InputError, match=rf"sizes\.csv, line 4: {what} of a\.png is not what line 2 says"):
        table.facts_in(path)
