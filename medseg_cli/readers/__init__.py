"""Scans in: one door for every format, and the checks a scan must pass before it is segmented.

`load_scan` goes through MONAI's `LoadImage` with our own reader: pipelines get what MONAI transforms see.
The formats' own modules (`nifti`, `mgh`, `itk`, `image2d`, `dicom`, `npz`) are plain numpy: file in, `Scan` out.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from medseg_cli.readers.options import ReadOptions

if TYPE_CHECKING:
    from medseg_cli.readers.header import Header
    from medseg_cli.scan import Scan

__all__ = ["ReadOptions", "begin_scan", "check_image", "load_labels", "load_scan", "looks_like_mask", "read_header"]


def load_scan(path: str | Path, options: ReadOptions | None = None) -> Scan:
    """Read the scan at `path`: a file of any known format, or a DICOM folder, zip or DICOMDIR.

    Args:
        path: file or folder; `~` is expanded.
        options: how to read it; the default refuses to guess.

    Raises:
        InputError: missing, unreadable, corrupt, of an unknown kind, or ambiguous under `options`.
        UsageError: an option that this kind of file has no use for.
        DeviceError: the scan does not fit into memory.
    """
    from medseg_cli.readers.monai_reader import load

    return load(Path(path), options or ReadOptions())


def load_labels(path: str | Path) -> Scan:
    """The label values of a file that holds scan and labels (MedSAM's `.npz`), as if they were a scan.

    Raises:
        InputError: no such file, or it is damaged.
        DeviceError: the labels do not fit into memory.
    """
    from medseg_cli.readers.files import read_labels

    return read_labels(Path(path))


def read_header(path: str | Path, options: ReadOptions | None = None) -> Header:
    """Size, spacing and kind of the scan at `path`, without its voxels and without MONAI.

    Raises:
        InputError, UsageError, DeviceError: as `load_scan`, but for what only the voxels show.
    """
    from medseg_cli.readers import files

    return files.read_header(Path(path), options or ReadOptions())


def begin_scan(path: str | Path, options: ReadOptions | None = None) -> Callable[[], Scan]:
    """Begin to read a scan in a second thread; what is returned waits for it and does what `load_scan` does.

    Neither MONAI nor torch is imported before the result is asked for. Nothing is raised before that either. Formats
    whose readers change the filters of warnings, which all threads share, are read only then.
    """
    from medseg_cli.readers.begin import begin

    return begin(Path(path), options or ReadOptions())


def looks_like_mask(scan: Scan) -> bool:
    """Whether the voxels are labels rather than an image; see `readers.check`."""
    from medseg_cli.readers import check

    return check.looks_like_mask(scan)


def check_image(scan: Scan) -> None:
    """Refuse what cannot be segmented: a constant image, or a label map given as a scan.

    Raises:
        InputError: saying which of the two it is.
    """
    from medseg_cli.readers import check

    check.check_image(scan)
