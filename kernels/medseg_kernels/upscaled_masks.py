"""The end of SAM's mask decoder: every place becomes 4 x 4 pixels, and every kernel of a prompt a mask of them.

    x = gelu(LayerNorm(place W1ᵀ + b1))     for each of 2 x 2 cells, c1 channels
    y = gelu(x W2ᵀ + b2)                    for each of 2 x 2 pixels of a cell, c2 channels
    mask[m] = kernel[m] · y

Two transposed convolutions of size and stride 2 are two linear layers, so nothing but the masks need ever be laid out
as a picture. The Triton kernel (`upscaled_triton`) does so. On a CPU without gradients the prompts go one by one,
activations in the same pass as the product.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from medseg_kernels.decoder_attention import alone, fused, power_of_two
from medseg_kernels.dispatch import use_reference
from medseg_kernels.linear import linear

Layer = tuple[Tensor, Tensor]
"""Weight and bias."""
PAIRS = {2: torch.int32, 4: torch.int64}
"""Bytes of a number → dtype as wide as two of them."""


def upscaled_masks(
    places: Tensor,
    kernels: Tensor,
    size: tuple[int, int],
    first: Layer,
    norm: tuple[Tensor, Tensor, float],
    second: Layer,
) -> Tensor:
    """Masks of all prompts.

    Args:
        places: (P, h * w, C).
        kernels: (P, M, c2).
        size: (h, w).
        first: weight (4 * c1, C) and bias (4 * c1,), the 2 x 2 cells before the channels.
        norm: weight (c1,), bias (c1,) and eps of the LayerNorm.
        second: weight (4 * c2, c1) and bias (4 * c2,).

    Returns:
        (P, M, 4 h, 4 w), dtype of the places; autocast may choose another one.
    """
    if use_reference() or places.dtype == torch.float64:
        return upscaled_masks_reference(places, kernels, size, first, norm, second)
    if alone(kernels, places, *first, *norm[:2], *second):
        with torch.autocast("cpu", enabled=False):
            return _by_prompt(places, kernels, size, first, norm, second)
    inner, outer = len(norm[0]), kernels.shape[2]
    if fused(kernels, places, first[0]) and all(n >= 16 and power_of_two(n) for n in (inner, outer)):
        from medseg_kernels import upscaled_triton

        dtype = places.dtype
        layers = [part.to(dtype).contiguous() for part in (*first, *second)]
        return upscaled_triton.upscaled(
            places.contiguous(), kernels.to(dtype).contiguous(), *size, *layers[:2], *norm, *layers[2:]
        )
    return upscaled_masks_reference(places, kernels, size, first, norm, second)


def upscaled_masks_reference(
    places: Tensor,
    kernels: Tensor,
    size: tuple[int, int],
    first: Layer,
    norm: tuple[Tensor, Tensor, float],
    second: Layer,
) -> Tensor:
    """The formula in plain PyTorch. Shapes as `upscaled_masks`."""
    x = F.linear(places, *first).unflatten(-1, (4, -1))
    x = F.gelu(F.layer_norm(x, norm[0].shape, norm[0].to(x.dtype), norm[1].to(x.dtype), norm[2]))
    y = F.gelu(F.linear(x, *second)).unflatten(-1, (4, -1))
    masks = kernels.to(y.dtype) @ y.flatten(1, 3).mT
    down, across = size
    masks = masks.view(*masks.shape[:2], down, across, 2, 2, 2, 2)
    return masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(*masks.shape[:2], 4 * down, 4 * across)


def _by_prompt(
    places: Tensor,
    kernels: Tensor,
    size: tuple[int, int],
    first: Layer,
    norm: tuple[Tensor, Tensor, float],
    second: Layer,
) -> Tensor:
    """`upscaled_masks` on a CPU."""
    dtype = places.dtype
    weights = [part.to(dtype) for part in (*first, norm[0], norm[1], *second)]
    masks = places.new_empty(len(places), kernels.shape[1], 4 * size[0], 4 * size[1])
    for some, mine, result in zip(places, kernels.to(dtype), masks, strict=True):
        x = linear(some, weights[0], weights[1]).view(-1, len(weights[2]))
        x = F.gelu(F.layer_norm(x, weights[2].shape, weights[2], weights[3], norm[2]))
        y = linear(x, weights[4], weights[5], "gelu").view(-1, mine.shape[1])
        result.copy_(pixels(mine @ y.T, size))
    return masks


def pixels(masks: Tensor, size: tuple[int, int]) -> Tensor:
    """(M, h * w * 16), the order in which two doublings make pixels → (M, 4 h, 4 w); not differentiable.

    Two neighbours are moved as one number, which is 12 times faster.
    """
    down, across = size
    pairs = masks.contiguous().view(PAIRS[masks.element_size()]).view(-1, down, across, 2, 2, 2)
    return pairs.permute(0, 1, 3, 5, 2, 4).reshape(-1, 4 * down, 2 * across).view(masks.dtype)
