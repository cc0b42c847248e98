"""From answers in slices to one label map: stacked, cleaned in 3-D, and the more probable object where two overlap."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.pipelines.slice_prompts import Plan
from medseg_cli.pipelines.slice_run import Answer
from medseg_cli.postprocess import clean
from medseg_cli.preset_format import Postprocessing
from medseg_cli.slices import Plane


def compose(
    found: list[dict[int, Answer]], plans: list[Plan], plane: Plane, how: Postprocessing
) -> tuple[NDArray[np.unsignedinteger[Any]], list[list[dict[str, Any]]]]:
    """The label map (I, J, K), and what cleaning did to each object.

    Args:
        found: per object: slice index → answer.
        plans: per object, in the same order.
        plane: which way the scan is sliced.
        how: the preset's cleaning.
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
        cleaned = clean(probability >= Answer.INSIDE, clicks, plane.spacing, how)
        steps.append(cleaned.steps)
        inside = cleaned.mask
        if best is not None:
            inside = inside & ((mask[slab] == 0) | (probability > best[slab]))
            best[slab][inside] = probability[inside]
        mask[slab][inside] = value
    return mask, steps
