"""The images that a dataset's own list names, labelled or not: what there is to segment."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg_cli.datasets import entries, table
from medseg_cli.datasets.channels import CHANNEL, channel_names, channel_note
from medseg_cli.datasets.facts import facts_of, modality_of, value_of
from medseg_cli.datasets.files import LAYOUTS, anywhere, inside, read_json, scans_in, stem
from medseg_cli.errors import InputError

NNUNET_FOLDERS = ("imagesTr", "imagesTs")


@dataclass(frozen=True)
class Image:
    """One image of a dataset.

    Args:
        id: names it among all of the dataset.
        path: its file; the one of the channel that is read where each has its own.
        channel: the volume of a 4-D file that is read (0-based); None = it is no 4-D file.
        modality: DICOM code that the list states; "" = none.
        spacing: voxel size in mm that the list states; None = none.
    """

    id: str
    path: Path
    channel: int | None = None
    modality: str = ""
    spacing: tuple[float, float, float] | None = None


def names_images(listing: Path) -> bool:
    """Whether a file is the list of a dataset: the decathlon's, nnU-Net's, MONAI's, Auto3DSeg's, or a CSV of pairs."""
    suffix = listing.suffix.lower()
    if not listing.is_file():
        return False
    if suffix == ".json":
        try:
            facts = read_json(listing)
        except InputError:
            return False
        return isinstance(facts.get("file_ending"), str) or any(
            isinstance(facts.get(key), list) for key in entries.PARTS
        )
    if suffix in table.SUFFIXES:
        return table.is_list(listing)
    return suffix in (".yaml", ".yml") and isinstance(_task(listing).get("datalist"), str)


def list_images(listing: Path, channel: int = 0) -> tuple[list[Image], tuple[str, ...]]:
    """Its images in the list's order, and what there is to say about them. Files need not exist.

    Args:
        listing: a file for which `names_images` holds.
        channel: which channel of images that have several is read (0-based).

    Raises:
        InputError: a list that cannot be used.
    """
    suffix = listing.suffix.lower()
    if suffix in table.SUFFIXES:
        return [Image(c.id, c.image, c.channel, c.modality, c.spacing) for c in table.read(listing).cases], ()
    if suffix == ".json":
        facts = read_json(listing)
        if isinstance(facts.get("file_ending"), str) and not isinstance(facts.get("training"), list):
            return _nnunet(listing, facts, channel)
        closed = entries.is_decathlon(listing, facts)
        return _entries(listing, facts, channel, lambda name: _place(listing.parent, name, listing, closed))
    task = _task(listing)
    datalist = anywhere(listing.parent, str(task["datalist"]))
    root = anywhere(listing.parent, str(task.get("dataroot") or "."))
    return _entries(datalist, read_json(datalist), channel, lambda name: anywhere(root, name))


def _place(folder: Path, name: str, listing: Path, closed: bool) -> Path:
    return inside(folder, name, listing) if closed else anywhere(folder, name)


def _task(listing: Path) -> dict[str, Any]:
    import yaml

    try:
        facts = yaml.safe_load(listing.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _nnunet(listing: Path, facts: dict[str, Any], channel: int) -> tuple[list[Image], tuple[str, ...]]:
    names = channel_names(facts.get("channel_names") or facts.get("modality"), listing)
    modality = modality_of(names[channel]) if channel < len(names) else ""
    found: dict[str, list[Path]] = {}
    if facts.get("dataset"):
        try:
            for id_, entry in facts["dataset"].items():
                found[str(id_)] = [anywhere(listing.parent, image) for image in entry["images"]]
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{listing}: its key dataset is not nnU-Net's: {error!r}", LAYOUTS) from error
    ending = facts["file_ending"]
    for name in NNUNET_FOLDERS if not found else ():
        folder = listing.parent / name
        for path in scans_in(folder) if folder.is_dir() else ():
            if path.name.endswith(ending):
                found.setdefault(CHANNEL.sub("", path.name.removesuffix(ending)), []).append(path)
    few = next((id_ for id_, images in found.items() if channel >= len(images)), None)
    if few is not None:
        raise InputError(
            f"{listing}: {few} has {len(found[few])} channels, there is no channel {channel}", "--channel 0"
        )
    count = max((len(images) for images in found.values()), default=1)
    notes = (channel_note(names, channel, count),) if count > 1 else ()
    return [Image(id_, images[channel], modality=modality) for id_, images in found.items()], notes


def _entries(
    listing: Path, facts: dict[str, Any], channel: int, place: Callable[[str], Path]
) -> tuple[list[Image], tuple[str, ...]]:
    """Images of the decathlon's and MONAI's lists: of training, validation and test."""
    names = channel_names(facts.get("modality") or facts.get("channel_names"), listing)
    modality = modality_of(names[channel]) if channel < len(names) else ""
    images, most = [], len(names)
    for key in entries.PARTS:
        for number, entry in enumerate(facts.get(key) or []):
            where = f"{listing}, {key} {number}"
            entry = {"image": entry} if isinstance(entry, str) else entry
            listed = value_of(entry, "image") if isinstance(entry, dict) else None
            files = [name for name in (listed if isinstance(listed, list) else [listed]) if isinstance(name, str)]
            if not files:
                raise InputError(f"{where} names no image: {entry!r}", entries.EXAMPLE)
            if channel >= len(files) > 1:
                raise InputError(f"{where} has {len(files)} channels, there is no channel {channel}", "--channel 0")
            most = max(most, len(files))
            path = place(files[channel] if len(files) > 1 else files[0])
            volume = channel if len(names) > 1 and len(files) == 1 else None
            id_, stated = value_of(entry, "id"), facts_of(entry, where)
            name = str(id_) if id_ is not None else stem(place(files[0]))
            images.append(Image(name, path, volume, stated.get("modality") or modality, stated.get("spacing")))
    return images, (channel_note(names, channel, most),) if most > 1 else ()
