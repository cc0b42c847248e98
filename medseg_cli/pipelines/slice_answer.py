"""What a 2-D network says about an object in a slice, and how sure it is of its masks in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Answer:
    """What the network says about one object in one slice; no larger than the object, for there may be thousands.

    Args:
        shape: (H, W) of the picture.
        place: rows and columns that hold the object, both empty where nothing was found.
        certainty: probability in `place`, uint8, 255 = certain; `INSIDE` and above is the object.
        score: the network's own estimate of the mask's quality, or None.
        doubt: see `uncertainty.doubt`; None where nothing was found.
    """

    INSIDE: ClassVar[int] = 128

    shape: tuple[int, int]
    place: tuple[slice, slice]
    certainty: NDArray[np.uint8]
    score: float | None
    doubt: float | None = None

    @classmethod
    def of(cls, probability: NDArray[np.uint8], score: float | None, doubt: float | None = None) -> Answer:
        """The answer that a picture of probabilities (H, W) gives; a copy."""
        mask = probability >= cls.INSIDE
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        place = (slice(0, 0), slice(0, 0))
        if len(rows):
            place = (slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1))
        high, wide = probability.shape
        return cls((high, wide), place, probability[place].copy(), score, doubt)

    @property
    def probability(self) -> NDArray[np.uint8]:
        """(H, W), 0 beyond the object's box."""
        whole = np.zeros(self.shape, np.uint8)
        whole[self.place] = self.certainty
        return whole

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(H, W) bool."""
        inside: NDArray[np.bool_] = self.probability >= self.INSIDE
        return inside

    @property
    def empty(self) -> bool:
        """Whether nothing was found."""
        return not self.certainty.size


def own_scores(found: dict[int, Answer]) -> dict[str, Any] | None:
    """What the network thinks of its masks of one object: mean and least score, and the slice of that; None without."""
    scores = {index: each.score for index, each in found.items() if each.score is not None and not each.empty}
    return _summary(scores, "least") if scores else None


def doubts(found: dict[int, Answer]) -> dict[str, Any] | None:
    """How unsure the masks of one object are: mean and most, and the slice of that; None without a mask."""
    scores = {index: each.doubt for index, each in found.items() if each.doubt is not None}
    return _summary(scores, "most") if scores else None


def _summary(scores: dict[int, float], extreme: Literal["least", "most"]) -> dict[str, Any]:
    chosen = (min if extreme == "least" else max)(scores, key=lambda index: scores[index])
    mean = sum(scores.values()) / len(scores)
    return {"mean": round(mean, 4), extreme: round(scores[chosen], 4), "slice": chosen}
