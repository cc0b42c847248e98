"""Shifted cubic-window attention with decomposed relative position on a token grid (H, W, D).

    logits[q, k] = (q / sqrt(d)) kᵀ + gain * (q·T_h[h_q - h_k] + q·T_w[w_q - w_k] + q·T_d[d_q - d_k])
    o = softmax(logits - 100 * [q and k come from different sides of the rolled border]) v

No bias and no mask exists as a tensor of size tokens². The Triton kernels (`cubic_attention_triton`) make both where
they make a logit. Elsewhere, with e_h, e_w, e_d the unit vectors of a token's place and r that of its side of the
rolled border, both are scalar products of a few more channels,

    logits[q, k] = ([q, rel_h, rel_w, rel_d, r_q] / sqrt(d)) · [k, e_h, e_w, e_d, -100 sqrt(d) (1 - r_k)]

so any fused attention without a mask computes them. Tokens of one side get an exact 0 from the last part.
"""

from __future__ import annotations

from functools import lru_cache
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.cubic_windows import MASKED
from medseg_kernels.dispatch import use_reference, use_triton
from medseg_kernels.linear import linear, use_onednn

MANY = 256
"""From this many tokens per window on, a head's own products outweigh the cost of calling them one by one."""

WIDEST, LONGEST, LARGEST = 8, 80, 2**31
"""What the kernels take at most: edge of a window, head dimension, elements (their offsets are 32-bit numbers)."""
PROGRAMS = 65535
"""How many windows, times heads, one launch takes at most: CUDA's limit for the second axis of a grid."""

Tables = tuple[Tensor, Tensor, Tensor]


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
        if use_triton(qkv) and fits(qkv, heads, window):
            return _in_triton(qkv, tables, gain, heads, window, sides)
        return _with_longer_heads(qkv, tables, gain, heads, window, sides)


def fits(qkv: Tensor, heads: int, window: int) -> bool:
    """Whether the kernels take windows of this shape."""
    products = qkv.shape[0] * qkv.shape[1] * heads * 3 * (2 * window - 1)
    return (
        qkv.numel() > 0
        and max(qkv.numel(), products) < LARGEST
        and qkv.shape[0] * heads <= PROGRAMS
        and window <= WIDEST
        and qkv.shape[-1] <= 3 * heads * LONGEST
    )


def _in_triton(qkv: Tensor, tables: Tables, gain: Tensor, heads: int, window: int, sides: Tensor | None) -> Tensor:
    """As `window_attention`; PyTorch multiplies queries and tables, so that gradients reach both by themselves."""
    from medseg_kernels import cubic_attention_triton

    count, tokens = qkv.shape[:2]
    parts = qkv.reshape(count, tokens, 3, heads, -1).contiguous()
    rows = torch.cat([table.flip(0) for table in tables]).float() * gain.float()
    products = F.linear(parts[:, :, 0].float(), rows)
    sides = None if sides is None else sides.to(torch.int8).contiguous()
    return cubic_attention_triton.forward(parts, products, sides, window)[0].flatten(2)


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
