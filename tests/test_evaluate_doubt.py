"""`medseg evaluate --preset` with what `segment` can be told: uncertainty and errors, smoothing over time, sectors."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bright_box
import nibabel as nib
import numpy as np
import pytest
import test_uncertainty
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage
from scipy.stats import mannwhitneyu, spearmanr
from test_uncertainty import preset_of

from medseg_cli import device, pipelines
from medseg_cli.datasets import load_pair, read_cases
from medseg_cli.evaluation.doubt import area_under_curve, doubt_of, rank_correlation
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.prompt import Box, Prompt, Target
from medseg_cli.segmentation import Spread
from medseg_cli.stages import Stages

Run = Callable[..., tuple[int, str, str]]
few = st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(few)
def test_the_area_is_that_of_mann_and_whitney(drawn: list[tuple[int, bool]]) -> None:
    """With many ties, as maps have them."""
    scores, wrong = np.array([each for each, _ in drawn], np.float32), np.array([each for _, each in drawn])
    found = area_under_curve(scores, wrong)
    if wrong.all() or not wrong.any():
        assert found is None
        return
    u = mannwhitneyu(scores[wrong], scores[~wrong]).statistic
    assert found == pytest.approx(u / (wrong.sum() * (~wrong).sum()), abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=3, max_size=20))
def test_the_rank_correlation_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    first, second = zip(*pairs, strict=True)
    found = rank_correlation(first, second)
    if len(set(first)) == 1 or len(set(second)) == 1:
        assert found is None
    else:
        ranks = [[sum(x < y for x in each) + sum(x == y for x in each) / 2 for y in each] for each in (first, second)]
        assert found == pytest.approx(float(np.corrcoef(ranks)[0, 1]), abs=1e-9)


def test_two_objects_have_no_rank_correlation() -> None:
    assert rank_correlation((1, 2), (3, 4)) is None


@pytest.mark.parametrize(("where", "area"), [("wrong", 1.0), ("right", 0.0), ("nowhere", 0.5)])
def test_doubt_where_the_mask_is_wrong_tells_errors(where: str, area: float) -> None:
    truth, mask = np.zeros((2, 20, 20, 1), bool)
    truth[5:15, 5:15], mask[5:15, 5:18] = True, True
    wrong = mask != truth
    values = {"wrong": 0.3 * wrong, "right": 0.3 * ~wrong, "nowhere": 0 * wrong}[where].astype(np.float32)
    scores = {"sd_inside": 0.1, "agreement": {"mean": 0.9, "least": 0.8}}
    spread = Spread({1: values}, {}, "draws", 4, {1: scores})
    counted = np.ones(mask.shape, bool)
    found = doubt_of(spread, 1, mask, truth, counted, steps=(1.0, 1.0, 1.0), cine=False)
    assert found is not None
    assert (found.area, found.inside, found.agreement) == (area, 0.1, 0.9)
    # Three columns at the right are wrong: the pixels beside the other three sides are as near to the border.
    assert 0.7 < (found.border_area or 0) < 1
    # Voxels that nobody labelled are neither right nor wrong.
    counted[:, 15:] = False
    assert doubt_of(spread, 1, mask, truth, counted, steps=(1.0, 1.0, 1.0), cine=False).area is None
    assert doubt_of(spread, 2, mask, truth, counted, steps=(1.0, 1.0, 1.0), cine=False) is None


def test_frames_have_no_distance_between_them() -> None:
    """The frames of a cine are as good as pictures of their own; one without a mask has no border."""
    mask = np.zeros((20, 20, 3), bool)
    mask[5:12, 5:15, 0], mask[8:15, 5:15, 2] = True, True
    truth = np.zeros_like(mask)
    truth[5:12, 5:14], truth[8:15, 4:15, 2] = True, True
    scores = {"sd_inside": 0.1, "agreement": {"mean": 0.9, "least": 0.8}}
    spread = Spread({1: np.zeros(mask.shape, np.float32)}, {}, "draws", 4, {1: scores})
    found = doubt_of(spread, 1, mask, truth, np.ones(mask.shape, bool), steps=(1.0, 1.0, 9.0), cine=True)
    near = np.full(mask.shape, -1e9)
    for k in (0, 2):
        distances = [ndimage.distance_transform_edt(each) for each in (mask[..., k], ~mask[..., k])]
        near[..., k] = -np.maximum(*distances)
    wrong = mask != truth
    u = mannwhitneyu(near[wrong], near[~wrong]).statistic
    assert found.border_area == pytest.approx(u / (wrong.sum() * (~wrong).sum()), abs=1e-9)


# Through the command line


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose draws are known, and one whose answer is."""
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    door = "test_uncertainty:WaveringPipeline"
    pipelines.PIPELINES["wavering"] = pipelines.Entry(door, "", frozenset({"box"}), 2, latents=True)
    bright_box.register()


@pytest.fixture
def discs(tmp_path: Path) -> Path:
    """Six pictures that are the brighter the nearer to a place; the reference is a disc somewhere near it."""
    y, x = np.mgrid[: test_uncertainty.SIZE, : test_uncertainty.SIZE]
    for number in range(6):
        away = np.hypot(x - 20, y - 18 - number)
        image = np.clip(250 - 12 * away + np.random.default_rng(number).uniform(-20, 20, away.shape), 0, 255)
        image[0, 0], image[-1, -1] = 0, 255
        for kind, pixels in (("images", image), ("masks", 255 * (np.hypot(x - 20, y - 19) < 8 + 0.7 * number))):
            (tmp_path / "set" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "set" / kind / f"d{number}.png")
    return tmp_path / "set"


def evaluated(run: Run, *words: object) -> tuple[dict[str, Any], str]:
    """The report, and what the terminal says without --json."""
    code, out, err = run("evaluate", *words, "--cases", "all", "--device", "cpu", "--json")
    assert code == 0, err
    return json.loads(out), err


@pytest.mark.usefixtures("registered")
def test_uncertainty_is_held_against_errors(in_process: Run, discs: Path, tmp_path: Path) -> None:
    chosen = preset_of(tmp_path)
    words = ("evaluate", discs, "--preset", chosen.path, "--cases", "all", "--prompt", "box", "--device", "cpu")
    code, _, said = in_process(*words, "--uncertainty", "--samples", 5, "-o", tmp_path / "report")
    assert code == 0, said
    report = json.loads((tmp_path / "report/summary.json").read_text())
    pipeline = pipelines.build(with_options(chosen, Overrides(uncertainty=True, samples=5)), device.select("cpu"))
    rows = []
    for case, told in zip(read_cases(discs), report["metric_per_case"], strict=True):
        scan, labels = load_pair(case)
        at = np.argwhere(labels > 0)
        box = Box(tuple(map(float, at.min(0))), tuple(map(float, at.max(0))))
        result = pipeline.segment(scan, Prompt((Target("1", "", boxes=(box,)),)), Stages())
        wrong = (result.mask > 0) != (labels > 0)
        assert result.spread is not None
        u = mannwhitneyu(result.spread.maps[1][wrong], result.spread.maps[1][~wrong]).statistic
        found = told["metrics"]["1"]
        assert found["uncertainty_auc"] == pytest.approx(u / (wrong.sum() * (~wrong).sum()), abs=1e-5)
        inside = float(result.spread.maps[1][result.mask > 0].mean())
        assert found["uncertainty_inside"] == pytest.approx(inside, abs=1e-5)
        agreed = result.spread.scores[1]["agreement"]["mean"]
        assert found["uncertainty_disagreement"] == pytest.approx(1 - agreed, abs=1e-5)
        rows.append(
            (inside, 1 - agreed, 1 - found["Dice"], found["uncertainty_auc"], found["uncertainty_auc_of_border"])
        )
    inside, disagreed, errors, areas, borders = np.array(rows).T
    assert len(set(errors)) == 6
    told = report["uncertainty"]
    assert (told["answers"], told["of"]) == (5, "draws of the latents")
    for name, values in (("inside", inside), ("disagreement", disagreed)):
        expected = spearmanr(values, errors).statistic
        assert told["labels"]["1"][f"uncertainty_{name}"] == {"n": 6, "spearman": pytest.approx(expected, abs=1e-4)}
    for name, values in (("auc", areas), ("auc_of_border", borders)):
        assert told["labels"]["1"][f"uncertainty_{name}"] == {"n": 6, "mean": pytest.approx(values.mean(), abs=1e-4)}
    assert "rank correlation of uncertainty with 1 - Dice: inside the mask" in said
    assert f"wrong pixels, area under the curve: {areas.mean():.3f} by uncertainty" in said
    page = (tmp_path / "report/report.html").read_text()
    assert "Does uncertainty tell errors?" in page
    # Asking changes no mask and no other number.
    plain, said = evaluated(in_process, discs, "--preset", chosen.path, "--prompt", "box")
    assert plain["uncertainty"] is None
    assert plain["mean"]["1"] == {
        name: value for name, value in report["mean"]["1"].items() if not name.startswith("uncertainty")
    }
    # One object after the other, as SAMUS's evaluation asks.
    (discs / "dataset.json").unlink(missing_ok=True)
    each, _ = evaluated(
        in_process, discs, "--preset", chosen.path, "--prompt", "box", "--protocol", "samus", "--objects", "together",
        "--uncertainty", "--samples", 5,
    )  # fmt: skip
    assert each["uncertainty"] == told


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--uncertainty",), "has one answer only"),
        (("--samples", 4), "--samples says how often --uncertainty draws"),
        (("--smooth-time", 4), "so many frames have no middle"),
    ],
)
def test_what_cannot_be_asked_is_refused(in_process: Run, discs: Path, tmp_path: Path, words: tuple, said: str) -> None:
    bright_box.preset(tmp_path / "preset")
    code, _, err = in_process("evaluate", discs, "--preset", tmp_path / "preset/bright-box.yaml", *words)
    assert (code, said in " ".join(err.split())) == (2, True), err


@pytest.mark.parametrize("words", [("--smooth-time", 5), ("--no-sector",), ("--uncertainty",)])
def test_masks_in_files_are_not_predicted(in_process: Run, discs: Path, words: tuple) -> None:
    code, _, err = in_process("evaluate", discs / "masks", discs / "masks", *words)
    assert (code, "go with --preset" in err) == (2, True), err


COUNT, SPOILT = 14, (4, 9, 10)


@pytest.fixture
def cines(tmp_path: Path) -> Path:
    """Two loops of a square that moves by a pixel a frame, dark in some frames, with its masks over time."""
    rng = np.random.default_rng(0)
    for number in range(2):
        truth = np.zeros((48, 40, 1, COUNT), np.uint8)
        for t in range(COUNT):
            truth[5 + t : 25 + t, 10 + number : 28, 0, t] = 1
        values = np.where(truth, 200.0, 50 + rng.uniform(0, 10, truth.shape)).astype(np.float32)
        values[..., list(SPOILT)] = 50
        for kind, each in (("images", values), ("masks", truth)):
            (tmp_path / "cines" / kind).mkdir(parents=True, exist_ok=True)
            image = nib.Nifti1Image(each, np.diag([-0.5, -0.5, 1.0, 1.0]))
            image.header.set_xyzt_units("mm", "sec")
            image.header.set_zooms((0.5, 0.5, 1.0, 0.05))
            image.to_filename(tmp_path / "cines" / kind / f"loop{number}.nii.gz")
    return tmp_path / "cines"


@pytest.mark.usefixtures("registered")
def test_cines_are_scored_frame_by_frame_with_and_without_smoothing(in_process: Run, cines: Path) -> None:
    """Unsmoothed, what is bright is found exactly, and in the spoilt frames nothing is."""
    bright_box.preset(cines.parent / "preset", size=48, whole_image=True)
    words = (cines, "--preset", cines.parent / "preset/bright-box.yaml", "--prompt", "none")
    plain, _ = evaluated(in_process, *words, "--smooth-time", 0)
    smooth, _ = evaluated(in_process, *words, "--smooth-time", 5)
    usual, _ = evaluated(in_process, *words)
    assert (plain["smooth_time"], smooth["smooth_time"], usual["smooth_time"]) == (0, 5, None)
    for case in plain["metric_per_case"]:
        assert case["metrics"]["1"]["Dice"] == pytest.approx(1 - len(SPOILT) / COUNT, abs=1e-6)
        # Of the frames that have a mask: a frame without one has no distance.
        assert case["metrics"]["1"]["HD95_mm"] == 0
    assert [case["metrics"]["1"]["Dice"] > 0.95 for case in smooth["metric_per_case"]] == [True, True]
    assert usual["metric_per_case"] == smooth["metric_per_case"]
    # A click in one frame is followed through the others.
    clicked, _ = evaluated(in_process, *words[:-1], "click", "--smooth-time", 5)
    assert all("click_ijk" in case["prompts"]["1"] for case in clicked["metric_per_case"])


@pytest.mark.usefixtures("registered")
def test_a_sector_is_measured_with_and_without(in_process: Run, tmp_path: Path) -> None:
    """What is bright beyond the sector's border is taken for the object unless the border is looked for."""
    rows, columns = np.indices((240, 280))
    inside = (columns - 150) ** 2 / 60**2 + (rows - 110) ** 2 / 45**2 <= 1
    speckle = ndimage.gaussian_filter(np.random.default_rng(1).normal(size=rows.shape), 1.5)
    image = np.clip(np.where(inside, 200, 70) + 12 * speckle / speckle.std(), 30, 250)
    image[(rows - 0.9 * columns > 30) | (rows + 0.9 * columns > 380)] = 0
    image[200:220, 8:28] = 250
    for kind, pixels in (("images", image), ("masks", 255 * inside)):
        (tmp_path / "us" / kind).mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "us" / kind / "head.png")
    bright_box.preset(tmp_path / "preset", size=280, whole_image=True)
    words = (tmp_path / "us", "--preset", tmp_path / "preset/bright-box.yaml", "--prompt", "none")
    found = [evaluated(in_process, *words, *more)[0] for more in ((), ("--no-sector",), ("--sector",))]
    assert [each["sector"] for each in found] == [None, False, True]
    parts = [each["metric_per_case"][0]["metrics"]["1"]["parts_pred"] for each in found]
    assert parts == [2, 2, 1]
    assert found[0]["dice_mean"] < found[2]["dice_mean"]
