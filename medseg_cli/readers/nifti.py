"""NIfTI-1 and NIfTI-2, single file or pair, plain or gzip-packed.

Which affine counts: the sform if its code is above 0, else the qform if its code is above 0, else the voxel sizes alone
(identity directions, first voxel at 0, and a note that left and right are then unknown). Where both forms are set and
disagree by more than a tenth of a voxel the sform is taken and a note says how far they are apart; where one of them is
mirrored against the other, left and right contradict each other and the file is refused with both matrices.
"""

from __future__ import annotations

import struct
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers import payload
from medseg_cli.readers.cine import TAKEN, believable, frame_affine
from medseg_cli.readers.grid import checked_affine, matrix_text
from medseg_cli.readers.header import Header as ScanHeader
from medseg_cli.readers.header import spacing_of
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume, scaled_slabs
from medseg_cli.scan import Provenance, Scan

Header = nib.Nifti1Header

_MM_PER_UNIT = {1: 1000.0, 2: 1.0, 3: 0.001}
_SECONDS_PER_UNIT = {8: 1.0, 16: 1e-3, 24: 1e-6}
_SPECTRAL = (32, 40, 48)
"""Time units that are none: Hz, ppm, radians per second."""
_EXPORT = "the header is damaged: export the scan again"


def read(path: Path, options: ReadOptions) -> Scan:
    """Read a NIfTI file, or a pair named by either of its halves.

    Args:
        path: `.nii`, `.nii.gz`, `.hdr` or `.img`, judged by content.
        options: `channel` picks a volume of a 4-D file. One of a single slice is a cine where none is picked.

    Raises:
        InputError: damaged, truncated, colour, complex, more than 4-D, several volumes and none chosen, bad geometry.
        DeviceError: not enough memory.
    """
    header, files, single = _open(path)
    shape = _shape(header, path)
    dtype = _dtype(header, path)
    try:
        slope, intercept = header.get_slope_inter()
    except HeaderDataError as error:
        raise InputError(f"{path}: {error}", _EXPORT) from error
    if (slope, intercept) == (1.0, 0.0):
        slope = intercept = None
    cine = _is_cine(header, shape, options)
    volume = None if cine else pick_volume(path, shape[3], options.channel)
    size = (*shape[:2], shape[3]) if cine else shape[:3]
    # One after the other, frames of one slice lie in the file as the slices of a volume do.
    slabs = payload.read_values(files[-1], dtype, size if cine else shape, _offset(header, single, path), volume)
    sha256 = payload.hash_ahead(files)
    voxels, value_notes = scaled_slabs(slabs, size, dtype, slope, intercept, path)
    with np.errstate(all="ignore"):
        affine, affine_notes = _affine(header, shape[:3], path)
    notes = value_notes + affine_notes
    seconds, time_notes = _frame_seconds(header, shape[3]) if cine else (None, ())
    if cine:
        affine, notes = frame_affine(affine), (TAKEN.format(count=shape[3]), *time_notes, *notes)
    elif shape[3] > 1:
        notes = (f"volume {volume} of {shape[3]} (--channel, counted from 0)", *notes)
    provenance = Provenance(path, "nifti", sha256(), notes=notes)
    return Scan(voxels[np.newaxis], affine, provenance, cine=cine, frame_seconds=seconds, header=header)


def describe(path: Path, options: ReadOptions) -> ScanHeader:
    """What the header says; raises as `read` does, but for what only the voxels show."""
    header, files, single = _open(path)
    shape, dtype = _shape(header, path), _dtype(header, path)
    cine = _is_cine(header, shape, options)
    if not cine:
        pick_volume(path, shape[3], options.channel)
    with files[-1].open("rb") as file:
        packing = "deflate" if file.read(2) == b"\x1f\x8b" else ""
    payload.check_declared(files[-1], shape, dtype.itemsize, _offset(header, single, path), packing)
    with np.errstate(all="ignore"):
        affine, _ = _affine(header, shape[:3], path)
    if cine:
        size = (*shape[:2], shape[3])
        return ScanHeader("nifti", size, spacing_of(frame_affine(affine)), item_bytes=dtype.itemsize, cine=True)
    return ScanHeader("nifti", shape[:3], spacing_of(affine), volumes=shape[3], item_bytes=dtype.itemsize)


def _is_cine(header: Header, shape: tuple[int, int, int, int], options: ReadOptions) -> bool:
    """Whether the file holds one slice over time and all of it is meant; its fourth axis can also be frequency."""
    spectral = (int(header["xyzt_units"]) & 0x38) in _SPECTRAL
    return shape[2] == 1 and shape[3] > 1 and options.channel is None and not spectral


def _frame_seconds(header: Header, count: int) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """When each frame began, in s, and a note where the header does not say."""
    scale, step = _SECONDS_PER_UNIT.get(int(header["xyzt_units"]) & 0x38), float(header["pixdim"][4])
    if scale is None or not (np.isfinite(step) and step > 0):
        return None, ("the time between frames is not stated",)
    if not believable(step * scale):
        return None, (f"the time between frames is stated as {step * scale:.4g} s: it is not used",)
    # pixdim is float32: 0.04 s must not become 0.03999999910593033.
    return tuple(round(float(f"{step:.7g}") * scale * frame, 9) for frame in range(count)), ()


def _open(path: Path) -> tuple[Header, list[Path], bool]:
    """The header, the files of the scan, and whether that is one file."""
    header_path = path.with_suffix(".hdr") if path.suffix.lower() == ".img" else path
    header, single = _header(header_path)
    return header, [path] if single else [header_path, _data_file(header_path)], single


def _header(path: Path) -> tuple[Header, bool]:
    """The header as stored (nothing repaired) and whether header and data share one file."""
    raw = payload.unpack(path, limit=nib.Nifti2Header.template_dtype.itemsize)
    size = raw[:4]
    kind = nib.Nifti2Header if 540 in (struct.unpack("<i", size)[0], struct.unpack(">i", size)[0]) else nib.Nifti1Header
    length = kind.template_dtype.itemsize
    if len(raw) < length:
        raise InputError(f"{path} is truncated: {len(raw)} bytes hold no NIfTI header", "copy or download it again")
    try:
        header = kind(raw[:length], check=False)
    except (HeaderDataError, ValueError) as error:
        raise InputError(f"{path}: not a NIfTI header: {error}", _EXPORT) from error
    return header, bytes(header["magic"].tobytes())[:2] == b"n+"


def _data_file(header_path: Path) -> Path:
    image = header_path.with_suffix(".img")
    if not image.is_file():
        raise InputError(f"{header_path} is half of a pair, and {image} is missing", "put .hdr and .img side by side")
    return image


def _shape(header: Header, path: Path) -> tuple[int, int, int, int]:
    """(I, J, K, volumes)."""
    dims = int(header["dim"][0])
    if not 1 <= dims <= 7:
        raise InputError(f"{path}: the header declares {dims} dimensions", _EXPORT)
    sizes = [int(size) for size in header["dim"][1 : dims + 1]]
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    if len(sizes) > 4:
        text = " x ".join(str(size) for size in sizes)
        raise InputError(f"{path} is {len(sizes)}-D ({text})", "extract one 3-D volume, or a 4-D file for --channel")
    if len(sizes) == 1:
        raise InputError(f"{path} is 1-D ({sizes[0]} values), not a scan", "name the scan itself")
    i, j, k, volumes = [*sizes, 1, 1][:4]
    return (i, j, k, volumes)


def _offset(header: Header, single: bool, path: Path) -> int:
    """Where the data start; a single file's header fills at least its first 352 (NIfTI-2: 544) bytes."""
    stated = float(header["vox_offset"])
    if not np.isfinite(stated) or stated < 0:
        raise InputError(f"{path}: the data offset (vox_offset) is {stated:g}", _EXPORT)
    return max(int(stated), header.single_vox_offset if single else 0)


def _dtype(header: Header, path: Path) -> np.dtype:
    try:
        dtype = header.get_data_dtype()
    except (HeaderDataError, KeyError) as error:
        raise InputError(f"{path}: unknown data type code {int(header['datatype'])}", _EXPORT) from error
    if dtype.fields is not None:
        raise InputError(
            f"{path} is a colour volume ({'RGBA' if 'A' in dtype.fields else 'RGB'}), not a scan",
            "convert it to one grey value per voxel",
        )
    if dtype.kind == "c":
        raise InputError(f"{path} holds complex numbers", "extract the magnitude (or phase) first")
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise InputError(f"{path}: data type {dtype} is not read", "convert it to float32 or int16")
    return dtype


def _affine(header: Header, shape: tuple[int, int, int], path: Path) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """The checked index→RAS mm affine by the rules above, and the notes."""
    scale, notes = _unit(header)
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = _qform(header, path, needed=sform is None) if int(header["qform_code"]) > 0 else None
    if sform is not None:
        chosen, name = sform, "sform"
        if qform is not None:
            notes += _compare(sform, qform, header, shape, path)
    elif qform is not None:
        chosen, name = qform, "qform"
    else:
        chosen, name = np.diag([*_pixdim(header, path), 1.0]), "voxel size"
        notes += (
            "sform and qform codes are 0: only the voxel size is known; axes are taken as R, A, S from the first "
            "voxel, so left and right cannot be told apart",
        )
    chosen = np.array(chosen, dtype=np.float64)
    chosen[:3] *= scale
    affine, repaired = checked_affine(chosen, shape, f"{path} ({name})")
    return affine, notes + repaired


def _unit(header: Header) -> tuple[float, tuple[str, ...]]:
    code = int(header["xyzt_units"]) & 7
    scale = _MM_PER_UNIT.get(code, 1.0)
    if scale == 1.0:
        return 1.0, ()
    return scale, (f"lengths in {'metres' if code == 1 else 'micrometres'} were converted to mm",)


def _pixdim(header: Header, path: Path) -> tuple[float, float, float]:
    """Voxel size of the first three axes; those that a 1-D or 2-D header leaves out are 1."""
    sizes = [float(size) for size in header["pixdim"][1:4]]
    dims = int(header["dim"][0])
    sizes = [size if axis < dims else 1.0 for axis, size in enumerate(sizes)]
    if not all(np.isfinite(size) and size > 0 for size in sizes):
        text = " x ".join(f"{size:g}" for size in sizes)
        raise InputError(f"{path}: the voxel size (pixdim) is {text}", "set a valid voxel size, or export it again")
    return (sizes[0], sizes[1], sizes[2])


def _qform(header: Header, path: Path, needed: bool) -> NDArray[np.float64] | None:
    """The qform; None when it is invalid but the sform counts anyway."""
    copy = header.copy()
    try:
        copy["pixdim"][1:4] = _pixdim(header, path)
        # The standard reads every qfac but -1 as 1; nibabel insists on one of the two.
        copy["pixdim"][0] = -1.0 if float(header["pixdim"][0]) == -1.0 else 1.0
        return np.asarray(copy.get_qform(), dtype=np.float64)
    except (HeaderDataError, ValueError, InputError) as error:
        if not needed:
            return None
        if isinstance(error, InputError):
            raise
        quaternion = ", ".join(f"{float(header[key]):g}" for key in ("quatern_b", "quatern_c", "quatern_d"))
        raise InputError(f"{path}: the qform quaternion ({quaternion}) is not a rotation", _EXPORT) from error


def _compare(
    sform: NDArray[np.float64], qform: NDArray[np.float64], header: Header, shape: tuple[int, int, int], path: Path
) -> tuple[str, ...]:
    """What there is to say about two forms that are both set."""
    if not (np.all(np.isfinite(sform)) and np.all(np.isfinite(qform))):
        return ()
    if np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0:
        raise InputError(
            f"{path}: sform and qform are mirror images, so left and right contradict each other: "
            f"sform {matrix_text(sform)}, qform {matrix_text(qform)}",
            "find out which is right and set both to it",
        )
    corners = np.array([[i, j, k, 1] for i in (0, 1) for j in (0, 1) for k in (0, 1)]) * [*(np.array(shape) - 1), 1]
    apart = float(np.linalg.norm((corners @ (sform - qform).T)[:, :3], axis=1).max())
    if apart <= 0.1 * float(np.linalg.norm(sform[:3, :3], axis=0).min()):
        return ()
    codes = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])})"
    return (f"{codes} place voxels up to {apart * _unit(header)[0]:.3g} mm apart; the sform is used",)
