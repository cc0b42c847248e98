"""CC-SAM's image encoder: SAMUS's transformer, which listens to a frozen CNN through variational attention fusion."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile

import torch
from segment_anything.modeling.image_encoder import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.cc_sam.config import CcSamConfig
from medseg_cli.models.cc_sam.fusion import Noise, VariationalFusion
from medseg_cli.models.cc_sam.trunk import C3, Tap, Trunk
from medseg_cli.models.samus.config import GRID, PATCH, STRIDE
from medseg_cli.models.samus.encoder import SHARE, CnnBranch, FeatureAdapter, JoinedBlock, PositionAdapter
from medseg_cli.models.vit import GridBlock, attend, with_channel_norms


@dataclass(frozen=True)
class Encoded:
    """What the encoder makes of a batch.

    Args:
        image: (B, C, 32, 32).
        divergence: mean over the fusing blocks, in nats; 0 where no block has latents.
        shares: for each fusing block with a gate, the weight of the CNN per token (B, 32, 32), 0 to 1.
    """

    image: Tensor
    divergence: Tensor
    shares: tuple[Tensor, ...]


@dataclass(frozen=True)
class Begun:
    """What the encoder makes of a batch before the first latent: the same for every draw.

    Args:
        maps: the CNN's (B, D, 32, 32), see `CcSamEncoder.heard`.
        tokens: (B, 32, 32, D), after the blocks that do not listen to the CNN yet.
        done: how many blocks these are.
    """

    maps: tuple[Tensor, ...]
    tokens: Tensor
    done: int


class FusedBlock(nn.Module):
    """A block with global attention that hears the CNN first; without fusion and adapter it is SAM's."""

    def __init__(self, block: GridBlock, config: CcSamConfig) -> None:
        super().__init__()
        self.norm1, self.attn, self.norm2, self.mlp = block.norm1, block.attn, block.norm2, block.mlp
        self.MLP_Adapter = FeatureAdapter(config.samus.embed_dim) if config.adapters else None
        self.vaf = None if config.fusion == "none" else VariationalFusion(config)

    def forward(
        self, x: Tensor, features: Tensor | None, noise: Noise, sampled: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Tokens (B, H, W, D), the CNN's map (B, D, H, W) → tokens, then what `VariationalFusion` returns."""
        normed, divergence, share = self.norm1(x), None, None
        if self.vaf is not None:
            assert features is not None
            heard, divergence, share = self.vaf(
                normed.flatten(1, 2), features.flatten(2).transpose(1, 2), noise, sampled
            )
            normed = heard.view_as(x).to(x.dtype)
        x = x + attend(self.attn, normed, 0)
        normed = self.norm2(x)
        x = x + self.mlp(normed)
        if self.MLP_Adapter is not None:
            x = x + self.MLP_Adapter(normed, scale=SHARE, residual=False)
        return x, divergence, share


class CcSamEncoder(nn.Module):
    """Images (B, 3, 256, 256) in [0, 1] → `Encoded`; what SAMUS has too stands under SAMUS's names."""

    def __init__(self, config: CcSamConfig, vit: ImageEncoderViT) -> None:
        super().__init__()
        width, ends = config.samus.embed_dim, config.samus.global_attn_indexes
        self.config = config
        self.pos_embed = nn.Parameter(torch.zeros(1, 2 * GRID, 2 * GRID, width))
        self.patch_embed = vit.patch_embed
        self.patch_embed.proj.stride = (STRIDE, STRIDE)
        self.post_pos_embed = PositionAdapter(width)
        self.input_Adapter = FeatureAdapter(width) if config.adapters else None
        self.blocks = nn.ModuleList(
            _listening(block, config) if index in ends else block for index, block in enumerate(vit.blocks)
        )
        self.neck = vit.neck
        if config.cnn == "samus":
            self.cnn_embed = CnnBranch(config.samus)
        elif config.cnn == "frozen":
            self.cnn = Trunk(config)
            tapped = config.stage_channels if config.taps == "pyramid" else [config.stage_channels[C3]]
            self.cnn_proj = nn.ModuleList(Tap(channels, width) for channels in tapped)
        if config.cnn != "none" and config.fusion != "samus":
            self.tail_scale = nn.Parameter(torch.zeros(()))
        with_channel_norms(self)

    def forward(self, images: Tensor, noise: Noise = None, sampled: bool = False) -> Encoded:
        return self.finished(self.begun(images), noise, sampled)

    def begun(self, images: Tensor) -> Begun:
        """The part of `forward` that no noise reaches."""
        maps = self.heard(images)
        edge = (GRID - 1) * STRIDE + PATCH
        x = self.patch_embed(F.interpolate(images, (edge, edge), mode="bilinear", align_corners=False))
        if self.input_Adapter is not None:
            x = self.input_Adapter(x)
        x = x + self.post_pos_embed(self.pos_embed)
        plain = list(takewhile(lambda block: not isinstance(block, JoinedBlock | FusedBlock), self.blocks))
        for block in plain:
            x = block(x)
        return Begun(tuple(maps), x, len(plain))

    def finished(self, begun: Begun, noise: Noise = None, sampled: bool = False) -> Encoded:
        """The rest of `forward`; `begun` stays as it is."""
        maps, x = [*begun.maps], begun.tokens
        divergences: list[Tensor] = []
        shares: list[Tensor] = []
        last: Tensor | None = None
        for block in self.blocks[begun.done :]:
            if isinstance(block, JoinedBlock):
                x, last = block(x, maps[0] if last is None else last)
            elif isinstance(block, FusedBlock):
                # One map for each block, or the same for all.
                last = maps.pop(0) if len(maps) > 1 else maps[0] if maps else None
                x, divergence, share = block(x, last, noise, sampled)
                divergences += [] if divergence is None else [divergence]
                shares += [] if share is None else [share.unflatten(1, x.shape[1:3])]
            else:
                x = block(x)
        x = x.permute(0, 3, 1, 2)
        if last is not None:
            x = x + SHARE * (last if self.config.fusion == "samus" else self.tail_scale * last)
        divergence = torch.stack(divergences).mean() if divergences else x.new_zeros(())
        return Encoded(self.neck(x), divergence, tuple(shares))

    def heard(self, images: Tensor) -> list[Tensor]:
        """The CNN's maps (B, D, 32, 32): one for each global block, one for all, or none."""
        if self.config.cnn == "none":
            return []
        if self.config.cnn == "samus":
            return [self.cnn_embed(images)]
        stages = self.cnn(images)
        tapped = stages if self.config.taps == "pyramid" else [stages[C3]]
        return [tap(stage) for tap, stage in zip(self.cnn_proj, tapped, strict=True)]


def _listening(block: GridBlock, config: CcSamConfig) -> JoinedBlock | FusedBlock:
    return JoinedBlock(block) if config.fusion == "samus" else FusedBlock(block, config)
