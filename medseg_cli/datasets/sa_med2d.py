"""SA-Med2D and SAM-UNet: listings `image2label_train.json` and `label2image_test.json`."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.datasets.case import Case, Dataset, Part
from medseg_cli.datasets.facts import modality_of
from medseg_cli.datasets.files import read_json, stem, texts
from medseg_cli.errors import InputError

TRAIN_LISTING, TEST_LISTING = "image2label_train.json", "label2image_test.json"


def is_there(folder: Path) -> bool:
    """Whether a folder has one of the listings, itself or in `train/` or `test/`."""
    places = (TRAIN_LISTING, TEST_LISTING, f"train/{TRAIN_LISTING}", f"test/{TEST_LISTING}")
    return any((folder / place).is_file() for place in places)


def read(folder: Path) -> Dataset:
    """One case per mask; the listings lie in the folder itself, or in its `train/` and `test/`.

    Raises:
        InputError: a listing that holds something else than file names, or none.
    """
    cases: list[Case] = []
    for listing in (folder / TRAIN_LISTING, folder / "train" / TRAIN_LISTING):
        if listing.is_file():
            facts = read_json(listing)
            pairs = [(image, mask) for image, masks in facts.items() for mask in texts(listing, masks)]
            cases += [_case(folder, image, mask, "") for image, mask in pairs]
    for listing in (folder / TEST_LISTING, folder / "test" / TEST_LISTING):
        if listing.is_file():
            facts = read_json(listing)
            images = texts(listing, list(facts.values()))
            cases += [_case(folder, image, mask, "test") for mask, image in zip(facts, images, strict=True)]
    if not cases:
        raise InputError(f"{folder} lists no mask in {TRAIN_LISTING} or {TEST_LISTING}")
    return Dataset(tuple(cases), "SA-Med2D")


def _case(folder: Path, image: str, mask: str, part: Part) -> Case:
    """A case of the listings, whose paths start at the folder or at any of its parents."""
    group, modality = stem(Path(image)), ""
    if group.count("--") >= 2:
        # SA-Med2D's own names: modality--dataset--case--axis_slice; slices of one patient belong together.
        modality = modality_of(group.split("_")[0])
        group = "--".join(group.split("--")[:3])
    return Case(Path(mask).stem, _below(folder, image), _below(folder, mask), group, part, modality)


def _below(folder: Path, listed: str) -> Path:
    """The file of a listing: its path may begin with folders that are above ours. It never leaves ours."""
    parts = [part for part in Path(listed).parts if part not in ("/", "..")]
    tails = [folder.joinpath(*parts[start:]) for start in range(len(parts))]
    return next((path for path in tails if path.is_file()), folder.joinpath(*parts))
