"""`medseg evaluate` on masks in files, through the command line, with answers that are known beforehand."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import phantom
import pytest
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
SPACING = (1.0, 2.0, 1.5)
SIZE = (24, 20, 16)


def block(start: int, value: int = 1, width: int = 8) -> np.ndarray:
    """A box of `width` x 6 x 5 voxels that begins at i = `start`."""
    mask = np.zeros(SIZE, np.uint8)
    mask[start : start + width, 5:11, 4:9] = value
    return mask


def save(path: Path, values: np.ndarray, spacing: tuple[float, float, float] = SPACING, origin: float = 0.0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    matrix = phantom.affine(spacing=spacing, origin=(origin, 0.0, 0.0))
    return phantom.write_volume(path, values, matrix)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Four cases whose prediction is shifted by 0, 1, 2 and 4 voxels of 1 mm; value 2 lies far from value 1."""
    for number, shift in enumerate((0, 1, 2, 4)):
        two = block(18, 2, 3)
        save(tmp_path / "ref" / f"c{number}.nii.gz", block(2) + two)
        save(tmp_path / "pred" / f"c{number}_seg.nii.gz", block(2 + shift) + two)
    (tmp_path / "ref" / "dataset.json").write_text('{"labels": {"background": 0, "organ": 1, "lesion": 2}}')
    return tmp_path


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def test_folders_give_a_report_with_known_numbers(in_process: Run, folders: Path) -> None:
    code, _, err = in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "report")
    assert code == 0, err
    assert sorted(path.name for path in (folders / "report").iterdir()) == ["cases.csv", "report.html", "summary.json"]
    report = read(folders / "report" / "summary.json")
    assert (report["cases"], report["failed_cases"], report["objects"]) == (4, 0, 8)
    assert report["labels"] == {"1": "organ", "2": "lesion"}
    by_case = {case["id"]: case["metrics"] for case in report["metric_per_case"]}
    for number, shift in enumerate((0, 1, 2, 4)):
        organ, lesion = by_case[f"c{number}"]["1"], by_case[f"c{number}"]["2"]
        assert organ["Dice"] == pytest.approx((8 - shift) / 8, abs=1e-6)
        assert organ["IoU"] == pytest.approx((8 - shift) / (8 + shift), abs=1e-6)
        assert organ["HD_mm"] == organ["HD95_mm"] == pytest.approx(shift)
        assert organ["volume_ml"] == organ["reference_volume_ml"] == pytest.approx(8 * 6 * 5 * 3 / 1000)
        assert organ["volume_error_relative"] == 0
        inside = (8 - shift) * 30
        assert [organ[key] for key in ("TP", "FP", "FN", "TN", "n_pred", "n_ref")] == [
            inside,
            shift * 30,
            shift * 30,
            math.prod(SIZE) - 240 - shift * 30,
            240,
            240,
        ]
        assert (lesion["Dice"], lesion["HD_mm"], lesion["detection_rate"]) == (1.0, 0.0, 1.0)
    assert report["mean"]["1"]["Dice"] == pytest.approx(np.mean([1, 7 / 8, 6 / 8, 4 / 8]), abs=1e-6)
    assert report["foreground_mean"]["Dice"] == pytest.approx((0.78125 + 1) / 2, abs=1e-6)
    spread = report["statistics"]["1"]["HD95_mm"]
    assert (spread["mean"], spread["median"], spread["least"], spread["most"]) == pytest.approx((1.75, 1.5, 0, 4))
    assert spread["low"] < spread["mean"] < spread["high"]


def test_the_table_has_a_row_per_object(in_process: Run, folders: Path) -> None:
    assert in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "cases.csv")[0] == 0
    rows = list(csv.DictReader((folders / "cases.csv").read_text().splitlines()))
    assert [(row["case"], row["name"]) for row in rows] == [
        (f"c{n}", name) for n in range(4) for name in ("organ", "lesion")
    ]
    assert float(rows[4]["Dice"]) == pytest.approx(0.75)
    assert {row["status"] for row in rows} == {"scored"}


def test_scripts_that_read_nnu_nets_summary_read_ours(in_process: Run, folders: Path) -> None:
    in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "summary.json")
    report = read(folders / "summary.json")
    keys = {"Dice", "IoU", "TP", "FP", "FN", "TN", "n_pred", "n_ref"}
    assert keys <= set(report["foreground_mean"])
    assert all(keys <= set(report["mean"][label]) for label in ("1", "2"))
    for case in report["metric_per_case"]:
        assert {"prediction_file", "reference_file", "metrics"} <= set(case)
        assert all(keys <= set(numbers) for numbers in case["metrics"].values())


def test_the_page_fetches_nothing_and_shows_the_worst(in_process: Run, folders: Path) -> None:
    for number in range(4):
        save(folders / "img" / f"c{number}_0000.nii.gz", phantom.voxels(SIZE))
    options = ("--images", folders / "img", "--worst", 2, "-o", folders / "report.html")
    code, _, err = in_process("evaluate", folders / "pred", folders / "ref", *options)
    assert code == 0, err
    page = (folders / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href|url|import)\s*[=(:]\s*['"]?([^'")\s>]+)""", page)
    assert sources, "there are pictures"
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://", page)
    assert "<link" not in page
    assert "prefers-color-scheme: dark" in page
    assert re.findall(r"<figcaption><b>(\w+)</b>", page) == ["c3", "c2"]
    assert page.count("<svg") == page.count("</svg>") >= 6


def test_names_are_text_and_not_markup(in_process: Run, tmp_path: Path) -> None:
    for place in ("pred", "ref"):
        save(tmp_path / place / "<script>alert(1)<script>.nii.gz", block(3))
    assert in_process("evaluate", tmp_path / "pred", tmp_path / "ref", "-o", tmp_path / "r.html")[0] == 0
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_names_are_no_formulas_of_a_spreadsheet(in_process: Run, tmp_path: Path) -> None:
    save(tmp_path / "pred" / "=1+1.nii.gz", block(3))
    save(tmp_path / "ref" / "=1+1.nii.gz", block(3))
    assert in_process("evaluate", tmp_path / "pred", tmp_path / "ref", "-o", tmp_path / "report")[0] == 0
    assert (tmp_path / "report" / "cases.csv").read_text().splitlines()[1].startswith("'=1+1,'=1+1,")


def test_two_files_in_two_formats(in_process: Run, tmp_path: Path) -> None:
    reference = save(tmp_path / "manual.nrrd", block(2))
    code, out, err = in_process("evaluate", save(tmp_path / "mine.mha", block(4)), reference, "--json")
    assert code == 0, err
    report = json.loads(out)
    (case,) = report["metric_per_case"]
    assert (case["id"], case["prediction_file"], case["reference_file"]) == ("manual", "mine.mha", "manual.nrrd")
    assert case["metrics"]["1"]["Dice"] == pytest.approx(0.75)
    assert report["statistics"]["1"]["Dice"]["low"] is None, "one patient has no interval"


def test_a_failing_case_is_a_row_and_loses_no_other(in_process: Run, folders: Path) -> None:
    (folders / "pred" / "c0_seg.nii.gz").write_bytes(b"\x1f\x8b broken")
    save(folders / "pred" / "c1_seg.nii.gz", block(2)[:-1])
    (folders / "pred" / "c2_seg.nii.gz").unlink()
    save(folders / "pred" / "other.nii.gz", block(2))
    code, _, err = in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "report")
    assert code == 8
    assert "1 of 4 cases scored" in err
    report = read(folders / "report" / "summary.json")
    reasons = {each["id"]: each["reason"] for each in report["failed"]}
    assert set(reasons) == {"c0", "c1", "c2"}
    assert "23 x 20 x 16 voxels" in reasons["c1"]
    assert "24 x 20 x 16 voxels" in reasons["c1"]
    assert "no prediction" in reasons["c2"]
    assert [case["id"] for case in report["metric_per_case"]] == ["c3"]
    assert any("other.nii.gz" in note for note in report["notes"])
    rows = list(csv.DictReader((folders / "report" / "cases.csv").read_text().splitlines()))
    assert [row["case"] for row in rows if row["status"] == "failed"] == ["c0", "c1", "c2"]
    page = (folders / "report" / "report.html").read_text(encoding="utf-8")
    assert "Failed cases" in page
    assert "3 cases failed" in page


def test_when_every_case_fails_the_report_says_why(in_process: Run, folders: Path) -> None:
    for number in range(4):
        save(folders / "pred" / f"c{number}_seg.nii.gz", block(2)[:-1])
    code, _, err = in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "report")
    assert code == 3
    assert "none of 4 cases could be scored" in err
    assert len(read(folders / "report" / "summary.json")["failed"]) == 4
    assert "Failed cases" in (folders / "report" / "report.html").read_text(encoding="utf-8")


def test_a_missing_prediction_can_count_as_empty(in_process: Run, folders: Path) -> None:
    (folders / "pred" / "c2_seg.nii.gz").unlink()
    code, out, _ = in_process("evaluate", folders / "pred", folders / "ref", "--missing", "empty", "--json")
    assert code == 0
    case = json.loads(out)["metric_per_case"][2]
    assert [case["metrics"][label]["Dice"] for label in "12"] == [0.0, 0.0]
    assert case["metrics"]["1"]["HD95_mm"] is None
    assert case["undefined_because"]["1"] == "the prediction is empty"


def test_a_label_that_a_case_lacks_in_both_masks_counts_as_found(in_process: Run, folders: Path) -> None:
    for place, name in (("ref", "c1"), ("pred", "c1_seg")):
        save(folders / place / f"{name}.nii.gz", block(2))
    save(folders / "pred" / "c2_seg.nii.gz", block(2))
    _, out, _ = in_process("evaluate", folders / "pred", folders / "ref", "--json")
    report = json.loads(out)
    by_case = {case["id"]: case for case in report["metric_per_case"]}
    assert [by_case[f"c{n}"]["metrics"]["2"]["Dice"] for n in range(4)] == [1, 1, 0, 1]
    assert by_case["c1"]["undefined_because"] == {"2": "both are empty"}
    assert by_case["c1"]["metrics"]["2"]["TN"] == math.prod(SIZE)
    empty = report["empty_masks"]
    assert (empty["both are empty"], empty["the prediction is empty"], empty["the reference is empty"]) == (1, 1, 0)
    spread = report["statistics"]["2"]
    assert (spread["Dice"]["n"], spread["HD95_mm"]["n"], spread["HD95_mm"]["undefined"]) == (4, 2, 2)
    assert spread["Dice"]["mean"] == pytest.approx(0.75)


def test_geometry_is_compared_before_scoring(in_process: Run, tmp_path: Path) -> None:
    reference = save(tmp_path / "ref.nii.gz", block(2))
    moved = save(tmp_path / "moved.nii.gz", block(2), origin=7.5)
    code, _, err = in_process("evaluate", moved, reference, "-o", tmp_path / "report")
    assert code == 3
    assert "7.5 mm away" in err
    assert "first voxel at ras 7.5" in err
    assert "--resample-to ref" in err
    assert not (tmp_path / "report").exists()


def test_another_grid_is_moved_only_when_asked(in_process: Run, tmp_path: Path) -> None:
    reference = save(tmp_path / "ref.nii.gz", block(2))
    # Every voxel twice along i, at half the spacing: the same object on a finer grid, whose first centre lies 0.25 mm
    # further back.
    fine = np.repeat(block(2), 2, axis=0)
    finer = save(tmp_path / "fine.nii.gz", fine, (0.5, 2.0, 1.5), origin=-0.25)
    assert in_process("evaluate", finer, reference)[0] == 3
    code, out, err = in_process("evaluate", finer, reference, "--resample-to", "ref", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["metric_per_case"][0]["metrics"]["1"]["Dice"] == 1.0
    assert report["resampled_to"] == "reference"
    assert any("nearest neighbour" in note for note in report["notes"])


def test_axes_in_another_order_are_the_same_place_after_moving(in_process: Run, tmp_path: Path) -> None:
    reference = save(tmp_path / "ref.nii.gz", block(2))
    image = nib.as_closest_canonical(nib.load(reference))
    turned = image.as_reoriented(nib.orientations.axcodes2ornt(("P", "S", "L")))
    nib.save(turned, tmp_path / "turned.nii.gz")
    code, out, err = in_process("evaluate", tmp_path / "turned.nii.gz", reference, "--resample-to", "ref", "--json")
    assert code == 0, err
    assert json.loads(out)["metric_per_case"][0]["metrics"]["1"]["Dice"] == 1.0


def test_what_lies_elsewhere_is_not_moved_to_nothing(in_process: Run, tmp_path: Path) -> None:
    reference = save(tmp_path / "ref.nii.gz", block(2))
    elsewhere = save(tmp_path / "else.nii.gz", block(2), origin=900.0)
    code, _, err = in_process("evaluate", elsewhere, reference, "--resample-to", "ref")
    assert code == 3
    assert "lies nowhere on the grid" in err


def _float(folder: Path) -> tuple[Any, ...]:
    return save(folder / "p.nii.gz", block(2).astype(np.float32) * 0.7), save(folder / "r.nii.gz", block(2))


def _unnamed(folder: Path) -> tuple[Any, ...]:
    (folder / "names.csv").write_text("value,name\n1,organ\n")
    masks = save(folder / "p.nii.gz", block(2, 9)), save(folder / "r.nii.gz", block(2))
    return *masks, "--labels", folder / "names.csv"


def _folder_and_file(folder: Path) -> tuple[Any, ...]:
    save(folder / "p" / "a.nii.gz", block(2))
    return folder / "p", save(folder / "r.nii.gz", block(2))


def _no_match(folder: Path) -> tuple[Any, ...]:
    save(folder / "p" / "a.nii.gz", block(2))
    save(folder / "r" / "b.nii.gz", block(2))
    return folder / "p", folder / "r"


def _empty_folder(folder: Path) -> tuple[Any, ...]:
    (folder / "p").mkdir()
    save(folder / "r" / "b.nii.gz", block(2))
    return folder / "p", folder / "r"


def _twice(folder: Path) -> tuple[Any, ...]:
    for name in ("a.nii.gz", "a_seg.nrrd"):
        save(folder / "p" / name, block(2))
    save(folder / "r" / "a.nii.gz", block(2))
    return folder / "p", folder / "r"


def _absent(folder: Path) -> tuple[Any, ...]:
    return folder / "nowhere.nii.gz", save(folder / "r.nii.gz", block(2))


def _alone(folder: Path) -> tuple[Any, ...]:
    return (save(folder / "r.nii.gz", block(2)),)


def _tolerance(folder: Path) -> tuple[Any, ...]:
    return save(folder / "p.nii.gz", block(2)), save(folder / "r.nii.gz", block(2)), "--nsd-mm", "1,wide"


def _report_of_another_kind(folder: Path) -> tuple[Any, ...]:
    return save(folder / "p.nii.gz", block(2)), save(folder / "r.nii.gz", block(2)), "-o", folder / "report.pdf"


def _no_report_to_compare_with(folder: Path) -> tuple[Any, ...]:
    (folder / "old.json").write_text('{"dice": 1}')
    masks = save(folder / "p.nii.gz", block(2)), save(folder / "r.nii.gz", block(2))
    return *masks, "--against", folder / "old.json"


def _preset_and_reference(folder: Path) -> tuple[Any, ...]:
    masks = save(folder / "p.nii.gz", block(2)), save(folder / "r.nii.gz", block(2))
    return *masks, "--preset", "hippocampus-mr"


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (_float, 3, "holds 0.7, and labels are whole numbers"),
        (_unnamed, 3, "p.nii.gz holds label 9, which names.csv does not name"),
        (_folder_and_file, 2, "is a folder and"),
        (_no_match, 3, "named like a reference"),
        (_empty_folder, 3, "holds no mask"),
        (_twice, 3, "two masks of one case: a.nii.gz and a_seg.nrrd"),
        (_absent, 3, "does not exist"),
        (_alone, 2, "nothing to compare"),
        (_tolerance, 2, "--nsd-mm '1,wide'"),
        (_report_of_another_kind, 2, ".json, .csv, .html"),
        (_no_report_to_compare_with, 3, "no report to compare with"),
        (_preset_and_reference, 2, "is too many"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
def test_bad_input_is_refused_in_words(
    in_process: Run, tmp_path: Path, make: Callable[[Path], tuple[Any, ...]], code: int, words: str
) -> None:
    found, _, err = in_process("evaluate", *make(tmp_path))
    assert found == code, err
    assert words in err
    assert "Traceback" not in err


def test_voxels_that_are_no_number_are_said(in_process: Run, tmp_path: Path) -> None:
    values = block(2).astype(np.float32)
    values[0, 0, 0] = np.nan
    masks = save(tmp_path / "p.nii.gz", values), save(tmp_path / "r.nii.gz", block(2))
    code, out, _ = in_process("evaluate", *masks, "--json")
    assert code == 0
    assert any("NaN" in note for note in json.loads(out)["notes"])


def test_reports_are_replaced_only_when_asked(in_process: Run, folders: Path) -> None:
    arguments = ("evaluate", folders / "pred", folders / "ref", "-o", folders / "report")
    assert in_process(*arguments)[0] == 0
    (folders / "report" / "mine.txt").write_text("keep")
    before = (folders / "report" / "summary.json").read_bytes()
    code, _, err = in_process(*arguments)
    assert code == 3
    assert "--overwrite" in err
    assert (folders / "report" / "summary.json").read_bytes() == before
    assert in_process(*arguments, "--objects", "together", "--overwrite")[0] == 0
    assert (folders / "report" / "summary.json").read_bytes() != before
    assert (folders / "report" / "mine.txt").read_text() == "keep"
    assert not [path for path in (folders / "report").iterdir() if path.name.startswith(".")]


def test_ctrl_c_writes_what_there_is(in_process: Run, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg_cli.evaluation import from_files

    real, calls = from_files.score_values, []

    def stop_at_the_third(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(from_files, "score_values", stop_at_the_third)
    code, _, _ = in_process("evaluate", folders / "pred", folders / "ref", "-o", folders / "report")
    assert code == 130
    report = read(folders / "report" / "summary.json")
    assert (report["interrupted"], report["cases"], report["not_reached"]) == (True, 2, 2)
    assert "Interrupted: 2 of 4 cases" in (folders / "report" / "report.html").read_text(encoding="utf-8")


def test_a_bug_in_one_case_is_logged_and_loses_no_other(
    in_process: Run, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medseg_cli.evaluation import from_files

    real, calls = from_files.score_values, []

    def break_at_the_second(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("a bug")
        return real(*arguments)

    monkeypatch.setattr(from_files, "score_values", break_at_the_second)
    log = folders / "log.jsonl"
    code, out, _ = in_process("evaluate", folders / "pred", folders / "ref", "--json", "--log-json", log)
    assert code == 8
    report = json.loads(out)
    assert [each["reason"] for each in report["failed"]] == ["unexpected ZeroDivisionError: a bug"]
    assert report["cases"] == 3
    assert "break_at_the_second" in log.read_text()


def test_another_method_is_compared_case_by_case(in_process: Run, tmp_path: Path) -> None:
    for number in range(6):
        save(tmp_path / "ref" / f"c{number}.nii.gz", block(2))
        save(tmp_path / "pred" / f"c{number}.nii.gz", block(3))
        save(tmp_path / "pred2" / f"c{number}.nii.gz", block(4 + number % 3))
    here = ("evaluate", tmp_path / "pred", tmp_path / "ref")
    code, out, err = in_process(*here, "--against", tmp_path / "pred2", "--json", "-o", tmp_path / "report")
    assert code == 0, err
    (dice,) = [each for each in json.loads(out)["comparison"] if each["metric"] == "Dice"]
    shifts = np.array([2, 3, 4, 2, 3, 4])
    assert dice["mean"] == pytest.approx(7 / 8)
    assert dice["difference"] == pytest.approx(7 / 8 - np.mean((8 - shifts) / 8))
    assert 1 / 8 < dice["low"] < dice["difference"] < dice["high"] < 3 / 8
    # All six differences point the same way: 2 of the 2^6 ways to give them signs.
    assert dice["p"] == pytest.approx(2 / 2**6)
    assert (dice["n"], dice["larger"], dice["smaller"], dice["equal"]) == (6, 6, 0, 0)
    assert "Against pred2" in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")

    # The same from the other method's own report, and from one that nnU-Net wrote.
    assert in_process("evaluate", tmp_path / "pred2", tmp_path / "ref", "-o", tmp_path / "two")[0] == 0
    for earlier in (tmp_path / "two" / "summary.json", tmp_path / "two"):
        _, out, _ = in_process(*here, "--against", earlier, "--json")
        assert [each for each in json.loads(out)["comparison"] if each["metric"] == "Dice"] == [dice]
    rows = [
        {
            "metrics": {"1": {"Dice": (8 - shift) / 8 if number else math.nan}},
            "reference_file": f"/data/labelsTs/c{number}.nii.gz",
            "prediction_file": f"/out/c{number}.nii.gz",
        }
        for number, shift in enumerate(shifts)
    ]
    (tmp_path / "nnunet.json").write_text(json.dumps({"metric_per_case": rows}))
    _, out, _ = in_process(*here, "--against", tmp_path / "nnunet.json", "--json")
    (theirs,) = [each for each in json.loads(out)["comparison"] if each["metric"] == "Dice"]
    assert (theirs["n"], theirs["left_out"]) == (5, 1)
    assert theirs["difference"] == pytest.approx(np.mean(shifts[1:] / 8) - 1 / 8)


def test_a_method_against_itself_has_no_p_value(in_process: Run, folders: Path) -> None:
    """Nor against its own report, whose numbers are rounded."""
    here = ("evaluate", folders / "pred", folders / "ref")
    in_process(*here, "-o", folders / "report")
    for itself in ("pred", "report"):
        _, out, _ = in_process(*here, "--against", folders / itself, "--json")
        found = json.loads(out)["comparison"]
        assert found
        assert {(each["difference"], each["p"]) for each in found} == {(0.0, None)}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A disc-like block and the same two pixels to the right, in two spellings of white."""
    for name, start, white in (("ref/a.png", 10, 255), ("pred/a_mask.png", 12, 1)):
        mask = np.zeros((30, 50), np.uint8)
        mask[5:25, start : start + 20] = white
        (tmp_path / name).parent.mkdir()
        Image.fromarray(mask).save(tmp_path / name)
    return tmp_path


def test_pictures_count_in_pixels_unless_their_size_is_known(in_process: Run, pictures: Path) -> None:
    here = ("evaluate", pictures / "pred", pictures / "ref", "--json")
    code, out, err = in_process(*here)
    assert code == 0, err
    found = json.loads(out)["metric_per_case"][0]["metrics"]["1"]
    assert found["Dice"] == pytest.approx(0.9)
    assert (found["HD_px"], found["area_px"]) == (2.0, 400)
    assert "NSD_2px" in found
    assert not [name for name in found if name.endswith(("_mm", "_ml"))]
    code, out, _ = in_process(*here, "--spacing", "0.5,0.25")
    found = json.loads(out)["metric_per_case"][0]["metrics"]["1"]
    assert (found["HD_mm"], found["area_mm2"]) == (pytest.approx(1.0), pytest.approx(50.0))
    assert not [name for name in found if name.endswith(("_px", "_ml"))]


def test_a_grey_mask_is_cut_at_half_and_said(in_process: Run, pictures: Path) -> None:
    with Image.open(pictures / "ref" / "a.png") as picture:
        picture.resize((100, 60), Image.Resampling.BICUBIC).resize((50, 30), Image.Resampling.BICUBIC).save(
            pictures / "ref" / "a.png"
        )
    _, out, _ = in_process("evaluate", pictures / "pred", pictures / "ref", "--json")
    report = json.loads(out)
    assert report["metric_per_case"][0]["metrics"]["1"]["Dice"] == pytest.approx(0.9, abs=0.02)
    assert any("shades of grey" in note for note in report["notes"])


def test_the_pictures_beside_masks_are_no_masks(in_process: Run, pictures: Path) -> None:
    from medseg_cli.writers import preview

    words = preview.PngImagePlugin.PngInfo()
    words.add_text(*preview.MARK)
    Image.new("RGB", (80, 60)).save(pictures / "pred" / "a_preview.png", pnginfo=words)
    (pictures / "pred" / "a.json").write_text("{}")
    code, _, err = in_process("evaluate", pictures / "pred", pictures / "ref", "--json")
    assert code == 0, err


def test_voxels_that_nobody_labelled_are_left_out(in_process: Run, tmp_path: Path) -> None:
    reference = block(2)
    reference[12:, :, :] = 7
    save(tmp_path / "ref" / "a.nii.gz", reference)
    save(tmp_path / "pred" / "a.nii.gz", block(2) + block(14, 1, 6))
    names = tmp_path / "dataset.json"
    names.write_text('{"labels": {"background": 0, "organ": 1, "ignore": 7}}')
    _, out, _ = in_process("evaluate", tmp_path / "pred", tmp_path / "ref", "--labels", names, "--json")
    report = json.loads(out)
    assert set(report["labels"]) == {"1"}
    assert report["metric_per_case"][0]["metrics"]["1"]["Dice"] == 1.0
    assert report["ignored_label"] == 7


def test_values_together_are_one_object(in_process: Run, folders: Path) -> None:
    _, out, _ = in_process("evaluate", folders / "pred", folders / "ref", "--objects", "together", "--json")
    report = json.loads(out)
    assert report["labels"] == {"1": "all labels together"}
    numbers = report["metric_per_case"][3]["metrics"]["1"]
    # 240 voxels of which 120 agree, and 90 that all agree.
    assert numbers["Dice"] == pytest.approx(2 * 210 / 660)
    assert (numbers["parts_ref"], numbers["detection_rate"]) == (2, 1.0)


def test_notes_do_not_stand_on_stdout(in_process: Run, folders: Path) -> None:
    code, out, err = in_process("evaluate", folders / "pred", folders / "ref", "--nsd-mm", "0.5,3")
    assert (code, out) == (0, "")
    assert "organ, 4 cases: Dice 0.7812" in err
    assert "NSD_0.5mm" in err
    code, out, err = in_process("evaluate", folders / "pred", folders / "ref", "-q")
    assert (code, out, err) == (0, "", "")


def test_two_empty_masks_have_no_label_and_are_no_failure(in_process: Run, tmp_path: Path) -> None:
    masks = [save(tmp_path / name, np.zeros(SIZE, np.uint8)) for name in ("p.nii.gz", "r.nii.gz")]
    code, out, err = in_process("evaluate", *masks, "--json", "-o", tmp_path / "report")
    assert code == 0, err
    report = json.loads(out)
    assert (report["cases"], report["objects"], report["labels"]) == (1, 0, {})
    assert any("both masks are empty" in note for note in report["notes"])
    _, out, _ = in_process("evaluate", *masks, "--json", "--objects", "together")
    assert json.loads(out)["dice_mean"] == 1.0
