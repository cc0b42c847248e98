"""Small files that a batch's page shows: volumes of 8 bits, and pictures. Each appears whole or not at all."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.measure import Measurement
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import preview, sheet
from medseg_cli.writers.atomic import atomic_output

LEVEL = 6
"""zlib's: these files travel inside a page, where every byte counts a third more."""
_INTENT_LABEL = 1002
THUMBNAIL = 144
"""Longer side of the picture in the table, in pixels."""
QUALITY, SMALL_QUALITY = 70, 60
"""WebP's quality of the preview and of the thumbnail."""


def write_nifti(
    values: NDArray[np.unsignedinteger],
    affine: NDArray[np.float64],
    path: Path,
    *,
    slope: float = 1.0,
    inter: float = 0.0,
    labels: bool = False,
) -> None:
    """Write a packed NIfTI that replaces what was there.

    Args:
        values: (I, J, K) uint8 or uint16, or (I, J, K, 3) uint8 of colours.
        affine: (4, 4) voxel index → RAS mm.
        path: ends in .nii.gz.
        slope, inter: a value is `slope` times what is stored, plus `inter`.
        labels: whether the values are labels, which viewers must not interpolate.

    Raises:
        InputError: it cannot be written.
    """
    import nibabel as nib

    colours = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    stored: NDArray[Any] = np.ascontiguousarray(values).view(colours)[..., 0] if values.ndim == 4 else values
    image = nib.Nifti1Image(stored, None)
    image.set_sform(affine, code=2)
    # Viewers take the shape of a voxel from here, not from the affine.
    image.header.set_zooms(np.linalg.norm(affine[:3, :3], axis=0))
    image.header.set_xyzt_units("mm")
    # Not by nibabel's own writing: it would choose a scale itself.
    header = image.header.copy()
    header["vox_offset"], header["magic"] = header.single_vox_offset, b"n+1"
    header["scl_slope"], header["scl_inter"] = slope, inter
    header["intent_code"] = _INTENT_LABEL if labels else 0
    padding = bytes(header.single_vox_offset - header.sizeof_hdr)
    with atomic_output(path, overwrite=True) as part:
        part.write_bytes(gzip.compress(header.binaryblock + padding + stored.tobytes(order="F"), LEVEL, mtime=0))


def write_pictures(
    segmentation: Segmentation,
    measurements: Sequence[Measurement],
    large: Path,
    small: Path,
    *,
    focus: tuple[float, float, float] | None = None,
    stamp: str = "",
) -> None:
    """Write the preview, see `preview.write`, and the first of its planes as a thumbnail, both as WebP.

    Raises:
        InputError: one cannot be written.
    """
    panels = preview.panels(segmentation, measurements, focus)
    thumbnail = panels[0].image.copy()
    thumbnail.thumbnail((THUMBNAIL, THUMBNAIL))
    picture = sheet.compose(panels, measurements, stamp)
    for image, path, quality in ((picture, large, QUALITY), (thumbnail, small, SMALL_QUALITY)):
        with atomic_output(path, overwrite=True) as part:
            image.save(part, format="WEBP", quality=quality)
