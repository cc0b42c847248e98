"""What kind of file a path is: magic bytes first, and a suffix that must not contradict them."""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from medseg_cli.errors import InputError

HEAD_BYTES = 4096

SUFFIXES = {
    ".nii": "NIfTI",
    ".nii.gz": "NIfTI (gzip)",
    ".mgh": "MGH",
    ".mgz": "MGH (gzip)",
    ".nrrd": "NRRD",
    ".nhdr": "NRRD",
    ".mha": "MetaImage",
    ".mhd": "MetaImage",
    ".gipl": "GIPL",
    ".gipl.gz": "GIPL (gzip)",
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".bmp": "BMP",
    ".dcm": "DICOM",
    ".dicom": "DICOM",
    ".npz": "NPZ",
}
"""What a suffix claims. `.hdr`, `.img`, `.ima`, `.zip` and no suffix claim nothing: several kinds of files bear it."""

FORMATS = {
    "NIfTI": "nifti",
    "MGH": "mgh",
    "NRRD": "nrrd",
    "MetaImage": "metaimage",
    "GIPL": "gipl",
    "PNG": "image",
    "JPEG": "image",
    "TIFF": "image",
    "BMP": "image",
    "DICOM": "dicom",
    "zip": "dicom",
    "NPZ": "npz",
}
"""Provenance.format of each kind that is read. Zips and folders are offered to the DICOM reader."""

READABLE = "NIfTI, NRRD, MHA/MHD, MGH/MGZ, GIPL, DICOM (file, folder, zip), PNG, JPEG, TIFF, BMP, NPZ (MedSAM)"

_MAGICS: tuple[tuple[int, bytes, str], ...] = (
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (4, b"n+2\0\r\n\x1a\n", "NIfTI"),
    (4, b"ni2\0\r\n\x1a\n", "NIfTI"),
    # Before TIFF: a DICOM preamble may hold a TIFF header, so that both kinds of reader take the file.
    (128, b"DICM", "DICOM"),
    (0, b"NRRD0", "NRRD"),
    (252, b"\xef\xff\xe9\xb0", "GIPL"),
    (252, b"\x2a\xe3\x89\xb8", "GIPL"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"PK\x03\x04", "zip"),
    (0, b"GIF8", "GIF"),
    (8, b"WEBP", "WebP"),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
    (4, b"ftypmsf1", "HEIC"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5"),
    (0, b"\x93NUMPY", "NumPy"),
    (0, b"%PDF", "PDF"),
    (257, b"ustar", "tar"),
    (0, b"BM", "BMP"),
)


@dataclass(frozen=True)
class Kind:
    """What a file is: `format` as in `Provenance.format`, `name` as people say it, and whether gzip wraps it."""

    format: str
    name: str
    gzipped: bool = False

    def __str__(self) -> str:
        return f"{self.name} (gzip)" if self.gzipped else self.name


def detect(path: Path) -> Kind:
    """Kind of the file or folder at `path`.

    Raises:
        InputError: empty, of no known kind, or its content is not what its suffix claims.
        OSError: it cannot be opened.
    """
    if path.is_dir():
        return Kind("dicom", "a folder")
    if path.is_fifo() or path.is_socket():
        raise InputError(f"{path} is a pipe or a socket, no file", "write it to a file first")
    if suffix_of(path) == ".img" and path.with_suffix(".hdr").is_file():
        return detect(path.with_suffix(".hdr"))
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InputError(f"{path} is empty (0 bytes)", "copy or download it again")
    found = _content(head)
    claimed = _claim(path)
    if claimed == "DICOM":
        # Half of all DICOM files in the wild lack the preamble that carries the magic.
        if found is None or found.format == "dicom":
            return Kind("dicom", "DICOM")
    elif claimed.startswith("MGH") and found is not None and found.name in ("MGH", "unknown content"):
        found = Kind("mgh", "MGH", found.gzipped)
    elif claimed == "NPZ" and found is not None and found.name == "zip":
        found = Kind("npz", "NPZ")
    if found is not None and found.name == "MGH" and not claimed:
        # Four bytes are too little to go by without a suffix that says so.
        found = None
    if claimed and str(found) != claimed:
        known = found is not None and found.name != "unknown content"
        hint = "copy or export it again"
        if known and found is not None:
            hint = "give it the suffix of what it is" if found.format else f"readable are {READABLE}"
        content = str(found) if known else "damaged or of no known kind"
        raise InputError(f"{path} is named as {claimed}, but its content is {content}", hint)
    if found is not None and found.format:
        return found
    if found is None and _is_dicom(path):
        return Kind("dicom", "DICOM")
    what = f"is {found}, which medseg does not read" if found else "is of no kind that medseg reads"
    raise InputError(f"{path} {what}", f"readable are {READABLE}")


def inner_head(head: bytes) -> bytes:
    """The first bytes behind a gzip wrapper, as many as `head` holds; empty when the gzip stream is broken."""
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, HEAD_BYTES)
    except zlib.error:
        return b""


def suffix_of(path: Path) -> str:
    """Lower-case suffix, with `.gz` counted into it: ".nii.gz"."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    return "".join(suffixes) if suffixes[-1:] == [".gz"] else (suffixes[-1] if suffixes else "")


def _claim(path: Path) -> str:
    return SUFFIXES.get(suffix_of(path), "")


def _content(head: bytes) -> Kind | None:
    if head[:2] == b"\x1f\x8b":
        inner = _plain(inner_head(head))
        return Kind(FORMATS.get(inner, ""), inner or "unknown content", gzipped=True)
    name = _plain(head)
    return Kind(FORMATS.get(name, ""), name) if name else None


def _plain(head: bytes) -> str:
    for offset, magic, name in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            return name
    if len(head) >= 348 and 348 in (struct.unpack("<i", head[:4])[0], struct.unpack(">i", head[:4])[0]):
        return "Analyze 7.5"
    if re.match(rb"\s*[A-Za-z]+ *= *\S", head) and re.search(rb"(?m)^\s*NDims *=", head):
        return "MetaImage"
    if len(head) >= 284 and struct.unpack(">i", head[:4])[0] == 1:
        return "MGH"
    return ""


def _is_dicom(path: Path) -> bool:
    from medseg_cli.readers import dicom

    return dicom.is_dicom(path)
