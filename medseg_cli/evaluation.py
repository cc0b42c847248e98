"""Measuring a preset on labelled cases: every case is prompted the same way, from its reference, then scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg_cli.datasets import Case, load_pair
from medseg_cli.errors import UsageError
from medseg_cli.metrics import Score, score
from medseg_cli.pipelines import Pipeline
from medseg_cli.preset import Preset
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.slices import PlaneName, plane_of
from medseg_cli.stages import Stages

Kind = Literal["click", "box", "boxes", "none"]

THIN = 0.25
"""Voxels by which the box round an object of one voxel is wider on both sides: a box without extent is no prompt."""


@dataclass(frozen=True)
class CaseScore:
    """One object of a case: how and where it was prompted, and how it scored.

    Args:
        id: of the case.
        kind: of prompt.
        place: voxel indices: i, j, k of a click; i0, j0, k0, i1, j1, k1 of a box or round all boxes, both corners
            inside; () of none.
        score: against the reference.
        value: the label value that is the object; None where all values together are.
    """

    id: str
    kind: Kind
    place: tuple[float, ...]
    score: Score
    value: int | None = None


def usual_kind(preset: Preset) -> Kind:
    """How a preset is used when nobody says otherwise: without a prompt if it can, else by click, else by box."""
    if preset.prompts.whole_image:
        return "none"
    return "click" if "point" in preset.prompts.kinds else "box"


def check_kind(preset: Preset, kind: Kind) -> None:
    """Refuse a kind of prompt that the preset does not take.

    Raises:
        UsageError: with the kinds that it takes.
    """
    takes = {"click": "point" in preset.prompts.kinds, "box": "box" in preset.prompts.kinds}
    takes["boxes"] = takes["box"] and preset.dims == 2
    takes["none"] = preset.prompts.whole_image
    if not takes[kind]:
        known = ", ".join(f"--prompt {name}" for name, taken in takes.items() if taken)
        raise UsageError(f"preset {preset.name} cannot be measured with --prompt {kind}", f"it takes {known}")


def evaluate(
    pipeline: Pipeline,
    cases: Sequence[Case],
    seed: int,
    report: Callable[[CaseScore], None],
    kind: Kind = "click",
    slices: PlaneName = "finest",
) -> list[CaseScore]:
    """Segment every case from prompts that its reference gives, and score it on the scan's own grid.

    Args:
        pipeline: takes prompts of that kind.
        cases: labelled cases. With boxes every label value is an object, else all values together are one.
        seed: of the clicks; case number n is clicked by the generator (seed, n).
        report: called after each object.
        kind: "click" at a random voxel of the reference, "box" exactly round it, "boxes" exactly round it in each of
            its slices, or "none".
        slices: the plane of "boxes".

    Raises:
        InputError: a label that lies off its scan's grid or is empty.
    """
    results = []
    for number, case in enumerate(cases):
        scan, labels = load_pair(case)
        apart = [int(value) for value in np.unique(labels) if value > 0] if kind in ("box", "boxes") else []
        values: list[int | None] = [*apart] if len(apart) > 1 else [None]
        references = [labels > 0 if value is None else labels == value for value in values]
        if kind == "click":
            prompt, places = _click(references[0], np.random.default_rng([seed, number]))
        elif kind == "none":
            prompt, places = Prompt(), [()]
        else:
            axis = plane_of(scan, slices).through if kind == "boxes" else None
            prompt, places = _boxes(references, axis)
        mask = pipeline.segment(scan, prompt, Stages()).mask
        for target, (value, place, reference) in enumerate(zip(values, places, references, strict=True), start=1):
            found = score(mask == target, reference, scan.spacing)
            results.append(CaseScore(case.id, kind, place, found, value))
            report(results[-1])
    return results


def _click(reference: NDArray[np.bool_], rng: Generator) -> tuple[Prompt, list[tuple[float, ...]]]:
    """A click at a random voxel of a reference (I, J, K), and where it is."""
    foreground = np.argwhere(reference)
    i, j, k = foreground[rng.integers(len(foreground))].astype(float).tolist()
    return Prompt((Target("1", "", (Click((i, j, k), "ijk"),)),)), [(i, j, k)]


def _boxes(references: list[NDArray[np.bool_]], axis: int | None) -> tuple[Prompt, list[tuple[float, ...]]]:
    """One target per reference (I, J, K): its exact box, or one in each slice across `axis`; and the box round all."""
    targets: list[Target] = []
    places: list[tuple[float, ...]] = []
    for number, reference in enumerate(references, start=1):
        voxels = np.argwhere(reference)
        depths = [voxels] if axis is None else [voxels[voxels[:, axis] == at] for at in np.unique(voxels[:, axis])]
        wide = np.array([size > 1 and this != axis for this, size in enumerate(reference.shape)])
        boxes = tuple(_box(each, wide) for each in depths)
        targets.append(Target(str(number), "", boxes=boxes))
        places.append((*np.min([box.first for box in boxes], 0), *np.max([box.second for box in boxes], 0)))
    return Prompt(tuple(targets)), [tuple(float(each) for each in place) for place in places]


def _box(voxels: NDArray[np.int64], wide: NDArray[np.bool_]) -> Box:
    """The box round voxels (N, 3), ijk, with some width along the axes that are `wide` (3,)."""
    low, high = voxels.min(0).astype(float), voxels.max(0).astype(float)
    thin = (low == high) & wide
    return Box(tuple((low - THIN * thin).tolist()), tuple((high + THIN * thin).tolist()), "ijk")


def summarise(results: Sequence[CaseScore]) -> dict[str, Any]:
    """Means, medians and tails over objects; a metric that is undefined for one is left out and counted."""
    dice = np.array([result.score.dice for result in results])
    hd95 = [result.score.hd95_mm for result in results if result.score.hd95_mm is not None]
    errors = [result.score.volume_error for result in results if result.score.volume_error is not None]
    return {
        "cases": len({result.id for result in results}),
        "objects": len(results),
        "dice_mean": round(float(dice.mean()), 4),
        "dice_median": round(float(np.median(dice)), 4),
        "dice_p05": round(float(np.percentile(dice, 5)), 4),
        "dice_min": round(float(dice.min()), 4),
        "hd95_mm_mean": round(float(np.mean(hd95)), 3) if hd95 else None,
        "hd95_mm_median": round(float(np.median(hd95)), 3) if hd95 else None,
        "hd95_undefined": len(results) - len(hd95),
        "volume_error_mean": round(float(np.mean(errors)), 4) if errors else None,
        "volume_error_abs_mean": round(float(np.mean(np.abs(errors))), 4) if errors else None,
    }


def rows(results: Sequence[CaseScore]) -> list[dict[str, Any]]:
    """The cases as flat records."""
    records = []
    for result in results:
        record: dict[str, Any] = {"id": result.id}
        if result.value is not None:
            record["value"] = result.value
        if result.place:
            record["click_ijk" if result.kind == "click" else "box_ijk"] = list(result.place)
        records.append({**record, **asdict(result.score)})
    return records
