"""The square that a 2-D network sees: against SAM's own code, against formulas, and there and back again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.transforms import ResizeLongestSide

from medseg_cli.frame import IMAGENET_MEAN, IMAGENET_STD, REGION_LOGIT, Frame

SIZES = [(8, 8), (100, 80), (80, 100), (256, 256), (301, 299), (8, 600), (600, 8)]


def texture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 7 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("size", [64, 256])
def test_square_pixels_are_placed_as_sam_places_them(height: int, width: int, size: int) -> None:
    frame, sam = Frame(height, width, size), ResizeLongestSide(size)
    picture = texture(height, width)
    expected = sam.apply_image(picture)
    assert frame.inner == expected.shape[:2]
    image = frame.image(picture)
    assert image.shape == (3, size, size)
    assert image.dtype == torch.float32
    mean, std = (torch.tensor(each)[:, None, None] for each in (IMAGENET_MEAN, IMAGENET_STD))
    # What is beyond the picture is zero after normalising.
    expected = torch.zeros(3, size, size)
    high, wide = frame.inner
    expected[:, :high, :wide] = (torch.from_numpy(sam.apply_image(picture)).permute(2, 0, 1).float() - mean) / std
    torch.testing.assert_close(image, expected)

    box = np.array([[1.0, 2.0, 6.0, 5.0]])
    # SAM's boxes are half-open; ours name the last pixel inside.
    theirs = sam.apply_boxes(np.array([[1.0, 2.0, 7.0, 6.0]]), (height, width))
    np.testing.assert_allclose(frame.boxes(box), theirs, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(100, 80), (33, 400), (301, 299)])
def test_logits_return_as_sam_returns_them(height: int, width: int) -> None:
    from segment_anything.modeling import Sam

    frame = Frame(height, width, 128)
    low = torch.randn(2, 32, 32, generator=torch.Generator().manual_seed(1))

    class Sized:
        """What `Sam.postprocess_masks` asks of its model."""

        class image_encoder:  # noqa: N801
            img_size = 128

    theirs = Sam.postprocess_masks(Sized, low[:, None], frame.inner, (height, width))  # type: ignore[arg-type]
    torch.testing.assert_close(frame.restore(low), theirs[:, 0])


def test_the_whole_picture_as_box_fills_the_inner_part() -> None:
    for height, width in SIZES:
        frame = Frame(height, width, 256)
        high, wide = frame.inner
        box = frame.boxes(np.array([[0.0, 0.0, width - 1.0, height - 1.0]]))
        torch.testing.assert_close(box, torch.tensor([[0.0, 0.0, float(wide), float(high)]]))


@given(
    height=st.integers(8, 8000),
    width=st.integers(8, 8000),
    size=st.sampled_from([64, 256, 1024]),
    pixel=st.tuples(st.floats(0.05, 10), st.floats(0.05, 10)),
    fit=st.sampled_from(["longest", "stretch"]),
)
def test_geometry_of_any_picture(height: int, width: int, size: int, pixel: tuple[float, float], fit: str) -> None:
    frame = Frame(height, width, size, pixel, fit)  # type: ignore[arg-type]
    high, wide = frame.inner
    assert 1 <= high <= size
    assert 1 <= wide <= size
    if fit == "stretch":
        assert (high, wide) == (size, size)
    else:
        assert max(high, wide) == size
        # A millimetre is as long across as it is down, to half a frame pixel.
        scale = size / max(height * pixel[0], width * pixel[1])
        assert high == pytest.approx(max(1.0, height * pixel[0] * scale), abs=0.5 + 1e-6)
        assert wide == pytest.approx(max(1.0, width * pixel[1] * scale), abs=0.5 + 1e-6)
    # Corners of pixels: the picture's outline is the inner part's outline, and between them all is linear.
    corners = frame.points(np.array([[-0.5, -0.5], [width - 0.5, height - 0.5], [width / 2 - 0.5, height / 2 - 0.5]]))
    expected = np.array([[-0.5, -0.5], [wide - 0.5, high - 0.5], [wide / 2 - 0.5, high / 2 - 0.5]])
    np.testing.assert_allclose(corners, expected, atol=1e-3)


def test_anisotropic_pixels_keep_the_anatomys_shape() -> None:
    # A circle of 30 mm in pixels of 3 x 1 mm is an ellipse in the picture, and a circle again for the network.
    rows, columns = np.indices((40, 120))
    circle = ((rows - 20) * 3.0) ** 2 + (columns - 60.0) ** 2 <= 30**2
    frame = Frame(40, 120, 240, (3.0, 1.0), scale="unit")
    assert frame.inner == (240, 240)
    image = frame.image(np.repeat(circle[..., None].astype(np.uint8) * 255, 3, axis=2))[0] > 0.5
    extent = [int(np.ptp(np.flatnonzero(image.any(dim=axis).numpy()))) + 1 for axis in (0, 1)]
    assert extent == pytest.approx([122, 122], abs=4)
    assert frame.boxes(np.array([[30.0, 10.0, 90.0, 30.0]])).tolist() == [[60.0, 60.0, 182.0, 186.0]]


def test_unit_scaling_uses_the_pictures_own_range() -> None:
    picture = np.full((32, 32, 3), 60, np.uint8)
    picture[:16] = 110
    frame = Frame(32, 32, 64, fit="stretch", scale="unit")
    image = frame.image(picture)
    assert (float(image.min()), float(image.max())) == (0.0, 1.0)
    assert not frame.image(np.full((32, 32, 3), 77, np.uint8)).any()


def square_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 4 : height - height // 8, width // 8 : width - width // 3] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(8, 700),
    width=st.integers(8, 700),
    pixel=st.tuples(st.floats(0.5, 2), st.floats(0.5, 2)),
    fit=st.sampled_from(["longest", "stretch"]),
)
def test_a_mask_comes_back_to_where_it_was(height: int, width: int, pixel: tuple[float, float], fit: str) -> None:
    """Drawn as a picture, seen in the square, and brought back: to half a pixel of the coarser of the two grids."""
    frame = Frame(height, width, 256, pixel, fit, scale="unit")  # type: ignore[arg-type]
    mask = square_mask(height, width)
    image = frame.image(np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2))
    logits = image[:1] * 2 - 1
    logits[:, frame.inner[0] :] = logits[:, :, frame.inner[1] :] = -1
    back = frame.restore(logits)[0]
    assert back.shape == (height, width)
    for axis, (inside, whole) in enumerate(zip(frame.inner, (height, width), strict=True)):
        allowed = 0.5 * max(1.0, whole / inside)
        was, now = (edges(each, axis) for each in (mask, back.numpy() > 0))
        assert np.abs(np.array(was) - np.array(now)).max() <= allowed + 0.5, (axis, was, now)
        # The edge itself, between pixels, from where the profile crosses zero.
        np.testing.assert_allclose(crossings(back.numpy(), mask, axis), (was[0] - 0.5, was[1] + 0.5), atol=allowed)


def edges(mask: np.ndarray, axis: int) -> tuple[int, int]:
    where = np.flatnonzero(mask.any(axis=1 - axis))
    return int(where[0]), int(where[-1])


def crossings(back: np.ndarray, mask: np.ndarray, axis: int) -> tuple[float, float]:
    """Where a profile through the middle of the mask along `axis` crosses zero, up and down, interpolated."""
    middle = [int(np.mean(edges(mask, other))) for other in (0, 1)]
    profile = back[:, middle[1]] if axis == 0 else back[middle[0]]
    inside = np.flatnonzero(profile > 0)
    first, last = inside[0], inside[-1]
    up = first - profile[first] / (profile[first] - profile[first - 1])
    down = last + profile[last] / (profile[last] - profile[last + 1])
    return float(up), float(down)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (8, 8000), (8000, 8), (8000, 2000), (1, 8000)])
@pytest.mark.parametrize("fit", ["longest", "stretch"])
def test_from_the_smallest_to_the_largest_picture(height: int, width: int, fit: str) -> None:
    frame = Frame(height, width, 256, fit=fit)  # type: ignore[arg-type]
    image = frame.image(np.full((height, width, 3), 200, np.uint8))
    high, wide = frame.inner
    assert image.shape == (3, 256, 256)
    assert torch.isfinite(image).all()
    assert (image[0, :high, :wide] > 0).all()
    assert not image[:, high:].any()
    assert not image[:, :, wide:].any()
    logits = torch.ones(1, 64, 64)
    assert (frame.restore(logits) == 1).all()
    assert frame.restore(logits).shape == (1, height, width)


def test_a_coarse_mask_becomes_a_dense_prompt_where_it_lies() -> None:
    frame = Frame(100, 200, 256)
    mask = np.zeros((100, 200), bool)
    mask[25:75, 50:150] = True
    dense = frame.region(mask, 64)
    assert dense.shape == (1, 64, 64)
    # 256 / 200 / 4 cells per pixel: rows 8 to 24, columns 16 to 48; the padding below row 32 is outside.
    expected = torch.full((1, 64, 64), -REGION_LOGIT)
    expected[:, 8:24, 16:48] = REGION_LOGIT
    assert torch.equal(dense > 0, expected > 0)
    # Only cells on either side of the outline are in between.
    away = torch.ones(1, 64, 64, dtype=torch.bool)
    away[:, [7, 8, 23, 24], :] = away[:, :, [15, 16, 47, 48]] = False
    torch.testing.assert_close(dense[away], expected[away])


def test_a_one_pixel_region_of_a_large_picture_is_still_there() -> None:
    mask = np.zeros((2000, 2000), bool)
    mask[1000, 1000] = True
    dense = Frame(2000, 2000, 256).region(mask, 64)
    assert torch.isfinite(dense).all()
    assert dense.argmax() == 32 * 64 + 32
