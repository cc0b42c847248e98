"""A scan on its working lattice, part by part, against the whole at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from phantom import scan

from medseg_cli import intensity, working_scan
from medseg_cli.geometry import FULLY_IN_VIEW, resample, scan_grid, working_grid
from medseg_cli.intensity import normalise
from medseg_cli.preset_intensity import ClipZScore, Percentile, ZScore

CPU = torch.device("cpu")
HOW = [
    ZScore(method="zscore"),
    Percentile(method="percentile", low=2.0, high=97.0),
    ClipZScore(method="clip-zscore", low=-50.0, high=300.0, mean=80.0, std=40.0),
]


@pytest.mark.parametrize("how", HOW, ids=lambda how: how.method)
@pytest.mark.parametrize("sample", [10**6, 500])
@pytest.mark.parametrize("held", [0, 10**9])
def test_parts_are_parts_of_the_whole(how, sample: int, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(working_scan, "SLAB", 3000)
    monkeypatch.setattr(intensity, "SAMPLE", sample)
    taken = scan("LPS", angles=(0.1, -0.2, 0.3))
    lattice = working_grid(scan_grid(taken), "ASR", (1.9, 0.7, 1.3))
    image, weight = resample(torch.from_numpy(taken.voxels), scan_grid(taken), lattice)
    expected = normalise(image / weight.clamp(min=FULLY_IN_VIEW), weight > FULLY_IN_VIEW, how)
    seen = working_scan.working_scan(taken, lattice, how, CPU, held=held)
    rng = np.random.default_rng(0)
    for _ in range(10):
        low = tuple(int(rng.integers(size)) for size in lattice.shape)
        high = tuple(int(rng.integers(first, size)) + 1 for first, size in zip(low, lattice.shape, strict=True))
        part = seen.part(low, high)
        torch.testing.assert_close(
            part, expected[:, low[0] : high[0], low[1] : high[1], low[2] : high[2]], rtol=1e-4, atol=2e-4
        )
