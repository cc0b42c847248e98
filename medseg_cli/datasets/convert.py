"""A dataset written anew in another layout: files are copied byte by byte where the layout takes them, else re-encoded.

Neither voxels nor geometry change. Everything is made in a hidden folder beside the output and moved when complete.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets import listings, pairs
from medseg_cli.datasets.case import Case, Dataset
from medseg_cli.datasets.files import stem
from medseg_cli.datasets.listings import Target, Written
from medseg_cli.errors import InputError
from medseg_cli.readers.detect import detect
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import image2d, scan_file, volume
from medseg_cli.writers.atomic import atomic_folder

ONE_FILE = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgh", ".mgz", ".gipl", ".gipl.gz", ".png", ".jpg", ".jpeg", ".bmp")
"""Suffixes of formats that are one file, which can be copied."""
TAKES: dict[Target, tuple[str, ...]] = {
    "nnunet": (".nii.gz", ".nrrd", ".mha", ".png", ".bmp", ".tif"),
    "msd": (".nii.gz", ".nii", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"),
    "monai": (*ONE_FILE, ".tif", ".tiff"),
    "folders": (*ONE_FILE, ".tif", ".tiff"),
    "csv": (*ONE_FILE, ".tif", ".tiff"),
}
"""Suffixes that a layout's own tools read."""
FOLDERS: dict[Target, tuple[str, str]] = {
    "nnunet": ("imagesTr", "labelsTr"),
    "msd": ("imagesTr", "labelsTr"),
    "monai": ("images", "labels"),
    "folders": ("images", "masks"),
    "csv": ("images", "labels"),
}
SHARED: tuple[Target, ...] = ("msd", "monai", "csv")
"""Layouts in which several masks may name one image."""
UNSAFE = re.compile(r"[/\\:*?\"<>|\x00-\x1f]")
"""What cannot be part of a file's name on every system."""


@dataclass(frozen=True)
class Plan:
    """How a dataset's files are to look.

    Args:
        to: the layout.
        ending: of every file where the layout wants one for all; "" where each keeps its own.
        names: case id → name of its files.
    """

    to: Target
    ending: str
    names: dict[str, str]


def convert(
    dataset: Dataset,
    source: Path,
    output: Path,
    to: Target,
    overwrite: bool = False,
    tell: Callable[[Case], None] = lambda case: None,
) -> list[str]:
    """Write a dataset in another layout.

    Args:
        dataset: of `read_dataset`.
        source: where it was read from.
        output: folder to make.
        to: its layout.
        overwrite: whether `output` may replace a folder that an earlier conversion made.
        tell: called before each case.

    Returns:
        What the user should know, one sentence each.

    Raises:
        InputError: an unreadable case, what the layout cannot hold, or an output that may not or cannot be written.
    """
    _check_output(output, source, dataset, overwrite)
    if any(case.captioned for case in dataset.cases):
        raise InputError(f"{source} holds captions and no masks", "the layouts to convert to are for masks")
    if to not in ("nnunet", "monai") and any(case.channels for case in dataset.cases):
        raise InputError(
            f"{source} has images of several files, one per channel, and {to} knows one file per image",
            "--to nnunet or --to monai keeps all channels",
        )
    plan = Plan(to, _common_ending(dataset) if to == "nnunet" else "", _names(dataset))
    with atomic_folder(output) as folder:
        written: list[Written] = []
        placed: dict[tuple[Path, int | None], list[str]] = {}
        for case in dataset.cases:
            tell(case)
            written.append(_write_case(case, dataset, plan, folder, placed))
        return listings.describe(dataset, written, to, plan.ending, folder)


def _write_case(
    case: Case, dataset: Dataset, plan: Plan, folder: Path, placed: dict[tuple[Path, int | None], list[str]]
) -> Written:
    """One case's files, as paths below `folder`."""
    scan = pairs.open_image(case, read_file)
    label = pairs.open_label(case, read_file)
    problem = next(pairs.problems(case, scan, label), None)
    if problem is not None:
        raise problem.error()
    end = "Ts" if case.part == "test" and plan.to in ("nnunet", "msd") else ""
    images, labels = (name.replace("Tr", end) if end else name for name in FOLDERS[plan.to])
    key = (case.image, case.channel)
    if plan.to not in SHARED or key not in placed:
        placed[key] = _write_images(case, scan, dataset, plan, folder / images)
    values = pairs.label_values(replace(case, ignore=None), label)
    name = _write_label(case, scan, label, values, plan, folder / labels)
    there = tuple(pairs.count_values(values))
    return Written(case, plan.names[case.id], tuple(placed[key]), f"{labels}/{name}", there)


def _write_images(case: Case, scan: Scan, dataset: Dataset, plan: Plan, folder: Path) -> list[str]:
    """The image, or one file per channel; the paths below the dataset's folder."""
    folder.mkdir(exist_ok=True)
    several = len(dataset.channel_names) if case.channel is not None and plan.to == "nnunet" else 1
    sources: list[tuple[Path, Scan | None]] = [(path, None) for path in case.channels or (case.image,)]
    if several > 1:
        sources = [
            (case.image, pairs.open_image(replace(case, channel=number), read_file)) for number in range(several)
        ]
    elif case.channel is not None and plan.to in ("folders", "nnunet"):
        # Neither has a place to say which volume of a 4-D file is meant.
        sources = [(case.image, scan)]
    names = []
    for number, (path, decoded) in enumerate(sources):
        marked = plan.to == "nnunet" or len(sources) > 1
        name = f"{plan.names[case.id]}_{number:04d}" if marked else plan.names[case.id]
        if decoded is None and _copyable(path, plan):
            name += _suffix(path)
            shutil.copyfile(path, folder / name)
        else:
            found = decoded or (scan if path == case.image else read_file(path, pairs.ReadOptions()))
            name += plan.ending or (".png" if scan_file.fits_png(found) else ".nii.gz")
            scan_file.write(found, folder / name)
        names.append(f"{folder.name}/{name}")
    return names


def _write_label(case: Case, scan: Scan, label: Scan, values: NDArray[np.int64], plan: Plan, folder: Path) -> str:
    """The label file's name in `folder`."""
    folder.mkdir(exist_ok=True)
    name = plan.names[case.id]
    as_stored = np.array_equal(values, np.rint(label.voxels[0]))
    # White on black is a label map to medseg alone; tools that count classes want its values.
    drawn = plan.to in ("folders", "csv") and not case.binary and not case.outline
    if _copyable(case.label, plan) and (as_stored or drawn):
        shutil.copyfile(case.label, folder / (name + _suffix(case.label)))
        return name + _suffix(case.label)
    if int(values.max(initial=0)) > np.iinfo(np.uint16).max:
        raise InputError(f"{case.label} holds the value {values.max()}, above 65535", "renumber its values first")
    wide = int(values.max(initial=0)) > np.iinfo(np.uint8).max
    mask: NDArray[np.unsignedinteger[Any]] = values.astype(np.uint16 if wide else np.uint8)
    own = Segmentation(mask, tuple(Label(each, str(each)) for each in pairs.count_values(values)), scan)
    name += plan.ending or (".png" if scan.is_picture else ".nii.gz")
    if name.endswith(".png"):
        image2d.write(own, folder / name, values="labels")
    else:
        volume.write(own, folder / name)
    return name


def _copyable(path: Path, plan: Plan) -> bool:
    suffix = _suffix(path).lower()
    return path.is_file() and suffix in TAKES[plan.to] and plan.ending in ("", suffix)


def _suffix(path: Path) -> str:
    return path.name[len(stem(path)) :]


def _common_ending(dataset: Dataset) -> str:
    """The one ending that nnU-Net wants of all images and masks."""
    files = {file for case in dataset.cases for file in (case.image, *case.channels, case.label)}
    endings = {_suffix(file).lower() if file.is_file() else "" for file in files}
    if len(endings) == 1 and endings <= set(TAKES["nnunet"]):
        return endings.pop()
    pictures = all(file.is_file() and detect(file).format == "image" for file in files)
    return ".png" if pictures else ".nii.gz"


def _names(dataset: Dataset) -> dict[str, str]:
    """Case id → a name that is safe as a file's; the id itself where it is."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for case in dataset.cases:
        name = UNSAFE.sub("_", case.id).strip(" .") or "case"
        while name in taken:
            name += "_"
        names[case.id] = name
        taken.add(name)
    return names


def _check_output(output: Path, source: Path, dataset: Dataset, overwrite: bool) -> None:
    """Whether the folder may be made, asked before any work is done for it.

    Raises:
        InputError: it holds something, or lies in the dataset or round it.
    """
    here, there = output.resolve(), source.resolve()
    files = {file.resolve() for case in dataset.cases for file in (case.image, case.label)}
    holds = any(here == file or here in file.parents for file in (there, *files))
    if holds or (there.is_dir() and there in here.parents):
        raise InputError(f"{output} and the dataset {source} lie in one another", "choose a folder elsewhere")
    if not output.parent.is_dir():
        raise InputError(f"cannot write {output}: there is no folder {output.parent}", "create the folder first")
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file", "choose another name")
    held = {path.name for path in output.iterdir()}
    if held and not overwrite:
        raise InputError(f"{output} exists already and is not empty", "choose another name, or add --overwrite")
    foreign = sorted(held - listings.OURS)
    if foreign:
        raise InputError(
            f"{output} holds {foreign[0]}, which no conversion makes: it is not replaced", "choose another name"
        )
