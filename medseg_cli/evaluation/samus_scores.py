"""What SAMUS's own evaluation computes, under names of its own, and true distances in the same frame beside it.

**Frame.** 256 x 256 pixels, whatever the shape of the picture. Masks come into it by their nearest pixels, by centres.

**Smoothing.** 1e-5 above and below each fraction, so that an empty mask against an empty reference scores 1, and
against any other next to 0.

**`hd_rowwise`** is what the official code calls Hausdorff distance: each row of a mask is a point with as many
coordinates as it has pixels, and the distance of two points is how many of them differ. Two discs of one size, one
below the other, have 0. It is no distance between outlines and has no unit of length; it is here for comparison with
published tables. `hd` and `hd95` are distances between outlines, as `metrics` has them, in pixels of the frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg_cli.metrics import score

FRAME = 256
"""Edge of the square in which the official code scores."""
SMOOTHING = 1e-5


@dataclass(frozen=True)
class SamusScore:
    """One mask against its reference by the official formulas; the module's docstring has the conventions.

    Args:
        dice, iou, accuracy, sensitivity, specificity: with smoothing, between 0 and 1; published tables have 100 times
            that.
        hd_rowwise: the quantity that the official code calls HD.
        hd, hd95: between outlines, in pixels; None where a mask is empty.
    """

    dice: float
    iou: float
    accuracy: float
    sensitivity: float
    specificity: float
    hd_rowwise: float
    hd: float | None
    hd95: float | None


def samus_score(mask: NDArray[np.bool_], reference: NDArray[np.bool_]) -> SamusScore:
    """Score a mask (H, W), a row of the picture per row, against a reference of the same shape.

    Raises:
        ValueError: the shapes differ.
    """
    if mask.shape != reference.shape:
        raise ValueError(f"mask {mask.shape} and reference {reference.shape} lie on different grids")
    plain = score(mask[..., None], reference[..., None], (1.0, 1.0, 1.0))
    tp, fp, fn, tn = plain.tp, plain.fp, plain.fn, plain.tn
    return SamusScore(
        dice=_share(2 * tp, 2 * tp + fp + fn),
        iou=_share(tp, tp + fp + fn),
        accuracy=_share(tp + tn, mask.size),
        sensitivity=_share(tp, tp + fn),
        specificity=_share(tn, tn + fp),
        hd_rowwise=hd_rowwise(mask, reference),
        hd=plain.hd_mm,
        hd95=plain.hd95_mm,
    )


def hd_rowwise(mask: NDArray[np.bool_], reference: NDArray[np.bool_]) -> float:
    """Largest number of pixels in which a row of one mask (H, W) differs from the most similar row of the other."""
    mine, other = mask.astype(np.float32), reference.astype(np.float32)
    differing = mine.sum(1)[:, None] + other.sum(1)[None, :] - 2 * mine @ other.T
    return float(max(differing.min(1).max(), differing.min(0).max()))


def in_frame(mask: NDArray[np.bool_], size: int = FRAME) -> NDArray[np.bool_]:
    """A picture's mask (H, W) in a square of `size` pixels: of each the nearest, by its centre."""
    rows, columns = (np.floor((np.arange(size) + 0.5) * side / size).astype(np.int64) for side in mask.shape)
    return mask[rows[:, None], columns[None, :]]


def from_frame(x: float, y: float, shape: tuple[int, ...], size: int = FRAME) -> tuple[float, float]:
    """The place in a picture (H, W) = `shape`, as continuous pixel (x, y), of a pixel of the square."""
    high, wide = shape
    return (x + 0.5) * wide / size - 0.5, (y + 0.5) * high / size - 0.5


def _share(part: int, whole: int) -> float:
    return (part + SMOOTHING) / (whole + SMOOTHING)
