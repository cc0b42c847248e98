"""`dataset.json` of the Medical Segmentation Decathlon and of nnU-Net."""

from __future__ import annotations

from pathlib import Path

from medseg_cli.datasets.case import Case
from medseg_cli.datasets.files import read_json, stem
from medseg_cli.errors import InputError

MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PET": "PT", "PT": "PT", "US": "US"}
"""Names of a first channel in `dataset.json` that are one of DICOM's codes; others ("T1", "z-score") say nothing."""


def read(folder: Path) -> list[Case]:
    """`dataset.json` with a list of pairs, or nnU-Net's without one: imagesTr/x_0000.nii.gz with labelsTr/x.nii.gz.

    An entry of the list may name its `id`, `group` and `modality` besides `image` and `label`.
    """
    listing = folder / "dataset.json"
    facts = read_json(listing)
    try:
        channels = facts.get("modality") or facts.get("channel_names") or {}
        modality = MODALITIES.get(str(channels.get("0", "")).upper(), "")
        if "training" in facts:
            cases = [
                Case(
                    str(entry.get("id", stem(folder / entry["image"]))),
                    folder / entry["image"],
                    folder / entry["label"],
                    str(entry.get("group", "")),
                    modality=entry.get("modality", modality),
                )
                for entry in facts["training"]
            ]
        else:
            ending = facts["file_ending"]
            labels = sorted((folder / "labelsTr").glob(f"*{ending}"))
            stems = [label.name.removesuffix(ending) for label in labels]
            images = [folder / "imagesTr" / f"{stem}_0000{ending}" for stem in stems]
            cases = [
                Case(stem, image, label, modality=modality)
                for stem, image, label in zip(stems, images, labels, strict=True)
            ]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{listing} is not a Medical Segmentation Decathlon listing: {error!r}",
            'it needs "training": [{"image": ..., "label": ...}, ...], or nnU-Net\'s "file_ending" with imagesTr/',
        ) from error
    if not cases:
        raise InputError(f"{listing} lists no training case")
    return cases
