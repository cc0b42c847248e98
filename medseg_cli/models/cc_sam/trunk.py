"""The frozen ResNet of CC-SAM and the maps that the transformer's blocks get of it (our reconstruction)."""

from __future__ import annotations

import torch
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck

from medseg_cli.frame import IMAGENET_MEAN, IMAGENET_STD
from medseg_cli.models.cc_sam.config import CcSamConfig
from medseg_cli.models.samus.config import GRID
from medseg_cli.models.vit import ChannelNorm

C3 = 1
"""Index of the stage that "c3" taps."""


class Trunk(nn.Module):
    """A ResNet without its classifier, under torchvision's names; it stays as it was loaded, in every mode.

    Frozen weights alone are not enough: in training mode BatchNorm would take the batch's statistics and move its own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: CcSamConfig) -> None:
        super().__init__()
        block = Bottleneck if config.cnn_block == "bottleneck" else BasicBlock
        channels = config.cnn_stem
        self.conv1 = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        for stage, depth in enumerate(config.cnn_layers):
            width, stride = config.cnn_stem * 2**stage, 1 if stage == 0 else 2
            blocks = []
            for index in range(depth):
                step = stride if index == 0 else 1
                shortcut = None
                if step > 1 or channels != width * block.expansion:
                    shortcut = nn.Sequential(
                        nn.Conv2d(channels, width * block.expansion, 1, stride=step, bias=False),
                        nn.BatchNorm2d(width * block.expansion),
                    )
                blocks.append(block(channels, width, step, shortcut))
                channels = width * block.expansion
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        # The other branch sees [0, 1] as it is; ImageNet's ResNets were trained on normalised pictures.
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1) / 255, persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1) / 255, persistent=False)
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Trunk:
        """Stays in eval mode, whatever the network around it does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, 3, 256, 256) in [0, 1] → C2 to C5: (B, c, 64, 64), (B, 2 c, 32, 32), (B, 4 c, 16, 16), (B, 8 c, 8, 8)."""
        x = self.bn1(self.conv1((images - self.mean) / self.std)).relu()
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        maps = []
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
            maps.append(x)
        return maps


class Tap(nn.Module):
    """A stage's map (B, c, h, w) → (B, C, 32, 32): 1 x 1 convolution, norm over channels, linear resize."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 1, bias=False)
        self.norm = ChannelNorm(LayerNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(self.norm(self.conv(x)), (GRID, GRID), mode="bilinear", align_corners=False)
