"""The bottleneck adapter: out = x + scale * up(act(down(x))), with a LayerNorm in front where the method has one.

x is wide and everything else narrow, so the operation is bound by reading x and writing out. The Triton kernel does all
of it for a block of rows: the narrow middle stays in registers, wide rows are read twice (three times with a norm, from
the cache) and written once. The middle is kept as two powers of two, 192 as 128 + 64, instead of padded to one. The
gradient recomputes it from x; its five products are matrix products that a library does best.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import HAS_TRITON, INTERPRETED, use_reference, use_triton
from medseg_kernels.linear import linear

if HAS_TRITON:
    import triton
    import triton.language as tl

    jit = triton.jit
else:

    def jit(function: Any) -> Any:
        """Leaves the kernel unused where Triton has no wheel."""
        return function


Activation = Literal["relu", "gelu"]

BLOCKS = {
    # middle up to: rows, channels at a time, warps
    64: (64, 64, 4),
    256: (64, 32, 8),
    512: (32, 32, 8),
}
"""Block of one program by the width of the middle; wider ones do not fit into registers and go to PyTorch."""
LARGEST = 2**31
"""Offsets are 32-bit numbers in the kernel."""


def adapter(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: Activation = "gelu",
    norm_w: Tensor | None = None,
    norm_b: Tensor | None = None,
    scale: float = 1.0,
    residual: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """Bottleneck with residual.

    Args:
        x: (..., C).
        down_w, down_b: (R, C), (R,).
        up_w, up_b: (C, R), (C,).
        activation: between the projections; "gelu" is the exact one.
        norm_w, norm_b: (C,) both or neither; LayerNorm in front of the first projection, not of the residual.
        scale: factor of the second projection's result.
        residual: whether x is added.
        eps: of the LayerNorm.

    Returns:
        (..., C); dtype of x under Triton, elsewhere what PyTorch makes of the dtypes.
    """
    weights = (down_w, down_b, up_w, up_b, norm_w, norm_b)
    if x.is_cuda and use_triton(x, *weights) and 0 < x.numel() < LARGEST and len(down_w) <= max(BLOCKS):
        # Inside a custom operator autocast does nothing, so its dtype is chosen here; the kernel rounds to that of W.
        work = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else x.dtype
        down_w, up_w = down_w.to(work), up_w.to(work)
        return adapter_triton(
            x.contiguous(), down_w, down_b, up_w, up_b, activation, norm_w, norm_b, scale, residual, eps
        )
    if use_reference():
        return adapter_reference(x, down_w, down_b, up_w, up_b, activation, norm_w, norm_b, scale, residual, eps)
    inner = x if norm_w is None else F.layer_norm(x, x.shape[-1:], norm_w, norm_b, eps)
    out = linear(linear(inner, down_w, down_b, activation), up_w, up_b)
    if not residual:
        return out * scale
    return x + out if scale == 1 else torch.add(x, out, alpha=scale)


def adapter_reference(
    x: Tensor,
    down_w: Tensor,
    down_b: Tensor,
    up_w: Tensor,
    up_b: Tensor,
    activation: Activation = "gelu",
    norm_w: Tensor | None = None,
    norm_b: Tensor | None = None,
    scale: float = 1.0,
    residual: bool = True,
    eps: float = 1e-5,
) -> Tensor:
    """The formula in plain PyTorch. Arguments as `adapter`."""
    inner = x if norm_w is None else F.layer_norm(x, x.shape[-1:], norm_w, norm_b, eps)
    middle = F.linear(inner, down_w, down_b)
    middle = F.gelu(middle) if activation == "gelu" else torch.relu(middle)
    out = F.linear(middle, up_w, up_b) * scale
    return x + out if residual else out


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
    rows, block, warps = next(BLOCKS[limit] for limit in BLOCKS if middle <= limit)
    first, second = split(middle)
    y = torch.empty_like(x)
    adapter_kernel[(triton.cdiv(count, rows),)](
        x, down_w.contiguous(), down_b, up_w.contiguous(), up_b, x if norm_w is None else norm_w,
        x if norm_b is None else norm_b, y, count, channels, middle, scale, eps,
        gelu=activation == "gelu", has_norm=norm_w is not None, residual=residual, upcast=INTERPRETED,
        first=first, second=second, block_t=rows, block_c=block, num_warps=warps,
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


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, down_w, down_b, up_w, up_b, ctx.activation, norm_w, norm_b, ctx.scale, ctx.residual, ctx.eps = inputs
    ctx.save_for_backward(x, down_w, down_b, up_w, norm_w, norm_b)
    ctx.up_b_dtype = up_b.dtype


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    x, down_w, down_b, up_w, norm_w, norm_b = ctx.saved_tensors
    channels, work = [x.shape[-1]], down_w.dtype
    inner, mean, rstd = x, None, None
    if norm_w is not None:
        inner, mean, rstd = torch.native_layer_norm(x, channels, norm_w.to(x.dtype), norm_b.to(x.dtype), ctx.eps)
    inner = inner.flatten(0, -2).to(work)
    before = F.linear(inner, down_w, down_b.to(work))
    out = (gradient * ctx.scale).flatten(0, -2).to(work)
    middle = out @ up_w
    if ctx.activation == "gelu":
        after, middle = F.gelu(before), torch.ops.aten.gelu_backward(middle, before)
    else:
        after, middle = torch.relu(before), middle * (before > 0)
    d_up, d_up_b = out.t() @ after, out.sum(0, dtype=torch.float32)
    d_down, d_down_b = middle.t() @ inner, middle.sum(0, dtype=torch.float32)
    dx = (middle @ down_w).view(x.shape).to(x.dtype)
    d_norm_w = d_norm_b = None
    if norm_w is not None:
        dx, d_norm_w, d_norm_b = torch.ops.aten.native_layer_norm_backward(
            dx, x, channels, mean, rstd, norm_w.to(x.dtype), norm_b.to(x.dtype), [True, True, True]
        )
        d_norm_w, d_norm_b = d_norm_w.to(norm_w.dtype), d_norm_b.to(norm_b.dtype)
    if ctx.residual:
        dx = dx + gradient
    d_down_b, d_up_b = d_down_b.to(down_b.dtype), d_up_b.to(ctx.up_b_dtype)
    return dx, d_down, d_down_b, d_up, d_up_b, None, d_norm_w, d_norm_b, None, None, None


adapter_triton.register_autograd(_backward, setup_context=_keep)


def split(middle: int) -> tuple[int, int]:
    """Two powers of two, at least 16 each or 0, that together cover `middle` and little more."""
    first = max(16, 1 << (middle.bit_length() - 1))
    rest = middle - first
    return first, 0 if rest <= 0 else max(16, 1 << (rest - 1).bit_length())


@jit
def adapter_kernel(
    x, down_w, down_b, up_w, up_b, norm_w, norm_b, y, count, channels, middle, scale, eps,
    gelu: tl.constexpr, has_norm: tl.constexpr, residual: tl.constexpr, upcast: tl.constexpr,
    first: tl.constexpr, second: tl.constexpr, block_t: tl.constexpr, block_c: tl.constexpr,
):  # fmt: skip
    """`block_t` rows; `upcast` is for the interpreter, whose bfloat16 arithmetic is wrong."""
    t = tl.program_id(0) * block_t + tl.arange(0, block_t)
    row = t[:, None] * channels
    known = (t < count)[:, None]
    mean = tl.zeros((block_t,), tl.float32)
    rstd = tl.zeros((block_t,), tl.float32)
    if has_norm:
        for start in range(0, channels, block_c):
            c = start + tl.arange(0, block_c)
            mean += tl.sum(
                tl.load(x + row + c[None, :], mask=known & (c < channels)[None, :], other=0.0).to(tl.float32), 1
            )
        mean = mean / channels
        for start in range(0, channels, block_c):
            c = start + tl.arange(0, block_c)
            mask = known & (c < channels)[None, :]
            away = tl.load(x + row + c[None, :], mask=mask, other=0.0).to(tl.float32) - mean[:, None]
            away = tl.where(mask, away, 0.0)
            rstd += tl.sum(away * away, 1)
        rstd = 1.0 / tl.sqrt(rstd / channels + eps)
    r = tl.arange(0, first)
    left = tl.zeros((block_t, first), tl.float32)
    if second > 0:
        s = first + tl.arange(0, second)
        right = tl.zeros((block_t, second), tl.float32)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        mask = known & (c < channels)[None, :]
        value = tl.load(x + row + c[None, :], mask=mask, other=0.0).to(tl.float32)
        if has_norm:
            factor = tl.load(norm_w + c, mask=c < channels, other=0.0).to(tl.float32)
            offset = tl.load(norm_b + c, mask=c < channels, other=0.0).to(tl.float32)
            value = (value - mean[:, None]) * rstd[:, None] * factor[None, :] + offset[None, :]
        weight = tl.load(
            down_w + r[None, :] * channels + c[:, None], mask=(r < middle)[None, :] & (c < channels)[:, None], other=0.0
        )
        if upcast:
            left += tl.dot(value, weight.to(tl.float32), input_precision="ieee")
        else:
            left += tl.dot(value.to(weight.dtype), weight, input_precision="ieee")
        if second > 0:
            weight = tl.load(
                down_w + s[None, :] * channels + c[:, None],
                mask=(s < middle)[None, :] & (c < channels)[:, None],
                other=0.0,
            )
            if upcast:
                right += tl.dot(value, weight.to(tl.float32), input_precision="ieee")
            else:
                right += tl.dot(value.to(weight.dtype), weight, input_precision="ieee")
    left += tl.load(down_b + r, mask=r < middle, other=0.0).to(tl.float32)[None, :]
    left = 0.5 * left * (1.0 + tl.erf(left * 0.7071067811865476)) if gelu else tl.maximum(left, 0.0)
    if second > 0:
        right += tl.load(down_b + s, mask=s < middle, other=0.0).to(tl.float32)[None, :]
        right = 0.5 * right * (1.0 + tl.erf(right * 0.7071067811865476)) if gelu else tl.maximum(right, 0.0)
    for start in range(0, channels, block_c):
        c = start + tl.arange(0, block_c)
        weight = tl.load(
            up_w + c[None, :] * middle + r[:, None], mask=(r < middle)[:, None] & (c < channels)[None, :], other=0.0
        )
        if upcast:
            total = tl.dot(left, weight.to(tl.float32), input_precision="ieee")
        else:
            total = tl.dot(left.to(weight.dtype), weight, input_precision="ieee")
        if second > 0:
            weight = tl.load(
                up_w + c[None, :] * middle + s[:, None], mask=(s < middle)[:, None] & (c < channels)[None, :], other=0.0
            )
            if upcast:
                total += tl.dot(right, weight.to(tl.float32), input_precision="ieee")
            else:
                total += tl.dot(right.to(weight.dtype), weight, input_precision="ieee")
        total = (total + tl.load(up_b + c, mask=c < channels, other=0.0).to(tl.float32)[None, :]) * scale
        mask = known & (c < channels)[None, :]
        if residual:
            total += tl.load(x + row + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(y + row + c[None, :], total.to(y.dtype.element_ty), mask=mask)
