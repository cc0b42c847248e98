"""The report as data: `summary.json` with nnU-Net's keys and more, and `cases.csv` with a row per object."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medseg_cli.errors import InputError
from medseg_cli.evaluation.doubt import correlations
from medseg_cli.evaluation.ellipses import circumference_errors
from medseg_cli.evaluation.label_table import LabelTable
from medseg_cli.evaluation.results import CaseResult, Measures, ObjectScore, numbers
from medseg_cli.evaluation.samus_table import samus_table
from medseg_cli.evaluation.statistics import DIGITS, RESAMPLES, Comparison, Row, compare, metrics_of, rows_of, spread
from medseg_cli.writers.spreadsheet import harmless

EMPTY_RULE = (
    "both masks empty: Dice, IoU and NSD are 1; one empty: they are 0; distances, and shares that would divide by "
    "zero, do not exist then: null, left out of means, and counted"
)
EMPTINESS = ("both are empty", "the prediction is empty", "the reference is empty")
COMPARED = ("Dice", "IoU", "NSD", "HD95", "ASSD", "volume_error_relative", "area_error_relative", "circumference_error")
"""Beginnings of the metrics that two methods are compared by."""


@dataclass(frozen=True)
class Evaluation:
    """Everything a report says.

    Args:
        title: what was compared with what.
        results: of all cases, failed ones too.
        facts: what was compared and how, for the head of the report.
        table: names of labels.
        measures: what was measured.
        seed: of the bootstrap.
        notes: about the whole, one sentence each.
        interrupted: whether cases are missing because somebody stopped the run.
        total: cases that there are.
        against: rows of another method on the same cases, and its name.
    """

    title: str
    results: tuple[CaseResult, ...]
    facts: dict[str, Any]
    table: LabelTable = field(default_factory=LabelTable)
    measures: Measures = field(default_factory=Measures)
    seed: int = 0
    notes: tuple[str, ...] = ()
    interrupted: bool = False
    total: int = 0
    against: tuple[Row, ...] = ()
    against_name: str = ""

    @property
    def scored(self) -> list[CaseResult]:
        """Cases that did not fail."""
        return [result for result in self.results if not result.failure]

    @property
    def failed(self) -> list[CaseResult]:
        """Cases that did."""
        return [result for result in self.results if result.failure]

    @property
    def rows(self) -> list[Row]:
        """Objects of all scored cases."""
        return rows_of(self.scored)

    @property
    def labels(self) -> list[str]:
        """Keys of the labels that were scored, by value."""
        return sorted({row.label for row in self.rows}, key=int)

    def label_name(self, key: str) -> str:
        """What a label is called in the report."""
        together = all(found.value is None for result in self.scored for found in result.objects)
        return "all labels together" if together else self.table.name(int(key)) or f"label {key}"


def summary(evaluation: Evaluation) -> dict[str, Any]:
    """The whole report as JSON-serialisable data. nnU-Net's keys: metric_per_case, mean, foreground_mean."""
    rows = evaluation.rows
    means = {label: _means([row for row in rows if row.label == label]) for label in evaluation.labels}
    groups = {"all": rows, **{label: [row for row in rows if row.label == label] for label in means}}
    return {
        "title": evaluation.title,
        **evaluation.facts,
        "cases": len(evaluation.scored),
        "failed_cases": len(evaluation.failed),
        "not_reached": evaluation.total - len(evaluation.results),
        "interrupted": evaluation.interrupted,
        **_headline(rows),
        "labels": {label: evaluation.label_name(label) for label in means},
        "empty_masks": {"rule": EMPTY_RULE, **_emptiness(rows)},
        "nsd_tolerances": list(evaluation.measures.nsd_mm),
        "hit_overlap": evaluation.measures.hit,
        "bootstrap": {"resamples": RESAMPLES, "seed": evaluation.seed, "by": "patient", "interval": "95 % of the mean"},
        "notes": list(evaluation.notes),
        "foreground_mean": _foreground(means),
        "mean": means,
        "samus_protocol": samus_table(groups) if evaluation.measures.samus else None,
        "uncertainty": _uncertainty(evaluation, groups),
        "statistics": {label: _statistics(group, evaluation.seed) for label, group in groups.items()},
        "comparison": [_plain(asdict(each)) for each in comparisons(evaluation)],
        "against": evaluation.against_name or None,
        "failed": [
            {"id": each.id, "reason": each.failure, "hint": each.hint, "reference_file": each.reference}
            for each in evaluation.failed
        ],
        "metric_per_case": [_case(result) for result in evaluation.scored],
    }


def comparisons(evaluation: Evaluation) -> list[Comparison]:
    """Every metric that methods are compared by, for all labels together and for each."""
    if not evaluation.against:
        return []
    rows = evaluation.rows
    names = [name for name in metrics_of(rows) if name.startswith(COMPARED)]
    labels = evaluation.labels
    found = [
        compare(rows, evaluation.against, name, label, evaluation.seed)
        for label in (["all", *labels] if len(labels) > 1 else ["all"])
        for name in names
    ]
    return [each for each in found if each is not None]


def _uncertainty(evaluation: Evaluation, groups: dict[str, list[Row]]) -> dict[str, Any] | None:
    doubts = [found.doubt for result in evaluation.scored for found in result.objects if found.doubt is not None]
    return correlations(doubts, {label: [row.numbers for row in group] for label, group in groups.items()})


def _headline(rows: Sequence[Row]) -> dict[str, Any]:
    """What one looks at first."""
    if not rows:
        return {"objects": 0}
    dice = np.array([row.numbers["Dice"] for row in rows], dtype=float)
    hd95 = [row.numbers.get("HD95_mm") for row in rows]
    known = np.array([value for value in hd95 if value is not None], dtype=float)
    errors = [row.numbers.get("volume_error_relative", row.numbers.get("area_error_relative")) for row in rows]
    relative = np.array([value for value in errors if value is not None], dtype=float)
    return {
        "objects": len(rows),
        "dice_mean": round(float(dice.mean()), 4),
        "dice_median": round(float(np.median(dice)), 4),
        "dice_p05": round(float(np.percentile(dice, 5)), 4),
        "dice_min": round(float(dice.min()), 4),
        "hd95_mm_mean": round(float(known.mean()), 3) if known.size else None,
        "hd95_mm_median": round(float(np.median(known)), 3) if known.size else None,
        "hd95_undefined": len(rows) - int(known.size),
        "volume_error_mean": round(float(relative.mean()), 4) if relative.size else None,
        "volume_error_abs_mean": round(float(np.abs(relative).mean()), 4) if relative.size else None,
        **circumference_errors([row.numbers for row in rows]),
    }


def _emptiness(rows: Sequence[Row]) -> dict[str, Any]:
    dice = [float(row.numbers["Dice"] or 0) for row in rows if row.emptiness != "both are empty"]
    return {
        **{reason: sum(row.emptiness == reason for row in rows) for reason in EMPTINESS},
        "dice_mean_without_both_empty": round(float(np.mean(dice)), 4) if dice else None,
    }


def _means(rows: Sequence[Row]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in metrics_of(rows, counts=True):
        have = [value for row in rows if (value := row.numbers.get(name)) is not None]
        means[name] = round(float(np.mean(have)), DIGITS) if have else None
    return means


def _foreground(means: dict[str, dict[str, float | None]]) -> dict[str, float | None]:
    """Mean over labels of the labels' means, as nnU-Net has it."""
    names = dict.fromkeys(name for each in means.values() for name in each)
    have = {name: [value for each in means.values() if (value := each.get(name)) is not None] for name in names}
    return {name: round(float(np.mean(values)), DIGITS) if values else None for name, values in have.items()}


def _statistics(rows: Sequence[Row], seed: int) -> dict[str, Any]:
    found = {name: spread(rows, name, seed) for name in metrics_of(rows)}
    return {name: _plain(asdict(each)) for name, each in found.items() if each is not None}


def _case(result: CaseResult) -> dict[str, Any]:
    return {
        "id": result.id,
        "patient": result.patient,
        "prediction_file": result.prediction,
        "reference_file": result.reference,
        "notes": list(result.notes),
        "prompts": {found.key: _place(found) for found in result.objects if found.place},
        "metrics": {found.key: _plain(numbers(found, result.units)) for found in result.objects},
        "undefined_because": {found.key: found.score.emptiness for found in result.objects if found.score.emptiness},
        **_no_ellipse(result),
    }


def _no_ellipse(result: CaseResult) -> dict[str, Any]:
    """Which mask of which label has no ellipse, and why; nothing where all have one."""
    why = {found.key: dict(found.ellipse.why) for found in result.objects if found.ellipse and found.ellipse.why}
    return {"no_ellipse": why} if why else {}


def _place(found: ObjectScore) -> dict[str, Any]:
    return {} if not found.place else {"click_ijk" if found.kind.endswith("click") else "box_ijk": list(found.place)}


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, DIGITS) if isinstance(value, float) else value for key, value in record.items()}


def to_json(report: dict[str, Any]) -> str:
    """The report as text. Numbers that do not exist are null, never NaN."""
    return json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(evaluation: Evaluation) -> str:
    """A row per object, and one per failed case."""
    rows = evaluation.rows
    names = metrics_of(rows, counts=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["case", "patient", "label", "name", "status", "reason", *names])
    for result in evaluation.results:
        if result.failure:
            cells = [result.id, result.patient, "", "", "failed", result.failure, *[""] * len(names)]
            writer.writerow(map(harmless, cells))
        for found in result.objects:
            values = _plain(numbers(found, result.units))
            cells = ["" if values.get(name) is None else values[name] for name in names]
            name, why = evaluation.label_name(found.key), found.score.emptiness
            writer.writerow(map(harmless, [result.id, result.patient, found.key, name, "scored", why, *cells]))
    return text.getvalue()


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of an earlier `summary.json`, ours or nnU-Net's.

    Raises:
        InputError: unreadable, or no such report.
    """
    try:
        cases = json.loads(path.read_text(encoding="utf-8"))["metric_per_case"]
        return tuple(
            Row(_id(case), str(case.get("patient") or _id(case)), str(label), _known(values))
            for case in cases
            for label, values in case["metrics"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no report to compare with: {error!r}", "give summary.json of an earlier evaluation"
        ) from error


def _id(case: dict[str, Any]) -> str:
    from medseg_cli.writers.outputs import case_name

    return str(case["id"]) if "id" in case else case_name(Path(case["reference_file"]))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """nnU-Net writes NaN where a number does not exist."""
    return {name: None if value is None or value != value else value for name, value in values.items()}
