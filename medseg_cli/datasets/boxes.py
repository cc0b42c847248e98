"""Boxes that a detector finds in a dataset's pictures, made once and kept as JSON; and how often they are right."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from medseg_cli.datasets.case import Case
from medseg_cli.datasets.pairs import label_values, open_case, problems
from medseg_cli.errors import InputError, UsageError
from medseg_cli.intensity import display
from medseg_cli.models.cc_sam.bank import Bank, meaning, once
from medseg_cli.models.grounding import AREA, LEAST_SCORE, Detection, caption
from medseg_cli.preset_intensity import EightBit
from medseg_cli.readers import load_scan
from medseg_cli.slices import plane_of

HIT = 0.5
"""Overlap with the reference's box above which a box is right."""
VERSION = 1

Box = tuple[float, float, float, float]
Find = Callable[[NDArray[np.uint8], str], Detection]
"""Picture (H, W, 3) RGB and phrase → the best box."""


class FoundBox(BaseModel):
    """One class in one picture.

    Attributes:
        box: x0 y0 x1 y1, its edges as shares of the picture's width and height.
        score: the detector's.
        refused: why it is no prompt; None for a good one.
        iou: its overlap with the box round the reference; None where the class is absent.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    box: Box
    score: float
    refused: str | None
    iou: float | None

    @model_validator(mode="after")
    def _lies_inside(self) -> FoundBox:
        """A prompt is a place in its picture; one that was refused may be anything."""
        x0, y0, x1, y1 = self.box
        if self.refused is None and not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(f"{list(self.box)} is no box in a picture: x0 < x1 and y0 < y1, shares from 0 to 1")
        return self


class BoxFile(BaseModel):
    """A file of boxes.

    Attributes:
        version: of the format.
        detector, sha256: which one, by the name of its folder and the hash of its weights.
        captions: class key → what the detector was asked.
        rules: `least_score`, and the smallest and largest share of the picture, `area`.
        pictures: file name of a picture → class key → what was found.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int
    detector: str
    sha256: str
    captions: dict[str, str]
    rules: dict[str, Any]
    pictures: dict[str, dict[str, FoundBox]]


@dataclass(frozen=True)
class Rate:
    """How a class fared.

    Args:
        key: of the class.
        present: pictures that hold it.
        kept: of those, with a box that is a prompt.
        hits: of those, with an overlap above `HIT`.
        false: pictures without the class that have a box all the same.
    """

    key: str
    present: int
    kept: int
    hits: int
    false: int


def classes_of(bank: Bank, labels: Mapping[int, str], chosen: Sequence[str]) -> dict[str, int | None]:
    """Class keys to be looked for, each with the label value that it is measured against; None = all values together.

    Args:
        bank: what the detector can be asked.
        labels: value → name, as the dataset has them.
        chosen: keys; empty = those classes that the dataset names.

    Raises:
        UsageError: a key that the bank has not, or nothing that says which class a label is.
    """
    known = ", ".join(bank)
    named = {found[0]: value for value, name in labels.items() if (found := meaning(bank, name)) is not None}
    strange = [key for key in chosen if key not in bank]
    if strange:
        raise UsageError(f"the bank has no class '{strange[0]}'", f"it has: {known}")
    if not chosen and not named:
        raise UsageError("the dataset names no class of the bank", f"say which it shows: --class {' or '.join(bank)}")
    wanted: dict[str, int | None] = {key: named.get(key) for key in chosen} or dict(named)
    unnamed = [key for key, value in wanted.items() if value is None]
    if unnamed and len(wanted) > 1:
        raise UsageError(
            f"the dataset has no label that means '{unnamed[0]}'", "ask for one --class, or for named ones"
        )
    return wanted


def find_boxes(
    cases: Sequence[Case], classes: Mapping[str, int | None], bank: Bank, find: Find, tell: Callable[[Case], None]
) -> dict[str, dict[str, FoundBox]]:
    """What a detector finds in every picture: file name → class key → box.

    Args:
        cases: pictures with their masks, which may be empty; several masks of one picture are one class in many places.
        classes: as `classes_of` gives them.
        bank: phrases.
        find: the detector.
        tell: called before each case.

    Raises:
        InputError: a case cannot be read, is no picture, or two pictures have one file name.
    """
    found: dict[str, dict[str, FoundBox]] = {}
    places: dict[str, Path] = {}
    for case in cases:
        tell(case)
        name = case.image.name
        if places.setdefault(name, case.image) != case.image:
            raise InputError(
                f"{places[name]} and {case.image} have one name, by which boxes are kept", "rename one of them"
            )
        picture, labels = _picture(case)
        boxes = found.setdefault(name, {})
        for key, value in classes.items():
            made = boxes.get(key) or _found(find(picture, bank[key].phrase))
            mask = labels > 0 if value is None else labels == value
            boxes[key] = made.model_copy(update={"iou": _best(made.iou, _overlap(made.box, mask))})
    return found


def rates(pictures: Mapping[str, Mapping[str, FoundBox]], classes: Sequence[str]) -> Iterator[Rate]:
    """How each class fared."""
    for key in classes:
        every = [boxes[key] for boxes in pictures.values()]
        present = [each for each in every if each.iou is not None]
        kept = [each for each in present if each.refused is None]
        hits = sum((each.iou or 0.0) > HIT for each in kept)
        false = sum(each.iou is None and each.refused is None for each in every)
        yield Rate(key, len(present), len(kept), hits, false)


def as_json(detector: str, sha256: str, bank: Bank, pictures: Mapping[str, Mapping[str, FoundBox]]) -> str:
    """The text of a file of boxes."""
    keys = sorted({key for boxes in pictures.values() for key in boxes})
    made = BoxFile(
        version=VERSION,
        detector=detector,
        sha256=sha256,
        captions={key: caption(bank[key].phrase) for key in keys},
        rules={"least_score": LEAST_SCORE, "area": list(AREA)},
        pictures={name: dict(pictures[name]) for name in sorted(pictures)},
    )
    return json.dumps(made.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def cached_boxes(path: Path) -> dict[tuple[str, str], Box | None]:
    """A file of boxes: (file name of a picture, class key) → x0 y0 x1 y1 as shares of its width and height.

    None stands for a box that is no prompt: its score or size is beyond the rules.

    Raises:
        InputError: unreadable, or no file of boxes.
    """
    hint = "make one: medseg dataset boxes DATASET --detector FOLDER -o boxes.json"
    try:
        read = BoxFile.model_validate(json.loads(path.expanduser().read_bytes(), object_pairs_hook=once))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}", hint) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        why = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{path} is no file of boxes: {where + ': ' if where else ''}{why}", hint) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no file of boxes: {error}", hint) from error
    if read.version != VERSION:
        raise InputError(f"{path} is a file of boxes of version {read.version}, not {VERSION}", hint)
    return {
        (name, key): None if each.refused is not None else each.box
        for name, boxes in read.pictures.items()
        for key, each in boxes.items()
    }


def _picture(case: Case) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """RGB (H, W, 3) and label values (H, W) of a case, as the picture is stored."""
    scan, label = open_case(case, load_scan)
    problem = next(problems(case, scan, label), None)
    if problem is not None:
        raise problem.error()
    plane = plane_of(scan, "finest")
    if plane.count > 1:
        raise InputError(
            f"{case.image} has {plane.count} slices: boxes are kept of pictures",
            "medseg segment --detector finds them slice by slice",
        )
    shown = display(scan, EightBit(method="eight-bit"), "as detectors see it")
    return shown.picture(plane.take(scan.voxels, 0)), plane.take(label_values(case, label), 0)


def _found(detection: Detection) -> FoundBox:
    rounded = replace(detection, score=round(detection.score, 4))
    return FoundBox(box=rounded.box, score=rounded.score, refused=rounded.refused, iou=None)


def _best(before: float | None, now: float | None) -> float | None:
    known = [each for each in (before, now) if each is not None]
    return max(known) if known else None


def _overlap(box: Box, mask: NDArray[np.bool_]) -> float | None:
    """Intersection over union of a box and the box round a mask (H, W), both in shares; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    high, wide = mask.shape
    other = (columns[0] / wide, rows[0] / high, (columns[-1] + 1) / wide, (rows[-1] + 1) / high)
    across = min(box[2], other[2]) - max(box[0], other[0])
    down = min(box[3], other[3]) - max(box[1], other[1])
    both = max(across, 0.0) * max(down, 0.0)
    return round(float(both / (_area(box) + _area(other) - both)), 4)


def _area(box: Sequence[float]) -> float:
    return float((box[2] - box[0]) * (box[3] - box[1]))
