"""Images with sentences and without masks: a CSV, JSON lines, or `x.txt` beside `x.png`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseg_cli.datasets.case import Case, Dataset, Finding
from medseg_cli.datasets.facts import facts_of, value_of
from medseg_cli.datasets.files import anywhere, is_scan, stem
from medseg_cli.errors import InputError, UsageError

LAYOUT = "images with captions"
LINES = (".jsonl", ".ndjson")
TEXT = ".txt"
MOST_WORDS = 1 << 20
"""Bytes of a caption's file that may be a caption."""


def is_there(folder: Path) -> bool:
    """Whether any image of a folder has a text of its name beside it."""
    return any(is_scan(path) and _beside(path).is_file() for path in folder.iterdir() if path.is_file())


def beside(folder: Path) -> Dataset:
    """`x.png` with `x.txt`, one phrasing a line; images without a text are findings.

    Raises:
        InputError: a text that is none.
    """
    cases: list[Case] = []
    findings: list[Finding] = []
    for image in sorted(path for path in folder.iterdir() if path.is_file() and is_scan(path)):
        path = _beside(image)
        if not path.is_file():
            findings.append(Finding("missing", f"{image} has no caption {path.name}", "write one, or move it", image))
            continue
        cases += _case({"image": image.name, "caption": _read(path)}, folder, str(path), findings)
    return Dataset(tuple(cases), LAYOUT, findings=tuple(findings))


def lines(listing: Path) -> Dataset:
    """One JSON object a line: `image`, `caption` (a text, or a list of phrasings), and what else lists say of a case.

    Raises:
        InputError: no UTF-8, or a line that is no JSON object.
    """
    cases: list[Case] = []
    findings: list[Finding] = []
    for number, line in enumerate(_read(listing, most=None).splitlines(), start=1):
        if line.strip():
            where = f"{listing}, line {number}"
            cases += _case(_entry(line, where), listing.parent, where, findings)
    return merged(cases, findings)


def of_rows(rows: list[tuple[int, dict[str, Any]]], table: Path) -> Dataset:
    """The rows of a CSV with columns `image` and `caption`; an image in several rows has several phrasings.

    Raises:
        InputError: a fact that cannot be one.
    """
    findings: list[Finding] = []
    found = [_case(row, table.parent, f"{table}, line {number}", findings) for number, row in rows]
    return merged([case for cases in found for case in cases], findings)


def merged(cases: list[Case], findings: list[Finding]) -> Dataset:
    """One case per image, with all its phrasings."""
    together: dict[tuple[str, Path], Case] = {}
    for case in cases:
        before = together.get((case.id, case.image))
        together[case.id, case.image] = (
            case if before is None else replace(before, caption=f"{before.caption}\n{case.caption}")
        )
    return Dataset(tuple(together.values()), LAYOUT, findings=tuple(findings))


def without_short(dataset: Dataset, shortest: int) -> Dataset:
    """The dataset without phrasings of fewer characters, and without the cases that have no other; a note says so.

    Raises:
        UsageError: nothing in it has a caption.
        InputError: nothing would be left.
    """
    if not any(case.captioned for case in dataset.cases):
        raise UsageError("--shortest-caption is for images with captions, and these have masks", "leave it out")
    kept, dropped = [], 0
    for case in dataset.cases:
        long = [text for text in case.phrasings if len(text) >= shortest]
        dropped += len(case.phrasings) - len(long)
        if long:
            kept.append(replace(case, caption="\n".join(long)))
    if not kept:
        raise InputError(f"no caption has {shortest} characters or more", "ask for a smaller --shortest-caption")
    gone = len(dataset.cases) - len(kept)
    note = f"{dropped} phrasings shorter than {shortest} characters are left out, and {gone} images with no other"
    return replace(dataset, cases=tuple(kept), notes=(*dataset.notes, note))


def _case(entry: dict[str, Any], folder: Path, where: str, findings: list[Finding]) -> list[Case]:
    """The case of an entry, if it is one; else what is missing goes to `findings`."""
    image, caption, name = (value_of(entry, fact) for fact in ("image", "caption", "id"))
    phrasings = [str(each).strip() for each in (caption if isinstance(caption, list) else [caption]) if each]
    if image is None or not any(phrasings):
        what = "image" if image is None else "caption"
        findings.append(Finding("missing", f"{where} names no {what}", f"fill in the {what}"))
        return []
    path = anywhere(folder, str(image).strip())
    facts = facts_of({**entry, "caption": "\n".join(phrasings)}, where)
    return [Case(str(name).strip() if name is not None else stem(path), path, path, **facts)]


def _entry(line: str, where: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is no JSON: {error}", "write one object a line") from error
    if not isinstance(entry, dict):
        raise InputError(f"{where} holds a {type(entry).__name__}", "write one object a line")
    return entry


def _beside(image: Path) -> Path:
    return image.with_name(stem(image) + TEXT)


def _read(path: Path, most: int | None = MOST_WORDS) -> str:
    try:
        if most is not None and path.stat().st_size > most:
            raise InputError(f"{path} has {path.stat().st_size} bytes, too many for a caption", "write a sentence")
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no text in UTF-8: {error}", "save it in UTF-8") from error
