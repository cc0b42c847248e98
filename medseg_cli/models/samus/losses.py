"""The loss of SAMUS: 0.8 Dice + 0.2 cross entropy on low-resolution logits (official code)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

DICE, ENTROPY = 0.8, 0.2
INSIDE = 2.0
"""Weight of pixels inside the object in the cross entropy; it leans towards masks that are too large."""
_SMOOTH = 1e-5


def dice_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Dice with squares in the denominator, taken over the whole batch at once, and weighted cross entropy.

    Args:
        logits: (B, 1, 128, 128).
        labels: (B, 1, 128, 128), 0 or 1.

    Returns:
        Scalar.
    """
    return DICE * dice(logits, labels) + ENTROPY * entropy(logits, labels)


def dice(logits: Tensor, labels: Tensor) -> Tensor:
    """1 - (2 Σ p t + ε) / (Σ p² + Σ t² + ε), shapes as in `dice_entropy`."""
    p = logits.sigmoid()
    return 1 - (2 * (p * labels).sum() + _SMOOTH) / ((p * p).sum() + (labels * labels).sum() + _SMOOTH)


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy, pixels inside counted twice; shapes as in `dice_entropy`."""
    return F.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor(INSIDE, device=logits.device))
