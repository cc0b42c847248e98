"""Prompts as text: points and boxes of the command line, and a CSV table with many objects.

Columns of a table (a header line is required, the order is free): x, y; z unless all places lie in a plane; and if
wanted x1, y1, z1 (a row that fills them is a box), id, label, sign, coords. Rows with the same id mean the same object.
"""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from medseg_cli.errors import InputError, UsageError
from medseg_cli.prompt import Box, Click, Frame, Prompt, Target

REQUIRED = ("x", "y")
PLACE = ("x", "y", "z")
CORNER = ("x1", "y1", "z1")
COLUMNS = ("id", "label", *PLACE, *CORNER, "sign", "coords")
SIGNS = {"": True, "+": True, "1": True, "+1": True, "-": False, "0": False, "-1": False, "\N{MINUS SIGN}": False}
EXAMPLE = "id,label,x,y,z,sign,coords"
PRINTABLE = "labels stand in files, tables and on terminals: use letters, digits and spaces"


def parse_point(text: str, frame: Frame) -> Click:
    """The click that `--point` means: "x,y,z", or "x,y" in a plane, with ":+" (the default) or ":-" behind it.

    Raises:
        UsageError: anything else.
    """
    numbers, colon, sign = text.strip().partition(":")
    position = _numbers(numbers)
    if len(position) not in (2, 3) or (colon and sign.strip() not in ("+", "-")):
        raise UsageError(
            f"--point '{text}' is not x,y,z or x,y, with :+ or :- behind it if wanted",
            "numbers with commas and no blanks, such as --point 60,75,40 or --point -26,-22,-14:- --coords ras, or "
            "--point 60,75 for a 2-D image",
        )
    return Click(position, frame, sign.strip() != "-")


def parse_box(text: str, frame: Frame) -> Box:
    """The box that `--box` means: "x0,y0,z0,x1,y1,z1", or "x0,y0,x1,y1" in a plane.

    Whether its corners span a box is for `locate_box` to say.

    Raises:
        UsageError: anything else.
    """
    corners = _numbers(text)
    half = len(corners) // 2
    if len(corners) not in (4, 6):
        raise UsageError(
            f"--box '{text}' is not x0,y0,x1,y1 or x0,y0,z0,x1,y1,z1",
            "first the corner with the smaller numbers, then the other: --box 40,60,90,120 for a 2-D image",
        )
    return Box(corners[:half], corners[half:], frame)


def _numbers(text: str) -> tuple[float, ...]:
    """Finite numbers between commas; () for anything else."""
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        return ()
    return numbers if all(map(math.isfinite, numbers)) else ()


@dataclass
class _Object:
    """What the rows of one id have said so far: prompts in order, and the lines they stand on."""

    label: str
    line: int
    clicks: dict[tuple[tuple[float, ...], Frame], tuple[Click, int]] = field(default_factory=dict)
    boxes: dict[Box, int] = field(default_factory=dict)


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
            Target(name, each.label, tuple(click for click, _ in each.clicks.values()), tuple(each.boxes))
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
    if any(name in names for name in CORNER):
        # A box needs its second corner along every axis of the first.
        missing += [other for name, other in zip(PLACE, CORNER, strict=True) if name in names and other not in names]
        missing += ["z"] if "z1" in names and "z" not in names else []
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
    axes = [axis for axis in PLACE if axis in record]
    place_typed = tuple(_number(record[axis], axis, separator, place) for axis in axes)
    ends = [f"{axis}1" for axis in axes if record.get(f"{axis}1")]
    sign = record.get("sign", "")
    if sign not in SIGNS:
        raise InputError(f"{place}: sign '{sign}' is neither + nor -", "use + or -, or 1, 0 or -1")
    if ends and not SIGNS[sign]:
        raise InputError(f"{place}: a box has no minus sign", "a click may lie outside the object, a box is round it")
    lacking = [f"{axis}1" for axis in axes if not record.get(f"{axis}1")]
    if ends and lacking:
        raise InputError(
            f"{place}: this box has {', '.join(ends)} and lacks {', '.join(lacking)}",
            f"fill {', '.join(f'{axis}1' for axis in axes)} for a box, or none of them for a click",
        )
    coords = record.get("coords", "").lower() or frame
    known = next((each for each in get_args(Frame) if each == coords), None)
    if known is None:
        raise InputError(f"{place}: coords '{coords}' is unknown", "use ijk, ras or lps")
    name = record.get("id", "1")
    if not name:
        raise InputError(f"{place}: the id is empty", "give every object an id, or leave the column out for one object")
    label = record.get("label", "")
    if not label.isprintable():
        raise InputError(f"{place}: the label {label!r} holds characters that cannot be printed", PRINTABLE)
    target = objects.setdefault(name, _Object(label, line))
    if label and target.label and label != target.label:
        raise InputError(
            f"{place}: object '{name}' is labelled '{label}', but '{target.label}' on line {target.line}",
            "one id is one object; give another object another id",
        )
    target.label = target.label or label
    if ends:
        corner = tuple(_number(record[f"{axis}1"], f"{axis}1", separator, place) for axis in axes)
        _add_box(target, Box(place_typed, corner, known), place, line)
    else:
        _add_click(target, Click(place_typed, known, SIGNS[sign]), place, line)


def _add_click(target: _Object, click: Click, place: str, line: int) -> None:
    before, where = target.clicks.setdefault((click.position, click.frame), (click, line))
    if where != line:
        fault = "repeats" if before.positive == click.positive else "contradicts"
        raise InputError(f"{place}: this click {fault} line {where}", "remove one of the two rows")


def _add_box(target: _Object, box: Box, place: str, line: int) -> None:
    where = target.boxes.setdefault(box, line)
    if where != line:
        raise InputError(f"{place}: this box repeats line {where}", "remove one of the two rows")


def _number(text: str, axis: str, separator: str, place: str) -> float:
    try:
        value = float(text if separator == "," else text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{place}: {axis} is '{text}', not a number", "use a point as decimal sign")
    return value
