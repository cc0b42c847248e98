"""The prompts that CC-SAM learns from: for each object in a view a place, a text, both or neither (our reconstruction).

Shares are ours; the paper's are unknown. One prompt of a view says nothing of the place, so that text alone and no
prompt at all are learnt as often as clicks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medseg_cli.models.samus.config import GRID, SIZE

Place = Literal["point", "box", "mask", "none"]

SHARES = {"point": 0.5, "box": 0.35, "mask": 0.15}
"""How often a place is told in which way, of those that the preset takes."""
TOLD = 0.5
"""How often a text goes with a prompt, where there is one."""
OUTSIDE = 0.25
"""How often a click outside goes with a click inside, where the preset takes both."""
DETECTED = 0.375
"""How often a box is the one that a detector found, where it found one: three to five of the object's own."""
MOVED = 0.05
"""Largest move of a box's sides, as a share of its width and height, as in SAMUS's unused `random_bbox`."""
BLUR, SHIFT = (1.0, 5.0), 4
"""Coarse masks: standard deviation of the blur before they are cut again, and largest move, both in their pixels."""
LOGIT = 8.0
"""Of a coarse mask's inside; the outside has the negative, as `Frame.region` gives them."""


@dataclass(frozen=True, eq=False)
class Told:
    """One prompt in the frame of 256 x 256 pixels.

    Args:
        place: how the place is told.
        points, labels: (P, 2) xy and (P,), P = 0 unless it is "point".
        box: (4,) x0 y0 x1 y1, of "box" and "mask".
        coarse: (1, 128, 128) logits, of "mask".
        text: (class key's label value, draw in 0..1), None = no text.
        mask: (128, 128) what is to come out, 0 or 1.
    """

    place: Place
    points: Tensor
    labels: Tensor
    box: Tensor
    coarse: Tensor
    text: tuple[int, float] | None
    mask: Tensor


def tell(
    mask: NDArray[np.bool_],
    value: int,
    place: Place,
    text: bool,
    minus: bool,
    rng: Generator,
    middle: bool = False,
    detected: NDArray[np.bool_] | None = None,
) -> Told:
    """A prompt for one object.

    Args:
        mask: (256, 256), not empty.
        value: its label value, 0 = all.
        place: how its place is told.
        text: whether a text goes with it.
        minus: whether a click outside may go with the one inside.
        rng: draws everything.
        middle: nothing is drawn: the middle one of its pixels row by row is clicked, its box is exact, description 0.
        detected: (256, 256) what a detector's box covers of the frame; it then stands for the object's own at times.
    """
    points, labels, box = np.zeros((0, 2)), np.zeros(0), np.zeros(4)
    if place == "point":
        points, labels = _clicks(mask, minus and not middle, None if middle else rng)
    elif place in ("box", "mask"):
        found = place == "box" and detected is not None and detected.any() and rng.random() < DETECTED
        box = _box(detected, None) if found and detected is not None else _box(mask, None if middle else rng)
    low = mask[:: SIZE // (4 * GRID), :: SIZE // (4 * GRID)]
    return Told(
        place,
        torch.from_numpy(points).float(),
        torch.from_numpy(labels).float(),
        torch.from_numpy(box).float(),
        torch.from_numpy(_coarse(low, rng) if place == "mask" else np.zeros((1, *low.shape), np.float32)),
        (value, 0.0 if middle else float(rng.random())) if text else None,
        torch.from_numpy(np.ascontiguousarray(low)).float(),
    )


def drawn_place(kinds: tuple[str, ...], rng: Generator) -> Place:
    """One of the ways in which a preset can be told a place, "none" if there is none."""
    known: list[Place] = [each for each in ("point", "box", "mask") if each in kinds]  # type: ignore[misc]
    if not known:
        return "none"
    shares = np.array([SHARES[each] for each in known])
    return known[int(rng.choice(len(known), p=shares / shares.sum()))]


def _clicks(
    mask: NDArray[np.bool_], minus: bool, rng: Generator | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """One click inside, and at times one outside."""
    inside = np.flatnonzero(mask)
    place = [inside[len(inside) // 2 if rng is None else int(rng.integers(len(inside)))]]
    outside = np.flatnonzero(~mask)
    if minus and rng is not None and len(outside) and rng.random() < OUTSIDE:
        place.append(outside[int(rng.integers(len(outside)))])
    rows, columns = np.divmod(np.array(place), mask.shape[1])
    return np.stack([columns, rows], 1).astype(np.float64), np.array([1.0, 0.0])[: len(place)]


def _box(mask: NDArray[np.bool_], rng: Generator | None) -> NDArray[np.float64]:
    """Half-open corners, moved at random within the frame."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], dtype=np.float64)
    if rng is None:
        return box
    size = np.tile(box[2:] - box[:2], 2)
    return np.clip(box + size * rng.uniform(-MOVED, MOVED, 4), 0, SIZE)


def _coarse(mask: NDArray[np.bool_], rng: Generator) -> NDArray[np.float32]:
    """A mask as another hand would have drawn it: wider or narrower, rounder, a little elsewhere; (1, 128, 128)."""
    soft = ndimage.gaussian_filter(mask.astype(np.float32), rng.uniform(*BLUR))
    drawn = soft > rng.uniform(0.2, 0.8) * soft.max()
    drawn = np.roll(drawn, tuple(int(each) for each in rng.integers(-SHIFT, SHIFT + 1, 2)), (0, 1))
    return np.where(drawn, LOGIT, -LOGIT).astype(np.float32)[None]
