"""`redraw`: of objects that are ellipses by rule the fitted ellipse becomes the mask, and of others it does not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_cli import preset
from medseg_cli.biometry import biometry_of
from medseg_cli.datasets import read_dataset
from medseg_cli.datasets.ellipses import drawn_as_ellipses
from medseg_cli.redraw import notes, redraw
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan
from medseg_cli.segmentation import Label

Run = Callable[..., tuple[int, str, str]]
HEAD = Label(1, "head", shape="ellipse", redraw=True)
CYST = Label(2, "cyst")


def scan_of(shape: tuple[int, int, int], spacing: tuple[float, float] = (0.3, 0.3), cine: bool = False) -> Scan:
    affine = RAS_TO_LPS @ np.diag([*spacing, 1.0, 1.0])
    provenance = Provenance(Path("head.png"), "image", "")
    return Scan(np.zeros((1, *shape), np.float32), affine, provenance, "US", cine=cine)


def ellipse(shape: tuple[int, int], center: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """By its equation, axes along i and j."""
    i, j = np.indices(shape)
    return ((i - center[0]) / half[0]) ** 2 + ((j - center[1]) / half[1]) ** 2 <= 1


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def wavering(shape: tuple[int, int], center: tuple[float, float], half: tuple[float, float]) -> np.ndarray:
    """The same with seven waves of 6 % round it."""
    i, j = np.indices(shape)
    along, across = (i - center[0]) / half[0], (j - center[1]) / half[1]
    return np.hypot(along, across) <= 1 + 0.06 * np.sin(7 * np.arctan2(across, along))


@pytest.mark.parametrize("spacing", [(0.3, 0.3), (0.2, 0.5)])
def test_waves_are_smoothed_and_others_keep_their_pixels(spacing: tuple[float, float]) -> None:
    place = (120, 100), (60, 50), (40, 30)
    whole, seen = ellipse(*place), wavering(*place)
    mask = np.where(seen, 1, 0).astype(np.uint8)[..., None]
    mask[58:62, 48:52] = 2
    told = redraw(mask, (HEAD, CYST), scan_of((120, 100, 1), spacing))
    assert dice(mask[..., 0] > 0, whole) > 0.985 > 0.97 > dice(seen, whole)
    assert (mask == 2).sum() == 16
    assert told[1]["frames"] == 1
    assert told[1]["kept"] == 0
    assert told[1]["least_overlap"] == pytest.approx(dice(seen, whole), abs=0.02)
    assert not notes(told, (HEAD, CYST))


def test_what_is_no_ellipse_stays_and_is_said() -> None:
    mask = np.zeros((120, 100, 1), np.uint8)
    mask[20:100, 45:55] = mask[55:65, 10:90] = 1
    before = mask.copy()
    told = redraw(mask, (HEAD,), scan_of(mask.shape))
    assert np.array_equal(mask, before)
    assert told[1]["kept"] == 1
    assert told[1]["least_overlap"] is None
    (note,) = notes(told, (HEAD,))
    assert note.startswith("head: the mask is what the network drew, not an ellipse, in 1 of 1 pictures")


def test_frames_are_redrawn_for_themselves_and_volumes_not_at_all() -> None:
    places = (((120, 100), (60, 50), (40, 30)), ((120, 100), (70, 45), (30, 35)))
    empty = np.zeros((120, 100), bool)
    seen = np.stack([*(wavering(*place) for place in places), empty], axis=2).astype(np.uint8)
    frames = seen.copy()
    told = redraw(frames, (HEAD,), scan_of(frames.shape, cine=True))
    assert told[1]["frames"] == 2
    assert all(dice(frames[..., k] > 0, ellipse(*place)) > 0.985 for k, place in enumerate(places))
    assert not frames[..., 2].any()
    volume = seen.copy()
    assert redraw(volume, (HEAD,), scan_of(seen.shape)) == {}
    assert np.array_equal(volume, seen)


@pytest.mark.parametrize("last", [80, 100, 110])
def test_a_head_that_the_sector_cuts_off_is_completed_and_measured_as_before(last: int) -> None:
    whole = ellipse((200, 160), (80, 80), (60, 45))
    tissue = np.zeros((200, 160), bool)
    tissue[:last] = True
    mask = (whole & tissue)[..., None].astype(np.uint8)
    scan = scan_of(mask.shape)
    before, _ = biometry_of(mask[..., 0] > 0, scan, tissue=tissue)
    redraw(mask, (HEAD,), scan, tissue)
    after, why = biometry_of(mask[..., 0] > 0, scan, tissue=tissue)
    assert before is not None
    assert after is not None, why
    assert dice(mask[..., 0] > 0, whole) > 0.97 > dice(whole & tissue, whole)
    assert after.circumference == pytest.approx(before.circumference, rel=0.01)
    assert after.overlap > 0.995


def test_nothing_of_the_networks_mask_stays_beside_the_ellipse_that_lies_in_the_region() -> None:
    mask = wavering((120, 100), (60, 50), (40, 30))[..., None].astype(np.uint8)
    mask[:, 0] = 1
    scan = replace(scan_of(mask.shape), region=(5, 5, 119, 99))
    redraw(mask, (HEAD,), scan)
    assert not mask[:, 0].any()
    assert dice(mask[..., 0] > 0, ellipse((120, 100), (60, 50), (40, 30))) > 0.985


def test_labels_that_do_not_ask_stay() -> None:
    mask = ellipse((60, 60), (30, 30), (20, 15)).astype(np.uint8)[..., None]
    mask[28:32, 28:32] = 0
    before = mask.copy()
    assert redraw(mask, (Label(1, "head", shape="ellipse"),), scan_of(mask.shape)) == {}
    assert np.array_equal(mask, before)


def test_the_report_says_what_was_redrawn(in_process: Run, tmp_path: Path) -> None:
    picture = np.zeros((540, 800), np.uint8)
    bright = ellipse((540, 800), (270, 400), (160, 210)) & ~ellipse((540, 800), (270, 400), (150, 200))
    rng = np.random.default_rng(0)
    picture[:] = rng.integers(20, 60, picture.shape)
    picture[bright] = 220
    Image.fromarray(picture).save(tmp_path / "head.png")
    found = {}
    for flag in ("--redraw", "--no-redraw"):
        mask = tmp_path / f"mask{flag}.png"
        code, _, said = in_process(
            "segment", tmp_path / "head.png", "-o", mask, "--preset", "fetal-head-us", "--device", "cpu", flag
        )
        assert code == 0, said
        report = json.loads(mask.with_suffix(".json").read_text())
        found[flag] = np.asarray(Image.open(mask)) > 0, report["pipeline"]["objects"][0].get("redrawn"), report
    assert found["--no-redraw"][1] is None
    assert found["--redraw"][1]["frames"] == 1
    assert not np.array_equal(found["--redraw"][0], found["--no-redraw"][0])
    overlap = found["--no-redraw"][2]["labels"][0]["ellipse"]["overlap"]
    assert found["--redraw"][1]["least_overlap"] == pytest.approx(overlap, abs=1e-4)
    assert found["--redraw"][2]["labels"][0]["ellipse"]["overlap"] > 0.995


def test_presets_without_ellipses_refuse(in_process: Run, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "a.png")
    code, _, said = in_process(
        "segment", tmp_path / "a.png", "-o", tmp_path / "m.png", "--preset", "chest-xray-lungs", "--redraw"
    )
    assert code == 2
    assert "no label of preset chest-xray-lungs is an ellipse" in said


@pytest.mark.parametrize(("bars", "count", "drawn"), [(0, 2, True), (1, 2, False), (1, 10, True), (2, 10, False)])
def test_a_dataset_is_of_ellipses_where_nine_of_ten_masks_are(
    bars: int, count: int, drawn: bool, tmp_path: Path
) -> None:
    for number in range(count):
        mask = ellipse((60, 80), (30, 40), (15 + number, 25))
        if number < bars:
            mask = np.zeros_like(mask)
            mask[20:40, 15:65] = True
        for name, pixels in ((f"p{number}", 100 * mask + number), (f"p{number}_mask", 255 * mask)):
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    assert drawn_as_ellipses(read_dataset(tmp_path).cases) is drawn


@pytest.mark.parametrize(("kind", "kept"), [("ellipses", True), ("bars", False)])
def test_training_keeps_it_and_the_rim_only_where_masks_are_ellipses(
    kind: str, kept: bool, in_process: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    for number in range(4):
        mask = ellipse((120, 160), (60 + number, 80 - 3 * number), (30, 45 + number))
        if kind == "bars":
            mask = np.zeros_like(mask)
            mask[40:80, 30 + number : 120] = True
        picture = rng.integers(0, 40, mask.shape).astype(np.uint8) + 100 * mask.astype(np.uint8)
        for folder, pixels in (("images", picture), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / kind / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / kind / folder / f"p{number}.png")
    run = tmp_path / "run"
    code, _, said = in_process(
        "finetune", tmp_path / kind, "-o", run, "--preset", "fetal-head-us", "--steps", 1, "--batch-size", 1,
        "--workers", 0, "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    (label,) = preset.find(str(run / "preset.yaml")).labels
    assert label.redraw is kept
    assert (label.shape, label.rim) == ("ellipse", 0.0016 if kept else 0.0)
    assert ("not redrawn as ellipses" in said + caplog.text) is not kept
