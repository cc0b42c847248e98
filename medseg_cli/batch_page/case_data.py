"""What the page knows of a case: its record, the report beside its mask, and the files of its view."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from medseg_cli.batch_page import views

ORDER = ("flagged", "failed", "absent", "skipped", "ok")
"""Statuses as the table lists them at first: what a person must look at comes first."""
SAID_BY_RECORD = ("schema", "status", "labels", "flags", "notes", "stages", "seconds", "input")
"""Keys of the report beside a mask that the record has too."""


@dataclass(frozen=True)
class Case:
    """One row of the page.

    Args:
        out: the output folder that paths in the record are relative to.
        record: as the run wrote it.
        report: the JSON beside the mask; {} where there is none.
        view: of `views.read_view`; None where there is none.
        thumbnail: picture for the table; None where there is none.
    """

    out: Path
    record: Mapping[str, Any]
    report: Mapping[str, Any]
    view: dict[str, Any] | None
    thumbnail: Path | None

    @property
    def id(self) -> str:
        """The record's."""
        return str(self.record["id"])

    @property
    def status(self) -> str:
        """The record's."""
        return str(self.record["status"])

    @property
    def random_weights(self) -> bool:
        """Whether its mask means nothing."""
        return bool(self.report.get("random_weights"))


def gather(out: Path, records: Sequence[Mapping[str, Any]], prefix: str = "") -> list[Case]:
    """The cases of one output folder.

    Args:
        out: the folder, that paths in records are relative to.
        records: of all cases.
        prefix: put before their ids, where the page is about several folders.
    """
    return [_case(out, {**each, "id": f"{prefix}{each['id']}"}) for each in records]


def in_order(cases: Sequence[Case]) -> list[Case]:
    """As the table lists them at first."""
    return sorted(cases, key=lambda each: (ORDER.index(each.status), _natural(each.id)))


def to_script(case: Case, no_view: str, beside: Path) -> str:
    """The case as JSON that may stand in a script element of HTML, whatever its strings hold.

    Args:
        case: to be shown.
        no_view: why it has no viewer; "" where it has one.
        beside: folder of the page, that links to the outputs are relative to.
    """
    view = None
    if case.view is not None and not no_view:
        view = {key: value for key, value in case.view.items() if key != "files"}
    rest = {key: value for key, value in case.report.items() if key not in SAID_BY_RECORD}
    outputs = [{**each, "link": _link(case.out / each["path"], beside)} for each in case.record.get("outputs", ())]
    data = {**case.record, "outputs": outputs, "report": rest, "view": view, "no_view": no_view}
    text = json.dumps(data, separators=(",", ":"))
    # As JSON the same string, as HTML neither a tag nor a comment.
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _link(path: Path, beside: Path) -> str:
    """A relative address; it begins with a dot, so that no file name can be taken for a scheme."""
    try:
        relative = Path(os.path.relpath(path, beside)).as_posix()
    except ValueError:  # another drive of Windows
        return ""
    return "./" + quote(relative, errors="backslashreplace")


def _case(out: Path, record: Mapping[str, Any]) -> Case:
    thumbnail = out / record["thumbnail"] if record.get("thumbnail") else None
    if thumbnail is not None and not thumbnail.is_file():
        thumbnail = None
    begin = views.path_of(thumbnail) if thumbnail is not None else None
    return Case(out, record, _report(out, record), views.read_view(begin) if begin is not None else None, thumbnail)


def _report(out: Path, record: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON beside the mask; {} where there is none that can be read."""
    for output in record.get("outputs", ()):
        if output.get("kind") == "report":
            try:
                found = json.loads((out / output["path"]).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                return {}
            return found if isinstance(found, dict) else {}
    return {}


def _natural(text: str) -> list[tuple[int, str]]:
    """ "case-2" before "case-10"."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", text)]
