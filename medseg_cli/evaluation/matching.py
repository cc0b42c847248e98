"""Which prediction goes with which reference."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.datasets import hc18
from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers.detect import SUFFIXES, suffix_of
from medseg_cli.writers.outputs import case_name
from medseg_cli.writers.preview import is_preview
from medseg_cli.writers.sidecar import SCHEMA

ENDING = re.compile(r"[_.-](seg|dseg|segmentation|mask|labels?|pred|prediction|gt|ref|reference)$", re.IGNORECASE)
"""What names of masks end in, besides the name of the case."""
CHANNEL = re.compile(r"_0000$")
"""What nnU-Net's images end in."""
SHOWN = 5


@dataclass(frozen=True)
class Pair:
    """One case in files.

    Args:
        id: the name of the case.
        prediction: None if there is none.
        reference: the mask to compare with.
        image: the scan, for pictures; None if none was given.
    """

    id: str
    prediction: Path | None
    reference: Path
    image: Path | None = None


@dataclass(frozen=True)
class Matched:
    """Cases by name, and predictions that belong to no reference."""

    pairs: tuple[Pair, ...]
    extra: tuple[Path, ...] = ()


def match(prediction: Path, reference: Path, images: Path | None = None) -> Matched:
    """Two files are one case; two folders are compared by name.

    Names are file names without the suffix of their format. Where they differ, endings such as `_seg` or `_mask` are
    left off on both sides. A reference without a prediction stays a case, which then fails.

    Args:
        prediction, reference: two files or two folders.
        images: the scan, or a folder of scans with the names of the references.

    Raises:
        InputError: a path that does not exist, no mask in a folder, HC18's outlines instead of masks, no name in
            common, two files for one case.
        UsageError: a file and a folder.
    """
    for path in (prediction, reference, *([images] if images else [])):
        if not path.exists():
            raise InputError(f"{path} does not exist", "check the spelling of the path")
    if prediction.is_dir() != reference.is_dir():
        folder, file = (prediction, reference) if prediction.is_dir() else (reference, prediction)
        raise UsageError(f"{folder} is a folder and {file} is a file", "give two files, or two folders")
    if not prediction.is_dir():
        image = images if images is None or images.is_file() else _named(_files(images), case_key(reference))
        return Matched((Pair(case_name(reference), prediction, reference, image),))
    if hc18.is_there(reference):
        raise InputError(
            f"{reference} holds pictures and outlines as HC18 has them, and no masks to compare with",
            f"medseg dataset convert {reference} -o hc18 --to folders, then compare with hc18/masks",
        )
    references, predictions = _masks(reference), _masks(prediction)
    by_name = _by(predictions, case_name, prediction)
    by_key = _by(predictions, case_key, prediction)
    _by(references, case_key, reference)
    scans = _files(images) if images is not None and images.is_dir() else []
    pairs = [
        Pair(
            case_name(each),
            by_name.get(case_name(each)) or by_key.get(case_key(each)),
            each,
            _named(scans, case_key(each)),
        )
        for each in references
    ]
    used = {pair.prediction for pair in pairs}
    if used == {None}:
        raise InputError(
            f"no prediction in {prediction} is named like a reference in {reference}: {_some(predictions)} "
            f"against {_some(references)}",
            "name a prediction like its reference; endings such as _seg and _mask do not matter",
        )
    return Matched(tuple(pairs), tuple(each for each in predictions if each not in used))


def case_key(path: Path) -> str:
    """The name of a file's case: its file name without suffixes and without what names of masks end in."""
    return ENDING.sub("", case_name(path))


def _masks(folder: Path) -> list[Path]:
    """Files of a folder that may be masks, sorted: not the pictures that `medseg segment` puts beside its masks.

    Of a mask that it wrote in several formats, the one that its report names counts.
    """
    again = _other_formats(folder)
    found = [path for path in _files(folder) if path.name not in again]
    found = [path for path in found if not (suffix_of(path) == ".png" and is_preview(path))]
    if not found:
        raise InputError(f"{folder} holds no mask", f"masks end in {', '.join(SUFFIXES)}")
    return found


def _other_formats(folder: Path) -> set[str]:
    """Names of files that reports of medseg in this folder list beside the mask they name."""
    found: set[str] = set()
    for path in sorted(folder.glob("*.json")):
        try:
            report = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            continue
        if isinstance(report, dict) and report.get("schema") == SCHEMA and report["output"].get("mask"):
            written = {each["path"] for each in report["output"].get("files", ())}
            found |= written - {report["output"]["mask"]}
    return found


def _files(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"cannot list {folder}: {error.strerror}", "check its permissions") from error
    return [path for path in files if path.is_file() and not path.name.startswith(".") and suffix_of(path) in SUFFIXES]


def _by(files: list[Path], name: Callable[[Path], str], folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in files:
        if name(path) in found:
            raise InputError(
                f"{folder} holds two masks of one case: {found[name(path)].name} and {path.name}",
                "leave one mask per case in the folder",
            )
        found[name(path)] = path
    return found


def _named(scans: list[Path], key: str) -> Path | None:
    return next((path for path in scans if CHANNEL.sub("", case_name(path)) in (key, f"{key}_0000")), None)


def _some(files: list[Path]) -> str:
    more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
    return ", ".join(path.name for path in files[:SHOWN]) + more
