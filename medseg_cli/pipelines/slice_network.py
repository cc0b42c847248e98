"""A promptable network and how its input is made: prompts in a slice's pixels become its logits there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseg_cli.frame import Frame
from medseg_cli.pipelines.slice_prompts import SlicePrompt
from medseg_cli.pipelines.slice_spread import Draws
from medseg_cli.propagation import next_box


@dataclass(frozen=True)
class Network:
    """A network and how its input is made; `model` is a `by_slice.SliceNetwork`.

    Args:
        sha256: of its weights, or the seed of random ones, and its configuration: what embeddings are told apart by.
        frame: keyword arguments of `Frame` besides the picture's size.
        dense: whether it takes coarse masks as dense prompts.
        precision: name of the chosen one.
        autocast: a function that returns its context.
        level: logit above which a pixel is the object.
        draws: answers that are compared; None compares none.
    """

    model: Any
    device: torch.device
    sha256: str
    frame: dict[str, Any]
    dense: bool
    precision: str
    autocast: Any
    level: float = 0.0
    draws: Draws | None = None

    def logits(
        self, embedding: dict[str, Tensor], prompt: SlicePrompt, frame: Frame, model: Any = None
    ) -> tuple[Tensor, float | None]:
        """Logits (H, W) and score; several boxes of one object are answered one by one and joined.

        Args:
            embedding: of the slice.
            prompt: of one object, in the slice's pixels.
            frame: of the slice.
            model: who answers; None = the network itself.
        """
        model = self.model if model is None else model
        joined, scores = None, []
        for part in _parts(prompt):
            with torch.inference_mode(), self.autocast():
                low, score = model.decode(embedding, **self._tensors(part, frame))
            logits = frame.restore(low.float())[0]
            # One by one: the logits of a picture of 8000 pixels take a quarter of a gigabyte.
            joined = logits if joined is None else torch.maximum(joined, logits)
            if score is not None:
                scores.append(float(score[0]))
        assert joined is not None
        return joined, min(scores) if scores else None

    def _tensors(self, prompt: SlicePrompt, frame: Frame) -> dict[str, Tensor | None]:
        """Keyword arguments of `decode` for one prompt with at most one box."""
        device = self.device
        points = np.concatenate([prompt.inside, prompt.outside])
        signs = torch.tensor([1] * len(prompt.inside) + [0] * len(prompt.outside), dtype=torch.int64)
        boxes, masks = prompt.boxes, None
        if prompt.region is not None:
            if not len(boxes) and not (len(prompt.inside) and self.dense):
                boxes = next_box(prompt.region, 0.0)[None]
            if self.dense:
                masks = frame.region(prompt.region, self.model.mask_size)[None].to(device)
        # Networks without ears have no such argument.
        heard = {} if prompt.text is None else {"text": torch.from_numpy(prompt.text)[None].to(device)}
        return heard | {
            "boxes": frame.boxes(boxes).to(device) if len(boxes) else None,
            "points": frame.points(points)[None].to(device) if len(points) else None,
            "labels": signs[None].to(device) if len(points) else None,
            "masks": masks,
        }


def _parts(prompt: SlicePrompt) -> list[SlicePrompt]:
    """Prompts with at most one box each: a box takes the clicks inside it, clicks in no box stand for themselves."""
    if len(prompt.boxes) < 2:
        return [prompt]
    low, high = prompt.boxes[:, None, :2], prompt.boxes[:, None, 2:]
    member = np.all((prompt.inside >= low - 0.5) & (prompt.inside <= high + 0.5), axis=2)
    parts = [
        SlicePrompt(box[None], prompt.inside[own], prompt.outside, prompt.region, prompt.text)
        for box, own in zip(prompt.boxes, member, strict=True)
    ]
    alone = prompt.inside[~member.any(axis=0)]
    return [*parts, SlicePrompt(inside=alone, outside=prompt.outside, text=prompt.text)] if len(alone) else parts
