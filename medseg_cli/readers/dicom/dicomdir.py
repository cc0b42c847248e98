"""A DICOMDIR: the index of a DICOM medium, followed to the files it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom.files import Found, Source, head_of, looks_like_dicom
from medseg_cli.readers.dicom.frames import quiet_pydicom, read_dataset
from medseg_cli.readers.dicom.values import MALFORMED, text, words

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"


def is_dicomdir(path: Path) -> bool:
    """Whether the file is a DICOMDIR, whatever its name."""
    with quiet_pydicom():
        try:
            header = read_dataset(path, path.name, stop_before_pixels=True, specific_tags=["SOPClassUID"])
            return text(getattr(header, "file_meta", {}), "MediaStorageSOPClassUID") == MEDIA_STORAGE_DIRECTORY
        except InputError:
            return False


def referenced(path: Path) -> Found:
    """The files that a DICOMDIR names, in its order.

    Raises:
        InputError: it names none, none is there, or one lies outside the DICOMDIR's own folder.
    """
    sources, missing = [], []
    with quiet_pydicom():
        dataset = read_dataset(path, str(path))
        try:
            records = list(dataset.get("DirectoryRecordSequence") or [])
        except MALFORMED as error:
            raise InputError(f"{path}: damaged DICOMDIR ({error})") from error
        for record in records:
            parts = referenced_parts(record)
            if not parts:
                continue
            found = locate(path.parent, parts)
            if found is None:
                missing.append(("/".join(parts), "named by the DICOMDIR, not on the medium"))
            elif looks_like_dicom(head_of(found)):
                sources.append(Source(found, "/".join(parts)))
    if not sources:
        why = f"none of the {len(missing)} files it names is there" if missing else "it names no files"
        raise InputError(f"{path}: DICOMDIR without scans, {why}", "name the folder that holds the DICOM files")
    return Found(tuple(sources), tuple(missing))


def referenced_parts(record: Any) -> list[str]:
    """The path components of a record's file in the case the record gives them, empty when it refers to none."""
    return [part for part in words(record, "ReferencedFileID") if part]


def locate(folder: Path, parts: list[str]) -> Path | None:
    """The file of a record below `folder`, ignoring case (media are upper case, copies often are not)."""
    current = folder
    for part in parts:
        if part in (".", "..") or "/" in part or "\\" in part:
            raise InputError(f"{folder}: the DICOMDIR names a file outside its own folder ({'/'.join(parts)})")
        exact = current / part
        if not exact.exists():
            if not current.is_dir():
                return None
            exact = next((entry for entry in current.iterdir() if entry.name.upper() == part.upper()), exact)
            if not exact.exists():
                return None
        current = exact
    return current if current.is_file() else None
