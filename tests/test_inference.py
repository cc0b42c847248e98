"""The crop follows the object: synthetic objects with a perfect "network", every voxel must be found."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg_cli.inference import Coverage, clicked_parts, follow

SIZE = 16
MM = (1.0, 1.0, 1.0)


def oracle(truth: np.ndarray, seen: list | None = None):
    """A network that knows the truth inside its crop, and insists on clicks inside the object."""

    def predict(start: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        crop = np.zeros((SIZE,) * 3, np.float32)
        low, high = np.maximum(start, 0), np.minimum(start + SIZE, truth.shape)
        if np.all(high > low):
            place = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
            crop[place] = truth[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
        for click in clicks:
            assert crop[tuple(np.round(click).astype(int))] == 1, "prompted outside the object"
        if seen is not None:
            seen.append((start, clicks))
        return crop

    return predict


def cover(predict, clicks: np.ndarray, extent: tuple[int, int, int], max_crops: int) -> Coverage:
    """What `follow` makes of it when every crop that it asks for is predicted at once."""
    following = follow(clicks, SIZE, extent, MM, max_crops)
    probability = None
    while True:
        try:
            ask = following.send(probability)
        except StopIteration as end:
            return end.value
        probability = predict(ask.start, ask.clicks)


def found(truth: np.ndarray, clicks: np.ndarray, max_crops: int = 64) -> tuple[np.ndarray, object]:
    coverage = cover(oracle(truth), clicks, truth.shape, max_crops)
    whole = np.zeros(truth.shape, bool)
    for voxel in np.argwhere(coverage.object) + coverage.canvas.start:
        whole[tuple(voxel)] = True
    return whole, coverage


def test_a_small_object_takes_one_crop() -> None:
    truth = np.zeros((40, 40, 40))
    truth[18:23, 18:23, 18:23] = 1
    whole, coverage = found(truth, np.array([[20.0, 20, 20]]))
    assert np.array_equal(whole, truth > 0)
    assert len(coverage.starts) == 1


@pytest.mark.parametrize("click", [(3, 20, 20), (35, 20, 20), (76, 20, 20)])
def test_an_object_longer_than_a_crop_is_covered_from_any_click(click: tuple[int, int, int]) -> None:
    truth = np.zeros((80, 40, 40))
    truth[2:78, 17:24, 17:24] = 1
    whole, coverage = found(truth, np.array([click], float))
    assert np.array_equal(whole, truth > 0)
    assert coverage.complete


def test_a_bent_object_is_covered() -> None:
    truth = np.zeros((60, 60, 20))
    truth[5:55, 5:10, 8:12] = 1
    truth[50:55, 5:55, 8:12] = 1
    whole, _ = found(truth, np.array([[6.0, 6, 9]]))
    assert np.array_equal(whole, truth > 0)


def test_an_object_at_the_scans_edge_needs_no_crop_outside() -> None:
    truth = np.zeros((30, 30, 5))
    truth[0:4, 0:4, 0:5] = 1
    whole, coverage = found(truth, np.array([[1.0, 1, 2]]))
    assert np.array_equal(whole, truth > 0)
    assert len(coverage.starts) <= 2


def test_other_objects_are_left_alone() -> None:
    truth = np.zeros((40, 40, 40))
    truth[18:22, 18:22, 18:22] = 1
    truth[24:26, 18:22, 18:22] = 1
    whole, _ = found(truth, np.array([[19.0, 19, 19]]))
    assert whole[18:22].sum() == 64
    assert not whole[24:].any()


def test_clicks_far_apart_start_one_crop_each() -> None:
    truth = np.zeros((80, 20, 20))
    truth[5:10, 8:12, 8:12] = 1
    truth[70:75, 8:12, 8:12] = 1
    whole, _ = found(truth, np.array([[7.0, 10, 10], [72.0, 10, 10]]))
    assert np.array_equal(whole, truth > 0)


def test_the_limit_is_kept_and_said() -> None:
    truth = np.ones((100, 100, 30))
    _, coverage = found(truth, np.array([[50.0, 50, 15]]), max_crops=5)
    assert len(coverage.starts) == 5
    assert not coverage.complete


@settings(max_examples=30, deadline=None)
@given(st.tuples(*[st.integers(0, 39)] * 3), st.tuples(*[st.integers(1, 30)] * 3), st.data())
def test_every_box_is_covered(low: tuple[int, int, int], size: tuple[int, int, int], data: st.DataObject) -> None:
    truth = np.zeros((44, 44, 44))
    truth[tuple(slice(a, min(a + b, 44)) for a, b in zip(low, size, strict=True))] = 1
    voxels = np.argwhere(truth > 0)
    click = voxels[data.draw(st.integers(0, len(voxels) - 1))]
    whole, coverage = found(truth, click[None].astype(float))
    assert coverage.complete
    assert np.array_equal(whole, truth > 0)


def test_nothing_found_is_an_empty_object() -> None:
    coverage = cover(lambda *_: np.zeros((SIZE,) * 3, np.float32), np.array([[5.0, 5, 5]]), (20, 20, 20), 8)
    assert not coverage.object.any()
    assert coverage.crops == 7
    assert coverage.complete


def test_a_click_at_whose_place_nothing_is_seen_is_looked_at_from_nearby() -> None:
    def predict(start: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        crop = np.zeros((SIZE,) * 3, np.float32)
        if start[2] < 12:
            place = tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(18 - start, 22 - start, strict=True))
            crop[place] = 1
        return crop

    coverage = cover(predict, np.array([[20.0, 20, 20]]), (60, 60, 60), 20)
    assert coverage.object.sum() == 64


def test_a_click_just_beside_takes_the_nearest_part() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[5:8, 5:8, 5:8] = mask[14:18, 14:18, 14:18] = True
    assert clicked_parts(mask, np.array([[9.0, 6, 6]]), MM).sum() == 27
    assert clicked_parts(mask, np.array([[0.0, 19, 0]]), MM).sum() == 0


def test_reach_is_in_mm() -> None:
    mask = np.zeros((60, 20, 20), bool)
    mask[5:8, 5:8, 5:8] = True
    click = np.array([[20.0, 6, 6]])
    assert clicked_parts(mask, click, (0.2, 0.2, 0.2)).sum() == 27
    assert not clicked_parts(mask, click, MM).any()
    assert not clicked_parts(mask, np.array([[9.0, 6, 6]]), (5.0, 1.0, 1.0)).any()


def test_a_click_off_the_canvas_takes_nothing() -> None:
    mask = np.zeros((20, 20, 20), bool)
    mask[0:3, 5:8, 5:8] = True
    assert not clicked_parts(mask, np.array([[-30.0, 6, 6]]), MM).any()


def test_a_move_that_finds_nothing_is_taken_back() -> None:
    def predict(start: np.ndarray, clicks: np.ndarray) -> np.ndarray:
        crop = np.zeros((SIZE,) * 3, np.float32)
        if start[0] == 12:
            crop[8:13, 7:10, 7:10] = 1
        return crop

    coverage = cover(predict, np.array([[20.0, 20, 20]]), (60, 60, 60), 8)
    assert coverage.object.sum() == 5 * 3 * 3
    assert coverage.crops >= 2
