"""The picture: anatomical directions, outline, scale bar and stamps, judged on pixels of known places."""

from __future__ import annotations

from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medseg_cli.measure import measure
from medseg_cli.scan import Provenance, Scan
from medseg_cli.segmentation import Label, Segmentation
from medseg_cli.writers import preview, sheet

RED, GREEN = (255, 0, 0), (0, 255, 0)
SIZE = (60, 50, 40)  # mm along x, y, z
ORIENTATIONS = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def phantom(order: tuple[int, ...] = (0, 1, 2), flips: tuple[bool, ...] = (False, False, False)) -> Segmentation:
    """A dark 1 mm scan with a cube in the middle (label 1) and a bright spot to its right, front and top each.

    The voxel axes are the world axes in `order`, those with a flip running the other way.
    """
    voxels = np.full(SIZE, 10.0, np.float32)
    mask = np.zeros(SIZE, np.uint8)
    mask[26:34, 21:29, 16:24] = 1
    voxels[50:54, 23:27, 18:22] = 1000  # right
    voxels[28:32, 42:46, 18:22] = 700  # anterior
    voxels[28:32, 23:27, 33:37] = 500  # superior
    affine = np.eye(4)
    for axis, flip in enumerate(flips):
        if flip:
            affine[:3, 3] += affine[:3, axis] * (SIZE[axis] - 1)
            affine[:3, axis] *= -1
            voxels, mask = np.flip(voxels, axis), np.flip(mask, axis)
    affine = affine[:, [*order, 3]]
    scan = Scan(np.ascontiguousarray(voxels.transpose(order))[None], affine, Provenance(Path("p.nii"), "nifti", ""))
    return Segmentation(np.ascontiguousarray(mask.transpose(order)), (Label(1, "cube", RED),), scan)


def panels(picture: Image.Image) -> list[np.ndarray]:
    """The three panels of a phantom's picture as (H, W, 3); the whole phantom is smaller than the field of view."""
    scale = preview.PANEL / max(SIZE)
    widths = [round(SIZE[0] * scale), round(SIZE[0] * scale), round(SIZE[1] * scale)]
    heights = [round(SIZE[1] * scale), round(SIZE[2] * scale), round(SIZE[2] * scale)]
    pixels, left, found = np.asarray(picture), sheet.MARGIN, []
    for width, height in zip(widths, heights, strict=True):
        top = sheet.HEADER + (max(heights) - height) // 2
        found.append(pixels[top : top + height, left : left + width])
        left += width + sheet.MARGIN
    return found


def at(panel: np.ndarray, x: float, y: float) -> np.ndarray:
    """Pixel of a panel at a fraction of its width and height."""
    return panel[int(y * panel.shape[0]), int(x * panel.shape[1])].astype(int)


@pytest.mark.parametrize(("order", "flips"), ORIENTATIONS)
def test_every_orientation_of_a_scan_gives_the_same_radiological_picture(
    order: tuple[int, ...], flips: tuple[bool, ...]
) -> None:
    segmentation = phantom(order, flips)
    axial, coronal, sagittal = panels(preview.draw(segmentation, measure(segmentation)))
    right, front, top = 52 / SIZE[0], 44 / SIZE[1], 35 / SIZE[2]
    assert at(axial, 1 - right, 0.5).min() > 200, "the patient's right must be on the left of the axial panel"
    assert at(axial, right, 0.5).max() < 60
    assert at(axial, 0.5, 1 - front).min() > 120, "anterior must be up in the axial panel"
    assert at(coronal, 1 - right, 0.5).min() > 200
    assert at(coronal, 0.5, 1 - top).min() > 90, "superior must be up in the coronal panel"
    assert at(sagittal, 1 - front, 0.5).min() > 120, "anterior must be on the left of the sagittal panel"
    assert at(sagittal, 0.5, 1 - top).min() > 90
    assert at(sagittal, front, 0.5).max() < 60


def test_outline_is_the_rim_of_the_object_in_its_colour() -> None:
    segmentation = phantom()
    for panel in panels(preview.draw(segmentation, measure(segmentation))):
        red = (panel == RED).all(axis=2)
        rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
        side = 8 * preview.PANEL / max(SIZE)
        assert len(rows) == pytest.approx(side, abs=2)
        assert len(columns) == pytest.approx(side, abs=2)
        inside = panel[rows[0] + 2 : rows[-1] - 1, columns[0] + 2 : columns[-1] - 1]
        assert not (inside == RED).all(axis=2).any(), "the outline must not cover the object"


def test_anisotropic_scans_keep_their_proportions() -> None:
    voxels = np.random.default_rng(0).random((1, 64, 64, 8)).astype(np.float32)
    scan = Scan(voxels, np.diag([1.0, 1.0, 8.0, 1.0]), Provenance(Path("p.nii"), "nifti", ""))
    mask = np.zeros((64, 64, 8), np.uint8)
    mask[24:40, 24:40, 3:5] = 1  # a cube of 16 mm
    segmentation = Segmentation(mask, (Label(1, "cube", RED),), scan)
    red = (np.asarray(preview.draw(segmentation, measure(segmentation))) == RED).all(axis=2)
    coronal = red[: sheet.HEADER + preview.PANEL, preview.PANEL + 2 * sheet.MARGIN :][:, : preview.PANEL]
    assert np.ptp(np.flatnonzero(coronal.any(axis=1))) == pytest.approx(
        np.ptp(np.flatnonzero(coronal.any(axis=0))), abs=2
    )


def test_scale_bar_is_as_long_as_it_says() -> None:
    segmentation = phantom()
    axial = panels(preview.draw(segmentation, measure(segmentation)))[0]
    right = axial[-10, int(0.6 * axial.shape[1]) :]  # the letter P stands in the middle
    row = (right == sheet.INK).all(axis=1)
    assert np.ptp(np.flatnonzero(row)) + 1 == pytest.approx(20 * preview.PANEL / max(SIZE), abs=2)


def test_the_field_of_view_stays_inside_a_large_scan_and_holds_every_object() -> None:
    scan = Scan(
        np.zeros((1, 300, 300, 100), np.float32), np.diag([1.0, 1.0, 2.0, 1.0]), Provenance(Path("p.nii"), "nifti", "")
    )
    mask = np.zeros(scan.shape, np.uint8)
    mask[290:300, 0:10, 95:100] = 1
    mask[250:255, 60:65, 90:95] = 2
    labels = (Label(1, "big", RED), Label(2, "small", GREEN))
    segmentation = Segmentation(mask, labels, scan)
    first, last = preview._field(segmentation, measure(segmentation), (295, 5, 97))
    assert np.all(np.array(first) >= 0)
    assert np.all(np.array(last) <= np.array(scan.shape) - 1)
    assert first[0] <= 250
    assert last[0] == 299
    assert first[1] == 0
    assert last[1] >= 64
    assert (last[0] - first[0] + 1) * 1.0 == pytest.approx((last[1] - first[1] + 1) * 1.0, abs=2)


def test_planes_pass_through_a_ring_and_not_through_its_hole() -> None:
    i, j = np.mgrid[:40, :40]
    ring = np.abs(np.hypot(i - 20, j - 20) - 12) < 2
    mask = np.repeat(ring[:, :, None], 5, axis=2).astype(np.uint8)
    scan = Scan(np.zeros((1, 40, 40, 5), np.float32), np.eye(4), Provenance(Path("p.nii"), "nifti", ""))
    segmentation = Segmentation(mask, (Label(1, "ring", RED),), scan)
    assert mask[preview._center(segmentation, measure(segmentation), None)] == 1


def test_an_empty_mask_shows_the_click_and_says_so() -> None:
    whole = phantom()
    empty = Segmentation(np.zeros_like(whole.mask), whole.labels, whole.scan)
    measurements = measure(empty)
    assert preview._center(empty, measurements, (3.2, 4.6, 5.0)) == (3, 5, 5)
    assert "EMPTY" in sheet.legend_text(measurements[0])
    picture = np.asarray(preview.draw(empty, measurements, focus=(3, 4, 5)))
    assert not (picture[: sheet.HEADER + 300] == RED).all(axis=2).any()


def test_the_stamp_is_on_the_picture() -> None:
    segmentation = phantom()
    plain = np.asarray(preview.draw(segmentation, measure(segmentation)))
    stamped = np.asarray(preview.draw(segmentation, measure(segmentation), stamp="RANDOM WEIGHTS"))
    band = (stamped[: sheet.HEADER - 2] == sheet.WARNING).all(axis=2).mean()
    assert band > 0.8
    assert not (plain == sheet.WARNING).all(axis=2).any()


def test_ct_is_shown_in_the_soft_tissue_window_when_the_object_is_soft() -> None:
    voxels = np.full((1, 20, 20, 20), -1000, np.float32)
    voxels[:, 5:15, 5:15, 5:15] = 40
    scan = Scan(voxels, np.eye(4), Provenance(Path("p"), "dicom", ""), modality="CT")
    mask = np.zeros(scan.shape, np.uint8)
    mask[8:12, 8:12, 8:12] = 1
    segmentation = Segmentation(mask, (Label(1, "organ", RED),), scan)
    assert preview._window(segmentation, measure(segmentation), (10, 10, 10)) == (-160.0, 240.0)
    assert preview._window(segmentation, measure(segmentation), (1, 1, 1)) != (-160.0, 240.0)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_flat_image_has_one_panel_as_stored(channels: int) -> None:
    voxels = np.zeros((channels, 30, 20, 1), np.float32)
    voxels[:, 2:6, 2:6] = 200  # top left of the picture: i runs to the right, j down
    scan = Scan(voxels, np.diag([-1.0, -1.0, 1.0, 1.0]), Provenance(Path("p.png"), "image", ""), spacing_known=False)
    mask = np.zeros((30, 20, 1), np.uint8)
    mask[20:25, 12:16] = 1
    segmentation = Segmentation(mask, (Label(1, "spot", RED),), scan)
    picture = np.asarray(preview.draw(segmentation, measure(segmentation)))
    panel = picture[sheet.HEADER :, sheet.MARGIN :]
    scale = preview.FLAT_PANEL / 30
    assert panel[int(4 * scale), int(4 * scale)].min() > 150
    red = (panel[: int(20 * scale)] == RED).all(axis=2)
    assert np.flatnonzero(red.any(axis=1)).mean() == pytest.approx(14 * scale, abs=3)
    assert np.flatnonzero(red.any(axis=0)).mean() == pytest.approx(22.5 * scale, abs=3)


def test_constant_and_broken_voxels_do_not_stop_the_picture(tmp_path: Path) -> None:
    whole = phantom()
    for value in (0.0, np.nan):
        scan = Scan(np.full_like(whole.scan.voxels, value), whole.scan.affine, whole.scan.provenance)
        segmentation = Segmentation(whole.mask, whole.labels, scan)
        preview.write(segmentation, measure(segmentation), tmp_path / "p.png")
        assert Image.open(tmp_path / "p.png").size[0] > preview.PANEL
