"""Words, numbers and tables of the report as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from medseg_cli.evaluation.results import Number

UNITS = {"mm": "mm", "ml": "mL", "mm2": "mm²", "px": "px"}
"""Endings of metrics, and how they are written."""
BOUNDED = ("Dice", "IoU", "NSD", "precision", "recall", "detection_rate")
"""Metrics between 0 and 1, the larger the better."""


def title(metric: str) -> str:
    """A metric for people: "HD95_mm" is "HD95, mm", "NSD_2mm" is "NSD at 2 mm"."""
    if metric.startswith("NSD_"):
        return f"NSD at {metric[4:-2]} {metric[-2:]}"
    name, _, unit = metric.rpartition("_")
    return f"{name.replace('_', ' ')}, {UNITS[unit]}" if unit in UNITS else metric.replace("_", " ")


def figure(value: Number) -> str:
    """A number with as many digits as one reads; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}" if abs(value) < 1000 else f"{value:.0f}"
    return text.replace("-", "−")


def signed(value: float) -> str:
    """A difference."""
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{figure(abs(value))}"


def probability(value: float | None) -> str:
    """A p value."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def span(low: float | None, high: float | None) -> str:
    """An interval, "" where there is none."""
    return "" if low is None or high is None else f"{figure(low)} to {figure(high)}"


def count(number: int, noun: str) -> str:
    """ "1 case", "2 cases"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def row(words: Sequence[str], cells: Iterable[str], kind: str = "td") -> str:
    """A row of a table: words on the left, escaped; cells on the right, as they are."""
    left = "".join(f"<{kind} class='text'>{escape(word)}</{kind}>" for word in words)
    return f"<tr>{left}{''.join(f'<{kind}>{cell}</{kind}>' for cell in cells)}</tr>"


def table(head: str, body: Iterable[str], css: str = "") -> str:
    """A table from rows."""
    return f"<table class='{css}'><thead>{head}</thead><tbody>{''.join(body)}</tbody></table>"


def section(heading: str, *panels: str, below: str = "") -> str:
    """A heading with panels, side by side where there are several and room for it, and a remark below."""
    inside = "".join(f"<div class='panel'>{panel}</div>" for panel in panels)
    if len(panels) > 1:
        inside = f"<div class='plots'>{inside}</div>"
    return f"<h2>{escape(heading)}</h2>{inside}" + (f"<p class='soft'>{below}</p>" if below else "")
