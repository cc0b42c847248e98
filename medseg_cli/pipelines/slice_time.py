"""The frames of a cine after each has been answered: smoothed over time, gaps and jumps filled, and what was done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import UsageError
from medseg_cli.over_time import Judged, Time, dice, judge, smoothed
from medseg_cli.pipelines.slice_answer import Answer
from medseg_cli.pipelines.slice_run import SliceRun
from medseg_cli.preset import Preset
from medseg_cli.propagation import Rules
from medseg_cli.scan import Scan

Found = dict[int, Answer]
"""Frame → what was found there."""


@dataclass(frozen=True, eq=False)
class Settled:
    """What the frames of one cine have become.

    Args:
        found: per object: frame → answer.
        facts: per object, ready for the report: see `_facts`.
    """

    found: list[Found]
    facts: list[dict[str, Any]]


def rules_of(time: Time, own: Rules) -> Rules:
    """The rules by which a prompt is followed through time; how far it is followed may be said for volumes alone."""
    farthest = time.propagation.max_slices if own.max_slices is None else own.max_slices
    return time.propagation.model_copy(update={"max_slices": farthest})


def check_chosen(scan: Scan, preset: Preset) -> None:
    """Refuse a plane that the user chose for a cine.

    Raises:
        UsageError: it has frames, and no other plane is a picture.
    """
    if scan.cine and "options.slices" in preset.changes:
        raise UsageError(f"{scan.provenance.path} is a cine: its frames are its only plane", "leave --slices out")


def settle(run: SliceRun, how: Time) -> Settled:
    """The frames of a cine, each object's masks held against those of the frames beside them.

    Args:
        run: its `found` are the answers of the network, which stay as they are; without time they are the result.
        how: the preset's `options.time`.
    """
    if not run.scan.cine:
        return Settled(run.found, [])
    settled = [_settle(answers, run, how) for answers in run.found]
    return Settled([answers for answers, _ in settled], [facts for _, facts in settled])


def as_drawn(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """What the report says of an object (H, W, T) whose frames nobody smooths; those without any of it may be gaps."""
    frames = [frame if frame.any() else None for frame in np.moveaxis(mask, 2, 0)]
    how = Time(window=0)
    return _facts(judge(frames, how.jump), how, [], [])


def _settle(found: Found, run: SliceRun, how: Time) -> tuple[Found, dict[str, Any]]:
    place = _place(found.values())
    masks = [found[index].mask[place] if index in found else None for index in range(run.plane.count)]
    judged = judge(masks, how.jump)
    answers, filled, kept = dict(found), [], []
    for index, border in smoothed(masks, judged, how, run.scan.frame_seconds, run.plane.pixel_mm):
        own = masks[index]
        trusted = own is not None and index not in judged.jumps
        # What is as thin as its way in a few frames would be smoothed out of existence.
        if trusted and own is not None and dice(own, border > 0) < (judged.usual or 0) - 2 * how.jump:
            kept.append(index)
            continue
        if not trusted:
            filled.append(index)
        answers[index] = _answer(_within(border, place, run), place, found.get(index), run)
    return answers, _facts(judged, how, filled, kept)


def _within(border: NDArray[np.float32], place: tuple[slice, slice], run: SliceRun) -> NDArray[np.float32]:
    """What the network could not answer, outside an ultrasound sector, time cannot either."""
    sector = run.tissue.sector if run.tissue is not None else None
    return np.where(sector.inside[place], border, -1.0) if sector is not None and sector.found else border


def _facts(judged: Judged, how: Time, filled: list[int], kept: list[int]) -> dict[str, Any]:
    """What stands in the report; all frames are counted from 0.

    `overlap`: Dice of neighbouring frames as the network found them, median. `window`: frames smoothed over, 0 where
    nothing was. `jumps`, `lasting`, `gaps`: see `over_time.Judged`. `filled`: jumps and gaps that have the neighbours'
    shape now. `kept`: frames as they were found, because smoothing would have changed them too much.
    """
    return {
        "window": how.window if how.window > 1 and judged.steady else 0,
        "overlap": None if judged.usual is None else round(judged.usual, 4),
        "jumps": list(judged.jumps),
        "lasting": list(judged.lasting),
        "gaps": list(judged.gaps),
        "filled": filled,
        "kept": kept,
    }


def _place(answers: Iterable[Answer]) -> tuple[slice, slice]:
    """Rows and columns of all masks of an object, and a few beyond: a border needs an outside."""
    boxes = [each.place for each in answers if not each.empty]
    if not boxes:
        return slice(0, 1), slice(0, 1)
    sides = zip(*boxes, strict=True)
    rows, columns = (slice(max(0, min(b.start for b in side) - 2), max(b.stop for b in side) + 2) for side in sides)
    return rows, columns


def _answer(border: NDArray[np.float32], place: tuple[slice, slice], own: Answer | None, run: SliceRun) -> Answer:
    """A mask from the distance to its border: the deeper inside, the more certain, where two objects meet."""
    pixels = border / (sum(run.plane.pixel_mm) / 2)
    certainty = np.where(border > 0, Answer.INSIDE + np.clip(pixels, 0, 127), 0)
    probability = np.zeros((run.plane.height, run.plane.width), np.uint8)
    probability[place] = certainty.astype(np.uint8)
    made = Answer.of(probability, None)
    return made if own is None else replace(made, score=own.score, doubt=own.doubt)
