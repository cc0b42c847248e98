"""Mask decoder of 3DSAM-adapter: multi-layer aggregation (paper section 3.4; official "_h" class)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medseg_cli.models.sam3d.config import Sam3dConfig

LEVELS = ("head2", "head3", "head4", "head5")


class Heads(nn.Module):
    """One pair of convolutions per feature level, under the names that the checkpoint gives them."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        width = config.mlahead_channels
        for level in LEVELS:
            self.add_module(level, nn.Sequential(*convolution(config.out_chans, width), *convolution(width, width)))


class MaskDecoder(nn.Module):
    """Four features and the crop itself → class logits on the crop's grid."""

    def __init__(self, config: Sam3dConfig) -> None:
        super().__init__()
        self.config = config
        width = config.mlahead_channels
        self.mlahead = Heads(config)
        self.cls = nn.Sequential(
            *convolution(4 * width + 1, width), nn.Conv3d(width, config.num_classes, 3, padding=1, bias=False)
        )

    def decoder_logits(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Logits before the last upsampling, (B, classes, G, G, G) in (H, W, D), G = decoder grid."""
        grid = (self.config.decoder_grid,) * 3
        levels = [
            F.interpolate(self.mlahead.get_submodule(level)(feature), size=grid, mode="trilinear", align_corners=True)
            for level, feature in zip(LEVELS, features, strict=True)
        ]
        image = image[:, :1].permute(0, 1, 3, 4, 2)
        if image.shape[2:] != grid:
            scale = self.config.decoder_grid / self.config.crop_size
            image = F.interpolate(image, scale_factor=scale, mode="trilinear", align_corners=False)
        return self.cls(torch.cat([*levels, image], dim=1))

    def forward(self, features: Sequence[Tensor], image: Tensor) -> Tensor:
        """Class logits on the crop's grid.

        Args:
            features: four (B, C, T, T, T) in (H, W, D).
            image: (B, 1 or 3, P, P, P) in (D, H, W).

        Returns:
            (B, classes, P, P, P) in (D, H, W).
        """
        logits = self.decoder_logits(features, image)
        size = (self.config.crop_size,) * 3
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size=size, mode="trilinear", align_corners=True)
        return logits.permute(0, 1, 4, 2, 3)


def convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """3x3x3 convolution without bias, instance norm without parameters, ReLU."""
    return nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), nn.InstanceNorm3d(outputs), nn.ReLU(inplace=True)
