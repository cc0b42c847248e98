"""The embedded preset chest-xray-lungs on real radiographs: held-back patients, other hospitals, disturbed pictures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from evaluated import dice_mean, measured
from model_card import check_card
from PIL import Image
from scipy import ndimage

from medseg_cli import device, pipelines, preset
from medseg_cli.datasets import Case, read_cases, split_cases
from medseg_cli.prompt import Box, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.stages import Stages


@pytest.fixture(scope="module")
def pipeline() -> pipelines.Pipeline:
    return pipelines.build(preset.find("chest-xray-lungs"), device.select("cpu"))


@pytest.fixture(scope="module")
def held_back(shared: Path) -> tuple[Case, ...]:
    return split_cases(read_cases(shared / "data" / "chest-xray-lungs"), seed=0).test


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return float(2 * np.count_nonzero(one & two) / max(1, np.count_nonzero(one) + np.count_nonzero(two)))


def lungs(pipeline: pipelines.Pipeline, picture: Path, prompt: Prompt | None = None) -> np.ndarray:
    """Rows by columns."""
    return pipeline.segment(load_scan(picture), prompt or Prompt(), Stages()).mask[:, :, 0].T > 0


def test_the_weights_are_a_few_megabytes_and_measured() -> None:
    check_card("chest-xray-lungs", 8_000_000)


def test_the_target_on_held_back_patients(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    results = measured(pipeline, held_back, "none")
    assert len(results) == 12
    assert dice_mean(results) >= 0.96


def test_the_box_round_both_lungs_gives_both(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    assert dice_mean(measured(pipeline, held_back, "box", "apart")) >= 0.96


def test_the_box_round_one_lung_gives_that_one(pipeline: pipelines.Pipeline, held_back: tuple[Case, ...]) -> None:
    scores = []
    for case in held_back[:6]:
        with Image.open(case.label) as picture:
            parts, _ = ndimage.label(np.asarray(picture) > 127)
        sizes = np.bincount(parts.ravel())[1:]
        for value in np.argsort(sizes)[-2:] + 1:
            rows, columns = ndimage.find_objects(parts)[value - 1]
            first, second = (columns.start, rows.start, 0), (columns.stop - 1, rows.stop - 1, 0)
            mask = lungs(pipeline, case.image, Prompt((Target("1", "", boxes=(Box(first, second),)),)))
            scores.append(dice(mask, parts == value))
    assert np.mean(scores) > 0.94, scores


Change = Callable[[np.ndarray], np.ndarray]
CHANGES: dict[str, tuple[Change, Change, float]] = {
    "negative": (lambda a: 255 - a, lambda m: m, 0.96),
    "16 bit, 12 used": (lambda a: a.astype(np.uint16) * 16 + 7, lambda m: m, 0.965),
    "brighter": (lambda a: (255 * (a / 255) ** 0.6).astype(np.uint8), lambda m: m, 0.95),
    "darker": (lambda a: (255 * (a / 255) ** 1.7).astype(np.uint8), lambda m: m, 0.95),
    "wide, black borders": (lambda a: np.pad(a, ((0, 0), (140, 140))), lambda m: np.pad(m, ((0, 0), (140, 140))), 0.94),
    "cropped, not square": (lambda a: a[20:470, 40:470], lambda m: m[20:470, 40:470], 0.95),
    "mirrored": (lambda a: a[:, ::-1].copy(), lambda m: m[:, ::-1], 0.95),
    "large": (lambda a: np.kron(a, np.ones((4, 4), np.uint8)), lambda m: np.kron(m, np.ones((4, 4), bool)), 0.95),
    "small": (
        lambda a: np.asarray(Image.fromarray(a).resize((100, 100))),
        lambda m: np.asarray(Image.fromarray(m).resize((100, 100))),
        0.95,
    ),
    "noisy": (
        lambda a: np.clip(a + np.random.default_rng(0).normal(0, 8, a.shape), 0, 255).astype(np.uint8),
        lambda m: m,
        0.95,
    ),
    "turned 8 degrees": (
        lambda a: np.asarray(Image.fromarray(a).rotate(8)),
        lambda m: np.asarray(Image.fromarray(m).rotate(8)),
        0.95,
    ),
}
"""How a picture is disturbed, what happens to the mask, and the median Dice that is left."""


@pytest.mark.parametrize("how", list(CHANGES))
def test_disturbed_pictures(
    pipeline: pipelines.Pipeline, held_back: tuple[Case, ...], how: str, tmp_path: Path
) -> None:
    picture_change, mask_change, least = CHANGES[how]
    scores = []
    for case in held_back[:6]:
        with Image.open(case.image) as image, Image.open(case.label) as label:
            picture, mask = np.asarray(image), np.asarray(label) > 127
        Image.fromarray(picture_change(picture)).save(tmp_path / "xray.png")
        scores.append(dice(lungs(pipeline, tmp_path / "xray.png"), mask_change(mask)))
    # The median: one of the six has a lung half full of fluid, whose reference shows where the lung would be.
    assert np.median(scores) > least, scores


def test_other_hospitals(pipeline: pipelines.Pipeline, shared: Path) -> None:
    """Severe pneumonia; those references count the lung behind the heart, the training data's do not."""
    folder = shared / "data" / "chest-xray-structures"
    pictures = sorted((folder / "images").iterdir())
    assert len(pictures) == 3
    for picture in pictures:
        reference = None
        for file in (folder / "masks_full").glob(f"{picture.stem}__*_Lung.png"):
            with Image.open(file) as mask:
                part = np.asarray(mask) > 0
            reference = part if reference is None else reference | part
        assert dice(lungs(pipeline, picture), reference) > 0.8


def test_the_command_of_the_readme(run_medseg, held_back: tuple[Case, ...], tmp_path: Path) -> None:
    case = held_back[0]
    done = run_medseg("segment", case.image, "-o", tmp_path / "lungs.png", "--preset", "chest-xray-lungs", "--json")
    assert done.rc == 0, done.stderr
    with Image.open(tmp_path / "lungs.png") as mask, Image.open(case.label) as label:
        assert dice(np.asarray(mask) > 0, np.asarray(label) > 127) > 0.93
    assert json.loads(done.stdout)["weights"]["sha256"] == preset.find("chest-xray-lungs").weights_sha256
