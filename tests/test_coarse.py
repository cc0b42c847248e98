"""Coarse masks, boxes and clicks from saliency maps, and the dense CRF, against values worked out elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from medseg_cli.coarse import boxes, largest_parts, points, two_means
from medseg_cli.dense_crf import V1, V2, Kernels, dense_crf, unaries


@settings(max_examples=40, deadline=None)
@given(arrays(np.uint8, (9, 11), elements=st.integers(0, 255)))
def test_two_means_is_the_best_split(values: NDArray[np.uint8]) -> None:
    found = two_means(values / 255)

    def spread(mask: NDArray[np.bool_]) -> float:
        groups = (values[mask] / 255, values[~mask] / 255)
        return float(sum(((group - group.mean()) ** 2).sum() for group in groups if len(group)))

    every = [values > level for level in np.unique(values)[:-1]]
    assert spread(found) <= min(map(spread, every), default=0.0) + 1e-9
    assert not found.all()


def test_two_means_agrees_with_sklearn() -> None:
    from sklearn.cluster import KMeans

    rng = np.random.default_rng(4)
    values = np.concatenate([rng.normal(0.2, 0.08, 700), rng.normal(0.8, 0.05, 100)]).reshape(25, 32)
    means = KMeans(n_clusters=2, n_init=10, random_state=10).fit(values.reshape(-1, 1))
    bright = means.labels_.reshape(values.shape) == means.cluster_centers_[:, 0].argmax()

    assert np.array_equal(two_means(values), bright)


def test_a_constant_map_has_no_foreground() -> None:
    assert not two_means(np.full((4, 4), 0.5)).any()


def test_parts_by_size_and_of_equal_ones_the_first() -> None:
    mask = np.zeros((6, 12), bool)
    mask[1:3, 1:3] = True
    mask[3, 3] = True  # hangs on by a corner
    mask[0:2, 6:8] = True
    mask[4:6, 9:11] = True

    one, two = largest_parts(mask, 1), largest_parts(mask, 2)

    assert np.argwhere(one).tolist() == [[1, 1], [1, 2], [2, 1], [2, 2], [3, 3]]
    assert two.sum() == 9
    assert two[0, 6]
    assert not largest_parts(np.zeros((3, 3), bool), 2).any()


def test_boxes_are_the_published_ones() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:9, 6:13] = True

    assert boxes(mask) == ((6, 4, 13, 9),)
    mask[15:20, 25:30] = True
    assert boxes(mask) == ((6, 4, 29, 19),)
    assert boxes(mask, apart=True) == ((6, 4, 13, 9), (25, 15, 29, 19))
    assert boxes(mask, apart=True, margin=5)[0] == (1, 0, 18, 14)
    assert boxes(np.zeros((5, 5), bool)) == ()


def test_points_lie_in_the_mask_and_are_as_many_as_there_are() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:6, 6:9] = True

    found = points(mask, 4, seed=1)

    assert len(np.unique(found, axis=0)) == 4
    assert all(mask[y, x] for x, y in found)
    assert np.array_equal(found, points(mask, 4, seed=1))
    assert len(points(mask, 50, seed=1)) == 6
    assert points(np.zeros((5, 5), bool), 3, seed=0).shape == (0, 2)


def test_unary_energies_of_the_published_table() -> None:
    found = unaries(torch.tensor([0.5, 0.25, 1.0]))

    expected = torch.tensor([[1.06054, 0.40340, 35.0870], [1.06054, 2.34852, 0.0]])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def scene() -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """A bright disc on noise, and a blurred map that is a few pixels off."""
    rows, columns = np.mgrid[:40, :48]
    disc = (rows - 20) ** 2 + (columns - 24) ** 2 < 10**2
    rng = np.random.default_rng(0)
    picture = np.clip(60 + 120 * disc[..., None] + rng.normal(0, 3, (40, 48, 3)), 0, 255).astype(np.uint8)
    saliency = np.exp(-((rows - 22) ** 2 + (columns - 27) ** 2) / (2 * 8**2)).astype(np.float32)
    return picture, saliency


@pytest.mark.parametrize("kernels", [V2, Kernels(2, 3, 4, 20, 5)])
def test_the_mean_field_is_its_formula(kernels: Kernels, scene: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> None:
    picture, saliency = scene

    found = dense_crf(picture, saliency, kernels)

    expected = _every_pair(picture, saliency, kernels)
    # Kernels are cut at three sigma: a pixel on the very edge of a decision may fall to the other side.
    assert (found != expected).mean() < 0.002


def _every_pair(picture: NDArray[np.uint8], saliency: NDArray[np.float32], kernels: Kernels) -> NDArray[np.bool_]:
    """One step of the mean field over all pairs of pixels."""
    place = np.argwhere(np.ones(saliency.shape)).astype(np.float64)
    colour = picture.reshape(-1, 3).astype(np.float64)
    apart = ((place[:, None] - place[None]) ** 2).sum(-1)
    unlike = ((colour[:, None] - colour[None]) ** 2).sum(-1)
    energy = unaries(torch.from_numpy(saliency.astype(np.float64)).reshape(-1)).numpy()
    belief = np.exp(-energy) / np.exp(-energy).sum(0)
    total = -energy
    for kernel, weight in (
        (np.exp(-apart / (2 * kernels.near**2)), kernels.near_weight),
        (np.exp(-apart / (2 * kernels.far**2) - unlike / (2 * kernels.colour**2)), kernels.far_weight),
    ):
        norm = 1 / np.sqrt(kernel.sum(1))
        total = total + weight * norm * ((norm * belief) @ kernel)
    foreground: NDArray[np.bool_] = (total[1] > total[0]).reshape(saliency.shape)
    return foreground


def test_the_mask_is_drawn_to_the_edge(scene: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> None:
    picture, saliency = scene
    disc = picture[..., 0] > 120

    def dice(mask: NDArray[np.bool_]) -> float:
        return float(2 * (mask & disc).sum() / (mask.sum() + disc.sum()))

    assert dice(dense_crf(picture, saliency, Kernels(3, 3, 20, 15, 10), iterations=5)) > dice(saliency > 0.5) + 0.05
    assert np.array_equal(dense_crf(picture, saliency, V1, iterations=0), saliency > 0.5)
