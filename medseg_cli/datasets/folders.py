"""Scans and masks told apart by folder or by name: `images/` beside `masks/`, or `x.png` with `x_mask.png`."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from medseg_cli.datasets import table
from medseg_cli.datasets.case import Case, Dataset, Finding, Part
from medseg_cli.datasets.channels import CHANNEL
from medseg_cli.datasets.files import LAYOUTS, folders_in, is_scan, scans_in, stem
from medseg_cli.datasets.labels import BESIDE, labels_beside, notes_on
from medseg_cli.errors import InputError

MASK = re.compile(r"_mask(_.*)?$")
"""End of a mask's name without its suffix: `x_mask`, `x_mask_1`, but not `x_masked`."""
IMAGE = re.compile(r"_image$")
"""End of an image's name beside its mask, where it has one: `x_image.nii.gz` with `x_mask.nii.gz`."""
PAIRS: tuple[tuple[str, str, Part], ...] = (
    ("images", "masks", ""),
    ("images", "labels", ""),
    ("imagesTr", "labelsTr", ""),
    ("imagesTs", "labelsTs", "test"),
)


def has_two_folders(folder: Path) -> bool:
    """Whether there are `images/` and `masks/`, or another of `PAIRS`."""
    return any((folder / images).is_dir() and (folder / masks).is_dir() for images, masks, _ in PAIRS)


def has_side_by_side(folder: Path) -> bool:
    """Whether any mask lies in the folder or one folder further down."""
    found = [*folder.glob("*_mask*"), *folder.glob("*/*_mask*")] if folder.is_dir() else []
    return any(is_scan(path) and MASK.search(stem(path)) for path in found)


def two_folders(folder: Path) -> Dataset:
    """`images/x.png` with `masks/x.png`, any formats, or `masks/x_mask.png`, `masks/x_mask_1.png` and so on.

    Raises:
        InputError: a table beside them that holds what cannot be.
    """
    cases: list[Case] = []
    findings: list[Finding] = []
    for images, masks, part in PAIRS:
        if (folder / images).is_dir() and (folder / masks).is_dir():
            found, missing = _paired(scans_in(folder / images), scans_in(folder / masks))
            cases += [replace(case, part=part) for case in found]
            findings += missing
    return _described(folder, cases, findings, "images and masks in two folders")


def side_by_side(folder: Path) -> Dataset:
    """`x.png` with `x_mask.png`, `x_mask_1.png`, in the folder or one folder further down (one per class, say).

    Where the same name recurs in several folders, these are taken for patients.

    Raises:
        InputError: a table beside them that holds what cannot be.
    """
    cases: list[Case] = []
    findings: list[Finding] = []
    for place in (folder, *sorted(folders_in(folder))):
        files = scans_in(place)
        masks = [file for file in files if MASK.search(stem(file))]
        found, missing = _paired([file for file in files if file not in masks], masks)
        cases += found
        findings += missing
    again = {name for name, count in Counter(case.id for case in cases).items() if count > 1}
    if again:
        patients = {case.image.parent for case in cases if case.id in again}
        cases = [_of_patient(case) if case.image.parent in patients else case for case in cases]
    return _described(folder, cases, findings, "masks beside their images")


def _of_patient(case: Case) -> Case:
    name = case.image.parent.name
    return replace(case, id=f"{name}_{case.id}", group=name)


def _paired(images: list[Path], masks: list[Path]) -> tuple[list[Case], list[Finding]]:
    """Masks go to the image of the same name, or of their name up to `_mask`; what is left over is a finding."""
    names = {name: image for image in images for name in (CHANNEL.sub("", stem(image)), IMAGE.sub("", stem(image)))}
    names |= {stem(image): image for image in images}
    of: dict[Path, list[Path]] = {image: [] for image in images}
    findings, lost = [], []
    for mask in masks:
        image = names.get(stem(mask)) or names.get(MASK.sub("", stem(mask)))
        if image is None:
            text = f"{mask}: no image is called like it"
            lost.append(Finding("missing", text, "add the image, or take the mask out", mask))
        else:
            of[image].append(mask)
    cases = []
    for image, mine in of.items():
        if not mine:
            text = f"{image}: no mask is called like {image.name}"
            findings.append(Finding("missing", text, "add the mask, or take the image out", image))
        # One mask: the case is called like its image. Several: each is an object of that image, and a case.
        name = IMAGE.sub("", stem(image)) if mine and MASK.search(stem(mine[0])) else stem(image)
        cases += [Case(name if len(mine) == 1 else stem(mask), image, mask, name) for mask in mine]
    return cases, findings + lost


def _described(folder: Path, cases: list[Case], findings: list[Finding], layout: str) -> Dataset:
    """With what the tables in the folder say about the images."""
    if not cases and not findings:
        raise InputError(f"{folder} holds no image", LAYOUTS)
    facts, notes = table.beside(folder)
    label_map = labels_beside(folder)
    notes += tuple(notes_on(label_map, folder / BESIDE))
    described = []
    for case in cases:
        names = (case.id, case.image.name, stem(case.image))
        stated = next((facts[name] for name in names if name in facts), None)
        described.append(replace(case, ignore=label_map.ignore, **(stated or {})))
    return Dataset(tuple(described), layout, label_map, notes, findings=tuple(findings))
