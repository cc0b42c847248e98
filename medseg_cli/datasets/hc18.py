"""HC18 as its authors publish it: `000_HC.png` with the outline `000_HC_Annotation.png`, and a table of sizes.

The number before `_` is an examination; `010_2HC.png` is a second picture of examination 010.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from medseg_cli.datasets import table
from medseg_cli.datasets.case import Case, Dataset, Finding, LabelMap
from medseg_cli.datasets.facts import Facts
from medseg_cli.datasets.files import scans_in

IMAGE = re.compile(r"(?P<examination>.+)_\d*HC\.png")
ANNOTATION = re.compile(r"(?P<image>.+_\d*HC)_Annotation\.png")
TRAINING, TEST = "training_set", "test_set"
TABLE = "training_set_pixel_size_and_HC.csv"
HEAD = LabelMap({1: "fetal head"})


def is_there(folder: Path) -> bool:
    """Whether it is the folder of training pictures, or the one that holds it."""
    return _training(folder) is not None


def read(folder: Path) -> Dataset:
    """One case per picture and outline, by examination; what the table says of it, in the folder or the one above.

    Args:
        folder: for which `is_there` holds.

    Raises:
        InputError: a table that holds what cannot be.
    """
    place = _training(folder)
    assert place is not None
    files = {path.name: path for path in scans_in(place)}
    outlines = {f"{found['image']}.png": path for name, path in files.items() if (found := ANNOTATION.fullmatch(name))}
    images = {name: path for name, path in files.items() if path not in outlines.values()}
    facts, notes = _facts(place, folder)
    both = sorted(images.keys() & outlines.keys())
    cases = [replace(_case(images[name], outlines[name]), **facts.get(name, {})) for name in both]
    unknown = [name for name in both if facts and name not in facts]
    if unknown:
        notes.append(f"{TABLE} says nothing of {unknown[0]}" + (f" and {len(unknown) - 1} more" * (len(unknown) > 1)))
    if (folder / TEST).is_dir():
        notes.append(f"{TEST} comes without annotations and is not read")
    return Dataset(tuple(cases), "HC18 with outlines", HEAD, tuple(notes), _alone(images, outlines))


def _case(image: Path, outline: Path) -> Case:
    match = IMAGE.fullmatch(image.name)
    assert match is not None, image
    return Case(image.stem, image, outline, match["examination"], modality="US", outline=True)


def _training(folder: Path) -> Path | None:
    """The folder with the pictures: archives unpacked into a folder of their name hold another one of that name."""
    places = (folder, folder / TRAINING, folder / TRAINING / TRAINING)
    return next((each for each in places if any(map(ANNOTATION.fullmatch, _names(each)))), None)


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.glob("*_Annotation.png")] if folder.is_dir() else []


def _facts(place: Path, folder: Path) -> tuple[dict[str, Facts], list[str]]:
    """What the table says by file name. That of the test pictures is not read: both sets use the same names."""
    above = (place, place.absolute().parent, folder, folder.absolute().parent)
    found = next((each / TABLE for each in above if (each / TABLE).is_file()), None)
    if found is None:
        return {}, [f"there is no {TABLE} in {place} or above: pixel sizes and circumferences are unknown"]
    facts, note = table.facts_in(found)
    return facts, [note or f"{found} has no columns filename, pixel size(mm) and head circumference (mm)"]


def _alone(images: dict[str, Path], outlines: dict[str, Path]) -> tuple[Finding, ...]:
    """Pictures without an outline, and outlines without a picture."""
    bare = [images[name] for name in sorted(images.keys() - outlines.keys())]
    lost = [outlines[name] for name in sorted(outlines.keys() - images.keys())]
    return (
        *(_missing(each, f"{each.stem}_Annotation.png") for each in bare),
        *(_missing(each, each.name.replace("_Annotation", "")) for each in lost),
    )


def _missing(file: Path, partner: str) -> Finding:
    return Finding("missing", f"{file}: there is no {partner} beside it", "add it, or take this file out", file)
