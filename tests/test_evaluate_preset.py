"""`medseg evaluate DATASET --preset`: a dataset is predicted first, by a network whose answer is known."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import bright_box
import numpy as np
import pytest
from PIL import Image

from medseg_cli import pipelines

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def preset(tmp_path: Path) -> Iterator[Path]:
    """The preset "what is bright in a box", registered while the test runs."""
    bright_box.register()
    bright_box.preset(tmp_path / "preset", size=64)
    yield tmp_path / "preset" / "bright-box.yaml"
    del pipelines.PIPELINES["bright-box"]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Eight pictures, each with a bright lens that is its mask; a box round it holds dark corners, too."""
    folder = tmp_path / "set"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(8):
        mask = np.zeros((48, 64), np.uint8)
        mask[10 + number : 30, 20 : 40 + number] = 255
        rows, columns = np.indices(mask.shape)
        mask[(rows - 10 - number) + (columns - 20) < 4] = 0
        image = np.where(mask, 200, 40).astype(np.uint8)
        image[0, 0] = 0
        image[0, 1] = 255
        Image.fromarray(image).save(folder / "images" / f"e{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"e{number}.png")
    return folder


def test_a_preset_predicts_first(in_process: Run, preset: Path, dataset: Path, tmp_path: Path) -> None:
    options = ("--cases", "all", "--prompt", "box", "--device", "cpu")
    code, _, err = in_process("evaluate", dataset, "--preset", preset, *options, "-o", tmp_path / "report")
    assert code == 0, err
    report = json.loads((tmp_path / "report" / "summary.json").read_text())
    # The network sees the picture at its own scale, 64 across: what is bright is the block itself.
    assert report["dice_mean"] == 1.0
    assert (report["preset"], report["dataset"], report["part"], report["prompt"]) == (
        "bright-box",
        "set",
        "all",
        "box",
    )
    case = report["metric_per_case"][3]
    assert case["id"] == "e3"
    assert case["prompts"]["1"]["box_ijk"] == [20, 13, 0, 42, 29, 0]
    assert case["metrics"]["1"]["HD95_px"] == 0
    assert "data:image/png;base64," in (tmp_path / "report" / "report.html").read_text(encoding="utf-8")


def test_a_damaged_case_of_a_dataset_loses_no_other(in_process: Run, preset: Path, dataset: Path) -> None:
    (dataset / "images" / "e2.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    Image.new("L", (48, 64), 255).save(dataset / "masks" / "e5.png")
    Image.new("L", (64, 48)).save(dataset / "masks" / "e6.png")
    here = ("evaluate", dataset, "--preset", preset, "--cases", "all", "--prompt", "box", "--device", "cpu")
    code, out, _ = in_process(*here, "--json")
    assert code == 8
    report = json.loads(out)
    reasons = {each["id"]: each["reason"] for each in report["failed"]}
    assert set(reasons) == {"e2", "e5", "e6"}
    assert "(48, 64, 1)" in reasons["e5"]
    assert "labels nothing" in reasons["e6"]
    assert (report["cases"], report["dice_mean"]) == (5, 1.0)


def test_a_file_of_splits_names_the_cases(in_process: Run, preset: Path, dataset: Path, tmp_path: Path) -> None:
    names = [f"e{number}" for number in range(8)]
    folds = [{"train": names[2:], "val": names[:2]}, {"train": names[:5], "val": names[5:]}]
    (tmp_path / "splits_final.json").write_text(json.dumps(folds))
    here = ("evaluate", dataset, "--preset", preset, "--prompt", "box", "--device", "cpu", "--json")
    splits = ("--splits", tmp_path / "splits_final.json", "--fold", 1)
    code, out, err = in_process(*here, *splits, "--cases", "validation")
    assert code == 0, err
    report = json.loads(out)
    assert [case["id"] for case in report["metric_per_case"]] == ["e5", "e6", "e7"]
    assert (report["fold"], report["split_seed"]) == (1, None)
    code, _, err = in_process(*here, *splits)
    assert code == 3
    assert "the split has no test case" in err
    code, _, err = in_process(*here, *splits, "--cases", "all")
    assert code == 2


def test_clicks_are_the_same_under_a_seed(in_process: Run, preset: Path, dataset: Path) -> None:
    here = ("evaluate", dataset, "--preset", preset, "--cases", "all", "--prompt", "click", "--device", "cpu", "--json")
    places = []
    for seed in (0, 0, 1):
        _, out, _ = in_process(*here, "--seed", seed)
        places.append([case["prompts"]["1"]["click_ijk"] for case in json.loads(out)["metric_per_case"]])
    assert places[0] == places[1] != places[2]


def test_values_apart_have_a_click_and_a_score_each(in_process: Run, preset: Path, dataset: Path) -> None:
    for number in range(8):
        mask = np.zeros((48, 64), np.uint8)
        mask[5:15, 5:20], mask[30:40, 35:50] = 1, 3
        image = np.full(mask.shape, 30, np.uint8)
        image[mask == 1], image[mask == 3] = 120, 220
        image[0, 0], image[0, 1] = 0, 255
        Image.fromarray(image).save(dataset / "images" / f"e{number}.png")
        Image.fromarray(mask).save(dataset / "masks" / f"e{number}.png")
    here = ("evaluate", dataset, "--preset", preset, "--cases", "all", "--prompt", "click", "--device", "cpu", "--json")
    code, out, err = in_process(*here, "--objects", "apart")
    assert code == 0, err
    report = json.loads(out)
    assert set(report["labels"]) == {"1", "3"}
    for case in report["metric_per_case"]:
        assert [case["metrics"][label]["Dice"] for label in "13"] == [1.0, 1.0]
    _, out, _ = in_process(*here, "--objects", "together")
    report = json.loads(out)
    assert report["labels"] == {"1": "all labels together"}
    # One click finds one of the two blocks of 150 pixels.
    assert {case["metrics"]["1"]["Dice"] for case in report["metric_per_case"]} == {round(2 / 3, 6)}


@pytest.mark.parametrize(
    ("extra", "words"), [(("--images", "x"), "--images"), (("--resample-to", "ref"), "--resample-to")]
)
def test_options_for_files_are_refused(in_process: Run, preset: Path, dataset: Path, extra: tuple, words: str) -> None:
    code, _, err = in_process("evaluate", dataset, "--preset", preset, *extra)
    assert code == 2
    assert words in err
