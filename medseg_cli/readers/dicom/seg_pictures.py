"""Which pictures the frames of a DICOM SEG lie on, where it is not their place in the patient that tells them apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.multiframe import MAX_FRAMES
from medseg_cli.readers.dicom.values import MALFORMED, item, text, whole

_TEMPORAL_INDEX = 0x00209128


def is_over_time(dataset: Any) -> bool:
    """Whether the frames are told apart by their number in time."""
    try:
        return any(int(each.DimensionIndexPointer) == _TEMPORAL_INDEX for each in dataset.DimensionIndexSequence)
    except MALFORMED:
        return False


def pictures(dataset: Any, path: Path) -> NDArray[np.int64]:
    """Number, from 0, of the picture that each frame names: of a frame of one object, or that object itself.

    Raises:
        InputError: a frame names none, or they are of different objects.
    """
    numbers, objects = [], set()
    for own in dataset.PerFrameFunctionalGroupsSequence:
        source = item(item(own, "DerivationImageSequence"), "SourceImageSequence")
        if source is None:
            raise InputError(f"{path}: its frames do not say where they lie, or on which picture", "export it again")
        numbers.append((whole(source, "ReferencedFrameNumber") or 1) - 1)
        objects.add(text(source, "ReferencedSOPInstanceUID"))
    if len(objects) > 1 or min(numbers) < 0 or max(numbers) >= MAX_FRAMES:
        raise InputError(
            f"{path}: its frames have no place in the patient and lie on {len(objects)} different pictures",
            "compare it with a mask of one picture, or of one object with many frames",
        )
    return np.array(numbers)
