"""Frames of one 2-D picture over time, in formats that were made for volumes.

A file of one slice and several volumes (I, J, 1, T) holds nothing but frames. A 3-D file (I, J, T) looks like a volume
and is one, unless the user says that its third axis is time.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medseg_cli.scan import Scan

TAKEN = "one slice and {count} volumes: read as {count} frames over time (--channel picks one)"
"""Note on a file whose fourth axis is time."""
SHORTEST, LONGEST = 1e-6, 86400.0
"""Seconds: frames that are said to lie closer together or farther apart have a damaged header."""


def believable(step: float) -> bool:
    """Whether so many seconds can lie between two frames."""
    return SHORTEST <= step <= LONGEST


def frame_affine(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """(4, 4) index→RAS with 1 mm per frame along the third axis: across the picture, as the file has it turned."""
    timed = affine.copy()
    timed[:3, 2] /= np.linalg.norm(timed[:3, 2])
    return timed


def as_cine(scan: Scan) -> Scan:
    """The scan with its third axis as time; one of a single slice, or that is a cine already, as it is."""
    count = scan.shape[2]
    if scan.cine or count == 1:
        return scan
    note = f"the third axis is time, as --cine says: {count} frames"
    known = replace(scan.provenance, notes=(*scan.provenance.notes, note))
    return replace(scan, affine=frame_affine(scan.affine), provenance=known, cine=True)
