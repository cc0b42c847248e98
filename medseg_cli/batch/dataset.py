"""A dataset's own list as INPUT: its images of training, validation and test."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

from medseg_cli.asked import Asked
from medseg_cli.batch.case import BatchCase, Cases
from medseg_cli.batch.content import look, reading_of
from medseg_cli.batch.names import safe
from medseg_cli.datasets.images import list_images, names_images
from medseg_cli.errors import InputError
from medseg_cli.readers import detect
from medseg_cli.readers.options import ReadOptions

LISTING = "dataset.json"


def is_list(listing: Path) -> bool:
    """Whether a file is a dataset's list; manifests are not."""
    return names_images(listing)


def cases_of(source: Path, reading: ReadOptions, asked: Asked) -> Cases:
    """The images that a list names, those of test included; a file that is missing is a case with a problem.

    Args:
        source: the list, or the folder of a `dataset.json`.
        reading: `channel` picks one of an image's channels, 0 where it says nothing.
        asked: the prompts of all.

    Raises:
        InputError: a list that cannot be used.
    """
    listing = source / LISTING if source.is_dir() else source
    images, notes = list_images(listing, reading.channel or 0)
    ids = Counter(image.id for image in images)
    cases = []
    for image in images:
        id_ = image.id if ids[image.id] == 1 else f"{image.path.parent.name}/{image.id}"
        what, members, problem = look(image.path)
        if not image.path.exists():
            problem = InputError(f"{image.path} does not exist, and {listing} lists it", "add the file")
        elif what == "other":
            problem = InputError(f"{image.path} is of no kind that medseg reads", f"readable are {detect.READABLE}")
        chosen = replace(reading, channel=image.channel, spacing=image.spacing or reading.spacing)
        chosen = reading_of(image.path, chosen)
        files = members or (image.path,)
        cases.append(
            BatchCase(safe(id_), image.path, chosen, asked, problem=problem, modality=image.modality, files=files)
        )
    return Cases(tuple(cases), (f"{listing} lists the images", *notes), listing.parent, "dataset")
