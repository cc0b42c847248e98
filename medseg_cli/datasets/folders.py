"""Scans and masks told apart by folder or by name: `images/` beside `masks/`, or `x.png` with `x_mask.png`."""

from __future__ import annotations

import re
from pathlib import Path

from medseg_cli.datasets.case import Case
from medseg_cli.datasets.files import LAYOUTS, folders_in, is_scan, scans_in, stem
from medseg_cli.errors import InputError

MASK = re.compile(r"_mask(_.*)?$")
"""End of a mask's name without its suffix: `x_mask`, `x_mask_1`, but not `x_masked`."""


def has_two_folders(folder: Path) -> bool:
    """Whether there are `images/` and `masks/`."""
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def has_side_by_side(folder: Path) -> bool:
    """Whether any mask lies in the folder or one folder further down."""
    found = [*folder.glob("*_mask*"), *folder.glob("*/*_mask*")] if folder.is_dir() else []
    return any(is_scan(path) and MASK.search(stem(path)) for path in found)


def two_folders(folder: Path) -> list[Case]:
    """`images/x.png` with `masks/x.png`, any formats, or `masks/x_mask.png`, `masks/x_mask_1.png` and so on."""
    return _paired(scans_in(folder / "images"), scans_in(folder / "masks"), folder)


def side_by_side(folder: Path) -> list[Case]:
    """`x.png` with `x_mask.png`, `x_mask_1.png`, in the folder or one folder further down (one per class, say)."""
    files = [file for place in (folder, *sorted(folders_in(folder))) for file in scans_in(place)]
    masks = [file for file in files if MASK.search(stem(file))]
    return _paired([file for file in files if file not in masks], masks, folder)


def _paired(images: list[Path], masks: list[Path], folder: Path) -> list[Case]:
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(MASK.sub("", stem(mask)), []).append(mask)
    cases = []
    for image in images:
        mine = by_stem.get(stem(image), [])
        if not mine:
            raise InputError(f"{folder}: no mask is called like {image.name}", LAYOUTS)
        # One mask: the case is called like its image. Several: each is an object of that image, and a case.
        cases += [Case(stem(image if len(mine) == 1 else mask), image, mask, stem(image)) for mask in mine]
    if not cases:
        raise InputError(f"{folder} holds no image", LAYOUTS)
    return cases
