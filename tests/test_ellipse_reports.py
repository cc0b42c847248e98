"""Ellipses through the command line: segment, batch and evaluate, on heads that were drawn."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bright_box
import dicom_phantom
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medseg_cli import pipelines

Run = Callable[..., tuple[int, str, str]]
AXES = ((30, 22), (36, 27), (40, 28))
"""Half axes in pixels of the heads of three pictures."""
PIXEL = 0.5
GROWN = 3
"""Pixels by which predictions are larger all round."""


def circumference(long: float, short: float) -> float:
    """By a polygon of many corners."""
    turn = np.linspace(0, 2 * np.pi, 20001)
    return float(np.hypot(np.diff(long * np.cos(turn)), np.diff(short * np.sin(turn))).sum())


def head(long: float, short: float, turn: float = 0.4) -> np.ndarray:
    """A picture (rows, columns) of an ellipse in white."""
    rows, columns = np.indices((120, 140))
    x, y = columns - 70.2, rows - 60.1
    along, across = x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)
    return ((along / long) ** 2 + (across / short) ** 2 <= 1).astype(np.uint8) * 255


def bright(mask: np.ndarray) -> np.ndarray:
    """A picture of what a mask shows, with some noise: else it would be taken for a mask itself."""
    image = np.where(mask, 180, 30) + np.random.default_rng(0).integers(-8, 8, mask.shape)
    image[0, :2] = (0, 255)
    return image.astype(np.uint8)


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def table(folder: Path, rows: list[str]) -> None:
    lines = ["filename,pixel size(mm),head circumference (mm)", *rows]
    (folder / "training_set_pixel_size_and_HC.csv").write_text("\n".join(lines) + "\n")


def stated(number: int) -> float:
    """What people measured: 2 mm less than there is."""
    return circumference(*AXES[number]) * PIXEL - 2


@pytest.fixture
def heads(tmp_path: Path) -> Path:
    """A dataset of three heads as HC18 has it, and predictions that are larger all round."""
    for number, (long, short) in enumerate(AXES):
        image = bright(head(long, short))
        save(tmp_path / "set" / "images" / f"{number:03}_HC.png", image)
        save(tmp_path / "set" / "masks" / f"{number:03}_HC.png", head(long, short))
        save(tmp_path / "pred" / f"{number:03}_HC.png", head(long + GROWN, short + GROWN))
    table(tmp_path / "set", [f"{number:03}_HC.png,{PIXEL},{stated(number):.4f}" for number in range(3)])
    return tmp_path


@pytest.fixture
def preset(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Writes the preset "what is bright in a box", whose label is an ellipse; registered while the test runs."""
    bright_box.register()

    def write(shape: str = ", shape: ellipse", minimum: str = "") -> Path:
        bright_box.preset(tmp_path / "preset", size=140, whole_image=True)
        path = tmp_path / "preset" / "bright-box.yaml"
        path.write_text(path.read_text().replace("name: blob", f"name: head{shape}{minimum}"))
        return path

    yield write
    del pipelines.PIPELINES["bright-box"]


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def errors() -> tuple[np.ndarray, np.ndarray]:
    """Of the predictions against the references, and of the references against what is stated, in mm."""
    grown = [circumference(long + GROWN, short + GROWN) - circumference(long, short) for long, short in AXES]
    return np.array(grown) * PIXEL, np.full(3, 2.0)


def test_folders_of_masks_are_measured_with_the_table_beside_the_references(in_process: Run, heads: Path) -> None:
    code, _, err = in_process("evaluate", heads / "pred", heads / "set/masks", "-o", heads / "report")
    assert code == 0, err
    report = read(heads / "report" / "summary.json")
    grown, gap = errors()
    against = report["circumference_error_mm"]
    assert (against["mean"], against["abs_mean"]) == pytest.approx((grown.mean(),) * 2, abs=0.15)
    assert against["sd"] == pytest.approx(grown.std(ddof=1), abs=0.1)
    told = report["circumference_error_to_stated_mm"]
    assert (told["mean"], told["n"]) == pytest.approx(((grown + gap).mean(), 3), abs=0.15)
    for number, case in enumerate(report["metric_per_case"]):
        found = case["metrics"]["1"]
        assert found["reference_circumference_mm"] == pytest.approx(circumference(*AXES[number]) * PIXEL, abs=0.15)
        assert found["reference_circumference_error_to_stated_mm"] == pytest.approx(2, abs=0.15)
        assert found["stated_circumference_mm"] == pytest.approx(stated(number), abs=1e-3)
        assert found["circumference_abs_error_mm"] == pytest.approx(grown[number], abs=0.15)
        assert found["long_axis_error_mm"] == pytest.approx(2 * GROWN * PIXEL, abs=0.2)
        assert found["short_axis_error_mm"] == pytest.approx(2 * GROWN * PIXEL, abs=0.2)
        # The table's pixel size counts everywhere.
        assert found["HD_mm"] == pytest.approx(GROWN * PIXEL, abs=0.5)
    assert "circumference (HC) against what was measured" in err
    assert any("training_set_pixel_size_and_HC.csv" in note for note in report["notes"])
    assert "the pixel size is unknown" not in err
    with (heads / "report" / "cases.csv").open() as file:
        row = next(csv.DictReader(file))
    assert float(row["circumference_error_to_stated_mm"]) == pytest.approx(grown[0] + 2, abs=0.15)
    page = (heads / "report" / "report.html").read_text(encoding="utf-8")
    assert "circumference error" in page
    assert "prediction − stated, mm" in page


def test_without_a_table_ellipses_are_measured_on_demand_and_in_pixels(in_process: Run, heads: Path) -> None:
    (heads / "set" / "training_set_pixel_size_and_HC.csv").unlink()
    code, out, err = in_process("evaluate", heads / "pred", heads / "set/masks", "--json")
    assert code == 0, err
    assert "circumference" not in out
    code, out, _ = in_process("evaluate", heads / "pred", heads / "set/masks", "--json", "--ellipse")
    found = json.loads(out)["metric_per_case"][1]["metrics"]["1"]
    assert found["reference_circumference_px"] == pytest.approx(circumference(*AXES[1]), abs=0.3)
    assert "circumference_mm" not in found
    code, out, _ = in_process(
        "evaluate", heads / "pred", heads / "set/masks", "--json", "--ellipse", "--spacing", "2,2,1"
    )
    found = json.loads(out)["metric_per_case"][1]["metrics"]["1"]
    assert found["reference_circumference_mm"] == pytest.approx(2 * circumference(*AXES[1]), abs=0.6)


def test_what_the_user_states_goes_before_the_table(in_process: Run, heads: Path) -> None:
    _, out, _ = in_process("evaluate", heads / "pred", heads / "set/masks", "--json", "--spacing", "1,1,1")
    found = json.loads(out)["metric_per_case"][0]["metrics"]["1"]
    assert found["reference_circumference_mm"] == pytest.approx(circumference(*AXES[0]), abs=0.3)


def test_a_table_with_impossible_numbers_is_refused(in_process: Run, heads: Path) -> None:
    table(heads / "set", ["000_HC.png,0.5,about 80"])
    code, _, err = in_process("evaluate", heads / "pred", heads / "set/masks")
    assert code == 3, err
    assert "line 2: circumference 'about 80' is no length in mm" in err


def test_an_empty_prediction_has_no_circumference_and_is_counted(in_process: Run, heads: Path) -> None:
    save(heads / "pred" / "001_HC.png", np.zeros((120, 140), np.uint8))
    code, out, err = in_process("evaluate", heads / "pred", heads / "set/masks", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["circumference_error_mm"]["n"] == 2
    assert report["statistics"]["1"]["circumference_error_mm"]["undefined"] == 1
    assert report["metric_per_case"][1]["metrics"]["1"]["circumference_mm"] is None
    assert report["metric_per_case"][1]["metrics"]["1"]["reference_circumference_error_to_stated_mm"] is not None


def test_a_line_has_no_circumference_and_the_report_says_why(in_process: Run, heads: Path) -> None:
    line = np.zeros((120, 140), np.uint8)
    line[60, 20:120] = 255
    save(heads / "pred" / "002_HC.png", line)
    save(heads / "pred" / "001_HC.png", 0 * line)
    code, out, err = in_process("evaluate", heads / "pred", heads / "set/masks", "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["circumference_error_mm"]["n"] == 1
    assert report["statistics"]["1"]["circumference_error_mm"]["undefined"] == 2
    plain, empty, thin = report["metric_per_case"]
    assert "no_ellipse" not in plain
    assert empty["no_ellipse"] == {"1": {"prediction": "it is empty"}}
    assert "1.0 pixels across" in thin["no_ellipse"]["1"]["prediction"]
    assert thin["metrics"]["1"]["circumference_mm"] is None


def test_of_several_objects_nobody_says_whose_circumference_is_stated(in_process: Run, heads: Path) -> None:
    two = np.where(head(*AXES[0]), 1, 0).astype(np.uint8)
    two[:8, :8] = 2
    for folder in ("pred", "set/masks"):
        save(heads / folder / "000_HC.png", two)
    _, out, _ = in_process("evaluate", heads / "pred", heads / "set/masks", "--json")
    cases = json.loads(out)["metric_per_case"]
    assert all("circumference_mm" not in each for each in cases[0]["metrics"].values())
    assert "stated_circumference_mm" not in cases[0]["metrics"]["1"]


def test_a_preset_is_measured_on_a_dataset_with_circumferences(
    in_process: Run, heads: Path, preset: Callable[..., Path]
) -> None:
    """The network finds exactly what is bright; the label's rim makes prediction and reference smaller alike."""
    words = ("evaluate", heads / "set", "--cases", "all", "--prompt", "box", "--device", "cpu", "--json", "--preset")
    code, out, err = in_process(*words, preset())
    assert code == 0, err
    plain = json.loads(out)
    assert plain["dice_mean"] > 0.99
    assert abs(plain["circumference_error_mm"]["mean"]) < 0.3
    assert plain["circumference_error_to_stated_mm"]["mean"] == pytest.approx(2, abs=0.3)
    _, out, _ = in_process(*words, preset(minimum=", rim: 0.02"))
    told = json.loads(out)
    # 0.02 of 140 pixels of 0.5 mm, all round.
    expected = plain["circumference_error_to_stated_mm"]["mean"] - 2 * np.pi * 0.02 * 140 * PIXEL
    assert told["circumference_error_to_stated_mm"]["mean"] == pytest.approx(expected, abs=0.1)
    assert told["circumference_error_mm"]["mean"] == pytest.approx(plain["circumference_error_mm"]["mean"], abs=0.1)


def test_segment_tells_the_ellipse_in_mm_or_in_pixels(
    in_process: Run, heads: Path, preset: Callable[..., Path], root: Path
) -> None:
    image = heads / "set/images/001_HC.png"
    words = ("segment", image, "--preset", preset(), "--device", "cpu", "--box", "20,10,120,110", "-o")
    code, _, err = in_process(*words, heads / "a.png", "--spacing", f"{PIXEL},{PIXEL},1")
    assert code == 0, err
    (label,) = read(heads / "a.json")["labels"]
    expected = circumference(*AXES[1]) * PIXEL
    found = label["ellipse"]
    assert found["circumference_mm"] == pytest.approx(expected, rel=0.01)
    assert found["long_axis_mm"] == pytest.approx(2 * AXES[1][0] * PIXEL, rel=0.015)
    assert found["short_axis_mm"] == pytest.approx(2 * AXES[1][1] * PIXEL, rel=0.015)
    assert found["angle_deg"] == pytest.approx(np.degrees(0.4), abs=2)
    assert found["notes"] == []
    assert "head: ellipse: circumference (HC) " in err
    assert " mm, long axis (OFD) " in err
    code, _, err = in_process(*words, heads / "b.png")
    unknown = read(heads / "b.json")["labels"][0]["ellipse"]
    assert unknown["circumference_mm"] is None
    assert unknown["circumference_px"] == pytest.approx(expected / PIXEL, rel=0.01)
    assert "taken as square (--spacing states the size)" in err
    documented = (root / "docs/outputs.md").read_text()
    for key in {*found, *unknown, "ellipse", "frames"}:
        assert f"`{key}`" in documented, f"docs/outputs.md does not explain {key}"


def test_stretched_pixels_count_as_what_they_are(in_process: Run, heads: Path, preset: Callable[..., Path]) -> None:
    """The same picture with pixels twice as wide as high: an ellipse along x, not along its turned axis."""
    save(heads / "flat.png", bright(head(30, 30, 0)))
    words = ("segment", heads / "flat.png", "--preset", preset(), "--device", "cpu", "--box", "20,10,120,110")
    code, _, err = in_process(*words, "-o", heads / "c.png", "--spacing", "0.8,0.4,1")
    assert code == 0, err
    found = read(heads / "c.json")["labels"][0]["ellipse"]
    assert found["circumference_mm"] == pytest.approx(circumference(24, 12), rel=0.01)
    assert (found["long_axis_mm"], found["short_axis_mm"]) == pytest.approx((48, 24), rel=0.015)
    assert min(found["angle_deg"], 180 - found["angle_deg"]) < 2


def test_a_loop_of_ultrasound_has_an_ellipse_per_frame_in_the_mm_of_its_region(
    in_process: Run, tmp_path: Path, preset: Callable[..., Path]
) -> None:
    """Pixels of 0.4 x 0.2 mm, which only the region states; a circle in pixels is an ellipse in mm."""
    frames = np.stack([bright(head(radius, radius, 0)) for radius in (30, 36, 33)])
    loop = dicom_phantom.loop(frames, FrameTime="40", FrameIncrementPointer=0x00181063)
    loop.SequenceOfUltrasoundRegions = [dicom_phantom.region((0, 0, 139, 119), (0.04, 0.02))]
    dicom_phantom.save(loop, tmp_path / "loop.dcm")
    code, _, err = in_process(
        *("segment", tmp_path / "loop.dcm", "--preset", preset(), "--device", "cpu", "-o", tmp_path / "m.nii.gz"),
        *("--smooth-time", 0),
    )
    assert code == 0, err
    found = read(tmp_path / "m.json")["labels"][0]["ellipse"]
    lengths = found["frames"]["circumference_mm"]
    assert lengths == pytest.approx([circumference(r * 0.4, r * 0.2) for r in (30, 36, 33)], rel=0.015)
    assert found["frames"]["short_axis_mm"] == pytest.approx([0.4 * r for r in (30, 36, 33)], rel=0.03)
    assert found["circumference_mm"] == lengths[found["frame"]]
    assert "ellipse, frame" in err


def test_a_head_cut_off_by_the_sector_is_completed(
    in_process: Run, tmp_path: Path, preset: Callable[..., Path]
) -> None:
    """A dark corner as a trapezoid has it; the mask ends there and the ellipse does not."""
    rows, columns = np.indices((240, 280))
    place = (columns - 150) ** 2 / 70**2 + (rows - 120) ** 2 / 55**2
    speckle = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=rows.shape), 1.5)
    image = np.clip(np.where(place <= 1, 190, 70) + 12 * speckle / speckle.std(), 30, 250)
    image[rows - 0.9 * columns > 30] = 0
    image[rows + 0.9 * columns > 380] = 0
    save(tmp_path / "cut.png", image.astype(np.uint8))
    path = preset()
    path.write_text(path.read_text() + "options: {ultrasound: {sector: true, overlays: false}}\n")
    words = ("segment", tmp_path / "cut.png", "--preset", path, "--device", "cpu", "--box", "75,60,230,180", "-o")
    code, _, err = in_process(*words, tmp_path / "a.png", "--spacing", "0.5,0.5,1")
    assert code == 0, err
    report = read(tmp_path / "a.json")
    assert report["pipeline"]["ultrasound"]["sector"]["found"], report["pipeline"]["ultrasound"]
    found = report["labels"][0]["ellipse"]
    assert found["circumference_mm"] == pytest.approx(circumference(35, 27.5), rel=0.02)
    assert found["seen"] < 0.97
    path.write_text(path.read_text().replace("sector: true", "sector: false"))
    code, _, err = in_process(*words, tmp_path / "b.png", "--spacing", "0.5,0.5,1")
    assert code == 0, err
    assert read(tmp_path / "b.json")["labels"][0]["ellipse"]["circumference_mm"] < found["circumference_mm"] - 2


def test_a_batch_tabulates_ellipses(in_process: Run, heads: Path, preset: Callable[..., Path]) -> None:
    bar = np.zeros((120, 140), np.uint8)
    bar[30:80, 20:120] = 255
    save(heads / "set/images" / "bar.png", bright(bar))
    code, _, err = in_process(
        *("batch", heads / "set/images", "-o", heads / "out", "-p", preset(), "--jobs", 0, "--device", "cpu"),
        *("--spacing", f"{PIXEL},{PIXEL},1"),
    )
    assert code in (0, 8), err
    with (heads / "out" / "cases.csv").open() as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    for number, axes in enumerate(AXES):
        (row,) = (row for key, row in rows.items() if f"{number:03}_HC" in key)
        assert float(row["circumference_mm head"]) == pytest.approx(circumference(*axes) * PIXEL, rel=0.01)
        assert float(row["long_axis_mm head"]) == pytest.approx(2 * axes[0] * PIXEL, rel=0.02)
    (row,) = (row for key, row in rows.items() if "bar" in key)
    assert row["circumference_mm head"] == ""
    page = (heads / "out" / "report.html").read_text(encoding="utf-8")
    assert "&nbsp;mm&nbsp;round" in page
    assert page.count("no ellipse: it is none: Dice with the ellipse") == 1


def test_segment_says_why_there_is_no_ellipse(in_process: Run, heads: Path, preset: Callable[..., Path]) -> None:
    bar = np.zeros((120, 140), np.uint8)
    bar[30:80, 20:120] = 255
    save(heads / "bar.png", bright(bar))
    code, _, err = in_process("segment", heads / "bar.png", "-p", preset(), "--device", "cpu", "-o", heads / "m.png")
    assert code == 0, err
    (label,) = read(heads / "m.json")["labels"]
    assert label["ellipse"] is None
    assert label["reasons"]["ellipse"].startswith("it is none: Dice with the ellipse that fits its outline is 0.9")
    assert f"head: no ellipse: {label['reasons']['ellipse']}" in " ".join(err.split())


def test_datasets_keep_stated_circumferences_when_they_are_converted(in_process: Run, heads: Path) -> None:
    code, _, err = in_process("dataset", "convert", heads / "set", "-o", heads / "new", "--to", "csv")
    assert code == 0, err
    with (heads / "new" / "cases.csv").open() as file:
        rows = {row["id"]: float(row["circumference"]) for row in csv.DictReader(file)}
    assert rows["002_HC"] == pytest.approx(stated(2), abs=1e-3)
