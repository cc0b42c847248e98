"""Triton kernels of `decoder_attention`; imported only where they run.

`token_to_image` splits the places over programs as flash decoding does: each keeps a running softmax over its share,
for 64 rows (eight heads of up to eight tokens) at a time, and a second kernel joins the shares. A block of places is
read once and is keys and values. `image_to_token` belongs to the places: scores, the softmax of each head over its
tokens, what it found, the sum and its LayerNorm stay in registers. No result depends on the order of programs.

The backward pass is that of the formula, computed again: it is right, and no faster than PyTorch. Training decodes one
to eight prompts, where the decoder is a small part of a step; many prompts are inference.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from medseg_kernels import decoder_attention
from medseg_kernels.dispatch import INTERPRETED
from medseg_kernels.relpos_kernels import load

ROWS = 64
"""Rows of one program of `token_to_image`: one tile of Hopper's matrix unit."""
BLOCKS = {"token_to_image": (32, 4), "image_to_token": (64, 8)}
"""Kernel → places in a block, warps: for numbers of 16 bits, of which nothing then spills (tests/compile_decoder.py).

Numbers of 32 bits would: a product of theirs keeps its whole operands in registers. They are left to PyTorch.
"""
PIECE = 64
"""Channels at a time in the scores of `image_to_token`."""
PROGRAMS = 264
"""Two for each multiprocessor of the largest GPUs: with fewer prompts than that, their places are split."""
LOG2E = tl.constexpr(1.4426950408889634)


@torch.library.custom_op("medseg::token_to_image", mutates_args=())
def token_to_image(queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """As `decoder_attention.token_to_image`; contiguous, of one dtype, none empty."""
    prompts, rows, width = queries.shape
    count = places.shape[1]
    block, warps = BLOCKS["token_to_image"]
    above = triton.cdiv(rows, ROWS)
    blocks = triton.cdiv(count, block)
    each = triton.cdiv(blocks, max(1, min(blocks, PROGRAMS // (prompts * above))))
    # No share is without places.
    splits = triton.cdiv(blocks, each)
    mixed = torch.empty(prompts, splits, rows, width, dtype=torch.float32, device=places.device)
    peak, total = torch.empty(2, prompts, splits, rows, dtype=torch.float32, device=places.device)
    rows_kernel[(splits, above, prompts)](
        queries, places, position, mixed, peak, total, rows, count, each, shared=len(places) == 1, width=width,
        block_r=ROWS, block=block, up=INTERPRETED, num_warps=warps, num_stages=2,
    )  # fmt: skip
    out = torch.empty_like(queries)
    join_kernel[(rows, prompts)](
        mixed, peak, total, out, rows, splits, width=width, most=triton.next_power_of_2(splits), num_warps=4
    )
    return out


@token_to_image.register_fake
def _(queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    return torch.empty_like(queries)


@torch.library.custom_op("medseg::image_to_token", mutates_args=())
def image_to_token(
    places: Tensor, position: Tensor, keys: Tensor, shift: Tensor, values: Tensor, heads: int, weight: Tensor,
    bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    """As `decoder_attention.image_to_token`; contiguous, none empty; shift is float32, the norm of any dtype."""
    prompts, rows, width = keys.shape
    count = places.shape[1]
    block, warps = BLOCKS["image_to_token"]
    out = torch.empty(prompts, count, width, dtype=places.dtype, device=places.device)
    places_kernel[(triton.cdiv(count, block), prompts)](
        places, position, keys, shift, values, weight, bias, out, count, rows // heads, eps, shared=len(places) == 1,
        width=width, heads=heads, most=padded(rows // heads), block=block, piece=min(PIECE, width), up=INTERPRETED,
        num_warps=warps, num_stages=2,
    )  # fmt: skip
    return out


@image_to_token.register_fake
def _(
    places: Tensor, position: Tensor, keys: Tensor, shift: Tensor, values: Tensor, heads: int, weight: Tensor,
    bias: Tensor, eps: float,
) -> Tensor:  # fmt: skip
    return places.new_empty(len(keys), *places.shape[1:])


def padded(tokens: int) -> int:
    """Tokens of a head as the kernel counts them: a power of two, 8 at least."""
    return max(8, triton.next_power_of_2(tokens))


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(part for part in inputs if isinstance(part, Tensor)))
    ctx.numbers = [part for part in inputs if not isinstance(part, Tensor)]


def _again(formula: Any, ctx: Any, gradient: Tensor) -> list[Tensor | None]:
    """Gradients of the tensors that were given, by the formula."""
    with torch.enable_grad():
        again = [part.detach().requires_grad_() for part in ctx.saved_tensors]
        result = formula(*again)
        return list(torch.autograd.grad(result, again, gradient))


def _backward_rows(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(_again(decoder_attention.token_to_image_reference, ctx, gradient))


def _backward_places(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    heads, eps = ctx.numbers

    def formula(
        places: Tensor, position: Tensor, keys: Tensor, shift: Tensor, values: Tensor, weight: Tensor, bias: Tensor
    ) -> Tensor:
        norm = (weight, bias, eps)
        return decoder_attention.image_to_token_reference(places, position, keys, shift, values, heads, norm)

    found = _again(formula, ctx, gradient)
    return (*found[:5], None, *found[5:], None)


token_to_image.register_autograd(_backward_rows, setup_context=_keep)
image_to_token.register_autograd(_backward_places, setup_context=_keep)


@triton.jit
def rows_kernel(
    queries, places, position, mixed, peak, total, rows, count, blocks, shared: tl.constexpr, width: tl.constexpr,
    block_r: tl.constexpr, block: tl.constexpr, up: tl.constexpr,
):  # fmt: skip
    """`block_r` rows of one prompt against `blocks` blocks of its places."""
    split = tl.program_id(0)
    prompt = tl.program_id(2)
    r = tl.program_id(1) * block_r + tl.arange(0, block_r)
    c = tl.arange(0, width)
    q = load(queries + (prompt * rows + r)[:, None] * width + c[None, :], (r < rows)[:, None], up)
    x_at = places if shared else places + prompt * count * width
    highest = tl.full((block_r,), float("-inf"), tl.float32)
    sum_p = tl.zeros((block_r,), tl.float32)
    acc = tl.zeros((block_r, width), tl.float32)
    for index in range(blocks):
        n = (split * blocks + index) * block + tl.arange(0, block)
        at = n[:, None] * width + c[None, :]
        known = (n < count)[:, None]
        x = load(x_at + at, known, up)
        key = x + load(position + at, known, up)
        s = tl.dot(q, tl.trans(key), input_precision="ieee") * LOG2E
        s = tl.where((n < count)[None, :], s, float("-inf"))
        higher = tl.maximum(highest, tl.max(s, 1))
        shrink = tl.exp2(highest - higher)
        p = tl.exp2(s - higher[:, None])
        sum_p = sum_p * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None] + tl.dot(p.to(x.dtype), x, input_precision="ieee")
        highest = higher
    line = (prompt * tl.num_programs(0) + split) * rows + r
    tl.store(mixed + line[:, None] * width + c[None, :], acc, (r < rows)[:, None])
    tl.store(peak + line, highest, r < rows)
    tl.store(total + line, sum_p, r < rows)


@triton.jit
def join_kernel(mixed, peak, total, out, rows, splits, width: tl.constexpr, most: tl.constexpr):
    """One row of one prompt from its shares."""
    row = tl.program_id(0)
    prompt = tl.program_id(1)
    s = tl.arange(0, most)
    c = tl.arange(0, width)
    line = (prompt * splits + s) * rows + row
    known = s < splits
    high = tl.load(peak + line, known, float("-inf"))
    weight = tl.exp2(high - tl.max(high, 0))
    sums = tl.sum(weight * tl.load(total + line, known, 0.0), 0)
    parts = tl.load(mixed + line[:, None] * width + c[None, :], known[:, None], 0.0)
    value = tl.sum(parts * weight[:, None], 0) / sums
    tl.store(out + (prompt * rows + row) * width + c, value.to(out.dtype.element_ty))


@triton.jit
def places_kernel(
    places, position, keys, shift, values, weight, bias, out, count, tokens, eps, shared: tl.constexpr,
    width: tl.constexpr, heads: tl.constexpr, most: tl.constexpr, block: tl.constexpr, piece: tl.constexpr,
    up: tl.constexpr,
):  # fmt: skip
    """`block` places of one prompt; `most` is its number of tokens rounded up."""
    prompt = tl.program_id(1)
    n = tl.program_id(0) * block + tl.arange(0, block)
    known = (n < count)[:, None]
    x_at = places if shared else places + prompt * count * width
    r = tl.arange(0, heads * most)
    token = r % most
    row = (prompt * heads + r // most) * tokens + token
    real = (token < tokens)[:, None]
    s = tl.zeros((block, heads * most), tl.float32)
    for start in range(0, width, piece):
        e = start + tl.arange(0, piece)
        at = n[:, None] * width + e[None, :]
        asking = load(x_at + at, known, up) + load(position + at, known, up)
        k = load(keys + row[:, None] * width + e[None, :], real, up)
        s += tl.dot(asking, tl.trans(k), input_precision="ieee")
    s += tl.load(shift + row, token < tokens, 0.0).to(tl.float32)[None, :]
    s = tl.where((token < tokens)[None, :], s * LOG2E, float("-inf"))
    s = tl.reshape(s, (block, heads, most))
    p = tl.exp2(s - tl.max(s, 2)[:, :, None])
    p = tl.reshape(p / tl.sum(p, 2)[:, :, None], (block, heads * most))
    c = tl.arange(0, width)
    at = n[:, None] * width + c[None, :]
    v = load(values + row[:, None] * width + c[None, :], real, up)
    # Read again, from the cache: kept in registers since the scores, it would not leave room for the rest.
    total = load(x_at + at, known, up).to(tl.float32)
    total += tl.dot(p.to(v.dtype), v, input_precision="ieee")
    away = total - (tl.sum(total, 1) / width)[:, None]
    scale = 1.0 / tl.sqrt(tl.sum(away * away, 1) / width + eps)
    gain = tl.load(weight + c).to(tl.float32)
    result = away * scale[:, None] * gain[None, :] + tl.load(bias + c).to(tl.float32)[None, :]
    tl.store(out + prompt * count * width + at, result.to(out.dtype.element_ty), known)
