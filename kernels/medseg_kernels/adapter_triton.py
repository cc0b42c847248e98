"""`adapter` in Triton as an operator with gradients; imported only where it runs.

The backward kernel makes, for a block of rows, everything that belongs to rows: it computes the middle again, goes back
through activation, projection and LayerNorm, adds the residual's share and writes dx once, where operations one by one
would read and write wide rows about fourteen times. The norm needs two sums over a row of dx before dx exists; both are
sums over the narrow middle, because with dh = da W (a = W h before the activation, h = n · weight + bias, n normalised)

    Σ_c dh · weight     = da · (W weight)
    Σ_c dh · weight · n = da · (a - W bias)

Gradients of the weights are sums over all rows, d_up = gᵀ m and P = daᵀ n, two plain matrix products over thousands of
rows into a few hundred thousand numbers. cuBLAS splits these over the GPU as a kernel of ours would, with partial sums
as large as the result, so they are left to it. What remains follows from P without reading wide rows again:

    d_down = P · weight + d_down_b ⊗ bias      d_weight = Σ_r W · P      d_bias = d_down_b W

and the gradients of the projections' biases are partial sums, one row per program. Nothing is added up by atomics.

Products of float32 are left to cuBLAS in the backward pass altogether: Triton computes them without tensor cores, and
the two middles do not fit into registers then (the kernel kept 640 to 1500 bytes per thread in memory).
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.adapter_kernels import backward_kernel, forward_kernel
from medseg_kernels.dispatch import INTERPRETED

BLOCKS = {
    # middle up to: rows, channels at a time, warps
    64: (64, 32, 8),
    256: (64, 32, 8),
    512: (32, 32, 8),
}
"""Block of one program by the width of the middle; wider ones do not fit into registers."""
BLOCKS_BACK = {
    64: (64, 32, 4),
    256: (32, 32, 8),
    512: (16, 32, 8),
}
"""The same for the gradient, which keeps two middles; for products of 16-bit numbers."""


@torch.library.custom_op("medseg::adapter", mutates_args=())
def adapter_triton(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: str,
    norm_w: Tensor | None,
    norm_b: Tensor | None,
    scale: float,
    residual: bool,
    eps: float,
) -> Tensor:
    """The Triton kernel; x contiguous and not empty, both weights in the dtype to multiply in."""
    middle, channels = down_w.shape
    count = x.numel() // channels
    y = torch.empty_like(x)
    grid, meta = launch(BLOCKS, count, middle)
    forward_kernel[grid](
        x, down_w.contiguous(), down_b, up_w.contiguous(), up_b, x if norm_w is None else norm_w,
        x if norm_b is None else norm_b, y, count, channels, middle, scale, eps,
        gelu=activation == "gelu", has_norm=norm_w is not None, residual=residual, **meta,
    )  # fmt: skip
    return y


@adapter_triton.register_fake
def _(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: str,
    norm_w: Tensor | None,
    norm_b: Tensor | None,
    scale: float,
    residual: bool,
    eps: float,
) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("medseg::adapter_backward", mutates_args=())
def adapter_backward(
    gradient: Tensor,
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    activation: str,
    norm_w: Tensor | None,
    norm_b: Tensor | None,
    scale: float,
    residual: bool,
    eps: float,
) -> list[Tensor]:
    """Gradients of x, down_w, down_b, up_w, up_b and, where there is one, of the norm's weight and bias.

    Those of x, down_w and up_w are in their dtypes, the others float32. `gradient` is contiguous, as x.
    """
    if not in_one_kernel(down_w):
        return by_products(
            gradient, x, down_w, down_b, up_w, activation == "gelu", norm_w, norm_b, scale, residual, eps
        )
    middle, channels = down_w.shape
    count = x.numel() // channels
    grid, meta = launch(BLOCKS_BACK, count, middle)
    dx, normed = torch.empty_like(x), x
    after, dbefore = (torch.empty(count, middle, dtype=down_w.dtype, device=x.device) for _ in range(2))
    ddown_b = torch.empty(grid[0], middle, device=x.device)
    dup_b = torch.empty(grid[0], channels, device=x.device)
    norm = (x, x, x, x)
    if norm_w is not None and norm_b is not None:
        normed = torch.empty_like(x, dtype=down_w.dtype)
        norm = (norm_w, norm_b, down_w.float() @ norm_w.float(), down_w.float() @ norm_b.float())
    backward_kernel[grid](
        gradient, x, down_w.contiguous(), down_b, up_w.contiguous(), *norm, dx, normed, after, dbefore, ddown_b, dup_b,
        count, channels, middle, scale, eps,
        gelu=activation == "gelu", has_norm=norm_w is not None, residual=residual, **meta,
    )  # fmt: skip
    rows = gradient.view(count, channels).to(down_w.dtype)
    dup = (rows.t() @ after) * scale
    ddown = dbefore.t() @ normed.view(count, channels).to(down_w.dtype)
    ddown_b, dup_b = ddown_b.sum(0), dup_b.sum(0) * scale
    if norm_w is None or norm_b is None:
        return [dx, ddown, ddown_b, dup, dup_b]
    wide, weight = ddown.float(), down_w.float()
    ddown = (wide * norm_w.float() + ddown_b[:, None] * norm_b.float()).to(down_w.dtype)
    return [dx, ddown, ddown_b, dup, dup_b, (weight * wide).sum(0), ddown_b @ weight]


@adapter_backward.register_fake
def _(
    gradient: Tensor,
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    activation: str,
    norm_w: Tensor | None,
    norm_b: Tensor | None,
    scale: float,
    residual: bool,
    eps: float,
) -> list[Tensor]:
    middle, channels = down_w.shape
    shapes = [(middle, channels), (middle,), (channels, middle), (channels,)]
    dtypes = [down_w.dtype, torch.float32, up_w.dtype, torch.float32]
    made = [x.new_empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    norm = [] if norm_w is None else [x.new_empty(channels, dtype=torch.float32) for _ in range(2)]
    return [torch.empty_like(x), *made, *norm]


def in_one_kernel(down_w: Tensor) -> bool:
    """Whether the backward kernel takes products in the dtype of these weights."""
    return down_w.element_size() == 2 or INTERPRETED


def by_products(
    gradient: Tensor,
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    gelu: bool,
    norm_w: Tensor | None,
    norm_b: Tensor | None,
    scale: float,
    residual: bool,
    eps: float,
) -> list[Tensor]:
    """As `adapter_backward`, operation by operation in PyTorch."""
    channels, work = [x.shape[-1]], down_w.dtype
    inner, mean, rstd = x, x, x
    norm = None if norm_w is None or norm_b is None else (norm_w.to(x.dtype), norm_b.to(x.dtype))
    if norm is not None:
        inner, mean, rstd = torch.native_layer_norm(x, channels, *norm, eps)
    inner = inner.flatten(0, -2).to(work)
    before = F.linear(inner, down_w, down_b.to(work))
    out = (gradient * scale).flatten(0, -2).to(work)
    middle = out @ up_w
    if gelu:
        after, middle = F.gelu(before), torch.ops.aten.gelu_backward(middle, before)
    else:
        after, middle = torch.relu(before), middle * (before > 0)
    dx = (middle @ down_w).view(x.shape).to(x.dtype)
    found = [middle.t() @ inner, middle.sum(0, dtype=torch.float32), out.t() @ after, out.sum(0, dtype=torch.float32)]
    if norm is not None:
        dx, *dnorm = torch.ops.aten.native_layer_norm_backward(dx, x, channels, mean, rstd, *norm, [True, True, True])
        found += [part.float() for part in dnorm]
    return [dx + gradient if residual else dx, *found]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, down_w, down_b, up_w, up_b, ctx.activation, norm_w, norm_b, *ctx.numbers = inputs
    ctx.save_for_backward(x, down_w, down_b, up_w, norm_w, norm_b)
    ctx.up_b_dtype = up_b.dtype


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, down_w, down_b, up_w, norm_w, norm_b = ctx.saved_tensors
    dx, ddown, ddown_b, dup, dup_b, *dnorm = adapter_backward(
        gradient.contiguous(), x, down_w, down_b, up_w, ctx.activation, norm_w, norm_b, *ctx.numbers
    )
    ddown_b, dup_b = ddown_b.to(down_b.dtype), dup_b.to(ctx.up_b_dtype)
    dnorm_w, dnorm_b = (dnorm[0].to(norm_w.dtype), dnorm[1].to(norm_b.dtype)) if dnorm else (None, None)
    return dx, ddown, ddown_b, dup, dup_b, None, dnorm_w, dnorm_b, None, None, None


adapter_triton.register_autograd(_backward, setup_context=_keep)


def launch(blocks: dict[int, tuple[int, int, int]], count: int, middle: int) -> tuple[tuple[int], dict[str, Any]]:
    """Grid and compile-time values of a kernel for `count` rows."""
    rows, columns, warps = next(blocks[limit] for limit in blocks if middle <= limit)
    first, second = split(middle)
    meta = {
        "upcast": INTERPRETED, "first": first, "second": second, "block_t": rows, "block_c": columns,
        "num_warps": warps,
    }  # fmt: skip
    return (triton.cdiv(count, rows),), meta


def split(middle: int) -> tuple[int, int]:
    """Two powers of two, at least 16 each or 0, that together cover `middle` and little more."""
    first = max(16, 1 << (middle.bit_length() - 1))
    rest = middle - first
    return first, 0 if rest <= 0 else max(16, 1 << (rest - 1).bit_length())
