"""A map of windows: how much more each part of a picture is like a text than like what the text is not.

This method is ours, not of the papers. An encoder that reads its class token alone need not say where it looked, and
the gradients of a small one hardly do; what it makes of a part of the picture it was trained to say. It needs no
gradients and no layer, so any image tower will do; the price is one encoding per window and scale, see `encodings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 3
"""Windows begin every third of their length."""
SPREAD = 0.5
"""Of the bell curve by which a window counts for its middle, in half window lengths."""

Span = tuple[int, int]
"""First pixel and length."""


def spans(size: int, share: float) -> list[Span]:
    """Windows of `share` of a length of `size` pixels, which overlap and cover all of it."""
    length = max(1, round(size * share))
    count = max(1, round((size / length - 1) * STEPS) + 1)
    starts = torch.linspace(0, size - length, count).round().int().tolist()
    return [(start, length) for start in dict.fromkeys(starts)]


def encodings(height: int, width: int, shares: Sequence[float]) -> int:
    """Pictures that are encoded for one map: what the method costs, however many texts there are."""
    return sum(len(spans(height, share)) * len(spans(width, share)) for share in shares)


@torch.no_grad()
def windows(
    encode: Callable[[list[tuple[slice, slice]]], Tensor],
    height: int,
    width: int,
    shares: Sequence[float],
    texts: Tensor,
    negatives: Sequence[Tensor],
    scale: float,
    batch: int = 64,
) -> Tensor:
    """Maps of several texts, not normalised.

    Args:
        encode: (rows, columns) of B parts of the picture → their features (B, E).
        height, width: of the picture.
        shares: sides of the windows, as shares of the picture's; maps of several are averaged.
        texts: (T, E) features.
        negatives: per text (N, E) features of what it is not; N may be 0.
        scale: what cosines are multiplied by.
        batch: windows that are encoded at a time.

    Returns:
        (T, H, W): scaled cosine with the text, minus the best one of its negatives. Above 0 a place is more like the
        text than like anything else that was named; without negatives the zero means nothing.
    """
    total = texts.new_zeros((len(texts), height, width))
    for share in shares:
        places = [(row, column) for row in spans(height, share) for column in spans(width, share)]
        parts = [(slice(y, y + h), slice(x, x + w)) for (y, h), (x, w) in places]
        found = [encode(parts[first : first + batch]) for first in range(0, len(parts), batch)]
        likeness = scale * _margins(F.normalize(torch.cat(found).float(), dim=-1), texts, negatives)
        blended, weight = torch.zeros_like(total), texts.new_zeros((height, width))
        for number, (rows, columns) in enumerate(parts):
            bell = _bell(rows.stop - rows.start, texts)[:, None] * _bell(columns.stop - columns.start, texts)[None]
            blended[:, rows, columns] += likeness[:, number, None, None] * bell
            weight[rows, columns] += bell
        total += blended / weight
    return total / len(shares)


def _margins(images: Tensor, texts: Tensor, negatives: Sequence[Tensor]) -> Tensor:
    """(T, B) of unit features (B, E)."""
    rows = []
    for text, others in zip(texts, negatives, strict=True):
        like = images @ F.normalize(text.float(), dim=-1)
        rows.append(like - (images @ F.normalize(others.float(), dim=-1).T).amax(1) if len(others) else like)
    return torch.stack(rows)


def _bell(length: int, like: Tensor) -> Tensor:
    """(length,) weights of a window's pixels along one axis, above 0."""
    places = (torch.arange(length, device=like.device) + 0.5) / length * 2 - 1
    return torch.exp(-(places**2) / (2 * SPREAD**2))
