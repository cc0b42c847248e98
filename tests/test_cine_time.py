"""Cines, frame by frame, with a network whose answers are known beforehand: what time adds to them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import bright_box
import numpy as np
import pytest

from medseg_cli import device, pipelines, quality
from medseg_cli.errors import InputError, UsageError
from medseg_cli.measure import measure
from medseg_cli.over_time import Time, judge, line_weights, signed_distance, smoothed
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.slices import in_volume, plane_of
from medseg_cli.stages import Stages

COUNT, SHAPE = 24, (64, 48)
"""Frames, and (I, J) of each."""
DARK, BRIGHT = 50.0, 200.0

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


def discs(radius: float = 10.0, speed: float = 0.8, count: int = COUNT) -> np.ndarray:
    """A disc that moves along i, `speed` voxels a frame: (I, J, T) bool."""
    i, j = np.indices(SHAPE)
    return np.stack([(i - 18 - speed * t) ** 2 + (j - 24) ** 2 <= radius**2 for t in range(count)], axis=2)


def cine_of(truth: np.ndarray, **facts: Any) -> Scan:
    """Bright where `truth` is, on dark noise."""
    voxels = np.where(truth, BRIGHT, DARK + np.random.default_rng(7).uniform(0, 10, truth.shape)).astype(np.float32)
    provenance = Provenance(Path("cine.nii.gz"), "nifti", "ab" * 32)
    known: dict[str, Any] = {"cine": True, "position_known": False, **facts}
    return Scan(voxels[None], np.diag([-0.5, -0.5, 1.0, 1.0]), provenance, "MR", **known)


def build(folder: Path, **settings: Any) -> SlicePipeline:
    chosen = bright_box.preset(folder, **{"size": 64, **settings})
    return pipelines.build(chosen, device.select("cpu"))  # type: ignore[return-value]


def boxed(truth: np.ndarray, frame: int) -> Prompt:
    where = np.argwhere(truth[..., frame])
    low, high = where.min(0) - 3, where.max(0) + 3
    return Prompt((Target("1", "", boxes=(Box((*map(float, low), frame), (*map(float, high), frame)),)),))


def segment(pipeline: SlicePipeline, scan: Scan, prompt: Prompt | None = None) -> tuple[Segmentation, dict[str, Any]]:
    """The result, and what it says of time about its first object."""
    result = pipeline.segment(scan, prompt or Prompt(()), Stages())
    return result, result.provenance["objects"][0]["time"]


def dice(found: np.ndarray, truth: np.ndarray) -> float:
    return 2 * float((found & truth).sum()) / max(1.0, float(found.sum() + truth.sum()))


# Frames


def test_a_preset_without_prompts_sees_every_frame(tmp_path: Path) -> None:
    truth = discs()
    result, facts = segment(build(tmp_path, whole_image=True, time={"window": 0}), cine_of(truth))
    assert np.array_equal(result.mask == 1, truth)
    assert result.provenance["slices"]["count"] == result.provenance["slices"]["prompted"] == COUNT
    assert result.provenance["slices"]["plane"] == "frame"
    assert facts["jumps"] == facts["lasting"] == facts["gaps"] == facts["filled"] == []
    assert facts["window"] == 0


@pytest.mark.parametrize("frame", [0, 11, COUNT - 1])
def test_a_box_in_one_frame_is_followed_both_ways_through_time(tmp_path: Path, frame: int) -> None:
    truth = discs()
    result, _ = segment(build(tmp_path, time={"window": 0}), cine_of(truth), boxed(truth, frame))
    assert np.array_equal(result.mask == 1, truth)
    ways = result.provenance["objects"][0]["propagation"]
    assert [(way["to"], way["because"], way["skipped"]) for way in ways] == [
        (0, "the scan ends", []),
        (COUNT - 1, "the scan ends", []),
    ]


def test_frames_are_the_plane_whatever_the_pixels_and_axes_are() -> None:
    scan = cine_of(discs())
    for column in ((0.1, 0, 0), (0, 0, 0.01), (0, 5.0, 0)):
        affine = scan.affine.copy()
        affine[:3, :3] = np.roll(np.eye(3), 1, axis=0) * 3.0
        affine[:3, 2] = np.array(column) + affine[:3, 2]
        turned = replace(scan, affine=affine)
        for name in ("finest", "axial", "coronal", "sagittal", "acquisition"):
            plane = plane_of(turned, name)  # type: ignore[arg-type]
            assert (plane.name, plane.through, plane.count) == ("frame", 2, COUNT)
            # As stored: a picture over time has no anatomical axes to be turned by.
            assert (plane.rows, plane.columns, plane.flip_rows, plane.flip_columns) == (1, 0, False, False)


def test_two_coordinates_need_a_frame_and_a_plane_cannot_be_chosen(tmp_path: Path) -> None:
    scan = cine_of(discs())
    with pytest.raises(InputError, match="is a cine of") as caught:
        in_volume(Prompt((Target("1", "", (Click((3.0, 3.0)),)),)), scan, plane_of(scan), None)
    assert "--slice N: the frame, 0..23" in caught.value.hint
    chosen = with_options(bright_box.preset(tmp_path, size=64, whole_image=True), Overrides(slices="axial"))
    with pytest.raises(UsageError, match="frames are its only plane"):
        pipelines.build(chosen, device.select("cpu")).segment(scan, Prompt(()), Stages())


# Gaps and jumps


def spoilt(truth: np.ndarray, *frames: int, **facts: Any) -> Scan:
    """A cine in which the probe was off in some frames: they are dark."""
    scan = cine_of(truth, **facts)
    scan.voxels[..., list(frames)] = DARK
    return scan


@pytest.mark.parametrize("smooth", [0, 5])
def test_a_spoilt_frame_does_not_end_it_and_is_bridged(tmp_path: Path, smooth: int) -> None:
    truth = discs()
    scan = spoilt(truth, 9, 15, 16)
    result, facts = segment(build(tmp_path, time={"window": smooth}), scan, boxed(truth, 3))
    assert result.provenance["objects"][0]["propagation"][1]["skipped"] == [9, 15, 16]
    assert facts["gaps"] == [9, 15, 16]
    assert facts["filled"] == ([9, 15, 16] if smooth else [])
    for frame in (9, 15, 16):
        if smooth:
            assert dice(result.mask[..., frame] == 1, truth[..., frame]) > 0.96
        else:
            assert not result.mask[..., frame].any()
    good = [frame for frame in range(COUNT) if frame not in (9, 15, 16)]
    assert all(dice(result.mask[..., frame] == 1, truth[..., frame]) > 0.96 for frame in good)


def test_what_moves_on_unseen_is_found_whole_again(tmp_path: Path) -> None:
    """A disc that goes its box's margin in each frame, three of which are dark."""
    truth = discs(speed=1.0)
    scan = spoilt(truth, 9, 10, 11)
    result, _ = segment(build(tmp_path, time={"window": 0}), scan, boxed(truth, 3))
    assert np.array_equal(result.mask[..., 12:] == 1, truth[..., 12:])


def test_patience_ends(tmp_path: Path) -> None:
    truth = discs()
    scan = spoilt(truth, *range(8, 17))
    result, facts = segment(build(tmp_path), scan, boxed(truth, 3))
    way = result.provenance["objects"][0]["propagation"][1]
    assert (way["to"], way["because"]) == (7, "nothing found")
    assert not result.mask[..., 8:].any()
    assert facts["gaps"] == []
    # One frame less is within it, but too long a gap to be bridged by five frames.
    result, facts = segment(build(tmp_path), spoilt(truth, *range(8, 16)), boxed(truth, 3))
    assert result.mask[..., 16:].any(axis=(0, 1)).all()
    assert facts["gaps"] == list(range(8, 16))
    assert facts["filled"] == []


def test_a_frame_that_jumps_is_told_and_takes_its_neighbours_shape(tmp_path: Path) -> None:
    truth = discs()
    scan = cine_of(truth)
    scan.voxels[0, 5:60, 2:8, 12] = BRIGHT
    off, facts = segment(build(tmp_path, whole_image=True, time={"window": 0}), scan)
    assert facts["jumps"] == [12]
    assert dice(off.mask[..., 12] == 1, truth[..., 12]) < 0.7
    on, facts = segment(build(tmp_path, whole_image=True), scan)
    assert (facts["jumps"], facts["filled"]) == ([12], [12])
    assert dice(on.mask[..., 12] == 1, truth[..., 12]) > 0.97


def test_what_stays_away_is_no_jump(tmp_path: Path) -> None:
    truth = discs()
    truth[..., 14:] = False
    result, facts = segment(build(tmp_path, whole_image=True), cine_of(truth))
    assert (facts["jumps"], facts["lasting"], facts["filled"]) == ([], [14], [])
    # Not smeared over the moment at which it went.
    assert all(dice(result.mask[..., frame] == 1, truth[..., frame]) > 0.96 for frame in range(14))
    assert not result.mask[..., 14:].any()


# Smoothing


def rough(truth: np.ndarray, seed: int) -> np.ndarray:
    """Each frame's border moved at random, all round by as much, as a network's does: (I, J, T) bool."""
    moved = np.random.default_rng(seed).normal(0, 1.0, truth.shape[2])
    return np.stack([signed_distance(truth[..., t], (1, 1)) > moved[t] for t in range(truth.shape[2])], axis=2)


def frames(stack: np.ndarray) -> list[np.ndarray]:
    return list(np.moveaxis(stack, 2, 0))


@pytest.mark.parametrize("speed", [0.0, 0.8, 1.5])
def test_smoothing_brings_a_trembling_border_nearer_to_the_truth(speed: float) -> None:
    truth = discs(speed=speed)
    lost, steps = np.zeros((2, 8)), np.zeros((2, 8))
    for seed in range(8):
        noisy = frames(rough(truth, seed))
        result = list(noisy)
        for index, border in smoothed(noisy, judge(noisy, 0.15), Time(), None, (1.0, 1.0)):
            result[index] = border > 0
        for row, masks in enumerate((noisy, result)):
            lost[row, seed] = 1 - np.mean([dice(*pair) for pair in zip(masks, frames(truth), strict=True)])
            steps[row, seed] = np.abs(np.diff([mask.sum() for mask in masks])).mean()
    # Bell weights over five frames leave 0.49 of independent noise, a line at the two ends of the cine 0.9.
    assert lost[1].mean() < 0.65 * lost[0].mean()
    assert steps[1].mean() < 0.45 * steps[0].mean()


def test_an_even_motion_stays_where_it_is() -> None:
    """The line through the borders of a disc that moves evenly passes through its own border, at the ends as well."""
    masks = frames(discs(speed=1.0))
    for index, border in smoothed(masks, judge(masks, 0.15), Time(), None, (1.0, 1.0)):
        changed = (border > 0) ^ masks[index]
        assert changed.sum() <= 6, index


def test_weights_read_a_line_exactly() -> None:
    for offsets in ([-2, -1, 0, 1, 2], [0, 1, 2], [-2, -1, 1], [-1.5, 0.25, 2.0]):
        weights = line_weights(np.array(offsets, float), 2)
        assert weights.sum() == pytest.approx(1)
        assert weights @ (3.0 + 0.7 * np.array(offsets)) == pytest.approx(3.0)
    assert line_weights(np.arange(-2.0, 3.0), 2) == pytest.approx(line_weights(np.arange(2.0, -3.0, -1.0), 2))


def test_frames_far_apart_in_time_are_not_smoothed_together() -> None:
    masks = frames(rough(discs(), 5))
    judged = judge(masks, 0.15)

    def changed(rate: float, **how: Any) -> set[int]:
        seconds = (np.arange(COUNT) / rate).tolist()
        return {index for index, _ in smoothed(masks, judged, Time(**how), seconds, (1.0, 1.0))}

    assert changed(25.0) == set(range(COUNT))
    assert changed(2.0) == set()
    assert changed(2.0, seconds=None) == set(range(COUNT))
    # Fast frames are the same frames: the window is counted in frames.
    first, second = (
        dict(smoothed(masks, judged, Time(), (np.arange(COUNT) / rate).tolist(), (1.0, 1.0))) for rate in (25, 100)
    )
    assert all(np.allclose(first[index], second[index]) for index in first)


def test_masks_that_fit_nowhere_are_left_alone() -> None:
    masks = frames(np.random.default_rng(0).random((*SHAPE, COUNT)) < 0.2)
    judged = judge(masks, 0.15)
    assert not judged.steady
    assert list(smoothed(masks, judged, Time(), None, (1.0, 1.0))) == []


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_frames_are_segmented_too(tmp_path: Path, count: int) -> None:
    truth = discs(count=count)
    result, facts = segment(build(tmp_path, whole_image=True), cine_of(truth))
    assert dice(result.mask == 1, truth) > 0.98
    assert facts["jumps"] == []


def test_masks_that_fill_the_picture_or_are_empty() -> None:
    full = np.ones((8, 6), bool)
    assert (signed_distance(full, (0.5, 0.5)) > 0).all()
    for masks in ([full] * 8, [~full] * 8, [None] * 8, [None, full, None, full]):
        judged = judge(masks, 0.15)
        for _, border in smoothed(masks, judged, Time(), None, (0.5, 0.5)):
            assert (border > 0).all()


@pytest.mark.parametrize("wrong", [{"window": 4}, {"window": -1}, {"jump": 0.0}, {"seconds": 0.0}, {"windows": 5}])
def test_settings_of_time_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Time(**wrong)


# Cleaning


def test_each_frame_is_cleaned_for_itself(tmp_path: Path) -> None:
    truth = discs()
    scan = cine_of(truth)
    scan.voxels[0, 2:5, 2:5, :] = BRIGHT
    settings = {"keep": "largest", "fill_holes": True}
    scan.voxels[0, 17:19, 23:25, 0:2] = DARK
    pipeline = build(tmp_path, whole_image=True, postprocessing=settings, time={"window": 0})
    result, _ = segment(pipeline, scan)
    assert np.array_equal(result.mask == 1, truth)
    largest, holes = result.provenance["objects"][0]["cleaning"]
    assert (largest["step"], largest["parts"], largest["removed_voxels"]) == ("keep largest", 2 * COUNT, 9 * COUNT)
    assert (holes["step"], holes["added_voxels"]) == ("fill holes", 8)


def test_the_part_that_was_clicked_is_kept_through_time(tmp_path: Path) -> None:
    truth = discs()
    scan = cine_of(truth)
    scan.voxels[0, 2:6, 2:40, :] = BRIGHT
    frame = 4
    prompt = Prompt((Target("1", "", (Click((21.0, 24.0, float(frame))),)),))
    pipeline = build(tmp_path, postprocessing={"keep": "clicked"}, time={"window": 0})
    result, _ = segment(pipeline, scan, prompt)
    assert np.array_equal(result.mask == 1, truth)


# Flags


def flags(pipeline: SlicePipeline, scan: Scan, prompt: Prompt | None = None) -> list[quality.Flag]:
    """Those about time."""
    result, _ = segment(pipeline, scan, prompt)
    found = quality.check(result, measure(result, shapes=False), pipeline.preset)
    return [flag for flag in found if flag.code == "jumps"]


def test_jumps_are_flagged_with_their_frames(tmp_path: Path) -> None:
    truth = discs()
    scan = cine_of(truth)
    assert flags(build(tmp_path, whole_image=True), scan) == []
    scan.voxels[0, 5:60, 2:8, 12] = BRIGHT
    (flag,) = flags(build(tmp_path, whole_image=True), scan)
    told = "blob: the mask fits no neighbour in 1 of 24 frames (12); 1 got the shape between those beside"
    assert flag.message == told
    assert (flag.label, flag.value, flag.limit) == (1, 1.0, (None, 0.0))
    (flag,) = flags(build(tmp_path, time={"window": 0}), spoilt(truth, 9, 15, 16), boxed(truth, 3))
    assert flag.message == "blob: the mask fits no neighbour in 3 of 24 frames (9, 15 to 16)"


def test_a_lasting_change_and_masks_without_any_order_are_flagged(tmp_path: Path) -> None:
    truth = discs()
    truth[..., 14:] = False
    (flag,) = flags(build(tmp_path, whole_image=True), cine_of(truth))
    assert flag.message == "blob: the mask is another one from frame 14 on"
    # A disc that is somewhere else in every frame.
    wild = np.stack([np.roll(discs(4.0)[..., 0], 17 * t, axis=0) for t in range(COUNT)], axis=2)
    (flag,) = flags(build(tmp_path, whole_image=True), cine_of(wild))
    assert "masks of neighbouring frames overlap by 0.00 (Dice, median)" in flag.message


def test_what_is_as_thin_as_its_way_in_two_frames_is_kept(tmp_path: Path) -> None:
    """A line of two pixels that moves by one: half of each frame's neighbours lie beside it, and an average is none."""
    truth = np.zeros((*SHAPE, COUNT), bool)
    for t in range(COUNT):
        truth[10 + t : 12 + t, 10:40, t] = True
    result, facts = segment(build(tmp_path, whole_image=True), cine_of(truth))
    assert facts["overlap"] == 0.5
    assert len(facts["kept"]) >= COUNT - 4
    assert np.array_equal(result.mask[..., facts["kept"]] == 1, truth[..., facts["kept"]])
