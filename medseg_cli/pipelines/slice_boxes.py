"""Boxes that a detector finds for what is said, for the network beside the words (our reconstruction of CC-SAM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medseg_cli.models.cc_sam.bank import Bank
from medseg_cli.models.grounding import Detection, Detector
from medseg_cli.pipelines.slice_prompts import Plan, SlicePrompt
from medseg_cli.pipelines.slice_run import SliceRun
from medseg_cli.pipelines.slice_texts import Heard
from medseg_cli.prompt import Prompt, Target


@dataclass(frozen=True, eq=False)
class SliceBoxes:
    """A detector, asked about objects of which nothing is known but words.

    Args:
        detector: finds one box in a picture.
        bank: phrases of the classes that a preset knows; a text that is none of them is asked as it stands.
    """

    detector: Detector
    bank: Bank

    def added(
        self, plans: Sequence[Plan], heard: Sequence[Heard], prompt: Prompt, run: SliceRun
    ) -> tuple[list[Plan], list[Heard]]:
        """Plans with a box in each slice that has a good one, and what is reported of the others.

        Raises:
            UsageError: a text that cannot be asked.
        """
        made = [
            self._added(plan, each, target, run)
            for plan, each, target in zip(plans, heard, prompt.targets, strict=True)
        ]
        return [plan for plan, _ in made], [each for _, each in made]

    def _added(self, plan: Plan, heard: Heard, target: Target, run: SliceRun) -> tuple[Plan, Heard]:
        if target.text is None or target.clicks or target.boxes or target.region is not None:
            return plan, replace(heard, notes=(*heard.notes, _unasked(target)))
        phrase = self._phrase(target, heard)
        slices: dict[int, SlicePrompt] = {}
        told = []
        for index, each in plan.slices.items():
            picture = run.display.picture(run.plane.take(run.scan.voxels, index))
            found = self.detector.find(picture, phrase)
            box = found.pixels(run.plane.width, run.plane.height)
            slices[index] = each if found.refused else replace(each, boxes=box[None])
            told.append(_facts(index, found, box))
        facts = {"detector": self.detector.name, "sha256": self.detector.sha256, "phrase": phrase, "slices": told}
        refused = [each for each in told if each["refused"]]
        notes = heard.notes
        if refused:
            where = "" if len(told) == 1 else f" in {len(refused)} of {len(told)} slices"
            notes = (*notes, f"the detector's box for '{phrase}' was no prompt{where}: {refused[0]['refused']}")
        return replace(plan, slices=slices), replace(heard, notes=notes, detected=facts)

    def _phrase(self, target: Target, heard: Heard) -> str:
        """What the detector is asked: the class's phrase, or the first text as it was said."""
        assert target.text is not None
        first = heard.told[0]["class"] if heard.told else None
        return target.text.positive[0] if first is None else self.bank[first].phrase


def _facts(index: int, found: Detection, box: np.ndarray) -> dict[str, Any]:
    return {"slice": index, "box": box.round(1).tolist(), "score": round(found.score, 4), "refused": found.refused}


def _unasked(target: Target) -> str:
    why = "nothing was said about it" if target.text is None else "it is pointed at already"
    return f"the detector was not asked about object '{target.id}': {why}"
