"""What lists say about a case besides its files: patient, fold, words, voxel size, modality, part."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict

from medseg_cli.datasets.case import Part
from medseg_cli.errors import InputError
from medseg_cli.readers.modality import CODES

COLUMNS = {
    "image": ("image", "img", "scan", "image_path", "filename", "file"),
    "label": ("label", "mask", "seg", "segmentation", "label_path", "mask_path"),
    "id": ("id", "case", "case_id", "name"),
    "group": ("group", "patient", "patient_id", "subject", "subject_id"),
    "fold": ("fold",),
    "part": ("part", "split", "set"),
    "caption": ("caption", "captions", "text", "report"),
    "spacing": ("spacing", "spacing_mm", "pixel_size", "pixel size(mm)", "pixel size (mm)"),
    "modality": ("modality",),
    "circumference": ("circumference", "circumference_mm", "head circumference (mm)", "head circumference(mm)"),
}
"""What each fact may be called, in columns of a CSV and keys of a JSON entry; case does not matter."""

MODALITIES = {
    **{"MRI": "MR", "PET": "PT", "ULTRASOUND": "US", "X-RAY": "DX", "XRAY": "DX", "CXR": "DX"},
    **{"ENDOSCOPY": "ES", "MAMMOGRAPHY": "MG", "FUNDUS": "OP"},
}
"""What people write instead of DICOM's codes."""
MR_SEQUENCE = re.compile(r"(T1|T2|PD|FLAIR|ADC|DWI|SWI)([^A-Z]|W|C|GD|CE|F|$)")
PARTS: dict[str, Part] = {
    **{"": "", "train": "train", "training": "train", "tr": "train"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
    **{"test": "test", "testing": "test", "ts": "test"},
}


class Facts(TypedDict, total=False):
    """Arguments of `Case` that a list may state."""

    group: str
    fold: int | None
    part: Part
    caption: str
    spacing: tuple[float, float, float] | None
    modality: str
    circumference: float | None


def modality_of(text: str) -> str:
    """The DICOM code that a dataset's word for a modality or a channel means; "" for words that say nothing of it."""
    word = text.strip().upper()
    if word in CODES:
        return word
    return MODALITIES.get(word, "MR" if MR_SEQUENCE.match(word) else "")


def value_of(entry: Mapping[str, Any], fact: str) -> Any:
    """What an entry says about a fact under any of its names; None where it does not, or leaves it empty."""
    lowered = {str(key).strip().lower(): value for key, value in entry.items() if key is not None}
    found = (lowered[name] for name in COLUMNS[fact] if lowered.get(name) not in (None, ""))
    return next(found, None)


def facts_of(entry: Mapping[str, Any], where: str) -> Facts:
    """The facts of one entry of a list.

    Args:
        entry: a row of a CSV or an object of a JSON list.
        where: names the entry in messages.

    Raises:
        InputError: a fold, a part, a spacing, a modality or a circumference that cannot be one.
    """
    facts = Facts()
    group, caption = value_of(entry, "group"), value_of(entry, "caption")
    if group is not None:
        facts["group"] = str(group).strip()
    if caption is not None:
        facts["caption"] = str(caption).strip()
    fold, part, spacing, modality = (value_of(entry, key) for key in ("fold", "part", "spacing", "modality"))
    if fold is not None:
        facts["fold"] = _fold(fold, where)
    if part is not None:
        facts["part"] = _part(part, where)
    if spacing is not None:
        facts["spacing"] = spacing_of(spacing, where)
    if modality is not None:
        code = modality_of(str(modality))
        if not code:
            raise InputError(f"{where}: {modality!r} is no modality", f"use one of {', '.join(CODES)}")
        facts["modality"] = code
    circumference = value_of(entry, "circumference")
    if circumference is not None:
        facts["circumference"] = _length(circumference, where)
    return facts


def spacing_of(value: Any, where: str) -> tuple[float, float, float]:
    """Voxel size in mm from a number, a list of 1 to 3, or text such as `0.2`, `0.2x0.2x1` or `[0.2, 0.2]`.

    One number counts for i and j, a missing third is 1 mm.

    Raises:
        InputError: no positive numbers.
    """
    parts = value if isinstance(value, list | tuple) else re.split(r"[\s,;x×]+", str(value).strip().strip("[]()"))
    try:
        sizes = [float(part) for part in parts]
    except (TypeError, ValueError):
        sizes = []
    if len(sizes) not in (1, 2, 3) or not all(0 < size < float("inf") for size in sizes):
        raise InputError(f"{where}: spacing {value!r} is not one to three sizes in mm", "for example 0.2x0.2")
    i, j, k = [*sizes, *sizes, 1.0][:3] if len(sizes) == 1 else [*sizes, 1.0][:3]
    return (i, j, k)


def _length(value: Any, where: str) -> float:
    try:
        length = float(str(value).strip())
    except ValueError:
        length = 0.0
    if not 0 < length < float("inf"):
        raise InputError(f"{where}: circumference {value!r} is no length in mm", "for example 174.5")
    return length


def _fold(value: Any, where: str) -> int:
    text = str(value).strip()
    if not text.isascii() or not text.isdigit():
        raise InputError(f"{where}: fold {value!r} is no number from 0 upwards", "number the folds from 0")
    return int(text)


def _part(value: Any, where: str) -> Part:
    part = PARTS.get(str(value).strip().lower())
    if part is None:
        raise InputError(f"{where}: part {value!r} is unknown", "use train, validation or test")
    return part
