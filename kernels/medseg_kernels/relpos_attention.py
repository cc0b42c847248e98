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

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import use_reference, use_triton

BLOCK_BYTES = 2**20
"""Logits per thread that are alive at a time on a CPU: read and written four times, they have to stay in the cache."""
ADD_FROM = 2048
"""From this many keys on, adding the bias is cheaper in bfloat16 than longer heads (Zen 5, 1024 and 4096 measured)."""

WIDEST, LONGEST, LARGEST = 64, 80, 2**31
"""What the kernels take at most: columns of a window, head dimension, elements (their offsets are 32-bit numbers)."""
AMX = torch.cpu._is_amx_tile_supported()
"""PyTorch's attention uses this unit; without it, its bfloat16 attention is slower than plain products."""
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
        if use_triton(qkv) and fits(qkv, heads, window or width):
            return _in_triton(qkv, tables, pad, heads, window)
        return _without_padding(qkv, tables, pad, heads, window)


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


def offsets(table: Tensor, size: int) -> Tensor:
    """(2 * size - 1, d) by offset → (size, size, d) by query and key."""
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place[None, :] + size - 1]


@dataclass(frozen=True)
class _Windows:
    """Windows of one real size, of all images and heads: n = B * windows * heads of them with r x c tokens.

    Args:
        q, k, v: (n, r * c, d).
        bias_h, bias_w: (n, r * c, r) and (n, r * c, c).
        pad_logit: (n, r * c, 1) logit of all padding keys together; None without padding.
        pad_value: (n, 1, d).
    """

    q: Tensor
    k: Tensor
    v: Tensor
    bias_h: Tensor
    bias_w: Tensor
    pad_logit: Tensor | None
    pad_value: Tensor | None


def fits(qkv: Tensor, heads: int, width: int) -> bool:
    """Whether the kernels take grids of these shapes with windows `width` tokens wide."""
    return 0 < qkv.numel() < LARGEST and width <= WIDEST and qkv.shape[-1] <= 3 * heads * LONGEST


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


def _without_padding(qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor | None, heads: int, window: int) -> Tensor:
    """As `relpos_attention`, in PyTorch: whole windows together, those cut off at an edge by themselves."""
    batch, height, width, channels = qkv.shape
    h, w = (window, window) if window else (height, width)
    d = channels // (3 * heads)
    place_h, place_w = (offsets(table.float(), size) for table, size in zip(tables, (h, w), strict=True))
    padding = (qkv.new_zeros(channels) if pad is None else pad).view(3, heads, d)
    out = qkv.new_empty(batch, height, width, heads * d)
    for top, r, down in _runs(height, h):
        for left, c, across in _runs(width, w):
            part = (slice(None), slice(top, top + down * r), slice(left, left + across * c))
            count = batch * down * across
            windows = qkv[part].reshape(batch, down, r, across, c, 3, heads, d).permute(5, 0, 1, 3, 6, 2, 4, 7)
            q, k, v = windows.reshape(3, count * heads, r * c, d)
            cells = q.view(count * heads, r, c, d).float()
            bias_h = torch.einsum("nrcd,rkd->nrck", cells, place_h[:r]).flatten(1, 2)
            bias_w = torch.einsum("nrcd,ckd->nrck", cells, place_w[:c]).flatten(1, 2)
            if q.dtype != torch.float32:
                # The softmax does not change, and the keys that matter keep more digits.
                bias_h = bias_h - bias_h.detach().amax(-1, keepdim=True)
                bias_w = bias_w - bias_w.detach().amax(-1, keepdim=True)
            pad_logit = pad_value = None
            if r < h or c < w:
                pad_logit = _pad_logit(bias_h, bias_w, r, c) + _pad_product(q, padding[1].float(), count)
                pad_value = padding[2].to(q.dtype).expand(count, heads, d).reshape(count * heads, 1, d)
            result = _attend(_Windows(q, k, v, bias_h[..., :r], bias_w[..., :c], pad_logit, pad_value))
            result = result.view(batch, down, across, heads, r, c, d).permute(0, 1, 4, 2, 5, 3, 6)
            out[part] = result.reshape(batch, down * r, across * c, heads * d)
    return out


def _runs(length: int, window: int) -> list[tuple[int, int, int]]:
    """(start, tokens, how many) of the whole windows along an axis, and of the one that is cut off."""
    whole, rest = divmod(length, window)
    runs = [(0, window, whole)] if whole else []
    return [*runs, (whole * window, rest, 1)] if rest else runs


def _pad_logit(bias_h: Tensor, bias_w: Tensor, r: int, c: int) -> Tensor:
    """log Σ exp(bias_h + bias_w) over the padding of an r x c window: (n, r * c, h), (n, r * c, w) → (n, r * c, 1)."""
    parts = []
    if bias_h.shape[-1] > r:
        parts.append(bias_h[..., r:].logsumexp(-1, keepdim=True) + bias_w.logsumexp(-1, keepdim=True))
    if bias_w.shape[-1] > c:
        parts.append(bias_h[..., :r].logsumexp(-1, keepdim=True) + bias_w[..., c:].logsumexp(-1, keepdim=True))
    return parts[0] if len(parts) == 1 else torch.logaddexp(*parts)


def _pad_product(q: Tensor, pad_k: Tensor, count: int) -> Tensor:
    """(q / sqrt(d)) b_kᵀ: (count * heads, N, d) and (heads, d) → (count * heads, N, 1)."""
    pad_k = (pad_k * q.shape[-1] ** -0.5).expand(count, -1, -1).reshape(len(q), q.shape[-1], 1)
    return q.float() @ pad_k


def _attend(windows: _Windows) -> Tensor:
    """softmax(q kᵀ / sqrt(d) + bias) v → (n, r * c, d), by what is fastest for these tensors."""
    q = windows.q
    recorded = torch.is_grad_enabled() and any(
        part.requires_grad for part in (q, windows.bias_h, windows.bias_w, windows.pad_logit) if part is not None
    )
    # A compiler would unroll the loop over blocks.
    if recorded or q.device.type != "cpu" or (AMX and q.dtype == torch.bfloat16) or torch.compiler.is_compiling():
        return _augmented_attention(windows)
    return _blocked_attention(windows)


def _augmented(windows: _Windows) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v such that q kᵀ / sqrt(d) has the bias in it: q is followed by its bias, k by which cell it is."""
    r, c = windows.bias_h.shape[-1], windows.bias_w.shape[-1]
    q, k, v = windows.q, windows.k, windows.v
    cell = torch.arange(r * c, device=q.device)
    which = torch.cat([F.one_hot(cell // c, r), F.one_hot(cell % c, c)], 1).to(q.dtype)
    bias = [windows.bias_h, windows.bias_w]
    if windows.pad_logit is not None and windows.pad_value is not None:
        bias.append(windows.pad_logit)
        which = F.pad(which, (0, 1, 0, 1))
        which[-1, -1] = 1
        k, v = F.pad(k, (0, 0, 0, 1)), torch.cat([v, windows.pad_value], 1)
    root = q.shape[-1] ** 0.5
    q = torch.cat([q, *((part * root).to(q.dtype) for part in bias)], -1)
    return q, torch.cat([k, which.expand(len(k), -1, -1)], -1), v


def _augmented_attention(windows: _Windows) -> Tensor:
    """`_attend` without a matrix of biases, forward and backward, through PyTorch's fused attention."""
    d = windows.q.shape[-1]
    q, k, v = _augmented(windows)
    # The fused attentions want values as long as keys.
    v = F.pad(v, (0, q.shape[-1] - d))
    return F.scaled_dot_product_attention(q[None], k[None], v[None], scale=d**-0.5)[0, ..., :d]


def _blocked_attention(windows: _Windows) -> Tensor:
    """`_attend` for CPUs, not differentiable: explicit logits, as few at a time as fit the cache."""
    q, k, v = windows.q, windows.k, windows.v
    scale, n, tokens = q.shape[-1] ** -0.5, len(q), q.shape[1]
    add = q.dtype == torch.float32 or tokens >= ADD_FROM
    if not add:
        q, k, v = _augmented(windows)
    elif windows.pad_value is not None:
        v = torch.cat([v, windows.pad_value], 1)
    keys = v.shape[1]
    budget = BLOCK_BYTES * torch.get_num_threads() // q.element_size()
    rows = max(1, min(tokens, budget // keys))
    step = max(1, budget // (rows * keys))
    out = torch.empty_like(windows.q)
    for first in range(0, n, step):
        some = slice(first, first + step)
        for start in range(0, tokens, rows):
            block = (some, slice(start, start + rows))
            if add:
                logits = _add_bias(windows, block, keys)
                real = logits[..., : k.shape[1]]
                torch.baddbmm(real, q[block], k[some].mT, alpha=scale, out=real)
            else:
                logits = torch.bmm(q[block], k[some].mT).mul_(scale)
            torch.bmm(torch.softmax(logits, -1), v[some], out=out[block])
    return out


def _add_bias(windows: _Windows, block: tuple[slice, slice], keys: int) -> Tensor:
    """(some, rows, keys) biases of a block, of the padding too."""
    bias_h, bias_w = windows.bias_h[block].to(windows.q.dtype), windows.bias_w[block].to(windows.q.dtype)
    r, c = bias_h.shape[-1], bias_w.shape[-1]
    bias = windows.q.new_empty(*bias_h.shape[:2], keys)
    torch.add(bias_h[..., :, None], bias_w[..., None, :], out=bias[..., : r * c].unflatten(-1, (r, c)))
    if windows.pad_logit is not None:
        bias[..., r * c :] = windows.pad_logit[block]
    return bias
