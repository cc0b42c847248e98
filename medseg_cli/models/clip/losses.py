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
    released_code: bool = False,
) -> Tensor:
    """The loss of a batch of pairs.

    Args:
        images, texts: (B, E) features, row i of one belongs to row i of the other; brought to unit length here.
        temperature: by which cosines are divided.
        hardness: of negatives for images looking for texts, and for texts looking for images.
        released_code: see `dhn_nce_of_scores`.

    Raises:
        ValueError: fewer than two pairs: there are no negatives then.
    """
    unit = torch.nn.functional.normalize
    scores = unit(images.float(), dim=-1) @ unit(texts.float(), dim=-1).T / temperature
    return dhn_nce_of_scores(scores, hardness, released_code=released_code)


def dhn_nce_of_scores(
    scores: Tensor, hardness: tuple[float, float] = (HARDNESS, HARDNESS), *, released_code: bool = False
) -> Tensor:
    """The loss of similarities that are divided by the temperature already.

    With s_ij the score of image i and text j, weights w_ij = (B - 1) exp(b s_ij) / sum over k != i of exp(b s_ik), and
    for each direction: mean over i of -s_ii + log(sum over j != i of w_ij exp(s_ij)); both directions are added
    (MedCLIP-SAM, arXiv 2403.20253, spec section 2.1).

    Args:
        scores: (B, B), rows are images.
        hardness: b of the two directions.
        released_code: what the published code computes instead (spec section 2.2). Its gradient pulls hard negatives
            together; it is here to reproduce published runs.
    """
    size = len(scores)
    if size < 2:
        raise ValueError(f"{size} pairs hold no negatives")
    one = _released if released_code else _paper
    return one(scores, hardness[0]) + one(scores.T, hardness[1])


def _paper(scores: Tensor, hardness: float) -> Tensor:
    negatives = scores.masked_fill(torch.eye(len(scores), dtype=torch.bool, device=scores.device), -torch.inf)
    weighted = torch.logsumexp((1 + hardness) * negatives, dim=1) - torch.logsumexp(hardness * negatives, dim=1)
    return (-scores.diagonal() + math.log(len(scores) - 1) + weighted).mean()


def _released(scores: Tensor, hardness: float) -> Tensor:
    size = len(scores)
    own = torch.eye(size, dtype=torch.bool, device=scores.device)
    # Masked cells enter as exp(0): each row's sum counts one too many.
    sums = scores.masked_fill(own, 0).exp().sum(dim=1)
    linear = (1 + hardness) * scores.masked_fill(own, 0).sum() - scores.diagonal().sum()
    return linear / size**2 + (math.log(size - 1) - sums.log()).mean()
