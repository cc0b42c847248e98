"""MedSAM's `.npz`: `imgs` and `gts` (slices, rows, columns), `spacing`, and in MedSAM2's also `direction`, `origin`.

Slice d, row r, column c is voxel (c, r, d); spacing, direction and origin are SimpleITK's (x, y, z, LPS). A 2-D case is
`imgs` (rows, columns) or (rows, columns, 3) with `gts` (rows, columns).
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.readers import payload
from medseg_cli.readers.grid import checked_affine
from medseg_cli.readers.header import Header, spacing_of
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import scaled
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

IMAGE, LABEL, RESULT = "imgs", "gts", "segs"
_REPAIR = "it is damaged, or not one of MedSAM's: save it again with imgs, gts and spacing"


def read(path: Path, options: ReadOptions, array: str = IMAGE) -> Scan:
    """One of the two arrays as a scan.

    Args:
        path: `.npz`.
        options: `spacing` is the voxel size where the file states none.
        array: `IMAGE` or `LABEL`. A file that has `RESULT` instead, as MedSAM2 and medseg write masks, gives that.

    Raises:
        InputError: damaged, without the array, of another shape, or with objects that only pickle could read.
        UsageError: a channel: such files hold one volume.
        DeviceError: more data than there is memory.
    """
    if options.channel is not None:
        raise UsageError(f"--channel picks one of several volumes, but {path} is NPZ and holds one", "leave it out")
    try:
        with zipfile.ZipFile(path) as archive:
            if f"{array}.npy" not in archive.namelist() and f"{RESULT}.npy" in archive.namelist():
                array = RESULT
            values = _array(archive, array, path)
            facts = {
                name: _array(archive, name, path).ravel()
                for name in ("spacing", "direction", "origin")
                if f"{name}.npy" in archive.namelist()
            }
            flat = values.ndim == 2 or (
                array != RESULT
                and values.ndim == 3
                and values.shape[2] == 3
                and len(_declared(archive, LABEL, path)[0]) == 2
            )
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        # RuntimeError: encrypted, or packed in a way that zipfile does not know.
        raise InputError(f"{path} is damaged: {error}", _REPAIR) from error
    if values.ndim not in (2, 3) or values.dtype.kind not in "buif":
        raise InputError(f"{path}: {array} is {values.shape} of {values.dtype}, no scan", _REPAIR)
    stored = values.astype(np.uint8) if values.dtype.kind == "b" else values
    if flat:
        stored = stored[:, :, np.newaxis] if stored.ndim == 2 else stored
        stored = stored.transpose(2, 1, 0)[..., np.newaxis]
    else:
        stored = stored.transpose(2, 1, 0)[np.newaxis]
    voxels, notes = scaled(stored, None, None, path)
    affine, known, more = _affine(facts, options, voxels.shape[1:], path)
    provenance = Provenance(path, "npz", payload.sha256_of([path]), notes=notes + more)
    return Scan(voxels, affine, provenance, spacing_known=known, position_known=not flat)


def describe(path: Path, options: ReadOptions) -> Header:
    """What the header says; raises as `read` does, but for what only the voxels show."""
    try:
        with zipfile.ZipFile(path) as archive:
            shape, dtype = _declared(archive, IMAGE, path)
            spacing = _array(archive, "spacing", path).ravel() if "spacing.npy" in archive.namelist() else None
            flat = len(shape) == 2 or (
                len(shape) == 3 and shape[2] == 3 and len(_declared(archive, LABEL, path)[0]) == 2
            )
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, RuntimeError) as error:
        raise InputError(f"{path} is damaged: {error}", _REPAIR) from error
    if len(shape) not in (2, 3) or dtype.kind not in "buif":
        raise InputError(f"{path}: {IMAGE} is {shape} of {dtype}, no scan", _REPAIR)
    facts = {} if spacing is None else {"spacing": spacing}
    size = (shape[1], shape[0], 1) if flat else (shape[2], shape[1], shape[0])
    affine, known, _ = _affine(facts, options, size, path)
    channels = 3 if flat and len(shape) == 3 else 1
    return Header("npz", size, spacing_of(affine), known, channels, item_bytes=dtype.itemsize)


def _array(archive: zipfile.ZipFile, name: str, path: Path) -> NDArray[np.generic]:
    """One array, after a look at what its header declares."""
    shape, dtype = _declared(archive, name, path)
    payload.check_memory(path, shape, dtype.itemsize)
    with archive.open(f"{name}.npy") as file:
        return npy.read_array(file, allow_pickle=False)


def _declared(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array; its size is held against that of its entry in the archive."""
    if f"{name}.npy" not in archive.namelist():
        held = ", ".join(entry.removesuffix(".npy") for entry in archive.namelist()[:8])
        raise InputError(f"{path} holds no array {name}, but {held or 'nothing'}", _REPAIR)
    with archive.open(f"{name}.npy") as file:
        version = npy.read_magic(file)
        header = npy.read_array_header_1_0(file) if version == (1, 0) else npy.read_array_header_2_0(file)
    shape, _, dtype = header
    if int(np.prod(shape, dtype=object)) * dtype.itemsize > archive.getinfo(f"{name}.npy").file_size:
        raise InputError(f"{path} is damaged: {name} declares {shape} values of {dtype}, more than it holds", _REPAIR)
    return shape, dtype


def _affine(
    facts: dict[str, NDArray[np.generic]], options: ReadOptions, shape: tuple[int, ...], path: Path
) -> tuple[NDArray[np.float64], bool, tuple[str, ...]]:
    """Index→RAS mm, whether the voxel size is known, and the notes."""
    sizes = {"spacing": 3, "direction": 9, "origin": 3}
    wrong = next(
        (name for name, array in facts.items() if array.size != sizes[name] or array.dtype.kind not in "iuf"), ""
    )
    if wrong:
        raise InputError(f"{path}: {wrong} is {facts[wrong]!r}, not {sizes[wrong]} numbers", _REPAIR)
    stated = options.spacing if "spacing" not in facts else None
    spacing = facts.get("spacing", np.array(stated or (1.0, 1.0, 1.0))).astype(np.float64)
    lps = np.eye(4)
    lps[:3, :3] = facts.get("direction", np.eye(3)).reshape(3, 3).astype(np.float64) * spacing
    lps[:3, 3] = facts.get("origin", np.zeros(3)).astype(np.float64)
    i, j, k = shape
    affine, notes = checked_affine(RAS_TO_LPS @ lps, (i, j, k), f"{path} (spacing)")
    known = "spacing" in facts or stated is not None
    if not known:
        notes = (*notes, "the voxel size is unknown: 1 mm is assumed (--spacing states it)")
    return affine, known, notes
