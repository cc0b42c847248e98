"""A prompt in one slice followed through the neighbouring ones: each mask prompts the next slice, until a rule ends it.

The slice in which a rule breaks is not part of the object. All rules compare with the slice before, or with the slice
of the user's own prompt. In space an object ends there; over time it comes back (`Rules.patience`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field


class Rules(BaseModel):
    """When to stop, and how the next slice is prompted.

    Attributes:
        min_area_mm2: a smaller mask counts as nothing (of pixels of 1 mm where the pixel size is unknown).
        min_overlap: Dice of a mask with the one of the slice before, below which the object was lost.
        max_growth: area divided by that of the slice before, above which the mask has leaked.
        max_total_growth: area divided by that of the prompted slice, above which it has leaked slowly.
        max_drift: mean brightness inside, compared with the prompted slice, as share of the display range.
        min_score: the network's own estimate of its mask's quality, where it gives one.
        margin: how much wider than the mask the next slice's box is on each side, as share of the mask's extent.
        max_slices: slices per direction; None is to the end of the scan.
        patience: slices in a row that may break a rule. They are left out, and the object is looked for again behind
            them, from where it was last; 0 ends it at the first.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    min_area_mm2: float = Field(default=4.0, ge=0)
    min_overlap: float = Field(default=0.4, ge=0, le=1)
    max_growth: float = Field(default=2.0, gt=1)
    max_total_growth: float = Field(default=4.0, gt=1)
    max_drift: float = Field(default=0.2, gt=0, le=1)
    min_score: float = Field(default=0.5, ge=0, le=1)
    margin: float = Field(default=0.05, ge=0, le=1)
    max_slices: int | None = Field(default=None, ge=1)
    patience: int = Field(default=0, ge=0)


@dataclass(frozen=True, eq=False)
class Found:
    """What a network found in one slice.

    Args:
        mask: (H, W).
        area_mm2: of the mask.
        brightness: mean grey value inside, 0..1 of the display range; 0 for an empty mask.
        score: the network's own, or None.
    """

    mask: NDArray[np.bool_]
    area_mm2: float
    brightness: float
    score: float | None


@dataclass(eq=False)
class Front:
    """One direction in which one object is followed.

    Args:
        target, seed: the object, and the slice of the user's prompt.
        at: slice that was looked at last.
        step: -1 or 1.
        last: slice with the object that was looked at last.
        start, before: the object in `seed` and in `last`.
        because: why it ended; "" while it goes on.
        missed: slices behind `last` in which a rule broke, and the rule that broke first.
        skipped: slices before `last` in which one broke.
    """

    target: int
    seed: int
    at: int
    step: int
    last: int
    start: Found
    before: Found
    because: str = ""
    missed: list[tuple[int, str]] = field(default_factory=list)
    skipped: list[int] = field(default_factory=list)

    def took(self, found: Found) -> None:
        """The object is in the slice that comes next."""
        self.at += self.step
        self.last, self.before = self.at, found
        self.skipped += [index for index, _ in self.missed]
        self.missed = []

    def turned_down(self, reason: str, patience: int) -> None:
        """The slice that comes next broke a rule."""
        self.at += self.step
        self.missed.append((self.at, reason))
        if len(self.missed) > patience:
            self.because = self.missed[0][1]

    def way(self, rules: Rules) -> dict[str, Any]:
        """For the report; "skipped" stands in it where slices may be left out."""
        told: dict[str, Any] = {"from": self.seed, "to": self.last, "because": self.because}
        return told | {"skipped": sorted(self.skipped)} if rules.patience else told


def describe(mask: NDArray[np.bool_], picture: NDArray[np.uint8], pixel_mm2: float, score: float | None) -> Found:
    """`Found` for a mask (H, W) on its picture (H, W, 3)."""
    brightness = float(picture[mask].mean()) / 255 if mask.any() else 0.0
    return Found(mask, float(mask.sum()) * pixel_mm2, brightness, score)


def stop_reason(found: Found, before: Found, start: Found, rules: Rules) -> str | None:
    """Why propagation ends before this slice; None when the slice belongs to the object.

    Args:
        found: in this slice.
        before: in the slice before.
        start: in the slice that the user prompted.
    """
    if not found.mask.any():
        return "nothing found"
    if found.area_mm2 < rules.min_area_mm2:
        return f"area {found.area_mm2:.3g} mm2 is below {rules.min_area_mm2:g}"
    if found.score is not None and found.score < rules.min_score:
        return f"the network's own score {found.score:.2f} is below {rules.min_score:g}"
    both = int((found.mask & before.mask).sum())
    overlap = 2 * both / (int(found.mask.sum()) + int(before.mask.sum()))
    if overlap < rules.min_overlap:
        return f"overlap with the slice before {overlap:.2f} is below {rules.min_overlap:g}"
    if found.area_mm2 > rules.max_growth * before.area_mm2:
        return f"area grew {found.area_mm2 / before.area_mm2:.2f} times, above {rules.max_growth:g}"
    if found.area_mm2 > rules.max_total_growth * start.area_mm2:
        times = found.area_mm2 / start.area_mm2
        return f"area is {times:.2f} times that of the prompted slice, above {rules.max_total_growth:g}"
    drift = abs(found.brightness - start.brightness)
    if drift > rules.max_drift:
        return f"brightness changed by {drift:.2f} of the display range, above {rules.max_drift:g}"
    return None


def next_box(mask: NDArray[np.bool_], margin: float) -> NDArray[np.float64]:
    """The box that prompts the next slice: (4,) first and last pixel x0, y0, x1, y1, inside the picture.

    Args:
        mask: (H, W), not empty.
        margin: share of the mask's extent added on each side, at least one pixel unless it is 0.
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    low = np.array([columns[0], rows[0]], dtype=np.float64)
    high = np.array([columns[-1], rows[-1]], dtype=np.float64)
    wider = np.maximum(np.ceil((high - low + 1) * margin), 1 if margin else 0)
    last = np.array([mask.shape[1] - 1, mask.shape[0] - 1])
    return np.concatenate([np.maximum(low - wider, 0), np.minimum(high + wider, last)])
