"""A manifest: a table with one row per case, as CSV, TSV, JSON, JSON lines or YAML."""

from __future__ import annotations

import csv
import difflib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg_cli.asked import Asked
from medseg_cli.batch.case import BatchCase, Cases
from medseg_cli.batch.manifest_row import COLUMNS, case_of, shortened
from medseg_cli.errors import InputError
from medseg_cli.readers import detect
from medseg_cli.readers.options import ReadOptions

EXAMPLE = "the first line names the columns, for example path,preset,point,coords"
ENTRIES = 'a list of objects, such as [{"path": "scan.nii.gz", "preset": "hippocampus-mr"}]'
LINES = (".jsonl", ".ndjson")


@dataclass(frozen=True)
class Row:
    """One row: column → value, and where it stands, for messages."""

    values: dict[str, Any]
    where: str


def cases_of(source: Path, reading: ReadOptions, asked: Asked) -> Cases:
    """The rows of a manifest; a row that cannot be run is a case with a problem.

    Args:
        source: the manifest; its paths start at its folder.
        reading: how scans are read where a row says nothing else.
        asked: prompts of the rows that have none.

    Raises:
        InputError: it is unreadable, has unknown columns, a row without a path, or two rows of one name.
    """
    rows = list(_rows(source))
    cases = [case_of(row.values, row.where, source.parent, reading, asked) for row in rows]
    _refuse_twins(cases, rows)
    return Cases(tuple(cases), (), source.parent, "manifest")


def _refuse_twins(cases: list[BatchCase], rows: list[Row]) -> None:
    named: dict[str, list[str]] = defaultdict(list)
    for case, row in zip(cases, rows, strict=True):
        named[case.id.casefold()].append(row.where)
    for case in cases:
        places = named[case.id.casefold()]
        if len(places) > 1:
            raise InputError(
                f"{' and '.join(places[:3])} are both called {case.id}",
                "give each a name of its own in the column name",
            )


def _rows(source: Path) -> Iterator[Row]:
    text = _text(source)
    suffix = detect.suffix_of(source)
    if suffix in (".csv", ".tsv"):
        yield from _table(source, text)
        return
    for number, entry in enumerate(_entries(source, text), start=1):
        where = f"{source}, entry {number}"
        if isinstance(entry, str):
            entry = {"path": entry}
        if not isinstance(entry, dict):
            raise InputError(f"{where} is {shortened(entry)}, not an object", f"a manifest is {ENTRIES}")
        names = _columns([str(key) for key in entry], where)
        yield Row(dict(zip(names, entry.values(), strict=True)), where)


def _text(source: Path) -> str:
    try:
        return source.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot read the manifest {source}: {error.strerror}", "check its permissions") from error
    except UnicodeDecodeError as error:
        raise InputError(f"the manifest {source} is not UTF-8: {error}", "save it as 'CSV UTF-8'") from error


def _table(source: Path, text: str) -> Iterator[Row]:
    """Rows of a table whose columns are separated by comma, semicolon or tab."""
    first = next((line for line in text.splitlines() if line.strip(" ,;\t")), "")
    if not first:
        raise InputError(f"the manifest {source} is empty", EXAMPLE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    columns: list[str] = []
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            where = f"{source}, line {reader.line_num}"
            if not any(row):
                continue
            if not columns:
                columns = _columns(row, where)
                continue
            if any(row[len(columns) :]):
                raise InputError(
                    f"{where}: {len(row)} values for {len(columns)} columns",
                    'put quotes round values with commas, such as "60,75,40"',
                )
            yield Row(dict(zip(columns, row, strict=False)), where)
    except csv.Error as error:
        raise InputError(f"{source}, line {reader.line_num}: {error}", "check the quotes on that line") from error


def _columns(names: list[str], where: str) -> list[str]:
    """The known columns that names mean, written with capitals, hyphens or blanks.

    Raises:
        InputError: unknown or repeated names, or none that is the path.
    """
    found = [name.strip().lower().replace("-", "_").replace(" ", "_") for name in names]
    while found and not found[-1]:
        found.pop()  # spreadsheets end lines with empty columns
    unknown = [name for name in found if name not in COLUMNS]
    if unknown:
        close = difflib.get_close_matches(unknown[0], COLUMNS, n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        raise InputError(
            f"{where}: a manifest has no column {unknown[0]!r}{meant}", f"its columns are {', '.join(COLUMNS)}"
        )
    twice = next((name for name in found if found.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{where}: two columns are called {twice}", "give every column a name of its own")
    if "path" not in found:
        raise InputError(f"{where}: a manifest needs the column path", f"its columns are {', '.join(COLUMNS)}")
    return found


def _entries(source: Path, text: str) -> list[Any]:
    """What a JSON, JSON lines or YAML manifest lists."""
    import yaml

    from medseg_cli.preset_yaml import StrictLoader

    suffix = detect.suffix_of(source)
    try:
        if suffix in LINES:
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        data = json.loads(text) if suffix == ".json" else yaml.load(text, Loader=StrictLoader)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(
            f"{source} is no manifest: {' '.join(str(error).split())}", f"a manifest is {ENTRIES}"
        ) from error
    listed = data.get("cases") if isinstance(data, dict) else data
    if not isinstance(listed, list):
        raise InputError(
            f"{source} is neither a manifest nor the list of a dataset",
            f"a manifest is {ENTRIES}; lists of datasets have training, or file_ending with imagesTr/",
        )
    if not listed:
        raise InputError(f"the manifest {source} lists no case", f"a manifest is {ENTRIES}")
    return listed
