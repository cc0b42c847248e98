"""PNG, JPEG, TIFF and BMP: axes, grey levels, colour, and what has no one right reading."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image, PngImagePlugin

from medseg_cli.app import main
from medseg_cli.errors import InputError
from medseg_cli.readers import ReadOptions, load_scan
from medseg_cli.readers.files import read_file
from medseg_cli.scan import Scan

WIDTH, HEIGHT = 7, 5
GREY = np.arange(WIDTH * HEIGHT, dtype=np.uint8).reshape(HEIGHT, WIDTH)
RGB = np.stack([GREY, GREY + 100, 255 - GREY], axis=2)


def read(path: Path, **options: object) -> Scan:
    return read_file(path, ReadOptions(**options))


def save(path: Path, values: np.ndarray | Image.Image, **options: object) -> Path:
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    image.save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".tiff", ".bmp"])
def test_i_runs_right_and_j_runs_down(tmp_path: Path, suffix: str) -> None:
    scan = read(save(tmp_path / f"g{suffix}", GREY))
    assert scan.voxels.shape == (1, WIDTH, HEIGHT, 1)
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], GREY.T)
    assert scan.orientation == "LPS"
    assert scan.spacing == (1, 1, 1)
    assert not scan.spacing_known
    assert "pixel size is unknown" in scan.provenance.notes[-1]
    assert scan.provenance.format == "image"


def test_pixels_lie_where_itk_puts_them(tmp_path: Path) -> None:
    path = save(tmp_path / "g.png", GREY)
    scan = read(path, spacing=(0.2, 0.3, 1.0))
    image = SimpleITK.ReadImage(str(path))
    image.SetSpacing((0.2, 0.3))
    x, y = image.TransformIndexToPhysicalPoint((4, 2))
    np.testing.assert_allclose(scan.voxel_to_world(np.array([4, 2, 0]), "lps")[0], (x, y, 0))
    assert scan.voxels[0, 4, 2, 0] == image.GetPixel((4, 2))
    assert scan.spacing_known
    assert scan.provenance.notes == ()


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (float("nan"), 1.0, 1.0), (-1.0, 1.0, 1.0)])
def test_impossible_pixel_sizes_are_refused(tmp_path: Path, spacing: tuple[float, float, float]) -> None:
    with pytest.raises(InputError, match="--spacing"):
        read(save(tmp_path / "g.png", GREY), spacing=spacing)


def test_print_resolution_is_not_a_pixel_size(tmp_path: Path) -> None:
    for suffix in (".png", ".jpg", ".tif"):
        scan = read(save(tmp_path / f"dpi{suffix}", GREY, dpi=(300, 300)))
        assert scan.spacing == (1, 1, 1)
        assert not scan.spacing_known


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey(tmp_path: Path, suffix: str) -> None:
    values = GREY.astype(np.uint16) * 1800
    scan = read(save(tmp_path / f"deep{suffix}", values))
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], values.T)


def test_float_tiff(tmp_path: Path) -> None:
    values = GREY.astype(np.float32) / 7
    np.testing.assert_array_equal(read(save(tmp_path / "f.tif", values)).voxels[0, :, :, 0], values.T)


def test_big_endian_tiff(tmp_path: Path) -> None:
    values = (GREY.astype(np.uint16) * 1800).astype(">u2")
    entries = [(256, WIDTH), (257, HEIGHT), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, HEIGHT)]
    entries.append((279, values.nbytes))
    directory = struct.pack(">H", len(entries))
    directory += b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries) + struct.pack(">I", 0)
    path = tmp_path / "big.tif"
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + values.nbytes) + values.tobytes() + directory)
    np.testing.assert_array_equal(read(path).voxels[0, :, :, 0], values.T)


def test_colour_has_three_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "rgb.png", RGB)
    scan = read(path)
    assert scan.voxels.shape == (3, WIDTH, HEIGHT, 1)
    np.testing.assert_array_equal(scan.voxels[..., 0], RGB.transpose(2, 1, 0))
    green = read(path, channel=1)
    np.testing.assert_array_equal(green.voxels[0, :, :, 0], RGB[..., 1].T)
    with pytest.raises(InputError, match="no --channel 3"):
        read(path, channel=3)


def test_grey_stored_as_colour_is_grey(tmp_path: Path) -> None:
    scan = read(save(tmp_path / "rgb.png", np.repeat(GREY[..., np.newaxis], 3, axis=2)))
    assert scan.voxels.shape == (1, WIDTH, HEIGHT, 1)
    assert "read as grey" in scan.provenance.notes[0]


def test_jpeg(tmp_path: Path) -> None:
    smooth = np.linspace(20, 230, 64)[np.newaxis] * np.ones((48, 1))
    scan = read(save(tmp_path / "s.jpg", smooth.astype(np.uint8), quality=95))
    assert scan.voxels.shape == (1, 64, 48, 1)
    np.testing.assert_allclose(scan.voxels[0, :, :, 0], smooth.T, atol=4)


def test_palette(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    scan = read(save(tmp_path / "p.png", image))
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], 255 * (GREY.T % 3 == 0))
    assert "palette colours were looked up" in scan.provenance.notes[0]


def test_bilevel(tmp_path: Path) -> None:
    scan = read(save(tmp_path / "b.png", Image.fromarray(GREY % 2 == 0)))
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], GREY.T % 2 == 0)


def test_opaque_alpha_is_dropped_and_transparency_refused(tmp_path: Path) -> None:
    opaque = np.concatenate([RGB, np.full((HEIGHT, WIDTH, 1), 255, np.uint8)], axis=2)
    np.testing.assert_array_equal(read(save(tmp_path / "a.png", opaque)).voxels[..., 0], RGB.transpose(2, 1, 0))
    opaque[2, 3, 3] = 7
    with pytest.raises(InputError, match="partly transparent"):
        read(save(tmp_path / "b.png", opaque))


def test_cmyk_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="colour model CMYK"):
        read(save(tmp_path / "c.jpg", Image.fromarray(RGB).convert("CMYK")))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(path: Path, values: np.ndarray, depth: int, colour: int, *extra: bytes) -> Path:
    """Write a PNG of (rows, columns * channels) values, whole bytes only, without any imaging library."""
    rows = b"".join(b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes() for row in values)
    width = values.shape[1] * (8 // min(depth, 8)) // {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, len(values), depth, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


@pytest.mark.parametrize(("colour", "channels", "word"), [(2, 3, "colour"), (4, 2, "alpha"), (6, 4, "colour")])
def test_16_bit_colour_png_is_refused_rather_than_cut_to_8(
    tmp_path: Path, colour: int, channels: int, word: str
) -> None:
    values = np.arange(HEIGHT * WIDTH * channels).reshape(HEIGHT, -1) * 300
    with pytest.raises(InputError, match=rf"16-bit \S*{word} PNG"):
        read(png(tmp_path / "deep.png", values, 16, colour))


def test_16_bit_colour_tiff_is_refused_rather_than_cut_to_8(tmp_path: Path) -> None:
    path = tmp_path / "deep.tif"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(RGB.astype(np.uint16) * 257, isVector=True), str(path))
    with pytest.raises(InputError, match="16-bit colour TIFF"):
        read(path)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16", "uint32", "int32", "float32"])
def test_tiff_of_every_type_keeps_its_values(tmp_path: Path, dtype: str) -> None:
    kind = np.dtype(dtype)
    ends = (-1e30, 1e30) if kind.kind == "f" else (np.iinfo(kind).min, np.iinfo(kind).max)
    values = np.array([[ends[0], ends[1], 0, 1, 2], [5, 6, 7, 8, 9]], kind)
    path = tmp_path / "t.tif"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(path))
    np.testing.assert_array_equal(read(path).voxels[0, :, :, 0], values.T.astype(np.float32))


@pytest.mark.parametrize(("bits", "dtype"), [(8, "u1"), (16, "<u2")])
def test_tiff_where_0_is_white_is_shown_as_meant(tmp_path: Path, bits: int, dtype: str) -> None:
    values = GREY.astype(np.uint16) * (1 if bits == 8 else 1800)
    path = tiff(tmp_path / "white.tif", values.astype(dtype), bits, photometric=0)
    np.testing.assert_array_equal(read(path).voxels[0, :, :, 0], 2**bits - 1 - values.T.astype(np.float32))


def test_tiff_where_0_is_white_and_black_is_unknown_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 is white"):
        read(tiff(tmp_path / "white.tif", GREY.astype("<f4"), 32, photometric=0, kind=3))


def tiff(path: Path, values: np.ndarray, bits: int, photometric: int, kind: int = 1) -> Path:
    """Write an uncompressed little-endian TIFF of one strip, without any imaging library."""
    entries = [(256, WIDTH), (257, HEIGHT), (258, bits), (259, 1), (262, photometric), (273, 8), (277, 1)]
    entries += [(278, HEIGHT), (279, values.nbytes), (339, kind)]
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries) + struct.pack("<I", 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.tobytes() + directory)
    return path


@pytest.mark.parametrize(
    ("depth", "colour", "clear"), [(8, 0, (30,)), (16, 0, (30,)), (8, 2, (30, 31, 32)), (4, 0, (14,)), (1, 0, (1,))]
)
def test_a_grey_or_colour_that_a_png_names_transparent(
    tmp_path: Path, depth: int, colour: int, clear: tuple[int, ...]
) -> None:
    width = 12 if colour == 2 else 8
    values = np.arange(5 * width).reshape(5, width) % 256
    named = chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    used = values if depth >= 8 else np.full((5, 8), 0xEE)
    with pytest.raises(InputError, match="partly transparent"):
        read(png(tmp_path / "used.png", used, depth, colour, named))
    unused = values + 100 if depth >= 8 else np.zeros((5, 8))
    assert read(png(tmp_path / "unused.png", unused, depth, colour, named)).shape[1] == 5


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.fromarray(GREY % 3)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    assert read(save(tmp_path / "unused.png", image, transparency=7)).voxels.shape[0] == 3
    with pytest.raises(InputError, match="partly transparent"):
        read(save(tmp_path / "used.png", image, transparency=1))


@pytest.mark.parametrize("model", ["CMYK", "LAB", "YCbCr"])
def test_other_colour_models_are_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(InputError, match=f"colour model {model}"):
        read(save(tmp_path / "c.tif", Image.fromarray(RGB).convert(model)))


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_shallow_greys_run_from_black_to_white(tmp_path: Path, depth: int) -> None:
    values = np.array([[0x00, 0xFF], [0xFF, 0x00]])
    scan = read(png(tmp_path / "g.png", values, depth, 0))
    half = 8 // depth
    top = 1 if depth == 1 else 255
    assert scan.voxels[0, 0, 0, 0] == 0
    assert scan.voxels[0, half, 0, 0] == top
    assert scan.voxels[0, 0, 1, 0] == top


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (8, 8), (4000, 8), (8, 4000)])
def test_sizes_from_one_pixel_up(tmp_path: Path, width: int, height: int) -> None:
    values = np.random.default_rng(0).integers(0, 255, (height, width)).astype(np.uint8)
    np.testing.assert_array_equal(read(save(tmp_path / "s.png", values)).voxels[0, :, :, 0], values.T)


@pytest.mark.slow
def test_8000_pixels_each_way_fit_into_bounded_memory(tmp_path: Path) -> None:
    values = np.add.outer(np.arange(8000, dtype=np.uint16), np.arange(8000, dtype=np.uint16)) * 4
    path = save(tmp_path / "large.png", values, compress_level=1)
    code = (
        "import resource, sys\n"
        "from medseg_cli.readers import load_scan\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "scan = load_scan(sys.argv[1])\n"
        "print(scan.shape, float(scan.voxels[0, 7999, 3, 0]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code, path], env=env, capture_output=True, text=True, check=True)
    shape, value, peak = done.stdout.strip().rsplit(" ", 2)
    assert (shape, float(value)) == ("(8000, 8000, 1)", 4 * 8002.0)
    assert int(peak) < 2 << 20, "256 MB of voxels must not take 2 GiB"


UPRIGHT = {
    1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
}  # fmt: skip
"""EXIF orientation → what turns the stored pixels upright (EXIF 2.32, tag 0x0112)."""


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_exif_orientation_is_applied_and_said(tmp_path: Path, suffix: str, orientation: int) -> None:
    y, x = np.mgrid[:20, :32]
    stored = (6 * x + 3 * y).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    scan = read(save(tmp_path / f"turned{suffix}", stored, exif=exif, **({"quality": 100} if suffix == ".jpg" else {})))
    upright = UPRIGHT.get(orientation, UPRIGHT[1])(stored)
    assert scan.shape == (*upright.shape[::-1], 1)
    np.testing.assert_allclose(scan.voxels[0, :, :, 0], upright.T, atol=2 if suffix == ".jpg" else 0)
    assert ("EXIF" in scan.provenance.notes[0]) == (2 <= orientation <= 8), "0, 1 and 9 turn nothing"


def test_every_page_has_its_own_orientation(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[1].encoderinfo = {"exif": (exif := Image.Exif())}
    exif[0x0112] = 6
    path = save(tmp_path / "pages.tif", pages[0], save_all=True, append_images=pages[1:])
    np.testing.assert_array_equal(read(path, channel=0).voxels[0, :, :, 0], GREY.T)
    np.testing.assert_array_equal(read(path, channel=1).voxels[0, :, :, 0], np.rot90(GREY, -1).T)


def test_pages_want_a_channel(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + 10 * page) for page in range(3)]
    tiff = save(tmp_path / "pages.tif", pages[0], save_all=True, append_images=pages[1:])
    moving = save(tmp_path / "moving.png", pages[0], save_all=True, append_images=pages[1:])
    for path in (tiff, moving):
        with pytest.raises(InputError, match="holds 3 pictures"):
            read(path)
    scan = read(tiff, channel=2)
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], (GREY + 20).T)
    assert "page 2 of 3" in scan.provenance.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_images(tmp_path: Path, suffix: str, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = save(tmp_path / f"cut{suffix}", values)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"damaged|decoded"):
        read(path)


def test_a_hostile_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(InputError, match="too large"):
        read(path)


def test_text_chunks_do_no_harm(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", "x" * 1000)
    assert read(save(tmp_path / "t.png", GREY, pnginfo=info)).shape == (WIDTH, HEIGHT, 1)


def test_real_images(shared: Path) -> None:
    data = shared / "data"
    ultrasound = load_scan(sorted((data / "fetal-head-us" / "images").glob("*.png"))[0])
    assert ultrasound.voxels.shape == (1, 800, 540, 1)
    retina = load_scan(data / "retina-vessels" / "Image_01L.jpg")
    assert retina.voxels.shape == (3, 999, 960, 1)
    image = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(data / "retina-vessels" / "Image_01L.jpg")))
    # Two JPEG decoders interpolate colour differently, but agree nearly everywhere.
    apart = np.abs(retina.voxels[..., 0] - image.transpose(2, 1, 0).astype(np.float32))
    assert np.mean(apart > 3) < 0.01
    assert np.mean(np.abs(retina.voxels[..., 0] - image.transpose(2, 1, 0)[:, ::-1])) > 5


def picture(kind: str, folder: Path) -> Path:
    """A file that is no readable picture, or only one after a choice."""
    frames = [Image.fromarray(np.roll(GREY, shift)) for shift in range(3)]
    path = folder / kind
    if kind.startswith("moving"):
        return save(path, frames[0], save_all=True, append_images=frames[1:])
    if kind.endswith((".jp2", ".gif", ".webp")):
        return save(path, frames[0])
    if kind == "cmyk.jpg":
        return save(path, Image.fromarray(RGB).convert("CMYK"))
    if kind == "jp2 named.png":
        return save(path, frames[0], format="JPEG2000")
    if kind == "jpeg named.png":
        return save(path, frames[0], format="JPEG")
    if kind == "cut.png":
        whole = save(path, np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)).read_bytes()
        path.write_bytes(whole[:2000])
    elif kind in ("phone.heic", "phone.jpg"):
        path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    else:
        path.write_bytes(b"" if kind == "empty.png" else b"no picture at all, just words\n" * 9)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("moving.gif", "is GIF, which medseg does not read"),
        ("moving.png", "holds 3 pictures"),
        ("moving.webp", "is WebP, which medseg does not read"),
        ("moving.tif", "holds 3 pictures"),
        ("x.jp2", "is JPEG 2000, which medseg does not read"),
        ("phone.heic", "is HEIC, which medseg does not read"),
        ("phone.jpg", "named as JPEG, but its content is HEIC"),
        ("jp2 named.png", "named as PNG, but its content is JPEG 2000"),
        ("jpeg named.png", "named as PNG, but its content is JPEG"),
        ("cmyk.jpg", "colour model CMYK"),
        ("cut.png", "is damaged"),
        ("empty.png", "is empty (0 bytes)"),
        ("text.png", "damaged or of no known kind"),
    ],
)
def test_info_refuses_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, words: str) -> None:
    assert main(["info", str(picture(kind, tmp_path))]) == 3
    out, err = capsys.readouterr()
    assert words in err.replace("\n", " ")
    assert "hint: " in err
    assert "Traceback" not in err
    assert out == ""
