"""Callipers, text and scales drawn into training pictures: what they change and what they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medseg_cli import preset
from medseg_cli.augment_overlay import random_overlay
from medseg_cli.datasets import Case
from medseg_cli.pipelines.slice_samples import SliceSamples


def disc(side: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (x - side // 2) ** 2 + (y - side // 2) ** 2 < (side // 4) ** 2


@pytest.mark.parametrize("channels", [1, 3])
def test_lines_cover_a_little_of_the_picture_and_nothing_else_changes(channels: int) -> None:
    mask = disc(96)
    picture = torch.full((channels, 96, 96), 0.3)
    shares = []
    for seed in range(60):
        drawn = random_overlay(picture, np.random.default_rng(seed), mask)
        assert drawn.shape == picture.shape
        assert drawn.dtype == picture.dtype
        assert float(drawn.min()) >= 0
        assert float(drawn.max()) <= 1
        shares.append(float((drawn != picture).any(0).float().mean()))
    assert torch.equal(picture, torch.full((channels, 96, 96), 0.3))
    assert torch.equal(mask, disc(96))
    assert max(shares) < 0.4
    assert 0.005 < np.median(shares) < 0.12
    # What lies beyond the edges is not drawn: a few pictures may come back as they were.
    assert np.mean(np.array(shares) > 0) > 0.9


def test_every_draw_comes_from_the_generator() -> None:
    picture = torch.rand(1, 64, 80, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    one = random_overlay(picture, np.random.default_rng(5))
    assert torch.equal(torch.random.get_rng_state(), before)
    np.random.seed(3)
    assert torch.equal(random_overlay(picture, np.random.default_rng(5)), one)
    assert not torch.equal(random_overlay(picture, np.random.default_rng(6)), one)


def test_lines_are_no_sign_of_the_object() -> None:
    """Where the object is given, lines meet it more often than elsewhere, but most pictures have lines elsewhere."""
    mask = torch.zeros(128, 128, dtype=torch.bool)
    mask[12:44, 80:112] = True
    other = mask.flip(0, 1)
    on, off = [], []
    for seed in range(200):
        drawn = random_overlay(torch.full((1, 128, 128), 0.3), np.random.default_rng(seed), mask)[0] != 0.3
        on.append(bool(drawn[mask].any()))
        off.append(bool(drawn[other].any()))
    assert np.mean(off) < np.mean(on) < 0.8
    assert np.mean(off) > 0.3


def test_an_empty_mask_is_measured_nowhere() -> None:
    picture = torch.full((1, 64, 64), 0.3)
    for seed in range(30):
        drawn = random_overlay(picture, np.random.default_rng(seed), torch.zeros(64, 64, dtype=torch.bool))
        assert torch.isfinite(drawn).all()


def test_ultrasound_is_drawn_over_and_nothing_else_is(tmp_path: Path) -> None:
    """Same draws up to the lines: masks of both are the same, and pictures of other modalities stay as they were."""
    mask = disc(96).numpy()
    Image.fromarray((60 + 60 * mask).astype(np.uint8)).save(tmp_path / "image.png")
    Image.fromarray((255 * mask).astype(np.uint8)).save(tmp_path / "mask.png")
    base = preset.find("samus-vit-b")
    prompts = base.prompts.model_copy(update={"whole_image": True})
    ultrasound = SliceSamples(base.model_copy(update={"prompts": prompts}), 96)
    other = SliceSamples(base.model_copy(update={"prompts": prompts, "modality": ("CR", "US")}), 96)
    study = ultrasound.load(Case("a", tmp_path / "image.png", tmp_path / "mask.png"))
    differ = []
    for seed in range(60):
        one, two = (each.sample(study, np.random.default_rng(seed)) for each in (ultrasound, other))
        assert torch.equal(one.masks[0], two.masks[0])
        differ.append(not torch.equal(one.image, two.image))
    assert 0.2 < np.mean(differ) < 0.6
