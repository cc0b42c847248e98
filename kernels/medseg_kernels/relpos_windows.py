"""`relpos_attention` in PyTorch without padding: whole windows together, those cut off at an edge by themselves.

On a GPU and for gradients the biases become channels of q and k, and PyTorch's fused attention does the rest. On a CPU
logits are explicit, as few at a time as stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK_BYTES = 2**20
"""Logits per thread that are alive at a time on a CPU: read and written four times, they have to stay in the cache."""
ADD_FROM = 2048
"""From this many keys on, adding the bias is cheaper in bfloat16 than longer heads (Zen 5, 1024 and 4096 measured)."""
AMX = torch.cpu._is_amx_tile_supported()
"""PyTorch's attention uses this unit; without it, its bfloat16 attention is slower than plain products."""


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


def without_padding(qkv: Tensor, tables: tuple[Tensor, Tensor], pad: Tensor | None, heads: int, window: int) -> Tensor:
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
