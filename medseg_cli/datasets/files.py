"""What a dataset's folder holds: files that may be scans, their names, and the files that a listing names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath
from typing import Any

from medseg_cli.errors import InputError

LAYOUTS = (
    "docs/datasets.md lists the layouts: dataset.json (Medical Segmentation Decathlon, nnU-Net, MONAI), SA-Med2D, "
    "SAMUS, HC18, images/ beside masks/, x.png with x_mask.png, MedSAM's .npz, or a CSV with columns image and label"
)
FORMAT_SUFFIXES = (".nii.gz", ".gipl.gz")
NO_SCANS = (".md", ".txt", ".csv", ".tsv", ".json", ".yaml", ".yml", ".label", ".npz", ".py", ".pdf", "")
"""Suffixes of lists, licences and tables. `.npz` holds scan and mask in one file and is a layout of its own."""


def scans_in(folder: Path) -> list[Path]:
    """Files that may be scans or masks, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_scan(path))


def folders_in(folder: Path) -> Iterable[Path]:
    """Folders one level down that are not hidden."""
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_scan(path: Path) -> bool:
    """Whether a file may be a scan or a mask: lists, licences and tables are not."""
    return not path.name.startswith(".") and path.suffix.lower() not in NO_SCANS


def stem(path: Path) -> str:
    """File name without the suffix of its format, as in `scan` for `scan.nii.gz`."""
    name = path.name
    double = next((suffix for suffix in FORMAT_SUFFIXES if name.lower().endswith(suffix)), None)
    return name[: -len(double)] if double else path.stem


def inside(folder: Path, listed: str, listing: Path) -> Path:
    """The file that a layout's own listing names: its paths start at the folder and stay in it.

    Raises:
        InputError: an absolute path, or one that leads out of the folder: a downloaded dataset has no business there.
    """
    path = anywhere(folder, listed)
    steps = os.path.normpath(os.path.relpath(os.path.normpath(path), os.path.normpath(folder))).split(os.sep)
    if Path(listed).is_absolute() or steps[0] == os.pardir:
        raise InputError(
            f"{listing} names {listed}, which is not in its folder",
            "list files of other places in a MONAI datalist or a CSV, which may name any",
        )
    return path


def anywhere(folder: Path, listed: str) -> Path:
    """The file that a list names, relative to `folder` or absolute; written on Windows, too."""
    path = folder / listed
    if "\\" in listed and not path.exists():
        path = folder / PureWindowsPath(listed).as_posix()
    return path


def read_json(listing: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: unreadable, no JSON, or no object.
    """
    try:
        facts = json.loads(listing.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{listing} is not a readable listing: {error}", LAYOUTS) from error
    if not isinstance(facts, dict):
        raise InputError(f"{listing} is not a listing: it holds a {type(facts).__name__}", LAYOUTS)
    return facts


def texts(listing: Path, values: Any) -> list[str]:
    """Values of a listing that must be a list of texts.

    Raises:
        InputError: they are something else.
    """
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{listing} holds {values!r} where file names are expected", LAYOUTS)
    return values
