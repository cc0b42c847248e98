"""FreeSurfer MGH and MGZ."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from nibabel.freesurfer.mghformat import MGHHeader
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers import payload
from medseg_cli.readers.grid import checked_affine
from medseg_cli.readers.header import Header, spacing_of
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume, scaled_slabs
from medseg_cli.scan import Provenance, Scan

DATA_OFFSET = 284
_GOOD_RAS = 28
_EXPORT = "the header is damaged: export the scan again"


def read(path: Path, options: ReadOptions) -> Scan:
    """Read an MGH or MGZ file; `options.channel` picks a frame of a 4-D one.

    Raises:
        InputError: damaged, truncated, several frames and none chosen, or bad geometry.
        DeviceError: not enough memory.
    """
    stored, raw, dtype = _open(path)
    notes: tuple[str, ...] = ()
    if struct.unpack(">h", raw[_GOOD_RAS : _GOOD_RAS + 2])[0] != 1:
        notes = ("the file states no orientation (goodRASFlag 0): FreeSurfer's default, coronal slices, is assumed",)
    i, j, k, frames = (int(size) for size in stored["dims"])
    volume = pick_volume(path, max(frames, 1), options.channel)
    slabs = payload.read_values(path, dtype, (i, j, k, frames), DATA_OFFSET, volume)
    sha256 = payload.hash_ahead([path])
    voxels, value_notes = scaled_slabs(slabs, (i, j, k), dtype, None, None, path)
    affine, affine_notes = checked_affine(_affine(stored), (i, j, k), str(path))
    if frames > 1:
        notes = (f"volume {volume} of {frames} (--channel, counted from 0)", *notes)
    provenance = Provenance(path, "mgh", sha256(), notes=notes + value_notes + affine_notes)
    return Scan(voxels[np.newaxis], affine, provenance, header=stored)


def describe(path: Path, options: ReadOptions) -> Header:
    """What the header says; raises as `read` does, but for what only the voxels show."""
    stored, _, dtype = _open(path)
    i, j, k, frames = (int(size) for size in stored["dims"])
    pick_volume(path, max(frames, 1), options.channel)
    with path.open("rb") as file:
        packing = "deflate" if file.read(2) == b"\x1f\x8b" else ""
    payload.check_declared(path, (i, j, k, frames), dtype.itemsize, DATA_OFFSET, packing)
    affine, _ = checked_affine(_affine(stored), (i, j, k), str(path))
    return Header("mgh", (i, j, k), spacing_of(affine), volumes=max(frames, 1), item_bytes=dtype.itemsize)


def _open(path: Path) -> tuple[MGHHeader, bytes, np.dtype]:
    """The header, its bytes, and the type of the values."""
    raw = payload.unpack(path, limit=DATA_OFFSET)
    if len(raw) < DATA_OFFSET:
        raise InputError(f"{path} is truncated: {len(raw)} bytes hold no MGH header", "copy or download it again")
    stored = MGHHeader(raw, check=False)
    try:
        return stored, raw, np.dtype(stored.get_data_dtype()).newbyteorder(">")
    except KeyError as error:
        raise InputError(f"{path}: unknown data type code {int(stored['type'])}", _EXPORT) from error


def _affine(stored: MGHHeader) -> NDArray[np.float64]:
    """(4, 4) index→RAS mm: direction cosines times voxel size, with the volume's middle (dims / 2) at Pxyz_c."""
    affine = np.eye(4)
    with np.errstate(all="ignore"):
        affine[:3, :3] = stored["Mdc"].astype(np.float64).T * stored["delta"].astype(np.float64)
        affine[:3, 3] = stored["Pxyz_c"].astype(np.float64) - affine[:3, :3] @ (stored["dims"][:3] / 2.0)
    return affine
