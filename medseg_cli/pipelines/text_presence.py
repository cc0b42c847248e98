"""Whether the thing that was named is in a picture at all: a calibrated probability per class and slice.

The published method draws a mask in every picture (spec sections 5.3, 10). Here the similarity of picture and text is
held against that of other texts, and a logistic curve that was fitted to pictures with and without the thing turns the
difference into a probability.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from medseg_cli.pipelines.text_classes import TextClass


class Presence(BaseModel):
    """How presence is judged.

    Attributes:
        negatives: texts that mean none of what may be asked.
        slope, offset: of the logistic curve over the margin.
        threshold: probability from which a thing counts as there.
        neighbours: slices on each side whose median a slice's probability becomes; single slices are often wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    negatives: tuple[str, ...] = ()
    slope: float = Field(default=1.0, gt=0)
    offset: float = 0.0
    threshold: float = Field(default=0.5, ge=0, le=1)
    neighbours: int = Field(default=1, ge=0)


def margins(images: Tensor, classes: Sequence[TextClass], scale: float) -> NDArray[np.float64]:
    """By how much each picture is more like a class than like the best of what the class is not.

    Args:
        images: (K, E) features.
        classes: C of them.
        scale: what cosines are multiplied by.

    Returns:
        (C, K). Classes without negatives have the scaled cosine itself.
    """
    unit = torch.nn.functional.normalize(images.float(), dim=-1)
    rows = []
    for each in classes:
        like = scale * (unit @ each.positive)
        rows.append(like - scale * (unit @ each.negative.T).amax(1) if len(each.negative) else like)
    return torch.stack(rows).double().cpu().numpy()


def probabilities(margin: NDArray[np.float64], how: Presence, *, stack: bool) -> NDArray[np.float64]:
    """(C, K) probabilities of margins (C, K); `stack` says that the K pictures are neighbours."""
    curve = 1 / (1 + np.exp(-(how.slope * margin + how.offset)))
    if not stack or how.neighbours == 0:
        return curve
    reach = how.neighbours
    wide = np.pad(curve, ((0, 0), (reach, reach)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(wide, 2 * reach + 1, axis=1)
    smoothed: NDArray[np.float64] = np.median(windows, axis=-1)
    return smoothed
