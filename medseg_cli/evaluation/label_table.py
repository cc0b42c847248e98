"""Names of label values, from the files in which people keep them."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from medseg_cli.datasets.case import LabelMap
from medseg_cli.datasets.labels import notes_on, read_labels
from medseg_cli.errors import InputError

ITK_SNAP = re.compile(r'^\s*(\d+)\s+\d+\s+\d+\s+\d+\s+[\d.]+\s+\d+\s+\d+\s+"(.*)"\s*$')
"""ITK-SNAP: IDX R G B A VIS MSH "LABEL"."""
SLICER = re.compile(r"^\s*(\d+)\s+(\S.*?)\s+\d+\s+\d+\s+\d+\s+\d+\s*$")
"""3D Slicer's .ctbl: index, name, r, g, b, a."""
KNOWN = (
    "known are dataset.json of nnU-Net or the Decathlon, JSON {name: value}, a table (CSV, TSV) whose first columns "
    "are value and name, ITK-SNAP's label file and Slicer's .ctbl"
)


@dataclass(frozen=True)
class LabelTable:
    """What label values mean.

    Args:
        names: value above 0 → name; empty where nothing is known.
        ignore: the value of voxels that are to be left out of every score; None = there is none.
        source: file name, for notes.
        notes: what could not be used, one sentence each.
    """

    names: dict[int, str] = field(default_factory=dict)
    ignore: int | None = None
    source: str = ""
    notes: tuple[str, ...] = ()

    def name(self, value: int) -> str:
        """The name of a value, "" where it has none."""
        return self.names.get(value, "")


def find_table(reference: Path) -> LabelTable:
    """The `dataset.json` in the folder of the references or the one above it, if there is one that names labels."""
    folder = reference if reference.is_dir() else reference.parent
    for place in (folder, folder.parent):
        path = place / "dataset.json"
        if path.is_file():
            return read_table(path)
    return LabelTable()


def read_table(path: Path) -> LabelTable:
    """Names from a file of one of the `KNOWN` kinds.

    Raises:
        InputError: unreadable, of no known kind, or without any name.
    """
    try:
        text = path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the label names in {path}: {error}", KNOWN) from error
    if path.suffix.lower() == ".json":
        found, notes = _json(path, text)
    elif path.suffix.lower() in (".csv", ".tsv"):
        rows = csv.reader(text.splitlines(), delimiter="," if path.suffix.lower() == ".csv" else "\t")
        found = LabelMap({int(row[0]): row[1].strip() for row in rows if len(row) > 1 and row[0].strip().isdigit()})
        notes = []
    else:
        lines = [ITK_SNAP.match(line) or SLICER.match(line) for line in text.splitlines()]
        found, notes = LabelMap({int(match[1]): match[2] for match in lines if match}), []
    names = {value: name for value, name in sorted(found.names.items()) if value}
    if not names:
        raise InputError(f"{path} names no label values", KNOWN)
    return LabelTable(names, found.ignore, path.name, tuple(notes))


def _json(path: Path, text: str) -> tuple[LabelMap, list[str]]:
    try:
        facts = json.loads(text)
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}", KNOWN) from error
    listed = facts.get("labels", facts) if isinstance(facts, dict) else facts
    found, _ = read_labels(listed, path)
    return found, notes_on(found, path)
