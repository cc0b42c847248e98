"""From answers in slices to one label map: stacked, cleaned, and the more probable object where two overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.pipelines.slice_answer import Answer
from medseg_cli.pipelines.slice_prompts import Plan
from medseg_cli.postprocess import Cleaned, clean
from medseg_cli.preset_format import Postprocessing
from medseg_cli.slices import Plane


def compose(
    found: list[dict[int, Answer]], plans: list[Plan], plane: Plane, how: Postprocessing, *, apart: bool = False
) -> tuple[NDArray[np.unsignedinteger[Any]], list[list[dict[str, Any]]]]:
    """The label map (I, J, K), and what cleaning did to each object.

    Args:
        found: per object: slice index → answer.
        plans: per object, in the same order.
        plane: which way the scan is sliced.
        how: the preset's cleaning, in 3-D.
        apart: clean each slice for itself: those of a cine are no volume.
    """
    mask = np.zeros(plane.shape, np.uint8 if len(plans) < 256 else np.uint16)
    best = np.zeros(plane.shape, np.uint8) if len(plans) > 1 else None
    steps = []
    for value, (answers, plan) in enumerate(zip(found, plans, strict=True), start=1):
        # Only the slices that have an answer are worked on: a scan may hold hundreds of small objects.
        first, last = min(answers), max(answers)
        slab = tuple(slice(first, last + 1) if axis == plane.through else slice(None) for axis in range(3))
        shape = mask[slab].shape
        part = replace(plane, shape=(shape[0], shape[1], shape[2]))
        probability = np.zeros(shape, np.uint8)
        for index, answer in answers.items():
            part.put(probability, index - first, answer.probability)
        clicks = plan.clicks - np.where(np.arange(3) == plane.through, first, 0)
        cleaned = (clean_apart if apart else clean)(probability >= Answer.INSIDE, clicks, plane.spacing, how)
        steps.append(cleaned.steps)
        inside = cleaned.mask
        if best is not None:
            inside = inside & ((mask[slab] == 0) | (probability > best[slab]))
            best[slab][inside] = probability[inside]
        mask[slab][inside] = value
    return mask, steps


def clean_apart(
    mask: NDArray[np.bool_], clicks: NDArray[np.float64], spacing: tuple[float, float, float], how: Postprocessing
) -> Cleaned:
    """`clean` of the frames (I, J, T) of a cine, one after the other; its steps are summed up.

    Which part was clicked is followed through time, for clicks lie in few frames.
    """
    steps: list[dict[str, Any]] = []
    if how.keep == "clicked":
        first = clean(mask, clicks, spacing, Postprocessing(keep="clicked"))
        mask, steps, how = first.mask, first.steps, how.model_copy(update={"keep": "all"})
    frames = [clean(frame, np.zeros((0, 3)), spacing, how) for frame in np.split(mask, mask.shape[2], axis=2)]
    for alike in zip(*(frame.steps for frame in frames), strict=True):
        counts = {key: sum(step[key] for step in alike) for key in alike[0] if key != "step"}
        steps.append({"step": alike[0]["step"], **counts})
    return Cleaned(np.concatenate([frame.mask for frame in frames], axis=2), steps)
