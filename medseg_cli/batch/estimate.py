"""What a case will need, before it is read: memory from its header, time and the process's peak from cases like it.

Memory beyond the model is what grows with the scan: its float32 voxels, what its file's reader holds beside them, and
the mask with what measures and draws it. `PER_VOXEL` is a bound of the last; tests/test_batch_estimate.py holds it
against what runs took. The network's own memory and the time depend on machine, model and settings; they are not
guessed: they are None until a case with the same preset was run into the same output folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from medseg_cli.errors import MedsegError

if TYPE_CHECKING:
    from medseg_cli.batch.case import BatchCase
    from medseg_cli.batch.record import Record
    from medseg_cli.readers.header import Header

PER_VOXEL, PER_PIXEL = 16, 32
"""Bytes for each voxel of a volume, and pixel of a picture, beside the scan itself: mask, measuring, drawing."""
WHOLE_FILE = ("nrrd", "metaimage", "gipl", "npz", "image")
"""Formats whose readers hold all stored values beside the float32 ones; the others hold a few slices of them."""
FIXED = 96 << 20
"""Bytes that any case takes besides, measured with a scan of 40 x 40 x 40 voxels."""
MIB = 1 << 20


@dataclass(frozen=True)
class Estimate:
    """A prediction.

    Args:
        memory: bytes that the case adds to a process that has its model.
        peak: bytes of the whole process while it runs; None = not known.
        seconds: to read, segment and write it; None = not known.
        basis: what time and peak are predicted from, in words.
    """

    memory: int
    peak: int | None
    seconds: float | None
    basis: str


@dataclass(frozen=True)
class Measured:
    """Cases of one preset that were run: (voxels, seconds, peak in bytes or None) of each."""

    cases: tuple[tuple[int, float, int | None], ...]


def measured(records: Iterable[Record]) -> dict[str, Measured]:
    """Preset → what its finished cases took."""
    found: dict[str, list[tuple[int, float, int | None]]] = defaultdict(list)
    for record in records:
        shape = record.input.get("shape_ijk") or record.input.get("shape")
        if record.done and shape and record.seconds > 0:
            voxels = 1
            for size in shape:
                voxels *= int(size)
            peak = None if record.peak_rss_mib is None else int(record.peak_rss_mib * MIB)
            found[record.preset].append((voxels, record.seconds, peak))
    return {preset: Measured(tuple(cases)) for preset, cases in found.items()}


def memory_of(header: Header) -> int:
    """Bytes that a case adds, at most, to a process that has its model."""
    per = PER_PIXEL if header.shape[2] == 1 else PER_VOXEL
    stored = header.item_bytes * header.channels * header.volumes if header.format in WHOLE_FILE else 0
    return FIXED + header.scan_bytes + header.voxels * (stored + per)


def predict(header: Header, preset: str, known: Mapping[str, Measured]) -> Estimate:
    """What a case will need.

    Args:
        header: of its scan.
        preset: name of the one that segments it.
        known: as `measured` gives it.
    """
    memory = memory_of(header)
    cases = known[preset].cases if preset in known else ()
    if not cases:
        return Estimate(memory, None, None, "no case of this preset was run yet")
    seconds = _at(header.voxels, [(voxels, took) for voxels, took, _ in cases])
    peaks = [peak for _, _, peak in cases if peak is not None]
    sizes = [voxels for voxels, _, peak in cases if peak is not None]
    peak = None
    if peaks:
        # A model is loaded once, so every case rests on the same floor; what a scan adds is known from its size.
        ratio = (memory - FIXED) / header.voxels
        peak = int(median(each - ratio * size for each, size in zip(peaks, sizes, strict=True)) + memory - FIXED)
    return Estimate(
        memory, peak, seconds, f"{len(cases)} case{'s' if len(cases) > 1 else ''} of this preset in this folder"
    )


def _at(voxels: int, points: Sequence[tuple[int, float]]) -> float:
    """Seconds of a scan of that size: a straight line through those measured, neither of it falling or below 0."""
    mean_size = sum(size for size, _ in points) / len(points)
    mean_took = sum(took for _, took in points) / len(points)
    spread = sum((size - mean_size) ** 2 for size, _ in points)
    if spread == 0:
        return median(took for _, took in points)
    slope = sum((size - mean_size) * (took - mean_took) for size, took in points) / spread
    slope = min(max(slope, 0.0), mean_took / mean_size)
    return mean_took + slope * (voxels - mean_size)


def needs() -> Callable[[BatchCase], int]:
    """`memory_of` as the budget of a run wants it: bytes of a case, 0 where its header cannot be used."""
    known: dict[str, int] = {}

    def of_case(case: BatchCase) -> int:
        if case.id not in known:
            known[case.id] = _bytes(case)
        return known[case.id]

    return of_case


def _bytes(case: BatchCase) -> int:
    from medseg_cli.readers import read_header

    if case.problem is not None:
        return 0
    try:
        return memory_of(read_header(case.scan, case.reading))
    except MedsegError:
        return 0  # reading it will say why
