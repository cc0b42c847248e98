"""Folders of maps: per label a map on the scan's grid and a picture of it, and one table of all numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.writers import members, volume

SCORES = "scores.json"


def write(
    segmentation: Segmentation,
    path: Path,
    overwrite: bool,
    *,
    maps: Mapping[int, NDArray[np.float32]],
    pictures: Mapping[int, NDArray[np.uint8]],
    facts: Mapping[str, Any],
    scores: Mapping[int, Mapping[str, Any]],
    what: str,
) -> None:
    """Write a folder with `<label>.nii.gz`, `<label>.png` and `scores.json`; it appears whole or not at all.

    Args:
        segmentation: on whose scan's grid the maps lie.
        path: the folder.
        overwrite: whether it may replace one.
        maps: label value → (I, J, K).
        pictures: label value → (H, W, 3); a label that is nowhere has none.
        facts: JSON-ready, of all labels.
        scores: label value → JSON-ready.
        what: the maps' numbers, for the header: ASCII, 79 letters at most.

    Raises:
        InputError: `path` may not or cannot be written.
    """
    stamp = RANDOM_WEIGHTS if segmentation.is_random else ""
    words = PngImagePlugin.PngInfo()
    if stamp:
        words.add_text("Comment", stamp)
    safe = members.names(segmentation.labels)
    # A scan may hold a thing that is called as the table.
    safe = {value: f"{name}_" if f"{name}.json".lower() == SCORES else name for value, name in safe.items()}
    with members.folder(path, overwrite) as hidden:
        table = [
            {
                "label": label.value,
                "name": label.name,
                "map": f"{safe[label.value]}.nii.gz",
                "picture": f"{safe[label.value]}.png" if label.value in pictures else None,
                **scores[label.value],
            }
            for label in segmentation.labels
        ]
        for label in segmentation.labels:
            name = safe[label.value]
            volume.write_values(maps[label.value], segmentation, hidden / f"{name}.nii.gz", what)
            if label.value in pictures:
                Image.fromarray(pictures[label.value]).save(hidden / f"{name}.png", compress_level=3, pnginfo=words)
        text = json.dumps({"note": stamp, **facts, "labels": table}, indent=2, ensure_ascii=False, allow_nan=False)
        (hidden / SCORES).write_text(text + "\n", encoding="utf-8")
