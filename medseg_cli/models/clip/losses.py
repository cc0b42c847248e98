"""DHN-NCE, the loss of MedCLIP-SAM: hard negatives weigh more, and the positive stays out of the denominator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

TEMPERATURE = 0.6
HARDNESS = 0.15


def dhn_nce(
    images: Tensor,
    texts: Tensor,
    temperature: float = TEMPERATURE,
    hardness: tuple[float, float] = (HARDNESS, HARDNESS),
    *,
    same: Tensor | None = None,
    released_code: bool = False,
) -> Tensor:
    """The loss of a batch of pairs.

    Args:
        images, texts: (B, E) features, row i of one belongs to row i of the other; brought to unit length here.
        temperature: by which cosines are divided.
        hardness: of negatives for images looking for texts, and for texts looking for images.
        same, released_code: see `dhn_nce_of_scores`.

    Raises:
        ValueError: fewer than two pairs: there are no negatives then.
    """
    unit = torch.nn.functional.normalize
    scores = unit(images.float(), dim=-1) @ unit(texts.float(), dim=-1).T / temperature
    return dhn_nce_of_scores(scores, hardness, same=same, released_code=released_code)


def dhn_nce_of_scores(
    scores: Tensor,
    hardness: tuple[float, float] = (HARDNESS, HARDNESS),
    *,
    same: Tensor | None = None,
    released_code: bool = False,
) -> Tensor:
    """The loss of similarities that are divided by the temperature already.

    With s_ij the score of image i and text j, weights w_ij = (B - 1) exp(b s_ij) / sum over k != i of exp(b s_ik), and
    for each direction: mean over i of -s_ii + log(sum over j != i of w_ij exp(s_ij)); both directions are added
    (MedCLIP-SAM, arXiv 2403.20253, spec section 2.1).

    Args:
        scores: (B, B), rows are images.
        hardness: b of the two directions.
        same: (B, B) bool, symmetric: pairs that show the same thing in other words, which are no negatives of each
            other. A row without negatives has no part in the loss. Not of the paper, where no two captions are alike.
        released_code: what the published code computes instead (spec section 2.2). Its gradient pulls hard negatives
            together; it is here to reproduce published runs.
    """
    size = len(scores)
    if size < 2:
        raise ValueError(f"{size} pairs hold no negatives")
    if released_code:
        if same is not None:
            raise ValueError("the released code knows no pairs that are the same")
        return _released(scores, hardness[0]) + _released(scores.T, hardness[1])
    own = torch.eye(size, dtype=torch.bool, device=scores.device)
    own = own if same is None else own | same.to(scores.device)
    return _paper(scores, hardness[0], own) + _paper(scores.T, hardness[1], own.T)


def _paper(scores: Tensor, hardness: float, own: Tensor) -> Tensor:
    count = (~own).sum(dim=1)
    rows = count > 0
    if not rows.any():
        return scores.sum() * 0.0
    negatives, positives = scores[rows].masked_fill(own[rows], -torch.inf), scores.diagonal()[rows]
    weighted = torch.logsumexp((1 + hardness) * negatives, dim=1) - torch.logsumexp(hardness * negatives, dim=1)
    return (count[rows].to(scores.dtype).log() - positives + weighted).mean()


def _released(scores: Tensor, hardness: float) -> Tensor:
    size = len(scores)
    own = torch.eye(size, dtype=torch.bool, device=scores.device)
    # Masked cells enter as exp(0): each row's sum counts one too many.
    sums = scores.masked_fill(own, 0).exp().sum(dim=1)
    linear = (1 + hardness) * scores.masked_fill(own, 0).sum() - scores.diagonal().sum()
    return linear / size**2 + (math.log(size - 1) - sums.log()).mean()
