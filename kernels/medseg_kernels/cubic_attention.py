"""Shifted cubic-window attention with decomposed relative position on a token grid (H, W, D).

    logits[q, k] = (q / sqrt(d)) kᵀ + gain * (q·T_h[h_q - h_k] + q·T_w[w_q - w_k] + q·T_d[d_q - d_k])
    o = softmax(logits - 100 * [q and k come from different sides of the rolled border]) v

Windows know nothing of each other, so a network gathers its tokens window by window once (`to_windows`), does there
everything that is per token or per window, and puts them back (`from_windows`).

No bias and no mask exists as a tensor of size tokens²: with e_h, e_w, e_d the unit vectors of a token's place and r
that of its side of the rolled border, both are scalar products of a few more channels,

    logits[q, k] = ([q, rel_h, rel_w, rel_d, r_q] / sqrt(d)) · [k, e_h, e_w, e_d, -100 sqrt(d) (1 - r_k)]

so any fused attention without a mask computes them. Tokens of one side get an exact 0 from the last part.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference
from medseg_kernels.linear import linear, use_onednn

MASKED = -100.0
"""Added to the logits of token pairs that the cyclic shift brought together."""

MANY = 256
"""From this many tokens per window on, a head's own products outweigh the cost of calling them one by one."""

Tables = tuple[Tensor, Tensor, Tensor]
Grid = tuple[int, int, int]


def window_attention(
    qkv: Tensor, tables: Tables, gain: Tensor, heads: int, window: int, sides: Tensor | None = None
) -> Tensor:
    """Attention inside cubic windows.

    Args:
        qkv: (N, window³, 3 * heads * d) as `to_windows` orders tokens; the last axis runs over (q, k, v), heads, d.
        tables: T_h, T_w, T_d, each (2 * window - 1, d); row r is for the offset r - (window - 1), query minus key.
        gain: () factor of the relative-position term.
        heads: number of heads.
        window: edge of a window in tokens.
        sides: (N, window³) whole numbers below 8, or None; tokens of a window see the tokens of their own side.

    Returns:
        (N, window³, heads * d), dtype of qkv.

    Raises:
        ValueError: a table does not fit the window.
    """
    if any(table.shape[0] != 2 * window - 1 for table in tables):
        raise ValueError(f"relative-position tables must have {2 * window - 1} rows, got {[len(t) for t in tables]}")
    if use_reference():
        return window_attention_reference(qkv, tables, gain, heads, window, sides)
    # The dtype of qkv is the one to compute in; autocast would only keep oneDNN's products away.
    with torch.autocast(qkv.device.type, enabled=False):
        return _with_longer_heads(qkv, tables, gain, heads, window, sides)


def _with_longer_heads(
    qkv: Tensor, tables: Tables, gain: Tensor, heads: int, window: int, sides: Tensor | None
) -> Tensor:
    q, k, v = split_heads(qkv, heads)
    size = q.shape[-1]
    count, tokens = qkv.shape[:2]
    more_q = [relative(q, torch.cat([table.flip(0) for table in tables]) * (gain * sqrt(size)), window)]
    more_k = [places(window, qkv.device, q.dtype).expand(count, heads, -1, -1)]
    if sides is not None:
        unit = torch.eye(8, dtype=q.dtype, device=qkv.device)
        more_q.append(unit[sides][:, None].expand(-1, heads, -1, -1))
        more_k.append(((1 - unit) * (MASKED * sqrt(size)))[sides][:, None].expand(-1, heads, -1, -1))
    q, k = torch.cat([q, *more_q], dim=-1), torch.cat([k, *more_k], dim=-1)
    if tokens >= MANY and use_onednn(q, k):
        out = attend_in_cache(q, k, v, size**-0.5)
    else:
        # Fused attention wants values as wide as queries; the other kind would make the logits a tensor.
        v = F.pad(v, (0, q.shape[-1] - size))
        out = F.scaled_dot_product_attention(q, k, v, scale=size**-0.5)[..., :size]
    return out.transpose(1, 2).reshape(count, tokens, heads * size)


def attend_in_cache(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """softmax(q kᵀ scale) v on a CPU, head by head, so that logits are read again before they leave the cache.

    Twice as fast as PyTorch's fused attention, which multiplies in MKL (see `linear`) and pads the values.

    Args:
        q, k: (N, heads, M, D) contiguous.
        v: (N, heads, M, d).
        scale: factor of the logits.
    """
    q, k, values = (q * scale).flatten(0, 1), k.flatten(0, 1), v.transpose(-2, -1).flatten(0, 1).contiguous()
    out = q.new_empty(len(q), q.shape[1], v.shape[-1])
    for head in range(len(q)):
        out[head] = linear(torch.softmax(linear(q[head], k[head]), dim=-1), values[head])
    return out.view(v.shape)


def split_heads(qkv: Tensor, heads: int) -> Tables:
    """(N, tokens, 3 * heads * d) → q, k, v, each (N, heads, tokens, d)."""
    q, k, v = qkv.unflatten(2, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return q, k, v


def relative(q: Tensor, rows: Tensor, window: int) -> Tensor:
    """Relative-position terms of every query with each of the 3 * window key places.

    One product with all rows of all tables, of which a token at place p on an axis needs those from window - 1 - p on.

    Args:
        q: (N, heads, window³, d).
        rows: (3 * (2 * window - 1), d), each table's rows in reverse.

    Returns:
        (N, heads, window³, 3 * window), per axis.
    """
    count, heads, tokens, size = q.shape
    width = rows.shape[0]
    products = linear(q.reshape(-1, size), rows.to(q.dtype)).contiguous()
    cube = (window, window, window)
    terms = []
    for axis in range(3):
        strides = [width * window**2, width * window, width]
        strides[axis] -= 1
        start = axis * (2 * window - 1) + window - 1
        shape = (count, heads, *cube, window)
        chosen = products.as_strided(shape, (width * tokens * heads, width * tokens, *strides, 1), start)
        terms.append(chosen.reshape(count, heads, tokens, window))
    return torch.cat(terms, dim=-1)


@lru_cache(maxsize=16)
def places(window: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(window³, 3 * window) unit vectors of each token's place on the three axes, side by side."""
    # Kept beyond this call, so it must be an ordinary tensor even when it is first asked for in inference mode.
    with torch.inference_mode(False):
        index = torch.arange(window, device=device)
        cube = torch.stack(torch.meshgrid(index, index, index, indexing="ij"), dim=-1).reshape(-1, 3)
        return F.one_hot(cube, window).flatten(1).to(dtype)


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


def window_attention_reference(
    qkv: Tensor, tables: Tables, gain: Tensor, heads: int, window: int, sides: Tensor | None = None
) -> Tensor:
    """The formula term by term, bias and mask as tensors. Shapes as `window_attention`."""
    q, k, v = split_heads(qkv, heads)
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
    q_cube = q.unflatten(2, (window, window, window))
    offset = torch.arange(window, device=qkv.device)
    offset = offset[:, None] - offset[None, :] + window - 1
    rel_h, rel_w, rel_d = (table.to(q.dtype)[offset] for table in tables)
    bias = torch.einsum("bnhwdc,hkc->bnhwdk", q_cube, rel_h)[..., :, None, None]
    bias = bias + torch.einsum("bnhwdc,wkc->bnhwdk", q_cube, rel_w)[..., None, :, None]
    bias = bias + torch.einsum("bnhwdc,dkc->bnhwdk", q_cube, rel_d)[..., None, None, :]
    logits = logits + gain.to(q.dtype) * bias.reshape(logits.shape)
    if sides is not None:
        apart = sides[:, None, :, None] != sides[:, None, None, :]
        logits = logits + apart.to(q.dtype) * MASKED
    return (torch.softmax(logits, dim=-1) @ v).transpose(1, 2).flatten(2)


def shift_mask(grid: Grid, window: int, shift: int, device: torch.device | None = None) -> Tensor:
    """(windows, window³, window³) float32 as the official code stores it: 0 inside a segment, else `MASKED`."""
    segments = []
    for size in grid:
        index = torch.arange(size, device=device)
        segments.append((index >= size - window).long() + (index >= size - shift).long())
    ids = 9 * segments[0][:, None, None] + 3 * segments[1][None, :, None] + segments[2][None, None, :]
    ids = partition(ids[None, ..., None], window)[..., 0]
    return (ids[:, :, None] != ids[:, None, :]).float() * MASKED
