"""`medseg segment` on a cine, from the file to the report; and the examples that draw cines and measure them."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bright_box
import nibabel as nib
import numpy as np
import pytest

from medseg_cli import pipelines
from medseg_cli.readers import load_scan

Medseg = Callable[..., tuple[int, str, str]]
COUNT, RATE = 16, 20
SPOILT = (6, 10, 11)


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg) -> Medseg:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    return in_process


@pytest.fixture
def truth() -> np.ndarray:
    """A square of 20 x 16 voxels that moves by one a frame: (48, 40, 1, T) bool."""
    frames = np.zeros((48, 40, 1, COUNT), bool)
    for t in range(COUNT):
        frames[5 + t : 25 + t, 12:28, 0, t] = True
    return frames


@pytest.fixture
def cine(truth: np.ndarray, tmp_path: Path) -> Path:
    """Bright where the truth is; in some frames the probe was off."""
    values = np.where(truth, 200.0, 50 + np.random.default_rng(0).uniform(0, 10, truth.shape)).astype(np.float32)
    values[..., list(SPOILT)] = 50
    image = nib.Nifti1Image(values, np.diag([-0.5, -0.5, 1.0, 1.0]))
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_zooms((0.5, 0.5, 1.0, 1 / RATE))
    image.to_filename(tmp_path / "loop.nii.gz")
    return tmp_path / "loop.nii.gz"


def run(medseg: Medseg, cine: Path, *words: object) -> tuple[np.ndarray, dict[str, Any], str]:
    """Mask, report and messages."""
    preset = bright_box.preset(cine.parent, size=48, whole_image=True).path
    code, _, err = medseg("segment", cine, "-o", "m.nii.gz", "--preset", preset, "--overwrite", *words)
    assert code == 0, err
    return np.asarray(nib.load("m.nii.gz").dataobj) > 0, json.loads(Path("m.json").read_text()), err


def test_a_click_in_a_frame_is_followed_and_gaps_are_filled(medseg: Medseg, cine: Path, truth: np.ndarray) -> None:
    mask, report, err = run(medseg, cine, "--box", "5,9,30,31", "--frame", 3)
    assert mask.shape == truth.shape
    # Between frames two away on either side, corners come out rounded.
    filled, drawn = mask[..., list(SPOILT)], truth[..., list(SPOILT)]
    assert 2 * (filled & drawn).sum() > 0.94 * (filled.sum() + drawn.sum())
    facts = report["pipeline"]["objects"][0]
    assert facts["time"]["gaps"] == facts["time"]["filled"] == list(SPOILT)
    assert [way["skipped"] for way in facts["propagation"]] == [[], list(SPOILT)]
    # The spoilt frames are one picture: it is encoded once.
    assert "14 of 16 frames encoded, 2 from the cache" in err
    assert "followed from frame 3 to 0 (the scan ends); 3 to 15 (the scan ends)" in err
    assert "every frame smoothed over 5" in err
    assert "look at it: blob: the mask fits no neighbour in 3 of 16 frames (6, 10 to 11); 3 got the shape" in err
    frames = report["labels"][0]["frames"]
    # 320 pixels of 0.25 mm².
    assert frames["area_mm2_per_frame"][0] == pytest.approx(80, rel=0.05)
    assert len(frames["area_mm2_per_frame"]) == len(report["input"]["frames"]["seconds"]) == COUNT
    assert [flag["code"] for flag in report["flags"] if flag["code"] == "jumps"] == ["jumps"]


def test_smoothing_is_turned_off_and_counted_in_frames(medseg: Medseg, cine: Path, truth: np.ndarray) -> None:
    mask, report, err = run(medseg, cine, "--smooth-time", 0)
    assert not mask[..., list(SPOILT)].any()
    good = [frame for frame in range(COUNT) if frame not in SPOILT]
    assert np.array_equal(mask[..., good], truth[..., good])
    assert report["preset"]["overrides"]["options.time"] == {"window": 0, "seconds": None}
    assert report["pipeline"]["objects"][0]["time"]["window"] == 0
    assert "smoothed" not in err
    mask, report, _ = run(medseg, cine, "--smooth-time", 7)
    assert report["pipeline"]["objects"][0]["time"]["window"] == 7
    assert report["pipeline"]["objects"][0]["time"]["filled"] == list(SPOILT)


def test_what_makes_no_sense_over_time_is_refused(medseg: Medseg, cine: Path, tmp_path: Path) -> None:
    preset = bright_box.preset(tmp_path, size=48, whole_image=True).path
    for words, code, message in (
        (("--smooth-time", 4), 2, "so many frames have no middle"),
        (("--slices", "axial"), 2, "its frames are its only plane"),
        (("--frame", 99, "--point", "20,20"), 3, "there is no slice 99"),
        (("--point", "20,20"), 3, "add --slice N: the frame, 0..15"),
    ):
        found, _, err = medseg("segment", cine, "-o", "m.nii.gz", "--preset", preset, *words)
        assert (found, message in err) == (code, True), err
        assert not Path("m.nii.gz").exists()
    found, _, err = medseg(
        "segment", cine, "-o", "m.nii.gz", "--preset", "hippocampus-mr", "--point", "3,3,3", "--smooth-time", 5
    )
    assert (found, "takes no --smooth-time" in err) == (2, True), err


def test_smoothing_over_time_says_where_it_means_nothing(medseg: Medseg, cine: Path) -> None:
    _, _, err = run(medseg, cine, "--channel", 2, "--smooth-time", 5)
    assert "smoothing over time changed nothing: the scan is no cine" in err


# The examples


@pytest.fixture
def examples(root: Path) -> Iterator[tuple[Any, Any]]:
    """The modules draw_cine and measure_cine."""
    sys.path.insert(0, str(root / "examples"))
    try:
        import draw_cine
        import measure_cine

        yield draw_cine, measure_cine
    finally:
        sys.path.pop(0)


def test_a_drawn_cine_is_what_its_motion_says(examples: tuple[Any, Any], tmp_path: Path) -> None:
    draw_cine, measure_cine = examples
    rows, columns = np.indices((80, 120))
    mask = (rows - 40) ** 2 + (columns - 60) ** 2 <= 15**2
    cine = draw_cine.draw(np.where(mask, 180, 60).astype(np.uint8), mask, 20, np.random.default_rng(1))
    for truth, motion in zip(cine.truth, cine.motion, strict=True):
        middle = np.append(np.argwhere(truth).mean(0), 1)
        assert np.abs((motion @ middle)[:2] - (40, 60)).max() < 0.5
    assert len({tuple(np.argwhere(truth).mean(0).round()) for truth in cine.truth}) > 5
    assert cine.spoilt == (6, 11, 12, 16)
    bright = [float(frame[truth].mean()) for frame, truth in zip(cine.frames, cine.truth, strict=True)]
    assert sorted(np.argsort(bright)[:4].tolist()) == list(cine.spoilt)
    draw_cine.write(cine, tmp_path, 0.5)
    scan = load_scan(tmp_path / "cine.nii.gz")
    assert scan.cine
    assert scan.spacing[:2] == (0.5, 0.5)
    assert scan.frame_seconds is not None
    assert scan.frame_seconds[-1] == pytest.approx(19 / 25)
    assert np.array_equal(scan.voxels[0].transpose(2, 1, 0), cine.frames)
    # The truth itself does not flicker once its motion is taken out; a mask that stays put does.
    assert measure_cine.flicker(cine.truth, cine) < 0.03
    assert measure_cine.flicker(np.stack([mask] * 20), cine) > 0.05
    told = measure_cine.scores(cine.truth, {"jumps": [6, 3], "gaps": [11]}, cine)
    assert told["Dice"] == told["Dice of spoilt frames"] == 1
    assert (told["spoilt frames flagged"], told["others flagged"]) == (0.5, 1 / 16)
