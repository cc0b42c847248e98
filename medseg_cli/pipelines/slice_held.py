"""What the validation of a 2-D network sees: slices as they are, and how well their masks are met."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from medseg_cli.frame import Frame
from medseg_cli.pipelines.slice_study import Study, bounds, object_in

HELD_SLICES = 16
"""Most slices of one case in a validation."""


@dataclass(frozen=True, eq=False)
class Held:
    """One validation picture: network input (3, S, S), its frame, box (1, 4) in it, mask (1, H, W)."""

    image: Tensor
    frame: Frame
    box: Tensor
    mask: Tensor

    def dice(self, logits: Tensor) -> float:
        """Overlap with the mask that a network's logits (1, h, w) mean, on the picture's own pixels; 0 for none."""
        found = self.frame.restore(logits.cpu()) > 0
        both, total = (found & self.mask).sum(), found.sum() + self.mask.sum()
        return float(2 * both / total.clamp(min=1))


def held_slices(study: Study, size: int, frame: Mapping[str, Any], whole: bool, rng: Generator) -> tuple[Held, ...]:
    """Some slices as they are.

    Args:
        study: a case in memory.
        size: edge of the network's square input.
        frame: how pictures lie in it, see `SliceSamples.frame`.
        whole: whether the prompt is the whole image; else it is one object's exact box.
        rng: draws slices and objects.
    """
    slices = study.slices[0]
    chosen = rng.choice(slices, size=min(HELD_SLICES, len(slices)), replace=False)
    return tuple(_hold(study, int(index), size, frame, whole, rng) for index in chosen)


def its_box(held: Held) -> dict[str, Tensor]:
    """A validation picture's box as prompt, by the names of `decode`."""
    return {"boxes": held.box}


def scores(
    model: Any, samples: list[tuple[Held, ...]], prompts: Callable[[Held], dict[str, Tensor]] = its_box
) -> list[float]:
    """Dice of each picture's mask, on its own pixels; the model is a `by_slice.SliceNetwork`."""
    device, found = next(model.parameters()).device, []
    for held in (each for study in samples for each in study):
        embedding = model.encode(held.image[None].to(device))
        logits, _ = model.decode(embedding, **{name: value.to(device) for name, value in prompts(held).items()})
        found.append(held.dice(logits))
    return found


def _hold(study: Study, index: int, size: int, frame: Mapping[str, Any], whole: bool, rng: Generator) -> Held:
    plane = study.planes[0]
    _, mask = object_in(plane.take(study.labels, index), whole, rng)
    box = np.array([0.0, 0.0, plane.width, plane.height]) if whole else bounds(mask)
    lies = Frame(plane.height, plane.width, size, plane.pixel_mm, **frame)
    picture = study.display.picture(plane.take(study.voxels, index))
    return Held(lies.image(picture), lies, lies.boxes(box[None] - [0, 0, 1, 1]), torch.from_numpy(mask[None]))
