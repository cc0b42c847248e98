"""A promptable 2-D network whose answer is known beforehand, as a pipeline that somebody outside would write.

Inside a box, the object is what is brighter than halfway between the box's darkest and brightest pixel; a click inside
means what is about as bright as its pixel, a click outside takes such pixels away, and a coarse mask cuts everything
beyond it off. It sees only what the real networks see: the square input of `frame`. Its weights are two numbers.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from medseg_cli.device import Runtime
from medseg_cli.pipelines.by_slice import SlicePipeline
from medseg_cli.preset import Preset, load

FLAT = 0.1
"""Contrast below which a box holds nothing, as share of the display range."""


class BrightBox(nn.Module):
    """The network.

    Args:
        weights: file with `alike` (2,): how far a pixel may be from a click inside, and from one outside, as share of
            the display range.
        size: edge of its square input.
        score: whether it says how sure it is: the contrast in the box, as share of the display range.
    """

    def __init__(self, weights: Path, size: int, score: bool = False) -> None:
        super().__init__()
        self.size, self.mask_size, self.score = size, 16, score
        self.alike = nn.Parameter(load_file(weights)["alike"], requires_grad=False)
        self.encoded: list[int] = []

    def encode(self, images: Tensor) -> dict[str, Tensor]:
        """The pictures themselves, (B, S, S) in 0..1 of the display range; padding, zero when normalised, is grey."""
        assert images.shape[1:] == (3, self.size, self.size)
        self.encoded.append(len(images))
        mean, std = images.new_tensor((123.675, 116.28, 103.53)), images.new_tensor((58.395, 57.12, 57.375))
        grey = (images * std[:, None, None] + mean[:, None, None]).mean(1) / 255
        return {"grey": grey, "edge": images.new_full((len(images), 1), float(self.size))}

    def decode(
        self,
        embedding: dict[str, Tensor],
        boxes: Tensor | None = None,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        masks: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `by_slice.SliceNetwork` has it; logits are differences in brightness times ten."""
        assert len(embedding["grey"]) == len(embedding["edge"]) == 1
        grey = embedding["grey"][0]
        prompts = next(each for each in (boxes, points, masks) if each is not None)
        answers, scores = [], []
        for n in range(len(prompts)):
            inside = torch.full_like(grey, float("inf"))
            score = 1.0
            if boxes is not None:
                inside, score = _in_box(grey, boxes[n])
            if points is not None and labels is not None:
                inside = self._with_points(grey, inside, points[n], labels[n])
            if masks is not None:
                dense = functional.interpolate(masks[n][None], (self.size, self.size), mode="nearest")[0, 0]
                inside = inside.masked_fill(dense <= 0, -1.0)
            answers.append(inside.clamp(-1, 1) * 10)
            scores.append(score)
        return torch.stack(answers), torch.tensor(scores) if self.score else None

    def _with_points(self, grey: Tensor, inside: Tensor, points: Tensor, labels: Tensor) -> Tensor:
        at = points.round().long().clamp(0, self.size - 1)
        values = grey[at[:, 1], at[:, 0]]
        plus, minus = values[labels == 1], values[labels == 0]
        if len(plus):
            like = self.alike[0] - (grey[None] - plus[:, None, None]).abs().amin(0)
            inside = torch.minimum(inside, like)
        if len(minus):
            inside = torch.minimum(inside, (grey[None] - minus[:, None, None]).abs().amin(0) - self.alike[1])
        return inside


def _in_box(grey: Tensor, box: Tensor) -> tuple[Tensor, float]:
    """Pixels whose middle lies in the half-open `box` (4,), against half their contrast; and that contrast."""
    middle = torch.arange(len(grey)) + 0.5
    across, down = (middle >= box[0]) & (middle < box[2]), (middle >= box[1]) & (middle < box[3])
    member = down[:, None] & across[None, :]
    if not member.any():
        return torch.full_like(grey, -1.0), 0.0
    low, high = grey[member].min(), grey[member].max()
    if high - low < FLAT:
        return torch.full_like(grey, -1.0), 0.0
    return (grey - (low + high) / 2).masked_fill(~member, -1.0), float(high - low)


class BrightBoxPipeline:
    """Door of the pipeline, as those of `sam` and `sam-unet`."""

    @classmethod
    def from_preset(cls, preset: Preset, runtime: Runtime, random_weights: bool) -> SlicePipeline:
        """As `pipelines.build` calls it."""
        return SlicePipeline.from_preset(preset, runtime, random_weights, _network)


def _network(weights: Path | None, preset: Preset, seed: int) -> BrightBox:
    assert weights is not None, "these weights are never random"
    return BrightBox(weights, **preset.model)  # type: ignore[arg-type]


def register() -> None:
    """What the one line in `pipelines/__init__.py` would do."""
    from medseg_cli.pipelines import PIPELINES, Entry

    PIPELINES["bright-box"] = Entry(
        "bright_box:BrightBoxPipeline", "What is bright in a box", prompts=frozenset({"point", "box", "mask"}), dims=2
    )


def preset(
    folder: Path,
    *,
    size: int = 64,
    score: bool = False,
    alike: tuple[float, float] = (0.1, 0.02),
    kinds: str = "point, box, mask",
    minus: bool = True,
    whole_image: bool = False,
    postprocessing: dict[str, Any] | None = None,
    **options: Any,
) -> Preset:
    """The preset of this pipeline with its weights, as a user would write one into `folder`."""
    (folder / "weights").mkdir(parents=True, exist_ok=True)
    weights = folder / "weights" / "bright-box.safetensors"
    save_file({"alike": torch.tensor(alike)}, weights)
    path = folder / "bright-box.yaml"
    path.write_text(
        f"""\
name: bright-box
title: Whatever is bright in the box
pipeline: bright-box
modality: [MR, CT]
dims: 2
model: {{size: {size}, score: {str(score).lower()}}}
weights: {{file: weights/bright-box.safetensors, sha256: {hashlib.sha256(weights.read_bytes()).hexdigest()}}}
preprocessing:
  intensity: {{method: percentile, low: 0, high: 100}}
  by_modality: {{CT: {{method: window, level: 100, width: 400}}, image: {{method: eight-bit}}}}
prompts: {{kinds: [{kinds}], minus: {str(minus).lower()}, whole_image: {str(whole_image).lower()}}}
labels: [{{value: 1, name: blob, color: "#e63c3c"}}]
licence: Apache-2.0
source: tests/bright_box.py
"""
    )
    found = load(path)
    cleaning = found.postprocessing.model_validate(postprocessing or {})
    return found.model_copy(update={"options": options, "postprocessing": cleaning})
