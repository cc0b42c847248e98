"""2-D networks on pictures, volumes of one slice, and values that are no grey values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bright_box
import numpy as np
import pytest
from PIL import Image
from slice_phantom import BRIGHT, DARK, box_round, boxed, build, clicked, dice, facts, painted, scan_of, segment, small

from medseg_cli import device, pipelines
from medseg_cli.errors import InputError, UsageError
from medseg_cli.overrides import Overrides, with_options
from medseg_cli.prompt import Box, Prompt
from medseg_cli.readers import load_scan
from medseg_cli.scan import Scan
from medseg_cli.stages import Stages

pytestmark = pytest.mark.usefixtures("fifth_pipeline")


def save_picture(path: Path, pixels: np.ndarray) -> Scan:
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return load_scan(path)


def disc(height: int = 60, width: int = 90) -> np.ndarray:
    rows, columns = np.indices((height, width))
    return (rows - 20) ** 2 + (columns - width + 35) ** 2 <= 15**2


def test_an_image_needs_no_prompt_where_the_preset_says_so(tmp_path: Path) -> None:
    scan = save_picture(tmp_path / "disc.png", np.where(disc(), 180, 40))
    result = segment(build(tmp_path, size=90, whole_image=True), scan)
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    assert facts(result) == (1, 1, 0)
    assert result.provenance["slices"]["plane"] == "image"
    assert result.provenance["objects"][0]["propagation"] == []
    assert (result.provenance["display"]["low"], result.provenance["display"]["high"]) == (0, 255)
    with pytest.raises(UsageError, match="needs a prompt"):
        segment(build(tmp_path, size=90), scan)


def test_without_a_prompt_a_volume_is_refused(tmp_path: Path) -> None:
    scan, _ = small()
    with pytest.raises(UsageError, match="needs a prompt") as error:
        segment(build(tmp_path, whole_image=True), scan)
    assert "--box" in error.value.hint


@pytest.mark.parametrize("size", [30, 90, 128])
def test_boxes_and_clicks_on_images_are_in_pixels(tmp_path: Path, size: int) -> None:
    scan = save_picture(tmp_path / "disc.png", np.where(disc(), 180, 40))
    by_box = segment(build(tmp_path, size=size), scan, boxed(Box((35.0, 2.0, 0.0), (75.0, 40.0, 0.0))))
    by_click = segment(build(tmp_path, size=size), scan, clicked((55.0, 20.0, 0.0)))
    assert dice(by_box.mask[..., 0].T == 1, disc()) > (0.99 if size >= 90 else 0.97)
    # A click means what is alike, and resampled edges are not.
    assert dice(by_click.mask[..., 0].T == 1, disc()) > (0.97 if size >= 90 else 0.85)
    for result in (by_box, by_click):
        assert np.abs(np.argwhere(result.mask[..., 0].T).mean(0) - (20, 55)).max() < 0.5


def test_colour_images(tmp_path: Path) -> None:
    pixels = np.where(disc()[..., None], (250, 120, 110), (30, 60, 20))
    scan = save_picture(tmp_path / "disc.png", pixels)
    assert scan.voxels.shape[0] == 3
    result = segment(build(tmp_path, size=90, whole_image=True), scan)
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    two = replace(scan, voxels=scan.voxels[:2])
    with pytest.raises(InputError, match="2 channels"):
        segment(build(tmp_path, size=90, whole_image=True), two)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_volumes_of_one_slice_are_images(tmp_path: Path, flat: int) -> None:
    truth = np.moveaxis(disc(50, 60)[..., None], 2, flat)
    scan = scan_of(painted(truth), spacing=(1.0, 1.0, 1.0))
    result = segment(build(tmp_path, size=60, whole_image=True), scan)
    assert np.array_equal(result.mask == 1, truth)
    assert facts(result) == (1, 1, 0)


def test_sixteen_bit_images_are_stretched(tmp_path: Path) -> None:
    Image.fromarray(np.where(disc(), 40000, 1000).astype(np.uint16)).save(tmp_path / "deep.png")
    result = segment(build(tmp_path, size=90, whole_image=True), load_scan(tmp_path / "deep.png"))
    assert np.array_equal(result.mask[..., 0].T == 1, disc())
    assert result.provenance["display"]["method"] == "percentile"


def test_nan_and_infinite_voxels_are_black_and_white_and_harm_nothing(tmp_path: Path) -> None:
    scan, truth = small()
    voxels = scan.voxels.copy()
    voxels[0, 18:22, 16:20, 14] = np.nan
    voxels[0, :4, :4] = np.nan
    voxels[0, 22, 18, 14] = np.inf
    result = segment(build(tmp_path), replace(scan, voxels=voxels), boxed(box_round(truth, 2, 12)))
    expected = truth.copy()
    expected[18:22, 16:20, 14] = False
    assert np.array_equal(result.mask == 1, expected)
    shown = result.provenance["display"]
    assert (shown["low"], shown["high"]) == (pytest.approx(DARK, abs=0.1), BRIGHT)


def test_nothing_but_nan_is_refused(tmp_path: Path) -> None:
    scan, truth = small()
    with pytest.raises(InputError, match="no finite voxel"):
        segment(build(tmp_path), replace(scan, voxels=scan.voxels * np.nan), boxed(box_round(truth, 2, 14)))


def test_a_scan_of_another_modality_is_said(tmp_path: Path) -> None:
    scan, truth = small()
    result = segment(build(tmp_path), replace(scan, modality="PT"), boxed(box_round(truth, 2, 14)))
    assert any("the scan is PT" in note for note in result.notes)


def test_a_window_in_other_units_is_questioned(tmp_path: Path) -> None:
    scan, truth = small()
    for level, questioned in ((9000, True), (125, False)):
        chosen = with_options(bright_box.preset(tmp_path, size=40), Overrides(window=f"{level}/200"))
        pipeline = pipelines.build(chosen, device.select("cpu"))
        result = pipeline.segment(scan, Prompt((boxed(box_round(truth, 2, 14)),)), Stages())
        assert any("in the scan's units?" in note for note in result.notes) is questioned
