"""Reading a scan while something else happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medseg_cli.errors import MedsegError
from medseg_cli.read_ahead import read_ahead
from medseg_cli.readers import detect
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan

SIDE_BY_SIDE = frozenset({"nifti", "mgh", "nrrd", "metaimage"})
"""Formats whose readers leave alone what all threads share, and unpack outside Python's lock."""


def begin(path: Path, options: ReadOptions) -> Callable[[], Scan]:
    """See `readers.begin_scan`."""
    pending = read_ahead([path], lambda each: read_file(each, options)) if _can(path) else None

    def read(path: Path, options: ReadOptions) -> Scan:
        if pending is None:
            return read_file(path, options)
        _, found = next(pending)
        if isinstance(found, Exception):
            raise found
        return found

    def finish() -> Scan:
        from medseg_cli.readers.monai_reader import load

        return load(path, options, read)

    return finish


def _can(path: Path) -> bool:
    try:
        return detect.detect(path.expanduser()).format in SIDE_BY_SIDE
    except (MedsegError, OSError):
        return False  # reading it will say why
