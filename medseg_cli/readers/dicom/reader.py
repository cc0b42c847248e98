"""The door of the DICOM reader: a path and options → a `Scan`, or the list of series under a path."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg_cli.errors import InputError
from medseg_cli.readers.dicom import geometry, pixels, regrid, series
from medseg_cli.readers.dicom.files import Source, collect, head_of, looks_like_dicom
from medseg_cli.readers.dicom.frames import Frame, quiet_pydicom, read_dataset, read_frames
from medseg_cli.readers.dicom.header import files_of, header_of
from medseg_cli.readers.dicom.selection import is_cine, pick_frame, refuse_spacing, without_copies
from medseg_cli.readers.dicom.series import SeriesInfo, Stack
from medseg_cli.readers.header import Header, spacing_of
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.payload import check_memory
from medseg_cli.readers.values import pick_volume
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

STORED_BYTES = 2
"""Of a pixel as stored: nearly all are 16 bits, and nothing hangs on the others."""


@dataclass(frozen=True)
class Catalogue:
    """What lies under a path.

    Args:
        stacks: scans and other objects, in the order of their numbers.
        broken: (name, reason) of DICOM files that could not be read.
        ignored: how many files were not DICOM.
        single: the user named one file.
    """

    stacks: list[Stack]
    broken: tuple[tuple[str, str], ...]
    ignored: int
    single: bool


@contextmanager
def catalogue(path: Path, names: tuple[str, ...] = ()) -> Iterator[Catalogue]:
    """Read all headers under `path`; the files stay readable (also those of a zip) within the context.

    Args:
        path: folder, zip, DICOMDIR or file.
        names: of a folder only these files.

    Raises:
        InputError: nothing there, or one named file that is damaged.
    """
    with collect(path, names) as found:
        frames: list[Frame] = []
        broken = list(found.broken)
        for source in found.sources:
            try:
                frames += read_frames(source)
            except InputError as error:
                if found.single:
                    raise InputError(error.message.replace(source.name, str(path), 1), error.hint) from error
                broken.append((source.name, error.message.removeprefix(f"{source.name}: ")))
        yield Catalogue(series.group(frames), tuple(broken), found.ignored, found.single)


def list_series(path: Path) -> list[SeriesInfo]:
    """Every series or stack under a folder, zip, DICOMDIR or file, numbered as `--series` takes them.

    Raises:
        InputError: nothing readable there.
    """
    with catalogue(Path(path)) as found:
        if not found.stacks:
            refuse_broken(Path(path), found)
        return series.listing(found.stacks)


def refuse_broken(path: Path, found: Catalogue) -> None:
    """Raise when files that claim to be DICOM could not be read: slices of this scan may be among them."""
    if found.broken:
        listed = "; ".join(f"{name}: {reason}" for name, reason in found.broken[:3])
        more = f" and {len(found.broken) - 3} more" if len(found.broken) > 3 else ""
        raise InputError(
            f"{path}: {len(found.broken)} DICOM file(s) cannot be used: {listed}{more}",
            "slices may be missing: export the series again, or move these files away",
        )


def read(path: Path, options: ReadOptions | None = None) -> Scan:
    """The scan under a folder, zip, DICOMDIR or file.

    Voxels are (C, I, J, K) with i = column, j = row, k = slice along the normal; the affine maps ijk to RAS mm. One
    named file gives that file alone: a slice of a series becomes a scan with K = 1.

    Raises:
        InputError: no scan, an ambiguous choice, doubtful geometry or damaged pixels; never a guess.
    """
    path, options = Path(path), options or ReadOptions()
    with catalogue(path, options.files) as found, quiet_pydicom():
        layout, notes = chosen(path, found, options)
        if found.single:
            notes = [*single_file_notes(path, layout.frames[0]), *notes]
        voxels, digest, value_notes = load(layout)
        voxels, affine = onto_grid(voxels, layout)
        header = header_of(layout, voxels.shape[1:])
    first = layout.frames[0]
    provenance = Provenance(
        path=path,
        format="dicom",
        sha256=digest,
        series_uid=first.series_uid,
        notes=tuple(dict.fromkeys([*notes, *layout.notes, *value_notes])),
        files=files_of(layout.frames, path),
    )
    return Scan(
        voxels,
        RAS_TO_LPS @ affine,
        provenance,
        first.modality,
        layout.spacing_known,
        layout.position_known,
        cine=layout.cine,
        frame_seconds=layout.seconds,
        region=first.region,
        header=header,
    )


def describe(path: Path, options: ReadOptions | None = None) -> Header:
    """What the headers say; raises as `read` does, but for what only the pixels show."""
    path, options = Path(path), options or ReadOptions()
    with catalogue(path, options.files) as found, quiet_pydicom():
        layout, _ = chosen(path, found, options)
    first, spacing = layout.frames[0], spacing_of(layout.affine)
    count = len(layout.frames)
    if layout.depths is not None:
        count = round(float(np.ptp(layout.depths)) / spacing[2]) + 1
    shape = (first.size[0], first.size[1], count)
    return Header(
        "dicom",
        shape,
        spacing,
        layout.spacing_known,
        first.samples,
        item_bytes=STORED_BYTES,
        modality=first.modality,
        cine=layout.cine,
    )


def chosen(path: Path, found: Catalogue, options: ReadOptions) -> tuple[geometry.Layout, list[str]]:
    """The one scan that is meant, arranged in space, and notes on how it was chosen.

    Raises:
        InputError: no scan, an ambiguous choice, or doubtful geometry.
    """
    refuse_broken(path, found)
    stack = series.choose(path, found.stacks, options)
    notes = ["this is a localizer (scout), not a diagnostic scan"] if stack.kind == "localizer" else []
    stack, dropped = without_copies(stack)
    refuse_spacing(path, stack, options)
    if is_cine(path, stack, options):
        return geometry.arrange_cine(stack.frames, options), dropped
    stack, picked = pick_frame(path, stack, options)
    if not picked and not stack.by_tag:
        pick_volume(path, 1, options.channel)
    return geometry.arrange(stack.frames, options, str(path)), [*notes, *dropped, *picked]


def single_file_notes(path: Path, frame: Frame) -> list[str]:
    """A note when the file has siblings of its series: the user may have meant the whole series."""
    siblings = sorted(sibling for sibling in path.parent.iterdir() if sibling != path and sibling.is_file())
    for sibling in siblings[:20]:
        if not looks_like_dicom(head_of(sibling)):
            continue
        try:
            header = read_dataset(sibling, sibling.name, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
        except InputError:
            continue
        if frame.series_uid and str(header.get("SeriesInstanceUID", "")) == frame.series_uid:
            return ["one file of a series was read alone; name its folder to read the whole series"]
    return []


def load(layout: geometry.Layout) -> tuple[np.ndarray, str, list[str]]:
    """(C, K, J, I) float32 voxels in slice order, the hash of the files, and notes on the pixels."""
    frames = layout.frames
    columns, rows = frames[0].size
    check_memory(Path(frames[0].source.name), (frames[0].samples, columns, rows, len(frames)), STORED_BYTES)
    voxels = np.empty((1, len(frames), rows, columns), dtype=np.float32)
    hashes, notes = [], []
    for source, members in by_source(frames).items():
        data = read_bytes(source)
        hashes.append(hashlib.sha256(data).hexdigest())
        dataset = read_dataset(io.BytesIO(data), source.name)
        ordered = [frames[k] for k in members]
        for k, plane in zip(members, pixels.planes(dataset, ordered), strict=True):
            channels = plane[None] if plane.ndim == 2 else np.moveaxis(plane, 2, 0)
            if channels.shape[0] != voxels.shape[0]:
                if k != 0:
                    raise InputError(f"{frames[k].name}: colour and grey slices are mixed")
                voxels = np.empty((channels.shape[0], *voxels.shape[1:]), dtype=np.float32)
            voxels[:, k] = channels
        if 0 in members:
            notes += pixel_notes(dataset, frames[0], voxels[:, 0])
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return voxels, digest, notes


def by_source(frames: tuple[Frame, ...]) -> dict[Source, list[int]]:
    """Slice numbers k by file, files in slice order, so that each file is read once."""
    result: dict[Source, list[int]] = {}
    for k, frame in enumerate(frames):
        result.setdefault(frame.source, []).append(k)
    return result


def read_bytes(source: Source) -> bytes:
    """The bytes of a file, or an error that names it."""
    try:
        return source.path.read_bytes()
    except OSError as error:
        raise InputError(f"{source.name}: cannot be read ({error.strerror})") from error


def pixel_notes(dataset: Any, frame: Frame, plane: np.ndarray) -> list[str]:
    """What a user should know about the values, told from the first slice (C, J, I)."""
    notes = [pixels.surplus_note(dataset), pixels.padding_note(dataset, frame, plane)]
    if str(dataset.get("PhotometricInterpretation", "")) == "MONOCHROME1":
        inverted = pixels.is_inverted(dataset, frame)
        done = (
            "inverted within the stored range, bright is high" if inverted else "values are measurements, not inverted"
        )
        notes.append(f"MONOCHROME1: {done}")
    return [note for note in notes if note]


def onto_grid(voxels: np.ndarray, layout: geometry.Layout) -> tuple[np.ndarray, np.ndarray]:
    """(C, K, J, I) as loaded → (C, I, J, K) on the even orthogonal grid, with its affine to LPS mm."""
    affine = layout.affine.copy()
    if layout.shear is not None:
        outside = float(voxels.min())
        straight = [regrid.straighten(channel, layout.shear, outside) for channel in voxels]
        voxels, first = np.stack([volume for volume, _ in straight]), straight[0][1]
        affine[:3, 3] += affine[:3, :2] @ first
    if layout.depths is not None:
        step = float(np.linalg.norm(affine[:3, 2]))
        voxels = np.stack([regrid.even(channel, layout.depths, step) for channel in voxels])
    # A view: i is the fastest axis in memory, as in the files.
    return voxels.transpose(0, 3, 2, 1), affine
