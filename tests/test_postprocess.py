"""Cleaning: what each step leaves and what it says it did, against scipy's own labelling and hole filling."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from medseg_cli.postprocess import clean
from medseg_cli.preset_format import Postprocessing

MM = (1.0, 1.0, 1.0)
NOWHERE = np.zeros((0, 3))
EVERYWHERE = np.ones((3, 3, 3), dtype=bool)


def two_cubes() -> np.ndarray:
    """Cubes of 27 and of 64 voxels, apart."""
    mask = np.zeros((20, 20, 20), bool)
    mask[5:8, 5:8, 5:8] = mask[14:18, 14:18, 14:18] = True
    return mask


def ring(depth: int) -> np.ndarray:
    """(7, 7, depth): a square tube of 5 x 5 voxels round 3 x 3 open ones, all along k."""
    mask = np.zeros((7, 7, depth), bool)
    mask[1:6, 1:6] = True
    mask[2:5, 2:5] = False
    return mask


@pytest.mark.parametrize(("keep", "left"), [("all", 91), ("largest", 64), ("clicked", 27)])
def test_parts_kept(keep: str, left: int) -> None:
    cleaned = clean(two_cubes(), np.array([[6.0, 6, 6]]), (2.0, 0.5, 3.0), Postprocessing(keep=keep))
    assert cleaned.mask.sum() == left
    expected = [{"step": f"keep {keep}", "parts": 2, "removed_voxels": 91 - left}]
    assert cleaned.steps == ([] if keep == "all" else expected)


def test_clicked_parts_of_an_object_without_clicks_are_all() -> None:
    cleaned = clean(two_cubes(), NOWHERE, MM, Postprocessing(keep="clicked"))
    assert cleaned.mask.sum() == 91
    assert cleaned.steps == [{"step": "keep clicked", "parts": 2, "removed_voxels": 0}]


def test_a_click_beside_keeps_the_nearest_part() -> None:
    cleaned = clean(two_cubes(), np.array([[10.0, 6, 6], [2.0, 2, 3]]), MM, Postprocessing(keep="clicked"))
    assert cleaned.mask.sum() == 27
    assert not clean(two_cubes(), np.array([[0.0, 19, 0]]), MM, Postprocessing(keep="clicked")).mask.any()


def test_small_parts_are_measured_in_mm3() -> None:
    how = Postprocessing(min_mm3=20.0)
    cleaned = clean(two_cubes(), NOWHERE, (1.0, 1.0, 0.5), how)
    assert cleaned.mask.sum() == 64
    assert cleaned.steps == [{"step": "min_mm3 20", "parts_removed": 1, "removed_voxels": 27}]
    assert clean(two_cubes(), NOWHERE, MM, how).mask.sum() == 91


def test_a_part_of_exactly_the_limit_stays_whatever_the_header_rounds_to() -> None:
    spacing = tuple(float(np.float32(0.7)) for _ in range(3))
    assert clean(two_cubes(), NOWHERE, spacing, Postprocessing(min_mm3=27 * 0.343)).mask.sum() == 91
    assert clean(two_cubes(), NOWHERE, spacing, Postprocessing(min_mm3=27.01 * 0.343)).mask.sum() == 64


def test_steps_come_in_order_and_each_sees_what_the_one_before_left() -> None:
    mask = two_cubes()
    mask[15, 15, 15] = False
    mask[0, 0, 0] = True
    clicks = np.array([[17.0, 17, 17], [0.0, 0, 0]])
    cleaned = clean(mask, clicks, MM, Postprocessing(keep="clicked", min_mm3=2.5, fill_holes=True))
    assert json.loads(json.dumps(cleaned.steps)) == [
        {"step": "keep clicked", "parts": 3, "removed_voxels": 27},
        {"step": "min_mm3 2.5", "parts_removed": 1, "removed_voxels": 1},
        {"step": "fill holes", "added_voxels": 1},
    ]
    assert np.array_equal(np.argwhere(cleaned.mask), np.argwhere(np.ones((4, 4, 4))) + 14)


def test_parts_that_touch_at_a_corner_are_one() -> None:
    mask = np.zeros((4, 4, 4), bool)
    mask[0, 0, 0] = mask[1, 1, 1] = mask[3, 3, 3] = True
    cleaned = clean(mask, NOWHERE, MM, Postprocessing(keep="largest"))
    assert np.argwhere(cleaned.mask).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert cleaned.steps[0]["parts"] == 2


def test_cavities_of_volumes_are_filled_and_tubes_stay_open() -> None:
    cube = np.ones((5, 5, 5), bool)
    cube[2, 2, 2] = False
    cleaned = clean(cube, NOWHERE, (1.0, 2.0, 3.0), Postprocessing(fill_holes=True))
    assert cleaned.mask.all()
    assert cleaned.steps == [{"step": "fill holes", "added_voxels": 1}]
    tube = ring(4)
    assert np.array_equal(clean(tube, NOWHERE, MM, Postprocessing(fill_holes=True)).mask, tube)


def test_a_cavity_with_open_corners_is_closed() -> None:
    mask = np.zeros((5, 5, 5), bool)
    for axis in range(3):
        np.moveaxis(mask, axis, 0)[[1, 3], 2, 2] = True
    cleaned = clean(mask, NOWHERE, MM, Postprocessing(fill_holes=True))
    assert cleaned.mask[2, 2, 2]
    assert cleaned.mask.sum() == 7


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("size", [1, 9])
def test_an_object_of_one_slice_is_filled_in_its_plane(axis: int, size: int) -> None:
    mask = np.zeros((7, 7, size), bool)
    mask[..., size // 2] = ring(1)[..., 0]
    cleaned = clean(np.moveaxis(mask, 2, axis), NOWHERE, (0.5, 0.5, 0.5), Postprocessing(fill_holes=True))
    assert cleaned.mask.sum() == 25
    assert cleaned.steps == [{"step": "fill holes", "added_voxels": 9}]


def test_a_gap_in_the_plane_opens_a_hole_and_a_diagonal_wall_does_not() -> None:
    open_ring = ring(1)
    open_ring[1, 3, 0] = False
    assert clean(open_ring, NOWHERE, MM, Postprocessing(fill_holes=True)).mask.sum() == 15
    diamond = np.zeros((5, 5, 1), bool)
    diamond[[0, 1, 1, 2], [1, 0, 2, 1], 0] = True
    assert clean(diamond, NOWHERE, MM, Postprocessing(fill_holes=True)).mask.sum() == 5


def test_the_slice_is_that_of_the_object_which_the_other_steps_left() -> None:
    mask = np.zeros((9, 9, 6), bool)
    mask[:7, :7, 0] = ring(1)[..., 0]
    mask[8, 8, 5] = True
    cleaned = clean(mask, NOWHERE, MM, Postprocessing(keep="largest", fill_holes=True))
    assert cleaned.mask.sum() == 25


def test_an_empty_mask_stays_empty_and_its_steps_say_so() -> None:
    how = Postprocessing(keep="largest", min_mm3=5, fill_holes=True)
    for shape in ((4, 5, 6), (4, 5, 1), (1, 1, 1)):
        cleaned = clean(np.zeros(shape, bool), NOWHERE, MM, how)
        assert cleaned.mask.shape == shape
        assert not cleaned.mask.any()
        assert cleaned.steps == [
            {"step": "keep largest", "parts": 0, "removed_voxels": 0},
            {"step": "min_mm3 5", "parts_removed": 0, "removed_voxels": 0},
            {"step": "fill holes", "added_voxels": 0},
        ]


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 1), (5, 1, 1), (3, 1, 4), (2, 2, 2)])
def test_a_full_mask_of_any_shape_is_one_part_without_holes(shape: tuple[int, int, int]) -> None:
    cleaned = clean(np.ones(shape, bool), NOWHERE, MM, Postprocessing(keep="largest", min_mm3=0.5, fill_holes=True))
    assert cleaned.mask.all()
    assert [step.get("parts", step.get("parts_removed", step.get("added_voxels"))) for step in cleaned.steps] == [
        1,
        0,
        0,
    ]


def test_nothing_asked_for_is_nothing_done_but_a_copy() -> None:
    mask = two_cubes()
    cleaned = clean(mask, NOWHERE, MM, Postprocessing())
    assert cleaned.steps == []
    assert np.array_equal(cleaned.mask, mask)
    assert not np.shares_memory(cleaned.mask, mask)


how_given = st.builds(
    Postprocessing,
    keep=st.sampled_from(["all", "largest"]),
    min_mm3=st.sampled_from([0.0, 3.0, 8.0]),
    fill_holes=st.booleans(),
)


@settings(max_examples=150, deadline=None)
@given(
    mask=arrays(bool, st.tuples(*[st.integers(2, 7)] * 3), elements=st.booleans()),
    axes=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([slice(None), slice(None, None, -1)])] * 3),
    how=how_given,
)
def test_any_view_is_cleaned_as_scipy_would(
    mask: np.ndarray, axes: list[int], flips: tuple[slice, ...], how: Postprocessing
) -> None:
    spacing = (0.5, 2.0, 1.5)
    view = mask.transpose(axes)[flips]
    before = view.copy()
    cleaned = clean(view, NOWHERE, spacing, how)
    assert np.array_equal(view, before), "the caller's mask was changed"
    assert_as_scipy(cleaned.mask, before, spacing, how)
    change = sum(step.get("added_voxels", 0) - step.get("removed_voxels", 0) for step in cleaned.steps)
    assert change == int(cleaned.mask.sum()) - int(before.sum())


def assert_as_scipy(found: np.ndarray, mask: np.ndarray, spacing: tuple, how: Postprocessing) -> None:
    """The same steps one part at a time; equally large parts are told apart by no rule."""
    parts, count = ndimage.label(mask, EVERYWHERE)
    sizes = {part: int((parts == part).sum()) for part in range(1, count + 1)}
    largest = [part for part in sizes if sizes[part] == max(sizes.values())] if how.keep == "largest" else [None]
    candidates = []
    for chosen in largest or [None]:
        kept = [p for p in sizes if (chosen is None or p == chosen) and sizes[p] * np.prod(spacing) >= how.min_mm3]
        result = np.isin(parts, kept)
        thick = all(np.ptp(where) > 0 for where in np.nonzero(result)) if result.any() else False
        if how.fill_holes and thick:
            result = ndimage.binary_fill_holes(result)
        elif how.fill_holes and result.any():
            axis = next(axis for axis in range(3) if np.ptp(np.nonzero(result)[axis]) == 0)
            index = np.nonzero(result)[axis][0]
            plane = np.moveaxis(result, axis, 0)
            plane[index] = ndimage.binary_fill_holes(plane[index])
        candidates.append(result)
    assert any(np.array_equal(found, candidate) for candidate in candidates)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("length", [3, 5, 7])
def test_a_line_of_voxels_with_an_object_at_either_end(axis: int, length: int) -> None:
    """Which the labelling of bool arrays in cc3d cannot do."""
    line = np.arange(length) % 2 == 0
    mask = np.moveaxis(line[:, None, None], 0, axis)
    cleaned = clean(mask, np.zeros((1, 3)), (1.0, 1.0, 1.0), Postprocessing(keep="clicked", min_mm3=1.0))
    clicked = np.arange(length) == 0
    assert np.array_equal(cleaned.mask, np.moveaxis(clicked[:, None, None], 0, axis))
    assert cleaned.steps[0]["parts"] == line.sum()
