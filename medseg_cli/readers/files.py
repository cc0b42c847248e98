"""Which reader takes a path: told by the content, held against the suffix."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import detect
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan


def read_file(path: Path, options: ReadOptions) -> Scan:
    """Read one scan without MONAI; see `readers.load_scan` for what is raised."""
    path = path.expanduser()
    try:
        kind = detect.detect(path)
        return _read(path, kind, options)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist", "check the spelling of the path") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def read_labels(path: Path) -> Scan:
    """The labels of a file that holds scan and labels; see `readers.load_labels`."""
    from medseg_cli.readers import npz

    path = path.expanduser()
    try:
        kind = detect.detect(path)
        if kind.format != "npz":
            raise InputError(f"{path} is {kind}, which cannot hold scan and labels in one", "name the label file")
        return npz.read(path, ReadOptions(), npz.LABEL)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist", "check the spelling of the path") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def _read(path: Path, kind: detect.Kind, options: ReadOptions) -> Scan:
    if kind.format == "dicom":
        from medseg_cli.readers import dicom

        return dicom.read(path, options)
    if options.series is not None:
        raise UsageError(f"--series picks a DICOM series, but {path} is {kind}", "leave --series out")
    if kind.format == "image":
        from medseg_cli.readers import image2d

        return image2d.read(path, options)
    if kind.format == "npz":
        from medseg_cli.readers import npz

        return npz.read(path, options)
    _refuse_spacing(path, options, str(kind))
    if kind.format == "nifti":
        from medseg_cli.readers import nifti

        return nifti.read(path, options)
    if kind.format == "mgh":
        from medseg_cli.readers import mgh

        return mgh.read(path, options)
    from medseg_cli.readers import itk

    return itk.read(path, kind.format, options)


def _refuse_spacing(path: Path, options: ReadOptions, kind: str) -> None:
    if options.spacing is not None:
        raise UsageError(
            f"--spacing is for images that state no voxel size, but {path} is {kind} and states its own",
            "leave --spacing out",
        )
