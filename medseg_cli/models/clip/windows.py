"""A map of windows: how much more each part of a picture is like a text than like what the text is not.

This method is ours, not of the papers. An encoder that reads its class token alone need not say where it looked, and
the gradients of a small one hardly do; what it makes of a part of the picture it was trained to say. It needs no
gradients and no layer, so any image tower will do; the price is one encoding per window and scale, see `encodings`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

STEPS = 3
"""Windows begin every third of their length, the first one a third before the picture: a network that says what is in
the middle of a window is asked of the picture's edge, too."""
SPREAD = 0.5
"""Of the bell curve by which a window counts for its middle, in half window lengths."""

Span = tuple[int, int]
"""First pixel and length."""
Place = tuple[Span, Span]
"""Rows and columns of a window, which may lie in part outside the picture."""


def spans(size: int, share: float) -> list[Span]:
    """Windows of `share` of a length of `size` pixels, which overlap, cover all of it and reach beyond both ends."""
    length = max(1, round(size * share))
    beyond = length // STEPS
    count = max(1, round((size + 2 * beyond - length) / length * STEPS) + 1)
    starts = torch.linspace(-beyond, size - length + beyond, count).round().int().tolist()
    return [(start, length) for start in dict.fromkeys(starts)]


def encodings(height: int, width: int, shares: Sequence[float]) -> int:
    """Pictures that are encoded for one map: what the method costs, however many texts there are."""
    return sum(len(spans(height, share)) * len(spans(width, share)) for share in shares)


@torch.no_grad()
def windows(
    encode: Callable[[list[Place]], Tensor],
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
        encode: B windows of the picture → their features (B, E).
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
        found = [encode(places[first : first + batch]) for first in range(0, len(places), batch)]
        likeness = scale * _margins(F.normalize(torch.cat(found).float(), dim=-1), texts, negatives)
        blended, weight = torch.zeros_like(total), texts.new_zeros((height, width))
        for number, ((row, high), (column, wide)) in enumerate(places):
            bell = _bell(row, high, height, texts)[:, None] * _bell(column, wide, width, texts)[None]
            rows, columns = (slice(max(at, 0), at + length) for at, length in ((row, high), (column, wide)))
            blended[:, rows, columns] += likeness[:, number, None, None] * bell
            weight[rows, columns] += bell
        total += blended / weight
    return total / len(shares)


def cut(picture: NDArray[np.uint8], place: Place) -> NDArray[np.uint8]:
    """A window of a picture (H, W, 3), black where it lies outside."""
    (row, high), (column, wide) = place
    seen = np.zeros((high, wide, 3), np.uint8)
    part = picture[max(row, 0) : row + high, max(column, 0) : column + wide]
    top, left = max(-row, 0), max(-column, 0)
    seen[top : top + part.shape[0], left : left + part.shape[1]] = part
    return seen


def _margins(images: Tensor, texts: Tensor, negatives: Sequence[Tensor]) -> Tensor:
    """(T, B) of unit features (B, E)."""
    rows = []
    for text, others in zip(texts, negatives, strict=True):
        like = images @ F.normalize(text.float(), dim=-1)
        rows.append(like - (images @ F.normalize(others.float(), dim=-1).T).amax(1) if len(others) else like)
    return torch.stack(rows)


def _bell(start: int, length: int, size: int, like: Tensor) -> Tensor:
    """Weights, above 0, of a window's pixels along one axis, of those within the picture's `size`."""
    places = (torch.arange(max(start, 0), min(start + length, size), device=like.device) - start + 0.5) / length * 2 - 1
    return torch.exp(-(places**2) / (2 * SPREAD**2))
