"""Label maps as NumPy archives, in MedSAM's layout: slice d, row r, column c of `segs` is voxel (c, r, d).

`medseg` reads them as it reads MedSAM's own files; NumPy does without pickle.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medseg_cli.readers.itk import ItkHeader
from medseg_cli.scan import RAS_TO_LPS
from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.writers.atomic import atomic_output

_EPOCH = (1980, 1, 1, 0, 0, 0)
"""One date for all entries, so that the same mask is the same bytes."""


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> tuple[str, ...]:
    """Write the label map and what it means; see `formats.Format.target`.

    Arrays: `segs` (K, J, I) label values; `spacing` (3,) mm along i, j, k; `origin` (3,) LPS mm of the first voxel's
    centre; `direction` (9,) LPS cosines, row by row; `affine` (4, 4) voxel index → RAS mm; `values` (N,), `names` (N,),
    `colors` (N, 3) and `snomed` (N,) of the labels; `note` () text, the stamp of random weights or "". Of a cine, whose
    slices are frames, `frame_seconds` (K,) too where they are known.

    Raises:
        InputError: `path` may not or cannot be written.
    """
    scan, labels = segmentation.scan, segmentation.labels
    header = ItkHeader.from_affine(RAS_TO_LPS @ scan.affine)
    arrays: dict[str, NDArray[Any]] = {
        "segs": np.ascontiguousarray(segmentation.mask.transpose(2, 1, 0)),
        "spacing": np.array(header.spacing),
        "origin": np.array(header.origin),
        "direction": np.array(header.direction),
        "affine": scan.affine,
        "values": np.array([each.value for each in labels], np.uint16),
        "names": np.array([each.name for each in labels], np.str_),
        "colors": np.array([each.color for each in labels], np.uint8).reshape(-1, 3),
        "snomed": np.array([each.snomed for each in labels], np.str_),
        "note": np.array(RANDOM_WEIGHTS if segmentation.is_random else "", np.str_),
    }
    if scan.frame_seconds is not None:
        arrays["frame_seconds"] = np.array(scan.frame_seconds)
    with (
        atomic_output(path, overwrite) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(entry, "w", force_zip64=True) as file:
                npy.write_array(file, array, allow_pickle=False)
    return ()
