"""Measuring a pipeline in a test: a case that fails is a failure of the test, not a row of a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg_cli.datasets import Case
from medseg_cli.evaluation import Measures, ObjectScore, Protocol, score_preset


def measured(pipeline: Any, cases: Sequence[Case], kind: str, objects: str = "together") -> list[ObjectScore]:
    """The objects of all cases, clicked with seed 0."""
    found = []
    for scored in score_preset(pipeline, cases, Protocol(kind, 0, objects), Measures()):
        assert not scored.result.failure, scored.result.failure
        found += scored.result.objects
    return found


def dice_mean(objects: Sequence[ObjectScore]) -> float:
    """Mean Dice of all objects."""
    return sum(each.score.dice for each in objects) / len(objects)
