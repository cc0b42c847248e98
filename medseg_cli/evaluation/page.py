"""The report as one HTML file that needs nothing else: no script, style, font or picture is fetched."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from typing import Any

from medseg_cli.evaluation import page_tables, plots
from medseg_cli.evaluation.page_style import CSS, SCRIPT
from medseg_cli.evaluation.page_text import BOUNDED, UNITS, count, figure, section, span, title
from medseg_cli.evaluation.statistics import Row, metrics_of
from medseg_cli.evaluation.summary import Evaluation, comparisons
from medseg_cli.evaluation.worst import Picture
from medseg_cli.writers.comparison import BOTH, PREDICTION, REFERENCE

CARDS = (
    "Dice",
    "NSD",
    "HD95",
    "volume_error_relative",
    "area_error_relative",
    "circumference_abs_error",
    "detection_rate",
)
PLOTTED = ("Dice", "NSD", "HD95", "ASSD", "volume_error_relative", "area_error_relative", "circumference_abs_error")
"""Beginnings of the metrics that have a card, and a plot."""
SIZES = (
    *(("volume", "ml", "reference"), ("area", "mm2", "reference"), ("area", "px", "reference")),
    *(("circumference", "mm", "reference"), ("circumference", "mm", "stated"), ("circumference", "px", "reference")),
)
"""What Bland-Altman plots compare: size, unit, and which other one."""
AGREEMENTS = 12
"""Labels whose sizes are plotted."""


def page(evaluation: Evaluation, report: dict[str, Any], pictures: Sequence[Picture]) -> str:
    """The whole report.

    Args:
        evaluation: what was found.
        report: the same as `summary.summary` tells it.
        pictures: of the worst cases.
    """
    rows = evaluation.rows
    parts = [_head(evaluation)]
    if rows:
        parts += [
            _cards(report["statistics"]["all"]),
            page_tables.means(evaluation, report),
            page_tables.doubts(evaluation, report),
            page_tables.compared(evaluation, comparisons(evaluation)),
            _distributions(evaluation, rows),
            _agreement(evaluation, rows),
            _gallery(evaluation, pictures),
        ]
    parts.append(page_tables.failures(evaluation))
    if rows:
        parts.append(page_tables.objects(evaluation, rows))
    parts.append(page_tables.method(evaluation))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(evaluation.title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in parts if part)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def _head(evaluation: Evaluation) -> str:
    scored, failed = len(evaluation.scored), len(evaluation.failed)
    patients = len({result.patient for result in evaluation.scored})
    counted = f"{count(scored, 'case')} of {count(patients, 'patient')} scored"
    if failed:
        counted += f", {count(failed, 'case')} failed"
    warnings = list(evaluation.notes)
    if evaluation.interrupted:
        rest = evaluation.total - len(evaluation.results)
        warnings.insert(0, f"Interrupted: {rest} of {count(evaluation.total, 'case')} are missing here.")
    boxes = "".join(f"<div class='warn'>{escape(text)}</div>" for text in warnings)
    return f"<h1>{escape(evaluation.title)}</h1><p class='soft'>{counted}</p>{boxes}"


def _cards(overall: dict[str, Any]) -> str:
    """The means that one looks at first."""
    cards = []
    for start in CARDS:
        name = next((each for each in overall if each.startswith(start)), None)
        if name is None:
            continue
        found = overall[name]
        interval, missing = span(found["low"], found["high"]), found["undefined"]
        below = [f"95 % CI {interval}" if interval else "", f"median {figure(found['median'])}"]
        below.append(f"undefined for {missing} of {found['n'] + missing}" if missing else "")
        cards.append(
            f"<div class='card'><span class='soft'>mean {escape(title(name))}</span><b>{figure(found['mean'])}</b>"
            f"<span class='soft'>{'<br>'.join(text for text in below if text)}</span></div>"
        )
    return f"<div class='cards'>{''.join(cards)}</div>"


def _distributions(evaluation: Evaluation, rows: Sequence[Row]) -> str:
    """A box plot per metric, a box per label, and one more for the other method."""
    panels = []
    for metric in [name for name in metrics_of(rows) if name.startswith(PLOTTED)]:
        strips = []
        for key in evaluation.labels:
            strips += _strips(evaluation.label_name(key), rows, key, metric, "mine")
            strips += _strips(evaluation.against_name, evaluation.against, key, metric, "other")
        if strips:
            bounds: tuple[float | None, float | None] = (0.0 if metric.startswith(("HD", "ASSD")) else None, None)
            if metric.startswith(BOUNDED):
                bounds = (None, 1.0)
            panels.append(plots.boxes(strips, title(metric), bounds))
    below = "Box: quartiles and median; whiskers: 5th to 95th percentile; a dot per object."
    return section("Distributions", *panels, below=below) if panels else ""


def _strips(name: str, rows: Sequence[Row], key: str, metric: str, kind: str) -> list[plots.Strip]:
    have = [(row.case, row.numbers.get(metric)) for row in rows if row.label == key]
    known = [(case, float(value)) for case, value in have if value is not None]
    return [plots.Strip(name, [value for _, value in known], [case for case, _ in known], kind)] if known else []


def _agreement(evaluation: Evaluation, rows: Sequence[Row]) -> str:
    """Bland-Altman plots of the sizes, one per label and unit."""
    panels = []
    for key in evaluation.labels[:AGREEMENTS]:
        for size, unit, other in SIZES:
            names = (f"{other}_{size}_{unit}", f"{size}_{unit}")
            have = [row for row in rows if row.label == key and row.emptiness != "both are empty"]
            have = [row for row in have if all(row.numbers.get(name) is not None for name in names)]
            if len(have) > 1:
                reference, found = ([float(row.numbers[name] or 0) for row in have] for name in names)
                heading = f"<b>{escape(evaluation.label_name(key))}: {size}</b>"
                cases = [row.case for row in have]
                panels.append(heading + plots.bland_altman(reference, found, cases, UNITS[unit], other))
    below = "Bland-Altman: difference of the sizes over their mean; dashed: limits of agreement, ± 1.96 SD."
    if len(evaluation.labels) > AGREEMENTS:
        below += f" Of {len(evaluation.labels)} labels the first {AGREEMENTS}."
    return section("Agreement of sizes", *panels, below=below) if panels else ""


def _gallery(evaluation: Evaluation, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return ""
    keys = "".join(
        f"<span class='key' style='background: rgb{color}'></span>{name}"
        for name, color in (("reference", REFERENCE), ("prediction", PREDICTION), ("both", BOTH))
    )
    figures = "".join(_picture(evaluation, each) for each in pictures)
    return (
        f"<h2>Worst cases</h2><p class='soft'>The slice in which prediction and reference differ most. Lines:{keys}</p>"
        f"<div class='gallery'>{figures}</div>"
    )


def _picture(evaluation: Evaluation, picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    score, case = picture.found.score, escape(picture.case, quote=True)
    far = score.emptiness or f"HD95 {figure(score.hd95_mm)} {picture.unit}"
    name = escape(evaluation.label_name(picture.found.key))
    return (
        f"<figure><div class='view'><img alt='{case}' src='data:image/png;base64,{data}'></div>"
        f"<figcaption><b>{case}</b><br>{name}: Dice {score.dice:.3f}, {escape(far)}<br>"
        f"<span class='soft'>{escape(picture.shows)}</span></figcaption></figure>"
    )
