"""`Case`: one scan with one label file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Case:
    """One scan with one label file.

    Args:
        id: names the case among all of its dataset: the image's file name without suffixes, the mask's in layouts where
            an image has several masks.
        image, label: the two files, on the same grid.
        group: cases of one group show the same patient or image and stay on the same side of every split; "" = `id`.
        part: "test" for a case that the dataset itself holds back, "" where it leaves the split to us.
        modality: DICOM code that the dataset states for files which do not say it themselves; "" = none.
        channels: all files of an image that has one per channel (nnU-Net's `_0000`, `_0001` ...), the first of which is
            `image`; () = one file.
        fold: number of the fold that the dataset puts the case into (0-based); None = it names no folds.
        caption: what the dataset says about the case in words.
        spacing: voxel size in mm along i, j, k that the dataset states for pictures, whose files do not; None = it does
            not say.
    """

    id: str
    image: Path
    label: Path
    group: str = ""
    part: Literal["", "test"] = ""
    modality: str = ""
    channels: tuple[Path, ...] = ()
    fold: int | None = None
    caption: str = ""
    spacing: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Dataset:
    """All cases of a dataset and what it says about them.

    Args:
        cases: sorted by id.
        labels: value → name of every class that the dataset names, without background; empty where it names none.
        layout: in which layout they were found, in words.
        notes: what was chosen or assumed while reading, one sentence each.
    """

    cases: tuple[Case, ...]
    labels: dict[int, str] = field(default_factory=dict)
    layout: str = ""
    notes: tuple[str, ...] = ()
