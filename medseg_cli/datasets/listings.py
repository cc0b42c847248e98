"""The listings that describe a converted dataset, each in the form that its own tools read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medseg_cli.datasets.case import Case, Dataset, LabelMap
from medseg_cli.datasets.labels import BESIDE, IGNORE
from medseg_cli.datasets.splits import Split, as_nnunet, folds_of, read_splits

Target = Literal["nnunet", "msd", "monai", "folders", "csv"]
SPLITS = "splits_final.json"
OURS = frozenset(
    {
        *("imagesTr", "labelsTr", "imagesTs", "labelsTs", "images", "labels", "masks"),
        *("dataset.json", "datalist.json", "cases.csv", "facts.csv", BESIDE, SPLITS),
    }
)
"""Everything that a conversion may leave in its folder."""
FOLDS = 5
LISTS: dict[str, str] = {"": "training", "train": "training", "validation": "validation", "test": "testing"}


@dataclass(frozen=True)
class Written:
    """A case in its new place.

    Args:
        case: what it was.
        name: what it is called now.
        images: its image, or one file per channel, as paths below the dataset's folder.
        label: its mask, likewise.
        values: label values above 0 that the mask holds.
    """

    case: Case
    name: str
    images: tuple[str, ...]
    label: str
    values: tuple[int, ...]


def describe(dataset: Dataset, written: list[Written], to: Target, ending: str, folder: Path) -> list[str]:
    """Write the listing of a layout into a folder whose files are there.

    Returns:
        What the user should know, one sentence each.
    """
    found = sorted({value for each in written for value in each.values} - {dataset.label_map.ignore})
    unnamed = [value for value in found if value not in dataset.labels]
    names = dict(sorted({**dataset.labels, **{value: f"label_{value}" for value in unnamed}}.items()))
    notes = []
    if unnamed and dataset.labels:
        notes.append(f"values {', '.join(map(str, unnamed))} had no name and are called label_{unnamed[0]} and so on")
    if to == "nnunet":
        return notes + _nnunet(dataset, written, names, ending, folder)
    if dataset.label_map.regions:
        notes.append(f"regions ({', '.join(dataset.label_map.regions)}) are known to nnU-Net alone: values are named")
    if to in ("msd", "monai"):
        _lists(dataset, written, names, to, folder)
        return notes
    known = names if dataset.labels else {}
    if known or dataset.label_map.ignore is not None:
        _dump(folder / BESIDE, _value_to_name(known, dataset.label_map))
    _table(written, folder, to)
    return notes


def _nnunet(dataset: Dataset, written: list[Written], names: dict[int, str], ending: str, folder: Path) -> list[str]:
    notes = []
    channels = dataset.channel_names or (_only_modality(written) or "image",)
    count = max(len(each.images) for each in written)
    facts = {
        "channel_names": {str(n): channels[n] if n < len(channels) else f"channel_{n}" for n in range(count)},
        "labels": _name_to_value(names, dataset.label_map),
        "numTraining": sum(each.case.part != "test" for each in written),
        "file_ending": ending,
        "cases": {each.name: _facts(each) for each in written},
    }
    if dataset.label_map.region_order:
        facts["regions_class_order"] = list(dataset.label_map.region_order)
    _dump(folder / "dataset.json", facts)
    values = [*names, *([dataset.label_map.ignore] if dataset.label_map.ignore is not None else [])]
    if sorted(values) != list(range(1, len(values) + 1)):
        text = "nnU-Net wants label values without gaps from 0, and ignore as the last:"
        notes.append(f"{text} these are {', '.join(map(str, sorted(values)))}; voxels were not changed")
    by_id = {each.case.id: each.name for each in written}
    splits = _splits(tuple(each.case for each in written))
    if splits:
        renamed = [{part: [by_id[id_] for id_ in ids] for part, ids in fold.items()} for fold in as_nnunet(splits)]
        _dump(folder / SPLITS, renamed)
        notes.append(f"nnU-Net looks for {SPLITS} in its folder of preprocessed data: copy it there")
    return notes


def _splits(cases: tuple[Case, ...]) -> list[Split]:
    """The dataset's own folds or validation cases; else a cross-validation by patient; none of a single patient."""
    folds = sorted({case.fold for case in cases if case.fold is not None})
    if len(folds) > 1:
        return [read_splits(None, cases, fold) for fold in folds]
    parts: dict[str, tuple[Case, ...]] = {
        part: tuple(case for case in cases if case.part == part) for part in ("", "train", "validation", "test")
    }
    training = parts[""] + parts["train"]
    if parts["validation"]:
        return [Split(training, parts["validation"], parts["test"])] if training else []
    patients = len({case.patient for case in training})
    return list(folds_of(cases, min(FOLDS, patients), seed=0)) if patients > 1 else []


def _lists(dataset: Dataset, written: list[Written], names: dict[int, str], to: Target, folder: Path) -> None:
    """`dataset.json` of the decathlon, or MONAI's `datalist.json`."""
    lists: dict[str, list[dict[str, Any]]] = {"training": []}
    for each in written:
        key = LISTS[each.case.part] if to == "monai" else "test" if each.case.part == "test" else "training"
        images = [f"./{image}" for image in each.images]
        entry = {"id": each.name, "image": images if len(images) > 1 else images[0], "label": f"./{each.label}"}
        lists.setdefault(key, []).append(entry | _facts(each))
    channels = dataset.channel_names or (_only_modality(written) or "image",)
    facts = {
        "name": folder.name,
        "modality": {str(number): name for number, name in enumerate(channels)},
        "labels": _value_to_name(names, dataset.label_map),
        "numTraining": len(lists["training"]),
        "numTest": len(lists.get("test", [])),
    }
    _dump(folder / ("datalist.json" if to == "monai" else "dataset.json"), facts | lists)


def _table(written: list[Written], folder: Path, to: Target) -> None:
    """`cases.csv`, or `facts.csv` beside images/ and masks/ where there is anything to say."""
    rows: list[dict[str, Any]] = []
    for each in written:
        facts = _facts(each)
        if "spacing" in facts:
            facts["spacing"] = "x".join(f"{size!r}" for size in facts["spacing"])
        if to == "csv":
            files = {"image": each.images[0], "label": each.label}
            volume = {} if each.case.channel is None else {"channel": each.case.channel}
            rows.append({"id": each.name, **files, **volume, **facts})
        elif facts:
            rows.append({"id": each.name, **facts})
    if not rows:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with (folder / ("cases.csv" if to == "csv" else "facts.csv")).open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _facts(written: Written) -> dict[str, Any]:
    """What the dataset says about a case besides its files."""
    case = written.case
    keep: dict[str, Callable[[Any], bool]] = {
        "group": lambda group: group not in ("", written.name),
        "fold": lambda fold: fold is not None,
        "part": bool,
        "caption": bool,
        "spacing": bool,
        "modality": bool,
        "circumference": bool,
    }
    found = {key: getattr(case, key) for key, wanted in keep.items() if wanted(getattr(case, key))}
    return found | ({"spacing": list(found["spacing"])} if "spacing" in found else {})


def _only_modality(written: list[Written]) -> str:
    codes = {each.case.modality for each in written}
    return codes.pop() if len(codes) == 1 else ""


def _value_to_name(names: dict[int, str], label_map: LabelMap) -> dict[str, str]:
    ignored = {} if label_map.ignore is None else {str(label_map.ignore): IGNORE}
    return {"0": "background", **{str(value): name for value, name in names.items()}, **ignored}


def _name_to_value(names: dict[int, str], label_map: LabelMap) -> dict[str, int | list[int]]:
    ignored: dict[str, int | list[int]] = {} if label_map.ignore is None else {IGNORE: label_map.ignore}
    if label_map.regions:
        regions = {name: list(values) if len(values) > 1 else values[0] for name, values in label_map.regions.items()}
        return {"background": 0, **regions, **ignored}
    return {"background": 0, **{name: value for value, name in names.items()}, **ignored}


def _dump(path: Path, facts: Any) -> None:
    path.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
