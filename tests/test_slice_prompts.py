"""What boxes, clicks and coarse masks mean to a 2-D network on a volume, and which of them are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import phantom
import pytest
from evaluated import measured
from slice_phantom import (
    AXES,
    BRIGHT,
    DARK,
    MIDDLE,
    OBLIQUE,
    SMALL,
    box_round,
    boxed,
    build,
    clicked,
    dice,
    ellipsoid,
    facts,
    painted,
    region_of,
    scan_of,
    segment,
    small,
    two_blobs,
)

from medseg_cli.datasets import Case
from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Box, Click, Target

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


@pytest.mark.parametrize(("first", "last"), [(10, 14), (0, 29), (6, 7)])
def test_a_box_with_a_depth_range_prompts_its_slices_and_no_other(tmp_path: Path, first: int, last: int) -> None:
    scan, truth = small()
    box = box_round(truth.any(axis=2, keepdims=True) & np.ones(SMALL, bool), 2, first, last)
    pipeline = build(tmp_path)
    result = segment(pipeline, scan, boxed(box))
    inside = (np.arange(30) >= first) & (np.arange(30) <= last)
    assert np.array_equal(result.mask == 1, truth & inside)
    assert facts(result) == (last - first + 1, last - first + 1, 0)
    found = result.provenance["objects"][0]
    assert found["slices_prompted"] == list(range(first, last + 1))
    assert found["propagation"] == []
    assert found["slices_with_mask"] == int((truth & inside).any(axis=(0, 1)).sum())


def test_boxes_are_inclusive_and_lie_where_they_were_typed(tmp_path: Path) -> None:
    """A chequered slice: exactly the bright voxels inside the box are the object."""
    chequers = np.where(np.indices(SMALL).sum(0) % 2, BRIGHT, DARK)
    box = Box((10.0, 5.0, 12.0), (20.0, 31.0, 12.0))
    for codes in ("LPS", "RAS", "RAI"):
        result = segment(build(tmp_path, propagate=False), scan_of(chequers, codes, spacing=(1, 1, 3)), boxed(box))
        inside = np.zeros(SMALL, bool)
        inside[10:21, 5:32, 12] = True
        assert np.array_equal(result.mask == 1, inside & (chequers == BRIGHT))


def test_a_box_in_millimetres_is_the_same_box(tmp_path: Path) -> None:
    scan, truth = small()
    box = box_round(truth, 2, 14)
    expected = segment(build(tmp_path), scan, boxed(box))
    corners = scan.voxel_to_world(np.array([box.first, box.second]), "ras")
    low, high = corners.min(0), corners.max(0)
    found = segment(build(tmp_path), scan, boxed(Box(tuple(low.tolist()), tuple(high.tolist()), "ras")))
    assert np.array_equal(found.mask, expected.mask)


def test_several_boxes_of_one_object_are_joined(tmp_path: Path) -> None:
    truth = np.zeros(SMALL, bool)
    truth[4:12, 4:12, 5:20] = truth[24:36, 20:30, 5:20] = True
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 3.0))
    boxes = Box((2.0, 2.0, 10.0), (14.0, 14.0, 10.0)), Box((22.0, 18.0, 10.0), (38.0, 32.0, 10.0))
    result = segment(build(tmp_path, propagate=False), scan, boxed(*boxes))
    assert np.array_equal(result.mask == 1, truth & (np.arange(30) == 10))
    assert facts(result) == (1, 1, 0)


def test_a_click_is_followed_too(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), scan, clicked((20.0, 18.0, 14.0)))
    assert np.array_equal(result.mask == 1, truth)
    assert facts(result) == (20, 20, 0)


def test_clicks_in_two_slices_meet_in_between(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), scan, clicked((20.0, 18.0, 10.0), (20.0, 18.0, 18.0)))
    assert np.array_equal(result.mask == 1, truth)
    assert facts(result) == (20, 20, 0)
    ways = {(way["from"], way["to"]): way["because"] for way in result.provenance["objects"][0]["propagation"]}
    assert ways[10, 6] == ways[18, 23] == "nothing found"
    meeting = [because for (start, end), because in ways.items() if start < end < 18 or 10 < end < start]
    assert len(meeting) == 2
    assert all("has this object already" in because for because in meeting)


def test_a_slice_between_two_prompts_is_tried_from_both(tmp_path: Path) -> None:
    truth = np.zeros(SMALL, bool)
    truth[10:30, 8:28, 9:14] = True
    # Half as bright from slice 11 on: too much of a change when it is followed from slice 10, none from slice 12.
    scan = scan_of(painted(truth, np.where(np.arange(30) < 11, BRIGHT, 130)), spacing=(1.0, 1.0, 3.0))
    result = segment(build(tmp_path), scan, boxed(box_round(truth, 2, 10), box_round(truth, 2, 12)))
    assert np.array_equal(result.mask == 1, truth)
    ways = {(way["from"], way["to"]): way["because"][:21] for way in result.provenance["objects"][0]["propagation"]}
    assert ways == {
        (10, 9): "nothing found",
        (10, 10): "brightness changed by",
        (12, 11): "slice 10 has this obj",
        (12, 13): "nothing found",
    }


def test_a_minus_click_takes_the_neighbour_away(tmp_path: Path) -> None:
    truth = ellipsoid(SMALL, (12.0, 17.0, 14.0), (8.0, 8.0, 5.0))
    other = ellipsoid(SMALL, (27.0, 17.0, 14.0), (8.0, 8.0, 5.0)) & ~truth
    scan = scan_of(painted(truth | other, np.where(truth, BRIGHT, BRIGHT - 12)), spacing=(1.0, 1.0, 3.0))
    plus, minus = (12.0, 17.0, 14.0), (27.0, 17.0, 14.0)
    one = build(tmp_path, propagate=False)
    both = segment(one, scan, clicked(plus))
    assert np.array_equal(both.mask == 1, (truth | other) & (np.arange(30) == 14))
    only = segment(one, scan, clicked(plus, minus=(minus,)))
    assert np.array_equal(only.mask == 1, truth & (np.arange(30) == 14))
    # In a slice that is reached by following, a minus click counts as well.
    farther = segment(build(tmp_path), scan, clicked(plus, minus=((*minus[:2], 13.0),)))
    assert np.array_equal(farther.mask[..., 13] == 1, truth[..., 13])
    assert np.array_equal(farther.mask[..., 14] == 1, (truth | other)[..., 14])
    assert farther.notes == ()
    # Where it cannot count, that is said.
    idle = segment(one, scan, clicked(plus, minus=((*minus[:2], 13.0), (*minus[:2], 9.0))))
    assert idle.notes == ("minus clicks of object '1' in slice 9, 13 changed nothing: it was not sought there",)
    assert np.array_equal(idle.mask, both.mask)


def test_a_coarse_mask_in_one_slice_is_followed_and_in_several_it_is_not(tmp_path: Path) -> None:
    scan, truth = small()
    coarse = np.zeros(SMALL, bool)
    coarse[6:36, 5:31, 14] = True
    result = segment(build(tmp_path, dense=False), scan, region_of(coarse))
    assert np.array_equal(result.mask == 1, truth)
    coarse[6:36, 5:31, 10:14] = True
    result = segment(build(tmp_path, dense=False), scan, region_of(coarse))
    assert np.array_equal(result.mask == 1, truth & coarse.any(axis=(0, 1)))
    assert facts(result) == (5, 5, 0)
    assert result.provenance["objects"][0]["propagation"] == []


def test_a_coarse_mask_is_a_dense_prompt_where_the_preset_says_so(tmp_path: Path) -> None:
    truth = np.zeros((48, 48, 9), bool)
    truth[6:18, 6:18] = truth[30:42, 6:18] = True
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 3.0))
    coarse = np.zeros(truth.shape, bool)
    # An L: its box holds both squares, the L itself only the first.
    coarse[3:21, 3:45, 4] = coarse[3:45, 30:45, 4] = True
    dense = segment(build(tmp_path, size=48, propagate=False), scan, region_of(coarse))
    assert np.array_equal(
        np.argwhere(dense.mask), np.argwhere(truth & (np.arange(9) == 4) & (np.indices(truth.shape)[0] < 24))
    )
    sparse = segment(build(tmp_path, size=48, propagate=False, dense=False), scan, region_of(coarse))
    assert np.array_equal(sparse.mask == 1, truth & (np.arange(9) == 4))


def test_a_click_besides_a_coarse_mask_does_not_replace_it(tmp_path: Path) -> None:
    scan, first, _ = two_blobs()
    coarse = np.zeros(SMALL, bool)
    coarse[2:20, 8:28, 13] = True
    target = replace(region_of(coarse), clicks=(Click((11.0, 17.0, 13.0)),))
    for dense in (True, False):
        result = segment(build(tmp_path, propagate=False, dense=dense), scan, target)
        assert np.array_equal(result.mask == 1, first & (np.arange(30) == 13)), dense


def test_a_box_that_replaces_a_coarse_mask_is_said(tmp_path: Path) -> None:
    scan, first, _ = two_blobs()
    coarse = np.zeros(SMALL, bool)
    coarse[2:20, 8:28, 12:14] = True
    target = replace(region_of(coarse), boxes=(box_round(first, 2, 13),))
    words = "the coarse mask of object '1' changed nothing in slice 13"
    assert any(words in note for note in segment(build(tmp_path, dense=False), scan, target).notes)
    assert segment(build(tmp_path, dense=True), scan, target).notes == ()


@pytest.mark.parametrize("order", range(4))
def test_a_flat_box_in_millimetres_on_an_oblique_scan(tmp_path: Path, order: int) -> None:
    """Its corners' z differ, and grow against x: any two opposite corners mean the box."""
    truth = ellipsoid(SMALL, MIDDLE, AXES)
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 3.0), angles=OBLIQUE)
    flat = box_round(truth, 2, 14)
    expected = segment(build(tmp_path), scan, boxed(flat)).mask
    low, high = np.array(flat.first), np.array(flat.second)
    if order % 2:
        low[0], high[0] = high[0], low[0]
    if order // 2:
        low, high = high, low
    corners = scan.voxel_to_world(np.array([low, high]), "ras")
    typed = Box(tuple(corners[0].round(3)), tuple(corners[1].round(3)), "ras")
    result = segment(build(tmp_path), scan, boxed(typed))
    assert dice(result.mask > 0, expected > 0) > 0.98
    assert len(result.provenance["objects"][0]["propagation"]) == 2, "one slice, although its corners are rounded"


@pytest.mark.parametrize("thin", [0, 1, 2])
def test_an_object_of_one_voxel_is_boxed_in_an_evaluation(tmp_path: Path, thin: int) -> None:
    truth = np.zeros(SMALL, bool)
    truth[0:9, 20:28, 7:13] = True
    truth &= np.indices(SMALL)[thin] == (0, 22, 9)[thin]
    for name, voxels in (("scan", painted(truth)), ("mask", truth)):
        image = nib.Nifti1Image(voxels.astype(np.int16), phantom.affine("LPS", spacing=(1.0, 1.0, 3.0)))
        image.to_filename(tmp_path / f"{name}.nii.gz")
    case = Case("a", tmp_path / "scan.nii.gz", tmp_path / "mask.nii.gz")
    pipeline = build(tmp_path, size=40, propagate=False)
    (found,) = measured(pipeline, [case], "box")
    low, high = np.array(found.place[:3]), np.array(found.place[3:])
    where = np.argwhere(truth)
    assert np.array_equal(np.rint([low, high]), [where.min(0), where.max(0)])
    assert np.all(low < high)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (boxed(Box((5.0, 5.0, 30.0), (9.0, 9.0, 30.0))), "outside"),
        (boxed(Box((-2.0, 5.0, 3.0), (9.0, 9.0, 3.0))), "outside"),
        (boxed(Box((9.0, 5.0, 3.0), (5.0, 9.0, 3.0))), "no box"),
        (boxed(Box((5.0, 5.0, 3.0), (5.0, 9.0, 9.0))), "no extent along i"),
        (boxed(Box((5.0, 5.0, 3.0), (9.0, 5.0, 9.0))), "no extent along j"),
        (clicked((50.0, 5.0, 3.0)), "outside"),
        (clicked(minus=((5.0, 5.0, 3.0),)), "no prompt that says where it is"),
    ],
)
def test_prompts_that_cannot_be_meant(tmp_path: Path, target: Target, message: str) -> None:
    scan, _ = small()
    with pytest.raises((InputError, UsageError), match=message) as error:
        segment(build(tmp_path), scan, target)
    assert error.value.hint


def test_prompts_that_the_preset_does_not_take(tmp_path: Path) -> None:
    scan, truth = small()
    only_boxes = build(tmp_path, kinds="box", minus=False)
    for target, kind in ((clicked((20.0, 18.0, 14.0)), "point"), (region_of(truth), "mask")):
        with pytest.raises(UsageError, match=f"takes no {kind} prompts") as error:
            segment(only_boxes, scan, target)
        assert "box" in error.value.hint
    with pytest.raises(UsageError, match="minus"):
        segment(build(tmp_path, minus=False), scan, clicked((20.0, 18.0, 14.0), minus=((2.0, 2.0, 14.0),)))
