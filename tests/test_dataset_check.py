"""`medseg dataset check`: what is wrong with a dataset, one line each, and 3 if there is anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_phantom import affine, drawn, labels, nifti, nnunet, picture, pictures, scan

Run = Callable[..., tuple[int, str, str]]


def findings(in_process: Run, *arguments: object, code: int = 3) -> list[tuple[str, str]]:
    """(kind, text and remedy) of each finding of a check that ends with `code`."""
    got, out, err = in_process("dataset", "check", *arguments, "--json")
    assert got == code, err
    return [(each["kind"], f"{each['text']}; {each['remedy']}") for each in json.loads(out)["findings"]]


def test_a_clean_dataset_and_its_numbers(in_process: Run, tmp_path: Path) -> None:
    nnunet(tmp_path / "data")
    code, out, _ = in_process("dataset", "check", "data")
    assert code == 0
    assert "nnU-Net v2, 3 cases of 3 patients" in out
    assert out.rstrip().endswith("nothing is wrong")
    code, out, _ = in_process("dataset", "check", "data", "--json")
    told = json.loads(out)
    assert code == 0
    counts = [int((labels(number) == 1).sum()) for number in range(3)]
    volumes = [counts[number] * abs(np.linalg.det(affine(number)[:3, :3])) / 1000 for number in range(3)]
    liver = told["classes"][0]
    assert (liver["value"], liver["name"], liver["cases"]) == (1, "liver", 3)
    assert liver["voxels"] == [min(counts), sorted(counts)[1], max(counts)]
    assert liver["millilitres"] == pytest.approx([min(volumes), sorted(volumes)[1], max(volumes)])
    assert told["ranges"]["intensity"] == [-300, int(scan(2).max())]
    assert told["ranges"]["shape"] == [[8, 7, 6], [8, 7, 6]]
    assert told["ranges"]["spacing_mm"] == [[1, 1.25, 2.5], [1.25, 1.25, 2.5]]
    assert told["ranges"]["modalities"] == {"CT": 3}
    assert told["per_case"][1]["voxels"]["1"] == counts[1]


def test_everything_that_can_be_wrong_is_one_finding(in_process: Run, tmp_path: Path) -> None:
    data = nnunet(tmp_path / "data", 10)
    mask = data / "labelsTr"
    nifti(mask / "p0.nii.gz", labels(0), affine(5))
    nifti(mask / "p1.nii.gz", labels(1)[1:], affine(1))
    nifti(mask / "p2.nii.gz", labels(2, (1, 2, 9)), affine(2))
    nifti(mask / "p3.nii.gz", labels(3) * 0, affine(3))
    nifti(mask / "p4.nii.gz", labels(4) * np.float32(0.75), affine(4))
    (mask / "p5.nii.gz").write_bytes((mask / "p5.nii.gz").read_bytes()[:60])
    (data / "imagesTr" / "p6_0000.nii.gz").unlink()
    nifti(data / "imagesTr" / "p7_0000.nii.gz", scan(7) * 0, affine(7))
    nifti(data / "imagesTr" / "p8_0000.nii.gz", scan(9), affine(9))
    nifti(mask / "p8.nii.gz", labels(9), affine(9))
    found = findings(in_process, "data")
    told = {(kind, next(f"p{n}" for n in range(10) if f"p{n}" in text)) for kind, text in found}
    assert told == {
        ("geometry", "p0"),
        ("geometry", "p1"),
        ("values", "p2"),
        ("empty", "p3"),
        ("float", "p4"),
        ("unreadable", "p5"),
        ("missing", "p6"),
        ("image", "p7"),
        ("duplicate", "p8"),
    }
    by_kind = dict(reversed(found))
    assert "holds 9, which the label map does not name (1 liver, 2 tumour)" in by_kind["values"]
    assert "holds fractions, for example 0.75" in by_kind["float"]
    assert "affines differ by up to 5 mm" in by_kind["geometry"]
    code, out, _ = in_process("dataset", "check", "data")
    assert code == 3
    lines = [line for line in out.splitlines() if line.split(":")[0] in {kind for kind, _ in told}]
    assert len(lines) == len(found)
    assert all(";" in line for line in lines)
    assert out.rstrip().endswith(f"{len(found)} findings")


def test_a_class_that_no_mask_holds(in_process: Run, tmp_path: Path) -> None:
    nnunet(tmp_path / "data", values=(1,))
    ((kind, text),) = findings(in_process, "data")
    assert kind == "absent"
    assert "no mask holds class 2 (tumour)" in text


def test_copies_are_told_by_their_content(in_process: Run, tmp_path: Path) -> None:
    """Not by their bytes: the same voxels in another format are a copy, too."""
    pictures(tmp_path / "data", 2)
    picture(tmp_path / "data" / "images" / "copy.bmp", 1)
    drawn(tmp_path / "data" / "masks" / "copy.bmp", 5)
    ((kind, text),) = findings(in_process, "data")
    assert kind == "duplicate"
    assert "copy.bmp holds the same values as" in text
    assert "of 2 patients" in text
    assert findings(in_process, "data", "--group-by", ".", code=3) != []
    (tmp_path / "data" / "facts.csv").write_text("id,group\ncopy,anna\nx1,anna\n")
    assert findings(in_process, "data", code=0) == []


def test_several_masks_of_one_image_are_no_copies(in_process: Run, tmp_path: Path) -> None:
    picture(tmp_path / "data" / "x.png")
    drawn(tmp_path / "data" / "x_mask.png")
    drawn(tmp_path / "data" / "x_mask_1.png", 3)
    assert findings(in_process, "data", code=0) == []


def test_patients_on_both_sides_of_a_split(in_process: Run, tmp_path: Path) -> None:
    nnunet(tmp_path / "data", 4)
    (tmp_path / "splits.json").write_text(json.dumps([{"train": ["p0", "p2"], "val": ["p1", "p3"]}]))
    assert findings(in_process, "data", "--splits", "splits.json", code=0) == []
    facts = json.loads((tmp_path / "data" / "dataset.json").read_text())
    cases = {"p0": {"group": "anna"}, "p1": {"group": "anna"}}
    (tmp_path / "data" / "dataset.json").write_text(json.dumps({**facts, "cases": cases}))
    ((kind, text),) = findings(in_process, "data", "--splits", "splits.json")
    assert kind == "leak"
    assert "anna is on two sides of the split" in text
    # nnU-Net's own name beside the dataset is looked through without being asked for.
    (tmp_path / "splits.json").rename(tmp_path / "data" / "splits_final.json")
    assert [kind for kind, _ in findings(in_process, "data")] == ["leak"]


def test_a_patient_for_training_and_testing(in_process: Run, tmp_path: Path) -> None:
    pictures(tmp_path / "data", 4)
    (tmp_path / "data" / "facts.csv").write_text("id,group,part\nx0,anna,train\nx1,anna,test\nx2,,train\nx3,,test\n")
    ((kind, text),) = findings(in_process, "data")
    assert kind == "leak"
    assert "patient anna is in more than one part" in text


def test_what_a_preset_cannot_learn_from(in_process: Run, tmp_path: Path) -> None:
    nnunet(tmp_path / "volumes")
    ((kind, text),) = findings(in_process, "volumes", "--preset", "hippocampus-mr")
    assert kind == "preset"
    assert "p0, p1, p2: of modality CT, and preset hippocampus-mr is for MR" in text
    pictures(tmp_path / "pictures")
    ((kind, text),) = findings(in_process, "pictures", "--preset", "hippocampus-mr")
    assert "pictures without depth" in text
    assert findings(in_process, "volumes", "--preset", "dynunet-baseline", code=0) == []
    code, _, err = in_process("dataset", "check", "pictures", "--preset", "nothing")
    assert code == 4
    assert "no preset is called 'nothing'" in err


def test_cines_have_pixels_and_no_volume(in_process: Run, tmp_path: Path) -> None:
    frames = np.zeros((8, 7, 1, 5), np.uint8)
    frames[2:5, 2:4] = 1
    seen = np.random.default_rng(0).integers(0, 256, frames.shape).astype(np.uint8)
    for folder, values in (("images", seen), ("masks", frames)):
        nifti(tmp_path / "data" / folder / "loop.nii.gz", values, affine())
    code, out, err = in_process("dataset", "check", "data")
    assert code == 0, err
    assert "pixels   8 x 7 x 5" in out
    assert "voxels" not in out
    code, out, _ = in_process("dataset", "check", "data", "--json")
    assert json.loads(out)["classes"][0]["millilitres"] is None
    ((kind, text),) = findings(in_process, "data", "--preset", "hippocampus-mr")
    assert (kind, "pictures without depth or cines" in text) == ("preset", True)


@pytest.mark.parametrize("path", ["nowhere", "empty", "file.txt"])
def test_what_is_no_dataset_is_one_line(in_process: Run, tmp_path: Path, path: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    code, out, err = in_process("dataset", "check", path)
    assert (code, out) == (3, "")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "hint"]


def test_one_case_in_memory_at_a_time(in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the scans that a check has read, no more than two live when the next one is opened."""
    import weakref

    from medseg_cli.datasets import check

    nnunet(tmp_path / "data", 6)
    read: list[weakref.ref] = []
    most = []
    original = check.read_file

    def counting(path: Path, options: object) -> object:
        most.append(sum(each() is not None for each in read))
        found = original(path, options)
        read.append(weakref.ref(found))
        return found

    monkeypatch.setattr(check, "read_file", counting)
    assert findings(in_process, "data", code=0) == []
    assert len(read) == 12
    assert max(most) <= 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "cases", "kinds"),
    [
        ("hippocampus-mr", 184, []),
        ("Dataset101_HeadNeckCT", 13, []),
        ("breast-us", 26, ["empty", "empty"]),
        ("sam-med2d-layout", 30, []),
        ("fetal-head-us", 34, []),
        ("chest-xray-lungs", 80, []),
        ("soft-tissue-sarcoma", 7, []),
        ("misc-3d/medsam2-npz", 1, []),
    ],
)
def test_real_datasets(in_process: Run, shared: Path, folder: str, cases: int, kinds: list[str]) -> None:
    code, out, _ = in_process("dataset", "check", shared / "data" / folder, "--json")
    told = json.loads(out)
    assert (told["cases"], [each["kind"] for each in told["findings"]]) == (cases, kinds)
    assert code == (3 if kinds else 0)


def test_large_values_are_counted_as_well(in_process: Run, tmp_path: Path) -> None:
    """Beyond what one array of counts may hold."""
    data = nnunet(tmp_path / "data", 1)
    nifti(data / "labelsTr" / "p0.nii.gz", labels(0).astype(np.int32) * 100_000, affine(0))
    assert {kind for kind, _ in findings(in_process, "data")} == {"values", "absent"}
    told = json.loads(in_process("dataset", "check", "data", "--json")[1])
    assert told["per_case"][0]["voxels"]["200000"] == int((labels(0) == 2).sum())
