"""Bytes of a file: hashed, unpacked, and held against what the header declares before anything is allocated."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg_cli import gzip_file
from medseg_cli.errors import DeviceError, InputError

MAX_RATIO = {"": 1, "deflate": 1032, "text": 8}
"""No packing gets tighter than this, so a header that declares more than ratio x file size lies."""

_CHUNK = 1 << 20
_PACKED_CHUNK = 1 << 16
_COPY_AGAIN = "copy or download it again"


def sha256_of(paths: Sequence[Path]) -> str:
    """SHA-256 of one file's bytes; of several (header and data file), of their hex digests one after the other."""
    digests = []
    for path in paths:
        with path.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def check_declared(path: Path, shape: Sequence[int], item_bytes: int, offset: int, packing: str) -> int:
    """Bytes of data that a header declares, after checking that file and memory can hold them.

    Args:
        path: the file that holds the data.
        shape: declared size along each axis.
        item_bytes: bytes per value.
        offset: where the data start in the (unpacked) file.
        packing: how the data are packed, a key of `MAX_RATIO`; "" if they are not.

    Raises:
        InputError: an axis without voxels, or more data than the file can hold.
        DeviceError: more data than there is free memory (raw values plus the float32 copy).
    """
    if not shape or min(shape) < 1:
        raise InputError(f"{path}: the header declares {_times(shape)} voxels", "it is damaged: export the scan again")
    declared = math.prod(shape) * item_bytes
    size = path.stat().st_size
    if offset + declared > size * MAX_RATIO[packing] + (_CHUNK if packing else 0):
        raise InputError(
            f"{path} is truncated or its header is wrong: {_times(shape)} voxels need "
            f"{offset + declared} bytes, the file has {size}{' (packed)' if packing else ''}",
            _COPY_AGAIN,
        )
    check_memory(path, shape, item_bytes)
    return declared


def check_memory(path: Path, shape: Sequence[int], item_bytes: int) -> None:
    """Whether the raw values and their float32 copy fit into free memory.

    Raises:
        DeviceError: they do not, with both numbers.
    """
    needed, free = math.prod(shape) * (item_bytes + 4), available_memory()
    if free is not None and needed > free:
        raise DeviceError(
            f"{path}: {_times(shape)} voxels need {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are free",
            "crop or downsample the scan, or use a machine with more memory",
        )


def available_memory() -> int | None:
    """Bytes of memory that can be taken without swapping; None where the system does not say."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def unpack(path: Path, limit: int | None = None) -> bytes:
    """The file's bytes, through gzip where it is gzip-packed; the whole, with its checksum verified, or `limit` bytes.

    Raises:
        InputError: the gzip stream is cut short or damaged.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip_file.open_packed(path) if packed else path.open("rb") as file:
            if limit is not None:
                return file.read(limit)
            return file.read()
    except EOFError as error:
        raise InputError(f"{path} is truncated: its gzip stream ends early", _COPY_AGAIN) from error
    except gzip_file.errors() as error:
        raise InputError(f"{path} is damaged: {error}", _COPY_AGAIN) from error


def verify_packed(path: Path, offset: int, size: int | None, expected: int) -> None:
    """Unpack a zlib or gzip stream without keeping anything, for decoders that pass over a damaged one in silence.

    Args:
        path: the file.
        offset: where the stream starts.
        size: bytes of the stream; None is all there are.
        expected: bytes that must come out.

    Raises:
        InputError: the stream is damaged, cut short, or does not hold exactly `expected` bytes.
    """
    stream = gzip_file.unpacking()
    left, unpacked = path.stat().st_size - offset if size is None else size, 0
    with path.open("rb") as file:
        file.seek(offset)
        while not stream.eof and (data := file.read(min(_PACKED_CHUNK, left))):
            left -= len(data)
            try:
                unpacked += len(stream.decompress(data))
            except gzip_file.errors() as error:
                raise InputError(f"{path} is damaged: {error}", _COPY_AGAIN) from error
    if not stream.eof:
        raise InputError(f"{path} is truncated: its packed data end early", _COPY_AGAIN)
    if unpacked != expected:
        raise InputError(f"{path} is damaged: {expected} bytes declared, {unpacked} unpacked", _COPY_AGAIN)


def read_values(
    path: Path, dtype: np.dtype, shape: Sequence[int], offset: int, volume: int | None = None
) -> NDArray[np.generic]:
    """Values stored first axis fastest, in an array of `shape` (or of `shape[:3]`, the `volume`-th of a 4-D file).

    Args:
        path: plain or gzip-packed file.
        dtype: of the stored values, byte order included.
        shape: (I, J, K) or (I, J, K, volumes).
        offset: where the data start in the unpacked file.
        volume: which volume of a 4-D file; None reads all of `shape`.

    Raises:
        InputError: the file holds less than that, or is damaged.
        DeviceError: not enough memory.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    declared = check_declared(path, shape, dtype.itemsize, offset, "deflate" if packed else "")
    count, start = math.prod(shape), offset
    if volume is not None:
        count = math.prod(shape[:3])
        start = offset + volume * count * dtype.itemsize
    if packed:
        data = _unpack_exactly(path, offset + declared)
        values = np.frombuffer(data, dtype, count, start)
    else:
        values = np.fromfile(path, dtype, count, offset=start)
    return values.reshape(shape if volume is None else shape[:3], order="F")


def _unpack_exactly(path: Path, size: int) -> bytes:
    """The first `size` unpacked bytes, after which the stream must end properly or go on; both checked by one read."""
    try:
        with gzip_file.open_packed(path) as file:
            data = file.read(size)
            # Reading past the end makes gzip verify the checksum of what was read.
            file.read(_CHUNK)
    except EOFError as error:
        raise InputError(f"{path} is truncated: its gzip stream ends early", _COPY_AGAIN) from error
    except gzip_file.errors() as error:
        raise InputError(f"{path} is damaged: {error}", _COPY_AGAIN) from error
    if len(data) < size:
        raise InputError(
            f"{path} is truncated: its header declares {size} bytes, unpacked it has {len(data)}", _COPY_AGAIN
        )
    return data


def _times(shape: Sequence[int]) -> str:
    sizes = list(shape)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return " x ".join(str(size) for size in sizes)
