"""The table of cases: one row each, with the values that it is sorted and filtered by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

from medseg_cli.batch_page.case_data import ORDER, Case
from medseg_cli.batch_page.embed import data_url

MOST_LABELS = 4
"""Objects that have a column of their own; where the cases have more, there is one for the sum."""
FLAGS_TOLD = 3
"""Flags that a row names; the rest is in the case."""


@dataclass(frozen=True)
class _Column:
    """A column: its head, its width in the grid, and whether it holds numbers."""

    title: str
    width: str
    numeric: bool = False


@dataclass(frozen=True)
class _Cell:
    """A cell: what it is sorted by (None comes last), and its HTML."""

    value: str | float | None
    html: str


def table(cases: Sequence[Case]) -> Iterator[str]:
    """The table as pieces of HTML, a row each."""
    names = _names(cases)
    columns = _columns(names)
    least = sum(float(each.width.split("minmax(")[-1].split("rem")[0]) + 0.7 for each in columns)
    grid = " ".join(each.width for each in columns)
    yield (
        f'<div class="wide"><table class="cases" role="table" style="--columns: {grid}; --least: {least}rem">\n'
        '<thead role="rowgroup"><tr role="row">'
    )
    for each in columns:
        css = ' class="number"' if each.numeric else ""
        yield f'<th role="columnheader" scope="col"{css}><button type="button">{escape(each.title)}</button></th>'
    yield '</tr></thead>\n<tbody role="rowgroup">\n'
    for number, case in enumerate(cases):
        cells = zip(columns, _cells(number, case, names), strict=True)
        inside = "".join(_td(cell, column.numeric) for column, cell in cells)
        words = escape(_words(case), quote=True)
        yield f'<tr role="row" data-case="{number}" data-status="{case.status}" data-words="{words}">{inside}</tr>\n'
    yield '</tbody></table><p class="nothing" hidden>No case is like that.</p></div>\n'


def _names(cases: Sequence[Case]) -> list[str] | None:
    """Names of all objects in the order in which they come; None where they are too many for columns."""
    names: dict[str, None] = {}
    for case in cases:
        names.update((str(label["name"]), None) for label in case.record.get("labels", ()))
        if len(names) > MOST_LABELS:
            return None
    return list(names)


def _columns(names: list[str] | None) -> list[_Column]:
    sizes = ["objects found", "volume, mL"] if names is None else names
    return [
        _Column("status", "6.3rem"),
        _Column("picture", "5.5rem"),
        _Column("case", "minmax(10rem, 2fr)"),
        _Column("what to know", "minmax(12rem, 3fr)"),
        *(_Column(name, f"{_width(name):.1f}rem", True) for name in sizes),
        _Column("kind", "3.6rem"),
        _Column("grid", "8.2rem", True),
        _Column("time, s", "4rem", True),
        _Column("memory, MiB", "4.6rem", True),
        _Column("preset", "7rem"),
    ]


def _width(name: str) -> float:
    """Room in rem for a name's longest word, within reason."""
    return min(9.0, max(5.5, 1.0 + 0.56 * max(len(word) for word in name.split() or [""])))


def _cells(number: int, case: Case, names: list[str] | None) -> list[_Cell]:
    record, scan = case.record, case.record.get("input") or {}
    shape = scan.get("shape_ijk")
    size = " × ".join(str(each) for each in shape) if shape else None
    link = f'<a href="#case={quote(case.id, safe="", errors="backslashreplace")}">{escape(case.id)}</a>'
    return [
        _Cell(ORDER.index(case.status), f'<span class="status {case.status}">{case.status}</span>'),
        _Cell(number, _thumbnail(case)),
        _Cell(case.id, link),
        _reason(case),
        *_sizes(record.get("labels", ()), names),
        _text(scan.get("modality") or scan.get("format")),
        _Cell(shape[0] * shape[1] * shape[2] if shape else None, size or "–"),
        _number(record.get("seconds") or None, 1),
        _number(record.get("peak_rss_mib"), 0),
        _text(record.get("preset")),
    ]


def _thumbnail(case: Case) -> str:
    url = data_url(case.thumbnail) if case.thumbnail else ""
    inside = f'<img loading="lazy" decoding="async" alt="" src="{url}">' if url else "no picture"
    return f'<div class="thumb">{inside}</div>'


def _reason(case: Case) -> _Cell:
    """Why a case failed or was flagged, in the record's words."""
    error = case.record.get("error") or {}
    if error:
        hint = f'<div class="more">{escape(str(error["hint"]))}</div>' if error.get("hint") else ""
        return _Cell(str(error.get("message", "")), escape(str(error.get("message", ""))) + hint)
    told = [str(flag["message"]) for flag in case.record.get("flags", ())]
    lines = [f"<div>{escape(text)}</div>" for text in told[:FLAGS_TOLD]]
    if len(told) > FLAGS_TOLD:
        lines.append(f'<div class="more">and {len(told) - FLAGS_TOLD} more</div>')
    reason = str(case.record.get("reason") or "")
    return _Cell(reason or " ".join(told), "".join(lines) or escape(reason))


def _sizes(labels: Sequence[Mapping[str, Any]], names: list[str] | None) -> list[_Cell]:
    if names is not None:
        of = {str(label["name"]): label for label in labels}
        return [_size(of[name]) if name in of else _Cell(None, "–") for name in names]
    found = [label for label in labels if not label.get("empty")]
    volumes = [label["volume_ml"] for label in labels if label.get("volume_ml") is not None]
    count = _Cell(len(found), f"{len(found)} of {len(labels)}") if labels else _Cell(None, "–")
    return [count, _number(sum(volumes) if volumes else None)]


def _size(label: Mapping[str, Any]) -> _Cell:
    """Volume, or of a picture area, or where the pixel's size is unknown the number of pixels; of a cine their mean."""
    frames = label.get("frames") or {}
    counted = {**label, "voxels": (frames.get("pixels") or {"mean": 0})["mean"]} if frames else label
    seen = f'<div class="more">in {frames["shown"]} of {frames["count"]} frames</div>' if frames else ""
    for key, unit in (("volume_ml", "mL"), ("area_mm2", "mm²"), ("voxels", "px")):
        value = counted.get(key)
        if value is not None:
            return _Cell(float(value), f"{figure(float(value))}&nbsp;{unit}{_circumference(label)}{seen}")
    return _Cell(None, "–")


def _circumference(label: Mapping[str, Any]) -> str:
    """Of the ellipse of a label that has one, or why it has none, as a second line."""
    found = label.get("ellipse") or {}
    why = (label.get("reasons") or {}).get("ellipse")
    if why and not label.get("empty"):
        return f'<div class="more">no ellipse: {escape(why)}</div>'
    for unit in ("mm", "px"):
        value = found.get(f"circumference_{unit}")
        if value is not None:
            return f'<div class="more">{figure(float(value))}&nbsp;{unit}&nbsp;round</div>'
    return ""


def _number(value: float | None, digits: int | None = None) -> _Cell:
    if value is None:
        return _Cell(None, "–")
    return _Cell(float(value), figure(float(value)) if digits is None else f"{value:.{digits}f}")


def _text(value: Any) -> _Cell:
    return _Cell(str(value), escape(str(value))) if value else _Cell(None, "–")


def figure(value: float) -> str:
    """Three digits, or all of a whole number: 0.0123, 4.56, 26240."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _td(cell: _Cell, numeric: bool) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value), quote=True)}"'
    css = ' class="number"' if numeric else ""
    return f'<td role="cell"{css}{value}>{cell.html}</td>'


def _words(case: Case) -> str:
    """What the search field looks through, in lower case."""
    record = case.record
    parts = [case.id, case.status, str(record.get("reason") or ""), str(record.get("preset") or "")]
    parts += [str(label["name"]) for label in record.get("labels", ())]
    parts += [f"{flag.get('code', '')} {flag['message']}" for flag in record.get("flags", ())]
    parts += [str((record.get("error") or {}).get("message", "")), str((record.get("input") or {}).get("modality"))]
    return " ".join(parts).lower()
