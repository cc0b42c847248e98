"""gzip files through ISA-L where its wheel is installed, else through the standard library.

Both read and write the same format: a file packed by either unpacks to the same bytes with both, and both verify length
and checksum. Only speed and the size of what is packed differ. ISA-L has wheels for Linux, macOS and Windows on 64-bit
x86 and ARM, except for Windows on ARM.
"""

from __future__ import annotations

import gzip
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any

FAST = find_spec("isal") is not None
"""Whether ISA-L does the work."""

STANDARD_LEVEL = 1
"""zlib's fastest level. Label maps hardly shrink further at higher ones."""
FAST_LEVEL = 1
"""ISA-L's level 1: as fast as 0 and 2 on label maps, as small as 2, smaller than 3."""


def open_packed(path: Path) -> gzip.GzipFile:
    """The unpacked bytes of a gzip file.

    Reading raises EOFError where the stream ends early and one of `errors()` where it is damaged; reading past the end
    has verified the checksum.
    """
    if FAST:
        from isal import igzip

        return igzip.IGzipFile(path, "rb")
    return gzip.GzipFile(path, "rb")


def packing(file: IO[bytes]) -> gzip.GzipFile:
    """A stream whose bytes are packed into `file`, without a name and a time: the same bytes give the same file."""
    if FAST:
        from isal import igzip

        return igzip.IGzipFile("", "wb", FAST_LEVEL, file, mtime=0)
    return gzip.GzipFile("", "wb", STANDARD_LEVEL, file, mtime=0)


def unpacking() -> Any:
    """A `zlib.decompressobj` for one gzip or zlib stream."""
    if FAST:
        from isal import isal_zlib

        return isal_zlib.decompressobj(isal_zlib.MAX_WBITS | 32)
    return zlib.decompressobj(zlib.MAX_WBITS | 32)


def errors() -> tuple[type[Exception], ...]:
    """What is raised for damaged streams."""
    if FAST:
        from isal import isal_zlib

        return (gzip.BadGzipFile, zlib.error, isal_zlib.error)  # type: ignore[return-value]  # its stub: an instance
    return (gzip.BadGzipFile, zlib.error)
