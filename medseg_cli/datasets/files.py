"""What a dataset's folder holds: files that may be scans, their names, and listings as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from medseg_cli.errors import InputError

LAYOUTS = (
    "known layouts: dataset.json of the Medical Segmentation Decathlon or nnU-Net, image2label_train.json of "
    "SA-Med2D, a folder images/ beside masks/ with equal file names, or x.png with x_mask.png"
)
FORMAT_SUFFIXES = (".nii.gz", ".gipl.gz")


def scans_in(folder: Path) -> list[Path]:
    """Files that may be scans or masks, sorted."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_scan(path))


def folders_in(folder: Path) -> Iterable[Path]:
    """Folders one level down that are not hidden."""
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def is_scan(path: Path) -> bool:
    """Whether a file may be a scan or a mask: lists, licences and tables are not."""
    return not path.name.startswith(".") and path.suffix.lower() not in (".md", ".txt", ".csv", ".json", ".yaml", "")


def stem(path: Path) -> str:
    """File name without the suffix of its format, as in `scan` for `scan.nii.gz`."""
    name = path.name
    double = next((suffix for suffix in FORMAT_SUFFIXES if name.lower().endswith(suffix)), None)
    return name[: -len(double)] if double else path.stem


def read_json(listing: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        InputError: unreadable, no JSON, or no object.
    """
    try:
        facts = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{listing} is not a Medical Segmentation Decathlon listing: {error}", LAYOUTS) from error
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
