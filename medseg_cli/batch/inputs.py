"""What decides the result of a case, as hashes: the bytes of its input, and what is asked of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from medseg_cli.batch.case import BatchCase
from medseg_cli.batch.content import look
from medseg_cli.batch.settings import fingerprint


def digest(case: BatchCase) -> str:
    """SHA-256 of the bytes of a case's input; of several files, of their names and hashes. "" if they cannot be read.

    Whoever reads the scan says why; here it only matters that nothing is taken for unchanged.
    """
    try:
        return _of_files(sorted(case.files or _files(case.scan)), case.scan)
    except OSError:
        return ""


def asked(case: BatchCase, run: str) -> str:
    """SHA-256 of everything but the scan that decides the outputs of a case.

    Args:
        case: how it is read and what is asked of it; tables and masks of prompts count by their bytes.
        run: `Settings.fingerprint` of its preset.
    """
    files = {key: _content(getattr(case.asked, key)) for key in ("table", "mask", "text_table")}
    prompt = asdict(case.asked) | files
    return fingerprint({"run": run, "reading": asdict(case.reading), "asked": prompt, "modality": case.modality})


def bytes_of(case: BatchCase) -> int:
    """Size of the input in bytes; 0 if it cannot be read."""
    try:
        return sum(path.stat().st_size for path in case.files or _files(case.scan))
    except OSError:
        return 0


def _files(scan: Path) -> Iterable[Path]:
    return (path for path in scan.rglob("*") if path.is_file()) if scan.is_dir() else (scan,)


def _name(path: Path, scan: Path) -> str:
    """Relative to the case, so that a folder may be moved."""
    folder = scan if scan.is_dir() else scan.parent
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _content(path: Path | None) -> str | None:
    """Of a table or mask; the data beside a mask's header and all files of a folder count too."""
    if path is None:
        return None
    try:
        return _of_files(sorted(_files(path) if path.is_dir() else look(path)[1] or (path,)), path)
    except OSError:
        return str(path)  # whoever reads it says what is wrong with it


def _of_files(files: Sequence[Path], scan: Path) -> str:
    """Of the bytes of one file; of several, of their names and hashes; "" of none."""
    if len(files) < 2:
        return _of_file(files[0]) if files else ""
    return _of_lines(f"{_name(path, scan)} {_of_file(path)}\n" for path in files)


def _of_file(path: Path) -> str:
    if not path.is_file():
        raise OSError(f"{path} is no file")  # a pipe would be waited for without end
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_lines(lines: Iterable[str]) -> str:
    found = hashlib.sha256()
    for line in lines:
        found.update(line.encode("utf-8", "backslashreplace"))
    return found.hexdigest()
