"""Label maps: the Medical Segmentation Decathlon writes value → name, nnU-Net name → value or values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from medseg_cli.datasets.case import LabelMap
from medseg_cli.datasets.files import read_json
from medseg_cli.errors import InputError

Direction = Literal["decathlon", "nnunet"]
HINT = 'write {"0": "background", "1": "liver"} (decathlon) or {"background": 0, "liver": 1} (nnU-Net)'
IGNORE = "ignore"
"""nnU-Net's name of the value that marks voxels nobody labelled."""
BESIDE = "labels.json"
"""A label map of its own, for layouts that have no place for one."""


def read_labels(listed: Any, listing: Path, order: Any = ()) -> tuple[LabelMap, Direction | None]:
    """A label map in either direction, told apart by which side holds the numbers.

    Args:
        listed: the value of `labels` in a listing; None or empty where there is none.
        listing: for messages.
        order: nnU-Net's `regions_class_order`.

    Returns:
        The map, and the direction in which it was written; None for an empty one.

    Raises:
        InputError: neither direction, a value or a name used twice, or a background that is not 0.
    """
    if not listed:
        return LabelMap(), None
    if not isinstance(listed, dict):
        raise InputError(f"{listing}: labels is a {type(listed).__name__}, not a map", HINT)
    if all(_is_number(key) and isinstance(name, str) for key, name in listed.items()):
        names = {int(key): name.strip() for key, name in listed.items()}
        names.pop(0, None)
        ignored_value = next((value for value, name in names.items() if name == IGNORE), None)
        names = {value: name for value, name in names.items() if name != IGNORE}
        return LabelMap(_distinct(names, listing), ignore=ignored_value), "decathlon"
    values = {str(name): _values(value, name, listing) for name, value in listed.items()}
    if values.get("background", (0,)) != (0,):
        raise InputError(f"{listing}: the label background is {listed['background']}, not 0", HINT)
    values.pop("background", None)
    ignored = values.pop(IGNORE, None)
    regions = values if any(len(each) > 1 for each in values.values()) else {}
    return LabelMap(
        _distinct(_names(values, listing), listing),
        regions,
        _values(order, "regions_class_order", listing) if order else (),
        ignored[0] if ignored else None,
    ), "nnunet"


def labels_beside(folder: Path) -> LabelMap:
    """The label map of a folder's `labels.json`, in either direction; an empty one where there is none.

    Raises:
        InputError: the file holds something else.
    """
    path = folder / BESIDE
    return read_labels(read_json(path), path)[0] if path.is_file() else LabelMap()


def notes_on(label_map: LabelMap, listing: Path) -> list[str]:
    """What there is to know about regions and the ignored value."""
    notes = []
    if label_map.regions:
        notes.append(
            f"{listing} names regions ({', '.join(label_map.regions)}): masks are read by their values, not as regions"
        )
    if label_map.ignore is not None:
        notes.append(
            f"voxels of value {label_map.ignore} (ignore) are read as background: nothing is learned or scored there"
        )
    return notes


def _names(values: dict[str, tuple[int, ...]], listing: Path) -> dict[int, str]:
    """A name for every value: its own, or those of the regions that it belongs to."""
    names: dict[int, str] = {}
    for name, (first, *more) in values.items():
        if not more and first:
            if first in names:
                raise InputError(f"{listing}: value {first} is called {names[first]} and {name}", HINT)
            names[first] = name
    for value in sorted({value for each in values.values() for value in each} - set(names) - {0}):
        names[value] = "+".join(name for name, each in values.items() if value in each)
    return names


def _values(value: Any, name: Any, listing: Path) -> tuple[int, ...]:
    found = value if isinstance(value, list) else [value]
    if not found or not all(_is_number(each) for each in found):
        raise InputError(f"{listing}: label {name!r} is {value!r}, which is no number from 0 upwards", HINT)
    return tuple(int(each) for each in found)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        return value.isascii() and value.isdigit()
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _distinct(names: dict[int, str], listing: Path) -> dict[int, str]:
    twice = next((name for name in names.values() if list(names.values()).count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{listing}: two label values are called {twice}", "give every value a name of its own")
    return dict(sorted(names.items()))
