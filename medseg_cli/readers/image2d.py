"""PNG, JPEG, TIFF and BMP as scans with K = 1.

Pixel (x, y), counted from the upper left corner, is voxel (x, y, 0) and lies at LPS (x·sx, y·sy, 0) mm, as in ITK. The
resolution that such files state (PNG pHYs, DPI) is meant for printing and is ignored: the pixel size is what
`ReadOptions.spacing` says, else 1 mm is assumed and `Scan.spacing_known` is False.
"""

from __future__ import annotations

import struct
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medseg_cli.errors import InputError
from medseg_cli.readers import payload
from medseg_cli.readers.grid import checked_affine
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume, scaled
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

_EXIF_ORIENTATION = 0x0112
_GREY = ("L", "1", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_CONVERT = "save it as 8-bit RGB or 8/16-bit grey"


def read(path: Path, options: ReadOptions) -> Scan:
    """Read a 2-D image.

    Args:
        path: PNG, JPEG, TIFF or BMP.
        options: `channel` picks a page of a multi-page file, else one plane (0 red, 1 green, 2 blue) of a colour image;
            `spacing` is the pixel size.

    Raises:
        InputError: damaged, several pages and none chosen, or a colour model that has no one right reading.
    """
    try:
        with warnings.catch_warnings(record=True) as complaints:
            warnings.simplefilter("always")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            values, notes = _pixels(path, options.channel)
        notes += tuple(f"the decoder complained: {' '.join(str(each.message).split())}" for each in complaints)
    except UnidentifiedImageError as error:
        raise InputError(f"{path} cannot be decoded as an image", _CONVERT) from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large: {error}", "crop or downsample it") from error
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        raise InputError(f"{path} is damaged: {error}", "copy or export it again") from error
    voxels, value_notes = scaled(np.moveaxis(values, 2, 0).transpose(0, 2, 1)[..., np.newaxis], None, None, path)
    spacing = options.spacing or (1.0, 1.0, 1.0)
    if options.spacing is None:
        notes += ("the pixel size is unknown: 1 mm is assumed (--spacing states it)",)
    if not all(size > 0 for size in spacing):
        raise InputError(f"{path}: --spacing {_text(spacing)} is no pixel size", "give it in mm: x,y,z, all above 0")
    affine, _ = checked_affine(RAS_TO_LPS @ np.diag([*spacing, 1.0]), voxels.shape[1:], f"{path} (--spacing)")
    provenance = Provenance(path, "image", payload.sha256_of([path]), notes=notes + value_notes)
    return Scan(voxels, affine, provenance, spacing_known=options.spacing is not None)


def _pixels(path: Path, channel: int | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(rows, columns, 1 or 3) values as stored, upright, and the notes."""
    with Image.open(path) as image:
        notes: tuple[str, ...] = ()
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if pages > 1:
            page = pick_volume(path, pages, channel)
            image.seek(page)
            notes, channel = (f"page {page} of {pages} (--channel, counted from 0)",), None
        if image.format == "PNG" and _is_deep_colour(path):
            raise InputError(f"{path} is a 16-bit colour PNG", _CONVERT)
        if image.getexif().get(_EXIF_ORIENTATION, 1) not in (0, 1):
            image.load()
            upright = ImageOps.exif_transpose(image)
            notes += ("turned upright as its EXIF orientation asks; pixels are counted in the upright image",)
        else:
            upright = image
        upright.load()
        values, colour_notes = _values(upright, path)
    if values.shape[2] == 1:
        pick_volume(path, 1, channel)
    elif channel is not None:
        plane = pick_volume(path, 3, channel)
        values = values[:, :, plane : plane + 1]
        notes += (f"colour plane {plane} (0 red, 1 green, 2 blue)",)
    return values, notes + colour_notes


def _values(image: Image.Image, path: Path) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(rows, columns, 1 or 3) values of one decoded page and the notes."""
    notes: tuple[str, ...] = ()
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.mode == "PA" or "transparency" in image.info else "RGB")
        notes = ("palette colours were looked up",)
    if image.mode in ("LA", "RGBA"):
        alpha = np.asarray(image.getchannel("A"))
        if alpha.min() < 255:
            raise InputError(f"{path} is partly transparent", "flatten it onto a background first")
        image = image.convert(image.mode.removesuffix("A"))
    if image.mode == "RGB":
        values = np.asarray(image)
        if np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2]):
            return values[..., :1], (*notes, "red, green and blue are equal: read as grey")
        return values, notes
    if image.mode in _GREY:
        return np.asarray(image)[..., np.newaxis], notes
    raise InputError(f"{path}: colour model {image.mode} has no one right reading", _CONVERT)


def _is_deep_colour(path: Path) -> bool:
    """Whether a PNG stores 16 bits per colour, which Pillow would cut to 8 in silence."""
    with path.open("rb") as file:
        header = file.read(26)
    return len(header) == 26 and header[24] == 16 and header[25] != 0


def _text(spacing: tuple[float, float, float]) -> str:
    return ",".join(f"{size:g}" for size in spacing)
