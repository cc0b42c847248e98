"""Which scan goes with which label file, in the folder layouts that people have.

Medical Segmentation Decathlon and nnU-Net (`dataset.json`), SA-Med2D and SAM-UNet (`image2label_train.json`), a folder
with `images/` and `masks/`, and a folder where `x_mask.png` lies beside `x.png`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from medseg_cli.errors import InputError

TRAIN_LISTING, TEST_LISTING = "image2label_train.json", "label2image_test.json"
LAYOUTS = (
    "known layouts: dataset.json of the Medical Segmentation Decathlon or nnU-Net, image2label_train.json of "
    "SA-Med2D, a folder images/ beside masks/ with equal file names, or x.png with x_mask.png"
)
MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT", "US": "US"}
"""Names of a first channel in `dataset.json` that are one of DICOM's codes; others ("T1", "z-score") say nothing."""
FORMAT_SUFFIXES = (".nii.gz", ".gipl.gz")
MASK = re.compile(r"_mask(_.*)?$")
"""End of a mask's name without its suffix: `x_mask`, `x_mask_1`, but not `x_masked`."""


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
    """

    id: str
    image: Path
    label: Path
    group: str = ""
    part: Literal["", "test"] = ""
    modality: str = ""


def read_cases(folder: Path) -> tuple[Case, ...]:
    """Cases of a folder in any of the layouts, sorted by id.

    Raises:
        InputError: no known layout, a damaged listing, a listed file that is missing, or no case at all.
    """
    found = next((read(folder) for test, read in _READERS if test(folder)), None)
    if found is None:
        raise InputError(f"{folder} holds no dataset.json and nothing else that tells scans from masks", LAYOUTS)
    cases = tuple(sorted(found, key=lambda case: case.id))
    for case in cases:
        for file in (case.image, case.label):
            if not file.is_file():
                raise InputError(f"{folder} lists {file}, which does not exist")
    ids = [case.id for case in cases]
    twice = next((name for name, after in pairwise(ids) if name == after), None)
    if twice is not None:
        raise InputError(f"{folder} holds two cases called {twice}", "rename one image and its mask")
    return cases


def _decathlon(folder: Path) -> list[Case]:
    """`dataset.json` with a list of pairs, or nnU-Net's without one: imagesTr/x_0000.nii.gz with labelsTr/x.nii.gz.

    An entry of the list may name its `id`, `group` and `modality` besides `image` and `label`.
    """
    listing = folder / "dataset.json"
    facts = _json(listing)
    try:
        channels = facts.get("modality") or facts.get("channel_names") or {}
        modality = MODALITIES.get(str(channels.get("0", "")).upper(), "")
        if "training" in facts:
            cases = [
                Case(
                    str(entry.get("id", _stem(folder / entry["image"]))),
                    folder / entry["image"],
                    folder / entry["label"],
                    str(entry.get("group", "")),
                    modality=entry.get("modality", modality),
                )
                for entry in facts["training"]
            ]
        else:
            ending = facts["file_ending"]
            labels = sorted((folder / "labelsTr").glob(f"*{ending}"))
            stems = [label.name.removesuffix(ending) for label in labels]
            images = [folder / "imagesTr" / f"{stem}_0000{ending}" for stem in stems]
            cases = [
                Case(stem, image, label, modality=modality)
                for stem, image, label in zip(stems, images, labels, strict=True)
            ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{listing} is not a Medical Segmentation Decathlon listing: {error!r}",
            'it needs "training": [{"image": ..., "label": ...}, ...], or nnU-Net\'s "file_ending" with imagesTr/',
        ) from error
    if not cases:
        raise InputError(f"{listing} lists no training case")
    return cases


def _sa_med2d(folder: Path) -> list[Case]:
    """One case per mask; the listings lie in the folder itself, or in its `train/` and `test/`."""
    cases: list[Case] = []
    for listing in (folder / TRAIN_LISTING, folder / "train" / TRAIN_LISTING):
        if listing.is_file():
            facts = _json(listing)
            pairs = [(image, mask) for image, masks in facts.items() for mask in _texts(listing, masks)]
            cases += [_listed(folder, image, mask, "") for image, mask in pairs]
    for listing in (folder / TEST_LISTING, folder / "test" / TEST_LISTING):
        if listing.is_file():
            facts = _json(listing)
            images = _texts(listing, list(facts.values()))
            cases += [_listed(folder, image, mask, "test") for mask, image in zip(facts, images, strict=True)]
    if not cases:
        raise InputError(f"{folder} lists no mask in {TRAIN_LISTING} or {TEST_LISTING}")
    seen = {case.group for case in cases if not case.part} & {case.group for case in cases if case.part}
    if seen:
        raise InputError(f"{folder}: {min(seen)} is listed for training and for testing", "list it once")
    return cases


def _listed(folder: Path, image: str, mask: str, part: Literal["", "test"]) -> Case:
    """A case of the listings, whose paths start at the folder or at any of its parents."""
    group = _stem(Path(image))
    if group.count("--") >= 2:
        # SA-Med2D's own names: modality--dataset--case--axis_slice; slices of one patient belong together.
        group = "--".join(group.split("--")[:3])
    return Case(Path(mask).stem, _below(folder, image), _below(folder, mask), group, part)


def _below(folder: Path, listed: str) -> Path:
    """The file of a listing: its path may begin with folders that are above ours."""
    parts = [part for part in Path(listed).parts if part not in ("/", "..")]
    tails = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in tails if path.is_file()), folder / listed)


def _two_folders(folder: Path) -> list[Case]:
    """`images/x.png` with `masks/x.png`, any formats, or `masks/x_mask.png`, `masks/x_mask_1.png` and so on."""
    return _paired(_files(folder / "images"), _files(folder / "masks"), folder)


def _side_by_side(folder: Path) -> list[Case]:
    """`x.png` with `x_mask.png`, `x_mask_1.png`, in the folder or one folder further down (one per class, say)."""
    files = [file for place in (folder, *sorted(_folders(folder))) for file in _files(place)]
    masks = [file for file in files if MASK.search(_stem(file))]
    return _paired([file for file in files if file not in masks], masks, folder)


def _paired(images: list[Path], masks: list[Path], folder: Path) -> list[Case]:
    by_stem: dict[str, list[Path]] = {}
    for mask in masks:
        by_stem.setdefault(MASK.sub("", _stem(mask)), []).append(mask)
    cases = []
    for image in images:
        mine = by_stem.get(_stem(image), [])
        if not mine:
            raise InputError(f"{folder}: no mask is called like {image.name}", LAYOUTS)
        # One mask: the case is called like its image. Several: each is an object of that image, and a case.
        cases += [Case(_stem(image if len(mine) == 1 else mask), image, mask, _stem(image)) for mask in mine]
    if not cases:
        raise InputError(f"{folder} holds no image", LAYOUTS)
    return cases


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and _is_scan(path))


def _folders(folder: Path) -> Iterable[Path]:
    return (path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_scan(path: Path) -> bool:
    """Whether a file may be a scan or a mask: lists, licences and tables are not."""
    return not path.name.startswith(".") and path.suffix.lower() not in (".md", ".txt", ".csv", ".json", ".yaml", "")


def _stem(path: Path) -> str:
    """File name without the suffix of its format, as in `scan` for `scan.nii.gz`."""
    name = path.name
    double = next((suffix for suffix in FORMAT_SUFFIXES if name.lower().endswith(suffix)), None)
    return name[: -len(double)] if double else path.stem


def _json(listing: Path) -> dict[str, Any]:
    try:
        facts = json.loads(listing.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{listing} is not a Medical Segmentation Decathlon listing: {error}", LAYOUTS) from error
    if not isinstance(facts, dict):
        raise InputError(f"{listing} is not a listing: it holds a {type(facts).__name__}", LAYOUTS)
    return facts


def _texts(listing: Path, values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise InputError(f"{listing} holds {values!r} where file names are expected", LAYOUTS)
    return values


def _has_side_by_side(folder: Path) -> bool:
    found = [*folder.glob("*_mask*"), *folder.glob("*/*_mask*")] if folder.is_dir() else []
    return any(_is_scan(path) and MASK.search(_stem(path)) for path in found)


_READERS: tuple[tuple[Callable[[Path], bool], Callable[[Path], list[Case]]], ...] = (
    (lambda folder: (folder / "dataset.json").is_file(), _decathlon),
    (
        lambda folder: any(
            (folder / place).is_file()
            for place in (TRAIN_LISTING, TEST_LISTING, f"train/{TRAIN_LISTING}", f"test/{TEST_LISTING}")
        ),
        _sa_med2d,
    ),
    (lambda folder: (folder / "images").is_dir() and (folder / "masks").is_dir(), _two_folders),
    (_has_side_by_side, _side_by_side),
)
