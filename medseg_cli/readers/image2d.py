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
from medseg_cli.readers.grid import SPACING_RANGE, checked_affine
from medseg_cli.readers.header import Header
from medseg_cli.readers.options import ReadOptions
from medseg_cli.readers.values import pick_volume, scaled
from medseg_cli.scan import RAS_TO_LPS, Provenance, Scan

_EXIF_ORIENTATION = 0x0112
_TURNED = range(2, 9)
_TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
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
        raise InputError(
            f"{path} cannot be decoded as an image", f"it is damaged or of a rare kind: {_CONVERT}"
        ) from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise InputError(
            f"{path} is too large: it claims more than {most:.0f} million pixels", "crop or downsample it"
        ) from error
    except (FileNotFoundError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, TypeError, struct.error) as error:
        raise InputError(f"{path} is damaged: {error}", "copy or export it again") from error
    voxels, value_notes = scaled(np.moveaxis(values, 2, 0).transpose(0, 2, 1)[..., np.newaxis], None, None, path)
    spacing = options.spacing or (1.0, 1.0, 1.0)
    if options.spacing is None:
        notes += ("the pixel size is unknown: 1 mm is assumed (--spacing states it)",)
    low, high = SPACING_RANGE
    if not all(low <= size <= high for size in spacing):
        raise InputError(
            f"{path}: --spacing {_text(spacing)} is no pixel size", f"give it in mm: x,y, each {low:g} to {high:g}"
        )
    affine, _ = checked_affine(RAS_TO_LPS @ np.diag([*spacing, 1.0]), voxels.shape[1:], f"{path} (--spacing)")
    provenance = Provenance(path, "image", payload.sha256_of([path]), notes=notes + value_notes)
    return Scan(voxels, affine, provenance, spacing_known=options.spacing is not None)


def describe(path: Path, options: ReadOptions) -> Header:
    """What the header says; a colour image whose colours are equal is read as grey, which only its pixels show."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file, Image.open(file) as image:
                pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                turned = image.getexif().get(_EXIF_ORIENTATION, 1) in range(5, 9)
                (columns, rows), mode = image.size, image.mode
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be decoded as an image: {error}", "copy or export it again") from error
    if pages > 1:
        pick_volume(path, pages, options.channel, "picture")
    grey = mode in _GREY or mode == "LA" or options.channel is not None
    i, j = (rows, columns) if turned else (columns, rows)
    spacing = options.spacing or (1.0, 1.0, 1.0)
    known = options.spacing is not None
    return Header("image", (i, j, 1), spacing, known, channels=1 if grey else 3, volumes=pages, item_bytes=1)


def _pixels(path: Path, channel: int | None) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """(rows, columns, 1 or 3) values as stored, upright, and the notes."""
    # Not Image.open(path): with a name to map into memory, Pillow scrambles TIFFs that are to be turned by 90 degrees.
    with path.open("rb") as file, Image.open(file) as image:
        notes: tuple[str, ...] = ()
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if pages > 1:
            page = pick_volume(path, pages, channel, "picture")
            image.seek(page)
            notes, channel = (f"page {page} of {pages} (--channel, counted from 0)",), None
        _refuse_cut_values(image, path)
        upright: Image.Image = image
        if image.getexif().get(_EXIF_ORIENTATION, 1) in _TURNED:
            image.load()
            upright = ImageOps.exif_transpose(image)
            notes += (
                "turned upright as its EXIF orientation asks; pixels are counted in the upright image, and the mask "
                "lies on it",
            )
        upright.load()
        values, colour_notes = _values(upright, path)
        if image.format == "TIFF":
            values, tiff_notes = _as_tiff_means(values, image, path)
            colour_notes += tiff_notes
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
    _refuse_transparent_colour(image, path)
    if image.mode == "RGB":
        values = np.asarray(image)
        if np.array_equal(values[..., 0], values[..., 1]) and np.array_equal(values[..., 0], values[..., 2]):
            return values[..., :1], (*notes, "red, green and blue are equal: read as grey")
        return values, notes
    if image.mode in _GREY:
        return np.asarray(image)[..., np.newaxis], notes
    raise InputError(f"{path}: colour model {image.mode} has no one right reading", _CONVERT)


def _refuse_cut_values(image: Image.Image, path: Path) -> None:
    """Refuse what Pillow would cut in silence: 16 bits per colour to 8, a PNG without its end to what is there.

    Raises:
        InputError: it is one of them.
    """
    if image.format == "PNG":
        depth, colour = _png_depth(path)
        if depth == 16 and colour != 0:
            raise InputError(f"{path} is a 16-bit {'grey-and-alpha' if colour == 4 else 'colour'} PNG", _CONVERT)
        if not _png_ends(path):
            raise InputError(f"{path} is damaged: the end of the PNG is missing", "copy or export it again")
    elif image.format == "TIFF":
        bits = _tag(image, _TIFF_BITS, (1,))
        if len(bits) > 1 and max(bits) > 8:
            raise InputError(f"{path} is a {max(bits)}-bit colour TIFF", _CONVERT)


def _as_tiff_means(
    values: NDArray[np.generic], image: Image.Image, path: Path
) -> tuple[NDArray[np.generic], tuple[str, ...]]:
    """Values of a TIFF with the sign and the brightness its tags state, where Pillow leaves either out.

    Raises:
        InputError: 0 is white and there is no largest value.
    """
    bits, kind = _tag(image, _TIFF_BITS, (1,))[0], _tag(image, _TIFF_SAMPLE_FORMAT, (_UNSIGNED,))[0]
    if bits == 8 and kind == _SIGNED:
        values = np.ascontiguousarray(values).view(np.int8)
    elif bits == 32 and kind == _UNSIGNED:
        values = np.ascontiguousarray(values).view(np.uint32)
    inverted_by_pillow = bits <= 8 and kind == _UNSIGNED
    if _tag(image, _TIFF_PHOTOMETRIC, (1,))[0] != _WHITE_IS_ZERO or inverted_by_pillow:
        return values, ()
    if kind != _UNSIGNED or bits != 16:
        raise InputError(f"{path}: 0 is white and nothing says what black is", _CONVERT)
    return 65535 - values.astype(np.uint16), ("0 is white in the file: inverted, bright is high",)


def _tag(image: Image.Image, number: int, default: tuple[int, ...]) -> tuple[int, ...]:
    value = getattr(image, "tag_v2", {}).get(number, default)
    return value if isinstance(value, tuple) else (value,)


def _refuse_transparent_colour(image: Image.Image, path: Path) -> None:
    """Refuse a PNG that names one of its grey levels or colours as transparent, if any pixel has it."""
    named = image.info.get("transparency")
    if named is None or image.format != "PNG" or image.mode not in ("RGB", *_GREY):
        return
    depth, _ = _png_depth(path)
    # Pillow spreads 2 and 4 bits over 0 to 255, but not the number of the transparent level; of one bit it does either.
    step = 255 // ((1 << depth) - 1) if depth in (2, 4) else 1
    level = np.array(named, dtype=bool) if image.mode == "1" else np.array(named) * step
    values = np.asarray(image).reshape(*image.size[::-1], -1)
    if (values == level).all(axis=2).any():
        raise InputError(f"{path} is partly transparent", "flatten it onto a background first")


def _png_depth(path: Path) -> tuple[int, int]:
    """Bits per value and colour type of a PNG: 0 grey, 2 colour, 3 palette, 4 grey and alpha, 6 colour and alpha."""
    with path.open("rb") as file:
        header = file.read(26)
    return header[24], header[25]


def _png_ends(path: Path) -> bool:
    """Whether the chunk that closes every PNG is there."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            if name == b"IEND":
                return True
            file.seek(length + 4, 1)
    return False


def _text(spacing: tuple[float, float, float]) -> str:
    return ",".join(f"{size:g}" for size in spacing)
