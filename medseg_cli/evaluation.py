"""Measuring a preset on labelled cases: every case is prompted the same way, from its reference, then scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from medseg_cli.dataset import Case, load_pair
from medseg_cli.errors import UsageError
from medseg_cli.metrics import Score, score
from medseg_cli.pipelines import Pipeline
from medseg_cli.preset import Preset
from medseg_cli.prompt import Box, Click, Prompt, Target
from medseg_cli.stages import Stages

Kind = Literal["click", "box", "none"]

THIN = 0.25
"""Voxels by which the box round an object of one voxel is wider on both sides: a box without extent is no prompt."""


@dataclass(frozen=True)
class CaseScore:
    """One case: how and where it was prompted, and how it scored.

    Args:
        id: of the case.
        kind: of prompt.
        place: voxel indices: i, j, k of a click; i0, j0, k0, i1, j1, k1 of a box, both corners inside; () of none.
        score: against the reference.
    """

    id: str
    kind: Kind
    place: tuple[float, ...]
    score: Score


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
) -> list[CaseScore]:
    """Segment every case from one prompt and score it on the scan's own grid.

    Args:
        pipeline: takes prompts of that kind.
        cases: labelled cases; every positive label value is the object.
        seed: of the clicks; case number n is clicked by the generator (seed, n).
        report: called after each case.
        kind: "click" at a random voxel of the reference, "box" exactly round it, or "none".

    Raises:
        InputError: a label that lies off its scan's grid or is empty.
    """
    results = []
    for number, case in enumerate(cases):
        scan, labels = load_pair(case)
        reference = labels > 0
        prompt, place = _prompt(kind, reference, np.random.default_rng([seed, number]))
        mask = pipeline.segment(scan, prompt, Stages()).mask > 0
        results.append(CaseScore(case.id, kind, place, score(mask, reference, scan.spacing)))
        report(results[-1])
    return results


def _prompt(kind: Kind, reference: NDArray[np.bool_], rng: Generator) -> tuple[Prompt, tuple[float, ...]]:
    """The prompt that a reference (I, J, K) gives, and where it is."""
    if kind == "none":
        return Prompt(), ()
    foreground = np.argwhere(reference)
    if kind == "click":
        i, j, k = foreground[rng.integers(len(foreground))].astype(float).tolist()
        return Prompt((Target("1", "", (Click((i, j, k), "ijk"),)),)), (i, j, k)
    low, high = foreground.min(0).astype(float), foreground.max(0).astype(float)
    thin = (low == high) & (np.array(reference.shape) > 1)
    first, second = tuple((low - THIN * thin).tolist()), tuple((high + THIN * thin).tolist())
    return Prompt((Target("1", "", boxes=(Box(first, second, "ijk"),)),)), (*first, *second)


def summarise(results: Sequence[CaseScore]) -> dict[str, Any]:
    """Means, medians and tails over cases; a metric that is undefined for a case is left out and counted."""
    dice = np.array([result.score.dice for result in results])
    hd95 = [result.score.hd95_mm for result in results if result.score.hd95_mm is not None]
    errors = [result.score.volume_error for result in results if result.score.volume_error is not None]
    return {
        "cases": len(results),
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
    return [
        {"id": result.id, "prompt": result.kind, f"{result.kind}_ijk": list(result.place), **asdict(result.score)}
        if result.place
        else {"id": result.id, "prompt": result.kind, **asdict(result.score)}
        for result in results
    ]
