"""Intensities as presets name them: normalised for 3-D networks, as 8-bit pictures for 2-D ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg_cli.errors import InputError, ModelError
from medseg_cli.preset import Preset
from medseg_cli.preset_intensity import ClipZScore, EightBit, Percentile, Window, ZScore
from medseg_cli.scan import Scan

TAILS = (0.005, 0.995)
"""Quantiles to which `zscore` clips first, so that a bright vessel or a metal artefact does not set the scale."""
SAMPLE = 1_000_000
"""Values that percentiles are taken from."""
PART = 1 << 22
"""Values that are looked through at a time."""
LEAST_SPREAD = 1e-6
"""By which intensities that hardly differ are divided."""


@dataclass(frozen=True)
class Scale:
    """How intensities become a network's input: (clipped value - mean) / std.

    Args:
        low, high: where values are clipped first.
        mean, std: in the scan's units.
        unit: clip to 0..1 at the end instead of to low and high first.
    """

    low: float
    high: float
    mean: float
    std: float
    unit: bool = False

    def apply(self, image: Tensor, valid: Tensor) -> Tensor:
        """Image (C, I, J, K) float32 in the scan's units → normalised; zero where `valid` (1, I, J, K) is False."""
        if self.unit:
            return ((image - self.mean) / self.std).clamp_(0, 1).mul_(valid)
        return image.clamp(self.low, self.high).sub_(self.mean).div_(self.std).mul_(valid)


def scale_of(
    parts: Callable[[], Iterable[Tensor]], count: int, how: ZScore | ClipZScore | Percentile | Window | EightBit
) -> Scale:
    """The scale of a scan that comes in parts; whole or in parts, it differs by rounding at most.

    Args:
        parts: gives the scan's valid values (N,) float32, part by part, the same at every call.
        count: how many values all parts have.
        how: the preset's `preprocessing.intensity`. "zscore" clips to the 0.5 and 99.5 percentile first.

    Raises:
        ModelError: a method that makes pictures ("window", "eight-bit").
    """
    if isinstance(how, Window | EightBit):
        raise ModelError(f"intensity method {how.method} is for 2-D models", "use zscore, clip-zscore or percentile")
    if isinstance(how, ClipZScore):
        return Scale(how.low, how.high, how.mean, how.std)
    if not count:
        return Scale(0.0, 0.0, 0.0, 1.0)
    tails = (how.low / 100, how.high / 100) if isinstance(how, Percentile) else TAILS
    low, high = _quantiles(parts(), count, *tails)
    if isinstance(how, Percentile):
        return Scale(low, high, low, max(high - low, LEAST_SPREAD), unit=True)
    return Scale(low, high, *_moments(part.clamp(low, high) for part in parts()))


def normalise(image: Tensor, valid: Tensor, how: ZScore | ClipZScore | Percentile | Window | EightBit) -> Tensor:
    """Normalised intensities, zero where there is no scan.

    Args:
        image: (C, I, J, K) float32 in the scan's units.
        valid: (1, I, J, K) bool, True where the scan has data; statistics come from these voxels alone.
        how: as for `scale_of`.

    Returns:
        (C, I, J, K) float32.

    Raises:
        ModelError: as `scale_of`.
    """
    inside = image[valid.expand_as(image)]
    return scale_of(lambda: (inside,), inside.numel(), how).apply(image, valid)


def _moments(parts: Iterable[Tensor]) -> tuple[float, float]:
    """Mean and standard deviation (not below `LEAST_SPREAD`) of values that come in parts."""
    count, mean, squares = 0, 0.0, 0.0
    for part in parts:
        if not part.numel():
            continue
        variance, middle = (float(value) for value in torch.var_mean(part, correction=0))
        apart, both = middle - mean, count + part.numel()
        squares += variance * part.numel() + apart**2 * count * part.numel() / both
        mean += apart * part.numel() / both
        count = both
    return mean, max((squares / count) ** 0.5, LEAST_SPREAD)


def _quantiles(parts: Iterable[Tensor], count: int, low: float, high: float) -> tuple[float, float]:
    """Two quantiles of `count` values in parts; of `SAMPLE` of them where there are more: torch stops at 16 million."""
    if count > SAMPLE:
        # Drawn, always alike: every n-th value would be the same slice over and over where n is a multiple of the axis.
        drawn = torch.randint(count, (SAMPLE,), generator=torch.Generator().manual_seed(0)).sort().values
        parts = _drawn(parts, drawn)
    values = torch.cat([part.float() for part in parts])
    found = torch.quantile(values, torch.tensor([low, high], dtype=torch.float32, device=values.device))
    return float(found[0]), float(found[1])


def _drawn(parts: Iterable[Tensor], places: Tensor) -> Iterator[Tensor]:
    """Of values in parts, those at rising `places` of the whole."""
    begun = 0
    for part in parts:
        first, last = torch.searchsorted(places, torch.tensor([begun, begun + len(part)])).tolist()
        yield part[(places[first:last] - begun).to(part.device)]
        begun += len(part)


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


def display_of(scan: Scan, preset: Preset) -> Display:
    """The grey values of a scan as its preset chooses them for the scan's modality; errors as of `display`."""
    preprocessing = preset.preprocessing
    if {"preprocessing.intensity", "preprocessing.by_modality"} & preset.changes.keys():
        return display(scan, preprocessing.intensity, "chosen for this run")
    key = "image" if scan.provenance.format == "image" else scan.modality
    if key in preprocessing.by_modality:
        return display(scan, preprocessing.by_modality[key], f"the preset's choice for {key}")
    scans = "picture files" if key == "image" else key
    known = f"it has none for {scans}" if scans else "the scan states no modality"
    return display(scan, preprocessing.intensity, f"the preset's general choice: {known}")


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
        if not any(np.isfinite(plane).any() for plane in scan.voxels.reshape(-1, *scan.shape[1:])):
            raise _no_values(scan)
        return Display(how.level - how.width / 2, how.level + how.width / 2, "window", why)
    if not isinstance(how, Percentile | EightBit):
        raise ModelError(f"intensity method {how.method} makes no pictures", "use window, percentile or eight-bit")
    values = torch.from_numpy(np.ascontiguousarray(scan.voxels)).ravel()
    # A copy of a large scan takes as much memory as the scan, and so does asking all of it at once.
    good = all(bool(torch.isfinite(part).all()) for part in values.split(PART))
    finite = values if good else values[torch.isfinite(values)]
    if not finite.numel():
        raise _no_values(scan)
    if isinstance(how, EightBit) and float(finite.min()) >= 0 and 1 < float(finite.max()) <= 255:
        return Display(0.0, 255.0, "eight-bit", why)
    low, high = _quantiles((finite,), finite.numel(), how.low / 100, how.high / 100)
    if high <= low:
        low, high = float(finite.min()), float(finite.max())
    return Display(low, high if high > low else low + 1, "percentile", why)


def _no_values(scan: Scan) -> InputError:
    return InputError(f"{scan.provenance.path} has no finite voxel", "the file is damaged: export it again")
