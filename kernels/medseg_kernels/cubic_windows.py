"""Cubic windows of a rolled token grid (H, W, D): the order of their tokens, there and back, and the shift's mask.

Windows know nothing of each other, so a network gathers its tokens window by window once (`to_windows`), does there
everything that is per token or per window, and puts them back (`from_windows`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

MASKED = -100.0
"""Added to the logits of token pairs that the cyclic shift brought together."""

Grid = tuple[int, int, int]


@lru_cache(maxsize=16)
def window_order(grid: Grid, window: int, shift: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token numbers of the grid in window order, and the place of each grid token in that order."""
    with torch.inference_mode(False):
        index = torch.arange(grid[0] * grid[1] * grid[2], device=device).view(1, *grid, 1)
        order = partition(torch.roll(index, (-shift, -shift, -shift), (1, 2, 3)), window).flatten()
        return order, torch.argsort(order)


class Reorder(torch.autograd.Function):
    """Rows in another order; the gradient goes back by the inverse order, a copy like the forward one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, order: Tensor, inverse: Tensor) -> Tensor:
        ctx.save_for_backward(order, inverse)
        return x.index_select(1, order)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        order, inverse = ctx.saved_tensors
        return Reorder.apply(gradient, inverse, order), None, None


def to_windows(x: Tensor, window: int, shift: int) -> Tensor:
    """Tokens window by window, the grid rolled by -shift on every axis before; one copy.

    Args:
        x: (B, H, W, D, C); H, W and D are multiples of `window`.
        window: edge of a window in tokens.
        shift: 0, or the cyclic shift in tokens (Swin: window // 2).

    Returns:
        (B * windows, window³, C); windows and the tokens inside them in (h, w, d) row-major order.

    Raises:
        ValueError: the grid is not a multiple of the window.
    """
    grid, channels = x.shape[1:4], x.shape[4]
    if any(size % window for size in grid):
        raise ValueError(f"token grid {tuple(grid)} is not a multiple of the window {window}")
    order, inverse = window_order((grid[0], grid[1], grid[2]), window, shift, x.device)
    return Reorder.apply(x.flatten(1, 3), order, inverse).view(-1, window**3, channels)


def from_windows(windows: Tensor, window: int, shift: int, shape: tuple[int, int, int, int]) -> Tensor:
    """The inverse of `to_windows`; `shape` is (B, H, W, D)."""
    batch, *grid = shape
    order, inverse = window_order((grid[0], grid[1], grid[2]), window, shift, windows.device)
    channels = windows.shape[-1]
    return Reorder.apply(windows.reshape(batch, len(order), channels), inverse, order).view(*shape, channels)


@lru_cache(maxsize=16)
def window_sides(grid: Grid, window: int, shift: int, device: torch.device) -> Tensor | None:
    """(windows, window³) on which side of the rolled border each token lies, one bit per axis; None without shift."""
    if not shift:
        return None
    with torch.inference_mode(False):
        bits = [torch.arange(size, device=device) >= size - shift for size in grid]
        sides = 4 * bits[0].long()[:, None, None] + 2 * bits[1].long()[:, None] + bits[2].long()
        return partition(sides[None, ..., None], window)[..., 0]


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, D, C) → (B * windows, window³, C); windows and the tokens inside them in (h, w, d) row-major order."""
    b, h, w, d, c = x.shape
    x = x.view(b, h // window, window, w // window, window, d // window, window, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window**3, c)


def shift_mask(grid: Grid, window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """(windows, window³, window³) float32 as the official code stores it: 0 inside a segment, else `MASKED`."""
    segments = []
    for size in grid:
        index = torch.arange(size, device=device)
        segments.append((index >= size - window).long() + (index >= size - shift).long())
    ids = 9 * segments[0][:, None, None] + 3 * segments[1][None, :, None] + segments[2][None, None, :]
    ids = partition(ids[None, ..., None], window)[..., 0]
    return (ids[:, :, None] != ids[:, None, :]).float() * MASKED
