"""Where a process makes files before they appear, and how what a killed process left there is told from what is in use.

`OUT/.medseg/work/<token>/` belongs to one process, which holds a lock on `<token>.lock` for as long as it lives. The
system releases the lock however the process ends, `kill -9` included: whoever can take it may delete the folder.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

HIDDEN = ".medseg"
"""Folder in the output folder for what is no output: records, pictures for the page, files that are being made."""

_mine: dict[tuple[int, Path], tuple[Path, FileLock]] = {}


def hidden(out: Path) -> Path:
    """Where a batch keeps what is no output."""
    return out / HIDDEN


def own(out: Path) -> Path:
    """The folder of this process, made at the first call; on the same file system as the outputs."""
    key = (os.getpid(), out)
    if key not in _mine:
        _mine[key] = _taken(hidden(out) / "work")
        atexit.register(release, out)
    return _mine[key][0]


def release(out: Path) -> None:
    """Delete the folder of this process, if it has one."""
    found = _mine.pop((os.getpid(), out), None)
    if found is not None:
        _delete(*found)


def clear_dead(out: Path) -> None:
    """Delete what processes left that have ended without `release`; folders in use are left alone."""
    for path in sorted((hidden(out) / "work").glob("*.lock")):
        if path in [Path(lock.lock_file) for _, lock in _mine.values()]:
            continue
        lock = FileLock(path, timeout=0, thread_local=False)
        try:
            lock.acquire()
        except (Timeout, OSError):
            continue
        _delete(path.with_suffix(""), lock)


def _taken(work: Path) -> tuple[Path, FileLock]:
    work.mkdir(parents=True, exist_ok=True)
    while True:
        folder = work / secrets.token_hex(6)
        lock = FileLock(work / f"{folder.name}.lock", timeout=0, thread_local=False)
        try:
            lock.acquire()
        except Timeout:
            continue  # whoever clears up was quicker
        if not Path(lock.lock_file).exists():
            lock.release()
            continue
        folder.mkdir()
        return folder, lock


def _delete(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    # While the lock is held: a name that is gone cannot be taken by anybody.
    with suppress(PermissionError):  # Windows deletes no open file
        Path(lock.lock_file).unlink(missing_ok=True)
    lock.release()
    with suppress(OSError):
        Path(lock.lock_file).unlink(missing_ok=True)
