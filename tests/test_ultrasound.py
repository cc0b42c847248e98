"""Sectors and burned-in marks of ultrasound pictures: found where they are plain, left alone where they are not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bright_box
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from medseg_cli import pipelines
from medseg_cli.burned_in import find_marks, without
from medseg_cli.intensity import Display
from medseg_cli.pipelines.slice_ultrasound import Ultrasound, insonated
from medseg_cli.preset import dump
from medseg_cli.scan import Provenance, Scan
from medseg_cli.sector import find_sector
from medseg_cli.slices import plane_of

Medseg = Callable[..., tuple[int, str, str]]
SHAPE = (220, 300)
EIGHT_BIT = Display(0.0, 255.0, "eight-bit", "a test")
CROSS = 9


def fan(
    apex: tuple[float, float] = (150, -40), radii: tuple[float, float] = (60, 235), degrees: float = 32
) -> np.ndarray:
    """Pixels (H, W) of a curved probe's sector."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius, angle = np.hypot(x - apex[0], y - apex[1]), np.degrees(np.arctan2(x - apex[0], y - apex[1]))
    return (radius >= radii[0]) & (radius <= radii[1]) & (np.abs(angle) <= degrees)


def tissue(seed: int = 0) -> np.ndarray:
    """Grey values (H, W) of 20 to 120, as smooth as a beam is wide."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=SHAPE), 1.5)
    return np.clip(60 + 25 * smooth / smooth.std(), 20, 120).astype(np.uint8)


def cross(picture: np.ndarray, x: int, y: int, value: int = 235) -> None:
    half = CROSS // 2
    picture[y - half : y + half + 1, x] = value
    picture[y, x - half : x + half + 1] = value


def letters(picture: np.ndarray, x: int, y: int) -> None:
    """Four letters H of 9 by 7 pixels."""
    for left in range(x, x + 40, 10):
        picture[y : y + 9, left] = picture[y : y + 9, left + 6] = picture[y + 4, left : left + 7] = 240


def rgb(grey: np.ndarray) -> np.ndarray:
    return np.repeat(grey[..., None], 3, axis=2)


@pytest.mark.parametrize(
    "shape",
    [
        fan(),
        fan(degrees=20),
        fan(apex=(110, -40)),
        fan(apex=(150, 5), radii=(2, 200), degrees=40),
        np.pad(np.ones((150, 180), bool), ((20, 50), (60, 60))),
    ],
    ids=["curved", "narrow", "cut by the picture", "phased", "linear"],
)
def test_a_plain_sector_is_found_and_no_tissue_is_lost(shape: np.ndarray) -> None:
    grey = np.where(shape, tissue(), 0).astype(np.uint8)
    letters(grey, 4, 205)
    grey[20:120, 3] = 200  # a scale at the side
    found = find_sector(grey)
    assert found.found, found.why
    assert found.inside[shape].all()
    assert not found.inside[205:214, 4:44].any()
    # Beyond the outline lies only what a convex sector has to keep: the probe's face, above the tissue.
    rows, columns = np.nonzero(found.inside & ~ndimage.binary_dilation(shape, iterations=5))
    last = np.where(shape, np.arange(SHAPE[0])[:, None], 0).max(0)
    assert not (rows > last[columns]).any()
    assert found.share < shape.mean() + 0.12


def test_tissue_that_fades_has_no_border_there() -> None:
    """Lower half of the fan in the dark, left side in shadow: the true sector is kept all the same."""
    shape = fan()
    depth = np.clip(1.3 - np.arange(SHAPE[0]) / 120, 0, 1)[:, None]
    shadow = np.clip((np.arange(SHAPE[1]) - 60) / 60, 0, 1)[None]
    found = find_sector(np.where(shape, tissue() * depth * shadow, 0).astype(np.uint8))
    assert found.inside[shape].all()


@pytest.mark.parametrize("side", ["everywhere", "nowhere"])
def test_without_a_border_nothing_is_cut_and_it_is_said(side: str) -> None:
    grey = tissue() if side == "everywhere" else np.zeros(SHAPE, np.uint8)
    found = find_sector(grey)
    assert not found.found
    assert found.inside.all()
    assert "border" in found.why or "tissue" in found.why


def test_much_outside_a_border_puts_it_in_doubt() -> None:
    """Two pictures side by side, of one of which the border is plain: the other is no text."""
    shape = np.zeros(SHAPE, bool)
    shape[40:180, 20:130] = True
    grey = np.where(shape, tissue(), 0).astype(np.uint8)
    speckled = np.random.default_rng(0).random(SHAPE) < 0.25
    grey[:, 180:290][speckled[:, 180:290]] = 90
    found = find_sector(grey)
    assert found.inside[:, 180:290].all()


def test_the_file_s_region_bounds_the_sector() -> None:
    stated = np.zeros(SHAPE, bool)
    stated[10:200, 40:250] = True
    found = find_sector(tissue(), stated)
    assert found.found
    assert np.array_equal(found.inside, stated)
    assert "the file states" in found.why


def marked(value: int = 235) -> tuple[np.ndarray, np.ndarray]:
    """A grey picture with two callipers, the dotted line between them and letters; and which pixels those are."""
    plain, drawn = tissue(), tissue()
    for x in (80, 220):
        cross(drawn, x, 110, value)
    for x in range(90, 212, 6):
        drawn[110:112, x : x + 2] = value
    letters(drawn, 130, 40)
    return drawn, drawn != plain


def test_marks_are_found_to_the_pixel_and_tissue_is_not() -> None:
    drawn, truth = marked()
    found = find_marks(rgb(drawn))
    assert np.array_equal(found, truth)
    assert not find_marks(rgb(tissue())).any()


def test_bright_tissue_is_no_mark() -> None:
    """Bone as bright as a calliper, five pixels wide, with the edge that a beam gives it; and the same one cut off."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    line = ndimage.gaussian_filter((np.abs(y - 110 - 0.2 * (x - 150)) < 3).astype(float), 1.5)
    grey = np.clip(tissue() + 200 * line, 0, 255).astype(np.uint8)
    assert not find_marks(rgb(grey)).any()
    grey[:, 150:] = 0
    assert not find_marks(rgb(grey)).any()


def test_coloured_lines_are_marks_and_colour_flow_is_not() -> None:
    picture = rgb(tissue())
    picture[60, 50:150] = (60, 160, 60)
    assert np.array_equal(find_marks(picture), (picture == (60, 160, 60)).all(2))
    flow = picture.copy()
    flow[100:130, 100:130] = (200, 40, 30)
    assert not find_marks(flow)[100:130, 100:130].any()
    above = np.repeat(np.arange(SHAPE[0])[:, None] < 80, SHAPE[1], axis=1)
    assert np.array_equal(find_marks(flow, above), find_marks(picture) & above)


def test_large_pictures_take_seconds() -> None:
    """Of the processor, not of the clock: 0.7 as it is, above 37 where squares are looked for pixel by pixel."""
    picture = np.random.default_rng(0).integers(0, 200, (2000, 3000, 1), np.uint8).repeat(3, axis=2)
    start = time.process_time()
    find_marks(picture)
    assert time.process_time() - start < 15


def test_what_is_painted_over_looks_like_its_surroundings() -> None:
    drawn, truth = marked()
    cleared = without(rgb(drawn), find_marks(rgb(drawn)))
    # Tissue of a standard deviation of 25 is guessed from two pixels away, and marks stood 175 above it.
    assert np.abs(cleared[truth].astype(int) - rgb(tissue())[truth]).mean() < 15
    far = ~ndimage.binary_dilation(truth, np.ones((3, 3)))
    assert np.array_equal(cleared[far], rgb(tissue())[far])


def cine(frames: list[np.ndarray], **facts: Any) -> Scan:
    voxels = np.stack([each.T for each in frames], axis=2)[None].astype(np.float32)
    origin = Provenance(Path("cine.dcm"), "dicom", "0" * 64)
    return Scan(voxels, np.eye(4), origin, "US", cine=len(frames) > 1, position_known=False, **facts)


def test_a_cine_has_one_sector_and_a_shadow_in_one_frame_does_not_shrink_it() -> None:
    shape = fan()
    bright = np.where(shape, tissue(), 0).astype(np.uint8)
    shadowed = bright.copy()
    shadowed[:, :150] = 0
    scan = cine([shadowed, bright, shadowed])
    found = insonated(scan, plane_of(scan), EIGHT_BIT, Ultrasound())
    assert found is not None
    assert found.sector is not None
    assert found.sector.inside[shape].all()


def test_the_region_of_a_dicom_file_counts_in_its_own_voxels() -> None:
    scan = cine([tissue()], region=(40, 10, 249, 199))
    found = insonated(scan, plane_of(scan), EIGHT_BIT, Ultrasound(overlays=False))
    assert found is not None
    assert found.sector is not None
    expected = np.zeros(SHAPE, bool)
    expected[10:200, 40:250] = True
    assert np.array_equal(found.sector.inside, expected)


def test_other_modalities_and_volumes_are_taken_as_they_are() -> None:
    scan = cine([tissue()])
    other = Scan(scan.voxels, scan.affine, scan.provenance, "CT", position_known=False)
    volume = Scan(np.repeat(scan.voxels, 3, axis=3), scan.affine, scan.provenance, "US")
    for each in (other, volume):
        assert insonated(each, plane_of(each), EIGHT_BIT, Ultrasound()) is None
    assert insonated(scan, plane_of(scan), EIGHT_BIT, None) is None


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg) -> Medseg:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    return in_process


def preset_file(folder: Path, **options: Any) -> Path:
    made = bright_box.preset(folder, size=300, whole_image=True, **options)
    path = folder / "bright-box.yaml"
    path.write_text(dump(made))
    return path


def test_masks_stay_in_the_sector_and_marks_are_no_object(tmp_path: Path, medseg: Medseg) -> None:
    """The network takes everything bright for the object: letters in the dark, callipers, and the blob they measure."""
    shape = fan()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    blob = ((x - 150) / 30) ** 2 + ((y - 120) / 20) ** 2 < 1
    soft = ndimage.gaussian_filter(blob.astype(float), 1.5)
    grey = np.where(shape, np.clip(tissue() + 140 * soft, 0, 250), 0).astype(np.uint8)
    letters(grey, 4, 205)
    for across in (105, 195):
        cross(grey, across, 160)
    marks = 2 * (2 * CROSS - 1)
    Image.fromarray(grey).save(tmp_path / "us.png")

    masks = {}
    for name, options in (("raw", {}), ("cleared", {"ultrasound": {}})):
        preset = preset_file(tmp_path / name, **options)
        words = ("-o", f"{name}.png", "-p", preset, "--no-preview", "--window", "125/250")
        code, _, err = medseg("segment", tmp_path / "us.png", *words)
        assert code == 0, err
        with Image.open(f"{name}.png") as image:
            masks[name] = np.asarray(image) > 0
        assert masks[name].shape == SHAPE
        assert masks[name][blob].mean() > 0.95
        report = json.loads(Path(f"{name}.json").read_text())
        assert ("ultrasound" in report["pipeline"]) is (name == "cleared")
    assert masks["raw"][205:214, 4:44].any()
    assert masks["raw"][160, 105]
    near = ndimage.binary_dilation(blob, iterations=4)
    assert not masks["cleared"][~near].any()
    facts = report["pipeline"]["ultrasound"]
    assert facts["sector"]["found"] is True
    assert facts["overlays"] == {"pictures": 1, "pixels": marks, "refused": 0}
    assert any("painted over" in note for note in report["notes"])


def test_a_picture_without_a_border_is_segmented_as_it_is_and_says_so(tmp_path: Path, medseg: Medseg) -> None:
    grey = np.minimum(tissue(), 100)
    grey[100:140, 100:140] = 200
    Image.fromarray(grey).save(tmp_path / "us.png")
    preset = preset_file(tmp_path, ultrasound={"overlays": False})
    code, _, err = medseg("segment", tmp_path / "us.png", "-o", "m.png", "-p", preset, "--no-preview")
    assert code == 0, err
    assert "border was not found" in err
    facts = json.loads(Path("m.json").read_text())["pipeline"]["ultrasound"]
    assert facts["sector"]["found"] is False
    assert facts["sector"]["share"] is None
    assert facts["overlays"] is None
    with Image.open("m.png") as image:
        assert np.array_equal(np.asarray(image) > 0, grey == 200)


def test_the_command_line_has_the_last_word(tmp_path: Path, medseg: Medseg) -> None:
    Image.fromarray(np.where(fan(), tissue(), 0).astype(np.uint8)).save(tmp_path / "us.png")
    words = ("segment", tmp_path / "us.png", "-o", "m.png", "--no-preview", "--overwrite", "-p")
    for options, flag, asked in (({}, "--sector", True), ({"ultrasound": {}}, "--no-sector", False)):
        code, _, err = medseg(*words, preset_file(tmp_path, **options), flag)
        assert code == 0, err
        report = json.loads(Path("m.json").read_text())
        assert ("ultrasound" in report["pipeline"]) is asked
        assert any(key.startswith("options.ultrasound") for key in report["preset"]["overrides"])
    for name in ("hippocampus-mr", "text-demo"):
        code, _, err = medseg(*words, name, "--sector", "--text", "a lung")
        assert code == 2
        assert "--sector" in err


def test_a_click_outside_the_sector_is_told(tmp_path: Path, medseg: Medseg) -> None:
    Image.fromarray(np.where(fan(), tissue(), 0).astype(np.uint8)).save(tmp_path / "us.png")
    preset = preset_file(tmp_path, ultrasound={})
    code, _, err = medseg(
        "segment", tmp_path / "us.png", "-o", "m.png", "-p", preset, "--no-preview", "--point", "5,200"
    )
    assert code == 0, err
    assert "lies outside the ultrasound sector" in err


def test_what_marks_do_is_measured(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example on one drawn picture whose object is a square: nothing clean is touched, callipers are found."""
    monkeypatch.syspath_prepend(str(root / "examples"))
    import us_overlays

    mask = np.zeros(SHAPE, np.uint8)
    mask[90:150, 110:190] = 255
    for folder, values in (("images", np.where(fan(), tissue(), 0).astype(np.uint8)), ("masks", mask)):
        (tmp_path / "heads" / folder).mkdir(parents=True)
        Image.fromarray(values).save(tmp_path / "heads" / folder / "a.png")
    us_overlays.main([str(tmp_path / "heads"), "-o", str(tmp_path / "out")])
    facts = json.loads((tmp_path / "out" / "overlays.json").read_text())
    (clean,) = facts["clean"]
    assert (clean["sector"], clean["object_cut"], clean["bright_cut"], clean["painted"]) == (True, 0, 0, 0)
    assert facts["drawn"]["callipers"][0]["found"] > 0.8
    assert facts["drawn"]["text"][0]["outside"] > 0.2
    assert all(rows[0]["tissue"] < 1e-3 for rows in facts["drawn"].values())
    assert "| callipers | 0% |" in (tmp_path / "out" / "overlays.md").read_text()


def test_real_heads_lose_nothing_and_real_callipers_go(shared: Path) -> None:
    heads, breasts = shared / "data" / "fetal-head-us", shared / "data" / "breast-us"
    found, touched = 0, []
    for path in sorted((heads / "images").glob("*.png"))[::6]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        sector = find_sector(picture.max(2))
        found += sector.found
        mask = np.asarray(Image.open(heads / "masks" / path.name)) > 0
        assert sector.inside[mask].all(), path.name
        touched.append(find_marks(picture).mean())
    assert found >= 5
    assert np.mean(touched) < 1e-5

    picture = np.asarray(Image.open(breasts / "images" / "benign (141).png").convert("RGB"))
    marks = find_marks(picture)
    # The two callipers and a dot between them, as read off the picture.
    assert marks[118:121, 35:49].all()
    assert marks[109:129, 41:44].any()
    assert 0.002 < marks.mean() < 0.006
