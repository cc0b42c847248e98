"""SAMUS's image encoder: SAM's transformer on overlapping patches, a CNN beside it, adapters in between (section 3)."""

from __future__ import annotations

from itertools import pairwise

import torch
from medseg_kernels import adapter, attention
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.samus.config import GRID, PATCH, STRIDE, SamusConfig
from medseg_cli.models.vit import GridBlock, attend, with_channel_norms

STEM = (64, 128, 256)
"""Channels of the CNN branch before its last stage, which has the transformer's width."""
SHARE = 0.5
"""Weight of a block's adapter beside its MLP, and of the CNN branch's last map in the result (official code)."""


def convolved(channels: int, out: int) -> list[nn.Module]:
    """3 x 3 convolution without bias, norm over channels, GELU."""
    return [nn.Conv2d(channels, out, 3, padding=1, bias=False), LayerNorm2d(out), nn.GELU()]


class Halving(nn.Module):
    """(B, C, H, W) → (B, out, H / 2, W / 2): pooling, then `convolved`."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), *convolved(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        return self.maxpool_conv(x)


class Convolved(nn.Module):
    """`convolved` under the name that checkpoints give it."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(*convolved(channels, out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, out, H, W)."""
        return self.conv(x)


class CnnBranch(nn.Module):
    """Images (B, 3, 256, 256) → (B, C, 32, 32): local features that overlapping patches miss."""

    def __init__(self, config: SamusConfig) -> None:
        super().__init__()
        widths = [*STEM, config.embed_dim]
        self.inc = Convolved(3, widths[0])
        self.downs = nn.ModuleList(Halving(a, b) for a, b in pairwise(widths))

    def forward(self, images: Tensor) -> Tensor:
        x = self.inc(images)
        for down in self.downs:
            x = down(x)
        return x


class PositionAdapter(nn.Module):
    """SAM's positions (1, 64, 64, C) → (1, 32, 32, C): constant once trained, and then computed once."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.downs = nn.ModuleList([Halving(width, width)])
        self._kept: tuple[list[Tensor], list[object], Tensor] | None = None

    def forward(self, positions: Tensor) -> Tensor:
        sources = [positions, *self.parameters(), *self.buffers()]
        if torch.is_grad_enabled() or self.training or any(source.is_inference() for source in sources):
            return self.adapted(positions)
        # What autocast made in few digits is not what is wanted without it, and the other way round.
        device = positions.device.type
        rounded = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        state: list[object] = [rounded, *((source._version, source.data_ptr()) for source in sources)]
        kept = self._kept
        if kept is None or kept[1] != state or any(a is not b for a, b in zip(kept[0], sources, strict=True)):
            kept = self._kept = (sources, state, self.adapted(positions))
        return kept[2]

    def adapted(self, positions: Tensor) -> Tensor:
        return self.downs[0](positions.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class FeatureAdapter(nn.Module):
    """A bottleneck of a quarter of the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.D_fc1 = nn.Linear(width, width // 4)
        self.D_fc2 = nn.Linear(width // 4, width)

    def forward(self, x: Tensor, scale: float = 1.0, residual: bool = True) -> Tensor:
        """(..., C) → (..., C)."""
        down, up = self.D_fc1, self.D_fc2
        return adapter(x, down.weight, down.bias, up.weight, up.bias, "gelu", scale=scale, residual=residual)


class CrossBranch(nn.Module):
    """Attention of the transformer's tokens to the CNN's (section 3.2); no relative position."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, features: Tensor) -> Tensor:
        """Tokens (B, H, W, C) and features (B, H, W, C) → (B, H, W, C)."""
        both = F.linear(features, torch.cat([self.k.weight, self.v.weight]), torch.cat([self.k.bias, self.v.bias]))
        k, v = both.flatten(1, 2).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.q(tokens).flatten(1, 2).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        mixed = attention(q, k, v).transpose(1, 2).flatten(2)
        return self.proj(mixed).view_as(tokens)


class JoinedBlock(nn.Module):
    """A block with global attention: first it listens to the CNN branch, whose map it then refines."""

    def __init__(self, block: GridBlock) -> None:
        super().__init__()
        width = block.norm1.weight.numel()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.MLP_Adapter = FeatureAdapter(width)
        self.Space_Adapter = CrossBranch(width, block.attn.num_heads)
        self.refine_Adapter = Convolved(width, width)

    def forward(self, x: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, H, W, C) and the CNN's map (B, C, H, W) → both, of the same shapes."""
        normed = self.norm1(x)
        normed = normed + self.Space_Adapter(normed, features.permute(0, 2, 3, 1))
        x = x + attend(self.attn, normed, 0)
        normed = self.norm2(x)
        x = x + self.mlp(normed) + self.MLP_Adapter(normed, scale=SHARE, residual=False)
        return x, self.refine_Adapter(features)


class SamusEncoder(nn.Module):
    """Images (B, 3, 256, 256) in [0, 1] → embeddings (B, C, 32, 32); keys are the official ones."""

    def __init__(self, config: SamusConfig, vit: ImageEncoderViT) -> None:
        super().__init__()
        width = config.embed_dim
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 * GRID, 2 * GRID, width))
        self.cnn_embed = CnnBranch(config)
        self.patch_embed = vit.patch_embed
        self.patch_embed.proj.stride = (STRIDE, STRIDE)
        self.post_pos_embed = PositionAdapter(width)
        self.blocks = nn.ModuleList(
            JoinedBlock(block) if index in config.global_attn_indexes else block
            for index, block in enumerate(vit.blocks)
        )
        self.neck = vit.neck
        self.input_Adapter = FeatureAdapter(width)
        with_channel_norms(self)

    def forward(self, images: Tensor) -> Tensor:
        features = self.cnn_embed(images)
        edge = (GRID - 1) * STRIDE + PATCH
        x = self.patch_embed(F.interpolate(images, (edge, edge), mode="bilinear", align_corners=False))
        x = self.input_Adapter(x) + self.post_pos_embed(self.pos_embed)
        for block in self.blocks:
            if isinstance(block, JoinedBlock):
                x, features = block(x, features)
            else:
                x = block(x)
        return self.neck(x.permute(0, 3, 1, 2) + SHARE * features)
