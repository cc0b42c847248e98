"""2-D networks on volumes and images, with a tiny but real network (`bright_box`): masks follow from the phantom."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import bright_box
import nibabel as nib
import numpy as np
import phantom
import pytest
from evaluated import measured
from PIL import Image

from medseg_cli import device, pipelines
from medseg_cli.datasets import Case
from medseg_cli.errors import InputError, ModelError, UsageError
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.pipelines.slice_run import Answer
from medseg_cli.prompt import Box, Click, Prompt, Region, Target
from medseg_cli.readers import load_scan
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

OBLIQUE = (0.25, -0.2, 0.3)
DARK, BRIGHT = 50.0, 200.0
SMALL = (40, 36, 30)
MIDDLE, AXES = (20.3, 17.6, 14.5), (12.0, 10.0, 9.0)
"""Centre and half axes of the small phantom's ellipsoid, in voxels: slices 6 to 23 across k."""


@pytest.fixture(autouse=True)
def fifth_pipeline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pipeline is known during a test."""
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()


def ellipsoid(shape: tuple[int, int, int], middle: tuple[float, ...], axes: tuple[float, ...]) -> np.ndarray:
    """(I, J, K) bool."""
    offsets = np.indices(shape) - np.array(middle)[:, None, None, None]
    return (offsets**2 / np.array(axes)[:, None, None, None] ** 2).sum(0) <= 1


def scan_of(voxels: np.ndarray, codes: str = "LPS", modality: str = "MR", **geometry: tuple) -> Scan:
    values = voxels if voxels.ndim == 4 else voxels[None]
    provenance = Provenance(Path("phantom.nii.gz"), "nifti", "ab" * 32)
    return Scan(values.astype(np.float32), phantom.affine(codes, **geometry), provenance, modality)


def painted(truth: np.ndarray, bright: float | np.ndarray = BRIGHT) -> np.ndarray:
    """Voxels as bright as `bright` where `truth` is, on dark noise: no two slices are the same picture."""
    return np.where(truth, bright, DARK + np.random.default_rng(7).uniform(0, 10, truth.shape))


def small(spacing: tuple[float, float, float] = (1.0, 1.0, 3.0)) -> tuple[Scan, np.ndarray]:
    """A bright ellipsoid, and where it is."""
    truth = ellipsoid(SMALL, MIDDLE, AXES)
    return scan_of(painted(truth), spacing=spacing), truth


def box_round(truth: np.ndarray, through: int, first: int, last: int | None = None, margin: int = 3) -> Box:
    """The box round `truth` in slice `first` across axis `through`, reaching to slice `last`."""
    where = np.argwhere(np.take(truth, [first], axis=through))
    low, high = np.maximum(where.min(0) - margin, 0), np.minimum(where.max(0) + margin, np.array(truth.shape) - 1)
    low[through], high[through] = first, first if last is None else last
    return Box(tuple(low.astype(float)), tuple(high.astype(float)))


def boxed(*boxes: Box, id: str = "1") -> Target:
    return Target(id, "", boxes=boxes)


def clicked(*positions: tuple[float, ...], minus: tuple[tuple[float, ...], ...] = (), id: str = "1") -> Target:
    clicks = [Click(position) for position in positions] + [Click(position, positive=False) for position in minus]
    return Target(id, "", tuple(clicks))


def build(folder: Path, **settings: Any) -> SlicePipeline:
    chosen = bright_box.preset(folder, **{"size": 40, **settings})
    return pipelines.build(chosen, device.select("cpu"))  # type: ignore[return-value]


def segment(pipeline: SlicePipeline, scan: Scan, *targets: Target) -> Segmentation:
    return pipeline.segment(scan, Prompt(targets), Stages())


def facts(result: Segmentation) -> tuple[int, int, int]:
    """Slices prompted, encoded, and taken from the cache."""
    slices = result.provenance["slices"]
    return slices["prompted"], slices["encoded"], slices["from_cache"]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / float(found.sum() + truth.sum())


# One box in one slice, followed


def test_one_box_finds_an_object_in_a_ct_of_122_101_112(tmp_path: Path) -> None:
    truth = ellipsoid((122, 101, 112), (60.2, 48.7, 55.5), (25.0, 20.0, 30.0))
    scan = scan_of(painted(truth), "RIA", "CT", spacing=(0.8, 0.8, 2.5), angles=OBLIQUE)
    pipeline = build(tmp_path, size=122)
    result = segment(pipeline, scan, boxed(box_round(truth, 2, 55)))
    assert np.array_equal(result.mask == 1, truth)
    occupied = np.flatnonzero(truth.any(axis=(0, 1)))
    assert (occupied[0], occupied[-1]) == (26, 85)
    # The object's 60 slices, and one beyond either end in which nothing was found.
    assert facts(result) == (62, 62, 0)
    assert sum(pipeline.model.encoded) == 62
    slices = result.provenance["slices"]
    assert (slices["plane"], slices["axis"], slices["count"]) == ("coronal", "k", 112)
    doubt = result.provenance["objects"][0].pop("uncertainty")
    assert 0 < doubt["mean"] <= doubt["most"]
    assert 26 <= doubt["slice"] <= 85
    assert result.provenance["objects"] == [
        {
            "id": "1",
            "slices_prompted": [55],
            "slices_with_mask": 60,
            "predicted_iou": None,
            "propagation": [
                {"from": 55, "to": 26, "because": "nothing found"},
                {"from": 55, "to": 85, "because": "nothing found"},
            ],
            "cleaning": [],
        }
    ]
    shown = result.provenance["display"]
    assert (shown["low"], shown["high"], shown["method"]) == (-100, 300, "window")
    assert "CT" in shown["why"]
    assert result.notes == ()


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA", "IRP", "ASL"])
@pytest.mark.parametrize("name", ["axial", "coronal", "sagittal", "acquisition"])
def test_every_plane_of_every_orientation(tmp_path: Path, codes: str, name: str) -> None:
    truth = ellipsoid(SMALL, MIDDLE, AXES)
    scan = scan_of(painted(truth), codes, angles=OBLIQUE, spacing=(1.0, 1.0, 1.0))
    through = {"axial": "SI", "coronal": "AP", "sagittal": "RL", "acquisition": codes[2]}[name]
    axis = next(axis for axis in range(3) if codes[axis] in through)
    # The picture's longer side is the network's input, so that pixels are not resampled.
    size = max(edge for other, edge in enumerate(SMALL) if other != axis)
    pipeline = build(tmp_path, size=size, slices=name)
    result = segment(pipeline, scan, boxed(box_round(truth, axis, round(MIDDLE[axis]))))
    assert np.array_equal(result.mask == 1, truth)
    assert result.provenance["slices"]["axis"] == "ijk"[axis]
    assert facts(result)[1] == np.flatnonzero(truth.any(axis=tuple({0, 1, 2} - {axis}))).size + 2


@pytest.mark.parametrize("spacing", [(0.7, 1.1, 3.0), (1.5, 0.5, 4.0), (2.0, 0.4, 9.0)])
@pytest.mark.parametrize("fit", ["longest", "stretch"])
def test_pixels_that_are_no_squares_are_resampled_and_come_back(tmp_path: Path, spacing: tuple, fit: str) -> None:
    scan, truth = small(spacing)
    result = segment(build(tmp_path, size=96, fit=fit), scan, boxed(box_round(truth, 2, 14)))
    assert dice(result.mask == 1, truth) > 0.96
    # No shift: where an edge lies half a pixel off on one side, it does on the other.
    off = np.argwhere(result.mask == 1).mean(0) - np.argwhere(truth).mean(0)
    assert np.abs(off).max() < 0.15


def test_not_followed_is_one_slice(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path, propagate=False), scan, boxed(box_round(truth, 2, 14)))
    assert np.array_equal(result.mask[..., 14] == 1, truth[..., 14])
    assert result.mask.sum() == truth[..., 14].sum()
    assert facts(result) == (1, 1, 0)
    assert result.provenance["objects"][0]["propagation"] == []


def test_the_scans_end_and_the_limit_on_slices_are_reasons(tmp_path: Path) -> None:
    truth = ellipsoid(SMALL, (20.3, 17.6, 3.5), AXES)
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 3.0))
    pipeline = build(tmp_path, propagation={"max_slices": 5})
    result = segment(pipeline, scan, boxed(box_round(truth, 2, 3)))
    assert result.provenance["objects"][0]["propagation"] == [
        {"from": 3, "to": 0, "because": "the scan ends"},
        {"from": 3, "to": 8, "because": "5 slices were allowed"},
    ]
    assert np.array_equal(result.mask == 1, truth & (np.arange(30) <= 8))
    assert facts(result) == (9, 9, 0)


def test_an_object_that_fades_is_followed_as_far_as_the_rule_says(tmp_path: Path) -> None:
    truth = np.zeros(SMALL, bool)
    truth[10:30, 8:28] = True
    shade = BRIGHT - 6 * np.abs(np.arange(30) - 10)
    scan = scan_of(painted(truth, shade), spacing=(1.0, 1.0, 3.0))
    # 150 between black and white: 0.2 of that are 30, reached after five slices of 6; six are more.
    result = segment(build(tmp_path), scan, boxed(box_round(truth, 2, 10)))
    ways = result.provenance["objects"][0]["propagation"]
    assert [(way["to"], way["because"][:21]) for way in ways] == [
        (5, "brightness changed by"),
        (15, "brightness changed by"),
    ]
    assert np.array_equal(result.mask == 1, truth & (np.abs(np.arange(30) - 10) <= 5))
    # The two slices that were looked at and turned down are counted as encoded.
    assert facts(result) == (13, 13, 0)
    result = segment(
        build(tmp_path, propagation={"max_drift": 1.0, "max_slices": 8}), scan, boxed(box_round(truth, 2, 10))
    )
    assert [way["to"] for way in result.provenance["objects"][0]["propagation"]] == [2, 18]


def test_a_network_that_doubts_itself_is_believed(tmp_path: Path) -> None:
    truth = np.zeros(SMALL, bool)
    truth[10:30, 8:28] = True
    shade = BRIGHT - 6 * np.abs(np.arange(30) - 10)
    scan = scan_of(painted(truth, shade), spacing=(1.0, 1.0, 3.0))
    # Its score is the contrast in the box: 1 - 6 n / 150 is below 0.5 at n = 13.
    rules = {"max_drift": 1.0, "min_score": 0.5}
    result = segment(build(tmp_path, score=True, propagation=rules), scan, boxed(box_round(truth, 2, 10)))
    ways = result.provenance["objects"][0]["propagation"]
    assert ways[0] == {"from": 10, "to": 0, "because": "the scan ends"}
    assert ways[1] == {"from": 10, "to": 22, "because": "the network's own score 0.48 is below 0.5"}


def test_an_object_that_jumps_is_lost(tmp_path: Path) -> None:
    truth = np.zeros(SMALL, bool)
    truth[8:18, 8:18, :20] = True
    truth[16:30, 16:30, 20:] = True
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 3.0))
    result = segment(build(tmp_path), scan, boxed(box_round(truth, 2, 10)))
    up = result.provenance["objects"][0]["propagation"][1]
    assert up["to"] == 19
    assert up["because"].startswith("overlap with the slice before 0.")
    assert np.array_equal(result.mask == 1, truth & (np.arange(30) < 20))


def test_empty_and_constant_slices_end_it(tmp_path: Path) -> None:
    scan, truth = small()
    for value in (DARK, BRIGHT, 0.0):
        voxels = scan.voxels.copy()
        voxels[..., 18] = value
        result = segment(build(tmp_path), replace(scan, voxels=voxels), boxed(box_round(truth, 2, 14)))
        assert result.provenance["objects"][0]["propagation"][1] == {"from": 14, "to": 17, "because": "nothing found"}
        assert np.array_equal(result.mask == 1, truth & (np.arange(30) < 18))


def test_a_scan_of_one_value_is_an_empty_mask_and_a_note(tmp_path: Path) -> None:
    scan = scan_of(np.full(SMALL, 7.0))
    result = segment(build(tmp_path), scan, boxed(Box((5.0, 5.0, 10.0), (20.0, 20.0, 10.0))))
    assert not result.mask.any()
    assert any("object '1' is empty" in note for note in result.notes)
    assert facts(result)[1] == 1


# What prompts mean


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


def region_of(voxels: np.ndarray, id: str = "1") -> Target:
    return Target(id, "", region=Region(voxels, Path("coarse.nii.gz"), "0" * 64, 1))


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


# Several objects


def two_blobs() -> tuple[Scan, np.ndarray, np.ndarray]:
    first = ellipsoid(SMALL, (11.0, 17.0, 12.5), (8.0, 8.0, 6.0))
    second = ellipsoid(SMALL, (29.0, 17.0, 15.5), (7.0, 9.0, 8.0))
    return scan_of(painted(first | second), spacing=(1.0, 1.0, 3.0)), first, second


def test_objects_share_the_encoding_of_a_slice(tmp_path: Path) -> None:
    scan, first, second = two_blobs()
    pipeline = build(tmp_path)
    targets = boxed(box_round(first, 2, 12), id="a"), boxed(box_round(second, 2, 15), id="b")
    result = segment(pipeline, scan, *targets)
    assert np.array_equal(result.mask == 1, first)
    assert np.array_equal(result.mask == 2, second)
    # Slices 7 to 18 and 8 to 23, and one beyond each: 6 to 19 and 7 to 24.
    assert result.provenance["slices"]["prompted"] == 19
    assert result.provenance["slices"]["encoded"] == sum(pipeline.model.encoded) == 19
    assert [each["id"] for each in result.provenance["objects"]] == ["a", "b"]
    assert [each["slices_with_mask"] for each in result.provenance["objects"]] == [12, 16]


@pytest.mark.parametrize("box_first", [True, False])
def test_of_two_objects_in_one_place_the_more_probable_one_has_it(tmp_path: Path, box_first: bool) -> None:
    scan, truth = small()
    # Bright in a box is 0.5 above the threshold, alike to a click at most 0.1.
    sure, unsure = boxed(box_round(truth, 2, 14), id="sure"), clicked((20.0, 18.0, 14.0), id="unsure")
    targets = (sure, unsure) if box_first else (unsure, sure)
    result = segment(build(tmp_path, propagate=False), scan, *targets)
    assert np.array_equal(result.mask == (1 if box_first else 2), truth & (np.arange(30) == 14))
    assert any("object 'unsure' is empty" in note for note in result.notes)


def test_the_same_object_twice_goes_to_the_first(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), scan, boxed(box_round(truth, 2, 14)), boxed(box_round(truth, 2, 14), id="2"))
    assert np.array_equal(result.mask == 1, truth)
    assert facts(result) == (20, 20, 0)


def test_three_hundred_objects_fit(tmp_path: Path) -> None:
    scan, truth = small()
    boxes = [
        Box((float(n % 20), float(n // 20), 14.0), (float(n % 20) + 15, float(n // 20) + 15, 14.0)) for n in range(300)
    ]
    targets = [boxed(box, id=str(n)) for n, box in enumerate(boxes)]
    result = segment(build(tmp_path, propagate=False), scan, *targets)
    assert result.mask.dtype == np.uint16
    assert len(result.labels) == 300
    assert facts(result) == (1, 1, 0)
    assert np.array_equal(result.mask > 0, truth & (np.arange(30) == 14))


def test_an_answer_is_no_larger_than_its_object() -> None:
    probability = np.random.default_rng(5).integers(0, 128, (600, 800)).astype(np.uint8)
    probability[100:110, 300:320] += 100
    mask = probability >= Answer.INSIDE
    answer = Answer.of(probability, 0.5)
    assert np.array_equal(answer.mask, mask)
    assert np.array_equal(answer.probability[mask], probability[mask])
    assert answer.certainty.nbytes <= 200
    assert answer.certainty.base is None, "a view would keep the whole picture"
    assert not answer.empty
    nothing = Answer.of(np.zeros((6, 8), np.uint8), None)
    assert nothing.empty
    assert nothing.mask.shape == (6, 8)
    assert not nothing.mask.any()


# Cleaning


def test_what_was_cleaned_is_reported(tmp_path: Path) -> None:
    scan, truth = small()
    voxels = scan.voxels.copy()
    voxels[0, 19:22, 16:19, 13:16] = DARK
    voxels[0, 6, 5, 14] = BRIGHT
    cleaning = {"keep": "largest", "fill_holes": True}
    box = Box((5.0, 4.0, 14.0), (35.0, 32.0, 14.0))
    result = segment(build(tmp_path, postprocessing=cleaning), replace(scan, voxels=voxels), boxed(box))
    assert np.array_equal(result.mask == 1, truth)
    assert result.provenance["objects"][0]["cleaning"] == [
        {"step": "keep largest", "parts": 2, "removed_voxels": 1},
        {"step": "fill holes", "added_voxels": 27},
    ]


def test_clicked_parts_are_those_of_plus_clicks(tmp_path: Path) -> None:
    scan, first, second = two_blobs()
    pipeline = build(tmp_path, propagate=False, postprocessing={"keep": "clicked"})
    result = segment(pipeline, scan, clicked((11.0, 17.0, 13.0)))
    assert np.array_equal(result.mask == 1, first & (np.arange(30) == 13))
    # A box has no click: all that was found in it stays.
    wide = segment(pipeline, scan, boxed(Box((0.0, 0.0, 13.0), (39.0, 35.0, 13.0))))
    assert np.array_equal(wide.mask == 1, (first | second) & (np.arange(30) == 13))


# Images


def save_picture(path: Path, pixels: np.ndarray) -> Scan:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return load_scan(path)


def disc(height: int = 60, width: int = 90) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return (rows - 20) ** 2 + (columns - width + 35) ** 2 <= 15**2


def test_an_image_needs_no_prompt_where_the_preset_says_so(tmp_path: Path) -> None:
    scan = save_picture(tmp_path / "disc.png", np.where(disc(), 180, 40))
    result = segment(build(tmp_path, size=90, whole_image=True), scan)
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    assert facts(result) == (1, 1, 0)
    assert result.provenance["slices"]["plane"] == "image"
    assert result.provenance["objects"][0]["propagation"] == []
    assert (result.provenance["display"]["low"], result.provenance["display"]["high"]) == (0, 255)
    with pytest.raises(UsageError, match="needs a prompt"):
        segment(build(tmp_path, size=90), scan)


def test_without_a_prompt_a_volume_is_refused(tmp_path: Path) -> None:
    scan, _ = small()
    with pytest.raises(UsageError, match="needs a prompt") as error:
        segment(build(tmp_path, whole_image=True), scan)
    assert "--box" in error.value.hint


@pytest.mark.parametrize("size", [30, 90, 128])
def test_boxes_and_clicks_on_images_are_in_pixels(tmp_path: Path, size: int) -> None:
    scan = save_picture(tmp_path / "disc.png", np.where(disc(), 180, 40))
    by_box = segment(build(tmp_path, size=size), scan, boxed(Box((35.0, 2.0, 0.0), (75.0, 40.0, 0.0))))
    by_click = segment(build(tmp_path, size=size), scan, clicked((55.0, 20.0, 0.0)))
    assert dice(by_box.mask[..., 0].T == 1, disc()) > (0.99 if size >= 90 else 0.97)
    # A click means what is alike, and resampled edges are not.
    assert dice(by_click.mask[..., 0].T == 1, disc()) > (0.97 if size >= 90 else 0.85)
    for result in (by_box, by_click):
        assert np.abs(np.argwhere(result.mask[..., 0].T).mean(0) - (20, 55)).max() < 0.5


def test_colour_images(tmp_path: Path) -> None:
    pixels = np.where(disc()[..., None], (250, 120, 110), (30, 60, 20))
    scan = save_picture(tmp_path / "disc.png", pixels)
    assert scan.voxels.shape[0] == 3
    result = segment(build(tmp_path, size=90, whole_image=True), scan)
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    two = replace(scan, voxels=scan.voxels[:2])
    with pytest.raises(InputError, match="2 channels"):
        segment(build(tmp_path, size=90, whole_image=True), two)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_volumes_of_one_slice_are_images(tmp_path: Path, flat: int) -> None:
    truth = np.moveaxis(disc(50, 60)[..., None], 2, flat)
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 1.0))
    result = segment(build(tmp_path, size=60, whole_image=True), scan)
    assert np.array_equal(result.mask == 1, truth)
    assert facts(result) == (1, 1, 0)


def test_sixteen_bit_images_are_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.where(disc(), 40000, 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    result = segment(build(tmp_path, size=90, whole_image=True), load_scan(tmp_path / "deep.png"))
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    assert result.provenance["display"]["method"] == "percentile"


# Voxels that are no numbers


def test_nan_and_infinite_voxels_are_black_and_white_and_harm_nothing(tmp_path: Path) -> None:
    scan, truth = small()
    voxels = scan.voxels.copy()
    voxels[0, 18:22, 16:20, 14] = np.nan
    voxels[0, :4, :4] = np.nan
    voxels[0, 22, 18, 14] = np.inf
    result = segment(build(tmp_path), replace(scan, voxels=voxels), boxed(box_round(truth, 2, 12)))
    expected = truth.copy()
    expected[18:22, 16:20, 14] = False
    assert np.array_equal(result.mask == 1, expected)
    shown = result.provenance["display"]
    assert (shown["low"], shown["high"]) == (pytest.approx(DARK, abs=0.1), BRIGHT)


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    scan, truth = small()
    with pytest.raises(InputError, match="no finite voxel"):
        segment(build(tmp_path), replace(scan, voxels=scan.voxels * np.nan), boxed(box_round(truth, 2, 14)))


# Batches and embeddings


def test_batches_change_nothing_but_their_number(tmp_path: Path) -> None:
    scan, truth = small()
    box = box_round(truth.any(axis=2, keepdims=True) & np.ones(SMALL, bool), 2, 2, 27)
    results = {}
    for batch in (1, 4, 100):
        pipeline = build(tmp_path, batch=batch)
        results[batch] = segment(pipeline, scan, boxed(box)).mask
        assert sum(pipeline.model.encoded) == 26
        assert max(pipeline.model.encoded) == min(batch, 26)
        assert len(pipeline.model.encoded) == -(-26 // batch)
    assert np.array_equal(results[1] == 1, truth & (np.arange(30) >= 2) & (np.arange(30) <= 27))
    assert np.array_equal(results[1], results[4])
    assert np.array_equal(results[1], results[100])


def test_the_next_prompt_on_the_same_scan_finds_the_embeddings(tmp_path: Path) -> None:
    scan, truth = small()
    pipeline = build(tmp_path)
    first = segment(pipeline, scan, boxed(box_round(truth, 2, 14)))
    second = segment(pipeline, scan, clicked((20.0, 18.0, 14.0)))
    assert facts(first) == (20, 20, 0)
    assert facts(second) == (20, 0, 20)
    assert sum(pipeline.model.encoded) == 20
    assert np.array_equal(first.mask, second.mask)


def test_embeddings_on_disk_serve_the_next_run(tmp_path: Path) -> None:
    scan, truth = small()
    settings = {"embedding_cache": str(tmp_path / "embeddings")}
    target = boxed(box_round(truth, 2, 14))
    first = segment(build(tmp_path, **settings), scan, target)
    pipeline = build(tmp_path, **settings)
    second = segment(pipeline, scan, target)
    assert facts(second) == (20, 0, 20)
    assert pipeline.model.encoded == []
    assert np.array_equal(first.mask, second.mask)
    # Other pictures, another input size and other weights are other embeddings.
    brighter = replace(scan, voxels=np.where(scan.voxels > 100, 500, scan.voxels - 2).astype(np.float32))
    assert facts(segment(build(tmp_path, **settings), replace(brighter, modality="CT"), target))[2] == 0
    assert facts(segment(build(tmp_path, size=64, **settings), scan, target))[2] == 0
    assert facts(segment(build(tmp_path, alike=(0.09, 0.02), **settings), scan, target))[2] == 0
    assert facts(segment(build(tmp_path, fit="stretch", **settings), scan, target))[2] == 0


def test_the_formulas_are_not_answered_from_the_embeddings_of_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, truth = small()
    pipeline = build(tmp_path, propagate=False)
    target = boxed(box_round(truth, 2, 14))
    segment(pipeline, scan, target)
    monkeypatch.setenv("MEDSEG_KERNELS", "reference")
    first, second = segment(pipeline, scan, target), segment(pipeline, scan, target)
    assert (facts(first), facts(second)) == ((1, 1, 0), (1, 0, 1))
    assert first.provenance["kernels"] == "reference"


def test_embeddings_can_be_kept_nowhere(tmp_path: Path) -> None:
    scan, truth = small()
    pipeline = build(tmp_path, memory_mb=0)
    for _ in range(2):
        assert facts(segment(pipeline, scan, boxed(box_round(truth, 2, 14)))) == (20, 20, 0)


# What is refused


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


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"slices": "oblique"}, "options.slices"),
        ({"batch": 0}, "options.batch"),
        ({"propagation": {"max_growth": 0.5}}, "options.propagation.max_growth"),
        ({"propagation": {"min_overlapp": 0.5}}, "options.propagation.min_overlapp"),
        ({"speed": 3}, "options.speed"),
    ],
)
def test_wrong_options_are_named(tmp_path: Path, wrong: dict[str, Any], where: str) -> None:
    with pytest.raises(ModelError, match=where.replace(".", r"\.")):
        build(tmp_path, **wrong)


def test_a_scan_of_another_modality_is_said(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), replace(scan, modality="PT"), boxed(box_round(truth, 2, 14)))
    assert any("the scan is PT" in note for note in result.notes)


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


# What a reader of the documentation tried


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


def test_a_box_in_one_slice_is_followed_up_to_one_with_a_depth(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), scan, boxed(box_round(truth, 2, 10), box_round(truth, 2, 14, 16)))
    ways = result.provenance["objects"][0]["propagation"]
    assert [(way["from"], way["to"]) for way in ways] == [(10, 6), (10, 13)]
    assert ways[1]["because"] == "slice 14 has this object already"
    assert np.array_equal(np.flatnonzero((result.mask > 0).any(axis=(0, 1))), np.arange(6, 17))


def test_a_limit_that_limits_nothing_is_said(tmp_path: Path) -> None:
    scan, truth = small()
    pipeline = build(tmp_path, propagation={"max_slices": 2})
    result = segment(pipeline, scan, boxed(box_round(truth, 2, 14, 16)))
    assert any("max_slices changed nothing" in note for note in result.notes)
    assert not any("max_slices" in note for note in segment(pipeline, scan, boxed(box_round(truth, 2, 14))).notes)


def test_a_window_in_other_units_is_questioned(tmp_path: Path) -> None:
    scan, truth = small()
    for level, questioned in ((9000, True), (125, False)):
        chosen = with_options(bright_box.preset(tmp_path, size=40), Overrides(window=f"{level}/200"))
        pipeline = pipelines.build(chosen, device.select("cpu"))
        result = pipeline.segment(scan, Prompt((boxed(box_round(truth, 2, 14)),)), Stages())
        assert any("in the scan's units?" in note for note in result.notes) is questioned
