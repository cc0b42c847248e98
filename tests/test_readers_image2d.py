"""PNG, JPEG, TIFF and BMP: axes, grey levels, colour, and what has no one right reading."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from PIL import Image, PngImagePlugin

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


def test_16_bit_colour_png_is_refused_rather_than_cut_to_8(tmp_path: Path) -> None:
    rows = b"".join(b"\0" + (RGB[y].astype(">u2") * 256).tobytes() for y in range(HEIGHT))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    with pytest.raises(InputError, match="16-bit colour PNG"):
        read(path)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_exif_orientation_is_applied_and_said(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = {
        2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
    }[orientation](GREY)  # fmt: skip
    scan = read(save(tmp_path / "turned.png", GREY, exif=exif))
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], upright.T)
    assert "EXIF" in scan.provenance.notes[0]


def test_pages_want_a_channel(tmp_path: Path) -> None:
    pages = [Image.fromarray(GREY + 10 * page) for page in range(3)]
    tiff = save(tmp_path / "pages.tif", pages[0], save_all=True, append_images=pages[1:])
    moving = save(tmp_path / "moving.png", pages[0], save_all=True, append_images=pages[1:])
    for path in (tiff, moving):
        with pytest.raises(InputError, match="holds 3 volumes"):
            read(path)
    scan = read(tiff, channel=2)
    np.testing.assert_array_equal(scan.voxels[0, :, :, 0], (GREY + 20).T)
    assert "page 2 of 3" in scan.provenance.notes[0]


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".bmp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncated_images(tmp_path: Path, suffix: str, share: float) -> None:
    values = np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8)
    path = save(tmp_path / f"cut{suffix}", values)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(InputError, match=r"damaged|decoded"):
        read(path)


def test_a_hostile_size_is_refused(tmp_path: Path) -> None:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

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
