"""Label maps as volumes: NIfTI, NRRD (also as Slicer's segmentation), MetaImage and MGH, on the input's own grid.

Where input and mask are of one family (NIfTI; NRRD and MetaImage; MGH) the mask carries the geometry that the input
file states, to the bit, even when reading had to straighten it: viewers read the scan's own header, and the mask must
lie on it there. In any other format it carries the affine of the `Scan`.

The mask of a cine has the shape of its file where both are of one family; otherwise time is the fourth axis,
(I, J, 1, T), whose step is in s. Slicer's segmentations have three axes: frames lie along the third there.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli import gzip_file
from medseg_cli.errors import InputError, UsageError
from medseg_cli.memory_order import ordered_copy
from medseg_cli.scan import RAS_TO_LPS, Scan
from medseg_cli.segmentation import RANDOM_WEIGHTS, Segmentation
from medseg_cli.writers import caret, seg_nrrd
from medseg_cli.writers.atomic import atomic_output, out_of_space

if TYPE_CHECKING:
    import nibabel as nib

SUFFIXES = (".nii", ".nii.gz", ".nrrd", seg_nrrd.SUFFIX, ".mha", ".mgh", ".mgz")

_MGH = (".mgh", ".mgz")
_INTENT_LABEL = 1002
_NIFTI1_MAX_SIZE = 32767


def write(segmentation: Segmentation, path: Path, overwrite: bool = False) -> None:
    """Write the label map; it appears whole or not at all. `masks.write_mask` is the door to it.

    Args:
        segmentation: mask (I, J, K) uint8 or uint16 on the grid of its scan.
        path: it ends in one of `SUFFIXES`, which decides the format, whatever the scan's own was.
        overwrite: whether it may replace a file.

    Raises:
        UsageError: MGH, which has no room for the stamp of random weights, or of a cine.
        InputError: `path` may not or cannot be written.
    """
    name = path.name.lower()
    if name.endswith(_MGH) and segmentation.scan.cine:
        raise UsageError("a mask of frames over time cannot be written as MGH", "write .nii.gz instead")
    if name.endswith(_MGH) and segmentation.is_random:
        raise UsageError("a mask of random weights cannot be stamped as such in an MGH file", "write .nii.gz instead")
    with atomic_output(path, overwrite) as temporary:
        if name.endswith((".nii", ".nii.gz")):
            mask = ordered_copy(segmentation.mask, segmentation.mask.dtype, "F")
            image = _nifti(mask, segmentation.scan, _INTENT_LABEL, b"label map")
            # In place of the scan's own extensions, which may name the patient.
            image.header.extensions = caret.extensions(segmentation.labels)
            if segmentation.is_random:
                image.header["descrip"] = RANDOM_WEIGHTS.encode()
            _store(image, temporary)
        elif name.endswith(_MGH):
            _store(_mgh(segmentation), temporary)
        else:
            _write_itk(segmentation, temporary, path)


def write_values(values: NDArray[np.float32], segmentation: Segmentation, path: Path, what: str) -> None:
    """Write numbers (I, J, K) on the grid of a segmentation's scan as NIfTI, with the geometry that its mask has.

    Args:
        values: in Fortran's order they are not copied.
        segmentation: whose scan they lie on; random weights are stamped.
        path: `.nii.gz`, in a folder that nobody else sees yet.
        what: the numbers are, for the header: ASCII, 79 letters at most.
    """
    image = _nifti(np.asfortranarray(values, np.float32), segmentation.scan, 0, what.encode("ascii"))
    if segmentation.is_random:
        image.header["descrip"] = RANDOM_WEIGHTS.encode()
    _store(image, path)


def stored_dtype(segmentation: Segmentation, path: str | Path) -> str:
    """NumPy name of what `write` stores. MGH has no uint16: such masks are stored as int32."""
    wide = segmentation.mask.dtype != np.uint8
    return "int32" if wide and Path(path).name.lower().endswith(_MGH) else str(segmentation.mask.dtype)


def _store(image: nib.spatialimages.SpatialImage, path: Path) -> None:
    """The file that nibabel writes, only that ISA-L packs it."""
    import nibabel as nib

    if not path.name.endswith((".gz", ".mgz")):
        image.to_filename(path)
        return
    with path.open("wb") as file, gzip_file.packing(file) as stream:
        if isinstance(image, nib.Nifti1Image):
            _pack_nifti(image, stream)
        else:
            image.to_file_map({"image": nib.fileholders.FileHolder(fileobj=stream)})


def _pack_nifti(image: nib.Nifti1Image, stream: gzip.GzipFile) -> None:
    """What `image.to_file_map` writes, but the voxels in one piece: nibabel copies them slice by slice first."""
    image.update_header()
    header = image.header
    header.set_slope_inter(1, 0)
    header.write_to(stream)
    stream.write(bytes(header.get_data_offset() - stream.tell()))
    stream.write(np.asanyarray(image.dataobj).T.data)


def _nifti(values: NDArray[Any], scan: Scan, intent: int, what: bytes) -> nib.Nifti1Image:
    """Values under their scan's own NIfTI header, or under a fresh one with the scan's affine in both forms."""
    import nibabel as nib

    own = scan.header
    if scan.cine and not (isinstance(own, nib.Nifti1Header) and int(own["dim"][3]) > 1):
        values = values[:, :, np.newaxis]
    if isinstance(own, nib.Nifti1Header):
        return _under_own_header(values, own, intent, what)
    kind = nib.Nifti2Image if max(values.shape) > _NIFTI1_MAX_SIZE else nib.Nifti1Image
    image = kind(values, scan.affine)
    code = 1 if scan.provenance.format == "dicom" else 2
    image.set_sform(scan.affine, code=code)
    image.set_qform(scan.affine, code=code)
    state_units(image.header, scan)
    image.header["intent_code"] = intent
    return image


def state_units(header: nib.Nifti1Header, scan: Scan) -> None:
    """Millimetres, and of a cine the step along the fourth axis in s where it is known."""
    step = frame_step(scan) if scan.cine else None
    if scan.cine:
        header["pixdim"][4] = 1.0 if step is None else step
    header.set_xyzt_units("mm", "unknown" if step is None else "sec")


def frame_step(scan: Scan) -> float | None:
    """Mean time between the frames of a cine in s; None where the scan does not know it."""
    times = scan.frame_seconds
    return None if times is None or len(times) < 2 else (times[-1] - times[0]) / (len(times) - 1)


def _under_own_header(mask: NDArray[Any], own: nib.Nifti1Header, intent: int, what: bytes) -> nib.Nifti1Image:
    """A single-file image whose header differs from the scan's only where a mask differs from a scan."""
    import nibabel as nib

    header = own.copy()
    header["magic"] = b"n+2" if isinstance(own, nib.Nifti2Header) else b"n+1"
    header["vox_offset"] = 0
    forms = {key: header[key].copy() for key in ("pixdim", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z")}
    header.set_data_dtype(mask.dtype)
    header.set_data_shape(mask.shape)
    for key, value in forms.items():
        header[key] = value
    header["pixdim"][mask.ndim + 1 :] = 0
    if mask.ndim < 4:
        header["xyzt_units"] = int(header["xyzt_units"]) & 7
    for key in ("cal_max", "cal_min", "toffset", "slice_duration", "slice_code", "slice_start", "slice_end"):
        header[key] = 0
    for key in ("intent_p1", "intent_p2", "intent_p3"):
        header[key] = 0
    header["intent_code"], header["intent_name"] = intent, b""
    # Free text may name the patient, and it describes the scan.
    header["descrip"], header["aux_file"] = what, b""
    if not isinstance(own, nib.Nifti2Header):
        header["db_name"], header["data_type"] = b"", b""
    kind = nib.Nifti2Image if isinstance(own, nib.Nifti2Header) else nib.Nifti1Image
    return kind(mask, None, header=header)


def _mgh(segmentation: Segmentation) -> nib.freesurfer.MGHImage:
    import nibabel as nib

    own = segmentation.scan.header
    stored = ordered_copy(segmentation.mask, stored_dtype(segmentation, ".mgz"), "F")
    image = nib.freesurfer.MGHImage(stored, segmentation.scan.affine)
    if isinstance(own, nib.freesurfer.mghformat.MGHHeader):
        for key in ("Mdc", "delta", "Pxyz_c", "goodRASFlag"):
            image.header[key] = own[key]
    return image


def _write_itk(segmentation: Segmentation, temporary: Path, path: Path) -> None:
    import SimpleITK

    from medseg_cli.readers.itk import ItkHeader, check_whole

    name = path.name.lower()
    scan, planes = segmentation.scan, np.ascontiguousarray(segmentation.mask.transpose(2, 1, 0))
    own = scan.header
    header = own if isinstance(own, ItkHeader) else ItkHeader.from_affine(RAS_TO_LPS @ scan.affine)
    timed = scan.cine and (own.timed if isinstance(own, ItkHeader) else True) and not name.endswith(seg_nrrd.SUFFIX)
    if timed:
        image = SimpleITK.GetImageFromArray(planes[:, np.newaxis], isVector=False)
        turned = np.eye(4)
        turned[:3, :3] = np.array(header.direction).reshape(3, 3)
        image.SetSpacing((*header.spacing, frame_step(scan) or 1.0))
        image.SetOrigin((*header.origin, 0.0))
        image.SetDirection(turned.ravel().tolist())
    else:
        image = SimpleITK.GetImageFromArray(planes)
        image.SetSpacing(header.spacing)
        image.SetOrigin(header.origin)
        image.SetDirection(header.direction)
    if segmentation.is_random:
        image.SetMetaData("medseg", RANDOM_WEIGHTS)
    if name.endswith(seg_nrrd.SUFFIX):
        for key, value in seg_nrrd.fields(segmentation).items():
            image.SetMetaData(key, value)
    try:
        SimpleITK.WriteImage(image, str(temporary), useCompression=True)
    except RuntimeError as error:
        if out_of_space(path.parent, segmentation.mask.nbytes):
            raise InputError(
                f"cannot write {path}: no space left on device", "free some space or write elsewhere"
            ) from error
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"cannot write {path}: {reason}", "check the folder and its free space") from error
    try:
        kind = "metaimage" if name.endswith(".mha") else "nrrd"
        check_whole(temporary, kind, segmentation.scan.shape, segmentation.mask.dtype.itemsize)
    except InputError as error:
        raise InputError(
            f"cannot write {path}: the file came out incomplete", "free some space or write elsewhere"
        ) from error
