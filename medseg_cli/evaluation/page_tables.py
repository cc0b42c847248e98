"""The tables of the report."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from medseg_cli.evaluation.doubt import AREAS, SIGNS
from medseg_cli.evaluation.page_text import BOUNDED, figure, probability, row, section, signed, span, table, title
from medseg_cli.evaluation.samus_scores import FRAME, SMOOTHING
from medseg_cli.evaluation.statistics import Comparison, Row, metrics_of
from medseg_cli.evaluation.summary import EMPTINESS, EMPTY_RULE, Evaluation

MEANS = (
    "Dice",
    "NSD",
    "HD95",
    "ASSD",
    "volume_error_relative",
    "area_error_relative",
    "circumference_error",
    "circumference_abs_error",
    "precision",
    "recall",
    "detection",
    "samus_Dice",
    "hd_rowwise",
    "frame_HD",
    "uncertainty",
)
"""Beginnings of the metrics that the table of means has."""


def means(evaluation: Evaluation, report: dict[str, Any]) -> str:
    """A row per label: means and intervals."""
    statistics = report["statistics"]
    names = [name for name in statistics["all"] if name.startswith(MEANS)]
    body = []
    for key in [*evaluation.labels, *(["all"] if len(evaluation.labels) > 1 else [])]:
        found = statistics[key]
        name = "all objects" if key == "all" else evaluation.label_name(key)
        body.append(row([name], [str(found["Dice"]["n"]), *(_mean(found.get(each)) for each in names)]))
    head = row(["label"], ["objects", *(escape(title(name)) for name in names)], "th")
    return section("Means", table(head, body), below=f"Below each mean its 95 % interval. {_empties(report)}")


def _empties(report: dict[str, Any]) -> str:
    """How many objects are empty, and what that does to the mean."""
    found = report["empty_masks"]
    counted = [f"{found[key]}: {key}" for key in EMPTINESS if found[key]]
    text = f"Objects with an empty mask: {', '.join(counted)}." if counted else ""
    if found["both are empty"]:
        without = figure(found["dice_mean_without_both_empty"])
        text += f" Where both are empty Dice is 1; without these the mean is {without}."
    return text


def _mean(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    interval = span(found["low"], found["high"])
    return figure(found["mean"]) + (f"<br><small>{interval}</small>" if interval else "")


def doubts(evaluation: Evaluation, report: dict[str, Any]) -> str:
    """Whether uncertainty tells errors, if several answers were compared; a row per label."""
    told = report["uncertainty"]
    if told is None:
        return ""
    body = []
    for key in [*evaluation.labels, *(["all"] if len(evaluation.labels) > 1 else [])]:
        found = told["labels"][key]
        name = "all objects" if key == "all" else evaluation.label_name(key)
        cells = [figure(found[each]["spearman"]) if each in found else "–" for each in SIGNS]
        cells += [figure(found[each]["mean"]) if each in found else "–" for each in AREAS]
        body.append(row([name], cells))
    words = [f"rank correlation with 1 − Dice: {text}" for text in SIGNS.values()]
    words += [f"wrong pixels, area under the curve: {text}" for text in AREAS.values()]
    return section(
        "Does uncertainty tell errors?",
        table(row(["label"], [escape(each) for each in words], "th"), body),
        below=f"{told['answers']} {escape(told['of'])} of every case were compared. Spearman's correlation over "
        "objects: 1 where doubt grows with error. Area: the chance that a wrong pixel has more doubt than a right one.",
    )


def compared(evaluation: Evaluation, found: Sequence[Comparison]) -> str:
    """The other method, if there is one."""
    if not found:
        return ""
    body = []
    for each in found:
        more = each.metric.startswith(BOUNDED)
        better, worse = (each.larger, each.smaller) if more else (each.smaller, each.larger)
        sure = each.low is not None and each.high is not None and each.low * each.high > 0
        css = ("better" if (each.difference > 0) == more else "worse") if sure else ""
        interval = "–" if each.low is None or each.high is None else f"{signed(each.low)} to {signed(each.high)}"
        name = "all objects" if each.label == "all" else evaluation.label_name(each.label)
        cells = (
            str(each.n),
            figure(each.mean),
            figure(each.other_mean),
            f"<span class='{css}'>{signed(each.difference)}</span>",
            interval,
            probability(each.p),
            str(better),
            str(worse),
        )
        body.append(row([name, title(each.metric)], cells))
    columns = ("objects", "this", "other", "difference", "95 % interval", "p", "better", "worse")
    return section(
        f"Against {evaluation.against_name}",
        table(row(["label", "metric"], columns, "th"), body),
        below="Difference: this minus the other, on objects that both have, coloured where its interval leaves out 0. "
        "p: Wilcoxon signed-rank test, two-sided, on the patients' means, not corrected for the number of rows. Errors "
        "are compared without their sign.",
    )


def failures(evaluation: Evaluation) -> str:
    """Cases without a score, if there are any."""
    if not evaluation.failed:
        return ""
    body = [
        f"<tr><td class='text'>{escape(each.id)}</td><td class='wrap'>{escape(each.failure)}</td>"
        f"<td class='wrap'>{escape(each.hint)}</td></tr>"
        for each in evaluation.failed
    ]
    head = row(["case", "reason", "what to do"], [], "th")
    return section("Failed cases", table(head, body), below="They count in no mean.")


def objects(evaluation: Evaluation, rows: Sequence[Row]) -> str:
    """Every object, sortable."""
    names = metrics_of(rows)
    body = [
        row(
            [each.case, evaluation.label_name(each.label), each.emptiness], [figure(each.numbers.get(n)) for n in names]
        )
        for each in rows
    ]
    head = row(["case", "label", "remark"], [escape(title(name)) for name in names], "th")
    inside = f"<div class='scroll'>{table(head, body, 'sortable')}</div>"
    return section("All objects", inside, below="A click on a column's head sorts by it.")


def method(evaluation: Evaluation) -> str:
    """How the numbers were made."""
    facts = {key: value for key, value in evaluation.facts.items() if value not in (None, "", [], ())}
    limits = ", ".join(f"{limit:g}" for limit in evaluation.measures.nsd_mm)
    hit = f"{evaluation.measures.hit:.0%}"
    lines = [
        *((escape(str(key).replace("_", " ")), f"<code>{escape(str(value))}</code>") for key, value in facts.items()),
        ("surface", "voxels that share a face with one outside; outlines in pictures; distances between voxel centres"),
        ("HD95", "larger of the 95th percentiles of both directions, as MONAI has it"),
        ("ASSD", "mean of both directions' surface distances together"),
        ("NSD", f"share of both surfaces within {limits} mm (px where the pixel size is unknown), limit included"),
        ("detection rate", f"share of the reference's connected parts of which the prediction covers {hit} or more"),
        ("empty masks", escape(EMPTY_RULE)),
        *(_samus_terms() if evaluation.measures.samus else ()),
        ("intervals", f"percentile bootstrap of the mean by patient, seed {evaluation.seed}"),
    ]
    terms = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in lines)
    return section("How this was measured", f"<dl>{terms}</dl>")


def _samus_terms() -> tuple[tuple[str, str], ...]:
    return (
        (
            "samus ...",
            f"SAMUS's formulas on masks brought to {FRAME} x {FRAME} pixels, {SMOOTHING:g} added above and below each "
            "fraction; published tables have 100 times the shares",
        ),
        (
            "hd rowwise",
            "what SAMUS's code calls HD: rows of the masks as points, differing pixels as distance; not a distance "
            "between outlines",
        ),
        ("frame HD, HD95", f"distances between outlines in pixels of the {FRAME} x {FRAME} frame"),
    )
