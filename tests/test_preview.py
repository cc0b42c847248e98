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
from medseg_cli.writers import preview, scene, sheet

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
    first, last = scene.field(segmentation, measure(segmentation), (295, 5, 97))
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
    assert mask[scene.center(segmentation, measure(segmentation), None)] == 1


def test_an_empty_mask_shows_the_click_and_says_so() -> None:
    whole = phantom()
    empty = Segmentation(np.zeros_like(whole.mask), whole.labels, whole.scan)
    measurements = measure(empty)
    assert scene.center(empty, measurements, (3.2, 4.6, 5.0)) == (3, 5, 5)
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
    assert scene.window(segmentation, measure(segmentation), (10, 10, 10)) == (-160.0, 240.0)
    assert scene.window(segmentation, measure(segmentation), (1, 1, 1)) != (-160.0, 240.0)


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


def drawn(values: np.ndarray, mask: np.ndarray, *names: str, **scan: object) -> np.ndarray:
    """Picture of (rows, columns[, 3]) values and (rows, columns) labels, both as stored in an image file."""
    columns = np.moveaxis(np.atleast_3d(values).astype(np.float32), 2, 0).transpose(0, 2, 1)[..., np.newaxis]
    provenance = Provenance(Path("p.png"), str(scan.pop("format", "image")), "")
    whole = Scan(columns, np.diag([-1.0, -1.0, 1.0, 1.0]), provenance, **{"spacing_known": False, **scan})
    labels = tuple(Label(value, name, (RED, GREEN, (0, 0, 255))[value - 1]) for value, name in enumerate(names, 1))
    segmentation = Segmentation(np.ascontiguousarray(mask.T[..., np.newaxis]), labels, whole)
    return np.asarray(preview.draw(segmentation, measure(segmentation)))


def panel_of(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """The only panel, without its margins."""
    return picture[sheet.HEADER : sheet.HEADER + height, sheet.MARGIN : sheet.MARGIN + width]


def rim(panel: np.ndarray, color: tuple[int, int, int] = RED) -> tuple[int, int, int, int]:
    """First and last x and y of an object's line."""
    rows, columns = np.nonzero((panel == color).all(axis=2))
    return columns.min(), columns.max(), rows.min(), rows.max()


@pytest.mark.parametrize(
    ("rows", "columns", "width", "height"),
    [(8, 8, 800, 800), (300, 600, 800, 400), (2000, 1000, 400, 800), (8, 4000, 800, 96), (4000, 8, 96, 800)],
)
def test_a_picture_of_any_size_is_shown_whole(rows: int, columns: int, width: int, height: int) -> None:
    mask = np.zeros((rows, columns), np.uint8)
    mask[rows // 4 : rows // 2, columns // 2 : columns * 3 // 4] = 1
    values = np.tile(np.linspace(0, 255, columns), (rows, 1))
    picture = drawn(values, mask, "x")
    panel = panel_of(picture, width, height)
    first_x, last_x, first_y, last_y = rim(panel)
    assert (first_x, last_x + 1) == pytest.approx((width / 2, width * 3 / 4), abs=2)
    assert (first_y, last_y + 1) == pytest.approx((height / 4, height / 2), abs=2)
    assert panel[-2, 2].max() < 60, "the left edge of the ramp is dark"
    assert panel[-2, -3].min() > 195
    assert picture.shape[1] == max(width + 2 * sheet.MARGIN, sheet.LEAST_WIDTH)
    if min(width, height) > 96:
        assert not picture[sheet.HEADER : sheet.HEADER + 20, 12:200].min(axis=2).max() > 230, "nothing is stretched"


def test_a_speck_is_shown_with_its_surroundings_and_where_they_are() -> None:
    mask = np.zeros((1000, 1000), np.uint8)
    mask[500:540, 700:740] = 1
    picture = drawn(np.random.default_rng(0).random((1000, 1000)) * 99, mask, "speck")
    first_x, last_x, *_ = rim(panel_of(picture, 800, 800))
    assert last_x + 1 - first_x == pytest.approx(40 / 250 * 800, abs=2), "a quarter of the image fills the panel"


def test_one_pixel_of_a_huge_picture_is_seen() -> None:
    mask = np.zeros((3000, 2400), np.uint8)
    mask[200:2800, 200:1500] = 1
    mask[2000, 2000] = 2
    panel = panel_of(drawn(np.tile(np.arange(2400), (3000, 1)), mask, "large", "dot"), 640, 800)
    assert rim(panel, GREEN) == pytest.approx((2000 * 640 / 2400, 2000 * 640 / 2400, 533, 533), abs=1)


def test_colours_stay_what_they_are_and_the_tint_is_slight() -> None:
    values = np.zeros((40, 40, 3))
    values[:] = (180, 90, 40)
    mask = np.zeros((40, 40), np.uint8)
    mask[:, 20:] = 2
    panel = panel_of(drawn(values, mask, "nothing", "half"), 800, 800)
    assert tuple(panel[600, 100]) == (180, 90, 40), "untouched outside"
    inside = panel[600, 700].astype(int)
    assert 90 < inside[1] < 150, "towards green"
    assert 100 < inside[0] < 180


def test_names_stand_on_their_objects_and_never_on_each_other() -> None:
    mask = np.zeros((200, 200), np.uint8)
    mask[20:90, 20:90] = 1
    mask[110:190, 100:190] = 2
    mask[92:94, 50:55] = 3  # its name would lie on that of the first
    values = np.full((200, 200), 100.0)
    values[0, 0] = 255
    named = panel_of(drawn(values, mask, "first one", "second one", "third"), 800, 800)
    blank = panel_of(drawn(values, mask, "", "", ""), 800, 800)
    changed = (named != blank).any(axis=2)
    for first_x, last_x, first_y, last_y in ((80, 360, 80, 360), (400, 760, 440, 760)):
        words = changed[first_y:last_y, first_x:last_x]
        rows, columns = np.nonzero(words)
        assert len(rows) > 100
        assert rows.mean() == pytest.approx(words.shape[0] / 2, abs=20)
        assert columns.mean() == pytest.approx(words.shape[1] / 2, abs=20)
        words[:] = False
    assert 0 < np.count_nonzero(changed) < 2000, "the small object is named below itself"
    assert np.nonzero(changed)[0].min() >= 94 * 4


@pytest.mark.parametrize("background", [0, 255])
def test_words_are_readable_on_bright_and_on_dark(background: int) -> None:
    values = np.full((100, 100), float(background))
    values[0, 0] = 255 - background
    mask = np.zeros((100, 100), np.uint8)
    mask[20:80, 20:80] = 1
    picture = panel_of(drawn(values, mask, "MMMM"), 800, 800)[300:500, 300:500].min(axis=2).astype(int)
    assert picture.max() >= 230, "light letters"
    # Dark all around the letters, whatever lies under them.
    letters = np.argwhere(picture == 235)
    for y, x in letters[:: max(1, len(letters) // 20)]:
        assert picture[y - 6 : y + 7, x - 6 : x + 7].min() < 20


def test_a_thousand_objects_make_no_endless_legend() -> None:
    mask = np.zeros((64, 64), np.uint16)
    mask[::2, ::2] = np.arange(1, 1025).reshape(32, 32)
    provenance = Provenance(Path("p.png"), "image", "")
    scan = Scan(np.zeros((1, 64, 64, 1), np.float32), np.eye(4), provenance, spacing_known=False)
    labels = tuple(Label(value, f"cell {value}", RED) for value in range(1, 1025))
    segmentation = Segmentation(mask[..., np.newaxis], labels, scan)
    lines = sheet._legend(measure(segmentation), 400)
    assert len(lines) == sheet.LEGEND_LINES
    assert lines[-1][1] == f"and {1024 - len(lines) + 1} more objects, listed in the report"
    assert preview.draw(segmentation, measure(segmentation)).height < 1800


def test_a_dicom_picture_without_a_position_has_no_letters() -> None:
    values = np.full((100, 100), 50.0)
    mask = np.zeros((100, 100), np.uint8)
    placed = drawn(values, mask, "x", format="dicom")
    picture = drawn(values, mask, "x", format="dicom", position_known=False)
    title = (slice(sheet.HEADER, sheet.HEADER + 22), slice(sheet.MARGIN, 200))
    assert placed[title].max() > 200
    assert picture[title].max() < 200


def test_legend_sizes_are_plain_numbers() -> None:
    mask = np.zeros((400, 300, 1), np.uint8)
    mask[:200] = 1
    mask[399, 299] = 2
    affine, labels = np.diag([-0.7, -0.7, 1.0, 1.0]), (Label(1, "lungs"), Label(2, "dot"))
    for known, texts in ((True, ["29400 mm2", "0.49 mm2"]), (False, ["60000 pixels", "1 pixel"])):
        provenance = Provenance(Path("p.png"), "image", "")
        scan = Scan(np.zeros((1, 400, 300, 1), np.float32), affine, provenance, spacing_known=known)
        for each, text in zip(measure(Segmentation(mask, labels, scan)), texts, strict=True):
            assert sheet.legend_text(each).split(": ")[1].split(",")[0] == text
