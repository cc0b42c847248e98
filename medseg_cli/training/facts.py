"""Where a result comes from: what the weights' metadata, the preset and the model card say about a run."""

from __future__ import annotations

from dataclasses import dataclass

from medseg_cli.pipelines.choices import Choices
from medseg_cli.training.plan import Plan, Progress


@dataclass(frozen=True)
class RunFacts:
    """One finished run.

    Args:
        dataset: name of the dataset's folder or file.
        plan: how it was trained.
        choices: what was trained, and what an object was.
        start: SHA-256 of the weights it began with; "" = random ones.
        cases: cases of each part of the split.
        step: optimiser steps behind the exported weights.
        dice: what their validation measured; `before` is that of the weights it began with.
        history: every validation.
        command: the command line.
        metric: what validations measure.
        captions: it was trained on captions, not on masks.
    """

    dataset: str
    plan: Plan
    choices: Choices
    start: str
    cases: dict[str, int]
    step: int
    dice: float
    before: float
    history: tuple[Progress, ...] = ()
    command: str = ""
    metric: str = "Dice"
    captions: bool = False
