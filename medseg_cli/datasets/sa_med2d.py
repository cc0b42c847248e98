"""SA-Med2D and SAM-UNet: listings `image2label_train.json` and `label2image_test.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from medseg_cli.datasets.case import Case
from medseg_cli.datasets.files import read_json, stem, texts
from medseg_cli.errors import InputError

TRAIN_LISTING, TEST_LISTING = "image2label_train.json", "label2image_test.json"


def is_there(folder: Path) -> bool:
    """Whether a folder has one of the listings, itself or in `train/` or `test/`."""
    places = (TRAIN_LISTING, TEST_LISTING, f"train/{TRAIN_LISTING}", f"test/{TEST_LISTING}")
    return any((folder / place).is_file() for place in places)


def read(folder: Path) -> list[Case]:
    """One case per mask; the listings lie in the folder itself, or in its `train/` and `test/`."""
    cases: list[Case] = []
    for listing in (folder / TRAIN_LISTING, folder / "train" / TRAIN_LISTING):
        if listing.is_file():
            facts = read_json(listing)
            pairs = [(image, mask) for image, masks in facts.items() for mask in texts(listing, masks)]
            cases += [_listed(folder, image, mask, "") for image, mask in pairs]
    for listing in (folder / TEST_LISTING, folder / "test" / TEST_LISTING):
        if listing.is_file():
            facts = read_json(listing)
            images = texts(listing, list(facts.values()))
            cases += [_listed(folder, image, mask, "test") for mask, image in zip(facts, images, strict=True)]
    if not cases:
        raise InputError(f"{folder} lists no mask in {TRAIN_LISTING} or {TEST_LISTING}")
    seen = {case.group for case in cases if not case.part} & {case.group for case in cases if case.part}
    if seen:
        raise InputError(f"{folder}: {min(seen)} is listed for training and for testing", "list it once")
    return cases


def _listed(folder: Path, image: str, mask: str, part: Literal["", "test"]) -> Case:
    """A case of the listings, whose paths start at the folder or at any of its parents."""
    group = stem(Path(image))
    if group.count("--") >= 2:
        # SA-Med2D's own names: modality--dataset--case--axis_slice; slices of one patient belong together.
        group = "--".join(group.split("--")[:3])
    return Case(Path(mask).stem, _below(folder, image), _below(folder, mask), group, part)


def _below(folder: Path, listed: str) -> Path:
    """The file of a listing: its path may begin with folders that are above ours."""
    parts = [part for part in Path(listed).parts if part not in ("/", "..")]
    tails = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in tails if path.is_file()), folder / listed)
