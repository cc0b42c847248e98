"""Label maps from files, held to what a label map is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets.pairs import WHOLE, is_picture_of_mask
from medseg_cli.errors import InputError
from medseg_cli.evaluation.scoring import LARGEST_LABEL
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan


def read_map(path: Path, options: ReadOptions) -> tuple[Scan, NDArray[np.uint16], tuple[str, ...]]:
    """A label map with its geometry, its values (I, J, K), and what was assumed about them.

    Raises:
        InputError: unreadable, in colours, with fractions or values that no label has.
    """
    scan = read_file(path, options)
    values, notes = _values(scan, path)
    return scan, values, (*scan.provenance.notes, *notes)


def _values(scan: Scan, path: Path) -> tuple[NDArray[np.uint16], list[str]]:
    voxels = scan.voxels
    if voxels.shape[0] > 1 and not np.array_equal(voxels[1:], np.broadcast_to(voxels[:1], voxels[1:].shape)):
        raise InputError(f"{path} is a colour image, which names no objects", "save it in grey: 0 outside")
    grey = voxels[0]
    low, high = float(grey.min()), float(grey.max())
    broken = np.abs(grey - np.rint(grey)) > WHOLE
    if broken.any():
        raise InputError(
            f"{path} is no label map: it holds {grey[broken][0]:g}, and labels are whole numbers",
            "cut probabilities at 0.5 first; move labels between grids with nearest neighbour",
        )
    if high > LARGEST_LABEL:
        raise InputError(f"{path} is no label map: it holds {high:g}", f"labels are 0 to {LARGEST_LABEL}")
    notes = []
    if low < -WHOLE:
        notes.append(f"values below 0 in {path.name} count as background")
    values = np.rint(np.maximum(grey, 0)).astype(np.uint16)
    if scan.provenance.format == "image" and is_picture_of_mask(values):
        if np.any((values > 0) & (values < values.max())):
            notes.append(f"{path.name} has shades of grey: its object is where it is above half")
        values = (values > 127).astype(np.uint16)
    return values, notes
