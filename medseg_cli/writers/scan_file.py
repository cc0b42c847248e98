"""A scan as a file of its own, without changing a voxel: NIfTI for volumes and cines, PNG for pictures.

Masks have a door of their own (`masks`); this one is for datasets that are brought into another layout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli import gzip_file
from medseg_cli.errors import InputError
from medseg_cli.memory_order import ordered_copy
from medseg_cli.scan import Scan
from medseg_cli.writers import volume

_WHOLE = (np.uint8, np.int16, np.uint16, np.int32)
"""Types for whole numbers, the first that holds them all is taken; float32 for what has fractions."""
_DEPTHS = (np.uint8, np.uint16)
"""What a PNG's values can be."""


def narrowest(voxels: NDArray[np.float32]) -> NDArray[np.generic]:
    """The same values in the smallest type that holds them exactly."""
    low, high = float(voxels.min()), float(voxels.max())
    if np.array_equal(voxels, np.rint(voxels)):
        for dtype in _WHOLE:
            if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max:
                return voxels.astype(dtype)
    return voxels


def fits_png(scan: Scan) -> bool:
    """Whether PNG can hold a scan exactly: a picture of whole numbers, 8 or 16 bits deep, in colour 8."""
    if not scan.is_picture:
        return False
    dtype = narrowest(scan.voxels).dtype
    return dtype == np.uint8 or (dtype in _DEPTHS and scan.voxels.shape[0] == 1)


def write(scan: Scan, path: Path) -> None:
    """Write a scan into a folder that is being made; nothing is there yet.

    Args:
        scan: grey, or a picture in colour.
        path: ends in .nii, .nii.gz or .png.

    Raises:
        InputError: colour in NIfTI, or what PNG cannot hold.
    """
    if path.name.lower().endswith(".png"):
        _write_png(scan, path)
        return
    if scan.voxels.shape[0] != 1:
        raise InputError(f"{scan.provenance.path} is in colour, which NIfTI cannot hold", "convert it to grey first")
    import nibabel as nib

    values = narrowest(scan.voxels[0])
    stored = ordered_copy(values, values.dtype, "F")
    # Of a cine (I, J, 1, T), as its mask is written.
    image = nib.Nifti1Image(stored[:, :, np.newaxis] if scan.cine else stored, scan.affine)
    code = 1 if scan.provenance.format == "dicom" else 2
    image.set_sform(scan.affine, code=code)
    image.set_qform(scan.affine, code=code)
    volume.state_units(image.header, scan)
    if not path.name.endswith(".gz"):
        image.to_filename(path)
        return
    with path.open("wb") as file, gzip_file.packing(file) as stream:
        image.to_file_map({"image": nib.fileholders.FileHolder(fileobj=stream)})


def _write_png(scan: Scan, path: Path) -> None:
    from PIL import Image

    if not fits_png(scan):
        raise InputError(f"{scan.provenance.path} cannot be a PNG without changing its values", "write .nii.gz instead")
    rows = narrowest(scan.voxels)[..., 0].transpose(2, 1, 0)
    Image.fromarray(np.ascontiguousarray(rows[..., 0] if rows.shape[2] == 1 else rows)).save(path, format="PNG")
