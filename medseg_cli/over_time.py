"""One object through the frames of a cine: which masks do not fit their neighbours, and borders smoothed over time.

A mask is compared with those of the frames before and behind it; what fits neither is a jump. A change that stays is
none: the object may leave the picture. Smoothing fits a straight line over time to the signed distance of each pixel
from the border, with weights that fall off with distance in time, and reads it at the frame: a border that moves
evenly stays where it is, whatever the speed, and a gap is bridged by the shape between its two sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from scipy import ndimage

from medseg_cli.propagation import Rules
from medseg_cli.quality import STEADY

NEIGHBOURS = 5
"""Frames on each side that a mask is compared with."""
FEWEST = 3
"""Fewer frames on a side say nothing."""

Masks = Sequence[NDArray[np.bool_] | None]
"""One object, frame by frame, (H, W); None where nobody looked or the frame was left out."""


class Time(BaseModel):
    """What the frames of a cine have to do with each other.

    Attributes:
        window: frames that a mask is smoothed over, its own in the middle; 0 or 1 leaves every frame as it was found.
        seconds: frames farther away than half of this are not smoothed with, where the file says when frames were
            taken; None takes all of the window.
        jump: by how much the Dice of a mask with the frames on either side may lie below what is usual in the cine.
        propagation: rules by which a prompt in one frame is followed, instead of those for volumes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    window: int = Field(default=5, ge=0, le=51)
    seconds: float | None = Field(default=0.3, gt=0)
    jump: float = Field(default=0.15, gt=0, lt=1)
    propagation: Rules = Rules(min_overlap=0.5, max_drift=0.4, patience=8)

    @field_validator("window")
    @classmethod
    def _has_a_middle(cls, value: int) -> int:
        if value and value % 2 == 0:
            raise ValueError(f"{value} frames have no middle: give an odd number, or 0 for none")
        return value


@dataclass(frozen=True)
class Judged:
    """Which frames fit together.

    Args:
        usual: Dice of neighbouring frames, median; None where there are fewer than two.
        jumps: frames whose mask fits neither the frames before nor those behind.
        lasting: frames from which on the mask is another one.
        gaps: frames without an answer between frames that have one.
    """

    usual: float | None
    jumps: tuple[int, ...]
    lasting: tuple[int, ...]
    gaps: tuple[int, ...]

    @property
    def steady(self) -> bool:
        """Whether the masks of most frames fit those beside them."""
        return self.usual is not None and self.usual >= STEADY


def judge(masks: Masks, jump: float) -> Judged:
    """Which frames of an object fit together; see `Time.jump`."""
    there = [index for index, mask in enumerate(masks) if mask is not None]
    gaps = tuple(sorted(set(range(there[0], there[-1] + 1)) - set(there))) if there else ()
    if len(there) < 2:
        return Judged(None, (), (), gaps)
    known = [mask for mask in masks if mask is not None]
    usual = float(np.median([dice(*pair) for pair in pairwise(known)]))
    fits = _fits(known)
    typical = float(np.median(fits))
    jumps = tuple(there[n] for n in np.flatnonzero(fits < typical - jump))
    trusted = [index for index in there if index not in jumps]
    lasting = tuple(
        index
        for before, index in pairwise(trusted)
        if dice(_known(masks, before), _known(masks, index)) < usual - 2 * jump
    )
    return Judged(usual, jumps, lasting, gaps)


def smoothed(
    masks: Masks,
    judged: Judged,
    how: Time,
    seconds: Sequence[float] | None,
    pixel_mm: tuple[float, float],
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Frames whose mask changes, and there the distance from the new border in mm (H, W), above 0 inside.

    Jumps and gaps are filled from frames on both sides of them; one that has none on a side stays as it is.

    Args:
        masks: of one object.
        judged: of the same masks.
        how: the window.
        seconds: (T,) of the frames, or None where they are evenly spaced as far as is known.
        pixel_mm: (height, width) of a pixel.
    """
    half = how.window // 2
    # Where masks do not even fit their neighbours, an average of them is nobody's.
    if not half or not judged.steady:
        return
    times = np.arange(len(masks), dtype=float) if seconds is None else np.array(seconds)
    reach = np.inf if seconds is None or how.seconds is None else how.seconds / 2 + 1e-9
    distances: dict[int, NDArray[np.float32]] = {}
    for index in range(len(masks)):
        own = masks[index] is not None and index not in judged.jumps
        used = _used(masks, judged, index, half)
        used = [each for each in used if abs(times[each] - times[index]) <= reach]
        # A frame without neighbours is as it was found; one that is filled needs some on both sides.
        if len(used) < 2 or not (own or used[0] < index < used[-1]):
            continue
        for each in [each for each in distances if each < index - half]:
            del distances[each]
        for each in used:
            if each not in distances:
                distances[each] = signed_distance(_known(masks, each), pixel_mm)
        step = (times[used[-1]] - times[used[0]]) / (used[-1] - used[0])
        weights = line_weights((times[used] - times[index]) / step if step > 0 else np.array(used) - index, half)
        border = sum(weight * distances[each] for weight, each in zip(weights, used, strict=True))
        yield index, np.asarray(border, np.float32)


def line_weights(offsets: NDArray[np.float64], half: int) -> NDArray[np.float64]:
    """Weights (N,), of sum 1, that give values at `offsets` frames the value at 0 of the line fitted to them.

    Frames count by a Gaussian whose standard deviation is three quarters of `half`.
    """
    bell = np.exp(-((offsets / (0.75 * half)) ** 2) / 2)
    total, first, second = bell.sum(), (bell * offsets).sum(), (bell * offsets**2).sum()
    weights: NDArray[np.float64] = bell * (second - first * offsets) / (total * second - first**2)
    return weights


def signed_distance(mask: NDArray[np.bool_], pixel_mm: tuple[float, float]) -> NDArray[np.float32]:
    """Distance (H, W) from the border of a mask that is not empty, in mm: above 0 inside, 0 halfway between pixels.

    The border lies at the mask's own pixels: where it goes on beyond the picture there is none.
    """
    if mask.all():
        return np.full(mask.shape, float(np.hypot(*np.multiply(mask.shape, pixel_mm))), np.float32)
    inside = ndimage.distance_transform_edt(mask, sampling=pixel_mm)
    outside = ndimage.distance_transform_edt(~mask, sampling=pixel_mm)
    half = sum(pixel_mm) / 4
    return np.where(mask, inside - half, half - outside).astype(np.float32)


def dice(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Overlap of two masks; 1 of two empty ones."""
    both, total = int((first & second).sum()), int(first.sum()) + int(second.sum())
    return 2 * both / total if total else 1.0


def _fits(masks: Sequence[NDArray[np.bool_]]) -> NDArray[np.float64]:
    """How each mask fits the frames before it or those behind, whichever it fits better: median Dice."""
    near = {
        (first, second): dice(masks[first], masks[second])
        for second in range(len(masks))
        for first in range(max(0, second - NEIGHBOURS), second)
    }
    fits = np.ones(len(masks))
    for index in range(len(masks)):
        before = [near[other, index] for other in range(max(0, index - NEIGHBOURS), index)]
        behind = [near[index, other] for other in range(index + 1, min(len(masks), index + NEIGHBOURS + 1))]
        medians = [float(np.median(side)) for side in (before, behind) if len(side) >= FEWEST]
        fits[index] = max(medians, default=1.0)
    return fits


def _used(masks: Masks, judged: Judged, index: int, half: int) -> list[int]:
    """Frames that a frame is smoothed with: near, trusted, not empty, of the same stretch between lasting changes."""
    first = max((each for each in judged.lasting if each <= index), default=0)
    end = min((each for each in judged.lasting if each > index), default=len(masks))
    own = masks[index]
    if own is not None and index not in judged.jumps and not own.any():
        return []
    near = range(max(first, index - half), min(end, index + half + 1))
    return [each for each in near if each not in judged.jumps and (found := masks[each]) is not None and found.any()]


def _known(masks: Masks, index: int) -> NDArray[np.bool_]:
    mask = masks[index]
    assert mask is not None, f"frame {index} has no mask"
    return mask
