"""SAM's mask decoder for many prompts on one image, with its own parameters under their own names.

The projections between a few tokens and thousands of places are moved to the side of the tokens (KV absorption). With
t tokens, places x and per head h

    (W_q t)_h · (W_k x + b_k)_h = (W_k,hᵀ (W_q t)_h) · x + what the softmax over places does not see
    Σ a (W_v x + b_v)_h = W_v,h (Σ a x) + b_v,h

and likewise from places to tokens, where output projection and values of the tokens become one matrix. No place is
projected, and as long as no prompt has a mask, all prompts share the places of the first layer.
"""

from __future__ import annotations

import torch
from medseg_kernels import image_to_token, token_to_image, upscaled_masks
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn

TOGETHER = 32768
"""Places, over all prompts, that a CPU decodes at a time where no gradients are needed: they stay in its cache."""
ON_GPU = 32
"""How many times more a GPU takes at a time, so that it is busy: 0.5 GB in 16 bits."""


def shared(x: Tensor) -> Tensor:
    """`x` without the repetitions that an `expand` of its first axis made."""
    return x[:1] if len(x) > 1 and x.stride(0) == 0 else x


class AbsorbedTransformer(nn.Module):
    """`TwoWayTransformer` with the same parameters; prompts may share image and position."""

    def __init__(self, original: TwoWayTransformer) -> None:
        super().__init__()
        self.layers = original.layers
        self.final_attn_token_to_image = original.final_attn_token_to_image
        self.norm_final_attn = original.norm_final_attn

    def forward(self, image: Tensor, position: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As the original; without gradients the places are kept in autocast's precision.

        Args:
            image: (P, C, h, w), or (1, C, h, w) for all prompts.
            position: (1, C, h, w).
            tokens: (P, T, C).

        Returns:
            Tokens (P, T, C) and places (P, h * w, C).
        """
        dtype, device = image.dtype, image.device.type
        if torch.is_autocast_enabled(device) and not torch.is_grad_enabled():
            dtype = torch.get_autocast_dtype(device)
        places, where = (x.flatten(2).transpose(1, 2).to(dtype).contiguous() for x in (image, position[:1]))
        queries = tokens
        for index, layer in enumerate(self.layers):
            queries, places = both_ways(layer, queries, places, tokens, where, first=index == 0)
        found = to_image(self.final_attn_token_to_image, queries + tokens, places, where)
        return self.norm_final_attn(queries + found), places


def both_ways(
    layer: TwoWayAttentionBlock, queries: Tensor, places: Tensor, tokens: Tensor, where: Tensor, first: bool
) -> tuple[Tensor, Tensor]:
    """One layer: tokens among themselves, tokens to image, MLP, image to tokens."""
    if first:
        queries = layer.self_attn(q=queries, k=queries, v=queries)
    else:
        placed = queries + tokens
        queries = queries + layer.self_attn(q=placed, k=placed, v=queries)
    queries = layer.norm1(queries)
    queries = layer.norm2(queries + to_image(layer.cross_attn_token_to_image, queries + tokens, places, where))
    queries = layer.norm3(queries + layer.mlp(queries))
    return queries, to_tokens(layer, places, where, queries + tokens, queries)


def to_image(attention: Attention, tokens: Tensor, places: Tensor, where: Tensor) -> Tensor:
    """Tokens ask the image: `attention(q=tokens, k=places + where, v=places)`.

    Args:
        tokens: (P, T, C).
        places, where: (P or 1, N, C) and (1, N, C).

    Returns:
        (P, T, C).
    """
    prompts, count, width = tokens.shape
    heads, d = attention.num_heads, attention.internal_dim // attention.num_heads
    small = attention.q_proj(tokens).view(prompts, count, heads, d) * d**-0.5
    q = torch.einsum("pthd,hdc->phtc", small, attention.k_proj.weight.view(heads, d, width))
    mixed = token_to_image(q.flatten(1, 2), places, where).view(prompts, heads, count, width)
    values = torch.einsum("phtc,hdc->pthd", mixed.to(q.dtype), attention.v_proj.weight.view(heads, d, width))
    found = attention.out_proj(values.flatten(2) + attention.v_proj.bias)
    # A softmax does not see this bias. With its gradient, zero, an optimizer decays it as it does in the original.
    return found + 0 * attention.k_proj.bias.sum() if torch.is_grad_enabled() else found


def to_tokens(layer: TwoWayAttentionBlock, places: Tensor, where: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """The image asks the tokens: `norm4(places + cross_attn_image_to_token(q=places + where, k=keys, v=tokens))`.

    Args:
        places, where: (P or 1, N, C) and (1, N, C).
        keys, tokens: (P, T, C).

    Returns:
        (P, N, C).
    """
    attention, norm = layer.cross_attn_image_to_token, layer.norm4
    prompts, count, width = tokens.shape
    heads, d = attention.num_heads, attention.internal_dim // attention.num_heads
    k = attention.k_proj(keys).view(prompts, count, heads, d) * d**-0.5
    v = attention.v_proj(tokens).view(prompts, count, heads, d)
    shift = torch.einsum("pthd,hd->pht", k, attention.q_proj.bias.view(heads, d))
    k = torch.einsum("pthd,hdc->phtc", k, attention.q_proj.weight.view(heads, d, width))
    # Each head's weights sum to one, so that every head may bring its share of the bias.
    v = torch.einsum("pthd,chd->phtc", v, attention.out_proj.weight.view(width, heads, d))
    v = v + attention.out_proj.bias / heads
    k, shift, v = k.flatten(1, 2), shift.flatten(1, 2), v.flatten(1, 2)
    return image_to_token(places, where, k, shift, v, heads, (norm.weight, norm.bias, norm.eps))


class PromptedMasks(nn.Module):
    """SAM's `MaskDecoder` with the same parameters, for many prompts on one image."""

    def __init__(self, original: MaskDecoder) -> None:
        super().__init__()
        self.transformer = AbsorbedTransformer(original.transformer)
        self.iou_token, self.mask_tokens = original.iou_token, original.mask_tokens
        self.output_upscaling = original.output_upscaling
        self.output_hypernetworks_mlps = original.output_hypernetworks_mlps
        self.iou_prediction_head = original.iou_prediction_head

    def forward(self, image: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> tuple[Tensor, Tensor]:
        """All masks of all prompts.

        Args:
            image: (1, C, h, w), the embedding of the image of all prompts, or (P, C, h, w), of each prompt's own.
            position: (1, C, h, w), the positions of its places.
            sparse: (P, tokens, C) embedded clicks and boxes.
            dense: (P, C, h, w) embedded mask prompts; an expanded (1, C, h, w) where there are none.

        Returns:
            Logits (P, M, 4 h, 4 w) and predicted IoU (P, M).
        """
        learned = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(len(sparse), -1, -1)
        tokens = torch.cat([learned, sparse], dim=1)
        one_for_all, size = shared(dense), (image.shape[2], image.shape[3])
        places = TOGETHER if image.device.type == "cpu" else ON_GPU * TOGETHER
        together = len(tokens) if torch.is_grad_enabled() else max(1, places // (size[0] * size[1]))
        if not len(tokens):
            count = self.mask_tokens.num_embeddings
            return image.new_zeros(0, count, 4 * size[0], 4 * size[1]), image.new_zeros(0, count)
        parts = []
        for start in range(0, len(tokens), together):
            some = slice(start, start + together)
            shown = image if len(image) == 1 else image[some]
            source = shown + (one_for_all if len(one_for_all) < len(dense) else dense[some])
            parts.append(self.predict(source, position, tokens[some], size))
        return torch.cat([masks for masks, _ in parts]), torch.cat([quality for _, quality in parts])

    def predict(self, source: Tensor, position: Tensor, tokens: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU of the prompts whose tokens are given."""
        tokens, places = self.transformer(source, position, tokens)
        kernels = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        first, norm, _, second, _ = self.output_upscaling
        masks = upscaled_masks(
            places, kernels, size, doubling(first), (norm.weight, norm.bias, norm.eps), doubling(second)
        )
        return masks, self.iou_prediction_head(tokens[:, 0])


def doubling(convolution: nn.ConvTranspose2d) -> tuple[Tensor, Tensor]:
    """A transposed convolution of stride and size 2 as a linear layer: weight (4 * c_out, c_in), bias (4 * c_out)."""
    weight, bias = convolution.weight, convolution.bias
    assert bias is not None
    return weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0]), bias.repeat(4)
