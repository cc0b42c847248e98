"""What a dataset is made of: cases, what it says about them, and what is wrong with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medseg_cli.errors import InputError

Part = Literal["", "train", "validation", "test"]


@dataclass(frozen=True)
class Case:
    """One scan with one label file, or one picture with a caption and no labels.

    Args:
        id: names the case among all of its dataset: the image's file name without suffixes, the mask's in layouts where
            an image has several masks.
        image, label: the two files, on the same grid; one and the same file where it holds both (npz), and where
            there is a caption alone.
        group: cases of one group show the same patient or image and stay on the same side of every split; "" = `id`.
        part: what the dataset itself uses the case for, "" where it leaves that to us.
        modality: DICOM code that the dataset states for files which do not say it themselves; "" = none.
        channels: all files of an image that has one per channel (nnU-Net's `_0000`, `_0001` ...), of which `image` is
            read; () = one file.
        channel: the volume of a 4-D `image` that is read (0-based); None = the image is no 4-D file.
        fold: number of the fold that the dataset puts the case into (0-based); None = it names no folds.
        caption: what the dataset says about the case in words; several phrasings of it stand in lines of their own.
        spacing: voxel size in mm along i, j, k that the dataset states for a picture, whose file does not; None = it
            does not say.
        ignore: label value of voxels that nobody labelled; None = there is none.
        binary: whether every value above 0 means one object, value 1.
        outline: whether the label file shows the object's border as a line; what it encloses is the object, value 1.
        circumference: of the one object in mm, as people measured it (HC18's head circumferences); None = not stated.
    """

    id: str
    image: Path
    label: Path
    group: str = ""
    part: Part = ""
    modality: str = ""
    channels: tuple[Path, ...] = ()
    channel: int | None = None
    fold: int | None = None
    caption: str = ""
    spacing: tuple[float, float, float] | None = None
    ignore: int | None = None
    binary: bool = False
    outline: bool = False
    circumference: float | None = None

    @property
    def patient(self) -> str:
        """What stays together in a split: the group, or the case alone."""
        return self.group or self.id

    @property
    def captioned(self) -> bool:
        """Whether words are all that the dataset says about the image: there is no mask."""
        return bool(self.caption) and self.label == self.image and self.image.suffix.lower() != ".npz"

    @property
    def phrasings(self) -> tuple[str, ...]:
        """The caption's phrasings."""
        return tuple(line.strip() for line in self.caption.splitlines() if line.strip())


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a dataset, as one line for people.

    Args:
        kind: a word for scripts, as docs/datasets.md lists them.
        text: what, which file and why.
        remedy: what to do about it.
        file: the file that it is about; None for the dataset as a whole.
    """

    kind: str
    text: str
    remedy: str
    file: Path | None = None

    def error(self) -> InputError:
        """The same as an error, for commands that cannot go on."""
        return InputError(self.text, self.remedy)


@dataclass(frozen=True)
class LabelMap:
    """What the values of a dataset's masks mean.

    Args:
        names: value → name of every class, without background; empty where the dataset names none.
        regions: name → values of nnU-Net's classes that are unions of values; empty where it has none.
        region_order: nnU-Net's `regions_class_order`, () where there is none.
        ignore: value of voxels that nobody labelled; None = there is none.
    """

    names: dict[int, str] = field(default_factory=dict)
    regions: dict[str, tuple[int, ...]] = field(default_factory=dict)
    region_order: tuple[int, ...] = ()
    ignore: int | None = None


@dataclass(frozen=True)
class Dataset:
    """All cases of a dataset and what it says about them.

    Args:
        cases: sorted by id.
        layout: in which layout they were found, in words.
        label_map: what the values of the masks mean.
        notes: what was chosen or assumed while reading, one sentence each.
        findings: what is wrong with the listing: files that are missing, cases listed twice.
        channel_names: what an image's channels show, in order; () where the dataset does not say.
    """

    cases: tuple[Case, ...]
    layout: str
    label_map: LabelMap = field(default_factory=LabelMap)
    notes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    channel_names: tuple[str, ...] = ()

    @property
    def labels(self) -> dict[int, str]:
        """Value → name of every class that the dataset names, without background; empty where it names none."""
        return self.label_map.names
