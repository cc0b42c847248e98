"""Saliency maps on a picture's own pixels: where they lie, and that nothing else decides them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.models.clip.checkpoint import random_network
from medseg_cli.models.clip.config import ClipConfig
from medseg_cli.models.clip.maps import How, Method, maps, onto_picture, square, unit
from medseg_cli.models.clip.network import Tower, tower_of
from medseg_cli.models.clip.windows import Place, cut, encodings, spans, windows

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


@pytest.mark.parametrize("method", ["m2ib", "gscorecam", "gscorecam-official", "gradcam", "windows"])
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


@pytest.mark.parametrize(("size", "share"), [(100, 0.2), (37, 0.35), (5, 0.1), (64, 1.0)])
def test_windows_overlap_and_reach_both_ends(size: int, share: float) -> None:
    found = spans(size, share)

    beyond = found[0][1] // 3
    assert found[0][0] == -beyond
    assert sum(found[-1]) == size + beyond
    assert all(later <= start + length for (start, length), (later, _) in pairwise(found))


def test_what_lies_outside_the_picture_is_black() -> None:
    picture = np.full((4, 5, 3), 9, np.uint8)

    assert cut(picture, ((-1, 3), (3, 4)))[..., 0].tolist() == [[0, 0, 0, 0], [9, 9, 0, 0], [9, 9, 0, 0]]
    assert (cut(picture, ((0, 4), (0, 5))) == picture).all()


def colours(places: list[Place], picture: NDArray[np.uint8]) -> Tensor:
    """An encoder that sees how red, green and blue a window is on average: (H, W, 3) → (B, 3)."""
    return torch.stack([torch.from_numpy(cut(picture, place)).float().mean(dim=(0, 1)) for place in places])


def test_windows_find_what_the_text_means_and_not_what_it_does_not() -> None:
    picture = np.zeros((60, 90, 3), np.uint8)
    picture[..., 2] = 100
    picture[10:30, 50:80] = (100, 0, 0)
    red, blue = torch.eye(3)[0], torch.eye(3)[2]
    calls: list[int] = []

    def encode(places: list[Place]) -> Tensor:
        calls.append(len(places))
        return colours(places, picture)

    found = windows(encode, 60, 90, (0.1, 0.2), torch.stack([red, blue]), [blue[None], blue.new_zeros((0, 3))], 2.0, 50)

    wanted = torch.zeros(60, 90, dtype=torch.bool)
    wanted[10:30, 50:80] = True
    there = found[0] > 0
    assert 2 * (there & wanted).sum() / (there.sum() + wanted.sum()) > 0.85
    assert found[0][20, 65] == pytest.approx(2, abs=0.1)  # scale * (1 - 0) where all is red
    assert found[0][50, 10] == pytest.approx(-2, abs=0.1)
    assert found[1].min() >= 0  # nothing is held against the second text
    assert sum(calls) == encodings(60, 90, (0.1, 0.2))
    assert max(calls) <= 50
