"""Pixel data → float32 planes in the scan's own units."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.frames import Frame, one_line
from medseg_cli.readers.dicom.values import item, number, text, whole

MEASURED = ("CT", "PT", "NM")
"""Modalities whose values are quantities: MONOCHROME1 only says how to show them, so they are never inverted."""
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
"""What decoders turn into RGB, or have."""
_CONVERT = f"read are {', '.join(COLOURS)}; convert it"
_DAMAGED = "it is cut off or its header is wrong: copy it again from where it came, or export it again"
_BASELINE, _EXTENDED, _RLE = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.5"
_JPEG2000_FAMILY = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))


def planes(dataset: Any, frames: Sequence[Frame]) -> Iterator[NDArray[np.float32]]:
    """The given frames of one object as (rows, columns) or (rows, columns, 3) float32.

    Grey values are rescaled with each frame's slope and intercept, or through the modality table; MONOCHROME1 pictures
    that are no measurement are inverted within their stored range first. Colour comes as RGB, 0 to 255.

    Raises:
        InputError: missing, truncated or undecodable pixel data, naming the file.
    """
    name = frames[0].source.name
    table = item(dataset, "ModalityLUTSequence")
    inverted = is_inverted(dataset, frames[0])
    low, high = stored_range(dataset)
    for frame, stored in zip(frames, decoded(dataset, [frame.index for frame in frames], name), strict=True):
        columns, rows = frame.size
        if stored.shape[:2] != (rows, columns):
            raise InputError(f"{frame.name}: decodes to {stored.shape[1]}x{stored.shape[0]}, stated {columns}x{rows}")
        if stored.ndim == 3:
            if (kind := text(dataset, "PhotometricInterpretation")) not in COLOURS:
                raise InputError(f"{name}: {kind or 'unnamed'} is no kind of colour that is read", _CONVERT)
            yield colour(stored)
            continue
        if inverted:
            stored = low + high - stored.astype(np.float64)
        if table is not None:
            yield through_table(stored, dataset, frame.name)
            continue
        slope, intercept = frame.rescale
        values = (stored.astype(np.float64) * slope + intercept).astype(np.float32)
        if not np.isfinite(values).all():
            raise InputError(f"{frame.name}: pixel values are not finite numbers")
        yield values


def is_inverted(dataset: Any, frame: Frame) -> bool:
    """Whether bright means low in the stored values and the picture is to be turned round."""
    return text(dataset, "PhotometricInterpretation") == "MONOCHROME1" and frame.modality not in MEASURED


def stored_range(dataset: Any) -> tuple[int, int]:
    """Lowest and highest value that the stored bits can hold."""
    bits = whole(dataset, "BitsStored") or 16
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if whole(dataset, "PixelRepresentation") else (0, 2**bits - 1)


def padding_note(dataset: Any, frame: Frame, plane: NDArray[np.float32]) -> str:
    """What voxels outside the imaged region hold, in the scan's units; empty when the slice has no such voxel."""
    try:
        padding = number(dataset, "PixelPaddingValue", frame.name)
    except InputError:
        return ""
    if padding is None:
        return ""
    slope, intercept = frame.rescale
    value = np.float32(padding * slope + intercept)
    if not (plane == value).any():
        return ""
    return f"voxels outside the imaged region hold {value:g} (PixelPaddingValue), left as they are"


def surplus_note(dataset: Any) -> str:
    """That a file holds more pictures than it states; empty where it does not, or where that cannot be counted."""
    rows, columns, samples, bits = (
        whole(dataset, keyword) or 0 for keyword in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated")
    )
    size = rows * columns * samples * bits // 8
    if not size or "PixelData" not in dataset or transfer_syntax(dataset).is_compressed:
        return ""
    stated, held = whole(dataset, "NumberOfFrames") or 1, len(dataset.PixelData) // size
    return f"{stated} frame(s) are stated and read, and there are pixels of {held}" if held > stated else ""


def colour(stored: NDArray[Any]) -> NDArray[np.float32]:
    """RGB of any depth → 0 to 255."""
    scale = 255.0 / np.iinfo(stored.dtype).max if stored.dtype.kind == "u" and stored.max(initial=0) > 255 else 1.0
    return (stored.astype(np.float64) * scale).astype(np.float32)


def through_table(stored: NDArray[Any], dataset: Any, name: str) -> NDArray[np.float32]:
    """Values of the modality lookup table."""
    from pydicom.pixels import apply_modality_lut

    try:
        return np.asarray(apply_modality_lut(stored.astype(np.int64), dataset)).astype(np.float32)
    except (ValueError, TypeError, LookupError, AttributeError, NotImplementedError) as error:
        raise InputError(f"{name}: damaged ModalityLUTSequence ({one_line(error)})") from error


def decoded(dataset: Any, indices: list[int], name: str) -> Iterator[NDArray[Any]]:
    """Stored values of the given frames. One decoder per transfer syntax, whatever else is installed.

    Raises:
        InputError: as `planes`.
    """
    if not any(keyword in dataset for keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise InputError(f"{name}: no pixel data, the file ends before it or holds none", _DAMAGED)
    syntax = transfer_syntax(dataset)
    palette = text(dataset, "PhotometricInterpretation") == "PALETTE COLOR"
    try:
        read = by_pydicom if plugin_of(syntax, dataset) is not None else by_simpleitk
        for plane in read(dataset, indices, syntax):
            yield with_palette(plane, dataset) if palette and plane.ndim == 2 else plane
    except (InputError, MemoryError):
        raise
    except Exception as error:
        # Decoders raise whatever they like on damaged data; every such case is the file's fault and is named.
        raise InputError(
            f"{name}: pixel data cannot be decoded ({syntax.name}: {one_line(error)})", _DAMAGED
        ) from error


def transfer_syntax(dataset: Any) -> Any:
    """The transfer syntax; for files without meta header the one in which they were read."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = FileMetaDataset()
    if not dataset.file_meta.get("TransferSyntaxUID"):
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    return UID(str(dataset.file_meta.TransferSyntaxUID))


def plugin_of(syntax: Any, dataset: Any) -> str | None:
    """Which pydicom decoder reads the syntax ("" for uncompressed data), None when SimpleITK/GDCM does.

    JPEG lossless, JPEG-LS and 12-bit JPEG go to SimpleITK: the pydicom plug-in for them is under the GPL.
    """
    eight_bit = (whole(dataset, "BitsAllocated") or 0) <= 8
    if not syntax.is_compressed:
        return ""
    if syntax == _RLE:
        return "pydicom"
    if syntax in _JPEG2000_FAMILY:
        return "pylibjpeg"
    if syntax == _BASELINE or (syntax == _EXTENDED and eight_bit):
        return "pillow"
    return None


def by_pydicom(dataset: Any, indices: list[int], syntax: Any) -> Iterator[NDArray[Any]]:
    """Frames decoded by pydicom."""
    from pydicom.pixels import iter_pixels

    plugin = plugin_of(syntax, dataset) or ""
    if not plugin and text(dataset, "PhotometricInterpretation") == "YBR_FULL_422":
        # pydicom 3.0 forgets after the first frame that frames of this kind are a third shorter, and reads across them.
        for index in indices:
            yield from iter_pixels(dataset, indices=[index], decoding_plugin=plugin)
        return
    yield from iter_pixels(dataset, indices=indices, decoding_plugin=plugin)


def by_simpleitk(dataset: Any, indices: list[int], syntax: Any) -> Iterator[NDArray[Any]]:
    """Frames decoded by SimpleITK's GDCM, from a copy that holds nothing but the picture.

    The copy has no rescale, so stored values come back, and no patient.
    """
    import SimpleITK
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import generate_uid

    frames = whole(dataset, "NumberOfFrames") or 1
    bare = Dataset()
    for keyword in (
        "Rows",
        "Columns",
        "SamplesPerPixel",
        "PhotometricInterpretation",
        "PlanarConfiguration",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
    ):
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    if frames > 1:
        bare.NumberOfFrames = frames
    bare["PixelData"] = dataset["PixelData"]
    # Secondary capture: the one class for which GDCM applies no rescale and looks for no geometry.
    bare.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7" if frames == 1 else "1.2.840.10008.5.1.4.1.1.7.3"
    bare.SOPInstanceUID = generate_uid()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = syntax
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.file_meta.MediaStorageSOPInstanceUID = bare.SOPInstanceUID
    with tempfile.TemporaryDirectory(prefix="medseg-decode-") as folder:
        path = Path(folder, "picture.dcm")
        bare.save_as(path, enforce_file_format=True)
        reader = SimpleITK.ImageFileReader()
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileName(str(path))
        try:
            with quiet_stderr():
                volume = SimpleITK.GetArrayFromImage(reader.Execute())
        except RuntimeError as error:
            # GDCM's own text names a path inside its build and no cause.
            raise ValueError("GDCM cannot decode it: damaged, or of a kind it does not know") from error
    rows, columns = bare.Rows, bare.Columns
    volume = volume.reshape(frames, rows, columns, -1)
    for index in indices:
        yield volume[index, :, :, 0] if volume.shape[-1] == 1 else volume[index]


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silence the C library's own lines: GDCM tries 8-bit JPEG on every 12-bit slice and says so each time."""
    try:
        saved = os.dup(2)
    except OSError:
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)


def with_palette(plane: NDArray[Any], dataset: Any) -> NDArray[Any]:
    """Palette indices (rows, columns) → RGB (rows, columns, 3)."""
    from pydicom.pixels import apply_color_lut

    entries = apply_color_lut(plane, dataset)[..., :3]
    # 16-bit entries hold 8-bit colour in the high byte; some writers use the low byte, which is then all there is.
    return entries >> 8 if entries.dtype.itemsize > 1 and entries.max(initial=0) > 255 else entries
