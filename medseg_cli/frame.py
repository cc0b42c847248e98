"""Between a picture and the square that a 2-D network sees: resizing, padding, normalising, and coordinates both ways.

A frame pixel (x, y) has its centre at whole numbers, as SAM's prompt encoder expects (it adds the half itself).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

IMAGENET_MEAN = (123.675, 116.28, 103.53)
"""Per channel, of RGB in 0..255: what SAM and ResNets were trained with."""
IMAGENET_STD = (58.395, 57.12, 57.375)
REGION_LOGIT = 8.0
"""Logit of the inside of a dense mask prompt; the outside has the negative. Our choice: SAM's own masks reach it."""


@dataclass(frozen=True)
class Frame:
    """How pictures of one size lie in a network's square input.

    Args:
        height, width: of the picture in pixels.
        size: edge S of the square.
        pixel_mm: (height, width) of a pixel; only their ratio counts, and "longest" keeps the shape of the anatomy.
        fit: "longest" makes the longer side S and pads at the bottom and the right (SAM, SAM-UNet); "stretch" fills
            the square (MedSAM).
        scale: "imagenet" subtracts the mean and divides by the standard deviation; "unit" maps a picture's own
            minimum and maximum to 0 and 1 (MedSAM); "byte" divides by 255 (SAMUS).
        interpolation: of the picture.
    """

    height: int
    width: int
    size: int
    pixel_mm: tuple[float, float] = (1.0, 1.0)
    fit: Literal["longest", "stretch"] = "longest"
    scale: Literal["imagenet", "unit", "byte"] = "imagenet"
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"

    @property
    def inner(self) -> tuple[int, int]:
        """(height, width) of the picture inside the square."""
        if self.fit == "stretch":
            return (self.size, self.size)
        high, wide = self.height * self.pixel_mm[0], self.width * self.pixel_mm[1]
        ratio = self.size / max(high, wide)
        return (max(1, int(high * ratio + 0.5)), max(1, int(wide * ratio + 0.5)))

    def image(self, picture: NDArray[np.uint8]) -> Tensor:
        """The network's input (3, S, S) float32 for a picture (H, W, 3) RGB 0..255."""
        high, wide = self.inner
        how = Image.Resampling.BICUBIC if self.interpolation == "bicubic" else Image.Resampling.BILINEAR
        resized = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((wide, high), how))
        values = torch.from_numpy(resized.astype(np.float32)).permute(2, 0, 1)
        if self.scale == "imagenet":
            mean, std = (torch.tensor(each).view(3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))
            values = (values - mean) / std
        elif self.scale == "byte":
            values = values / 255
        else:
            low, high_value = values.min(), values.max()
            values = (values - low) / (high_value - low).clamp(min=1e-8)
        return functional.pad(values, (0, self.size - wide, 0, self.size - high))

    def points(self, xy: NDArray[np.float64]) -> Tensor:
        """Pixels of the picture (N, 2) → frame (N, 2) float32; a pixel's centre stays its centre."""
        return torch.from_numpy((xy + 0.5) * self._ratio - 0.5).float()

    def boxes(self, xyxy: NDArray[np.float64]) -> Tensor:
        """Boxes (N, 4) between first and last pixel, both inside → frame (N, 4) float32, half-open [x0, x1 + 1)."""
        low, high = xyxy[:, :2] * self._ratio, (xyxy[:, 2:] + 1) * self._ratio
        return torch.from_numpy(np.concatenate([low, high], axis=1)).float()

    def region(self, mask: NDArray[np.bool_], size: int) -> Tensor:
        """A coarse mask (H, W) → dense prompt (1, size, size) float32 logits; the padding counts as outside."""
        whole = torch.zeros((1, 1, self.size, self.size))
        high, wide = self.inner
        part = torch.from_numpy(np.ascontiguousarray(mask))[None, None].float()
        whole[..., :high, :wide] = functional.interpolate(part, (high, wide), mode="bilinear", antialias=True)
        small = functional.interpolate(whole, (size, size), mode="area")
        return (2 * small[0] - 1) * REGION_LOGIT

    def restore(self, logits: Tensor) -> Tensor:
        """Low-resolution logits (N, h, w) over the whole square → (N, H, W) on the picture, the padding cut off."""
        high, wide = self.inner
        square = functional.interpolate(
            logits[None].float(), (self.size, self.size), mode="bilinear", align_corners=False
        )
        inside = square[..., :high, :wide]
        return functional.interpolate(inside, (self.height, self.width), mode="bilinear", align_corners=False)[0]

    @property
    def _ratio(self) -> NDArray[np.float64]:
        """(x, y) frame pixels per picture pixel."""
        high, wide = self.inner
        return np.array([wide / self.width, high / self.height])
