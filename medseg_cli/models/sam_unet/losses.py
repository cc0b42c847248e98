"""The loss of SAM-UNet, focal + 20 * Dice: over each mask by itself, or over the whole batch as the official code."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

DICE_WEIGHT = 20.0
ALPHA = 0.25
"""Focal weight of pixels inside the object; the others get 1 - ALPHA. The exponent is 2."""
_EPSILON = 1e-12
_SMOOTH = 1.0

Form = Literal["per-mask", "official"]


def focal_dice(logits: Tensor, labels: Tensor, form: Form = "per-mask", inside: Tensor | None = None) -> Tensor:
    """Focal loss + 20 * Dice loss.

    Args:
        logits: (N, 1, S, S), all masks of all images of the batch.
        labels: (N, 1, S, S), 0 or 1.
        form: "per-mask" counts every mask alike, whatever its size, leaves pixels outside `inside` alone, and is exact
            for confident logits. "official" sums over the batch, in which small masks hardly weigh, and learns from the
            padding too.
        inside: (N, 1, S, S), 1 where there is image, 0 where there is padding; None = all of it. Not for "official".

    Returns:
        Scalar.
    """
    if form == "official":
        assert inside is None, "the official loss knows no padding"
        return official_focal(logits, labels) + DICE_WEIGHT * official_dice(logits, labels)
    weight = torch.ones_like(logits) if inside is None else inside.to(logits)
    pixels = weight.sum((1, 2, 3)).clamp(min=1)
    p = logits.sigmoid()
    focal = -ALPHA * labels * (1 - p) ** 2 * F.logsigmoid(logits)
    focal = focal - (1 - ALPHA) * (1 - labels) * p**2 * F.logsigmoid(-logits)
    both, total = (weight * p * labels).sum((1, 2, 3)), (weight * (p + labels)).sum((1, 2, 3))
    dice = 1 - (2 * both + _SMOOTH) / (total + _SMOOTH)
    return ((weight * focal).sum((1, 2, 3)) / pixels + DICE_WEIGHT * dice).mean()


def official_focal(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean focal loss of all pixels; no gradient where float32 rounds the probability to 0 or 1 (official code)."""
    p = logits.sigmoid()
    inner = ALPHA * labels * (1 - p) ** 2 * torch.log(p + _EPSILON)
    outer = (1 - ALPHA) * (1 - labels) * p**2 * torch.log(1 - p + _EPSILON)
    return -(inner + outer).mean()


def official_dice(logits: Tensor, labels: Tensor) -> Tensor:
    """One Dice loss of all masks of the batch taken together (official code)."""
    p = logits.sigmoid()
    return 1 - (2 * (p * labels).sum() + _SMOOTH) / (p.sum() + labels.sum() + _SMOOTH)
