"""Image encoder of 3DSAM-adapter: SAM's ViT lifted to volumes (paper section 3.2; official "v2" class).

Everything after the patch embedding is ordered (H, W, D) with D the slice axis, channels last inside the transformer.
"""

from __future__ import annotations

import torch
from medseg_kernels import cubic_window_attention, spatial_adapter
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam3d.config import Sam3dConfig


class SpatialAdapter(nn.Module):
    """Bottleneck with a depth-wise 3x3x3 convolution, ReLU also after the up-projection, residual inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(width, width // 2)
        self.conv = nn.Conv3d(width // 2, width // 2, 3, padding=1, groups=width // 2)
        self.linear2 = nn.Linear(width // 2, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D, C) → the same."""
        down, conv, up = self.linear1, self.conv, self.linear2
        assert conv.bias is not None
        return spatial_adapter(x, down.weight, down.bias, conv.weight, conv.bias, up.weight, up.bias)


class CubicAttention(nn.Module):
    """Attention in cubic windows with SAM's decomposed relative position, extended by a depth table."""

    def __init__(self, config: Sam3dConfig, block: int) -> None:
        super().__init__()
        self.heads = config.num_heads
        self.window = config.cubic_window_size
        self.shift = config.cubic_window_size // 2 if block % 2 == 0 else 0
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)
        table = (config.table_rows(block), config.embed_dim // config.num_heads)
        self.rel_pos_h = nn.Parameter(torch.zeros(table))
        self.rel_pos_w = nn.Parameter(torch.zeros(table))
        self.rel_pos_d = nn.Parameter(torch.zeros(table))
        self.lr = nn.Parameter(torch.tensor(1.0), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D, C) → the same."""
        tables = (self._rows(self.rel_pos_h), self._rows(self.rel_pos_w), self._rows(self.rel_pos_d))
        return self.proj(cubic_window_attention(self.qkv(x), tables, self.lr, self.heads, self.window, self.shift))

    def _rows(self, table: Tensor) -> Tensor:
        """The stored table (rows, d) linearly interpolated to the 2 * window - 1 offsets that occur in a window."""
        rows = 2 * self.window - 1
        if table.shape[0] == rows:
            return table
        return F.interpolate(table.t()[None], size=rows, mode="linear", align_corners=False)[0].t()


class Block(nn.Module):
    """Adapter, then pre-norm attention and MLP (the code's order; the paper draws it after attention)."""

    def __init__(self, config: Sam3dConfig, block: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.attn = CubicAttention(config, block)
        self.norm2 = nn.LayerNorm(config.embed_dim, eps=1e-6)
        self.mlp = MLPBlock(config.embed_dim, int(config.embed_dim * config.mlp_ratio))
        self.adapter = SpatialAdapter(config.embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, D, C) → the same."""
        x = self.adapter(x)
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ChannelNorm3d(nn.Module):
    """LayerNorm over the channels at each voxel of (B, C, H, W, D), eps 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W, D) → the same."""
        last = x.movedim(1, -1)
        return F.layer_norm(last, last.shape[-1:], self.weight, self.bias, 1e-6).movedim(-1, 1)


class ImageEncoder(nn.Module):
    """Crop → four feature maps after each quarter of the blocks."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.config = config
        positions = config.img_size // config.patch_size
        patch = (config.patch_size, config.patch_size)
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, positions, config.embed_dim))
        self.depth_embed = nn.Parameter(torch.ones(1, config.tokens, config.embed_dim))
        self.patch_embed = PatchEmbed(patch, patch, (0, 0), 3, config.embed_dim)
        slices = (1, 1, config.num_slice)
        self.slice_embed = nn.Conv3d(config.embed_dim, config.embed_dim, slices, slices, groups=config.embed_dim)
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.depth))
        self.neck_3d = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(config.embed_dim, config.out_chans, 1, bias=False),
                ChannelNorm3d(config.out_chans),
                nn.Conv3d(config.out_chans, config.out_chans, 3, padding=1, bias=False),
                ChannelNorm3d(config.out_chans),
            )
            for _ in range(4)
        )

    def patches(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, D, H, W) crop → (B, H', W', D, C) patch embedding of every upsampled slice, still one per slice.

        One channel stands for three identical ones: their kernels are summed, the same map at a third of the work.
        """
        scale = self.config.internal_size // self.config.crop_size
        if scale != 1:
            image = F.interpolate(image, scale_factor=scale, mode="trilinear", align_corners=False)
        batch, channels = image.shape[:2]
        slices = image.transpose(1, 2).flatten(0, 1)
        proj = self.patch_embed.proj
        kernel = proj.weight.sum(1, keepdim=True) if channels == 1 else proj.weight
        embedded = F.conv2d(slices, kernel, proj.bias, stride=proj.stride)
        return embedded.unflatten(0, (batch, -1)).permute(0, 3, 4, 1, 2)

    def embed(self, patches: Tensor) -> Tensor:
        """(B, H', W', D, C) patches of every slice → (B, T, T, T, C) tokens with position."""
        tokens = self.slice_embed(patches.permute(0, 4, 1, 2, 3)).permute(0, 2, 3, 4, 1)
        pool = self.pos_embed.shape[1] // self.config.tokens
        position = F.avg_pool2d(self.pos_embed.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)
        return tokens + position[:, :, :, None] + self.depth_embed[:, None, None]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1 or 3, P, P, P) normalised crop in (D, H, W) → four features (B, out_chans, T, T, T) in (H, W, D)."""
        x = self.embed(self.patches(image))
        features = []
        quarter = len(self.blocks) // 4
        for index, block in enumerate(self.blocks):
            x = block(x)
            if (index + 1) % quarter == 0:
                features.append(self.neck_3d[index // quarter](x.permute(0, 4, 1, 2, 3)))
        return features
