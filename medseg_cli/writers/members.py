"""Folders with one file per structure: their names, and that they appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from medseg_cli.errors import InputError
from medseg_cli.segmentation import Label
from medseg_cli.writers.atomic import atomic_folder

_RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{number}" for device in ("com", "lpt") for number in range(10))}
"""Names that Windows keeps for itself, whatever suffix follows."""
_LONGEST = 100
"""Bytes of a name: file systems count those, and a suffix must fit behind it."""


def names(labels: Sequence[Label]) -> dict[int, str]:
    """Label value → name fit for a file on any system, no two the same where case does not count."""
    found: dict[int, str] = {}
    taken: set[str] = set()
    for label in labels:
        kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in label.name.strip())
        name = kept.strip("._").encode()[:_LONGEST].decode(errors="ignore").rstrip("._") or f"label_{label.value}"
        if name.lower().partition(".")[0] in _RESERVED:
            name = f"_{name}"
        if name.lower() in taken:
            name = f"{name}_{label.value}"
        while name.lower() in taken:
            name = f"{name}_"
        taken.add(name.lower())
        found[label.value] = name
    return found


@contextmanager
def folder(path: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well.

    Raises:
        InputError: it exists and may not be replaced, or cannot be written.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already", "choose another name, or add --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: no such folder, or permission denied", "write elsewhere")
    with atomic_folder(path) as hidden:
        yield hidden
