"""What SAM-UNet adds to SAM's image encoder: the ResNet, its adapters into the tokens and the bridges out of them."""

from __future__ import annotations

import math

from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from medseg_cli.errors import ModelError
from medseg_cli.models.sam_unet.config import SamUnetConfig


class Resnet(nn.Module):
    """A torchvision ResNet without pooling and classifier, under the names that the checkpoint gives its stages."""

    def __init__(self, config: SamUnetConfig) -> None:
        super().__init__()
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if config.backbone == "res34" else Bottleneck
        self.stage0 = nn.Sequential(
            nn.Conv2d(3, config.stem, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(config.stem),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        channels = config.stem
        for index, blocks in enumerate(config.layers):
            width = config.stem * 2**index
            self.add_module(f"stage{index + 1}", stage(block, channels, width, blocks, 1 if index == 0 else 2))
            channels = width * block.expansion
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, 3, S, S) normalised → four maps (B, C, S/4, S/4) … (B, 8 C, S/32, S/32)."""
        x = self.stage0(image)
        features = []
        for index in range(1, 5):
            x = self.get_submodule(f"stage{index}")(x)
            features.append(x)
        return features


def stage(
    block: type[BasicBlock] | type[Bottleneck], channels: int, width: int, blocks: int, stride: int
) -> nn.Sequential:
    """One stage as torchvision's ResNet v1.5 builds it; a projection where stride or channels change."""
    outputs = width * block.expansion
    shortcut = None
    if stride != 1 or channels != outputs:
        shortcut = nn.Sequential(nn.Conv2d(channels, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
    rest = (block(outputs, width) for _ in range(blocks - 1))
    return nn.Sequential(block(channels, width, stride, shortcut), *rest)


class Reshaper(nn.Module):
    """Brings one ResNet stage onto the token grid: stride-2 convolutions down or transposed ones up, then 1x1.

    Its last convolution is not zero at the start: the branch changes what a frozen SAM sees from the first step.
    """

    def __init__(self, channels: int, size: int, width: int, grid: int) -> None:
        super().__init__()
        steps = math.log2(size / grid)
        if steps != int(steps):
            raise ModelError(f"a {size}² map cannot be brought to {grid}² tokens by factors of two")
        layers: list[nn.Module] = []
        for _ in range(abs(int(steps))):
            outputs = channels * 2 if steps > 0 else channels // 2
            if steps > 0:
                layers.append(nn.Conv2d(channels, outputs, 3, stride=2, padding=1))
            else:
                layers.append(nn.ConvTranspose2d(channels, outputs, 2, stride=2))
            layers += [LayerNorm2d(outputs), nn.GELU()]
            channels = outputs
        layers.append(nn.Conv2d(channels, width, 1))
        self.reshaper = nn.ModuleList(layers)
        for layer in layers:
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                assert layer.bias is not None
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, size, size) → (B, width, g, g)."""
        for layer in self.reshaper:
            x = layer(x)
        return x


def upscaling(inputs: int, inner: int, outputs: int) -> nn.Sequential:
    """(B, inputs, n, n) → (B, outputs, 4 n, 4 n): two transposed convolutions, as SAM's output upscaling begins."""
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, inner, 2, stride=2),
        LayerNorm2d(inner),
        nn.GELU(),
        nn.ConvTranspose2d(inner, outputs, 2, stride=2),
    )
