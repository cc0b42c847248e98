"""What a scan keeps of its DICOM files, so that a SEG or RTSTRUCT can refer to them after a zip has been put away."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg_cli.readers.dicom.frames import Frame, read_dataset
from medseg_cli.readers.dicom.geometry import Layout
from medseg_cli.readers.dicom.values import MALFORMED

_KEPT = frozenset({
    "AccessionNumber", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "ReferringPhysicianName",
    "PositionReferenceIndicator", "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
})  # fmt: skip
_PATIENT_GROUPS = (0x0010, 0x0012)
"""Patient and clinical trial: kept whole."""


@dataclass(frozen=True, eq=False)
class DicomHeader:
    """The pictures that a scan was made of.

    Args:
        frames: one per picture, in slice order, k ascending; frame k is slice k of the scan where `regridded` is empty.
        first: pydicom dataset with what the first frame's file says of patient and study, as far as it can be read.
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
    return DicomHeader(frames, _kept(dataset), _regridded(layout, shape))


def _kept(dataset: Any) -> Any:
    """Decoded here and now, while pydicom is kept from quoting odd values in warnings."""
    from pydicom.datadict import keyword_for_tag
    from pydicom.dataset import Dataset

    kept = Dataset()
    for tag in dataset.keys():  # noqa: SIM118 - iterating a dataset decodes every element
        if tag.group in _PATIENT_GROUPS or keyword_for_tag(tag) in _KEPT:
            try:
                kept.add(dataset[tag])
            except MALFORMED:
                continue
    return kept


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
