"""`Segmentation`: a label map that cannot exist off its scan's grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg_cli.scan import Scan

RANDOM_WEIGHTS = "RANDOM WEIGHTS: this mask means nothing"
"""Stamped on every output of a run without trained weights."""


@dataclass(frozen=True)
class Label:
    """One value of a label map.

    Args:
        value: integer > 0 in the mask.
        name: what it is, in plain words.
        color: (r, g, b), 0 to 255.
        snomed: SNOMED CT concept id, empty when none is known.
        shape: "ellipse" where the ellipse that fits it is to be measured, else empty.
        rim: by how much masks of it reach beyond what is to be measured, as a share of the picture's longer side.
        redraw: whether the ellipse that fits it becomes its mask, see `redraw`.
    """

    value: int
    name: str
    color: tuple[int, int, int] = (255, 64, 64)
    snomed: str = ""
    shape: str = ""
    rim: float = 0.0
    redraw: bool = False


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why labels are where they are.

    Args:
        maps: label value → (I, J, K) float32 on the scan's grid, 0 to 1 in each slice, 0 where nobody looked.
        pictures: label value → (H, W, 3) uint8, the map over the slice where it was most probable.
        scores: JSON-ready: what was asked, and the scores of every label and slice.
    """

    maps: dict[int, NDArray[np.float32]]
    pictures: dict[int, NDArray[np.uint8]]
    scores: dict[str, Any]


@dataclass(frozen=True, eq=False)
class Spread:
    """How far several answers to one question lie apart.

    Args:
        maps: label value → (I, J, K) float32 on the scan's grid: standard deviation of the probability over the
            answers (of the population: divided by their number), 0 to 0.5, 0 where nobody looked.
        pictures: label value → (H, W, 3) uint8, the map over the slice where the answers lie farthest apart.
        of: what the answers are, in words.
        answers: how many.
        scores: label value → JSON-ready numbers, see docs/uncertainty.md.
    """

    maps: dict[int, NDArray[np.float32]]
    pictures: dict[int, NDArray[np.uint8]]
    of: str
    answers: int
    scores: dict[int, dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A label map on the grid of `scan`.

    Args:
        mask: (I, J, K) uint8 or uint16, 0 = background, same shape as the scan.
        labels: one per value; every value in the mask must be named.
        scan: the scan it belongs to.
        provenance: what made it, JSON-serialisable: `preset` (name), `prompted` (whether a user pointed at something),
            `weights`, and what the pipeline tells about itself.
        notes: what the user should know about this result, one sentence each (empty mask, minus clicks...).
        explanation: where it was asked for and the pipeline has one.
        spread: likewise.
        tissue: (I, J) bool, the part of a picture, of all frames alike, that shows tissue, as far as the pipeline found
            it: an object that ends at its border may go on. None: it did not look, or found no border.
    """

    mask: NDArray[np.unsignedinteger[Any]]
    labels: tuple[Label, ...]
    scan: Scan
    provenance: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    explanation: Explanation | None = None
    spread: Spread | None = None
    tissue: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.mask.shape != self.scan.shape:
            raise ValueError(f"mask is {self.mask.shape}, its scan {self.scan.shape}")
        if self.mask.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"mask must be uint8 or uint16, got {self.mask.dtype}")
        unnamed = set(np.unique(self.mask).tolist()) - {0} - {label.value for label in self.labels}
        if unnamed:
            raise ValueError(f"mask values without a name: {sorted(unnamed)}")

    @property
    def is_random(self) -> bool:
        """Whether it came from random weights, which only an explicit flag allows."""
        return bool((self.provenance.get("weights") or {}).get("random"))
