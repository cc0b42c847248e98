"""What the files of a folder are, told by their first bytes: scans, DICOM, archives, and what is none of these."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from medseg_cli.errors import InputError
from medseg_cli.readers import detect
from medseg_cli.readers.in_threads import in_threads
from medseg_cli.readers.options import ReadOptions

DOCUMENTS = frozenset(
    {
        *(".csv", ".tsv", ".json", ".jsonl", ".yaml", ".yml", ".xml", ".txt", ".md", ".rst", ".html", ".htm", ".css"),
        *(
            ".pdf",
            ".log",
            ".ini",
            ".cfg",
            ".toml",
            ".py",
            ".m",
            ".r",
            ".sh",
            ".ipynb",
            ".doc",
            ".docx",
            ".xls",
            ".xlsx",
        ),
        *(".bval", ".bvec", ".label", ".ctbl", ".pt", ".pth", ".safetensors", ".pkl", ".raw", ".zraw", ".tar", ".bak"),
        *(".stl", ".ply", ".obj", ".glb", ".mp4", ".avi", ".js", ".sha256", ".md5", ".tmp", ".part", ".lock"),
    }
)
"""Suffixes of files that are not opened: tables, texts, programs, weights, and the data of header-and-data pairs."""
DICOM_SUFFIXES = (".ima",)
"""Suffixes that claim to be DICOM beside those that `detect` knows."""
DICOMDIR = "DICOMDIR"

What = Literal["scan", "dicom", "zip", "other"]


@dataclass
class Sorted:
    """Files by what they are.

    Args:
        scans: (file, all its files, what is wrong with it): header-and-data pairs have several.
        dicom: DICOM by content, or by suffix.
        zips: archives that hold DICOM, or are damaged.
        others: how many files were none of these.
    """

    scans: list[tuple[Path, tuple[Path, ...], InputError | None]] = field(default_factory=list)
    dicom: list[Path] = field(default_factory=list)
    zips: list[tuple[Path, InputError | None]] = field(default_factory=list)
    others: int = 0


def sort_files(files: Sequence[Path]) -> Sorted:
    """Each file to its kind. Only names that claim a format make a damaged file a scan."""
    found = Sorted()
    for file, (what, members, fault) in zip(files, in_threads(look, files), strict=True):
        if what == "scan":
            found.scans.append((file, members, fault))
        elif what == "dicom":
            found.dicom.append(file)
        elif what == "zip":
            found.zips.append((file, fault))
        else:
            found.others += 1
    return found


def look(file: Path) -> tuple[What, tuple[Path, ...], InputError | None]:
    """(what, all files of the scan, what is wrong with it) of one file."""
    suffix = detect.suffix_of(file)
    if suffix in DOCUMENTS or file.name.upper() == DICOMDIR:
        return "other", (), None
    if suffix == ".img" and file.with_suffix(".hdr").is_file():
        return "other", (), None  # its header stands for the pair
    try:
        kind = detect.detect(file)
    except InputError as error:
        return _damaged(file, suffix, error)
    except OSError as error:
        why = "is a link that leads nowhere" if file.is_symlink() else f"cannot be read: {error.strerror or error}"
        return _damaged(file, suffix, InputError(f"{file} {why}", "fetch it, or check its permissions"))
    if kind.name == "zip":
        return _archive(file) if suffix == ".zip" else ("other", (), None)
    if kind.format == "dicom":
        return ("other", (), None) if kind.gzipped else ("dicom", (file,), None)
    try:
        return "scan", _members(file, kind.format), None
    except (InputError, OSError) as error:
        fault = error if isinstance(error, InputError) else InputError(f"{file} cannot be read: {error}")
        return "scan", (file,), fault


def reading_of(file: Path, reading: ReadOptions) -> ReadOptions:
    """A run's options for one file: `spacing` is for kinds that may state none, and the others would refuse it."""
    picture = detect.SUFFIXES.get(detect.suffix_of(file)) in ("PNG", "JPEG", "TIFF", "BMP", "NPZ")
    return reading if picture else replace(reading, spacing=None)


def _damaged(file: Path, suffix: str, error: InputError) -> tuple[What, tuple[Path, ...], InputError | None]:
    """A file that no reader takes is a scan only if its name says so."""
    if suffix == ".zip":
        return "zip", (file,), error
    if suffix in DICOM_SUFFIXES or detect.SUFFIXES.get(suffix) == "DICOM":
        return "dicom", (file,), None
    return ("scan", (file,), error) if suffix in detect.SUFFIXES else ("other", (), None)


def _archive(file: Path) -> tuple[What, tuple[Path, ...], InputError | None]:
    try:
        with zipfile.ZipFile(file):
            return "zip", (file,), None
    except (zipfile.BadZipFile, OSError) as error:
        return "zip", (file,), InputError(f"{file} is a damaged zip: {error}", "copy or download it again")


def _members(file: Path, kind: str) -> tuple[Path, ...]:
    """The file, and its data file where header and data are two.

    Raises:
        InputError: the header is damaged, or its data file is missing.
    """
    suffix = detect.suffix_of(file)
    if suffix == ".hdr":
        return tuple(each for each in (file, file.with_suffix(".img")) if each.is_file())
    if suffix in (".nhdr", ".mhd"):
        from medseg_cli.readers import itk_header

        return itk_header.inspect(file, kind).files
    return (file,)
