"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medseg_cli.errors import InputError

_HINTS = {
    errno.ENOSPC: "free some space or write elsewhere",
    errno.EDQUOT: "free some space or write elsewhere",
    errno.EFBIG: "the file system or a limit (ulimit -f) forbids files of this size: write elsewhere",
    errno.EACCES: "choose a folder you may write to",
    errno.EPERM: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.ENOENT: "create the folder first",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "choose a shorter name",
}


def check_output(path: Path, overwrite: bool = False) -> None:
    """Whether `path` can be written, asked before any work is done for it.

    Raises:
        InputError: it exists and may not be overwritten, is a folder, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"cannot write {path}: it is a folder", "name a file in it")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already", "choose another name, or add --overwrite")
    if not path.parent.is_dir():
        code = errno.ENOTDIR if path.parent.exists() else errno.ENOENT
        raise InputError(f"cannot write {path}: there is no folder {path.parent}", _HINTS[code])
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: permission denied", _HINTS[errno.EACCES])


@contextmanager
def atomic_output(path: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` with the same suffix, which becomes `path` when the block ends well.

    Whatever ends the block otherwise (an error, Ctrl-C) leaves neither the temporary file nor a changed `path`.

    Args:
        path: where the file is to appear.
        overwrite: whether it may replace a file.

    Raises:
        InputError: `path` may not or cannot be written, with the system's reason.
    """
    path = Path(path).expanduser()
    check_output(path, overwrite)
    # Lower case: some writers choose their format by the suffix and know no other spelling.
    temporary = path.with_name(f".{secrets.token_hex(4)}.part-{path.name.lower()}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists() and not overwrite:
            raise InputError(f"{path} appeared while it was being made", "choose another name, or add --overwrite")
        os.replace(temporary, path)
    except OSError as error:
        if error.errno not in _HINTS:
            raise
        raise InputError(f"cannot write {path}: {os.strerror(error.errno).lower()}", _HINTS[error.errno]) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A hidden folder beside `path`, which takes its place when the block ends well and is gone otherwise.

    Args:
        path: where the folder is to appear; whether it may replace one there is the caller's to ask.

    Raises:
        InputError: it cannot be written, with the system's reason.
    """
    token = secrets.token_hex(4)
    aside, old = (path.with_name(f".medseg-{word}{token}") for word in ("", "old-"))
    try:
        aside.mkdir()
        yield aside
        if path.exists():
            os.replace(path, old)
        os.replace(aside, path)
    except OSError as error:
        reason = f"{error.strerror or error}{f' ({error.filename})' if error.filename else ''}"
        raise InputError(f"cannot write {path}: {reason.lower()}", "write elsewhere") from error
    finally:
        # An interruption between the two moves must not cost what was there before.
        if old.exists() and not path.exists():
            os.replace(old, path)
        for folder in (aside, old):
            shutil.rmtree(folder, ignore_errors=True)


def out_of_space(folder: Path, needed: int) -> bool:
    """Whether fewer than `needed` bytes are free in `folder`, for writers whose library hides the system's reason."""
    return shutil.disk_usage(folder).free < needed
