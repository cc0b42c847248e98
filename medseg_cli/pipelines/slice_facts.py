"""What a slice pipeline tells about a scan: facts of each object for the report, and notes for the user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg_cli.intensity import Display
from medseg_cli.pipelines.slice_answer import doubts, own_scores
from medseg_cli.pipelines.slice_prompts import Plan
from medseg_cli.pipelines.slice_run import Ways
from medseg_cli.pipelines.slice_texts import Heard
from medseg_cli.pipelines.slice_time import Settled
from medseg_cli.preset import Preset
from medseg_cli.prompt import Prompt
from medseg_cli.scan import Scan

AIR_HU = -900.0
"""A file of unknown modality with values as low as this may be a CT: the user is told, nothing is assumed."""
LEAST_SHOWN = 0.01
"""Share of voxels between black and white below which a window is questioned."""


def object_facts(
    prompt: Prompt,
    plans: Sequence[Plan],
    settled: Settled,
    ways: Ways,
    cleaning: Sequence[Any],
    heard: Sequence[Heard],
) -> list[dict[str, Any]]:
    """`objects` of the report, one for each target.

    Args:
        prompt, plans: what was asked, and in which slices.
        settled: the answers, and for a cine what time made of them.
        ways: how each object was followed.
        cleaning: what was taken out of each mask.
        heard: what the network heard of each; empty where it hears nothing.
    """
    objects: list[dict[str, Any]] = [
        {
            "id": target.id,
            "slices_prompted": sorted(plan.slices),
            "slices_with_mask": sum(not answer.empty for answer in found.values()),
            "predicted_iou": own_scores(found),
            "uncertainty": doubts(found),
            "propagation": way,
            "cleaning": steps,
        }
        for target, plan, found, way, steps in zip(prompt.targets, plans, settled.found, ways, cleaning, strict=True)
    ]
    # Volumes have no facts over time, and networks without ears heard nothing.
    for facts, over_time in zip(objects, settled.facts, strict=bool(settled.facts)):
        facts["time"] = over_time
    for facts, each in zip(objects, heard, strict=bool(heard)):
        facts["heard"] = each.told
        if each.detected is not None:
            facts["detected"] = each.detected
    return objects


def modality_notes(scan: Scan, preset: Preset) -> list[str]:
    """A warning where a preset was made for other modalities, or the scan may be a CT that does not say so."""
    made_for = preset.modality
    if scan.modality and "any" not in made_for and scan.modality not in made_for:
        return [f"the scan is {scan.modality}, the preset is made for {', '.join(made_for)}"]
    lowest = float(np.nanmin(scan.voxels))
    if not scan.modality and lowest <= AIR_HU and "CT" in preset.preprocessing.by_modality:
        return [
            f"the file states no modality and its values go down to {lowest:g}: if it is a CT, --modality CT "
            "chooses the preset's window, or --window another"
        ]
    return []


def window_notes(shown: Display, scan: Scan) -> list[str]:
    """A warning when a window shows next to nothing: it is probably in other units than the scan."""
    share = shown.share_shown(scan) if shown.method == "window" else 1.0
    if share >= LEAST_SHOWN:
        return []
    values = scan.voxels[np.isfinite(scan.voxels)]
    return [
        f"only {share:.1%} of the {scan.cell}s lie between black ({shown.low:g}) and white ({shown.high:g}), "
        f"the scan's values between {values.min():g} and {values.max():g}: is the window in the scan's units?"
    ]
