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
from segment_anything.modeling import MaskDecoder
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock, TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

TOGETHER = 8192
"""Places, over all prompts, that are decoded at a time where no gradients are needed: they stay in the cache."""


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
        """As the original.

        Args:
            image: (P, C, h, w), or (1, C, h, w) for all prompts.
            position: (1, C, h, w).
            tokens: (P, T, C).

        Returns:
            Tokens (P, T, C) and places (P, h * w, C).
        """
        places, where = image.flatten(2).transpose(1, 2), position[:1].flatten(2).transpose(1, 2)
        queries = tokens
        for index, layer in enumerate(self.layers):
            queries, places = both_ways(layer, queries, places, tokens, where, first=index == 0)
        found = to_image(self.final_attn_token_to_image, queries + tokens, places + where, places)
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
    located = places + where
    queries = layer.norm2(queries + to_image(layer.cross_attn_token_to_image, queries + tokens, located, places))
    queries = layer.norm3(queries + layer.mlp(queries))
    found = to_tokens(layer.cross_attn_image_to_token, located, queries + tokens, queries)
    return queries, layer.norm4(places + found)


def to_image(attention: Attention, tokens: Tensor, located: Tensor, places: Tensor) -> Tensor:
    """Tokens ask the image: `attention(q=tokens, k=located, v=places)`.

    Args:
        tokens: (P, T, C).
        located, places: (P or 1, N, C), with and without position.

    Returns:
        (P, T, C).
    """
    prompts, count, width = tokens.shape
    heads, d = attention.num_heads, attention.internal_dim // attention.num_heads
    small = attention.q_proj(tokens).view(prompts, count, heads, d) * d**-0.5
    q = torch.einsum("pthd,hdc->phtc", small, attention.k_proj.weight.view(heads, d, width))
    # Prompts that share their places are rows of one product.
    logits = q.reshape(len(places), -1, width) @ located.transpose(1, 2)
    if torch.is_grad_enabled():
        # Changes nothing but that the bias has its (zero) gradient, without which an optimizer would not decay it.
        constant = torch.einsum("pthd,hd->pht", small, attention.k_proj.bias.view(heads, d))
        logits = logits + constant.reshape(len(places), -1, 1)
    weights = torch.softmax(logits, dim=-1)
    mixed = (weights @ places).view(prompts, heads, count, width)
    values = torch.einsum("phtc,hdc->pthd", mixed, attention.v_proj.weight.view(heads, d, width)).flatten(2)
    return attention.out_proj(values + attention.v_proj.bias)


def to_tokens(attention: Attention, located: Tensor, keys: Tensor, tokens: Tensor) -> Tensor:
    """The image asks the tokens: `attention(q=located, k=keys, v=tokens)`.

    Args:
        located: (P or 1, N, C).
        keys, tokens: (P, T, C).

    Returns:
        (P, N, C).
    """
    prompts, count, width = tokens.shape
    heads, d = attention.num_heads, attention.internal_dim // attention.num_heads
    k = attention.k_proj(keys).view(prompts, count, heads, d) * d**-0.5
    v = attention.v_proj(tokens).view(prompts, count, heads, d)
    constant = torch.einsum("pthd,hd->pht", k, attention.q_proj.bias.view(heads, d))
    k = torch.einsum("pthd,hdc->phtc", k, attention.q_proj.weight.view(heads, d, width))
    v = torch.einsum("pthd,chd->phtc", v, attention.out_proj.weight.view(width, heads, d)).flatten(1, 2)
    logits = k.reshape(len(located), -1, width) @ located.transpose(1, 2)
    # Places last: a softmax over few tokens is then done for many places at once.
    logits = logits.view(prompts, heads, count, -1) + constant[..., None]
    weights = torch.softmax(logits, dim=2).flatten(1, 2)
    return weights.transpose(1, 2) @ v + attention.out_proj.bias


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
        together = len(tokens) if torch.is_grad_enabled() else TOGETHER // (size[0] * size[1])
        together = max(1, together)
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
        count = self.mask_tokens.num_embeddings
        kernels = torch.stack(
            [mlp(tokens[:, 1 + index]) for index, mlp in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        first, norm, act, second, last = self.output_upscaling
        x = act(F.layer_norm(quadruple(first, places), norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = last(quadruple(second, x))
        # (P, h * w, 2, 2, 2, 2, c): the order in which two doublings make pixels, put right after the product.
        masks = (kernels @ x.flatten(1, -2).transpose(1, 2)).view(-1, count, *size, 2, 2, 2, 2)
        masks = masks.permute(0, 1, 2, 4, 6, 3, 5, 7).reshape(-1, count, 4 * size[0], 4 * size[1])
        return masks, self.iou_prediction_head(tokens[:, 0])


def quadruple(convolution: nn.ConvTranspose2d, x: Tensor) -> Tensor:
    """A transposed convolution of stride and size 2 as a product: (..., c_in) → (..., 2, 2, c_out)."""
    weight, bias = convolution.weight, convolution.bias
    assert bias is not None
    flat = weight.permute(2, 3, 1, 0).reshape(-1, weight.shape[0])
    return F.linear(x, flat, bias.repeat(4)).unflatten(-1, (2, 2, weight.shape[1]))
