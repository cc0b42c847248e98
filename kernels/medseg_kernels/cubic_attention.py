"""Shifted cubic-window attention with decomposed relative position on a token grid (H, W, D).

    logits[q, k] = (q / sqrt(d)) kᵀ + gain * (q·T_h[h_q - h_k] + q·T_w[w_q - w_k] + q·T_d[d_q - d_k])
    o = softmax(logits - 100 * [q and k come from different sides of the rolled border]) v

Partition, roll, bias, mask, softmax and the way back are one op, so that a fused kernel can index instead of copying.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASKED = -100.0
"""Added to the logits of token pairs that the cyclic shift brought together."""


def cubic_window_attention(
    qkv: Tensor, tables: tuple[Tensor, Tensor, Tensor], gain: Tensor, heads: int, window: int, shift: int
) -> Tensor:
    """Attention inside window³ cubes, the grid rolled by -shift on every axis before and by +shift after.

    Args:
        qkv: (B, H, W, D, 3 * heads * d); the last axis runs over (q, k, v), then heads, then d. H, W and D are
            multiples of `window`.
        tables: T_h, T_w, T_d, each (2 * window - 1, d); row r is for the offset r - (window - 1), query minus key.
        gain: () factor of the relative-position term.
        heads: number of heads.
        window: edge of a window in tokens.
        shift: 0, or the cyclic shift in tokens (Swin: window // 2).

    Returns:
        (B, H, W, D, heads * d).

    Raises:
        ValueError: the grid is not a multiple of the window, or a table does not fit it.
    """
    grid = qkv.shape[1:4]
    if any(size % window for size in grid):
        raise ValueError(f"token grid {tuple(grid)} is not a multiple of the window {window}")
    if any(table.shape[0] != 2 * window - 1 for table in tables):
        raise ValueError(f"relative-position tables must have {2 * window - 1} rows, got {[len(t) for t in tables]}")
    return cubic_window_attention_reference(qkv, tables, gain, heads, window, shift)


def cubic_window_attention_reference(
    qkv: Tensor, tables: tuple[Tensor, Tensor, Tensor], gain: Tensor, heads: int, window: int, shift: int
) -> Tensor:
    """The formula in plain PyTorch. Shapes as `cubic_window_attention`."""
    batch, *grid, channels = qkv.shape
    if shift:
        qkv = torch.roll(qkv, (-shift, -shift, -shift), (1, 2, 3))
    windows = partition(qkv, window)
    count, tokens, _ = windows.shape
    q, k, v = windows.reshape(count, tokens, 3, heads, channels // (3 * heads)).permute(2, 0, 3, 1, 4)

    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    cube = (window, window, window)
    q_cube = q.unflatten(2, cube)
    offset = torch.arange(window, device=qkv.device)
    offset = offset[:, None] - offset[None, :] + window - 1
    rel_h, rel_w, rel_d = (table.to(q.dtype)[offset] for table in tables)
    bias = torch.einsum("bnhwdc,hkc->bnhwdk", q_cube, rel_h)[..., :, None, None]
    bias = bias + torch.einsum("bnhwdc,wkc->bnhwdk", q_cube, rel_w)[..., None, :, None]
    bias = bias + torch.einsum("bnhwdc,dkc->bnhwdk", q_cube, rel_d)[..., None, None, :]
    logits = logits + gain.to(q.dtype) * bias.reshape(logits.shape)
    if shift:
        mask = shift_mask((grid[0], grid[1], grid[2]), window, shift, qkv.device).to(q.dtype)
        logits = (logits.unflatten(0, (batch, -1)) + mask[None, :, None]).flatten(0, 1)

    out = (torch.softmax(logits, dim=-1) @ v).transpose(1, 2).reshape(count, tokens, channels // 3)
    out = unpartition(out, window, (batch, grid[0], grid[1], grid[2]))
    return torch.roll(out, (shift, shift, shift), (1, 2, 3)) if shift else out


def partition(x: Tensor, window: int) -> Tensor:
    """(B, H, W, D, C) → (B * windows, window³, C); windows and the tokens inside them in (h, w, d) row-major order."""
    b, h, w, d, c = x.shape
    x = x.view(b, h // window, window, w // window, window, d // window, window, c)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, window**3, c)


def unpartition(windows: Tensor, window: int, shape: tuple[int, int, int, int]) -> Tensor:
    """The inverse of `partition`; `shape` is (B, H, W, D)."""
    b, h, w, d = shape
    x = windows.view(b, h // window, w // window, d // window, window, window, window, -1)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(b, h, w, d, -1)


def shift_mask(grid: tuple[int, int, int], window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """(windows, window³, window³) float32: 0 inside a segment, `MASKED` between segments of the rolled grid."""
    segments = []
    for size in grid:
        index = torch.arange(size, device=device)
        segments.append((index >= size - window).long() + (index >= size - shift).long())
    ids = 9 * segments[0][:, None, None] + 3 * segments[1][None, :, None] + segments[2][None, None, :]
    ids = partition(ids[None, ..., None], window)[..., 0]
    return (ids[:, :, None] != ids[:, None, :]).float() * MASKED
