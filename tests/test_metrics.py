"""Scores against formulas and against an independent library."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg_cli.metrics import score


def cube(low: int, high: int, size: int = 16) -> np.ndarray:
    mask = np.zeros((size,) * 3, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def test_a_mask_against_itself_is_perfect() -> None:
    result = score(cube(4, 9), cube(4, 9), (1.0, 2.0, 0.5))
    assert (result.dice, result.hd95_mm, result.volume_error) == (1.0, 0.0, 0.0)
    assert result.volume_mm3 == 125


def test_empty_masks() -> None:
    empty, full = np.zeros((8, 8, 8), bool), cube(2, 5, 8)
    both = score(empty, empty, (1, 1, 1))
    assert (both.dice, both.hd95_mm, both.volume_error) == (1.0, None, None)
    missed = score(empty, full, (1, 1, 1))
    assert (missed.dice, missed.hd95_mm, missed.volume_error) == (0.0, None, -1.0)


def test_distances_are_in_mm_along_each_axis() -> None:
    one, two = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    one[5, 5, 5] = two[5, 5, 9] = True
    assert score(one, two, (1.0, 1.0, 2.5)).hd95_mm == pytest.approx(10.0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_surface_of_an_image_is_its_outline(axis: int) -> None:
    full = np.zeros((15, 15), bool)
    full[3:12, 3:12] = True
    holed = full.copy()
    holed[7, 7] = False
    # The four pixels round the hole, 11 % of the outline, lie three pixels from the other mask's.
    pair = [np.expand_dims(each, axis) for each in (full, holed)]
    assert score(*pair, (2.0, 2.0, 2.0)).hd95_mm == pytest.approx(6.0)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.tuples(*[st.floats(0.5, 3)] * 3))
def test_scores_agree_with_distance_transforms(seed: int, spacing: tuple[float, float, float]) -> None:
    rng = np.random.default_rng(seed)
    one, two = (ndimage.gaussian_filter(rng.normal(size=(12, 12, 12)), 1.5) > 0.05 for _ in range(2))
    result, mirrored = score(one, two, spacing), score(two, one, spacing)
    assert result.dice == mirrored.dice
    assert 0 <= result.dice <= 1
    assert result.hd95_mm == pytest.approx(mirrored.hd95_mm)

    def edge(mask):
        return mask & ~ndimage.binary_erosion(mask)

    def directed(a, b):
        return np.percentile(ndimage.distance_transform_edt(~edge(b), sampling=spacing)[edge(a)], 95)

    expected = max(directed(one, two), directed(two, one))
    assert result.hd95_mm == pytest.approx(expected, abs=1e-3)
