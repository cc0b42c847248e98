"""SAM's image and prompt encoder from the `segment_anything` package, in the shells that the official keys have."""

from __future__ import annotations

from functools import partial

from segment_anything.modeling import ImageEncoderViT, PromptEncoder
from torch import nn

from medseg_cli.models.sam_unet.config import SamUnetConfig
from medseg_cli.models.vit import accelerate


class SamImageEncoder(nn.Module):
    """SAM's vision transformer, under the name that the checkpoint gives it."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        encoder = ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            mlp_ratio=config.mlp_ratio,
            out_chans=config.prompt_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_attn_indexes,
        )
        self.sam_img_encoder = accelerate(encoder)


class SamPromptEncoder(nn.Module):
    """SAM's prompt encoder, under the name that the checkpoint gives it."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        self.sam_prompt_encoder = PromptEncoder(
            embed_dim=config.prompt_dim,
            image_embedding_size=(config.grid, config.grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_in_chans,
        )
