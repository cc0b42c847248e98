"""What tests of upsample_argmax compare with: trilinear interpolation in float64, one axis after the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

MARGIN = 1e-5
"""Of the largest logit: voxels where two classes are closer may get either."""


def written_out(logits: Tensor, shape: tuple[int, int, int], origin=None, step=None) -> np.ndarray:
    """(C, I, J, K) float64: one axis after the other with numpy's interpolation, which goes on as at the ends.

    Without `origin` and `step`, between the middles of cells that fill the same box.
    """
    values = logits.double().numpy()
    for axis, target in enumerate(shape, start=1):
        source = values.shape[axis]
        places = (np.arange(target) + 0.5) * source / target - 0.5
        if origin is not None:
            places = origin[axis - 1] + step[axis - 1] * np.arange(target)
        values = np.apply_along_axis(lambda line, at=places, n=source: np.interp(at, np.arange(n), line), axis, values)
    return values


def agree(labels: Tensor, logits: Tensor, shape: tuple[int, int, int], origin=None, step=None) -> None:
    """Every voxel has a class whose value is the largest, or misses it by rounding."""
    values = written_out(logits, shape, origin, step)
    assert labels.shape == shape
    chosen = np.take_along_axis(values, labels.numpy().astype(np.int64)[None], 0)[0]
    assert (values.max(0) - chosen).max() <= MARGIN * np.abs(values).max()


def smooth(classes: int, size: tuple[int, int, int]) -> Tensor:
    """Logits with large regions of one class each, as networks make them."""
    centres = torch.rand(classes, 3)
    axes = [torch.linspace(0, 1, n) for n in size]
    cells = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    return -40 * (cells - centres[:, None, None, None]).norm(dim=-1)
