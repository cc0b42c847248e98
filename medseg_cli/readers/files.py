"""Which reader takes a path: told by the content, held against the suffix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import detect
from medseg_cli.readers.cine import as_cine
from medseg_cli.readers.header import Header
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan

OWN = {"dicom": "dicom", "image": "image2d", "npz": "npz", "nifti": "nifti", "mgh": "mgh"}
"""Formats with a module of their own; SimpleITK's module reads all others."""


def read_file(path: Path, options: ReadOptions) -> Scan:
    """Read one scan without MONAI; see `readers.load_scan` for what is raised."""
    with _explained(path) as found:
        return _read(found, detect.detect(found), options)


def read_header(path: Path, options: ReadOptions) -> Header:
    """What a scan's header says; see `readers.read_header`."""
    with _explained(path) as found:
        return _describe(found, detect.detect(found), options)


@contextmanager
def _explained(path: Path) -> Iterator[Path]:
    """The path with `~` expanded; what the system says about it becomes an error that people can read."""
    path = path.expanduser()
    try:
        yield path
    except FileNotFoundError as error:
        raise InputError(f"{error.filename or path} does not exist", "check the spelling of the path") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}", "check its permissions") from error


def read_labels(path: Path) -> Scan:
    """The labels of a file that holds scan and labels; see `readers.load_labels`."""
    from medseg_cli.readers import npz

    with _explained(path) as found:
        kind = detect.detect(found)
        if kind.format != "npz":
            raise InputError(f"{found} is {kind}, which cannot hold scan and labels in one", "name the label file")
        return npz.read(found, ReadOptions(), npz.LABEL)


def _read(path: Path, kind: detect.Kind, options: ReadOptions) -> Scan:
    scan: Scan = _call("read", path, kind, options)
    return as_cine(scan) if options.cine and options.channel is None else scan


def _describe(path: Path, kind: detect.Kind, options: ReadOptions) -> Header:
    header: Header = _call("describe", path, kind, options)
    if not options.cine or options.channel is not None or header.cine or header.shape[2] == 1:
        return header
    return replace(header, spacing=(*header.spacing[:2], 1.0), cine=True)


def _call(what: Literal["read", "describe"], path: Path, kind: detect.Kind, options: ReadOptions) -> Any:
    """That function of the format's own reader, which refuses options that the format has no use for."""
    if kind.format != "dicom" and options.series is not None:
        raise UsageError(f"--series picks a DICOM series, but {path} is {kind}", "leave --series out")
    if kind.format not in ("dicom", "image", "npz"):
        _refuse_spacing(path, options, str(kind))
    if kind.format not in OWN:
        return getattr(import_module("medseg_cli.readers.itk"), what)(path, kind.format, options)
    return getattr(import_module(f"medseg_cli.readers.{OWN[kind.format]}"), what)(path, options)


def _refuse_spacing(path: Path, options: ReadOptions, kind: str) -> None:
    if options.spacing is not None:
        raise UsageError(
            f"--spacing is for images that state no voxel size, but {path} is {kind} and states its own",
            "leave --spacing out",
        )
