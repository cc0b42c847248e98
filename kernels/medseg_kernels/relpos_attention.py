"""Window or global attention with decomposed relative position on a token grid (H, W), as SAM's image encoder has it.

    logits[q, k] = (q / sqrt(d)) kᵀ + q·T_h[h_q - h_k] + q·T_w[w_q - w_k]
    o = softmax(logits) v

Windows that hang over the edge of the grid are padded, and the padding takes part in the softmax: SAM pads after its
first LayerNorm, so a padding token is a token whose q, k and v are the bias of the projection. All padding keys of a
window are equal but for their place, and the sum over places is separable: they are one more key, whose logit is

    (q / sqrt(d)) b_kᵀ + log( Σ over padding (h, w) of exp(q·T_h[h_q - h] + q·T_w[w_q - w]) )

and no version but the reference computes with padding. Partition, bias, softmax and the way back are one op, so that a
fused kernel can index instead of copying.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference, use_triton
from medseg_kernels.relpos_windows import offsets, without_padding

WIDEST, LONGEST, LARGEST = 64, 80, 2**31
"""What the kernels take at most: columns of a window, head dimension, elements (their offsets are 32-bit numbers)."""
PROGRAMS = 65535
"""How many windows, times heads, one launch takes at most: CUDA's limit for the second axis of a grid."""
EMPTY = -1e9
"""Logit of a key that does not exist: finite, so that no gradient is 0 / 0, and lost in any sum with one that does."""


def relpos_attention(
    qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor | None, heads: int, window: int = 0
) -> Tensor:
    """Attention inside window x window squares, or over the whole grid.

    Args:
        qkv: (B, H, W, 3 * heads * d) of the real tokens; the last axis runs over (q, k, v), then heads, then d.
        tables: T_h (2 * h - 1, d) and T_w (2 * w - 1, d) for windows of h x w tokens; row r is for the offset
            r - (h - 1), query minus key.
        pad: (3 * heads * d) what the projection makes of a padding token: its bias. None stands for zeros.
        heads: number of heads.
        window: edge of a window in tokens; 0 = one window as large as the grid.

    Returns:
        (B, H, W, heads * d), dtype of qkv.

    Raises:
        ValueError: a table or the channels do not fit.
    """
    _, height, width, channels = qkv.shape
    if channels % (3 * heads):
        raise ValueError(f"{channels} channels are not q, k and v of {heads} heads")
    rows = [2 * (window or size) - 1 for size in (height, width)]
    if [table.shape[0] for table in tables] != rows:
        raise ValueError(f"relative-position tables must have {rows} rows, got {[len(table) for table in tables]}")
    if use_reference() or qkv.dtype == torch.float64:
        return relpos_attention_reference(qkv, tables, pad, heads, window)
    with torch.autocast(qkv.device.type, enabled=False):
        if use_triton(qkv) and fits(qkv, heads, window):
            return _in_triton(qkv, tables, pad, heads, window)
        return without_padding(qkv, tables, pad, heads, window)


def relpos_attention_reference(
    qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor | None, heads: int, window: int = 0
) -> Tensor:
    """The formula in plain PyTorch, padding and all. Shapes as `relpos_attention`."""
    batch, height, width, channels = qkv.shape
    h, w = (window, window) if window else (height, width)
    down, across, d = -(-height // h), -(-width // w), channels // (3 * heads)
    padded = F.pad(qkv, (0, 0, 0, across * w - width, 0, down * h - height))
    if pad is not None:
        inside = F.pad(qkv.new_ones(height, width, 1), (0, 0, 0, across * w - width, 0, down * h - height))
        padded = torch.where(inside.bool(), padded, pad.to(qkv.dtype))

    windows = padded.view(batch, down, h, across, w, 3, heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
    q, k, v = windows
    bias_h = torch.einsum("bxynhwd,hkd->bxynhwk", q, offsets(tables[0].to(q.dtype), h))
    bias_w = torch.einsum("bxynhwd,wkd->bxynhwk", q, offsets(tables[1].to(q.dtype), w))
    q, k, v = (part.reshape(batch, down, across, heads, h * w, d) for part in (q, k, v))
    logits = (q * d**-0.5) @ k.transpose(-2, -1)
    logits = logits + (bias_h[..., :, None] + bias_w[..., None, :]).reshape(logits.shape)
    out = (torch.softmax(logits, dim=-1) @ v).view(batch, down, across, heads, h, w, d)
    out = out.permute(0, 1, 4, 2, 5, 3, 6).reshape(batch, down * h, across * w, heads * d)
    return out[:, :height, :width]


def fits(qkv: Tensor, heads: int, window: int) -> bool:
    """Whether the kernels take these grids with these windows; with small heads the biases are larger than qkv."""
    batch, height, width, channels = qkv.shape
    h, w = (window, window) if window else (height, width)
    biases = batch * height * width * heads * max(h, w)
    programs = batch * -(-height // h) * -(-width // w) * heads if qkv.numel() else 0
    return (
        0 < qkv.numel() < LARGEST
        and biases < LARGEST
        and programs <= PROGRAMS
        and w <= WIDEST
        and channels <= 3 * heads * LONGEST
    )


def _in_triton(qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor | None, heads: int, window: int) -> Tensor:
    """As `relpos_attention`; PyTorch makes the biases, so that their gradients reach q and the tables by themselves."""
    from medseg_kernels import relpos_triton

    batch, height, width, channels = qkv.shape
    h, w = (window, window) if window else (height, width)
    d = channels // (3 * heads)
    parts = qkv.reshape(batch, height, width, 3, heads, d)
    q = parts[:, :, :, 0].float()
    row, column = (torch.arange(size, device=qkv.device) for size in (height, width))
    bias_h = torch.einsum("byxnd,ykd->byxnk", q, offsets(tables[0].float(), h)[row % h])
    bias_w = torch.einsum("byxnd,xkd->byxnk", q, offsets(tables[1].float(), w)[column % w])
    pad_logit = pad_value = None
    if height % h or width % w:
        pad_k, pad_value = (qkv.new_zeros(channels) if pad is None else pad).float().view(3, heads, d)[1:].unbind()
        # Rows and columns of a token's window that are on the grid.
        real_h = row[:, None] // h * h + torch.arange(h, device=qkv.device) < height
        real_w = column[:, None] // w * w + torch.arange(w, device=qkv.device) < width
        product = torch.einsum("byxnd,nd->byxn", q, pad_k) * d**-0.5
        pad_logit = product + _pad_sum(bias_h, bias_w, real_h[:, None, None, :], real_w[:, None, :])
    contiguous = (part if part is None else part.contiguous() for part in (bias_h, bias_w, pad_logit, pad_value))
    return relpos_triton.forward(parts.contiguous(), *contiguous)[0].flatten(3)


def _pad_sum(bias_h: Tensor, bias_w: Tensor, real_h: Tensor, real_w: Tensor) -> Tensor:
    """log Σ exp(bias_h + bias_w) over the cells whose row or column is not real: (..., h), (..., w) → (...)."""

    def part(bias: Tensor, mask: Tensor) -> Tensor:
        # An empty sum has no gradient: exp(-inf) of all terms would be 0 / 0 in the backward pass.
        chosen = torch.where(mask, bias, EMPTY)
        return chosen.logsumexp(-1)

    below = part(bias_h, ~real_h) + bias_w.logsumexp(-1)
    beside = part(bias_h, real_h) + part(bias_w, ~real_w)
    return torch.logaddexp(below, beside)
