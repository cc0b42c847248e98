"""Intensities as presets name them: normalised for 3-D networks, as 8-bit pictures for 2-D ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.errors import InputError, ModelError
from medseg_cli.preset_format import ClipZScore, EightBit, Percentile, Window, ZScore
from medseg_cli.scan import Scan

TAILS = (0.005, 0.995)
"""Quantiles to which `zscore` clips first, so that a bright vessel or a metal artefact does not set the scale."""
SAMPLE = 1_000_000
"""Values that percentiles are taken from."""


def normalise(image: Tensor, valid: Tensor, how: ZScore | ClipZScore | Percentile | Window | EightBit) -> Tensor:
    """Normalised intensities, zero where there is no scan.

    Args:
        image: (C, I, J, K) float32 in the scan's units.
        valid: (1, I, J, K) bool, True where the scan has data; statistics come from these voxels alone.
        how: the preset's `preprocessing.intensity`. "zscore" clips to the 0.5 and 99.5 percentile first.

    Returns:
        (C, I, J, K) float32.

    Raises:
        ModelError: a method that makes pictures ("window", "eight-bit").
    """
    if isinstance(how, Window | EightBit):
        raise ModelError(f"intensity method {how.method} is for 2-D models", "use zscore, clip-zscore or percentile")
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
    """Two quantiles (2,) of values (N,); of `SAMPLE` drawn ones where there are more: torch stops at 16 million."""
    if values.numel() > SAMPLE:
        # Drawn, always alike: every n-th value would be the same slice over and over where n is a multiple of the axis.
        drawn = torch.randint(values.numel(), (SAMPLE,), generator=torch.Generator().manual_seed(0))
        values = values[drawn.to(values.device)]
    return torch.quantile(values.float(), torch.tensor([low, high], dtype=torch.float32, device=values.device))


@dataclass(frozen=True)
class Display:
    """How a scan's values become grey values: `low` is black, `high` is white, both in the scan's own units.

    Args:
        method: "window", "percentile", "eight-bit" (as stored).
        why: who chose it, in words.
    """

    low: float
    high: float
    method: str
    why: str

    def share_shown(self, scan: Scan) -> float:
        """Share of the scan's voxels that are neither black nor white; of every third row and column."""
        some = scan.voxels[:, ::3, ::3]
        return float(np.mean((some > self.low) & (some < self.high)))

    def picture(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Values (C, H, W), C = 1 or 3, → RGB picture (H, W, 3) in 0..255; NaN is black, infinities the ends."""
        finite = np.nan_to_num(values, nan=self.low, posinf=self.high, neginf=self.low)
        grey = (finite - self.low) * (255 / (self.high - self.low))
        shades = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(np.broadcast_to(shades, (3, *shades.shape[1:])).transpose(1, 2, 0))


def display(scan: Scan, how: ZScore | ClipZScore | Percentile | Window | EightBit, why: str) -> Display:
    """The grey values of a whole scan, the same for all its slices.

    Args:
        scan: any; all its finite voxels count for percentiles.
        how: "window", "percentile" or "eight-bit" of a preset.
        why: goes into the result.

    Raises:
        ModelError: a method that makes no pictures ("zscore", "clip-zscore").
        InputError: no finite voxel.
    """
    if isinstance(how, Window):
        if not np.isfinite(scan.voxels).any():
            raise _no_values(scan)
        return Display(how.level - how.width / 2, how.level + how.width / 2, "window", why)
    if not isinstance(how, Percentile | EightBit):
        raise ModelError(f"intensity method {how.method} makes no pictures", "use window, percentile or eight-bit")
    values = torch.from_numpy(np.ascontiguousarray(scan.voxels)).ravel()
    good = torch.isfinite(values)
    # A copy of a large scan takes as much memory as the scan.
    finite = values if bool(good.all()) else values[good]
    if not finite.numel():
        raise _no_values(scan)
    if isinstance(how, EightBit) and float(finite.min()) >= 0 and 1 < float(finite.max()) <= 255:
        return Display(0.0, 255.0, "eight-bit", why)
    low, high = (float(value) for value in _quantiles(finite, how.low / 100, how.high / 100))
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    return Display(low, high if high > low else low + 1, "percentile", why)


def _no_values(scan: Scan) -> InputError:
    return InputError(f"{scan.provenance.path} has no finite voxel", "the file is damaged: export it again")
