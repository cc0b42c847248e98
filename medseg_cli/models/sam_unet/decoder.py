"""Mask decoder of SAM-UNet: SAM's two-way transformer with one learned token, one mask and no quality head."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn

from medseg_cli.models.sam_unet.branch import upscaling
from medseg_cli.models.sam_unet.config import SamUnetConfig
from medseg_cli.models.two_way import AbsorbedTransformer, shared


class SamDecoderParts(nn.Module):
    """The two parts of SAM's mask decoder that are kept, under the name that the checkpoint gives them."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        width = config.prompt_dim
        transformer = TwoWayTransformer(
            depth=config.decoder_depth,
            embedding_dim=width,
            mlp_dim=config.decoder_mlp_dim,
            num_heads=config.decoder_heads,
        )
        self.transformer = AbsorbedTransformer(transformer)
        self.output_upscaling = nn.Sequential(*upscaling(width, width // 4, width // 8), nn.GELU())


class MaskDecoder(nn.Module):
    """Image embedding, multi-scale map and prompts → one mask per prompt."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        width = config.prompt_dim
        self.sam_mask_decoder = SamDecoderParts(config)
        self.med_token = nn.Embedding(1, width)
        self.hf_mlp = MLP(width, width, width // 8, 3)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(width // 8, width // 4, 3, padding=1),
            LayerNorm2d(width // 4),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 8, 3, padding=1),
        )

    def forward(self, image: Tensor, multi_scale: Tensor, position: Tensor, sparse: Tensor, dense: Tensor) -> Tensor:
        """Low-resolution logits of N prompts.

        Args:
            image: (N, C, g, g), the embedding of each prompt's image.
            multi_scale: (N, C / 8, 4 g, 4 g), likewise.
            position: (1, C, g, g), the dense positional encoding.
            sparse: (N, tokens, C) embedded points and boxes.
            dense: (N, C, g, g) embedded mask prompts.

        Returns:
            (N, 4 g, 4 g) logits.
        """
        count = len(sparse)
        tokens = torch.cat([self.med_token.weight.expand(count, 1, -1), sparse], dim=1)
        tokens, keys = self.sam_mask_decoder.transformer(shared(image) + shared(dense), position, tokens)
        upscaled = self.sam_mask_decoder.output_upscaling(keys.transpose(1, 2).reshape(image.shape))
        features = self.embedding_maskfeature(upscaled) + multi_scale
        return torch.einsum("nc,nchw->nhw", self.hf_mlp(tokens[:, 0]), features)
