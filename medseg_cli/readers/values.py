"""Stored values → float32 voxels, with everything said that changed on the way."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.errors import InputError, UsageError
from medseg_cli.memory_order import copy_into

EXACT_INTEGER = 1 << 24
"""float32 holds every whole number up to here."""


def pick_volume(path: Path, volumes: int, channel: int | None, what: str = "volume") -> int:
    """Which of the `volumes` of a file is meant; `what` they are called in messages.

    Raises:
        InputError: several and none chosen, or there is no such one.
        UsageError: a negative `channel`.
    """
    if channel is None:
        if volumes > 1:
            raise InputError(
                f"{path} holds {volumes} {what}s and one is segmented at a time",
                f"choose one with --channel 0 to --channel {volumes - 1}",
            )
        return 0
    if channel < 0:
        raise UsageError(f"--channel {channel}: {what}s are counted from 0", f"use 0 to {volumes - 1}")
    if channel >= volumes:
        raise InputError(
            f"{path} holds {volumes} {what}{'s' if volumes > 1 else ''}, there is no --channel {channel}",
            f"use --channel 0 to --channel {volumes - 1}" if volumes > 1 else "leave --channel out",
        )
    return channel


def scaled(
    values: NDArray[Any], slope: float | None, intercept: float | None, path: Path
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """Voxels = values · slope + intercept as float32, C-contiguous, all finite; and the notes.

    NaN and -infinity become the smallest finite value (what surrounds a field of view is background), +infinity the
    largest. Scaling is done in float64 where float32 would round.

    Args:
        values: any shape, any real dtype and byte order.
        slope: None leaves the values as they are.
        intercept: None is 0.
        path: for messages.

    Raises:
        InputError: no finite value at all.
    """
    return scaled_slabs([(slice(None), values)], values.shape, values.dtype, slope, intercept, path)


def scaled_slabs(
    slabs: Iterable[tuple[slice, NDArray[Any]]],
    shape: tuple[int, ...],
    dtype: np.dtype,
    slope: float | None,
    intercept: float | None,
    path: Path,
) -> tuple[NDArray[np.float32], tuple[str, ...]]:
    """`scaled` of values that come in parts.

    Args:
        slabs: (place along the last axis, values there); together they are the whole.
        shape: of the whole.
        dtype: of all values.
        slope, intercept, path: as for `scaled`.

    Raises:
        InputError: no finite value at all.
    """
    voxels = np.empty(shape, np.float32)
    # Whole numbers as stored are finite; a large scan need not be searched for NaN then.
    whole = dtype.kind in "iu" and slope is None
    largest = 0
    for place, values in slabs:
        if whole and dtype.itemsize >= 4:
            largest = max(largest, abs(int(values.min())), abs(int(values.max())))
        with np.errstate(over="ignore", invalid="ignore"):
            if slope is not None:
                values = values.astype(np.float64 if dtype.itemsize > 2 else np.float32)
                values *= slope
                values += intercept or 0.0
            copy_into(voxels[..., place], values)
    notes: tuple[str, ...] = ()
    if largest > EXACT_INTEGER:
        notes = (f"values up to {largest} were rounded to float32 (24 significant bits)",)
    return voxels, notes + (() if whole else _make_finite(voxels, path))


def _make_finite(voxels: NDArray[np.float32], path: Path) -> tuple[str, ...]:
    finite = np.isfinite(voxels)
    bad = voxels.size - int(np.count_nonzero(finite))
    if bad == 0:
        return ()
    if bad == voxels.size:
        raise InputError(f"{path}: every value is NaN or infinite", "the scan holds no image: export it again")
    low, high = float(voxels.min(where=finite, initial=np.inf)), float(voxels.max(where=finite, initial=-np.inf))
    voxels[np.isposinf(voxels)] = high
    voxels[~np.isfinite(voxels)] = low
    return (
        f"{bad} of {voxels.size} values were NaN or infinite and were set to the smallest finite value, {low:g} "
        f"(+infinity to the largest, {high:g})",
    )
