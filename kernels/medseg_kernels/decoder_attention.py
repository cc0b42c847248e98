"""The two attentions between the few tokens of many prompts and the thousands of places of one image.

Projections stand on the side of the tokens (see `models/two_way.py`), so places are read as they are, as keys and as
values, and a row of `queries`, `keys` or `values` belongs to one head and one token, R = heads * T in this order.

    token_to_image    softmax over places of (q · (x + position)) · x
    image_to_token    LayerNorm(x + softmax over the tokens of each head of ((x + position) · k + shift) · v)

On CUDA both are Triton kernels that read the places once. They are made for inference with many prompts: their backward
pass is that of the formula, computed again. On a CPU without gradients the prompts go one by one through buffers that
stay in the cache, in products of oneDNN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.dispatch import INTERPRETED, use_reference, use_triton
from medseg_kernels.linear import linear, use_onednn

WIDEST, TOKENS, LARGEST = 256, 16, 2**31
"""What the kernels take at most: channels, tokens of a prompt, elements (their offsets are 32-bit numbers)."""


def token_to_image(queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """Every row asks all places of its prompt.

    Args:
        queries: (P, R, C), scaled; of any precision, rounded to that of the places.
        places: (P, N, C), or (1, N, C) shared by all prompts.
        position: (1, N, C), added where places are keys.

    Returns:
        (P, R, C), the places mixed, dtype of the places; autocast may choose another one where gradients are wanted.
    """
    if use_reference() or places.dtype == torch.float64 or not queries.numel():
        return token_to_image_reference(queries, places, position)
    if alone(queries, places, position):
        with torch.autocast("cpu", enabled=False):
            return _rows_by_prompt(queries.to(places.dtype), places, position)
    if halves(places) and fused(queries, places, position):
        from medseg_kernels import decoder_triton

        same = (part.to(places.dtype).contiguous() for part in (queries, places, position))
        return decoder_triton.token_to_image(*same)
    # Prompts that share their places are rows of one product.
    rows = queries.reshape(len(places), -1, queries.shape[-1]).to(places.dtype)
    weights = torch.softmax(rows @ (places + position).mT, -1)
    return (weights @ places).view(queries.shape)


def token_to_image_reference(queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """The formula in plain PyTorch. Shapes as `token_to_image`."""
    weights = torch.softmax(queries.to(places.dtype) @ (places + position).mT, -1)
    return weights @ places


def image_to_token(
    places: Tensor,
    position: Tensor,
    keys: Tensor,
    shift: Tensor,
    values: Tensor,
    heads: int,
    norm: tuple[Tensor, Tensor, float],
) -> Tensor:
    """Every place asks the tokens of its prompt; what it finds is added to it, and the sum normalised.

    Args:
        places: (P, N, C), or (1, N, C) shared by all prompts.
        position: (1, N, C), added where places ask.
        keys, values: (P, R, C), the keys scaled; of any precision, rounded to that of the places.
        shift: (P, R), added to the logits.
        heads: H of R = H * T; every head has a softmax of its own, their results are summed.
        norm: weight (C,), bias (C,) and eps of the LayerNorm.

    Returns:
        (P, N, C), dtype of the places; autocast may choose another one where gradients are wanted.
    """
    if use_reference() or places.dtype == torch.float64 or not keys.numel() or not places.numel():
        return image_to_token_reference(places, position, keys, shift, values, heads, norm)
    if alone(keys, places, position, shift, values, *norm[:2]):
        with torch.autocast("cpu", enabled=False):
            return _places_by_prompt(places, position, keys, shift, values, heads, norm)
    few = heads in (2, 4, 8) and keys.shape[1] <= heads * TOKENS
    if few and halves(places) and fused(keys, places, position):
        from medseg_kernels import decoder_triton

        where, k, v = (part.to(places.dtype).contiguous() for part in (position, keys, values))
        return decoder_triton.image_to_token(places.contiguous(), where, k, shift.float().contiguous(), v, heads, *norm)
    rows = keys.reshape(len(places), -1, keys.shape[-1]).to(places.dtype)
    logits = (rows @ (places + position).mT).view(*keys.shape[:2], -1) + shift[..., None]
    # Places last: a softmax over few tokens is then done for many places at once.
    weights = torch.softmax(logits.unflatten(1, (heads, -1)), 2).flatten(1, 2)
    found = weights.mT @ values.to(places.dtype)
    return F.layer_norm(places + found, norm[0].shape, *norm)


def image_to_token_reference(
    places: Tensor,
    position: Tensor,
    keys: Tensor,
    shift: Tensor,
    values: Tensor,
    heads: int,
    norm: tuple[Tensor, Tensor, float],
) -> Tensor:
    """The formula in plain PyTorch. Shapes as `image_to_token`."""
    logits = (places + position) @ keys.to(places.dtype).mT + shift.to(places.dtype)[:, None]
    weights = torch.softmax(logits.unflatten(-1, (heads, -1)), -1).flatten(-2)
    weight, bias, eps = norm
    found = places + weights @ values.to(places.dtype)
    return F.layer_norm(found, weight.shape, weight.to(found.dtype), bias.to(found.dtype), eps)


def halves(places: Tensor) -> bool:
    """Whether a block of these fits into registers: 16 bits each, and anything in the interpreter."""
    return places.element_size() == 2 or INTERPRETED


def alone(rows: Tensor, places: Tensor, *others: Tensor) -> bool:
    """Whether the prompts go one by one: on a CPU, nothing recorded or traced or interpreted.

    All tensors that could want a gradient are asked: with frozen layers before it, one of them may want it alone.
    """
    return (
        places.device.type == "cpu"
        and not INTERPRETED
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and any(part.requires_grad for part in (rows, places, *others)))
    )


def fused(rows: Tensor, places: Tensor, position: Tensor) -> bool:
    """Whether the Triton kernels take these tensors; autocast between two dtypes is left to PyTorch."""
    device = places.device.type
    mixed = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) != places.dtype
    width = rows.shape[-1]
    return (
        use_triton(rows, places, position)
        and not mixed
        and rows.numel() > 0
        and places.numel() > 0
        and len(rows) * places[0].numel() < LARGEST
        and 16 <= width <= WIDEST
        and power_of_two(width)
    )


def power_of_two(number: int) -> bool:
    """Blocks of kernels are."""
    return number & (number - 1) == 0


def _rows_by_prompt(queries: Tensor, places: Tensor, position: Tensor) -> Tensor:
    """`token_to_image` on a CPU."""
    rows = queries.reshape(len(places), -1, queries.shape[-1])
    out = torch.empty_like(rows)
    located = torch.empty_like(places[:1])
    for some, mine, mixed in zip(places, rows, out, strict=True):
        torch.add(some, position[0], out=located[0])
        weights = torch.softmax(linear(mine, located[0]), -1)
        torch.mm(weights, some, out=mixed)
    return out.view(queries.shape)


def _places_by_prompt(
    places: Tensor,
    position: Tensor,
    keys: Tensor,
    shift: Tensor,
    values: Tensor,
    heads: int,
    norm: tuple[Tensor, Tensor, float],
) -> Tensor:
    """`image_to_token` on a CPU."""
    keys, values = keys.to(places.dtype), values.to(places.dtype)
    weight, bias, eps = norm[0].to(places.dtype), norm[1].to(places.dtype), norm[2]
    out = places.new_empty(len(keys), *places.shape[1:])
    located, found = torch.empty_like(places[0]), torch.empty_like(places[0])
    for index, result in enumerate(out):
        some = places[index if len(places) > 1 else 0]
        if index == 0 or len(places) > 1:
            torch.add(some, position[0], out=located)
        logits = linear(keys[index], located).add_(shift[index, :, None])
        weights = torch.softmax(logits.view(heads, -1, logits.shape[-1]), 1).flatten(0, 1)
        if places.dtype == torch.float32 and use_onednn(some, values, bias):
            turned = torch.ops.mkldnn._linear_pointwise.binary
            found = turned(weights.T.contiguous(), some, values[index].T.contiguous(), None, "add")
        else:
            torch.addmm(some, weights.T, values[index], out=found)
        result.copy_(F.layer_norm(found, weight.shape, weight, bias, eps))
    return out
