"""Lists of pairs in JSON: `dataset.json` of the Medical Segmentation Decathlon, and MONAI's datalists.

Both have `training: [{"image": ..., "label": ...}, ...]`. MONAI adds `validation` and `testing`, a `fold` to entries,
and Auto3DSeg's `task.yaml`, which says where the files are.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medseg_cli.datasets.case import Case, Dataset, Finding, Part
from medseg_cli.datasets.channels import channel_names, channel_note
from medseg_cli.datasets.facts import Facts, facts_of, modality_of, value_of
from medseg_cli.datasets.files import LAYOUTS, anywhere, inside, read_json, stem
from medseg_cli.datasets.labels import notes_on, read_labels
from medseg_cli.errors import InputError

PARTS: dict[str, Part] = {"training": "", "validation": "validation", "testing": "test", "test": "test"}
"""Lists and what their cases are for; `training` leaves the split to us, unless there are the others."""
DECATHLON = "dataset.json"
EXAMPLE = 'it needs "training": [{"image": ..., "label": ...}, ...], or nnU-Net\'s "file_ending" with imagesTr/'


def is_decathlon(listing: Path, facts: dict[str, Any]) -> bool:
    """Whether a listing is the decathlon's, whose files lie in its folder; else it is one of MONAI's."""
    training = facts.get("training")
    entries = training if isinstance(training, list) else []
    folds = any(isinstance(entry, dict) and "fold" in entry for entry in entries)
    return listing.name == DECATHLON and not folds and not {"validation", "testing"} & set(facts)


def read(listing: Path, channel: int, root: Path | None = None) -> Dataset:
    """The cases of one listing.

    Args:
        listing: JSON file.
        channel: which channel of a 4-D image, or of one with a file per channel, is read (0-based).
        root: where the paths of a MONAI datalist start; None = the folder of the listing.

    Raises:
        InputError: no such listing, an entry of the wrong kind, or a decathlon's path that leaves its folder.
    """
    facts = read_json(listing)
    ours = is_decathlon(listing, facts)
    label_map, direction = read_labels(facts.get("labels"), listing)
    names = channel_names(facts.get("modality") or facts.get("channel_names"), listing)
    if not any(facts.get(key) for key in PARTS):
        raise InputError(
            f"{listing} lists no training case, as a decathlon's, a MONAI or an nnU-Net listing does", EXAMPLE
        )
    place = _Place(listing, root or listing.parent, ours and root is None)
    found: list[Case] = []
    findings: list[Finding] = []
    unlabelled = 0
    for key, part in PARTS.items():
        for number, entry in enumerate(_list(facts.get(key), listing, key)):
            where = f"{listing}, {key} {number}"
            if isinstance(entry, str):
                entry = {"image": entry, "label": _beside(listing.parent, entry)}
            if not isinstance(entry, dict):
                raise InputError(f"{where} is {entry!r}: not a Medical Segmentation Decathlon listing", EXAMPLE)
            if part == "test" and not value_of(entry, "label"):
                unlabelled += 1
                continue
            case, problem = _case(entry, where, place, channel)
            if case is not None:
                stated = Facts(part=part, modality=modality_of(names[channel]) if channel < len(names) else "")
                found.append(_with(case, stated | facts_of(entry, where), label_map.ignore, channel, names))
            if problem is not None:
                findings.append(problem)
    notes = notes_on(label_map, listing)
    if ours and direction == "nnunet":
        notes.append(f"the labels of {listing} are written name to value, as in nnU-Net")
    if unlabelled:
        notes.append(f"{unlabelled} test image{'s have' if unlabelled > 1 else ' has'} no label and no use here")
    count = max([len(names), *(len(case.channels) for case in found)])
    if count > 1:
        notes.append(channel_note(names, channel, count))
    layout = "Medical Segmentation Decathlon" if ours else "MONAI datalist"
    return Dataset(tuple(found), layout, label_map, tuple(notes), tuple(findings), names)


def read_task(task: Path, channel: int) -> Dataset:
    """The cases of an Auto3DSeg `task.yaml`: `datalist` names the listing, `dataroot` where its paths start.

    Raises:
        InputError: no such YAML, or as `read`.
    """
    import yaml

    try:
        facts = yaml.safe_load(task.read_text(encoding="utf-8-sig"))
        listing = anywhere(task.parent, facts["datalist"])
        root = anywhere(task.parent, facts.get("dataroot") or ".")
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{task} is no task of Auto3DSeg: {error!r}", "it needs datalist: and dataroot:") from error
    return read(listing, channel, root)


@dataclass(frozen=True)
class _Place:
    """Where the paths of a listing start, and whether they may lead out of it."""

    listing: Path
    root: Path
    closed: bool

    def file(self, listed: str) -> Path:
        return inside(self.root, listed, self.listing) if self.closed else anywhere(self.root, listed)


def _case(entry: Any, where: str, place: _Place, channel: int) -> tuple[Case | None, Finding | None]:
    """An entry's files under an id, or what is missing."""
    for what in ("image", "label"):
        if value_of(entry, what) is None:
            return None, Finding("missing", f"{where} names no {what}", f'give it "{what}": FILE', place.listing)
    listed, label = value_of(entry, "image"), value_of(entry, "label")
    images = listed if isinstance(listed, list) else [listed]
    if not images or not all(isinstance(name, str) for name in [*images, label]):
        raise InputError(f"{where}: image {listed!r} with label {label!r} are no file names", EXAMPLE)
    if channel >= len(images) > 1:
        text = f"{where} has {len(images)} channels, there is no channel {channel}"
        return None, Finding("missing", text, "choose a channel that every case has", place.listing)
    paths = [place.file(name) for name in [*images, label]]
    several = tuple(paths[:-1]) if len(images) > 1 else ()
    id_ = value_of(entry, "id")
    image = paths[channel] if several else paths[0]
    return Case(str(id_) if id_ is not None else stem(paths[0]), image, paths[-1], channels=several), None


def _with(case: Case, facts: Facts, ignore: int | None, channel: int, names: tuple[str, ...]) -> Case:
    """The case with what is known about it; one file with several named channels is 4-D."""
    volume = channel if len(names) > 1 and not case.channels else None
    return replace(case, ignore=ignore, channel=volume, **facts)


def _beside(folder: Path, image: str) -> str:
    """The label of the decathlon's test image, which it names by the image alone, where there is one; "" else."""
    label = image.replace("imagesTs", "labelsTs")
    return label if label != image and (folder / label).is_file() else ""


def _list(entries: Any, listing: Path, key: str) -> list[Any]:
    if entries is None:
        return []
    if not isinstance(entries, list):
        raise InputError(f"{listing}: {key} is no list: not a Medical Segmentation Decathlon listing", LAYOUTS)
    return entries
