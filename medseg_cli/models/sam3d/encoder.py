"""Image encoder of 3DSAM-adapter: SAM's ViT lifted to volumes (paper section 3.2; official "v2" class).

Everything after the patch embedding is ordered (H, W, D) with D the slice axis, channels last inside the transformer.
"""

from __future__ import annotations

import torch
from medseg_kernels import adapter_3d, conv3d, linear, volume_patches, window_attention
from medseg_kernels.cubic_attention import Tables
from medseg_kernels.cubic_windows import from_windows, to_windows, window_sides
from segment_anything.modeling.common import MLPBlock
from segment_anything.modeling.image_encoder import PatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam3d.config import Sam3dConfig

CPU_TOKENS = 4096
"""Tokens that a CPU takes through attention and MLP at a time: the hidden layer of ViT-B is then 50 MB."""


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
        return adapter_3d(x, down.weight, down.bias, conv.weight, conv.bias, up.weight, up.bias)


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
        self._kept: tuple[tuple[Tensor, ...], tuple[tuple[int, int], ...], Tables] | None = None

    def forward(self, windows: Tensor, sides: Tensor | None) -> Tensor:
        """Tokens (N, window³, C) in the order of `to_windows`, their sides of the rolled border → the same shape."""
        qkv = _project(self.qkv, windows)
        mixed = window_attention(qkv, self.tables(), self.lr, self.heads, self.window, sides)
        return _project(self.proj, mixed)

    def tables(self) -> Tables:
        """The stored tables interpolated to the window; without gradients computed once per state of the weights."""
        stored = (self.rel_pos_h, self.rel_pos_w, self.rel_pos_d)
        if torch.is_grad_enabled() or any(table.is_inference() for table in stored):
            return self._rows(stored[0]), self._rows(stored[1]), self._rows(stored[2])
        state = tuple((table._version, table.data_ptr()) for table in stored)
        kept = self._kept
        if kept is None or kept[1] != state or any(a is not b for a, b in zip(kept[0], stored, strict=True)):
            kept = (stored, state, (self._rows(stored[0]), self._rows(stored[1]), self._rows(stored[2])))
            self._kept = kept
        return kept[2]

    def _rows(self, table: Tensor) -> Tensor:
        """The stored table (rows, d) linearly interpolated to the 2 * window - 1 offsets that occur in a window."""
        rows = 2 * self.window - 1
        if table.shape[0] == rows:
            return table
        return F.interpolate(table.t()[None], size=rows, mode="linear", align_corners=False)[0].t()


def _project(layer: nn.Module, x: Tensor) -> Tensor:
    """The layer's product; one that is more than a Linear, such as PEFT's, is asked itself."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias)
    result: Tensor = layer(x)
    return result


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
        """(B, H, W, D, C) → the same.

        All but the adapter is per token or per window, so tokens are gathered into windows once. Without gradients,
        a CPU then takes few windows at a time and adds in place: the widest layer never exists for the whole grid.
        """
        x = self.adapter(x)
        b, h, w, d, _ = x.shape
        window, shift = self.attn.window, self.attn.shift
        sides = window_sides((h, w, d), window, shift, x.device)
        if sides is not None and b > 1:
            sides = sides.repeat(b, 1)
        tokens = to_windows(x, window, shift)
        if torch.is_grad_enabled():
            tokens = tokens + self.attn(self.norm1(tokens), sides)
            tokens = tokens + self._mlp(self.norm2(tokens))
        else:
            del x
            step = max(1, CPU_TOKENS // window**3) if tokens.device.type == "cpu" else len(tokens)
            for start in range(0, len(tokens), step):
                part = tokens[start : start + step]
                part += self.attn(self.norm1(part), None if sides is None else sides[start : start + step])
                part += self._mlp(self.norm2(part))
        return from_windows(tokens, window, shift, (b, h, w, d))

    def _mlp(self, x: Tensor) -> Tensor:
        first, second = self.mlp.lin1, self.mlp.lin2
        return linear(linear(x, first.weight, first.bias, "gelu"), second.weight, second.bias)


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


class Neck(nn.Sequential):
    """1x1x1 convolution, norm, 3x3x3 convolution, norm; tokens (B, H, W, D, C) → features (B, out, H, W, D)."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__(
            nn.Conv3d(config.embed_dim, config.out_chans, 1, bias=False),
            ChannelNorm3d(config.out_chans),
            nn.Conv3d(config.out_chans, config.out_chans, 3, padding=1, bias=False),
            ChannelNorm3d(config.out_chans),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """The first convolution is a product per token, and tokens already lie channels-last."""
        first, second = self.get_parameter("0.weight"), self.get_parameter("2.weight")
        x = self.get_submodule("1")(linear(tokens, first.flatten(1)).permute(0, 4, 1, 2, 3))
        return self.get_submodule("3")(conv3d(x, second))


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
        self.neck_3d = nn.ModuleList(Neck(config) for _ in range(4))

    def embed(self, image: Tensor) -> Tensor:
        """(B, 1 or 3, P, P, P) crop in (D, H, W) → (B, T, T, T, C) tokens in (H, W, D) with position."""
        patch, slices = self.patch_embed.proj, self.slice_embed
        scale = self.config.internal_size // self.config.crop_size
        assert patch.bias is not None
        assert slices.bias is not None
        tokens = volume_patches(image, patch.weight, patch.bias, slices.weight, slices.bias, scale)
        pool = self.pos_embed.shape[1] // self.config.tokens
        position = F.avg_pool2d(self.pos_embed.permute(0, 3, 1, 2), pool).permute(0, 2, 3, 1)
        return tokens + position[:, :, :, None] + self.depth_embed[:, None, None]

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 1 or 3, P, P, P) normalised crop in (D, H, W) → four features (B, out_chans, T, T, T) in (H, W, D)."""
        x = self.embed(image)
        features = []
        quarter = len(self.blocks) // 4
        for index, block in enumerate(self.blocks):
            x = block(x)
            if (index + 1) % quarter == 0:
                features.append(self.neck_3d[index // quarter](x))
        return features
