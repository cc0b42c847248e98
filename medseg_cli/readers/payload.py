"""Bytes of a file: hashed, unpacked, and held against what the header declares before anything is allocated."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli import gzip_file
from medseg_cli.errors import DeviceError, InputError
from medseg_cli.read_ahead import made_ahead

MAX_RATIO = {"": 1, "deflate": 1032, "text": 8}
"""No packing gets tighter than this, so a header that declares more than ratio x file size lies."""

SLAB = 8 << 20
"""Bytes of stored values that are handed on at a time, at least one slice."""
AHEAD = 2
"""Slabs that wait at a time, so that neither who unpacks nor who copies has to."""
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


def hash_ahead(paths: Sequence[Path]) -> Callable[[], str]:
    """`sha256_of`, begun in a second thread; the result waits for it."""
    hashes = made_ahead(map(sha256_of, [paths]))
    return lambda: next(hashes)


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
) -> Iterator[tuple[slice, NDArray[Any]]]:
    """Values stored first axis fastest, a few slices at a time; the next are unpacked while these are used.

    Args:
        path: plain or gzip-packed file.
        dtype: of the stored values, byte order included.
        shape: (I, J, K) or (I, J, K, volumes).
        offset: where the data start in the unpacked file.
        volume: which volume of a 4-D file; None reads all of `shape`, which is then 3-D.

    Returns:
        (place along k, values (I, J, that place)) one after the other. What is wrong with the header is raised by the
        call, what is wrong with the data where it is met.

    Raises:
        InputError: the file holds less than that, or is damaged.
        DeviceError: not enough memory.
    """
    with path.open("rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    declared = check_declared(path, shape, dtype.itemsize, offset, "deflate" if packed else "")
    i, j, k = shape[:3]
    slice_bytes = i * j * dtype.itemsize
    start = offset + (volume or 0) * k * slice_bytes
    step = max(SLAB // slice_bytes, 1)
    sizes = [min(step, k - first) * slice_bytes for first in range(0, k, step)]
    rest = offset + declared - start - k * slice_bytes
    stream = made_ahead(_unpacked(path, start, sizes, rest) if packed else _plain(path, start, sizes), AHEAD)
    places = (slice(first, first + step) for first in range(0, k, step))
    # zip keeps no slab: a list of them would be the whole scan once more.
    return (
        (place, data.view(dtype).reshape((i, j, -1), order="F")) for place, data in zip(places, stream, strict=True)
    )


def _plain(path: Path, start: int, sizes: list[int]) -> Iterator[NDArray[np.uint8]]:
    """Bytes of a file from `start` on, in pieces of `sizes`."""
    with path.open("rb") as file:
        file.seek(start)
        for size in sizes:
            data = np.empty(size, np.uint8)
            if _fill(file, data) < size:
                raise InputError(f"{path} is truncated: it became shorter while it was read", _COPY_AGAIN)
            yield data


def _unpacked(path: Path, start: int, sizes: list[int], rest: int) -> Iterator[NDArray[np.uint8]]:
    """The same of a gzip-packed file, of which `rest` more bytes must be there.

    After them the stream must end properly or go on; reading past the end makes gzip verify the checksum.
    """
    needed = start + sum(sizes) + rest
    try:
        with gzip_file.open_packed(path) as file:
            done = _skip(file, start)
            for size in sizes:
                data = np.empty(size, np.uint8)
                found = _fill(file, data)
                done += found
                if found < size:
                    break
                yield data
            else:
                done += _skip(file, rest)
            if done < needed:
                raise InputError(
                    f"{path} is truncated: its header declares {needed} bytes, unpacked it has {done}", _COPY_AGAIN
                )
            file.read(_CHUNK)
    except EOFError as error:
        raise InputError(f"{path} is truncated: its gzip stream ends early", _COPY_AGAIN) from error
    except gzip_file.errors() as error:
        raise InputError(f"{path} is damaged: {error}", _COPY_AGAIN) from error


def _fill(file: BufferedReader | gzip.GzipFile, data: NDArray[np.uint8]) -> int:
    """Bytes put into `data`: all, or as many as there were."""
    view, done = data.data, 0
    while done < len(view) and (more := file.readinto(view[done : done + _CHUNK])):
        done += more
    return done


def _skip(file: gzip.GzipFile, size: int) -> int:
    """Bytes passed over: `size`, or as many as there were."""
    done = 0
    while done < size and (data := file.read(min(size - done, _CHUNK))):
        done += len(data)
    return done


def _times(shape: Sequence[int]) -> str:
    sizes = list(shape)
    while len(sizes) > 3 and sizes[-1] == 1:
        sizes.pop()
    return " x ".join(str(size) for size in sizes)
