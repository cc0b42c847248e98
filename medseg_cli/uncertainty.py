"""How unsure a mask is: the entropy of its probabilities, held against the length of its border.

The score of MedCLIP-SAMv2's weakly supervised stage (spec section 7), finite where a probability is 0 or 1 and where a
mask has no border inside the picture. A blurred border costs some entropy in every mask, in proportion to its length;
what lies above that is doubt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(probability: Tensor) -> Tensor:
    """Bits of doubt of each pixel, 0 at 0 and 1, 1 at a half; of the same shape."""
    return (torch.special.entr(probability) + torch.special.entr(1 - probability)) / math.log(2)


def border(mask: Tensor) -> Tensor:
    """Pixels (H, W) bool just outside a mask (H, W) bool, diagonal neighbours among them."""
    wider = mask.clone()
    wider[1:] |= mask[:-1]
    wider[:-1] |= mask[1:]
    upright = wider.clone()
    wider[:, 1:] |= upright[:, :-1]
    wider[:, :-1] |= upright[:, 1:]
    return wider & ~mask


def doubt(probability: Tensor, mask: Tensor) -> float | None:
    """A hundred times the entropy of a picture divided by the border of its mask, of one pixel at least.

    Args:
        probability: (H, W), 0 to 1.
        mask: (H, W) bool.

    Returns:
        100 = as if each border pixel were undecided; None for an empty mask.
    """
    if not bool(mask.any()):
        return None
    return 100 * float(entropy(probability).sum(dtype=torch.float64)) / max(1, int(border(mask).sum()))
