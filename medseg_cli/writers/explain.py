"""Why labels are where they are, as files: per label a map on the scan's grid and a picture, and all scores."""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image, PngImagePlugin

from medseg_cli.errors import UsageError
from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.writers import members, volume

SCORES = "scores.json"


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write a folder with `<label>.nii.gz`, `<label>.png` and `scores.json`; see `formats.Format.target`.

    A label that is nowhere has a map of zeros and no picture.

    Raises:
        UsageError: the segmentation was not made from texts.
        InputError: `path` may not or cannot be written.
    """
    why = segmentation.explanation
    if why is None:
        raise UsageError(
            f"preset {segmentation.provenance.get('preset')} explains nothing: --explain shows where words and scan "
            "agree",
            "leave --explain out, or use a preset that takes --text",
        )
    stamp = RANDOM_WEIGHTS if segmentation.is_random else ""
    words = PngImagePlugin.PngInfo()
    if stamp:
        words.add_text("Comment", stamp)
    safe = members.names(segmentation.labels)
    # A scan may hold a thing that is called as the table.
    safe = {value: f"{name}_" if f"{name}.json".lower() == SCORES else name for value, name in safe.items()}
    with members.folder(path, overwrite) as hidden:
        scores = [
            {
                "label": label.value,
                "name": label.name,
                "map": f"{safe[label.value]}.nii.gz",
                "picture": f"{safe[label.value]}.png" if label.value in why.pictures else None,
                **why.scores["labels"][label.value - 1],
            }
            for label in segmentation.labels
        ]
        for label in segmentation.labels:
            name = safe[label.value]
            volume.write_values(why.maps[label.value], segmentation, hidden / f"{name}.nii.gz")
            if label.value in why.pictures:
                Image.fromarray(why.pictures[label.value]).save(hidden / f"{name}.png", compress_level=3, pnginfo=words)
        text = json.dumps(
            {"note": stamp, **why.scores, "labels": scores}, indent=2, ensure_ascii=False, allow_nan=False
        )
        (hidden / SCORES).write_text(text + "\n", encoding="utf-8")
    return ()
