"""The one door for writing a mask: which format a name means, which values go into it, and whether the scan fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medseg_cli.errors import UsageError
from medseg_cli.scan import Scan
from medseg_cli.segmentation import Segmentation
from medseg_cli.writers import image2d, volume

SUFFIXES = (*volume.SUFFIXES, *image2d.SUFFIXES)

Values = Literal["auto", "labels", "binary"]
"""What a user may ask for: "auto" leaves it to the format and the number of objects."""

_OTHER_PICTURES = (".jpg", ".jpeg", ".jpe", ".tif", ".tiff", ".bmp", ".gif", ".webp")


@dataclass(frozen=True)
class Encoding:
    """How a mask's values lie in its file.

    Args:
        values: "labels" for label values, "0/255" for background and any object.
        dtype: NumPy name of what is stored.
        notes: what the user should know about it, one sentence each.
    """

    values: Literal["labels", "0/255"]
    dtype: str
    notes: tuple[str, ...] = ()


def mask_suffix(path: str | Path) -> str:
    """The suffix that decides the format of a mask at `path`.

    Raises:
        UsageError: none of `SUFFIXES`.
    """
    name = Path(path).name
    found = max((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), key=len, default="")
    if found:
        return found
    if name.lower().endswith(_OTHER_PICTURES):
        raise UsageError(f"{name}: the only picture format for masks is PNG", "end the name in .png")
    raise UsageError(
        f"cannot tell the mask's format from the name {name}",
        f"end it in one of {', '.join(SUFFIXES)}, or in / for a folder",
    )


def check_fits(scan: Scan, path: str | Path, values: Values = "auto") -> None:
    """Find out before the work whether a mask of `scan` can be written as `path` says.

    Raises:
        UsageError: a picture for a volume or a cine, or 0/255 in a format that is no picture.
    """
    path = Path(path)
    if mask_suffix(path) not in image2d.SUFFIXES:
        if values == "binary":
            raise UsageError(
                f"{path.name} always holds label values: only PNG masks are written as 0 and 255", "leave --no-ml out"
            )
    elif scan.shape[2] != 1:
        raise UsageError(
            f"{path.name} is one picture, but the scan has {scan.shape[2]} "
            f"{'frames over time' if scan.cine else 'slices along k'}",
            f"write {path.with_suffix('.nii.gz').name} instead",
        )


def encoding(segmentation: Segmentation, path: str | Path, values: Values = "auto") -> Encoding:
    """How `write_mask` with the same arguments stores the mask."""
    if mask_suffix(path) not in image2d.SUFFIXES:
        return Encoding("labels", volume.stored_dtype(segmentation, path))
    count = len(segmentation.labels)
    chosen: Literal["labels", "0/255"] = "labels"
    notes: list[str] = []
    if values == "binary" or (values == "auto" and count <= 1):
        chosen = "0/255"
        if count > 1:
            notes.append(f"the mask does not tell its {count} objects apart: 255 is any of them (--no-ml)")
    elif values == "auto":
        notes.append(f"the mask holds label values 1 to {count}, which look nearly black: 0/255 would merge objects")
    if not segmentation.scan.is_picture:
        notes.append("a PNG mask holds no position in the patient: pixel (x, y) is voxel (x, y, 0)")
    return Encoding(chosen, image2d.dtype(segmentation, chosen).__name__, tuple(notes))


def write_mask(segmentation: Segmentation, path: str | Path, overwrite: bool = False, values: Values = "auto") -> Path:
    """Write the label map; it appears whole or not at all.

    Args:
        segmentation: mask (I, J, K) uint8 or uint16 on the grid of its scan.
        path: its suffix decides the format, whatever the scan's own was.
        overwrite: whether it may replace a file.
        values: what a PNG holds. "labels": the label values. "binary": 0 and 255. "auto": 0 and 255 where there is one
            object, else label values. The other formats hold label values always.

    Returns:
        The path written.

    Raises:
        UsageError: the suffix is not one of `SUFFIXES`; a PNG for more than one slice; "binary" for no PNG; or MGH,
            which has no room for the stamp of random weights.
        InputError: `path` may not or cannot be written.
    """
    path = Path(path).expanduser()
    check_fits(segmentation.scan, path, values)
    if mask_suffix(path) in image2d.SUFFIXES:
        image2d.write(segmentation, path, overwrite, values=encoding(segmentation, path, values).values)
    else:
        volume.write(segmentation, path, overwrite)
    return path


def write(
    segmentation: Segmentation, path: Path, overwrite: bool = False, *, values: Values = "auto"
) -> tuple[str, ...]:
    """`write_mask` as `formats` calls it: `values` is for pictures, and the notes come back."""
    picture = mask_suffix(path) in image2d.SUFFIXES
    write_mask(segmentation, path, overwrite, values if picture else "auto")
    return encoding(segmentation, path, values if picture else "auto").notes
