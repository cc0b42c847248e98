"""Mask decoder of 3DSAM-adapter: multi-layer aggregation (paper section 3.4; official "_h" class)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from medseg_kernels import conv3d
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
        """Logits before the last upsampling, (B, classes, G, G, G) in (H, W, D), G = decoder grid.

        The first convolution of `cls` is linear in its inputs, so each level is convolved with its own share of the
        weights and summed: the levels never lie side by side, which at the published size would take 540 MB.
        """
        grid = (self.config.decoder_grid,) * 3
        first, last = self.cls.get_parameter("0.weight"), self.cls.get_parameter("3.weight")
        shares = first.split([self.config.mlahead_channels] * len(LEVELS) + [1], dim=1)
        image = image[:, :1].permute(0, 1, 3, 4, 2)
        if image.shape[2:] != grid:
            scale = self.config.decoder_grid / self.config.crop_size
            image = F.interpolate(image, scale_factor=scale, mode="trilinear", align_corners=False)
        total = conv3d(image, shares[-1])
        for level, feature, share in zip(LEVELS, features, shares[:-1], strict=True):
            head = self.mlahead.get_submodule(level)
            wide = F.interpolate(twice(feature, head), size=grid, mode="trilinear", align_corners=True)
            total += conv3d(wide, share)
            del wide
        return conv3d(normalised(total), last)

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


def twice(feature: Tensor, head: nn.Module) -> Tensor:
    """The two convolutions of a level with their norms and activations, (B, C, T, T, T) → (B, width, T, T, T)."""
    for index in (0, 3):
        feature = normalised(conv3d(feature, head.get_parameter(f"{index}.weight")))
    return feature


def normalised(x: Tensor) -> Tensor:
    """relu(instance norm of x), eps 1e-5; without gradients in place of x, which no caller needs afterwards."""
    if x.requires_grad or x.dtype != torch.float32:
        return F.relu(F.instance_norm(x, eps=1e-5))
    space = (2, 3, 4)
    x -= x.mean(space, keepdim=True)
    variance = torch.linalg.vector_norm(x, dim=space, keepdim=True).square() / x[0, 0].numel()
    return x.mul_(torch.rsqrt(variance + 1e-5)).relu_()
