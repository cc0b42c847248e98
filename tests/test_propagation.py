"""When propagation stops: each rule alone, at its own number, in words that name it; the box of the next slice."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from medseg_cli.propagation import Found, Rules, describe, next_box, stop_reason

OFF = {
    "min_area_mm2": 0.0,
    "min_overlap": 0.0,
    "max_growth": 1e9,
    "max_total_growth": 1e9,
    "max_drift": 1.0,
    "min_score": 0.0,
}
"""Rules under which nothing but an empty mask stops."""


def disc(radius: float, x: float = 32.0, shape: tuple[int, int] = (64, 64)) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (rows - 32) ** 2 + (columns - x) ** 2 <= radius**2


def found(mask: np.ndarray, brightness: float = 0.5, score: float | None = None, pixel_mm2: float = 1.0) -> Found:
    return Found(mask, float(mask.sum()) * pixel_mm2, brightness, score)


def test_like_its_neighbour_is_followed() -> None:
    before = found(disc(10))
    assert stop_reason(found(disc(9.5, 33)), before, before, Rules()) is None


def test_nothing_found_stops_under_any_rules() -> None:
    before = found(disc(10))
    assert stop_reason(found(disc(10) & False), before, before, Rules(**OFF)) == "nothing found"


@pytest.mark.parametrize(
    ("rule", "limit", "beyond", "within", "number"),
    [
        (
            "min_area_mm2",
            4.0,
            found(disc(1), pixel_mm2=0.79),
            found(disc(1), pixel_mm2=0.81),
            "area 3.95 mm2 is below 4",
        ),
        ("min_score", 0.5, found(disc(9), score=0.49), found(disc(9), score=0.5), "score 0.49 is below 0.5"),
        (
            "max_drift",
            0.2,
            found(disc(9), 0.29),
            found(disc(9), 0.31),
            "changed by 0.21 of the display range, above 0.2",
        ),
        (
            "max_drift",
            0.2,
            found(disc(9), 0.71),
            found(disc(9), 0.69),
            "changed by 0.21 of the display range, above 0.2",
        ),
    ],
)
def test_each_rule_alone_stops_at_its_number(
    rule: str, limit: float, beyond: Found, within: Found, number: str
) -> None:
    before = found(disc(9))
    alone = Rules(**{**OFF, rule: limit})
    reason = stop_reason(beyond, before, before, alone)
    assert reason is not None
    assert number in reason
    assert stop_reason(within, before, before, alone) is None
    assert stop_reason(beyond, before, before, Rules(**OFF)) is None
    assert getattr(Rules(), rule) == limit


def test_slow_growth_stops_at_its_share_of_the_prompted_slice() -> None:
    start, before = found(disc(8)), found(disc(16.1))
    alone = Rules(**{**OFF, "max_total_growth": 4.0})
    reason = stop_reason(found(disc(17)), before, start, alone)
    assert reason is not None
    assert "times that of the prompted slice, above 4" in reason
    assert stop_reason(found(disc(15)), before, start, alone) is None
    assert stop_reason(found(disc(17)), before, start, Rules(**OFF)) is None
    assert Rules().max_total_growth == 4.0


def test_overlap_is_dice_with_the_slice_before() -> None:
    square = np.zeros((40, 40), bool)
    square[:10, :10] = True
    alone = Rules(**{**OFF, "min_overlap": 0.4})
    # 10 x 10 shifted by 6 of 10 columns share 4 of 10: Dice 0.4; by 7: 0.3.
    assert stop_reason(found(np.roll(square, 6, axis=1)), found(square), found(square), alone) is None
    reason = stop_reason(found(np.roll(square, 7, axis=1)), found(square), found(square), alone)
    assert reason == "overlap with the slice before 0.30 is below 0.4"
    assert Rules().min_overlap == 0.4
    # A mask that lies where the first one lay, but not where the last one did, is lost.
    assert stop_reason(found(square), found(np.roll(square, 20, axis=1)), found(square), alone) is not None


def test_growth_is_relative_to_the_slice_before() -> None:
    alone = Rules(**{**OFF, "max_growth": 2.0})
    small = np.zeros((40, 40), bool)
    small[:10, :10] = True
    double, more = small.copy(), small.copy()
    double[:20, :10] = True
    more[:21, :10] = True
    assert stop_reason(found(double), found(small), found(small), alone) is None
    assert stop_reason(found(more), found(small), found(small), alone) == "area grew 2.10 times, above 2"
    assert stop_reason(found(more), found(double), found(small), alone) is None
    assert Rules().max_growth == 2.0


def test_brightness_is_compared_with_the_prompted_slice() -> None:
    """A slow drift from slice to slice is a drift all the same."""
    alone = Rules(**{**OFF, "max_drift": 0.2})
    start, before = found(disc(9), 0.5), found(disc(9), 0.69)
    assert stop_reason(found(disc(9), 0.71), before, start, alone) is not None
    assert stop_reason(found(disc(9), 0.69), before, before, alone) is None


def test_a_network_without_a_score_is_not_judged_by_it() -> None:
    before = found(disc(9))
    assert stop_reason(found(disc(9), score=None), before, before, Rules(**{**OFF, "min_score": 1.0})) is None


def test_the_page_states_the_defaults(root: Path) -> None:
    page = (root / "docs" / "slices.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)`[^|]*\| ([\w.]+) \|", page, re.MULTILINE))
    rows |= dict(re.findall(r"`(margin|patience)` \(([\d.]+)\)", page))
    stated = {
        name: None if text == "none" else float(text) for name, text in rows.items() if name in Rules.model_fields
    }
    assert stated == Rules().model_dump()


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_overlap": 1.5},
        {"max_growth": 1.0},
        {"max_drift": 0.0},
        {"min_area_mm2": -1.0},
        {"min_score": float("nan")},
        {"max_slices": 0},
        {"margin": 2.0},
        {"min_ovelap": 0.1},
    ],
)
def test_rules_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Rules(**wrong)


def test_description_of_a_mask() -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    picture[1, 2] = 51
    picture[1, 3] = 153
    mask = np.zeros((4, 5), bool)
    mask[1, 2:4] = True
    described = describe(mask, picture, 0.25, 0.9)
    assert (described.area_mm2, described.score) == (0.5, 0.9)
    assert described.brightness == pytest.approx(0.4)
    nothing = describe(mask & False, picture, 0.25, None)
    assert (nothing.area_mm2, nothing.brightness) == (0.0, 0.0)


def test_next_box_is_wider_by_a_share_of_the_object_and_at_least_a_pixel() -> None:
    mask = np.zeros((100, 200), bool)
    mask[40:60, 100:140] = True
    assert next_box(mask, 0.05).tolist() == [98, 39, 141, 60]
    assert next_box(mask, 0.1).tolist() == [96, 38, 143, 61]
    assert next_box(mask, 0.001).tolist() == [99, 39, 140, 60]
    assert next_box(mask, 0.0).tolist() == [100, 40, 139, 59]


def test_next_box_stays_in_the_picture() -> None:
    assert next_box(np.ones((7, 9), bool), 0.5).tolist() == [0, 0, 8, 6]
    corner = np.zeros((7, 9), bool)
    corner[6, 8] = True
    assert next_box(corner, 0.05).tolist() == [7, 5, 8, 6]


@given(mask=arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))), margin=st.floats(0, 1))
def test_next_box_holds_the_whole_mask(mask: np.ndarray, margin: float) -> None:
    mask[tuple(size // 2 for size in mask.shape)] = True
    x0, y0, x1, y1 = next_box(mask, margin)
    rows, columns = np.nonzero(mask)
    assert 0 <= x0 <= columns.min() <= columns.max() <= x1 <= mask.shape[1] - 1
    assert 0 <= y0 <= rows.min() <= rows.max() <= y1 <= mask.shape[0] - 1
