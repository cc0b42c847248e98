"""What a scan keeps of its DICOM files, so that a SEG or RTSTRUCT can refer to them after a zip has been put away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg_cli.readers.dicom.frames import Frame, read_dataset
from medseg_cli.readers.dicom.geometry import Layout

_FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """The pictures that a scan was made of.

    Args:
        frames: one per picture, in slice order, k ascending; frame k is slice k of the scan where `regridded` is empty.
        first: pydicom dataset of the first frame's file (patient, study, series), without pixels and private elements.
        regridded: why the scan's grid is not that of the pictures, with the numbers; empty where it is.
    """

    frames: tuple[Frame, ...]
    first: Any
    regridded: str = ""


def header_of(layout: Layout, shape: tuple[int, int, int]) -> DicomHeader:
    """The header of a scan of `shape` (I, J, K) that was made of `layout`. Its files must still be there.

    Raises:
        InputError: the first file is damaged, naming it.
    """
    frames = layout.frames
    source = frames[0].source
    dataset = read_dataset(source.path, source.name, stop_before_pixels=True)
    for keyword in _FUNCTIONAL_GROUPS:
        if keyword in dataset:
            del dataset[keyword]
    dataset.remove_private_tags()
    return DicomHeader(frames, dataset, _regridded(layout, shape))


def _regridded(layout: Layout, shape: tuple[int, int, int]) -> str:
    columns, rows = layout.frames[0].size
    own, new = f"{columns}x{rows}x{len(layout.frames)}", "x".join(str(size) for size in shape)
    if layout.shear is not None:
        return f"its tilted slices were shifted sideways: {own} voxels in the files, {new} in the mask"
    if layout.depths is not None:
        return f"its uneven slices were resampled: {own} voxels in the files, {new} in the mask"
    return ""


def files_of(frames: tuple[Frame, ...], path: Path) -> tuple[Path, ...]:
    """The files on disk that the frames come from, in slice order; of an archive the archive at `path` itself."""
    files = dict.fromkeys(frame.source.path for frame in frames)
    return (path,) if any(frame.source.packed for frame in frames) else tuple(files)
