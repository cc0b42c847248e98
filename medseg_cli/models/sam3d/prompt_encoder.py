"""Prompt encoder of 3DSAM-adapter, the "visual sampler" (paper section 3.3).

Clicks pick features, ten queries carry them back.

The image attends only to the global queries; clicks have no sign and no coordinate encoding.
"""

from __future__ import annotations

import torch
from medseg_kernels import attention, linear
from segment_anything.modeling.common import MLPBlock
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam3d.config import Sam3dConfig

QUERIES = 10


class Attention(nn.Module):
    """Multi-head attention whose inner width is width / downsample."""

    def __init__(self, width: int, heads: int, downsample: int = 1) -> None:
        super().__init__()
        inner = width // downsample
        self.heads = heads
        self.q_proj = nn.Linear(width, inner)
        self.k_proj = nn.Linear(width, inner)
        self.v_proj = nn.Linear(width, inner)
        self.out_proj = nn.Linear(inner, width)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, N, C), k and v (B, M, C) → (B, N, C)."""
        heads = (self._heads(q, self.q_proj), self._heads(k, self.k_proj), self._heads(v, self.v_proj))
        mixed = attention(*heads).transpose(1, 2).flatten(2)
        return linear(mixed, self.out_proj.weight, self.out_proj.bias)

    def _heads(self, x: Tensor, projection: nn.Linear) -> Tensor:
        return linear(x, projection.weight, projection.bias).unflatten(2, (self.heads, -1)).transpose(1, 2)


class SamplerLayer(nn.Module):
    """Queries and clicks attend to each other, then the image attends to the queries."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        width, heads = config.out_chans, config.prompt_heads
        self.global_query = nn.Parameter(0.1 * torch.randn(1, QUERIES, width))
        self.self_attn = Attention(width, heads)
        self.norm1 = nn.LayerNorm(width)
        # Constructed and stored by the official code, never called: kept so that checkpoints load strictly.
        self.cross_attn_token_to_image = Attention(width, heads, downsample=2)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = MLPBlock(width, config.prompt_mlp_dim, nn.ReLU)
        self.norm3 = nn.LayerNorm(width)
        self.norm4 = nn.LayerNorm(width)
        self.cross_attn_image_to_token = Attention(width, heads, downsample=2)

    def forward(self, image: Tensor, clicks: Tensor) -> tuple[Tensor, Tensor]:
        """image (B, T³, C), clicks (B, N, C) → both updated."""
        tokens = torch.cat([self.global_query.expand(len(clicks), -1, -1), clicks], dim=1)
        attended = self.norm1(self.self_attn(tokens, tokens, tokens))
        attended = self.norm2(tokens + attended)
        queries, clicks = attended[:, :QUERIES], attended[:, QUERIES:]
        queries = self.norm3(queries + self.mlp(queries))
        image = self.norm4(image + self.cross_attn_image_to_token(image, queries, queries))
        return image, clicks


class Sampler(nn.Module):
    """The layers, under the name that the checkpoint gives them."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(SamplerLayer(config) for _ in range(config.prompt_depth))


class PromptEncoder(nn.Module):
    """Clicks (d, w, h) in crop voxels + one feature map → that feature map, prompted."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.crop_size = config.crop_size
        self.transformer = Sampler(config)
        # Stored by the official code; its encodings are computed there and read by nobody.
        self.register_buffer("positional_encoding_gaussian_matrix", torch.zeros(3, config.num_pos_feats))

    def forward(self, feature: Tensor, points: Tensor) -> Tensor:
        """feature (B, C, T, T, T) in (H, W, D), points (N, B, 3), columns (d, w, h) in voxels → (B, C, T, T, T)."""
        grid = (points.transpose(0, 1) + 0.5) * (2 / self.crop_size) - 1
        clicks = F.grid_sample(feature, grid[:, None, None].to(feature.dtype), align_corners=False)[
            :, :, 0, 0
        ].transpose(1, 2)
        image = feature.flatten(2).transpose(1, 2)
        for layer in self.transformer.layers:
            image, clicks = layer(image, clicks)
        return image.transpose(1, 2).reshape(feature.shape)
