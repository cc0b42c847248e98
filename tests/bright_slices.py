"""A prompted 2-D model whose answer is known beforehand: bright pixels in a box, in a coarse mask, or round a click.

It stands behind the real slice pipeline in tests of the command line. What it sees are the grey values of `Frame`, so a
pixel is bright when it is shown above middle grey.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medseg_cli.frame import IMAGENET_MEAN, IMAGENET_STD
from medseg_cli.pipelines.by_slice import SlicePipeline

REACH = 6
"""Pixels of the frame round a click that count as its surroundings."""


class Bright(nn.Module):
    """See the module's docstring; an embedding is the picture itself."""

    mask_size = 40

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.mean, self.std = (torch.tensor(each).view(1, 3, 1, 1) for each in (IMAGENET_MEAN, IMAGENET_STD))

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        return {"grey": (images * self.std + self.mean).mean(dim=1, keepdim=True)}

    def decode(
        self,
        embedding: dict[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        rows, columns = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        near = torch.zeros((self.size, self.size), dtype=torch.bool)
        if boxes is not None:
            x0, y0, x1, y1 = boxes[0]
            near |= (columns >= x0) & (columns < x1) & (rows >= y0) & (rows < y1)
        if masks is not None:
            near &= nn.functional.interpolate(masks, (self.size, self.size))[0, 0] > 0
        for (x, y), sign in zip(*((points[0], labels[0]) if points is not None else ((), ())), strict=True):
            around = ((columns - x).abs() <= REACH) & ((rows - y).abs() <= REACH)
            near = near | around if sign else near & ~around
        bright = embedding["grey"][0, 0] > 127.5
        return torch.where(near & bright, 9.0, -9.0)[None], None


class BrightSlices:
    """As `pipelines.build` calls it; `model.size` of the preset is the frame's edge."""

    @staticmethod
    def from_preset(preset: Any, runtime: Any, random_weights: bool) -> SlicePipeline:
        def build(path: Path | None, preset: Any, seed: int) -> Bright:
            return Bright(preset.model["size"])

        return SlicePipeline.from_preset(preset, runtime, random_weights, build)


def register() -> None:
    """What the one line in `pipelines/__init__.py` would do."""
    from medseg_cli.pipelines import PIPELINES, Entry

    PIPELINES["bright-slices"] = Entry(
        "bright_slices:BrightSlices", "Bright pixels", prompts=frozenset({"point", "box", "mask"}), dims=2
    )


def write_preset(folder: Path, *, size: int = 40, kinds: str = "point, box, mask", whole_image: bool = True) -> Path:
    """The preset of this pipeline; its weights file is empty, for there is nothing to load."""
    from safetensors.torch import save_file

    (folder / "weights").mkdir(exist_ok=True)
    save_file({}, folder / "weights" / "bright.safetensors")
    path = folder / "bright.yaml"
    path.write_text(
        f"""\
name: bright
title: Bright pixels where the prompt points
pipeline: bright-slices
modality: [CT, MR, DX]
dims: 2
model: {{size: {size}}}
weights: {{file: weights/bright.safetensors}}
preprocessing:
  intensity: {{method: percentile, low: 0, high: 100}}
  by_modality:
    CT: {{method: window, level: 40, width: 400}}
    image: {{method: eight-bit}}
prompts: {{kinds: [{kinds}], minus: true, whole_image: {str(whole_image).lower()}}}
labels: [{{value: 1, name: blob, color: "#e63c3c"}}]
licence: Apache-2.0
source: tests/bright_slices.py
"""
    )
    return path
