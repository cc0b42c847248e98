"""What a user can say about how a scan is to be read. Every default refuses to guess."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class ReadOptions:
    """How to read a scan.

    Args:
        channel: which volume of a 4-D file (0-based); None refuses 4-D files.
        series: DICOM SeriesInstanceUID or 1-based number as `medseg info` lists them; None refuses an ambiguous folder.
        spacing: voxel size in mm along i, j, k for images that state none (PNG, JPEG, TIFF).
        on_duplicate: two DICOM slices at one position: "error", or keep the "first" / "last" by instance number.
        on_gap: missing or unevenly spaced DICOM slices: "error", or "resample" linearly onto an even grid.
        on_tilt: tilted gantry: "error", or "shear" back onto an orthogonal grid by linear interpolation.
        files: of a DICOM folder only these, as paths relative to it with "/"; () looks at all of them.
        cine: the third axis of a volume, or the frames of a multi-frame object that does not say so, are time.
    """

    channel: int | None = None
    series: str | None = None
    spacing: tuple[float, float, float] | None = None
    on_duplicate: Literal["error", "first", "last"] = "error"
    on_gap: Literal["error", "resample"] = "error"
    on_tilt: Literal["error", "shear"] = "error"
    files: tuple[str, ...] = ()
    cine: bool = False
