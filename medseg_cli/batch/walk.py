"""The files of a folder that may be scans, and what was passed over on the way."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medseg_cli.batch.bids import Bids
from medseg_cli.batch.names import stem
from medseg_cli.batch.patterns import matches
from medseg_cli.errors import InputError

BATCH_OUTPUT = ".medseg"
"""The folder that `medseg batch` keeps in its output."""
REPORT_MARK = b'"medseg-segmentation/'
REPORT_HEAD = 200
"""Bytes in which a report of ours says what it is."""
LABEL_FOLDERS = frozenset({"labelsTr", "labelsTs", "labelsVal"})
LABEL_FOLDERS_BESIDE = {"masks", "labels", "segmentations"}
IMAGE_FOLDERS = ("images", "imagesTr", "imagesTs")
MASK_BESIDE = re.compile(r"[_-](mask(_.*)?|seg|segmentation|labels?)$|(?<=HC)_Annotation$")
"""End of the name of a mask that lies beside its scan, or of HC18's outline."""
HIDDEN, OURS, OUT, LABELS, BESIDE, EXCLUDED = (
    "hidden",
    "outputs of medseg",
    "in the output folder",
    "in folders of masks (labelsTr, masks beside images...)",
    "masks beside their scans",
    "named by --exclude",
)


@dataclass(frozen=True)
class Selection:
    """What the user wants of a folder.

    Args:
        include: patterns; where there are any, they alone say what is a scan and what is a mask. () takes everything.
        exclude: patterns of what is not even opened.
        out: folder of the run's outputs.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    out: Path | None = None


@dataclass
class Walked:
    """What a folder holds.

    Args:
        files: that may be scans, in the order they were found.
        left_out: why in words → how many files or folders.
        closed: (folder, error) of folders that cannot be opened.
    """

    files: list[Path] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    closed: list[tuple[Path, InputError]] = field(default_factory=list)


def walk(root: Path, wanted: Selection, bids: Bids | None = None) -> Walked:
    """All files below `root` that may be scans.

    A link to a folder is followed once, and not where the folder is met on its own; so links in a circle end.
    """
    found = Walked()
    inside = root.resolve()
    seen: set[tuple[int, int]] = set()
    out = wanted.out.resolve() if wanted.out is not None else None
    for folder, folders, names in _folders(root, inside, seen, found):
        relative = folder.relative_to(root).as_posix()
        below = "" if relative == "." else f"{relative}/"
        entered = [name for name in folders if _enters(folder / name, below + name, folders, out, wanted, found)]
        folders[:] = entered
        reported = {
            stem_ for name in names if (stem_ := name.removesuffix(".json")) != name and _is_report(folder / name)
        }
        stems = {stem(name) for name in names}
        for name in names:
            why = _why_not(name, below, reported, stems, wanted) or (
                "" if wanted.include or bids is None else _by_bids(bids, folder / name)
            )
            if why:
                found.left_out[why] += 1
            else:
                found.files.append(folder / name)
    return found


def _folders(
    root: Path, inside: Path, seen: set[tuple[int, int]], found: Walked
) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, sorted; each real folder once, and links into `inside` never."""

    def refuse(error: OSError) -> None:
        message = f"{error.filename} cannot be opened: {error.strerror}"
        found.closed.append((Path(error.filename), InputError(message, "check its permissions, or --exclude it")))

    for parent, folders, names in os.walk(root, onerror=refuse, followlinks=True):
        folder = Path(parent)
        if folder.is_symlink() and folder != root and folder.resolve().is_relative_to(inside):
            folders.clear()
            continue
        facts = folder.stat()
        if (facts.st_dev, facts.st_ino) in seen:
            folders.clear()
            continue
        seen.add((facts.st_dev, facts.st_ino))
        folders.sort()
        yield folder, folders, sorted(names)


def _enters(path: Path, relative: str, beside: list[str], out: Path | None, wanted: Selection, found: Walked) -> bool:
    """Whether a folder is looked into; if not, that is counted."""
    why = ""
    if path.name.startswith("."):
        why = OURS if path.name.startswith(BATCH_OUTPUT) else HIDDEN
    elif matches(relative, wanted.exclude):
        why = EXCLUDED
    elif out is not None and path.resolve() == out:
        why = OUT
    elif (path / BATCH_OUTPUT / "cases").is_dir():
        why = OURS
    elif not wanted.include and _holds_labels(path.name, beside):
        why = LABELS
    if why:
        found.left_out[why] += 1
    return not why


def _holds_labels(name: str, beside: list[str]) -> bool:
    return name in LABEL_FOLDERS or (name in LABEL_FOLDERS_BESIDE and any(each in beside for each in IMAGE_FOLDERS))


def _why_not(name: str, below: str, reported: set[str], stems: set[str], wanted: Selection) -> str:
    """Why a file is no scan, as far as names tell; "" where they do not."""
    if name.startswith("."):
        return OURS if name.startswith(BATCH_OUTPUT) else HIDDEN
    if matches(below + name, wanted.exclude):
        return EXCLUDED
    bare = stem(name.removesuffix(".json"))
    if any(bare in (each, *_beside(each)) or bare.startswith(f"{each}.") for each in reported):
        return OURS
    if (
        not wanted.include
        and (end := MASK_BESIDE.search(bare))
        and stems & {bare[: end.start()], f"{bare[: end.start()]}_image"}
    ):
        return BESIDE
    return ""


def _beside(report: str) -> tuple[str, str]:
    """What other outputs of a case are called whose report is `x_seg.json` or `x.json`."""
    return f"{report}_preview", f"{report.removesuffix('_seg')}_rtstruct"


def _by_bids(bids: Bids, path: Path) -> str:
    relative = path.absolute().relative_to(bids.root.absolute()).as_posix()
    return bids.leaves_out(relative, stem(path.name))


def _is_report(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return REPORT_MARK in file.read(REPORT_HEAD)
    except OSError:
        return False
