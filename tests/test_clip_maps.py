"""Saliency maps on a picture's own pixels: where they lie, and that nothing else decides them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.models.clip.checkpoint import random_network
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.maps import How, Method, maps, onto_picture, square, unit
from medseg_cli.models.clip.network import Tower, tower_of

CONFIG = ClipConfig(
    image_size=32, patch_size=8, width=24, depth=3, heads=2, vocabulary=20, context=8, positions=8,
    text_width=12, text_depth=1, text_heads=2, embed=10,
)  # fmt: skip
STATISTICS = (CONFIG.mean, CONFIG.std)


@pytest.fixture(scope="module")
def tower() -> Tower:
    model = random_network(CONFIG, 0).eval().requires_grad_(False)
    return tower_of(model)


@pytest.fixture
def texts() -> Tensor:
    return torch.randn(2, 10, generator=torch.Generator().manual_seed(1))


def wide(seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 255, (40, 60, 3), dtype=np.uint8)


def test_what_the_network_sees_of_a_wide_picture() -> None:
    picture = np.zeros((40, 60, 3), np.uint8)
    picture[:, :10] = 255  # left of the middle square

    assert square(picture, 32, "squash")[0, 16, 2] == pytest.approx(1, abs=1e-3)
    assert not square(picture, 32, "crop-aware").any()
    assert torch.equal(square(picture, 32, "official"), square(picture, 32, "crop-aware"))


def test_a_map_goes_back_where_its_picture_came_from() -> None:
    left = torch.zeros(4, 4)
    left[:, 0] = 1

    squashed, aware, official = (
        onto_picture(left, 40, 60, geometry) for geometry in ("squash", "crop-aware", "official")
    )

    assert (squashed[:, :5] == 1).all()
    assert (aware[:, :10] == 0).all()
    assert (aware[:, 10:14] == 1).all()
    assert (aware[:, 50:] == 0).all()
    assert torch.equal(official, squashed)  # displaced: the same map, of another part of the picture


def test_a_constant_map_is_nowhere() -> None:
    assert not unit(torch.full((3, 3), 2.0)).any()
    assert not unit(torch.tensor([[0.0, float("nan")]])).any()
    assert unit(torch.tensor([[1.0, 3.0, 2.0]])).tolist() == [[0, 1, 0.5]]


@pytest.mark.parametrize("method", ["m2ib", "gscorecam", "gscorecam-official", "gradcam"])
@pytest.mark.parametrize("crops", [1, 2])
def test_maps_lie_on_the_picture_and_follow_it_alone(method: Method, crops: int, tower: Tower, texts: Tensor) -> None:
    how = How(method, layer=1, steps=3, copies=2, top=4, crops=crops)

    found = maps(tower, wide(), texts, 10.0, how, *STATISTICS, seed=3)
    maps(tower, wide(1), texts, 10.0, how, *STATISTICS, seed=3)
    again = maps(tower, wide(), texts, 10.0, how, *STATISTICS, seed=3)

    assert found.shape == (2, 40, 60)
    assert found.isfinite().all()
    assert torch.equal(found, again)


def test_windows_cover_everything_and_see_things_larger(tower: Tower, texts: Tensor) -> None:
    how = How("m2ib", layer=1, steps=2, copies=2)
    once = maps(tower, wide(), texts, 10.0, how, *STATISTICS, seed=3)
    often = maps(tower, wide(), texts, 10.0, How(**{**vars(how), "crops": 3}), *STATISTICS, seed=3)

    assert (often > 0).all()
    assert (often - often.mean()).abs().sum() > 0
    # Information per patch: a window's patches are smaller, so its map holds more detail than the whole picture's.
    rough = (once[0, 1:] - once[0, :-1]).abs().mean() / once[0].std()
    fine = (often[0, 1:] - often[0, :-1]).abs().mean() / often[0].std()
    assert fine > rough
