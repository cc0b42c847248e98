"""From windows to labels on the scan's grid: the same as all scores, all interpolated, then compared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from phantom import ORIENTATIONS, affine
from scipy import ndimage
from torch import Tensor

from medseg_cli.geometry import Grid, working_grid
from medseg_cli.label_blocks import label_map
from medseg_cli.sliding import Windows, mean_blocks

CPU = torch.device("cpu")
MARGIN = 1e-4
"""Where two classes are closer than this share of the largest score, either is right."""


def scores_of(image: Tensor, classes: int) -> Tensor:
    """(1, 1, ...) → (1, C, ...): of every voxel by itself, so that windows change nothing."""
    return torch.cat([torch.sin(image * (1 + number) + number) for number in range(classes)], 1)


def naive(scores: np.ndarray, source: Grid, target: Grid) -> np.ndarray:
    """All scores (C, *target.shape) float64 by SciPy; a voxel beyond the source counts as at its edge."""
    index = np.stack(np.meshgrid(*map(np.arange, target.shape), indexing="ij"), -1).reshape(-1, 3).astype(float)
    places = source.index_of(index, target).T.reshape(3, *target.shape)
    return np.stack([ndimage.map_coordinates(each.astype(float), places, order=1, mode="nearest") for each in scores])


@settings(max_examples=40, deadline=None)
@given(
    codes=st.sampled_from(ORIENTATIONS),
    to=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(*[st.integers(1, 23)] * 3),
    voxel=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    spacing=st.tuples(*[st.floats(0.4, 3.0)] * 3),
    edge=st.tuples(*[st.integers(2, 9)] * 3),
    most=st.sampled_from([1, 500, 1 << 20]),
    angle=st.floats(-0.4, 0.4),
    seed=st.integers(0, 99),
)
def test_streamed_labels_are_those_of_the_naive_way(codes, to, shape, voxel, spacing, edge, most, angle, seed) -> None:
    target = Grid(affine(codes, voxel, (3.0, -7.0, 11.0), (angle, -angle, angle / 2)), shape)
    source = working_grid(target, to, spacing)
    image = 3 * torch.randn(1, *source.shape, generator=torch.Generator().manual_seed(seed))
    classes, values = 4, np.array([0, 3, 7, 9], np.uint8)
    wide = naive(scores_of(image[None], classes)[0].numpy(), source, target)
    blocks = mean_blocks(
        lambda windows: scores_of(windows, classes),
        lambda low, high: image[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]],
        Windows(source.shape, edge, 0.5),
        classes,
        CPU,
        most,
    )
    mask = label_map(blocks, source, target, values)
    assert mask.dtype == np.uint8
    chosen = np.take_along_axis(wide, np.searchsorted(values, mask)[None].astype(int), 0)[0]
    assert (wide.max(0) - chosen).max() <= MARGIN * np.abs(wide).max()


def test_beyond_the_source_there_is_no_label() -> None:
    source, values = Grid(np.eye(4), (4, 5, 6)), np.array([8, 9], np.uint16)
    target = source.window(np.array([-3, 0, -2]), (9, 5, 10))
    blocks = mean_blocks(
        lambda windows: torch.cat([windows, windows + 1], 1),
        lambda low, high: torch.zeros(1, *(b - a for a, b in zip(low, high, strict=True))),
        Windows(source.shape, (4, 4, 4), 0.5),
        2,
        CPU,
        1 << 20,
    )
    mask = label_map(blocks, source, target, values)
    expected = np.zeros(target.shape, np.uint16)
    expected[3:7, :, 2:8] = 9
    assert np.array_equal(mask, expected)


def test_grids_at_an_angle_are_refused() -> None:
    turned = Grid(affine("RAS", (1.0, 1.0, 1.0), angles=(0.2, 0.0, 0.0)), (4, 4, 4))
    with pytest.raises(ValueError, match="not parallel"):
        label_map([], Grid(np.eye(4), (4, 4, 4)), turned, np.array([0, 1], np.uint8))
