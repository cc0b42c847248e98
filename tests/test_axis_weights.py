"""Weights along the axes: each of the ways to apply them is the product with the three matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg_cli import axis_weights

PLACES = {
    "coarser": lambda size: np.arange(-1.2, size + 1, 1.7),
    "coarser, reversed": lambda size: np.arange(size + 0.4, -1, -2.3),
    "finer": lambda size: np.arange(-0.5, size, 0.6),
    "the same": lambda size: np.arange(float(size)),
    "one": lambda size: np.array([size / 3]),
}


@pytest.mark.parametrize("plane", [1, 1 << 40], ids=["plane by plane", "axis by axis"])
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("first", PLACES)
@pytest.mark.parametrize("others", PLACES)
def test_weights_are_applied_as_matrices_are(
    monkeypatch: pytest.MonkeyPatch, plane: int, smooth: bool, first: str, others: str
) -> None:
    monkeypatch.setattr(axis_weights, "PLANE", plane)
    voxels = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 11, 9, 13), np.float32))
    weights = [
        axis_weights.interpolation(size, PLACES[name](size))
        for size, name in zip(voxels.shape[1:], (first, others, others), strict=True)
    ]
    if smooth:
        weights[2] = weights[2] @ axis_weights.smoothing(13, 1.4)
    expected = np.einsum("cijk,ai,bj,dk->cabd", voxels.numpy().astype(np.float64), *weights)
    before = voxels.clone()
    np.testing.assert_allclose(axis_weights.apply(voxels, weights).numpy(), expected, atol=3e-6)
    assert torch.equal(voxels, before)
