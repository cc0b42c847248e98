"""`medseg segment` with a prompted 2-D model: boxes, slices, windows, coarse masks, pictures; the answer is known.

The scan holds a bar of 8 x 6 voxels in the axial slices 4 to 11, of 200 on a background of 100, and a speck beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bright_box
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from medseg_cli import pipelines

Medseg = Callable[..., tuple[int, str, str]]

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
"""LPS, slices of 2 mm: the finest plane is axial."""
SHAPE = (40, 30, 16)
BAR = (slice(10, 18), slice(12, 18), slice(4, 12))
BOX_2D, BOX_3D = "8,10,21,20", "8,10,5,21,20,9"


def voxels() -> np.ndarray:
    values = np.full(SHAPE, 100, np.float32)
    # Grey values far from everything, so that the scan is no mask.
    values[30:, 20:] = np.random.default_rng(0).uniform(90, 110, (10, 10, 16))
    values[BAR] = 200
    values[20, 14, 6] = 200
    return values


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "body.nii.gz"
    nib.save(nib.Nifti1Image(voxels(), AFFINE), path)
    return path


def write_preset(folder: Path, **settings: Any) -> Path:
    path = bright_box.preset(folder, **{"size": 40, "whole_image": True, **settings}).path
    assert path is not None
    return path


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    return write_preset(tmp_path)


@pytest.fixture
def medseg(monkeypatch: pytest.MonkeyPatch, in_process: Medseg) -> Medseg:
    monkeypatch.setattr(pipelines, "PIPELINES", dict(pipelines.PIPELINES))
    bright_box.register()
    return in_process


def read(name: str = "m.nii.gz") -> np.ndarray:
    return np.asarray(nib.load(name).dataobj)


def report(name: str = "m.json") -> dict:
    return json.loads(Path(name).read_text())


def run(medseg: Medseg, scan: object, preset: Path, *words: object, to: str = "m.nii.gz") -> str:
    """Segment; the messages."""
    code, _, err = medseg("segment", scan, "-o", to, "-p", preset, "--overwrite", "--no-preview", *words)
    assert code == 0, err
    return err


def expected(*slices: int) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    for index in slices:
        mask[BAR[0], BAR[1], index] = True
    return mask


def test_a_box_in_one_slice_is_followed_through_the_object(medseg: Medseg, scan: Path, preset: Path) -> None:
    err = run(medseg, scan, preset, "--box", BOX_2D, "--slice", 8)
    mask = expected(*range(4, 12))
    mask[20, 14, 6] = read()[20, 14, 6]  # the speck may lie in the box of slice 6 or not
    assert np.array_equal(read() > 0, mask)
    facts = report()["pipeline"]
    # Slices 4 to 11 hold the bar; 3 and 12 had to be looked at to know that it ends.
    assert facts["slices"] == {
        "plane": "axial", "axis": "k", "count": 16, "prompted": 10, "encoded": 10, "from_cache": 0,
    }  # fmt: skip
    assert [(way["from"], way["to"]) for way in facts["objects"][0]["propagation"]] == [(8, 4), (8, 11)]
    assert all("nothing found" in way["because"] for way in facts["objects"][0]["propagation"])
    assert "10 of 16 axial slices encoded (grey 90" in err
    assert "the preset's general choice: the scan states no modality)" in err
    assert "blob: followed from slice 8 to 4 (nothing found); 8 to 11 (nothing found)" in err
    (prompt,) = report()["prompts"]
    assert prompt["boxes"] == [
        {
            "typed": [[8, 10], [21, 20]],
            "coords": "ijk",
            "ijk_inclusive": [[8, 10, 8], [21, 20, 8]],
            "ras_mm": [[-8, -10, 16], [-21, -20, 16]],
        }
    ]
    assert (prompt["clicks"], prompt["region"], prompt["whole_image"]) == ([], None, False)


@pytest.mark.parametrize(
    ("coords", "box"),
    [("ijk", BOX_3D), ("ras", "-21,-20,10,-8,-10,18"), ("lps", "8,10,10,21,20,18")],
    ids=["ijk", "ras", "lps"],
)
def test_a_box_with_depth_prompts_its_slices_and_no_other(
    medseg: Medseg, scan: Path, preset: Path, coords: str, box: str
) -> None:
    err = run(medseg, scan, preset, "--box", box, "--coords", coords)
    mask = expected(5, 6, 7, 8, 9)
    mask[20, 14, 6] = True
    assert np.array_equal(read() > 0, mask)
    assert report()["pipeline"]["slices"]["encoded"] == 5
    assert "5 of 16 axial slices encoded" in err
    assert "followed" not in err
    assert report()["prompts"][0]["boxes"][0]["ijk_inclusive"] == [[8, 10, 5], [21, 20, 9]]


def test_how_far_a_prompt_is_followed_can_be_limited(medseg: Medseg, scan: Path, preset: Path) -> None:
    one = ("--box", BOX_2D, "--slice", 8)
    run(medseg, scan, preset, *one, "--no-propagate")
    assert np.array_equal(read() > 0, expected(8))
    assert report()["preset"]["overrides"] == {"options.propagate": False}
    err = run(medseg, scan, preset, *one, "--max-slices", 2, "--batch-slices", 1)
    assert np.flatnonzero(read().any(axis=(0, 1))).tolist() == [6, 7, 8, 9, 10]
    assert report()["preset"]["overrides"] == {"options.propagation": {"max_slices": 2}, "options.batch": 1}
    assert "2 slices were allowed" in err


@pytest.mark.parametrize(
    ("plane", "axis", "box", "index"),
    [("coronal", 1, "8,2,20,14", 14), ("sagittal", 0, "10,2,20,14", 13), ("acquisition", 2, BOX_2D, 8)],
)
def test_each_plane_finds_the_same_bar(
    medseg: Medseg, scan: Path, preset: Path, plane: str, axis: int, box: str, index: int
) -> None:
    run(medseg, scan, preset, "--slices", plane, "--box", box, "--slice", index, "--no-propagate")
    mask = np.zeros(SHAPE, bool)
    mask[BAR] = True
    there = np.zeros(SHAPE, bool)
    np.moveaxis(there, axis, 0)[index] = np.moveaxis(mask, axis, 0)[index]
    # In planes with pixels of 1 x 2 mm, edges may fall on either side of a pixel's border.
    found = read() > 0
    assert np.flatnonzero(found.any(axis=tuple(a for a in range(3) if a != axis))).tolist() == [index]
    assert 2 * (found & there).sum() / (found.sum() + there.sum()) > 0.85
    assert report()["pipeline"]["slices"]["plane"] == ("axial" if plane == "acquisition" else plane)
    assert report()["preset"]["overrides"] == {"options.slices": plane, "options.propagate": False}


def test_a_click_in_a_slice_and_a_minus_click(medseg: Medseg, scan: Path, preset: Path) -> None:
    run(medseg, scan, preset, "--point", "13,14", "--point", "11,14:-", "--slice", 8, "--no-propagate")
    assert report()["status"] == "empty", "the minus click takes away all that is as bright"
    run(medseg, scan, preset, "--point", "13,14,8", "--no-propagate")
    assert np.array_equal(read() > 0, expected(8))
    assert report()["prompts"][0]["clicks"][0]["typed"] == [13, 14, 8]


@pytest.mark.parametrize(
    ("words", "shown", "why"),
    [
        ([], (90, 200), "the preset's general choice: the scan states no modality"),
        (["--modality", "ct"], (-100, 300), "the preset's choice for CT"),
        (["--modality", "MR"], (90, 200), "the preset's general choice: it has none for MR"),
        (["--window", "150/100"], (100, 200), "chosen for this run"),
        (["--window", "-600/1500"], (-1350, 150), "chosen for this run"),
        (["--window", "Bone"], (-500, 1300), "chosen for this run"),
        (["--modality", "CT", "--window", "liver"], (-20, 140), "chosen for this run"),
    ],
)
def test_grey_values_are_chosen_by_modality_or_by_the_user(
    medseg: Medseg, scan: Path, preset: Path, words: list[str], shown: tuple[float, float], why: str
) -> None:
    err = run(medseg, scan, preset, "--box", BOX_3D, *words)
    display = report()["pipeline"]["display"]
    assert (display["low"], display["high"]) == pytest.approx(shown, abs=0.1)
    assert display["why"] == why
    changed = report()["preset"]["overrides"]
    assert ("preprocessing.intensity" in changed) == ("--window" in words)
    if display["method"] == "window":
        assert f"(window {sum(shown) / 2:g}/{shown[1] - shown[0]:g}, {why})" in err
    if "--modality" in words:
        assert report()["input"]["modality"] == words[1].upper()
        assert any("is what --modality says" in note for note in report()["notes"])


def test_a_window_decides_what_is_found(medseg: Medseg, scan: Path, preset: Path) -> None:
    run(medseg, scan, preset, "--box", BOX_3D, "--window", "400/100")
    assert report()["status"] == "empty", "200 is black between 350 and 450"


def test_embeddings_are_taken_from_the_cache(medseg: Medseg, scan: Path, preset: Path) -> None:
    words = ("--box", BOX_3D, "--embedding-cache", "cache")
    run(medseg, scan, preset, *words)
    first = read()
    err = run(medseg, scan, preset, *words)
    assert np.array_equal(read(), first)
    slices = report()["pipeline"]["slices"]
    assert (slices["encoded"], slices["from_cache"]) == (0, 5)
    assert "0 of 16 axial slices encoded, 5 from the cache" in err


def test_cleaning_is_chosen_for_the_run_and_reported(medseg: Medseg, scan: Path, preset: Path) -> None:
    box = ("--box", BOX_3D)
    run(medseg, scan, preset, *box)
    assert read()[20, 14, 6] == 1
    for words, changed in (
        (["--keep", "largest"], {"postprocessing.keep": "largest"}),
        (["--min-mm3", "3"], {"postprocessing.min_mm3": 3}),
    ):
        err = run(medseg, scan, preset, *box, *words)
        assert np.array_equal(read() > 0, expected(5, 6, 7, 8, 9))
        assert report()["preset"]["overrides"] == changed
        assert "removed 2 mm³" in err, "one voxel of 1 x 1 x 2 mm"
    hollow = voxels()
    hollow[13:15, 14:16, 7] = 100
    nib.save(nib.Nifti1Image(hollow, AFFINE), "hollow.nii.gz")
    err = run(medseg, "hollow.nii.gz", preset, *box, "--fill-holes", "--keep", "largest")
    assert np.array_equal(read() > 0, expected(5, 6, 7, 8, 9))
    assert "fill holes added 8 mm³" in err


def test_a_coarse_mask_is_a_prompt(medseg: Medseg, scan: Path, preset: Path) -> None:
    coarse = np.zeros(SHAPE, np.uint8)
    coarse[9:19, 11:19, 6:9] = 7
    nib.save(nib.Nifti1Image(coarse, AFFINE), "coarse.nii.gz")
    run(medseg, scan, preset, "--mask-prompt", "coarse.nii.gz", "--label", "bar")
    assert np.array_equal(read() > 0, expected(6, 7, 8))
    (prompt,) = report()["prompts"]
    assert prompt["region"] == {
        "path": "coarse.nii.gz",
        "sha256": hashlib.sha256(Path("coarse.nii.gz").read_bytes()).hexdigest(),
        "value": 7,
        "voxels": 10 * 8 * 3,
    }
    assert (prompt["id"], prompt["label"]) == ("1", "bar")
    coarse[9:13, 11:19, 6:9] = 3
    nib.save(nib.Nifti1Image(coarse, AFFINE), "two.nii.gz")
    run(medseg, scan, preset, "--mask-prompt", "two.nii.gz")
    assert [(each["id"], each["region"]["value"]) for each in report()["prompts"]] == [("3", 3), ("7", 7)]
    assert sorted(np.unique(read())) == [0, 1, 2]
    assert set(np.unique(read()[10:12, 12:18, 7])) == {1}


def test_a_mask_and_a_click_mean_the_same_object(medseg: Medseg, scan: Path, preset: Path) -> None:
    coarse = np.zeros(SHAPE, np.uint8)
    coarse[9:19, 11:19, 6:8] = 1
    nib.save(nib.Nifti1Image(coarse, AFFINE), "coarse.nii.gz")
    run(medseg, scan, preset, "--mask-prompt", "coarse.nii.gz", "--box", "8,10,10,21,20,11")
    assert [len(report()["prompts"]), len(report()["labels"])] == [1, 1]
    assert np.array_equal(read() > 0, expected(6, 7, 10, 11))


def test_a_table_of_boxes(medseg: Medseg, scan: Path, preset: Path) -> None:
    Path("p.csv").write_text("id,label,x,y,x1,y1\na,left,8,10,13,20\nb,right,14,10,19,20\n")
    run(medseg, scan, preset, "--prompts", "p.csv", "--slice", 8, "--no-propagate")
    assert [label["name"] for label in report()["labels"]] == ["left", "right"]
    assert np.unique(read()[10:14, 12:18, 8]).tolist() == [1]
    assert np.unique(read()[14:18, 12:18, 8]).tolist() == [2]


def test_the_same_from_python(medseg: Medseg, scan: Path, preset: Path) -> None:
    run(medseg, scan, preset, "--box", BOX_2D, "--slice", 8, "--window", "150/100", "--keep", "largest")
    from medseg_cli import Box, Prompt, Target, device, load_scan, pipelines
    from medseg_cli.overrides import Overrides, with_options
    from medseg_cli.preset import find
    from medseg_cli.stages import Stages

    chosen = with_options(find(preset), Overrides(window="150/100", keep="largest"))
    pipeline = pipelines.build(chosen, device.select("cpu"))
    prompt = Prompt((Target("1", "blob", boxes=(Box((8, 10, 8), (21, 20, 8)),)),))
    assert np.array_equal(pipeline.segment(load_scan(scan), prompt, Stages()).mask, read())
    assert read().any()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """40 x 30 pixels of noise below 100, two bright squares."""
    pixels = np.random.default_rng(0).integers(0, 100, (30, 40)).astype(np.uint8)
    pixels[5:15, 5:15] = 250
    pixels[20:25, 25:35] = 250
    path = tmp_path / "xray.png"
    Image.fromarray(pixels).save(path)
    return path


def squares() -> tuple[np.ndarray, np.ndarray]:
    first, second = np.zeros((30, 40), bool), np.zeros((30, 40), bool)
    first[5:15, 5:15], second[20:25, 25:35] = True, True
    return first, second


def pixels(name: str) -> np.ndarray:
    return np.asarray(Image.open(name))


def test_an_image_needs_no_prompt_and_gets_a_picture_mask(medseg: Medseg, picture: Path, preset: Path) -> None:
    err = run(medseg, picture, preset, to="lungs.png")
    first, second = squares()
    assert np.array_equal(pixels("lungs.png"), np.where(first | second, 255, 0))
    found = report("lungs.json")
    assert [prompt["whole_image"] for prompt in found["prompts"]] == [True]
    assert (found["output"]["mask_values"], found["output"]["mask_dtype"]) == ("0/255", "uint8")
    assert found["output"]["mask_sha256"] == hashlib.sha256(Path("lungs.png").read_bytes()).hexdigest()
    assert "1 image (grey 0 to 255, the preset's choice for image)" in err
    run(medseg, picture, preset, "--ml", to="lungs.png")
    assert np.array_equal(pixels("lungs.png"), first | second)
    assert report("lungs.json")["output"]["mask_values"] == "labels"


def test_two_boxes_on_an_image(medseg: Medseg, picture: Path, preset: Path) -> None:
    first, second = squares()
    run(medseg, picture, preset, "--box", "4,4,15,15", "--box", "24,19,36,26", to="m.png")
    assert np.array_equal(pixels("m.png"), np.where(first | second, 255, 0)), "two boxes, one object"
    Path("p.csv").write_text("id,x,y,x1,y1\na,4,4,15,15\nb,24,19,36,26\n")
    run(medseg, picture, preset, "--prompts", "p.csv", to="m.png")
    assert np.array_equal(pixels("m.png"), first + 2 * second)
    err = run(medseg, picture, preset, "--prompts", "p.csv", "--no-ml", to="m.png")
    assert np.array_equal(pixels("m.png"), np.where(first | second, 255, 0))
    assert "does not tell its 2 objects apart" in err


def test_what_is_cleaned_from_a_picture_is_told_in_pixels_or_mm2(
    medseg: Medseg, picture: Path, preset: Path, tmp_path: Path
) -> None:
    """The squares have 100 and 50 pixels; one pixel is 0.5 x 0.4 mm."""
    err = run(medseg, picture, preset, "--keep", "largest", to="m.png")
    (step,) = report()["pipeline"]["objects"][0]["cleaning"]
    assert step == {
        "step": "keep largest", "parts": 2, "removed_voxels": 50, "removed_mm3": None, "removed_mm2": None,
    }  # fmt: skip
    assert "blob: keep largest removed 50 pixels" in err
    sized = ("--spacing", "0.5,0.4,1")
    err = run(medseg, picture, preset, *sized, "--min-mm3", "10.5", to="m.png")
    assert np.array_equal(pixels("m.png") > 0, squares()[0]), "50 pixels are 10 mm²"
    (step,) = report()["pipeline"]["objects"][0]["cleaning"]
    assert (step["removed_voxels"], step["removed_mm3"], step["removed_mm2"]) == (50, None, 10.0)
    assert "min_mm3 10.5 removed 10 mm²" in err
    run(medseg, picture, preset, *sized, "--min-mm3", "9.5", to="m.png")
    assert (pixels("m.png") > 0).sum() == 150


def test_a_limit_in_mm3_needs_a_pixel_size(medseg: Medseg, picture: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path)
    code, _, err = medseg("segment", picture, "-o", "m.png", "-p", preset, "--min-mm3", "60")
    assert (code, err.count("error: ")) == (3, 1)
    assert "the pixel size is unknown" in err
    assert "--spacing" in err
    assert not list(tmp_path.glob("m.*"))
    run(medseg, picture, preset, "--min-mm3", "0", to="m.png")
    limited = preset.read_text() + "postprocessing: {min_mm3: 60}\n"
    preset.write_text(limited)
    err = run(medseg, picture, preset, to="m.png")
    assert (
        "note: the preset drops parts under 60 mm³, but the pixel size is unknown: each pixel counted as 1 mm³" in err
    )
    assert np.array_equal(pixels("m.png") > 0, squares()[0])
    assert any("drops parts under 60" in note for note in report()["notes"])
    assert "drops parts" not in run(medseg, picture, preset, "--min-mm3", "0", to="m.png")
    assert "drops parts" not in run(medseg, picture, preset, "--spacing", "1,1,1", to="m.png")


def test_the_summary_of_a_picture_is_in_plain_numbers(medseg: Medseg, preset: Path, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 30000, (30, 40)).astype(np.uint16)
    values[5:15, 5:15] = 65280
    Image.fromarray(values).save("deep.png")
    words = ("--embedding-cache", "cache", "--box", "4,4,15,15")
    err = run(medseg, "deep.png", preset, *words, to="m.png")
    assert re.search(r"1 image \(grey [0-9.]+ to 65280, the preset's choice for image\)", err), err
    assert "1 image from the cache (grey" in run(medseg, "deep.png", preset, *words, to="m.png")
    assert "(window -50000/100000, chosen" in run(medseg, "deep.png", preset, "--window", "-50000/100000", to="m.png")
    assert "(window 0.5/0.00025, chosen" in run(medseg, "deep.png", preset, "--window", "0.5/0.00025", to="m.png")


def test_a_picture_mask_is_a_prompt_for_a_picture(medseg: Medseg, picture: Path, preset: Path) -> None:
    coarse = np.zeros((30, 40), np.uint8)
    coarse[3:16, 3:16] = 255
    Image.fromarray(coarse).save("coarse.png")
    run(medseg, picture, preset, "--mask-prompt", "coarse.png", to="m.png")
    assert np.array_equal(pixels("m.png") > 0, squares()[0])
    assert report("m.json")["prompts"][0]["region"]["value"] == 255


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--box", "20,10,8,20", "--slice", "8"], 3, "x0 20, x1 8"),
        (["--box", "8,10,8,20", "--slice", "8"], 3, "is no box"),
        (["--box", "8,20,21,10", "--slice", "8"], 3, "is no box"),
        (["--box", "8,10,9,21,20,5"], 3, "is no box"),
        (["--box", "8,10,5,8,20,9"], 3, "no extent along i"),
        (["--box", "8,10,45,20", "--slice", "8"], 3, "lies outside"),
        (["--box", "8,10,5,21,20,9", "--coords", "ras"], 3, "lies outside"),
        (["--box", "8,10,21,20", "--slice", "8", "--coords", "lps"], 3, "counted in voxels"),
        (["--box", BOX_2D], 3, "a prompt has two coordinates"),
        (["--box", BOX_2D, "--slice", "16"], 3, "there is no slice 16"),
        (["--box", BOX_2D, "--slice", "-1"], 2, "--slice"),
        (["--box", BOX_3D, "--slice", "8"], 2, "--slice goes with prompts of two coordinates"),
        (["--slice", "8"], 2, "--slice says where x,y lie"),
        (["--box", "8,10,nan,20"], 2, "is not x0,y0,x1,y1"),
        (["--box", "8,10,21"], 2, "is not x0,y0,x1,y1"),
        (["--point", "13,14:-", "--slice", "8"], 2, "no prompt that says where it is"),
        (["--point", "13,14"], 3, "two coordinates"),
        ([], 2, "is a volume of 16 axial slices"),
        (["--box", BOX_3D, "--window", "mars"], 2, "--window 'mars'"),
        (["--box", BOX_3D, "--window", "40/0"], 2, "--window '40/0'"),
        (["--box", BOX_3D, "--window", "lung", "--modality", "MR"], 3, "window lung (-600/1500 HU) is for CT"),
        (["--box", BOX_3D, "--modality", "MRI"], 2, "--modality 'MRI'"),
        (["--box", BOX_3D, "--no-propagate", "--max-slices", "2"], 2, "--max-slices contradicts"),
        (["--box", BOX_3D, "--max-slices", "0"], 2, "--max-slices"),
        (["--box", BOX_3D, "--min-mm3", "-1"], 2, "--min-mm3"),
        (["--box", BOX_3D, "--slices", "oblique"], 2, "'oblique'"),
        (["--box", BOX_3D, "--embedding-cache", "bright-box.yaml"], 3, "cannot keep embeddings in bright-box.yaml"),
        (["--box", BOX_3D, "--no-ml"], 2, "only PNG masks"),
        (["--box", BOX_3D, "-o", "m.png"], 2, "png is one picture"),
        (["--box", BOX_3D, "--weights", "none.pth"], 4, "none.pth"),
        (["--mask-prompt", "none.nii.gz"], 3, "none.nii.gz"),
        (["--mask-prompt", "body.nii.gz"], 3, "body.nii.gz is no mask"),
        (["--mask-prompt", "empty.nii.gz"], 3, "mask empty.nii.gz is empty: all 19200 voxels are 0"),
        (["--mask-prompt", "small.nii.gz"], 3, "small.nii.gz has 20 x 30 x 16 voxels, body.nii.gz has 40 x 30 x 16"),
        (["--mask-prompt", "moved.nii.gz"], 3, "moved.nii.gz lies up to 5 mm away from body.nii.gz"),
        (["--mask-prompt", "two.nii.gz", "--box", BOX_3D], 2, "holds 2 objects, and --box"),
        (["--mask-prompt", "two.nii.gz", "--label", "bar"], 2, "holds 2 objects, and --label"),
        (["--mask-prompt", "two.nii.gz", "-o", "two.nii.gz", "--overwrite"], 3, "two.nii.gz is an input of this run"),
        (["--mask-prompt", "two.nii.gz", "--prompts", "p.csv"], 2, "--prompts does not go with --mask-prompt"),
    ],
)
def test_mistakes_leave_no_file(
    medseg: Medseg, scan: Path, preset: Path, words: list[str], code: int, text: str
) -> None:
    two = np.zeros(SHAPE, np.uint8)
    two[2:5], two[8:9] = 1, 2
    moved = AFFINE.copy()
    moved[0, 3] = 5
    for name, values, affine in (
        ("empty", np.zeros(SHAPE, np.uint8), AFFINE),
        ("small", two[:20], AFFINE),
        ("moved", two, moved),
        ("two", two, AFFINE),
    ):
        nib.save(nib.Nifti1Image(values, affine), f"{name}.nii.gz")
    before = sorted(Path().rglob("*"))
    output = [] if "-o" in words else ["-o", "m.nii.gz"]
    found, out, err = medseg("segment", scan.name, *output, "-p", preset, *words)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (found, out, len(errors)) == (code, "", 1), err
    assert text in errors[0] or text in err.splitlines()[-1]
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--mask-prompt", "other.png"], 3, "other.png has 41 x 30 pixels, xray.png has 40 x 30 pixels"),
        (["--mask-prompt", "xray.png"], 3, "xray.png is no mask"),
        (["--mask-prompt", "colour.png"], 3, "colour.png is a colour image"),
        (["--box", "4,4,40,15"], 3, "box 4,4,0 to 40,15,0"),
        (["--window", "lung"], 3, "a picture without Hounsfield units"),
        (["--slice", "0"], 2, "--slice says where x,y lie"),
        (["--coords", "lps"], 2, "--coords says what the numbers of a prompt mean"),
        (["--coords", "ras", "--mask-prompt", "coarse.png"], 2, "--coords says what the numbers of a prompt mean"),
        (["--label", "lung"], 2, "--label names what a prompt points at"),
        (["--slices", "coronal"], 2, "would be lines"),
    ],
)
def test_mistakes_on_pictures(
    medseg: Medseg, picture: Path, preset: Path, words: list[str], code: int, text: str
) -> None:
    Image.fromarray(np.eye(30, 41, dtype=np.uint8)).save("other.png")
    Image.fromarray(np.stack([np.eye(30, 40, dtype=np.uint8) * each for each in (1, 2, 3)], axis=2)).save("colour.png")
    found, _, err = medseg("segment", picture.name, "-o", "m.png", "-p", preset, *words)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert (found, len(errors)) == (code, 1), err
    assert text in errors[0]
    assert not list(Path().glob("m.*"))


def test_a_preset_says_which_prompts_it_takes(medseg: Medseg, scan: Path, tmp_path: Path) -> None:
    preset = write_preset(tmp_path, kinds="box", whole_image=False)
    for words, text in (
        (["--point", "1,1,1"], "preset bright-box takes no clicks"),
        (["--mask-prompt", "m.nii.gz"], "preset bright-box takes no masks"),
        ([], "preset bright-box needs a prompt"),
    ):
        code, _, err = medseg("segment", scan, "m.nii.gz", "-p", preset, *words)
        assert (code, text in err.splitlines()[0]) == (2, True), err
        assert "--box X0,Y0,X1,Y1" in err.splitlines()[1]
