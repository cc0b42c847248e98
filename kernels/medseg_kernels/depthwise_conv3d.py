"""Depth-wise 3x3x3 convolution on a channels-last grid (B, H, W, D, R), bias and ReLU included.

    y[p, r] = relu(bias[r] + sum over the 27 neighbours o of p: weight[r, o] x[p + o, r])      zero outside the grid

Libraries compute it as if it were dense, or in a layout that costs two copies; it is bound by reading x and writing y
once. The Triton kernels keep the layout: one program per block of positions and channels, neighbours from the L1 cache.
Gradients use the same stencil: dx is the convolution of the gradient with the weights mirrored, dw 27 sums over all
positions, first per slab of positions and then over slabs, so that no result depends on the order of programs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import HAS_TRITON, use_reference, use_triton

if HAS_TRITON:
    import triton
    import triton.language as tl

    jit = triton.jit
else:

    def jit(function: Any) -> Any:
        """Leaves the kernels unused where Triton has no wheel."""
        return function


BLOCK = {"positions": 64, "channels": 64, "warps": 4}
"""Block of one program. 64 channels of 16 bits fill a cache line; 64 positions keep 4 warps without spilling."""
SLABS = 128
"""Programs that share the positions in the gradient of the weights, about one per multiprocessor."""
LARGEST = 2**31
"""Offsets are 32-bit numbers in the kernels; larger tensors are left to PyTorch."""


def depthwise_conv3d(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """Convolution of every channel with its own 3x3x3 kernel, zero padding 1.

    Args:
        x: (B, H, W, D, R).
        weight: (R, 1, 3, 3, 3), may be of higher precision than x.
        bias: (R,).
        relu: whether negative results become 0.

    Returns:
        (B, H, W, D, R), dtype of x under Triton; elsewhere that of PyTorch's convolution, which autocast may choose.
    """
    if x.is_cuda and use_triton(x, weight, bias) and 0 < x.numel() < LARGEST:
        return conv3d_triton(x.contiguous(), weight, bias, relu)
    if use_reference():
        return depthwise_conv3d_reference(x, weight, bias, relu)
    # The permuted view stays channels-last in memory: made contiguous as (B, R, H, W, D) it would be 11 times slower.
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 4, 1)
    return y.relu_() if relu else y


def depthwise_conv3d_reference(x: Tensor, weight: Tensor, bias: Tensor, relu: bool = False) -> Tensor:
    """The formula in plain PyTorch. Shapes as `depthwise_conv3d`."""
    y = F.conv3d(x.permute(0, 4, 1, 2, 3), weight, bias, padding=1, groups=len(weight)).permute(0, 2, 3, 4, 1)
    return torch.relu(y) if relu else y


@torch.library.custom_op("medseg::depthwise_conv3d", mutates_args=())
def conv3d_triton(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    """The Triton kernel; x contiguous, not empty. Shapes as `depthwise_conv3d`."""
    return stencil(x, weight.reshape(len(weight), 27).t().contiguous(), bias, None, relu)


@conv3d_triton.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, relu: bool) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("medseg::depthwise_conv3d_backward", mutates_args=())
def conv3d_triton_backward(gradient: Tensor, x: Tensor, weight: Tensor, y: Tensor | None) -> list[Tensor]:
    """Gradients of x, weight and bias; `y` is the result whose positive entries ReLU let through, None without ReLU."""
    mirrored = weight.reshape(len(weight), 27).flip(1).t().contiguous()
    dx = stencil(gradient, mirrored, None, y, False)
    dw, db = weight_gradients(gradient, x, y)
    return [dx, dw.t().reshape(weight.shape).to(weight.dtype), db.to(weight.dtype)]


@conv3d_triton_backward.register_fake
def _(gradient: Tensor, x: Tensor, weight: Tensor, y: Tensor | None) -> list[Tensor]:
    return [torch.empty_like(x), torch.empty_like(weight), weight.new_empty(len(weight))]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, weight, bias, relu = inputs
    ctx.save_for_backward(x, weight, output if relu else None)
    ctx.bias_dtype = bias.dtype


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
    x, weight, y = ctx.saved_tensors
    dx, dw, db = conv3d_triton_backward(gradient.contiguous(), x, weight, y)
    return dx, dw, db.to(ctx.bias_dtype), None


conv3d_triton.register_autograd(_backward, setup_context=_keep)


def stencil(x: Tensor, taps: Tensor, bias: Tensor | None, gate: Tensor | None, relu: bool) -> Tensor:
    """The 27-tap sum at every position.

    Args:
        x: (B, H, W, D, R) contiguous.
        taps: (27, R) contiguous.
        bias: (R,) or None.
        gate: as x or None; entries of x count only where it is positive.
        relu: whether negative results become 0.
    """
    batch, h, w, d, channels = x.shape
    y = torch.empty_like(x)
    count = batch * h * w * d
    grid = (triton.cdiv(count, BLOCK["positions"]), triton.cdiv(channels, BLOCK["channels"]))
    stencil_kernel[grid](
        x, taps, taps if bias is None else bias, x if gate is None else gate, y, count, h, w, d, channels,
        has_bias=bias is not None, has_gate=gate is not None, relu=relu,
        block_p=BLOCK["positions"], block_r=BLOCK["channels"], num_warps=BLOCK["warps"],
    )  # fmt: skip
    return y


def weight_gradients(gradient: Tensor, x: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor]:
    """(27, R) and (R,), float32: sums over positions of gradient times each neighbour, and of the gradient."""
    batch, h, w, d, channels = x.shape
    count = batch * h * w * d
    slabs = min(SLABS, triton.cdiv(count, BLOCK["positions"]))
    blocks = triton.cdiv(triton.cdiv(count, BLOCK["positions"]), slabs)
    dw = torch.empty(slabs, 27, channels, device=x.device)
    db = torch.empty(slabs, channels, device=x.device)
    weight_kernel[(slabs, triton.cdiv(channels, BLOCK["channels"]), 9)](
        gradient, x, x if gate is None else gate, dw, db, count, h, w, d, channels, blocks,
        has_gate=gate is not None, block_p=BLOCK["positions"], block_r=BLOCK["channels"], num_warps=BLOCK["warps"],
    )  # fmt: skip
    return dw.sum(0), db.sum(0)


@jit
def stencil_kernel(
    x, taps, bias, gate, y, count, h, w, d, channels,
    has_bias: tl.constexpr, has_gate: tl.constexpr, relu: tl.constexpr, block_p: tl.constexpr, block_r: tl.constexpr,
):  # fmt: skip
    """y = stencil of x; the 27 taps as 9 times 3, because all unrolled they need more registers than there are."""
    p = tl.program_id(0) * block_p + tl.arange(0, block_p)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    at_d = p % d
    at_w = (p // d) % w
    at_h = (p // (d * w)) % h
    total = tl.zeros((block_p, block_r), tl.float32)
    for pair in range(9):
        step_h = pair // 3 - 1
        step_w = pair % 3 - 1
        inside = (p < count) & (at_h + step_h >= 0) & (at_h + step_h < h) & (at_w + step_w >= 0) & (at_w + step_w < w)
        for tap in tl.static_range(3):
            ok = inside & (at_d + (tap - 1) >= 0) & (at_d + (tap - 1) < d)
            place = (p + (step_h * w + step_w) * d + (tap - 1))[:, None] * channels + r[None, :]
            mask = ok[:, None] & (r < channels)[None, :]
            value = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
            if has_gate:
                value = tl.where(tl.load(gate + place, mask=mask, other=0.0).to(tl.float32) > 0, value, 0.0)
            weight = tl.load(taps + (pair * 3 + tap) * channels + r, mask=r < channels, other=0.0).to(tl.float32)
            total += value * weight[None, :]
    if has_bias:
        total += tl.load(bias + r, mask=r < channels, other=0.0).to(tl.float32)[None, :]
    if relu:
        total = tl.maximum(total, 0.0)
    mask = (p < count)[:, None] & (r < channels)[None, :]
    tl.store(y + p[:, None] * channels + r[None, :], total.to(y.dtype.element_ty), mask=mask)


@jit
def weight_kernel(
    gradient, x, gate, dw, db, count, h, w, d, channels, blocks,
    has_gate: tl.constexpr, block_p: tl.constexpr, block_r: tl.constexpr,
):  # fmt: skip
    """Three of the 27 sums over one slab of positions; the program of the first three also sums the gradient."""
    slab = tl.program_id(0)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    pair = tl.program_id(2)
    step_h = pair // 3 - 1
    step_w = pair % 3 - 1
    before = tl.zeros((block_r,), tl.float32)
    middle = tl.zeros((block_r,), tl.float32)
    behind = tl.zeros((block_r,), tl.float32)
    plain = tl.zeros((block_r,), tl.float32)
    for block in range(blocks):
        p = (slab * blocks + block) * block_p + tl.arange(0, block_p)
        at_d = p % d
        at_w = (p // d) % w
        at_h = (p // (d * w)) % h
        known = (p < count)[:, None] & (r < channels)[None, :]
        place = p[:, None] * channels + r[None, :]
        value = tl.load(gradient + place, mask=known, other=0.0).to(tl.float32)
        if has_gate:
            value = tl.where(tl.load(gate + place, mask=known, other=0.0).to(tl.float32) > 0, value, 0.0)
        plain += tl.sum(value, axis=0)
        inside = (p < count) & (at_h + step_h >= 0) & (at_h + step_h < h) & (at_w + step_w >= 0) & (at_w + step_w < w)
        place += (step_h * w + step_w) * d * channels
        mask = inside[:, None] & (r < channels)[None, :]
        near = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
        middle += tl.sum(value * near, axis=0)
        near = tl.load(x + place - channels, mask=mask & (at_d > 0)[:, None], other=0.0).to(tl.float32)
        before += tl.sum(value * near, axis=0)
        near = tl.load(x + place + channels, mask=mask & (at_d < d - 1)[:, None], other=0.0).to(tl.float32)
        behind += tl.sum(value * near, axis=0)
    out = dw + (slab * 27 + pair * 3) * channels + r
    tl.store(out, before, mask=r < channels)
    tl.store(out + channels, middle, mask=r < channels)
    tl.store(out + 2 * channels, behind, mask=r < channels)
    if pair == 0:
        tl.store(db + slab * channels + r, plain, mask=r < channels)
