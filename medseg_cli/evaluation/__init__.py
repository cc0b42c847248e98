"""Measuring: masks against references, from files or predicted by a preset first, and the report about it.

match(prediction, reference) -> Matched               which file goes with which
score_files(pairs, rules) -> Iterator[Scored]         masks that lie in files
score_preset(pipeline, cases, protocol, measures)     masks that a preset predicts first, prompted from the references
gather(scored, into, wanted, report)                  results, and pictures of the worst
Evaluation(results, facts, ...)                       everything a report says
plan(output), write(report, evaluation, pictures)     summary.json, cases.csv, report.html
"""

from __future__ import annotations

from medseg_cli.evaluation.ellipses import Shapes
from medseg_cli.evaluation.from_files import Rules, score_files, sizes_beside
from medseg_cli.evaluation.from_preset import score_preset
from medseg_cli.evaluation.label_table import LabelTable, find_table, read_table
from medseg_cli.evaluation.matching import Matched, Pair, match
from medseg_cli.evaluation.output import Report, plan, write
from medseg_cli.evaluation.prompting import Protocol, check_kind, classes_of, usual_kind, usual_objects, values_of
from medseg_cli.evaluation.results import CaseResult, Measures, ObjectScore, completed
from medseg_cli.evaluation.scoring import Scored
from medseg_cli.evaluation.statistics import Row, rows_of
from medseg_cli.evaluation.summary import Evaluation, read_rows, summary
from medseg_cli.evaluation.worst import Gathered, Picture, gather

__all__ = [
    "CaseResult",
    "Evaluation",
    "Gathered",
    "LabelTable",
    "Matched",
    "Measures",
    "ObjectScore",
    "Pair",
    "Picture",
    "Protocol",
    "Report",
    "Row",
    "Rules",
    "Scored",
    "Shapes",
    "check_kind",
    "classes_of",
    "completed",
    "find_table",
    "gather",
    "match",
    "plan",
    "read_rows",
    "read_table",
    "rows_of",
    "score_files",
    "score_preset",
    "sizes_beside",
    "summary",
    "usual_kind",
    "usual_objects",
    "values_of",
    "write",
]
