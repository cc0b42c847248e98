"""Reading DICOM: a folder, a zip, one file or a DICOMDIR → a `Scan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli.readers.dicom.files import is_dicom
from medseg_cli.readers.options import ReadOptions

if TYPE_CHECKING:
    from medseg_cli.readers.dicom.series import SeriesInfo
    from medseg_cli.readers.header import Header
    from medseg_cli.scan import Scan

__all__ = ["describe", "is_dicom", "list_series", "read"]


def read(path: Path, options: ReadOptions | None = None) -> Scan:
    """See `reader.read`; numpy and pydicom are imported on the first call."""
    from medseg_cli.readers.dicom import reader

    return reader.read(path, options)


def describe(path: Path, options: ReadOptions | None = None) -> Header:
    """See `reader.describe`."""
    from medseg_cli.readers.dicom import reader

    return reader.describe(path, options)


def list_series(path: Path) -> list[SeriesInfo]:
    """See `reader.list_series`."""
    from medseg_cli.readers.dicom import reader

    return reader.list_series(path)
