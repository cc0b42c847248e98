"""The embedded fetal-head-us: its card, a drawn head, and held-back subjects by every way of asking."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_card import check_card
from PIL import Image

Run = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(__file__).parents[1] / "examples"
WAYS = {"none": (), "text": ("--text", "head of a fetus")}


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def loaded(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) > 0


def test_the_weights_are_small_and_their_figures_are_on_the_card() -> None:
    check_card("fetal-head-us", 12_000_000, "g")


def test_a_drawn_head_is_found_and_measured(in_process: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ellipse of 300 x 220 pixels of 0.5 mm: pi (a + b) (1 + h / 4 + h² / 64 ...), h = ((a - b) / (a + b))²."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    sys.modules.pop("draw_scans", None)
    import draw_scans

    picture, truth = draw_scans.head(np.random.default_rng(0))
    Image.fromarray(picture).save(tmp_path / "head.png")
    code, _, said = in_process(
        "segment", tmp_path / "head.png", "-o", tmp_path / "mask.png", "--preset", "fetal-head-us",
        "--spacing", "0.5,0.5", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, said
    assert dice(loaded(tmp_path / "mask.png"), truth) > 0.93
    report = json.loads((tmp_path / "mask.json").read_text())
    a, b = 75.0, 55.0
    h = ((a - b) / (a + b)) ** 2
    expected = np.pi * (a + b) * (1 + h / 4 + h**2 / 64)
    assert report["labels"][0]["ellipse"]["circumference_mm"] == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("way", [*WAYS, "click", "box"])
def test_held_back_subjects(way: str, in_process: Run, shared: Path, tmp_path: Path) -> None:
    folder, found = shared / "data" / "fetal-head-us", []
    for image in sorted((folder / "images").iterdir())[:2]:
        truth = loaded(folder / "masks" / image.name)
        rows, columns = np.nonzero(truth)
        middle = len(rows) // 2
        ask = {
            "click": ("--point", f"{columns[middle]},{rows[middle]}"),
            "box": ("--box", f"{columns.min()},{rows.min()},{columns.max()},{rows.max()}"),
            **WAYS,
        }[way]
        mask = tmp_path / image.name
        code, _, said = in_process("segment", image, "-o", mask, "--preset", "fetal-head-us", "--device", "cpu", *ask)
        assert code == 0, said
        found.append(dice(loaded(mask), truth))
    assert np.mean(found) > 0.94, found
