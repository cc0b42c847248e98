"""2-D networks on volumes: one box in one slice, followed through every plane until a rule ends it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
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
    dice,
    ellipsoid,
    facts,
    painted,
    scan_of,
    segment,
    small,
)

from medseg_cli.errors import ModelError
from medseg_cli.prompt import Box

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


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
