"""Measuring a preset on labelled cases: every case is clicked once at a random voxel of its reference, then scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseg_cli.dataset import Case
from medseg_cli.errors import InputError
from medseg_cli.metrics import Score, score
from medseg_cli.pipelines import Pipeline
from medseg_cli.prompt import Click, Prompt, Target
from medseg_cli.readers import load_scan
from medseg_cli.stages import Stages


@dataclass(frozen=True)
class CaseScore:
    """One case: where it was clicked (voxel index ijk) and how it scored."""

    id: str
    click: tuple[float, float, float]
    score: Score


def evaluate(
    pipeline: Pipeline, cases: Sequence[Case], seed: int, report: Callable[[CaseScore], None]
) -> list[CaseScore]:
    """Segment every case from one random foreground click and score it on the scan's own grid.

    Args:
        pipeline: takes clicks.
        cases: labelled cases; every positive label value is the object.
        seed: of the clicks; case number n is clicked by the generator (seed, n).
        report: called after each case.

    Raises:
        InputError: a label that lies off its scan's grid or is empty.
    """
    results = []
    for number, case in enumerate(cases):
        scan, label = load_scan(case.image), load_scan(case.label)
        if scan.shape != label.shape or not np.allclose(scan.affine, label.affine, atol=1e-3):
            raise InputError(f"{case.label} {label.shape} does not lie on the grid of {case.image} {scan.shape}")
        reference = label.voxels[0] > 0
        foreground = np.argwhere(reference)
        if not len(foreground):
            raise InputError(f"{case.label} has no labelled voxel")
        i, j, k = foreground[np.random.default_rng([seed, number]).integers(len(foreground))].astype(float)
        prompt = Prompt((Target("1", "", (Click((i, j, k), "ijk"),)),))
        mask = pipeline.segment(scan, prompt, Stages()).mask > 0
        results.append(CaseScore(case.id, (i, j, k), score(mask, reference, scan.spacing)))
        report(results[-1])
    return results


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
    return [{"id": result.id, "click_ijk": list(result.click), **asdict(result.score)} for result in results]
