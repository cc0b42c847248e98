"""Scores against formulas, brute force and two independent libraries."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial.distance import cdist

from medseg_cli.metrics import Score, score

SPACINGS = ((1.0, 1.0, 1.0), (0.7, 0.7, 5.0), (2.0, 1.5, 1.0))


def cube(low: int, high: int, size: int = 16) -> np.ndarray:
    mask = np.zeros((size,) * 3, bool)
    mask[low:high, low:high, low:high] = True
    return mask


def ball(radius: float, spacing: tuple[float, float, float], shape: tuple[int, int, int], shift: float = 0.0):
    """A ball of `radius` mm in the middle, moved by `shift` mm along i."""
    grid = [(np.arange(size) - (size - 1) / 2) * mm for size, mm in zip(shape, spacing, strict=True)]
    i, j, k = np.meshgrid(*grid, indexing="ij")
    return (i - shift) ** 2 + j**2 + k**2 <= radius**2


def blobs(seed: int, shape: tuple[int, int, int] = (20, 24, 18)) -> tuple[np.ndarray, np.ndarray]:
    """Two random masks with parts, holes and voxels at the edge of the grid."""
    rng = np.random.default_rng(seed)
    return tuple(ndimage.gaussian_filter(rng.normal(size=shape), 2) > 0.02 for _ in range(2))


def by_hand(mask: np.ndarray, reference: np.ndarray, spacing: tuple[float, float, float]) -> dict[str, float]:
    """Distances by comparing every surface voxel with every other; no distance transform, no tree."""

    def surface(each: np.ndarray) -> np.ndarray:
        padded = np.pad(each, 1)
        inner = padded.copy()
        for axis in range(3):
            for step in (-1, 1):
                inner &= np.roll(padded, step, axis)
        return np.argwhere(padded & ~inner) * np.array(spacing)

    apart = cdist(surface(mask), surface(reference))
    there, back = apart.min(1), apart.min(0)
    return {
        "hd": max(there.max(), back.max()),
        "hd95": max(np.percentile(there, 95), np.percentile(back, 95)),
        "assd": (there.sum() + back.sum()) / (len(there) + len(back)),
        "nsd": (np.sum(there <= 2 + 1e-9) + np.sum(back <= 2 + 1e-9)) / (len(there) + len(back)),
    }


def test_a_mask_against_itself_is_perfect() -> None:
    result = score(cube(4, 9), cube(4, 9), (1.0, 2.0, 0.5))
    assert (result.dice, result.iou, result.precision, result.recall) == (1.0, 1.0, 1.0, 1.0)
    assert (result.hd_mm, result.hd95_mm, result.assd_mm, result.volume_error) == (0.0, 0.0, 0.0, 0.0)
    assert result.nsd == {1.0: 1.0, 2.0: 1.0}
    assert result.volume_mm3 == 125
    assert (result.tp, result.fp, result.fn, result.tn) == (125, 0, 0, 16**3 - 125)


def test_the_rule_for_empty_masks() -> None:
    empty, full = np.zeros((8, 8, 8), bool), cube(2, 5, 8)
    both = score(empty, empty, (1, 1, 1))
    assert (both.dice, both.iou, both.nsd[1.0]) == (1.0, 1.0, 1.0)
    assert both.emptiness == "both are empty"
    missed, invented = score(empty, full, (1, 1, 1)), score(full, empty, (1, 1, 1))
    for one, why in ((missed, "the prediction is empty"), (invented, "the reference is empty")):
        assert (one.dice, one.iou, one.nsd[1.0]) == (0.0, 0.0, 0.0)
        assert one.emptiness == why
    for each in (both, missed, invented):
        assert each.hd_mm is each.hd95_mm is each.assd_mm is None
    assert (missed.precision, missed.recall, missed.volume_error, missed.detection_rate) == (None, 0.0, -1.0, 0.0)
    assert (invented.precision, invented.recall, invented.volume_error) == (0.0, None, None)
    assert (invented.detection_rate, invented.false_parts) == (None, 1)


def test_distances_are_in_mm_along_each_axis() -> None:
    one, two = np.zeros((20, 20, 20), bool), np.zeros((20, 20, 20), bool)
    one[5, 5, 5] = two[5, 5, 9] = True
    result = score(one, two, (1.0, 1.0, 2.5), nsd_mm=(9.9, 10.0))
    assert (result.hd_mm, result.hd95_mm, result.assd_mm) == pytest.approx((10.0, 10.0, 10.0))
    assert result.nsd == {9.9: 0.0, 10.0: 1.0}


def test_a_distance_equal_to_the_tolerance_lies_within() -> None:
    one, two = np.zeros((40, 3, 3), bool), np.zeros((40, 3, 3), bool)
    one[7, 1, 1] = two[10, 1, 1] = True
    # 3 * 0.1 is more than 0.3 in binary numbers.
    assert score(one, two, (0.1, 1.0, 1.0), nsd_mm=(0.3,)).nsd == {0.3: 1.0}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_surface_of_an_image_is_its_outline(axis: int) -> None:
    full = np.zeros((15, 15), bool)
    full[3:12, 3:12] = True
    holed = full.copy()
    holed[7, 7] = False
    # The four pixels round the hole, 11 % of the outline, lie three pixels from the other mask's.
    pair = [np.expand_dims(each, axis) for each in (full, holed)]
    assert score(*pair, (2.0, 2.0, 2.0)).hd95_mm == pytest.approx(6.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("shift", [1, 3, 7])
def test_a_shifted_box_has_the_distances_of_brute_force(spacing: tuple[float, float, float], shift: int) -> None:
    one, two = np.zeros((22, 14, 12), bool), np.zeros((22, 14, 12), bool)
    one[2:10, 3:9, 2:9] = two[2 + shift : 10 + shift, 3:9, 2:9] = True
    result, expected = score(one, two, spacing), by_hand(one, two, spacing)
    # A whole face moves by the shift, and nothing moves farther.
    assert result.hd_mm == pytest.approx(shift * spacing[0])
    assert result.hd_mm == pytest.approx(expected["hd"])
    assert result.hd95_mm == pytest.approx(expected["hd95"])
    assert result.assd_mm == pytest.approx(expected["assd"])
    assert result.nsd[2.0] == pytest.approx(expected["nsd"])
    overlap = max(0, 8 - shift) / 8
    assert result.dice == pytest.approx(overlap)
    assert result.iou == pytest.approx(overlap / (2 - overlap))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_objects_at_the_edge_of_the_grid_have_the_distances_of_brute_force(
    seed: int, spacing: tuple[float, float, float]
) -> None:
    one, two = blobs(seed)
    result, expected = score(one, two, spacing), by_hand(one, two, spacing)
    found = (result.hd_mm, result.hd95_mm, result.assd_mm, result.nsd[2.0])
    assert found == pytest.approx((expected["hd"], expected["hd95"], expected["assd"], expected["nsd"]))


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 1.0, 1.6)])
def test_balls_have_the_volume_and_the_distance_of_geometry(spacing: tuple[float, float, float]) -> None:
    shape = tuple(int(50 / mm) for mm in spacing)
    small, large = ball(14, spacing, shape), ball(18, spacing, shape)
    result = score(large, small, spacing)
    assert result.reference_mm3 == pytest.approx(4 / 3 * np.pi * 14**3, rel=0.01)
    assert result.volume_mm3 == pytest.approx(4 / 3 * np.pi * 18**3, rel=0.01)
    assert result.volume_error == pytest.approx((18 / 14) ** 3 - 1, rel=0.03)
    assert result.dice == pytest.approx(2 * 14**3 / (14**3 + 18**3), abs=0.01)
    assert (result.precision, result.recall) == (pytest.approx((14 / 18) ** 3, abs=0.01), 1.0)
    # Surfaces are drawn by voxels, so that a distance is right to about one of them.
    for distance in (result.hd_mm, result.hd95_mm, result.assd_mm):
        assert distance == pytest.approx(4, abs=max(spacing))


@pytest.mark.parametrize("spacing", SPACINGS)
def test_numbers_agree_with_monai(spacing: tuple[float, float, float]) -> None:
    import torch
    from monai import metrics

    for seed in range(3):
        one, two = blobs(seed)
        result = score(one, two, spacing, nsd_mm=(1.0, 3.0))
        pair = [torch.from_numpy(each)[None, None].float() for each in (one, two)]
        near = {"include_background": True, "spacing": spacing}
        assert result.dice == pytest.approx(float(metrics.compute_dice(*pair)), abs=1e-6)
        assert result.iou == pytest.approx(float(metrics.compute_iou(*pair)), abs=1e-6)
        assert result.hd_mm == pytest.approx(float(metrics.compute_hausdorff_distance(*pair, **near)), abs=1e-4)
        hd95 = metrics.compute_hausdorff_distance(*pair, percentile=95, **near)
        assert result.hd95_mm == pytest.approx(float(hd95), abs=1e-4)
        assd = metrics.compute_average_surface_distance(*pair, symmetric=True, **near)
        assert result.assd_mm == pytest.approx(float(assd), abs=1e-4)
        for limit, value in result.nsd.items():
            assert value == pytest.approx(float(metrics.compute_surface_dice(*pair, [limit], **near)), abs=1e-6)


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.8, 0.8, 1.5)])
@pytest.mark.parametrize(("radius", "shift"), [(16, 0.0), (18, 0.0), (17, 3.2)])
def test_numbers_agree_with_surface_distance(spacing: tuple[float, float, float], radius: float, shift: float) -> None:
    """It measures between patches of area that lie between voxels: the same to a fraction of a voxel."""
    other = pytest.importorskip("surface_distance")
    shape = tuple(int(52 / mm) for mm in spacing)
    one, two = ball(radius, spacing, shape, shift), ball(16, spacing, shape)
    result = score(one, two, spacing, nsd_mm=(1.0, 2.5))
    found = other.compute_surface_distances(one, two, spacing)
    voxel = float(np.linalg.norm(spacing))
    assert result.dice == pytest.approx(other.compute_dice_coefficient(one, two))
    assert result.hd_mm == pytest.approx(other.compute_robust_hausdorff(found, 100), abs=0.5 * voxel)
    assert result.hd95_mm == pytest.approx(other.compute_robust_hausdorff(found, 95), abs=0.5 * voxel)
    average = np.mean(other.compute_average_surface_distance(found))
    assert result.assd_mm == pytest.approx(average, abs=0.2 * voxel)
    assert result.nsd[2.5] == pytest.approx(other.compute_surface_dice_at_tolerance(found, 2.5), abs=0.06)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.tuples(*[st.floats(0.4, 4)] * 3))
def test_scores_are_symmetric_and_ordered(seed: int, spacing: tuple[float, float, float]) -> None:
    one, two = blobs(seed, (10, 12, 9))
    result, mirrored = score(one, two, spacing), score(two, one, spacing)
    assert 0 <= result.iou <= result.dice <= 1
    assert (result.dice, result.iou, result.nsd) == (mirrored.dice, mirrored.iou, mirrored.nsd)
    assert (result.precision, result.recall) == (mirrored.recall, mirrored.precision)
    assert result.nsd[1.0] <= result.nsd[2.0]
    if result.hd_mm is None:
        assert not (one.any() and two.any())
        return
    assert (result.hd_mm, result.hd95_mm) == (mirrored.hd_mm, mirrored.hd95_mm)
    assert result.assd_mm == pytest.approx(mirrored.assd_mm)
    assert 0 <= result.hd95_mm <= result.hd_mm
    assert result.assd_mm <= result.hd_mm


@settings(max_examples=20)
@given(
    st.integers(0, 10_000),
    st.tuples(*[st.floats(0.4, 4)] * 3),
    st.sampled_from(tuple(permutations(range(3)))),
    st.tuples(*[st.booleans()] * 3),
)
def test_turning_the_grid_changes_no_number(
    seed: int, spacing: tuple[float, float, float], order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    one, two = blobs(seed, (11, 9, 12))
    step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    turned = [each.transpose(order)[step] for each in (one, two)]
    before = score(one, two, spacing)
    after = score(*turned, tuple(spacing[axis] for axis in order))
    assert _numbers(after) == pytest.approx(_numbers(before))


@settings(max_examples=10)
@given(st.integers(0, 10_000), st.floats(0.2, 5))
def test_distances_grow_with_the_voxels(seed: int, factor: float) -> None:
    one, two = blobs(seed, (11, 9, 12))
    before, after = score(one, two, (1.0, 2.0, 1.5)), score(one, two, (factor, 2 * factor, 1.5 * factor))
    assert after.dice == before.dice
    if before.hd_mm is not None:
        assert (after.hd_mm, after.assd_mm) == pytest.approx((before.hd_mm * factor, before.assd_mm * factor))
    assert after.volume_mm3 == pytest.approx(before.volume_mm3 * factor**3)


def _numbers(found: Score) -> list[float]:
    names = ("dice", "iou", "hd_mm", "hd95_mm", "assd_mm", "precision", "recall", "volume_mm3", "reference_mm3")
    values = [getattr(found, name) for name in (*names, "reference_parts", "found_parts", "mask_parts", "false_parts")]
    return [-1.0 if value is None else float(value) for value in [*values, *found.nsd.values()]]


def test_parts_are_found_where_enough_of_them_is_covered() -> None:
    reference, mask = np.zeros((40, 10, 10), bool), np.zeros((40, 10, 10), bool)
    for start in (2, 12, 22, 32):
        reference[start : start + 4, 2:6, 2:6] = True
    mask[2:6, 2:6, 2:6] = True  # all of it
    mask[12:14, 2:6, 2:6] = True  # half of it
    mask[22:23, 2:6, 2:6] = True  # a quarter of it
    mask[34, 8, 8] = True  # none of the fourth, and something where nothing is
    result = score(mask, reference, (1.0, 1.0, 1.0))
    assert (result.reference_parts, result.found_parts, result.mask_parts, result.false_parts) == (4, 2, 4, 1)
    assert result.detection_rate == 0.5
    assert score(mask, reference, (1.0, 1.0, 1.0), hit=0.2).found_parts == 3
    assert score(mask, reference, (1.0, 1.0, 1.0), hit=0.51).found_parts == 1


def test_voxels_that_share_a_corner_are_one_part() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[1, 1, 1] = mask[2, 2, 2] = mask[4, 4, 4] = True
    assert score(mask, mask, (1.0, 1.0, 1.0)).reference_parts == 2


def test_cutting_the_grid_changes_no_number_but_by_name() -> None:
    one, two = cube(4, 9), cube(5, 11)
    whole, cut = score(one, two, (1, 2, 3)), score(one[3:12], two[3:12], (1, 2, 3), grid=one.shape)
    assert whole == cut


def test_masks_on_different_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="different grids"):
        score(cube(1, 3, 8), cube(1, 3, 9), (1, 1, 1))
