"""The records of a batch on disk: one file per case, written whole, from which tables and page are made.

`OUT/.medseg/cases/<name>.json` is the truth about a case. `<name>.pending.json` is the record of a case whose outputs
are being put into their places: if the process dies then, the next run knows which files are its own.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from medseg_cli.batch import workspace
from medseg_cli.batch.record import Record

LOGGER = logging.getLogger("medseg.batch")

_told: set[Path] = set()
LOCKS = 64
"""Lock files that all cases share; a file per case would be left behind for each."""
SLOW = 600.0
"""Seconds after which waiting for another run's renames is given up."""
PENDING = ".pending.json"


def name_of(case: str) -> str:
    """File name of a case: readable, unique whatever the id, and fit for any file system."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", case)[:80].strip(".-")
    return f"{plain}-{hashlib.sha256(case.encode('utf-8', 'backslashreplace')).hexdigest()[:16]}"


def read(out: Path, case: str) -> Record | None:
    """The record of a case; None if there is none that can be read."""
    return _read(_path(out, case))


def read_pending(out: Path, case: str) -> Record | None:
    """The record of a case whose outputs were being put into their places when their process ended."""
    return _read(_path(out, case, PENDING))


def read_all(out: Path) -> list[Record]:
    """All records, by the ids of their cases."""
    paths = (path for path in _folder(out).glob("*.json") if not path.name.endswith(PENDING))
    return sorted((found for path in paths if (found := _read(path)) is not None), key=lambda each: each.id)


def write(out: Path, record: Record) -> None:
    """Write a record; it replaces an earlier one of its case."""
    write_json(out, _path(out, record.id), record.to_json())


def write_new(out: Path, record: Record) -> None:
    """Write a record unless the case has one already, whoever wrote that."""
    with locked(out, record.id):
        if not _path(out, record.id).exists():
            write(out, record)


def write_pending(out: Path, record: Record) -> None:
    """Say which files are about to appear."""
    write_json(out, _path(out, record.id, PENDING), record.to_json())


def settle(out: Path, case: str) -> None:
    """Make the pending record the record of its case."""
    os.replace(_path(out, case, PENDING), _path(out, case))


def drop_pending(out: Path, case: str) -> None:
    """Forget a pending record."""
    _path(out, case, PENDING).unlink(missing_ok=True)


@contextmanager
def locked(out: Path, what: str) -> Iterator[None]:
    """No other process is in a block for the same case (or the same word) of the same output folder.

    Raises:
        filelock.Timeout: after `SLOW` seconds.
    """
    folder = workspace.hidden(out) / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    number = int(hashlib.sha256(what.encode("utf-8", "backslashreplace")).hexdigest(), 16) % LOCKS
    with FileLock(folder / f"{number:02}.lock", timeout=SLOW):
        yield


def write_json(out: Path, path: Path, content: Any) -> None:
    """Write JSON that appears whole, whoever reads or dies meanwhile."""
    write_text(out, path, json.dumps(content, ensure_ascii=True, allow_nan=False, indent=1) + "\n")


def write_text(out: Path, path: Path, text: str) -> None:
    """Write a file that appears whole, whoever reads or dies meanwhile."""
    draft = workspace.own(out) / f"{os.urandom(6).hex()}.part"
    with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(draft, path)


def _folder(out: Path) -> Path:
    return workspace.hidden(out) / "cases"


def _path(out: Path, case: str, suffix: str = ".json") -> Path:
    return _folder(out) / f"{name_of(case)}{suffix}"


def _read(path: Path) -> Record | None:
    try:
        return Record.from_json(json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        if path not in _told:
            _told.add(path)
            LOGGER.warning(
                "the record %s is damaged (%s): its case counts as not done, and its outputs as nobody's; delete the "
                "record, and the outputs or add --overwrite",
                path,
                str(error).splitlines()[0] if str(error) else type(error).__name__,
            )
        return None
