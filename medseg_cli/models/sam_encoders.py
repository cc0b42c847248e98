"""SAM's two encoders from the `segment_anything` package, for every network that is built on them."""

from __future__ import annotations

from fractions import Fraction
from functools import partial
from typing import Protocol

from segment_anything.modeling import ImageEncoderViT, PromptEncoder
from torch import nn

from medseg_cli.models.vit import accelerate


class Sizes(Protocol):
    """The sizes that the encoders need, as `SamConfig` and `SamUnetConfig` have them."""

    @property
    def image_size(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def embed_dim(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def window_size(self) -> int: ...
    @property
    def global_attn_indexes(self) -> tuple[int, ...]: ...
    @property
    def prompt_dim(self) -> int: ...
    @property
    def mask_in_chans(self) -> int: ...
    @property
    def grid(self) -> int: ...


def image_encoder(sizes: Sizes, mlp_ratio: float | Fraction) -> ImageEncoderViT:
    """SAM's vision transformer, (B, 3, S, S) → (B, prompt_dim, g, g), computed by `vit`; keys are the official ones."""
    return accelerate(
        ImageEncoderViT(
            img_size=sizes.image_size,
            patch_size=sizes.patch_size,
            embed_dim=sizes.embed_dim,
            depth=sizes.depth,
            num_heads=sizes.num_heads,
            mlp_ratio=mlp_ratio,
            out_chans=sizes.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=sizes.window_size,
            global_attn_indexes=sizes.global_attn_indexes,
        )
    )


def prompt_encoder(sizes: Sizes) -> PromptEncoder:
    """SAM's prompt encoder; coordinates are pixels of the S x S frame, to which it adds the half itself."""
    return PromptEncoder(
        embed_dim=sizes.prompt_dim,
        image_embedding_size=(sizes.grid, sizes.grid),
        input_image_size=(sizes.image_size, sizes.image_size),
        mask_in_chans=sizes.mask_in_chans,
    )
