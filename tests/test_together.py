"""Slices of several cases in one batch: each case gets what it would get alone, and keeps its own errors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bright_box
import numpy as np
import pytest
import torch
from slice_phantom import BRIGHT, DARK, box_round, boxed, build, clicked, ellipsoid, scan_of

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Box, Prompt
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.stages import Stages

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


def case(number: int) -> tuple[Scan, np.ndarray, Prompt]:
    """A volume of its own size with a bright ellipsoid of its own depth, and a box in one of its slices."""
    shape = (30 + number, 34 - number, 20 + 2 * number)
    truth = ellipsoid(shape, (15.2, 16.7, 10.1 + number), (9.0, 8.0, 4.0 + number))
    noise = DARK + np.random.default_rng(number).uniform(0, 10, shape)
    taken = scan_of(np.where(truth, BRIGHT, noise), "LPS" if number % 2 else "RAS", spacing=(1.0, 1.0, 3.0))
    return taken, truth, Prompt((boxed(box_round(truth, 2, 10 + number)),))


def picture(number: int) -> tuple[Scan, Prompt]:
    """A picture with a bright square, and a box round it."""
    values = np.random.default_rng(number).uniform(0, 9, (24, 30 + number, 1))
    values[6 + number : 15, 8:20] = BRIGHT
    taken = scan_of(values)
    taken = replace(taken, provenance=replace(taken.provenance, format="image"))
    return taken, Prompt((boxed(Box((3.0, 5.0, 0.0), (17.0, 23.0, 0.0))),))


def test_volumes_that_are_followed_together_are_segmented_as_alone(tmp_path: Path) -> None:
    jobs = [case(number) for number in range(4)]
    alone = [build(tmp_path).segment(scan, prompt, Stages()) for scan, _, prompt in jobs]
    pipeline = build(tmp_path)
    found = pipeline.segment_together([(scan, prompt) for scan, _, prompt in jobs], Stages())
    for one, other, (scan, truth, _) in zip(alone, found, jobs, strict=True):
        assert isinstance(other, Segmentation)
        assert other.scan is scan
        assert np.array_equal(other.mask, one.mask)
        assert not np.any((other.mask > 0) & ~truth)
        assert np.sum(other.mask > 0) > 0.8 * np.sum(truth)
        assert other.provenance == one.provenance
        assert other.notes == one.notes
    # Two slices at a time and case, one in each direction: alone, no batch would be larger.
    assert max(pipeline.model.encoded) == pipeline.options.batch == 4
    assert sum(pipeline.model.encoded) == sum(each.provenance["slices"]["encoded"] for each in alone)


def test_pictures_share_batches_and_errors_stay_with_their_case(tmp_path: Path) -> None:
    jobs = [picture(number) for number in range(5)]
    outside = (jobs[0][0], Prompt((clicked((500.0, 3.0, 0.0)),)))
    channels = (replace(jobs[1][0], voxels=np.zeros((2, 8, 8, 1), np.float32)), jobs[1][1])
    pipeline = build(tmp_path, propagate=False, batch=3)
    found = pipeline.segment_together([jobs[0], outside, *jobs[1:3], channels, *jobs[3:]], Stages())
    assert isinstance(found[1], InputError)
    assert "outside" in str(found[1])
    assert isinstance(found[4], InputError)
    assert "2 channels" in str(found[4])
    assert pipeline.model.encoded == [3, 2]
    masks = [each.mask for number, each in enumerate(found) if number not in (1, 4)]
    for mask, (scan, prompt) in zip(masks, jobs, strict=True):
        assert np.array_equal(mask > 0, scan.voxels[0] > BRIGHT / 2)
        assert np.array_equal(mask, build(tmp_path).segment(scan, prompt, Stages()).mask)


def test_an_error_half_way_ends_its_case_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [case(number) for number in range(3)]
    alone = [build(tmp_path).segment(scan, prompt, Stages()).mask for scan, _, prompt in jobs]
    pipeline = build(tmp_path)
    original, calls = bright_box.BrightBox.decode, []

    def fifth_fails(self, *given, **more):
        calls.append(1)
        if len(calls) == 5:
            raise UsageError("the fifth")
        return original(self, *given, **more)

    monkeypatch.setattr(bright_box.BrightBox, "decode", fifth_fails)
    found = pipeline.segment_together([(scan, prompt) for scan, _, prompt in jobs], Stages())
    errors = [number for number, each in enumerate(found) if isinstance(each, UsageError)]
    assert len(errors) == 1
    for number, each in enumerate(found):
        if number not in errors:
            assert isinstance(each, Segmentation)
            assert np.array_equal(each.mask, alone[number])


def test_one_job_raises_and_no_job_is_no_work(tmp_path: Path) -> None:
    pipeline = build(tmp_path)
    with pytest.raises(UsageError, match="needs a prompt"):
        pipeline.segment(case(0)[0], Prompt(), Stages())
    assert pipeline.segment_together([], Stages()) == []
    assert torch.is_inference_mode_enabled() is False
