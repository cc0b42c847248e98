"""Windows whose mean is handed on block by block, against MONAI's windows over the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor

from medseg_cli.sliding import Windows, mean_blocks

CPU = torch.device("cpu")
CLASSES = 3


def network(windows: Tensor) -> Tensor:
    """What it says of a voxel depends on where in the window it lies, so that every window counts."""
    here = torch.arange(windows[0, 0].numel(), dtype=torch.float32).reshape(windows.shape[2:])
    return torch.cat([windows * (1 + here.sin()), windows + here.cos(), windows.square() - here / here.numel()], 1)


def whole(image: Tensor, edge: tuple[int, int, int], share: float) -> Tensor:
    """(C, I, J, K) by MONAI."""
    return sliding_window_inference(image[None], edge, 1, network, overlap=share, mode="gaussian")[0]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 19)] * 3),
    edge=st.tuples(*[st.integers(1, 9)] * 3),
    share=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    most=st.sampled_from([1, 300, 3000, 1 << 20]),
    seed=st.integers(0, 99),
    together=st.sampled_from([None, 2, 5]),
)
def test_blocks_make_up_monais_mean(shape, edge, share: float, most: int, seed: int, together: int | None) -> None:
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(seed))
    expected = whole(image, edge, share)

    def part(low, high) -> Tensor:
        assert all(0 <= a < b <= size for a, b, size in zip(low, high, shape, strict=True))
        return image[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]]

    places = [np.arange(-0.75, size, 0.25) for size in shape]
    owners = np.zeros([len(each) for each in places], int)
    for block in mean_blocks(network, part, Windows(shape, edge, share), CLASSES, CPU, most, together):
        size = block.mean.shape[1:]
        there = tuple(slice(first, first + count) for first, count in zip(block.low, size, strict=True))
        torch.testing.assert_close(block.mean, expected[(slice(None), *there)], rtol=1e-4, atol=1e-4)
        own = [(low <= at) & (at < high) for at, (low, high) in zip(places, block.owned, strict=True)]
        owners += own[0][:, None, None] & own[1][:, None] & own[2]
        for at, mine, first, count, of in zip(places, own, block.low, size, shape, strict=True):
            near = np.floor(at[mine]).clip(0, of - 1), np.ceil(at[mine]).clip(0, of - 1)
            assert all(first <= index < first + count for side in near for index in side.tolist())
    assert np.all(owners == 1)


@pytest.mark.parametrize("classes", [2, 40])
def test_what_is_held_grows_neither_with_length_nor_with_classes(classes: int) -> None:
    held = []
    for length in (40, 160):
        shape = (24, 24, length)
        blocks = mean_blocks(
            lambda windows: windows.repeat(1, classes, 1, 1, 1),
            lambda low, high: torch.ones(1, *(b - a for a, b in zip(low, high, strict=True))),
            Windows(shape, (8, 8, 8), 0.5),
            classes,
            CPU,
            1 << 14,
        )
        held.append(max(block.mean.untyped_storage().nbytes() for block in blocks))
    assert held[0] == held[1] <= 4 << 14


@pytest.mark.parametrize(("together", "most"), [(None, 1), (3, 3), (9, 6)])
def test_windows_of_a_row_are_predicted_together(together: int | None, most: int) -> None:
    sizes = []

    def counted(windows: Tensor) -> Tensor:
        sizes.append(len(windows))
        return windows

    image = torch.randn(1, 12, 8, 30)
    windows = Windows((12, 8, 30), (4, 4, 4), 0.0)
    for _ in mean_blocks(
        counted,
        lambda low, high: image[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]],
        windows,
        1,
        CPU,
        1 << 20,
        together,
    ):
        pass
    assert sum(sizes) == 3 * 2 * 8
    assert max(sizes) == most, "a row has six windows"
