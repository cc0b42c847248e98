"""One row of a batch: a scan, how it is read and what is asked of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli.errors import MedsegError
from medseg_cli.readers.options import ReadOptions

if TYPE_CHECKING:
    from medseg_cli.asked import Asked


@dataclass(frozen=True)
class BatchCase:
    """One scan of a batch.

    Args:
        id: unique in the run and fit for file names, "/" between folders: the scan's path below INPUT without its
            suffix; a DICOM series is its folder, or "folder/<number>-<description>" where the folder holds several.
        scan: file, DICOM folder or zip. It may be missing or damaged: that is for reading it to find out.
        reading: how it is read; names series and files where `scan` holds more than this case.
        asked: the case's own prompts.
        preset: name or path; "" = the run's.
        problem: what listing it found wrong; such a case is a failed row and is not read.
        modality: DICOM code that the user states for it; "" = none.
        files: the files that hold the scan, for hashing and sizes; a series of a zip has the zip.
    """

    id: str
    scan: Path
    reading: ReadOptions
    asked: Asked
    preset: str = ""
    problem: MedsegError | None = None
    modality: str = ""
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Cases:
    """What INPUT holds.

    Args:
        cases: in natural order of their ids, so that shards agree about it.
        notes: what was left out and why, one sentence each.
        root: the folder that ids are relative to.
        kind: what INPUT was taken for, in words: "folder", "BIDS dataset", "manifest", "DICOM zip"...
    """

    cases: tuple[BatchCase, ...]
    notes: tuple[str, ...]
    root: Path
    kind: str = "folder"
