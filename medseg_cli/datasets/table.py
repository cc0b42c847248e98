"""A CSV with columns `image` and `label`, and more where there is more to say; and tables beside folders of images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg_cli.datasets import captions
from medseg_cli.datasets.case import Case, Dataset, Finding
from medseg_cli.datasets.facts import COLUMNS, Facts, facts_of, value_of
from medseg_cli.datasets.files import anywhere, stem
from medseg_cli.datasets.labels import BESIDE, labels_beside, notes_on
from medseg_cli.errors import InputError

SUFFIXES = (".csv", ".tsv")
NEEDED = "the first line must name the columns image and label; docs/datasets.md lists the others"
CHANNELS = "channel"
"""Column of the volume of a 4-D image."""
MEASURED = ("spacing", "circumference")
"""Facts of a file that cannot be one thing on one line and another on the next."""


def is_list(path: Path) -> bool:
    """Whether a table's columns name images and labels."""
    try:
        columns = set(_columns(path))
    except (OSError, InputError):
        return False
    return all(columns & set(COLUMNS[fact]) for fact in ("image", "label"))


def is_caption_list(path: Path) -> bool:
    """Whether a table's columns name images and captions, and no labels."""
    try:
        columns = set(_columns(path))
    except (OSError, InputError):
        return False
    named = [bool(columns & set(COLUMNS[fact])) for fact in ("image", "caption", "label")]
    return named == [True, True, False]


def names_files(path: Path) -> bool:
    """Whether any of its labels is a file: a table of diagnoses may have columns image and label, too."""
    labels = (value_of(row, "label") for _, row in _rows(path))
    return any(label is not None and anywhere(path.parent, str(label).strip()).exists() for label in labels)


def read(path: Path) -> Dataset:
    """The cases of a CSV; its paths start at its folder or are absolute.

    Raises:
        InputError: no UTF-8, no such columns, or a value that cannot be one.
    """
    rows = _rows(path)
    if is_caption_list(path):
        return captions.of_rows(rows, path)
    if not is_list(path):
        raise InputError(f"{path} has the columns {', '.join(_columns(path)) or 'none'}", NEEDED)
    cases: list[Case] = []
    findings: list[Finding] = []
    for number, row in rows:
        where = f"{path}, line {number}"
        image, label, id_ = (value_of(row, fact) for fact in ("image", "label", "id"))
        if image is None or label is None:
            what = "image" if image is None else "label"
            findings.append(Finding("missing", f"{where} names no {what}", f"fill in the column {what}", path))
            continue
        scan = anywhere(path.parent, str(image).strip())
        name = str(id_).strip() if id_ is not None else stem(scan)
        volume = row.get(CHANNELS, "")
        if volume and not volume.isdigit():
            raise InputError(f"{where}: channel {volume!r} is no number from 0 upwards", "number channels from 0")
        mask = anywhere(path.parent, str(label).strip())
        cases.append(Case(name, scan, mask, channel=int(volume) if volume else None, **facts_of(row, where)))
    label_map = labels_beside(path.parent)
    cases = [replace(case, ignore=label_map.ignore) for case in cases]
    return Dataset(tuple(cases), "CSV", label_map, tuple(notes_on(label_map, path.parent / BESIDE)), tuple(findings))


def beside(
    folder: Path, only: Sequence[str] = tuple(Facts.__annotations__)
) -> tuple[dict[str, Facts], tuple[str, ...]]:
    """What the tables in a folder say about its files, by file name and by name without suffix; and a note on each.

    A table counts if one column names files (or ids) and another one is a fact, as the pixel sizes of HC18.

    Args:
        folder: whose tables are read.
        only: facts that are looked for.

    Raises:
        InputError: a value that cannot be one.
    """
    found: dict[str, Facts] = {}
    notes = []
    for path in sorted(each for each in folder.iterdir() if each.suffix.lower() in SUFFIXES and each.is_file()):
        facts, note = facts_in(path, only)
        found |= facts
        notes += [note] if note else []
    return found, tuple(notes)


def facts_in(path: Path, only: Sequence[str] = tuple(Facts.__annotations__)) -> tuple[dict[str, Facts], str]:
    """What one table says about files, as `beside` has it, and a note; ({}, "") where it says nothing of them.

    Raises:
        InputError: no UTF-8, or a value that cannot be one.
    """
    columns = set(_columns(path))
    known = [fact for fact in only if columns & set(COLUMNS[fact])]
    named = next((fact for fact in ("id", "image") if columns & set(COLUMNS[fact])), None)
    if named is None or not known:
        return {}, ""
    facts: dict[str, Facts] = {}
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        name = str(value_of(row, named) or "").strip()
        if not name:
            continue
        said = facts_of(row, f"{path}, line {number}")
        before = facts.get(name, said)
        twice = next((fact for fact in MEASURED if fact in before and before.get(fact) != said.get(fact)), None)
        if twice is not None:
            raise InputError(
                f"{path}, line {number}: {twice} of {name} is not what line {lines[name]} says", "keep the right one"
            )
        facts[name] = said
        lines[name] = number
    return facts, f"{', '.join(known)} of each image: {path.name}"


def _columns(path: Path) -> list[str]:
    """The words of the first line, in lower case."""
    with _open(path) as file:
        return [word.strip().lower() for word in next(csv.reader(file, delimiter=_delimiter(path)), [])]


def _rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line, column in lower case → text) of every row that is not empty."""
    columns = _columns(path)
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has two columns {twice}", "give every column a name of its own")
    rows = []
    with _open(path) as file:
        reader = csv.reader(file, delimiter=_delimiter(path))
        try:
            next(reader, None)
            for row in reader:
                if any(cell.strip() for cell in row):
                    rows.append((reader.line_num, dict(zip(columns, row, strict=False))))
        except (UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}, line {reader.line_num + 1}: {error}", "save it as CSV in UTF-8") from error
    return rows


def _delimiter(path: Path) -> str:
    """Comma, semicolon (as spreadsheets write it in half of Europe) or tab: whichever the first line has most of."""
    with _open(path) as file:
        try:
            first = file.readline()
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text in UTF-8: {error}", "save it as CSV in UTF-8") from error
    return max(",;\t", key=first.count)


def _open(path: Path) -> Any:
    # utf-8-sig: spreadsheets begin their UTF-8 with a byte order mark.
    return path.open(encoding="utf-8-sig", newline="")
