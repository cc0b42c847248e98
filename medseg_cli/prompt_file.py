"""Prompts as text: `x,y,z[:+|-]` from the command line, and a CSV table with many objects.

Columns (a header line is required, the order is free): x, y, z; and if wanted id, label, sign, coords.
Rows with the same id are clicks on the same object.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Click, Frame, Prompt, Target

REQUIRED = ("x", "y", "z")
COLUMNS = ("id", "label", *REQUIRED, "sign", "coords")
SIGNS = {"": True, "+": True, "1": True, "+1": True, "-": False, "0": False, "-1": False, "\N{MINUS SIGN}": False}
EXAMPLE = "id,label,x,y,z,sign,coords"


def parse_point(text: str, frame: Frame) -> Click:
    """The click that `--point` means: "x,y,z", with ":+" (the default) or ":-" behind it.

    Raises:
        UsageError: anything else.
    """
    numbers, colon, sign = text.strip().partition(":")
    parts = numbers.split(",")
    try:
        position = tuple(float(part) for part in parts)
    except ValueError:
        position = ()
    if len(position) != 3 or not all(map(math.isfinite, position)) or (colon and sign.strip() not in ("+", "-")):
        raise UsageError(
            f"--point '{text}' is not x,y,z or x,y,z:+ or x,y,z:-",
            "three numbers with commas and no blanks, such as --point 60,75,40 or --point -26,-22,-14:- --coords ras; "
            "for a 2-D image z is 0",
        )
    return Click((position[0], position[1], position[2]), frame, sign.strip() != "-")


@dataclass
class _Object:
    label: str
    line: int
    clicks: dict[tuple[tuple[float, float, float], Frame], tuple[bool, int]] = field(default_factory=dict)


def read_prompts(path: Path, frame: Frame = "ijk") -> Prompt:
    """All objects of a CSV table, in order of first appearance.

    Comma, semicolon or tab between the columns; a decimal comma where the separator is not a comma; UTF-8 with or
    without byte order mark; any line ends; blank lines are skipped.

    Args:
        path: the table.
        frame: frame of rows whose `coords` is empty or absent.

    Raises:
        InputError: names the file and the line.
    """
    text = _text(path)
    lines = text.splitlines()
    first = next((index for index, line in enumerate(lines) if line.strip(" ,;\t")), None)
    if first is None:
        raise InputError(f"{path}: the prompt table is empty", f"its first line names the columns: {EXAMPLE}")
    separator = max(",;\t", key=lines[first].count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    columns: list[str] = []
    objects: dict[str, _Object] = {}
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            place = f"{path}:{rows.line_num}"
            if not any(cells):
                continue
            if not columns:
                columns = _header(cells, place)
            else:
                _add_row(objects, _record(cells, columns, place), frame, separator, path, rows.line_num)
    except csv.Error as error:
        raise InputError(f"{path}:{rows.line_num}: {error}", "check the quotes on that line") from error
    if not objects:
        raise InputError(f"{path}: no prompt under the header", "add at least one row")
    return Prompt(
        tuple(
            Target(
                name,
                each.label,
                tuple(Click(position, coords, positive) for (position, coords), (positive, _) in each.clicks.items()),
            )
            for name, each in objects.items()
        )
    )


def _text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the prompt table {path}: {error.strerror or error}", "check --prompts"
        ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{line}: the prompt table is not UTF-8", "save it as 'CSV UTF-8'") from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path}:{line}: this is not a text table", "write a CSV file with the columns " + EXAMPLE)
    return text


def _header(cells: list[str], place: str) -> list[str]:
    names = [cell.lower() for cell in cells]
    missing = [name for name in REQUIRED if name not in names]
    unknown = [name for name in names if name not in COLUMNS]
    twice = sorted({name for name in names if names.count(name) > 1})
    if missing or unknown or twice:
        faults = [
            f"lacks {', '.join(missing)}" if missing else "",
            f"does not know {', '.join(repr(name) for name in unknown)}" if unknown else "",
            f"has {', '.join(repr(name) for name in twice)} twice" if twice and not unknown else "",
        ]
        raise InputError(
            f"{place}: the header {'; '.join(fault for fault in faults if fault)}",
            f"the first line names the columns, in any order: {EXAMPLE}",
        )
    return names


def _record(cells: list[str], columns: list[str], place: str) -> dict[str, str]:
    if len(cells) != len(columns):
        raise InputError(f"{place}: {len(cells)} values for {len(columns)} columns", f"columns: {', '.join(columns)}")
    return dict(zip(columns, cells, strict=True))


def _add_row(
    objects: dict[str, _Object], record: dict[str, str], frame: Frame, separator: str, path: Path, line: int
) -> None:
    place = f"{path}:{line}"
    x, y, z = (_number(record[axis], axis, separator, place) for axis in REQUIRED)
    sign = record.get("sign", "")
    if sign not in SIGNS:
        raise InputError(f"{place}: sign '{sign}' is neither + nor -", "use + or -, or 1, 0 or -1")
    coords = record.get("coords", "").lower() or frame
    if coords not in get_args(Frame):
        raise InputError(f"{place}: coords '{coords}' is unknown", "use ijk, ras or lps")
    name = record.get("id", "1")
    if not name:
        raise InputError(f"{place}: the id is empty", "give every object an id, or leave the column out for one object")
    label = record.get("label", "")
    target = objects.setdefault(name, _Object(label, line))
    if label and target.label and label != target.label:
        raise InputError(
            f"{place}: object '{name}' is labelled '{label}', but '{target.label}' on line {target.line}",
            "one id is one object; give another object another id",
        )
    target.label = target.label or label
    key = ((x, y, z), next(known for known in get_args(Frame) if known == coords))
    if key in target.clicks:
        before = target.clicks[key]
        fault = "repeats" if before[0] == SIGNS[sign] else "contradicts"
        raise InputError(f"{place}: this click {fault} line {before[1]}", "remove one of the two rows")
    target.clicks[key] = (SIGNS[sign], line)


def _number(text: str, axis: str, separator: str, place: str) -> float:
    try:
        value = float(text if separator == "," else text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: {axis} is '{text}', not a number", "use a point as decimal sign")
    return value
