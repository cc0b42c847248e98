"""Several objects of a 2-D network on one volume, their answers, and how they are cleaned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from slice_phantom import BRIGHT, DARK, box_round, boxed, build, clicked, facts, segment, small, two_blobs

from medseg_cli.pipelines.slice_answer import Answer
from medseg_cli.prompt import Box

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


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
