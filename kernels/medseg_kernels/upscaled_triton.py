"""Triton kernel of `upscaled_masks`; imported only where it runs.

A program takes a block of places through both doublings and the product with the kernels of its prompt: of 16 pixels
with 32 channels each, only the masks leave the chip. Its backward pass is that of the formula, computed again.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels.dispatch import INTERPRETED
from medseg_kernels.relpos_kernels import load
from medseg_kernels.upscaled_masks import upscaled_masks_reference

BLOCKS = {2: (64, 4), 4: (32, 8)}
"""Bytes of a number → places in a block, warps; for sm_90 no registers are kept in memory."""


@torch.library.custom_op("medseg::upscaled_masks", mutates_args=())
def upscaled(
    places: Tensor, kernels: Tensor, height: int, width: int, first_w: Tensor, first_b: Tensor, norm_w: Tensor,
    norm_b: Tensor, eps: float, second_w: Tensor, second_b: Tensor,
) -> Tensor:  # fmt: skip
    """As `upscaled_masks.upscaled_masks`; contiguous, places, kernels and weights of one dtype, none empty."""
    prompts, count, channels = places.shape
    masks = kernels.shape[1]
    block, warps = BLOCKS[places.element_size()]
    out = torch.empty(prompts, masks, 4 * height, 4 * width, dtype=places.dtype, device=places.device)
    pixels_kernel[(triton.cdiv(count, block), prompts)](
        places, kernels, first_w, first_b, norm_w, norm_b, second_w, second_b, out, count, height, width, masks, eps,
        channels=channels, inner=len(norm_w), outer=kernels.shape[2], most=max(16, triton.next_power_of_2(masks)),
        block=block, up=INTERPRETED, num_warps=warps, num_stages=2,
    )  # fmt: skip
    return out


@upscaled.register_fake
def _(
    places: Tensor, kernels: Tensor, height: int, width: int, first_w: Tensor, first_b: Tensor, norm_w: Tensor,
    norm_b: Tensor, eps: float, second_w: Tensor, second_b: Tensor,
) -> Tensor:  # fmt: skip
    return places.new_empty(len(places), kernels.shape[1], 4 * height, 4 * width)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(part for part in inputs if isinstance(part, Tensor)))
    ctx.numbers = [part for part in inputs if not isinstance(part, Tensor)]


def _backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    height, width, eps = ctx.numbers
    with torch.enable_grad():
        again = [part.detach().requires_grad_() for part in ctx.saved_tensors]
        places, kernels, first_w, first_b, norm_w, norm_b, second_w, second_b = again
        result = upscaled_masks_reference(
            places, kernels, (height, width), (first_w, first_b), (norm_w, norm_b, eps), (second_w, second_b)
        )
        found = torch.autograd.grad(result, again, gradient)
    return (*found[:2], None, None, *found[2:6], None, *found[6:])


upscaled.register_autograd(_backward, setup_context=_keep)


@triton.jit
def gelu(x):
    """The exact one."""
    return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def pixels_kernel(
    places, kernels, first_w, first_b, norm_w, norm_b, second_w, second_b, out, count, height, width, masks, eps,
    channels: tl.constexpr, inner: tl.constexpr, outer: tl.constexpr, most: tl.constexpr, block: tl.constexpr,
    up: tl.constexpr,
):  # fmt: skip
    """`block` places of one prompt; `most` is its number of masks rounded up."""
    prompt = tl.program_id(1)
    n = tl.program_id(0) * block + tl.arange(0, block)
    c = tl.arange(0, channels)
    i = tl.arange(0, inner)
    o = tl.arange(0, outer)
    m = tl.arange(0, most)
    known = n < count
    x = load(places + (prompt * count + n)[:, None] * channels + c[None, :], known[:, None], up)
    mine = load(kernels + (prompt * masks + m)[:, None] * outer + o[None, :], (m < masks)[:, None], up)
    gain = tl.load(norm_w + i).to(tl.float32)
    offset = tl.load(norm_b + i).to(tl.float32)
    top = (n // width) * 4
    left = (n % width) * 4
    mask_at = out + (prompt * masks + m) * height * width * 16
    for cell in range(4):
        weight = load(first_w + (cell * inner + i)[:, None] * channels + c[None, :], (i < inner)[:, None], up)
        h = tl.dot(x, tl.trans(weight), input_precision="ieee")
        h += tl.load(first_b + cell * inner + i).to(tl.float32)[None, :]
        away = h - (tl.sum(h, 1) / inner)[:, None]
        scale = 1.0 / tl.sqrt(tl.sum(away * away, 1) / inner + eps)
        h = gelu(away * scale[:, None] * gain[None, :] + offset[None, :]).to(x.dtype)
        for part in range(4):
            other = load(second_w + (part * outer + o)[:, None] * inner + i[None, :], (o < outer)[:, None], up)
            y = tl.dot(h, tl.trans(other), input_precision="ieee")
            y = gelu(y + tl.load(second_b + part * outer + o).to(tl.float32)[None, :])
            value = tl.dot(y.to(x.dtype), tl.trans(mine), input_precision="ieee")
            row = top + 2 * (cell // 2) + part // 2
            column = left + 2 * (cell % 2) + part % 2
            at = mask_at[None, :] + (row * 4 * width + column)[:, None]
            tl.store(at, value.to(out.dtype.element_ty), known[:, None] & (m < masks)[None, :])
