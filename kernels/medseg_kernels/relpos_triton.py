"""Operators of `relpos_attention` in Triton, forward and backward; imported only where they run.

The kernels read q, k and v where the projection left them, (B, H, W, 3, heads, d), and find a window by index
arithmetic; the two biases come as (B, H, W, heads, h) and (B, H, W, heads, w). A block of keys is `rows` rows of a
window, each rounded up to `cols` columns, so that its biases are one outer sum. The padding of a window is where the
running softmax starts from: one key whose logit and value are known. Its gradients need no kernel. Biases and logits
are float32.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from medseg_kernels.dispatch import INTERPRETED
from medseg_kernels.relpos_kernels import dkv_kernel, dq_kernel, forward_kernel

TILES = {
    "forward": {2: (64, 64, 4), 4: (32, 64, 8)},
    "dq": {2: (64, 64, 4), 4: (32, 64, 8)},
    "dkv": {2: (32, 64, 4), 4: (32, 64, 8)},
}
"""Kernel → bytes of a number → queries in a block, keys in a block, warps; keys at least one row of a window.

For sm_90 none of these keeps registers in memory (tests/compile_relpos.py); larger blocks do.
"""
STAGES = 2


@torch.library.custom_op("medseg::relpos_attention", mutates_args=())
def forward(
    qkv: Tensor, bias_h: Tensor, bias_w: Tensor, pad_logit: Tensor | None, pad_value: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Attention given its biases.

    Args:
        qkv: (B, H, W, 3, heads, d), contiguous.
        bias_h, bias_w: (B, H, W, heads, h) and (B, H, W, heads, w) float32, contiguous.
        pad_logit: (B, H, W, heads) float32 logit of all padding keys of a token's window; far below -1e8 without any.
        pad_value: (heads, d), float32.

    Returns:
        (B, H, W, heads, d) in qkv's dtype, and the logarithm of the softmax's sum, (B, H, W, heads) float32.
    """
    batch, height, width, _, heads, d = qkv.shape
    out = torch.empty(batch, height, width, heads, d, dtype=qkv.dtype, device=qkv.device)
    lse = torch.empty(batch, height, width, heads, dtype=torch.float32, device=qkv.device)
    padded = pad_logit is not None and pad_value is not None
    grid, sizes, meta = launch("forward", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=False)
    forward_kernel[grid](
        qkv, bias_h, bias_w, pad_logit if padded else lse, pad_value if padded else lse, out, lse, *sizes,
        padded=padded, **meta,
    )  # fmt: skip
    return out, lse


@forward.register_fake
def _(
    qkv: Tensor, bias_h: Tensor, bias_w: Tensor, pad_logit: Tensor | None, pad_value: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, height, width, _, heads, d = qkv.shape
    shape = (batch, height, width, heads)
    return qkv.new_empty(*shape, d), qkv.new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("medseg::relpos_attention_backward", mutates_args=())
def backward(
    gradient: Tensor, qkv: Tensor, bias_h: Tensor, bias_w: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of qkv and of both biases; `delta` is (B, H, W, heads), the scalar product of result and gradient."""
    dqkv = torch.empty_like(qkv)
    # Columns of cells that are padding belong to no key.
    dbias_h, dbias_w = torch.zeros_like(bias_h), torch.zeros_like(bias_w)
    given = (gradient, qkv, bias_h, bias_w, lse, delta, dqkv)
    grid, sizes, meta = launch("dq", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=False)
    dq_kernel[grid](*given, dbias_h, dbias_w, *sizes, **meta)
    grid, sizes, meta = launch("dkv", qkv, bias_h.shape[-1], bias_w.shape[-1], by_keys=True)
    dkv_kernel[grid](*given, *sizes, **meta)
    return dqkv, dbias_h, dbias_w


@backward.register_fake
def _(
    gradient: Tensor, qkv: Tensor, bias_h: Tensor, bias_w: Tensor, lse: Tensor, delta: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(qkv), torch.empty_like(bias_h), torch.empty_like(bias_w)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias_h, bias_w, pad_logit, pad_value = inputs
    ctx.save_for_backward(qkv, bias_h, bias_w, pad_logit, pad_value, *output)


def _backward(ctx: Any, gradient: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    qkv, bias_h, bias_w, pad_logit, pad_value, out, lse = ctx.saved_tensors
    gradient = gradient.contiguous()
    delta = (out.float() * gradient.float()).sum(-1)
    dqkv, dbias_h, dbias_w = backward(gradient, qkv, bias_h, bias_w, lse, delta)
    dpad_logit = dpad_value = None
    if pad_logit is not None:
        weight = torch.exp(pad_logit - lse)
        dpad_logit = weight * ((gradient.float() * pad_value).sum(-1) - delta)
        dpad_value = torch.einsum("byxn,byxnd->nd", weight, gradient.float())
    return dqkv, dbias_h, dbias_w, dpad_logit, dpad_value


forward.register_autograd(_backward, setup_context=_keep)


def launch(
    kernel: str, qkv: Tensor, h: int, w: int, by_keys: bool
) -> tuple[tuple[int, int], tuple[int, ...], dict[str, Any]]:
    """Grid, sizes and compile-time values of a kernel for windows of h x w tokens."""
    batch, height, width, _, heads, d = qkv.shape
    queries, keys, warps = TILES[kernel][qkv.element_size()]
    cols = max(8, triton.next_power_of_2(w))
    rows = max(1, keys // cols)
    down, across = triton.cdiv(height, h), triton.cdiv(width, w)
    blocks = triton.cdiv(h, rows) if by_keys else triton.cdiv(h * w, queries)
    # Head dimension 80 is 64 + 16: rounded up to 128, three of eight products would be wasted.
    first = max(16, triton.next_power_of_2(d + 1) // 2)
    rest = triton.next_power_of_2(d - first) if d > first else 0
    meta = {
        "d": d, "first": first, "rest": max(16, rest) if rest else 0, "queries": queries, "rows": rows, "cols": cols,
        "scale": d**-0.5, "up": INTERPRETED, "num_warps": warps, "num_stages": STAGES,
    }  # fmt: skip
    return (blocks, batch * down * across * heads), (height, width, heads, h, w, down, across), meta
