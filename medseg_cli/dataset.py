"""Training and evaluation cases from a folder, and their split. Layout: Medical Segmentation Decathlon."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg_cli.errors import InputError


@dataclass(frozen=True)
class Case:
    """One scan with its label map: `id` is the image's file name without suffixes."""

    id: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Split:
    """Cases by their use; the three are disjoint."""

    train: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...]


def read_cases(folder: Path) -> tuple[Case, ...]:
    """Cases of a Medical Segmentation Decathlon folder, sorted by id.

    Raises:
        InputError: no dataset.json, not that layout, or a file that it names is missing.
    """
    listing = folder / "dataset.json"
    if not listing.is_file():
        raise InputError(
            f"{folder} holds no dataset.json", "give a folder in the Medical Segmentation Decathlon layout"
        )
    try:
        entries = json.loads(listing.read_text(encoding="utf-8"))["training"]
        cases = [_case(folder, entry) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{listing} is not a Medical Segmentation Decathlon listing: {error!r}",
            'it needs "training": [{"image": ..., "label": ...}, ...]',
        ) from error
    if not cases:
        raise InputError(f"{listing} lists no training case")
    for case in cases:
        for file in (case.image, case.label):
            if not file.is_file():
                raise InputError(f"{listing} names {file}, which does not exist")
    return tuple(sorted(cases, key=lambda case: case.id))


def _case(folder: Path, entry: dict[str, str]) -> Case:
    image = folder / entry["image"]
    return Case(image.name.split(".")[0], image, folder / entry["label"])


def split_cases(cases: tuple[Case, ...], seed: int, test: float = 0.15, validation: float = 0.07) -> Split:
    """A seeded split by case id; the same ids and seed give the same split on every machine.

    Args:
        cases: all cases.
        seed: seed of the permutation of the sorted ids.
        test, validation: shares of the cases, at least one case each when there are three or more.
    """
    if len(cases) < 3:
        raise InputError(f"{len(cases)} cases cannot be split into train, validation and test", "give at least 3 cases")
    order = np.random.default_rng(seed).permutation(len(cases))
    shuffled = [sorted(cases, key=lambda case: case.id)[index] for index in order]
    n_test, n_validation = max(1, round(test * len(cases))), max(1, round(validation * len(cases)))
    return Split(
        tuple(shuffled[n_test + n_validation :]),
        tuple(shuffled[n_test : n_test + n_validation]),
        tuple(shuffled[:n_test]),
    )
