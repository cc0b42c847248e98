"""One NIfTI file per structure, in a folder: 1 inside, 0 outside. Scripts for TotalSegmentator expect masks so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import members, volume


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write a folder with `<structure>.nii.gz` for every label, empty ones too; see `formats.Format.target`.

    Raises:
        InputError: `path` may not or cannot be written.
    """
    safe = members.names(segmentation.labels)
    with members.folder(path, overwrite) as hidden:
        for label in segmentation.labels:
            alone = (segmentation.mask == label.value).astype(np.uint8)
            part = replace(segmentation, mask=alone, labels=(replace(label, value=1),))
            volume.write(part, hidden / f"{safe[label.value]}.nii.gz")
    return ()
