"""SAM's image encoder with the same parameters under the same names, computed by medseg's own operations.

`accelerate` exchanges the parts of a `segment_anything` encoder for the ones here. Blocks stay callable one by one,
(B, g, g, C) → (B, g, g, C), because SAM-UNet adds features between them; the state dict does not change.
"""

from __future__ import annotations

from typing import TypeVar

import torch
from medseg_kernels import relpos_attention
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import Attention, Block
from torch import Tensor, nn
from torch.nn import functional as F

PIECE = 1024
"""Tokens that go through the hidden layer of a block together on a CPU."""

Network = TypeVar("Network", bound=nn.Module)


def accelerate(encoder: ImageEncoderViT) -> ImageEncoderViT:
    """The same encoder, its parts exchanged in place; outputs differ from the original's by rounding."""
    encoder.patch_embed = Patches(encoder.patch_embed.proj)
    encoder.blocks = nn.ModuleList(GridBlock(block) for block in encoder.blocks)
    return with_channel_norms(encoder)


def with_channel_norms(network: Network) -> Network:
    """The same network, every `LayerNorm2d` in it exchanged in place for a `ChannelNorm`."""
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, LayerNorm2d):
                setattr(module, name, ChannelNorm(child))
    return network


class Patches(nn.Module):
    """Patch embedding whose result lies in memory as its shape says.

    The original returns a transposed view, and every sum of residuals after it inherits the slow order.
    """

    def __init__(self, proj: nn.Conv2d) -> None:
        super().__init__()
        self.proj = proj

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) → (B, g, g, C)."""
        return self.proj(images).permute(0, 2, 3, 1).contiguous()


class GridBlock(nn.Module):
    """Transformer block on a token grid; windows, padding and relative position are left to `relpos_attention`."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.window_size = block.window_size

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) → (B, H, W, C)."""
        x = x + attend(self.attn, self.norm1(x), self.window_size)
        if torch.is_grad_enabled() or x.device.type != "cpu":
            return x + self.mlp(self.norm2(x))
        # The hidden layer has four times the channels: piece by piece it stays in the cache and costs no memory.
        x = x.contiguous()
        for piece in x.flatten(0, 2).split(PIECE):
            piece += self.mlp(self.norm2(piece))
        return x


def attend(attn: Attention, x: Tensor, window_size: int) -> Tensor:
    """Self-attention of a token grid with relative position, (B, H, W, C) → (B, H, W, C); window 0 = the whole grid."""
    qkv = attn.qkv(x)
    return attn.proj(relpos_attention(qkv, tables(attn, qkv, window_size), attn.qkv.bias, attn.num_heads, window_size))


def tables(attn: Attention, qkv: Tensor, window_size: int) -> tuple[Tensor, Tensor]:
    """Relative positions for this grid: (2 h - 1, d), (2 w - 1, d); interpolated as the original does it."""
    sizes = [window_size or size for size in qkv.shape[1:3]]
    if not attn.use_rel_pos:
        d = qkv.shape[-1] // (3 * attn.num_heads)
        return (qkv.new_zeros(2 * sizes[0] - 1, d), qkv.new_zeros(2 * sizes[1] - 1, d))
    return (resized(attn.rel_pos_h, 2 * sizes[0] - 1), resized(attn.rel_pos_w, 2 * sizes[1] - 1))


def resized(table: Tensor, rows: int) -> Tensor:
    """A table of relative positions (R, d) brought to `rows` rows by linear interpolation."""
    if len(table) == rows:
        return table
    return F.interpolate(table.T[None], size=rows, mode="linear")[0].T


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B, C, H, W), without the five passes over memory of `LayerNorm2d`."""

    def __init__(self, norm: LayerNorm2d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) → (B, C, H, W)."""
        channels_last = x.permute(0, 2, 3, 1)
        return F.layer_norm(channels_last, self.weight.shape, self.weight, self.bias, self.eps).permute(0, 3, 1, 2)
