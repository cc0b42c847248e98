"""Mask decoder of SAM-UNet: SAM's two-way transformer with one learned token, one mask and no quality head."""

from __future__ import annotations

from itertools import product

import torch
from medseg_kernels import linear
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP
from segment_anything.modeling.transformer import TwoWayTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam_unet.branch import upscaling
from medseg_cli.models.sam_unet.config import SamUnetConfig
from medseg_cli.models.two_way import AbsorbedTransformer, doubling, shared
from medseg_cli.models.vit import with_channel_norms


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
        self.embedding_maskfeature = with_channel_norms(
            nn.Sequential(
                nn.Conv2d(width // 8, width // 4, 3, padding=1),
                LayerNorm2d(width // 4),
                nn.GELU(),
                nn.Conv2d(width // 4, width // 8, 3, padding=1),
            )
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
        count, size = len(sparse), (image.shape[2], image.shape[3])
        tokens = torch.cat([self.med_token.weight.expand(count, 1, -1), sparse], dim=1)
        tokens, keys = self.sam_mask_decoder.transformer(shared(image) + shared(dense), position, tokens)
        features = self.embedding_maskfeature[:3](self.upscaled(keys, size))
        last = self.embedding_maskfeature[3]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        kernel = self.hf_mlp(tokens[:, 0])
        # The token's product with the last convolution is a convolution to one channel: a product for each of its taps.
        taps = torch.einsum("no,ocij->nijc", kernel, last.weight).flatten(1, 2)
        maps = (taps @ features.flatten(2)).unflatten(1, (3, 3)).unflatten(3, features.shape[2:])
        scales = shared(multi_scale)
        rest = (kernel[:, None] @ scales.flatten(2))[:, 0] + (kernel @ last.bias)[:, None]
        return moved(maps) + rest.unflatten(1, features.shape[2:])

    def upscaled(self, places: Tensor, size: tuple[int, int]) -> Tensor:
        """(N, h * w, C) → (N, C / 8, 4 h, 4 w), channels last in memory; transposed convolutions as linear layers."""
        parts = self.sam_mask_decoder.output_upscaling
        first, norm, second = parts[0], parts[1], parts[3]
        assert isinstance(first, nn.ConvTranspose2d)
        assert isinstance(second, nn.ConvTranspose2d)
        assert isinstance(norm, LayerNorm2d)
        x = F.linear(places, *doubling(first)).unflatten(-1, (4, -1))
        x = F.gelu(F.layer_norm(x, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        x = linear(x, *doubling(second), "gelu").view(-1, *size, 2, 2, 2, 2, second.out_channels)
        picture = x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, 4 * size[0], 4 * size[1], second.out_channels)
        return picture.movedim(3, 1)


def moved(maps: Tensor) -> Tensor:
    """The sum of a 3x3 convolution from what each tap makes of its pixel: (N, 3, 3, h, w) → (N, h, w), zero outside."""
    height, width = maps.shape[3:]
    total = F.pad(maps[:, 1, 1], (0, 0, 0, 0))
    for i, j in product(range(3), repeat=2):
        if (i, j) != (1, 1):
            rows, columns = slice(max(0, 1 - i), height - max(0, i - 1)), slice(max(0, 1 - j), width - max(0, j - 1))
            source = maps[:, i, j, max(0, i - 1) : height - max(0, 1 - i), max(0, j - 1) : width - max(0, 1 - j)]
            total[:, rows, columns] += source
    return total
