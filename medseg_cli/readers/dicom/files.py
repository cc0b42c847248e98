"""Which files to look at: a folder, a zip, one file or a DICOMDIR → a list of DICOM files on disk."""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from medseg_cli.errors import InputError

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
MAX_ZIP_FILES = 200_000
MAX_ZIP_BYTES = 32 * 2**30
MAX_ZIP_RATIO = 200
HARMLESS_ZIP_BYTES = 2**30
"""Real scans shrink 2 to 10 times; an archive beyond the ratio that unpacks to more than this is a bomb."""


@dataclass(frozen=True)
class Source:
    """A DICOM file on disk and the name under which the user knows it.

    Args:
        path: where its bytes are (inside a temporary folder for a zip).
        name: relative to what the user named, for messages.
        packed: it was unpacked from an archive and is gone after reading.
    """

    path: Path
    name: str
    packed: bool = False


@dataclass(frozen=True)
class Found:
    """What lies under a path.

    Args:
        sources: DICOM files, sorted by name.
        broken: (name, reason) of files that claim to be DICOM and are not readable as such.
        ignored: how many other files were passed over.
        single: the user named one image file, not a collection.
    """

    sources: tuple[Source, ...]
    broken: tuple[tuple[str, str], ...] = ()
    ignored: int = 0
    single: bool = False


def looks_like_dicom(head: bytes) -> bool:
    """Whether the first 132+ bytes of a file are DICOM: the magic word, or without it an element of group 2 or 8."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 12:
        return False
    # Files without preamble start with a low group number in either byte order, followed by a VR or a small length.
    little, big = head[:2] in (b"\x02\x00", b"\x08\x00"), head[:2] in (b"\x00\x02", b"\x00\x08")
    if not (little or big) or head[2:4] == b"\xff\xff":
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    length = int.from_bytes(head[4:8], "little" if little else "big")
    return explicit or length < 1024


def head_of(path: Path) -> bytes:
    """The first 140 bytes; empty when the file cannot be read, and for what is no file (a pipe would block)."""
    if not path.is_file():
        return b""
    try:
        with path.open("rb") as file:
            return file.read(140)
    except OSError:
        return b""


def is_dicom(path: Path) -> bool:
    """Whether `path` is for this reader: a DICOM file, a DICOMDIR, a zip, or any folder."""
    if path.is_dir():
        return True
    if path.suffix.lower() in (".zip", *DICOM_SUFFIXES):
        return True
    return path.is_file() and looks_like_dicom(head_of(path))


@contextmanager
def collect(path: Path, names: tuple[str, ...] = ()) -> Iterator[Found]:
    """The DICOM files under `path`; a zip is unpacked into a temporary folder that lives as long as the context.

    Args:
        path: folder, zip, DICOMDIR or file.
        names: of a folder only these files, as paths relative to it; () looks at all.

    Raises:
        InputError: nothing there, unreadable, not DICOM, or a zip that is hostile.
    """
    path = Path(path)
    if path.is_dir():
        yield from_names(path, names) if names else from_folder(path)
    elif not path.exists():
        raise InputError(f"{path}: no such file or folder")
    elif zipfile.is_zipfile(path) and not looks_like_dicom(head_of(path)):
        with tempfile.TemporaryDirectory(prefix="medseg-zip-") as folder:
            yield from_zip(path, Path(folder))
    elif path.suffix.lower() == ".zip":
        raise InputError(f"{path}: not a zip archive, or a damaged one")
    else:
        yield from_file(path)


def from_folder(folder: Path) -> Found:
    """All DICOM files in a folder and its sub-folders. Links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror})") from error

    sources, broken, ignored = [], [], 0
    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            path = Path(parent, name)
            shown = path.relative_to(folder).as_posix()
            head = head_of(path)
            if looks_like_dicom(head):
                sources.append(Source(path, shown))
            elif not name.startswith(".") and (path.suffix.lower() in DICOM_SUFFIXES or not os.access(path, os.R_OK)):
                # What cannot be read may be a slice, whatever its name.
                broken.append((shown, fault_of(path)))
            else:
                ignored += 1
    if not sources and not broken:
        held = f"none of its {ignored} files is DICOM" if ignored else "the folder is empty"
        raise InputError(
            f"{folder}: no DICOM files found, {held}", "name a folder with DICOM files, or a single scan file"
        )
    return Found(tuple(sources), tuple(broken), ignored)


def from_names(folder: Path, names: tuple[str, ...]) -> Found:
    """Some files of a folder: each is a DICOM file, or broken."""
    sources, broken = [], []
    for name in names:
        path = folder / name
        if looks_like_dicom(head_of(path)):
            sources.append(Source(path, name))
        else:
            broken.append((name, fault_of(path)))
    return Found(tuple(sources), tuple(broken))


def fault_of(path: Path) -> str:
    """Why a file with a DICOM suffix is not DICOM."""
    if not os.access(path, os.R_OK):
        return "no permission to read it" if path.exists() else "a link that leads nowhere"
    return "the file is empty" if path.stat().st_size == 0 else "not DICOM inside"


def from_file(path: Path) -> Found:
    """One DICOM file, or what a DICOMDIR refers to."""
    if not os.access(path, os.R_OK):
        raise InputError(f"{path}: no permission to read it")
    if not looks_like_dicom(head_of(path)):
        raise InputError(f"{path}: {fault_of(path)}")
    from medseg_cli.readers.dicom import dicomdir

    if dicomdir.is_dicomdir(path):
        return dicomdir.referenced(path)
    return Found((Source(path, path.name),), single=True)


def from_zip(archive: Path, folder: Path) -> Found:
    """Unpack the DICOM members of an archive into numbered files, so that no member name is ever used as a path.

    Raises:
        InputError: encrypted, damaged, no DICOM inside, or larger than the limits (counted while unpacking,
            because the sizes stated in an archive can lie).
    """
    sources, broken, ignored = [], [], 0
    try:
        with zipfile.ZipFile(archive) as bundle:
            members = [member for member in bundle.infolist() if not member.is_dir()]
            room = check_size(archive, members, folder)
            for number, member in enumerate(sorted(members, key=lambda member: member.filename)):
                target = folder / f"{number:06d}"
                with bundle.open(member) as stream:
                    head = stream.read(140)
                    if looks_like_dicom(head):
                        room -= copy(archive, stream, head, target, room)
                        sources.append(Source(target, shown_name(member.filename), packed=True))
                    elif Path(member.filename).suffix.lower() in DICOM_SUFFIXES:
                        if not Path(member.filename).name.startswith("."):
                            broken.append((shown_name(member.filename), "not DICOM inside"))
                    else:
                        ignored += 1
    except RuntimeError as error:
        raise InputError(
            f"{archive}: cannot be unpacked ({error})", "unpack it yourself and name the folder"
        ) from error
    except (zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{archive}: damaged zip ({error})") from error
    except (NotImplementedError, EOFError, OSError, ValueError) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from error
    if not sources and not broken:
        raise InputError(f"{archive}: no DICOM files in this zip ({ignored} other files)")
    return Found(tuple(sources), tuple(broken), ignored)


def shown_name(name: str) -> str:
    """A member name fit for a message: no control characters, not endless."""
    return "".join(character for character in name if character.isprintable())[-120:]


def check_size(archive: Path, members: list[zipfile.ZipInfo], folder: Path) -> int:
    """How many bytes may be unpacked; refuses archives that state more."""
    if len(members) > MAX_ZIP_FILES:
        raise InputError(f"{archive}: {len(members)} files in one zip, more than {MAX_ZIP_FILES}")
    stated = sum(member.file_size for member in members)
    packed = max(1, archive.stat().st_size)
    if stated > HARMLESS_ZIP_BYTES and stated > MAX_ZIP_RATIO * packed:
        raise InputError(
            f"{archive}: unpacks to {stated / 2**30:.1f} GiB from {packed / 2**20:.1f} MiB, refused as a zip bomb"
        )
    room = min(MAX_ZIP_BYTES, shutil.disk_usage(folder).free)
    if stated > room:
        raise InputError(
            f"{archive}: unpacks to {stated / 2**30:.1f} GiB, {room / 2**30:.1f} GiB are allowed or free",
            "unpack it yourself and name the folder",
        )
    return room


def copy(archive: Path, stream: IO[bytes], head: bytes, target: Path, room: int) -> int:
    """Write `head` and the rest of the stream to `target`; bytes written. Stops when more than `room` come out."""
    written = len(head)
    with target.open("wb") as file:
        file.write(head)
        while block := stream.read(2**20):
            written += len(block)
            if written > room:
                raise InputError(f"{archive}: unpacks to more than its headers say, refused as a zip bomb")
            file.write(block)
    return written
