"""The text headers of NRRD and MetaImage (and GIPL's binary one), as far as SimpleITK reads them without a word.

Seen with SimpleITK 2.5: a NaN in a MetaImage header becomes 0; the sign conversion from RAS is skipped for NRRD spaces
with a time axis; NRRD spaces without anatomical meaning and files without any space are taken as LPS.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.errors import InputError

_HEADER_LIMIT = 1 << 20
_GIPL_HEADER = 256
_EXPORT = "the header is damaged: export the scan again"
_NRRD_PACKING = {"raw": "", "gzip": "deflate", "gz": "deflate"}
_ANATOMICAL = {
    "right-anterior-superior", "ras",
    "left-anterior-superior", "las",
    "left-posterior-superior", "lps",
}  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """What the header says besides the voxels.

    Args:
        files: header first, data file last; one entry when they share a file.
        offset: where the data start in the last of `files` (0 where unknown: then only a lower bound is checked).
        packing: how the data are packed, a key of `payload.MAX_RATIO`.
        notes: what had to be assumed.
        packed_header: bytes of header inside the packed stream, before the data.
        packed_size: bytes of the packed stream; None is all from `offset` on.
    """

    files: tuple[Path, ...]
    offset: int
    packing: str
    notes: tuple[str, ...] = ()
    packed_header: int = 0
    packed_size: int | None = None


def inspect(path: Path, fmt: str) -> Facts:
    """Facts of a "nrrd", "metaimage" or "gipl" file.

    Raises:
        InputError: the header is incomplete, holds NaN, or a geometry without meaning; or its data file is missing.
    """
    if fmt == "gipl":
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        notes: tuple[str, ...] = ("GIPL states no directions: its axes are taken as L, P, S",)
        return Facts((path,), 0, "deflate", notes, _GIPL_HEADER) if packed else Facts((path,), _GIPL_HEADER, "", notes)
    with path.open("rb") as file:
        head = file.read(_HEADER_LIMIT)
    return _nrrd(path, head) if fmt == "nrrd" else _metaimage(path, head)


def _nrrd(path: Path, head: bytes) -> Facts:
    end = re.search(rb"\r?\n\r?\n", head)
    text = (head[: end.start()] if end else head).decode("latin-1")
    fields = {
        key.strip().lower(): value.strip() for key, value in re.findall(r"(?m)^([^#:\n]+):(?!=)[ \t]*(.*?)\s*$", text)
    }
    notes: tuple[str, ...] = ()
    space = fields.get("space", "").lower()
    if "time" in space or space in ("rast", "last", "lpst"):
        raise InputError(f"{path}: NRRD space '{space}' with a time axis is not read", "extract one 3-D volume first")
    for key in ("space directions", "space origin"):
        if re.search(r"nan|inf", fields.get(key, ""), re.IGNORECASE):
            raise InputError(f"{path}: '{key}' holds NaN or infinity: {fields[key]}", _EXPORT)
    if any(_number(word) <= 0 for word in fields.get("spacings", "").split()):
        raise InputError(f"{path}: the voxel size (spacings) is {fields['spacings']}", _EXPORT)
    if space not in _ANATOMICAL:
        said = f"NRRD space '{space}' names no anatomy" if space else "the file states no anatomical space"
        notes = (f"{said}: its world is taken as L, P, S, so left and right cannot be trusted",)
    if "space directions" not in fields and "spacings" not in fields:
        notes += ("the file states no voxel size: 1 mm is assumed",)
    encoding = fields.get("encoding", "raw").lower()
    if encoding in ("bzip2", "bz2"):
        raise InputError(f"{path} is packed with bzip2, which is not read", "convert it to gzip encoding")
    packing = _NRRD_PACKING.get(encoding, "text")
    if any(_number(fields.get(key, "0")) != 0 for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        # The packed stream then starts, or its data start, somewhere that only the decoder works out.
        packing = packing and "text"
    data = fields.get("data file", fields.get("datafile", ""))
    if not data:
        return Facts((path,), end.end() if end else 0, packing, notes)
    return Facts((path, *_data_files(path, data, text)), 0, packing, notes)


def _metaimage(path: Path, head: bytes) -> Facts:
    end = re.search(rb"(?m)^\s*ElementDataFile *= *([^\r\n]*)\r?\n?", head)
    if end is None:
        raise InputError(f"{path}: the MetaImage header has no ElementDataFile", _EXPORT)
    text = head[: end.end()].decode("latin-1")
    fields = {key: value.strip() for key, value in re.findall(r"(?m)^\s*(\w+) *= *(.*?)\s*$", text)}
    for key in ("NDims", "DimSize", "ElementType"):
        if not fields.get(key):
            raise InputError(f"{path}: the MetaImage header has no {key}", _EXPORT)
    dims = _number(fields["NDims"])
    sizes = [_number(word) for word in fields["DimSize"].split()]
    if dims != len(sizes) or not all(size >= 1 for size in sizes):
        raise InputError(f"{path}: NDims is {fields['NDims']}, DimSize is {fields['DimSize']}", _EXPORT)
    geometry = ("Offset", "Position", "Origin", "TransformMatrix", "Rotation", "Orientation")
    for key in geometry:
        if not all(math.isfinite(_number(word)) for word in fields.get(key, "").split()):
            raise InputError(f"{path}: {key} holds NaN, infinity or no number: {fields[key]}", _EXPORT)
    for key in ("ElementSpacing", "ElementSize"):
        if not all(0 < _number(word) < math.inf for word in fields.get(key, "").split()):
            raise InputError(f"{path}: the voxel size ({key}) is {fields[key]}", _EXPORT)
    notes: tuple[str, ...] = ()
    if "ElementSpacing" not in fields and "ElementSize" not in fields:
        notes = ("the file states no voxel size: 1 mm is assumed",)
    compressed = _is_true(fields.get("CompressedData", "False"))
    data = fields["ElementDataFile"]
    files = (path,) if data.upper() == "LOCAL" else (path, *_data_files(path, data, head.decode("latin-1")))
    offset = end.end() if len(files) == 1 else 0
    packed_size = _number(fields["CompressedDataSize"]) if "CompressedDataSize" in fields else None
    if compressed and packed_size is None and len(files) == 1:
        # MetaIO then unpacks nothing and hands out whatever the memory held.
        raise InputError(f"{path}: packed data without a CompressedDataSize", _EXPORT)
    if compressed and packed_size is not None and not offset + packed_size <= files[-1].stat().st_size:
        raise InputError(
            f"{path} is truncated: {offset + packed_size:.0f} bytes declared, {files[-1].stat().st_size} there",
            "copy or download it again",
        )
    is_text = not _is_true(fields.get("BinaryData", "False"))
    if compressed:
        return Facts(files, offset, "deflate", notes, packed_size=None if packed_size is None else int(packed_size))
    return Facts(files, offset, "text" if is_text else "", notes)


def _data_files(path: Path, named: str, text: str) -> tuple[Path, ...]:
    """The data files that a detached header names, relative to its folder.

    Raises:
        InputError: none is named, one is missing or lies outside the folder, or they are given as a pattern.
    """
    words = named.split()
    if not words:
        raise InputError(f"{path} names no data file", "export it again")
    if words[0].upper() == "LIST":
        listed = text.split(named, 1)[1].splitlines()
        names = [line.strip() for line in listed if line.strip()]
    elif "%" in named:
        raise InputError(f"{path} is spread over a pattern of files ({named})", "convert it to one .nrrd or .mha file")
    else:
        names = [named]
    if any("\0" in name for name in names):
        raise InputError(f"{path} names a file with a zero byte in its name", "it is damaged: export it again")
    files = tuple(path.parent / name for name in names)
    for file in files:
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise InputError(f"{path} names a data file outside its own folder: {file}", "put the two side by side")
        if not file.is_file():
            raise InputError(f"{path} names its data file {file}, which does not exist", "put the two side by side")
    return files


def _is_true(word: str) -> bool:
    """As MetaIO reads it: the first letter decides."""
    return word[:1] in ("T", "t", "1")


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan
