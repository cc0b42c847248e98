"""Label maps from files, held to what a label map is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli.datasets.pairs import WHOLE, is_picture_of_mask
from medseg_cli.errors import InputError
from medseg_cli.evaluation.scoring import LARGEST_LABEL
from medseg_cli.readers.dicom import seg
from medseg_cli.readers.files import read_file
from medseg_cli.readers.options import ReadOptions
from medseg_cli.scan import Scan


def read_map(path: Path, options: ReadOptions) -> tuple[Scan, NDArray[np.uint16], tuple[str, ...]]:
    """A label map with its geometry, its values (I, J, K), and what was assumed about them.

    Of a DICOM SEG only the slices that it holds; see `on_one_grid`.

    Raises:
        InputError: unreadable, in colours, with fractions or values that no label has.
    """
    scan = seg.read(path.expanduser()) if seg.is_seg(path.expanduser()) else read_file(path, options)
    values, notes = _values(scan, path)
    return scan, values, (*scan.provenance.notes, *notes)


Map = tuple[Scan, NDArray[np.uint16]]
"""A label map: its geometry, and its values (I, J, K)."""


def on_one_grid(first: Map, second: Map) -> tuple[Map, Map]:
    """Two label maps, of which a DICOM SEG has got the grid of the other one; two of those the smallest for both.

    Raises:
        InputError: the voxels of the one are none of the other's grid.
    """
    sparse = [each[0].provenance.format == seg.FORMAT for each in (first, second)]
    if not any(sparse):
        return first, second
    whole = seg.joint(first[0], second[0]) if all(sparse) else first[0] if sparse[1] else second[0]
    one, other = (
        (replace(whole, provenance=scan.provenance), seg.widen(values, scan, whole)) if is_sparse else (scan, values)
        for (scan, values), is_sparse in zip((first, second), sparse, strict=True)
    )
    return one, other


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
