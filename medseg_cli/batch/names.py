"""Names of cases: what a path is called without its suffix, fit for any file system, and unique in a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from medseg_cli.batch.case import BatchCase
from medseg_cli.readers import detect

BARE = (".img", ".hdr", ".ima", ".zip")
"""Suffixes that claim no format and are no part of a name either."""
UNFIT = re.compile(r'[\x00-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff<>:"|?*\\]+|\s+')
"""Controls, marks that turn or hide text, what Windows refuses, and bytes that are no UTF-8 (surrogates in Python)."""
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)
"""Names that Windows keeps for devices."""
LONGEST = 150
"""Bytes of one name: suffixes of outputs must fit behind it into the 255 bytes of a file name."""


def stem(name: str) -> str:
    """A file's name without the suffix of a format that is read: "x" for "x.nii.gz", "1.2.840" for "1.2.840"."""
    suffix = detect.suffix_of(Path(name))
    known = suffix in detect.SUFFIXES or suffix in BARE
    return name[: -len(suffix)] if known and len(suffix) < len(name) else name


def name_of(relative: PurePosixPath) -> str:
    """The id of a file at a path below INPUT."""
    return safe("/".join([*relative.parent.parts, stem(relative.name)]))


def safe(text: str) -> str:
    """A path that every file system can hold: no ".." and nothing that Windows refuses; "/" stays."""
    parts = [_fit(part) for part in text.split("/")]
    return "/".join(part for part in parts if part) or "case"


def _fit(part: str) -> str:
    part = UNFIT.sub("_", part.strip()).strip(". ")
    part = f"_{part}" if RESERVED.match(part) else part
    return part.encode()[:LONGEST].decode(errors="ignore").rstrip(". ")


def natural(text: str) -> tuple[tuple[int, int | str], ...]:
    """Sort key: "case2" before "case10", folders before what comes after them, capitals alike."""
    return tuple(
        (0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"([0-9]+)", text.casefold()) if part
    )


def ordered(cases: Sequence[BatchCase]) -> tuple[BatchCase, ...]:
    """The cases in natural order of their ids, which are made unique first.

    Files that differ by their suffix alone get it behind their name ("x_nrrd"); whatever is still equal, also without
    regard to capitals, is numbered.
    """
    known = sorted(cases, key=lambda case: (natural(case.id), str(case.scan), case.reading.series or ""))
    shared = _shared(known)
    known = [
        replace(case, id=f"{case.id}_{_suffix(case)}") if case.id.casefold() in shared and _suffix(case) else case
        for case in known
    ]
    taken: set[str] = set()
    for place, case in enumerate(known):
        number, id_ = 2, case.id
        while id_.casefold() in taken:
            id_, number = f"{case.id}-{number}", number + 1
        taken.add(id_.casefold())
        known[place] = replace(case, id=id_)
    return tuple(sorted(known, key=lambda case: (natural(case.id), case.id)))


def _shared(cases: Sequence[BatchCase]) -> set[str]:
    return {name for name, count in Counter(case.id.casefold() for case in cases).items() if count > 1}


def _suffix(case: BatchCase) -> str:
    if case.scan.is_dir():
        return ""
    return detect.suffix_of(case.scan).removeprefix(".").replace(".", "-")
