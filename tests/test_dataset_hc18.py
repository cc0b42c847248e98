"""HC18 as it is downloaded: outlines become masks, subjects stay together, and a doubtful outline is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from safetensors.torch import save_file
from scipy import ndimage
from tiny_sam import SMALL, upstream

from medseg_cli import preset
from medseg_cli.batch.listing import list_cases
from medseg_cli.datasets import load_pair, read_dataset
from medseg_cli.weights.store import sha256_of

Run = Callable[..., tuple[int, str, str]]
NAMES = ("000_HC", "001_HC", "010_HC", "010_2HC", "010_3HC", "022_HC", "030_HC", "031_HC")
AXES = (17.0, 12.0)
PIXEL = 0.25
TABLE = "training_set_pixel_size_and_HC.csv"


def ellipse(x: float, y: float, long: float = AXES[0], short: float = AXES[1], turn: float = 0.5) -> np.ndarray:
    """(48 rows, 72 columns), true within the ellipse round (x, y)."""
    rows, columns = np.indices((48, 72))
    along = (columns - x) * np.cos(turn) + (rows - y) * np.sin(turn)
    across = (rows - y) * np.cos(turn) - (columns - x) * np.sin(turn)
    return (along / long) ** 2 + (across / short) ** 2 <= 1


def line(head: np.ndarray, width: int = 1) -> np.ndarray:
    """The outermost `width` pixels of a head; where the picture ends there is no line."""
    return head & ~ndimage.binary_erosion(head, iterations=width, border_value=1)


def save(path: Path, drawn: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(drawn.astype(np.uint8)).save(path)


def heads() -> dict[str, np.ndarray]:
    """Name → a head where no other one has it."""
    return {name: ellipse(30.3 + number, 20.2 + number) for number, name in enumerate(NAMES)}


def circumference(long: float, short: float) -> float:
    """By a polygon of many corners."""
    turn = np.linspace(0, 2 * np.pi, 20001)
    return float(np.hypot(np.diff(long * np.cos(turn)), np.diff(short * np.sin(turn))).sum())


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Both archives unpacked, and both tables beside them; the two sets use the same names."""
    noise = np.random.default_rng(0)
    for name, head in heads().items():
        save(tmp_path / "hc18" / "training_set" / f"{name}.png", noise.normal(60, 9, head.shape) + 110 * head)
        save(tmp_path / "hc18" / "training_set" / f"{name}_Annotation.png", line(head) * 255)
    save(tmp_path / "hc18" / "test_set" / "000_HC.png", noise.normal(60, 9, (48, 72)))
    rows = [f"{name}.png,{PIXEL},{circumference(*AXES) * PIXEL}" for name in NAMES]
    header = "filename,pixel size(mm),head circumference (mm)"
    (tmp_path / "hc18" / TABLE).write_text("\n".join([header, *rows, "805_HC.png,0.1,170"]) + "\n")
    (tmp_path / "hc18" / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n000_HC.png,9.5\n")
    return tmp_path / "hc18"


@pytest.mark.parametrize("place", ["", "training_set", "inside"])
def test_pictures_outlines_and_table_are_found(place: str, download: Path) -> None:
    if place == "inside":  # as some programs unpack an archive, and the table with the pictures
        shutil.move(download / "training_set", download / "inner")
        shutil.move(download / "inner", download / "training_set" / "training_set")
        shutil.move(download / TABLE, download / "training_set" / "training_set")
    found = read_dataset(download / ("" if place == "inside" else place))
    assert [(case.id, case.group) for case in found.cases] == sorted((name, name.split("_")[0]) for name in NAMES)
    assert {(case.spacing, case.modality) for case in found.cases} == {((PIXEL, PIXEL, 1.0), "US")}
    assert [case.circumference for case in found.cases] == pytest.approx([circumference(*AXES) * PIXEL] * len(NAMES))
    assert found.labels == {1: "fetal head"}
    assert any("test_set" in note for note in found.notes) == (place != "training_set")
    for case in found.cases:
        scan, labels = load_pair(case)
        assert np.array_equal(labels[:, :, 0].T == 1, heads()[case.id])
        assert scan.modality == "US"
        assert scan.spacing[:2] == pytest.approx((PIXEL, PIXEL))


def test_what_is_not_there_is_said(download: Path, in_process: Run) -> None:
    (download / TABLE).unlink()
    found = read_dataset(download / "training_set")
    assert any(TABLE in note and "unknown" in note for note in found.notes)
    assert {case.spacing for case in found.cases} == {None}
    (download / "training_set" / "001_HC_Annotation.png").unlink()
    (download / "training_set" / "022_HC.png").unlink()
    code, out, _ = in_process("dataset", "check", download / "training_set", "--json")
    told = json.loads(out)["findings"]
    assert code == 3
    assert [each["kind"] for each in told] == ["missing", "missing"]
    assert "001_HC.png: there is no 001_HC_Annotation.png" in told[0]["text"]
    assert "022_HC_Annotation.png: there is no 022_HC.png" in told[1]["text"]


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize(
    "head",
    [
        ellipse(33.2, 24.1),
        ellipse(5.4, 24.1),
        ellipse(33.2, 44.8, turn=0),
        ellipse(36.1, 2.2, 30, 8, 0.1),
        ellipse(2.3, 3.1),
        ellipse(66.2, 40.3),
    ],
    ids=["whole", "left", "bottom", "top", "corner", "other corner"],
)
def test_the_line_and_what_it_encloses_are_the_head(head: np.ndarray, width: int, download: Path) -> None:
    """Whole heads, and heads that an edge of the picture cuts: their line ends there, and so does the head."""
    save(download / "training_set" / "000_HC_Annotation.png", line(head, width) * 255)
    case = next(case for case in read_dataset(download).cases if case.id == "000_HC")
    assert np.array_equal(load_pair(case)[1][:, :, 0].T == 1, head)


def test_flaws_of_a_thick_line_are_filled(download: Path) -> None:
    head = ellipse(33.2, 24.1)
    drawn = line(head, 4)
    # A pixel in the middle of the line.
    inner = ndimage.binary_erosion(head, iterations=1) & ~ndimage.binary_erosion(head, iterations=2)
    drawn[tuple(np.argwhere(inner)[0])] = False
    save(download / "training_set" / "000_HC_Annotation.png", drawn * 255)
    case = next(case for case in read_dataset(download).cases if case.id == "000_HC")
    assert np.array_equal(load_pair(case)[1][:, :, 0].T == 1, head)


def gap(head: np.ndarray) -> np.ndarray:
    drawn = line(head)
    drawn[:, 33:36] = drawn[:, 33:36] & (np.arange(48) > 24)[:, None]
    return drawn


def tangent_with_a_gap() -> np.ndarray:
    """It touches the upper and the lower edge of the picture, and is open on the right."""
    drawn = line(ellipse(36, 23.5, 20, 23.6, 0))
    drawn |= ellipse(36, 23.5, 20, 23.6, 0) & (np.isin(np.arange(48), (0, 47)))[:, None]
    assert drawn[0].any()
    assert drawn[-1].any()
    drawn[20:27, 50:] = False
    return drawn


@pytest.mark.parametrize(
    ("drawn", "words"),
    [
        (gap(ellipse(33.2, 24.1)), "no closed outline: {line} pixels, columns {i} and rows {j}, that enclose nothing"),
        (ellipse(33.2, 24.1), "no closed outline"),
        (tangent_with_a_gap(), "no closed outline"),
        (line(ellipse(20, 24, 12, 9)) | line(ellipse(52, 24, 12, 8)), "encloses 2 areas, of {areas} pixels"),
        (line(ellipse(33, 24)) | line(ellipse(33, 24, 8, 6)), "encloses 2 areas"),
        (
            line(ellipse(33, 24)) | line(ellipse(60, 8, 4, 4)) & (np.arange(72) > 60),
            "in 2 pieces, of {line}, {stray} pixels",
        ),
    ],
    ids=["open", "filled", "open at two edges", "two", "nested", "stray"],
)
def test_a_doubtful_outline_is_refused_with_its_numbers(
    drawn: np.ndarray, words: str, download: Path, in_process: Run, tmp_path: Path
) -> None:
    save(download / "training_set" / "001_HC_Annotation.png", drawn * 255)
    rings = [ellipse(*each) for each in ((20, 24, 12, 9), (52, 24, 12, 8))]
    areas = ", ".join(str((each & ~line(each)).sum()) for each in rings)
    whole = line(ellipse(33, 24)).sum()
    rows, columns = (f"{found.min()} to {found.max()}" for found in np.nonzero(drawn))
    pixels = drawn.sum() if "closed" in words else whole
    told = words.format(line=pixels, areas=areas, i=columns, j=rows, stray=drawn.sum() - whole)
    code, out, _ = in_process("dataset", "check", download, "--json")
    (finding,) = json.loads(out)["findings"]
    assert (code, finding["kind"]) == (3, "outline")
    assert "001_HC_Annotation.png" in finding["text"]
    assert told in finding["text"]
    code, _, err = in_process("dataset", "convert", download, "-o", tmp_path / "new", "--to", "folders")
    assert code == 3
    assert told in " ".join(err.split())
    assert not (tmp_path / "new").exists()


def test_an_empty_annotation_is_an_empty_mask(download: Path, in_process: Run) -> None:
    save(download / "training_set" / "001_HC_Annotation.png", np.zeros((48, 72)))
    _, out, _ = in_process("dataset", "check", download, "--json")
    assert [each["kind"] for each in json.loads(out)["findings"]] == ["empty"]


def test_pictures_of_one_examination_stay_together(download: Path, in_process: Run, tmp_path: Path) -> None:
    for seed in range(4):
        words = ("dataset", "split", download, "-o", tmp_path / f"{seed}.json", "--folds", 3, "--seed", seed)
        assert in_process(*words)[0] == 0
        for fold in json.loads((tmp_path / f"{seed}.json").read_text()):
            sides = [{name.split("_")[0] for name in fold[part]} for part in ("train", "val")]
            assert sides[0].isdisjoint(sides[1])
            assert len(fold["train"] + fold["val"]) == len(NAMES)


@pytest.mark.parametrize(("to", "masks"), [("folders", "masks"), ("csv", "labels"), ("nnunet", "labelsTr")])
def test_conversions_hold_masks_and_what_the_table_says(
    to: str, masks: str, download: Path, in_process: Run, tmp_path: Path
) -> None:
    code, _, err = in_process("dataset", "convert", download, "-o", tmp_path / "new", "--to", to)
    assert code == 0, err
    for name, head in heads().items():
        values = np.array(Image.open(tmp_path / "new" / masks / f"{name}.png"))
        assert np.array_equal(values > 0, head)
    if to != "nnunet":
        with (tmp_path / "new" / ("facts.csv" if to == "folders" else "cases.csv")).open() as file:
            rows = {row["id"]: row for row in csv.DictReader(file)}
        assert float(rows["010_2HC"]["circumference"]) == pytest.approx(circumference(*AXES) * PIXEL)
        assert rows["010_2HC"]["group"] == "010"
    again = read_dataset(tmp_path / "new")
    assert {case.id: case.group for case in again.cases} == {name: name.split("_")[0] for name in NAMES}


def test_it_trains_a_preset_and_measures_its_circumferences(download: Path, in_process: Run, tmp_path: Path) -> None:
    """Three commands from the download to millimetres."""
    save_file(upstream(**SMALL).state_dict(), tmp_path / "base.safetensors")
    weights = {"file": "base.safetensors", "sha256": sha256_of(tmp_path / "base.safetensors")}
    facts = preset.find("sam-vit-b").model_dump(mode="json") | {"name": "tiny", "model": {}, "weights": weights}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(facts | {"accuracy": [], "options": {}}))
    short = ["--steps", 2, "--batch-size", 2, "--validate-every", 2, "--workers", 0, "--device", "cpu"]
    assert in_process("dataset", "check", download / "training_set")[0] == 0
    code, _, err = in_process(
        "finetune", download / "training_set", "-o", "run", "--preset", tmp_path / "tiny.yaml", *short
    )
    assert code == 0, err
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    sides = [{name.split("_")[0] for name in split[part]} for part in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len({name.split("_")[0] for name in NAMES})
    words = ("evaluate", download / "training_set", "--preset", "run", "--prompt", "box", "--device", "cpu", "--json")
    code, out, err = in_process(*words, "--cases", "all")
    assert code == 0, err
    cases = json.loads(out)["metric_per_case"]
    assert len(cases) == len(NAMES)
    for case in cases:
        (metrics,) = case["metrics"].values()
        assert metrics["stated_circumference_mm"] == pytest.approx(circumference(*AXES) * PIXEL)
        # Masks of pixels are as long round as the ellipse that they were drawn from, to a part of a pixel.
        assert abs(metrics["reference_circumference_error_to_stated_mm"]) < PIXEL


def test_masks_are_not_compared_with_pictures_and_outlines(download: Path, in_process: Run, tmp_path: Path) -> None:
    save(tmp_path / "predictions" / "000_HC.png", heads()["000_HC"] * 255)
    code, _, err = in_process("evaluate", tmp_path / "predictions", download / "training_set")
    assert code == 3
    assert "outlines" in err
    assert "medseg dataset convert" in err


def test_a_batch_segments_the_pictures_alone(download: Path) -> None:
    found = list_cases(download / "training_set")
    assert sorted(case.id for case in found.cases) == sorted(NAMES)


def test_outlines_of_the_real_masks_give_them_back(shared: Path, download: Path) -> None:
    """To the pixel, whether a line is one pixel wide or three: the line belongs to the head."""
    source = shared / "data" / "fetal-head-us"
    shutil.rmtree(download / "training_set")
    found = sorted((source / "masks").glob("*.png"))[::5]
    for number, path in enumerate(found):
        with Image.open(path) as picture:
            head = np.array(picture) > 127
        shutil.copyfile(source / "images" / path.name, (download / path.name))
        save(download / path.name.replace(".png", "_Annotation.png"), line(head, 1 + 2 * (number % 2)) * 255)
    shutil.copyfile(source / "pixel_size_mm.csv", download / TABLE)
    for case, path in zip(read_dataset(download).cases, found, strict=True):
        with Image.open(path) as picture:
            assert np.array_equal(load_pair(case)[1][:, :, 0].T == 1, np.array(picture) > 127)
        assert case.circumference is not None
