"""Intensity normalisation of what a network sees, as presets name it."""

from __future__ import annotations

import torch
from torch import Tensor

from medseg_cli.preset_format import ClipZScore, Percentile, ZScore

TAILS = (0.005, 0.995)
"""Quantiles to which `zscore` clips first, so that a bright vessel or a metal artefact does not set the scale."""


def normalise(image: Tensor, valid: Tensor, how: ZScore | ClipZScore | Percentile) -> Tensor:
    """Normalised intensities, zero where there is no scan.

    Args:
        image: (C, I, J, K) float32 in the scan's units.
        valid: (1, I, J, K) bool, True where the scan has data; statistics come from these voxels alone.
        how: the preset's `preprocessing.intensity`. "zscore" clips to the 0.5 and 99.5 percentile first.

    Returns:
        (C, I, J, K) float32.
    """
    inside = image[valid.expand_as(image)]
    if inside.numel() == 0:
        return torch.zeros_like(image)
    if isinstance(how, ClipZScore):
        scaled = (image.clamp(how.low, how.high) - how.mean) / how.std
    elif isinstance(how, Percentile):
        low, high = _quantiles(inside, how.low / 100, how.high / 100)
        scaled = ((image - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    else:
        low, high = _quantiles(inside, *TAILS)
        clipped = inside.clamp(low, high)
        scaled = (image.clamp(low, high) - clipped.mean()) / clipped.std(correction=0).clamp(min=1e-6)
    return scaled * valid


def _quantiles(values: Tensor, low: float, high: float) -> Tensor:
    """Two quantiles; of at most a million evenly drawn values, because torch's quantile stops at 16 million."""
    step = max(1, values.numel() // 1_000_000)
    return torch.quantile(values[::step].float(), torch.tensor([low, high], dtype=torch.float32))
