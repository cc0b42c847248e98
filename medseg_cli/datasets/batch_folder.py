"""What `medseg batch` has segmented, as a dataset: scans with the masks that a model drew, to train another one on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg_cli.datasets.case import Case, Dataset, Finding, LabelMap
from medseg_cli.datasets.files import inside
from medseg_cli.errors import InputError

TABLE = "cases.jsonl"
SCHEMA = "medseg-batch-case/1"
LAYOUT = "masks of medseg batch"
MASKS = ("nifti", "nrrd", "mha", "mgz", "seg-nrrd", "png")
"""Formats of `medseg batch` that hold a label map and are read back, the one that is taken first."""


def is_there(folder: Path) -> bool:
    """Whether a folder is the output of a batch."""
    return (folder / TABLE).is_file() and (folder / ".medseg").is_dir()


def read(folder: Path) -> Dataset:
    """The cases whose masks raised no flag; a note says how many others there are, and why.

    Flagged, absent and failed cases are left out: a mask that is empty, cut off, implausible or unsure teaches that.

    Raises:
        InputError: the table is damaged, no case is left, or a label has two names.
    """
    records = [_record(line, folder) for line in _lines(folder)]
    usable = [each for each in records if each["status"] == "ok" and _mask(each)]
    if not usable:
        raise InputError(f"none of the {len(records)} cases of {folder} is ok: {_left(records)}", "see its report.html")
    cases, findings, names = [], [], {}
    for record in usable:
        image = Path(str(record["input"]["path"]))
        if not image.exists():
            text = f"{image}, segmented in {folder}, does not exist"
            findings.append(Finding("missing", text, "put it back, or start where the batch was started", image))
            continue
        name = str(record["id"]).replace("/", "_")
        cases.append(Case(name, image, inside(folder, _mask(record), folder / TABLE)))
        names.update({int(label["value"]): str(label["name"]) for label in record["labels"]})
    left = _left(records)
    notes = ("masks are a model's, not a person's", *([f"left out of {len(records)} cases: {left}"] if left else []))
    return Dataset(tuple(cases), LAYOUT, LabelMap(names), notes, tuple(findings))


def _left(records: list[dict[str, Any]]) -> str:
    """How many cases are not ok, by status and flag: "2 flagged (border 1, uncertain 1), 1 absent"."""
    said = []
    for status, count in Counter(each["status"] for each in records if each["status"] != "ok").most_common():
        codes = Counter(
            code
            for each in records
            if each["status"] == status
            for code in {str(flag["code"]) for flag in each.get("flags", ())}
        )
        why = ", ".join(f"{code} {number}" for code, number in codes.most_common())
        said.append(f"{count} {status}" + (f" ({why})" if why and status == "flagged" else ""))
    return ", ".join(said)


def _mask(record: Mapping[str, Any]) -> str:
    """Path of a record's label map below the folder, "" without one."""
    made = {str(each["kind"]): str(each["path"]) for each in record["outputs"]}
    return next((made[kind] for kind in MASKS if kind in made), "")


def _lines(folder: Path) -> list[str]:
    try:
        return (folder / TABLE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / TABLE} cannot be read: {error}", "run medseg batch again") from error


def _record(line: str, folder: Path) -> dict[str, Any]:
    try:
        found = json.loads(line)
        if found["schema"] == SCHEMA and found["input"]["path"] is not None and isinstance(found["labels"], list):
            return dict(found, status=str(found["status"]), outputs=list(found["outputs"]))
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InputError(f"{folder / TABLE} is damaged: {error!r}", "run medseg batch again") from error
    raise InputError(f"{folder / TABLE} was written by another version of medseg", "run medseg batch again")
