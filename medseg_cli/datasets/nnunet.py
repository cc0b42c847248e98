"""nnU-Net v2: `dataset.json` with `file_ending`, `imagesTr/x_0000.nii.gz` with `labelsTr/x.nii.gz`.

`imagesTs/` with `labelsTs/` are test cases. A key `dataset` may name the files instead, as nnU-Net allows; these may
lie anywhere. A key `cases`, which nnU-Net passes over, holds what it has no place for: id → group, caption and so on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg_cli.datasets.case import Case, Dataset, Finding, Part
from medseg_cli.datasets.channels import CHANNEL, channel_names, channel_note
from medseg_cli.datasets.facts import facts_of, modality_of
from medseg_cli.datasets.files import LAYOUTS, anywhere, read_json, scans_in
from medseg_cli.datasets.labels import notes_on, read_labels
from medseg_cli.errors import InputError

LISTING = "dataset.json"


def read(listing: Path, channel: int) -> Dataset:
    """The cases of a `dataset.json`.

    Args:
        listing: the file; scans and masks lie in folders beside it.
        channel: which one of an image's channels is read (0-based).

    Raises:
        InputError: a listing that is not nnU-Net's.
    """
    folder = listing.parent
    facts = read_json(listing)
    label_map, direction = read_labels(facts.get("labels"), listing, facts.get("regions_class_order"))
    names = channel_names(facts.get("channel_names") or facts.get("modality"), listing)
    ending = facts.get("file_ending")
    if not isinstance(ending, str) or not ending.startswith("."):
        raise InputError(f"{listing}: file_ending is {ending!r}", 'for example "file_ending": ".nii.gz"')
    pairs, findings = _listed(folder, facts["dataset"]) if facts.get("dataset") else _in_folders(folder, ending)
    more = facts.get("cases") or {}
    cases = []
    for id_, images, label, part in pairs:
        if channel >= len(images):
            findings.append(_too_few(id_, images, channel, listing))
            continue
        stated: Any = {"modality": modality_of(names[channel]) if channel < len(names) else "", "part": part}
        if isinstance(more, dict) and isinstance(more.get(id_), dict):
            stated |= facts_of(more[id_], f"{listing}, {id_}")
        several = tuple(images) if len(images) > 1 else ()
        cases.append(Case(id_, images[channel], label, channels=several, ignore=label_map.ignore, **stated))
    notes = notes_on(label_map, listing)
    if direction == "decathlon":
        notes.append(f"the labels of {listing} are written value to name, as in the Medical Segmentation Decathlon")
    if any(case.channels for case in cases):
        notes.append(channel_note(names, channel, max(len(case.channels) for case in cases)))
    return Dataset(tuple(cases), "nnU-Net v2", label_map, tuple(notes), tuple(findings), names)


Pairs = list[tuple[str, list[Path], Path, Part]]


def _in_folders(folder: Path, ending: str) -> tuple[Pairs, list[Finding]]:
    """(id, images by channel, label, part) of every label, and images or labels without their counterpart."""
    pairs: Pairs = []
    findings = []
    for end, part in (("Tr", ""), ("Ts", "test")):
        labels = _by_id(folder / f"labels{end}", ending)
        images: dict[str, list[Path]] = {}
        for name, path in _by_id(folder / f"images{end}", ending).items():
            images.setdefault(CHANNEL.sub("", name), []).append(path)
        for id_, label in labels.items():
            if id_ in images:
                pairs.append((id_, images[id_], label, part))  # type: ignore[arg-type]  # both are parts
            else:
                missing = folder / f"images{end}" / f"{id_}_0000{ending}"
                text = f"{label} has no image: {missing} does not exist"
                findings.append(Finding("missing", text, "add the image, or take the label out", label))
        # Test images without labels are nnU-Net's usual state.
        for id_ in sorted(set(images) - set(labels)) if end == "Tr" else ():
            text = f"{images[id_][0]} has no label: {folder / 'labelsTr' / (id_ + ending)} does not exist"
            findings.append(Finding("missing", text, "add the label, or take the image out", images[id_][0]))
    return pairs, findings


def _by_id(folder: Path, ending: str) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    return {path.name.removesuffix(ending): path for path in scans_in(folder) if path.name.endswith(ending)}


def _listed(folder: Path, entries: Any) -> tuple[Pairs, list[Finding]]:
    """The same from the key `dataset`: id → images and label."""
    pairs: Pairs = []
    try:
        for id_, entry in entries.items():
            images = [anywhere(folder, image) for image in entry["images"]]
            pairs.append((str(id_), images, anywhere(folder, entry["label"]), ""))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{folder / LISTING}: its key dataset is not nnU-Net's: {error!r}", LAYOUTS) from error
    return pairs, []


def _too_few(id_: str, images: list[Path], channel: int, listing: Path) -> Finding:
    text = f"{listing}: {id_} has {len(images)} channel{'s' * (len(images) > 1)}, there is no channel {channel}"
    return Finding("missing", text, "choose a channel that every case has", images[0])
