"""A dense conditional random field on a picture, by mean field: a coarse map is drawn to the picture's edges.

Krähenbühl and Koltun (arXiv 1210.5644), with the unary energies of MedCLIP-SAM (spec section 5.1). The Gaussian kernel
is summed whole. The bilateral kernel is summed over a window of three sigma, whole where sigma is small, else on every
n-th pixel of it: neighbours so far apart weigh alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

EPS = 1e-8
TAU = 1.05
"""By how much confident unaries are softened."""
REACH = 3.0
"""Sigmas beyond which a kernel counts as zero."""
SAMPLES = 31
"""Most samples of the bilateral window along each axis."""


@dataclass(frozen=True)
class Kernels:
    """Sizes and weights of the two kernels.

    Args:
        near: sigma in pixels of the Gaussian kernel.
        near_weight: by which its agreement counts.
        far: sigma in pixels of the bilateral kernel.
        colour: sigma in grey values (0 to 255) of the bilateral kernel.
        far_weight: by which its agreement counts.
    """

    near: float
    near_weight: float
    far: float
    colour: float
    far_weight: float


V1 = Kernels(near=3, near_weight=3, far=60, colour=5, far_weight=5)
"""MedCLIP-SAM."""
V2 = Kernels(near=5, near_weight=3, far=5, colour=3, far_weight=5)
"""MedCLIP-SAMv2."""


def unaries(probability: Tensor) -> Tensor:
    """Energies (2, ...) of background and foreground, of a map 0 to 1 (spec section 5.1)."""
    stay, leave = 1 - probability, probability
    return torch.stack([-(each + EPS).log() / (TAU * torch.sigmoid(each)) for each in (stay, leave)])


def dense_crf(
    picture: NDArray[np.uint8], probability: NDArray[np.floating], kernels: Kernels, iterations: int = 1
) -> NDArray[np.bool_]:
    """The foreground that map and picture agree on.

    Args:
        picture: (H, W, 3).
        probability: (H, W) from 0 to 1.
        kernels: sizes and weights.
        iterations: of the mean field; 0 is the map above 0.5.

    Returns:
        (H, W) bool.
    """
    energy = unaries(torch.from_numpy(np.ascontiguousarray(probability, dtype=np.float32)).clamp(0, 1))
    colours = torch.from_numpy(np.ascontiguousarray(picture, dtype=np.float32)).permute(2, 0, 1) / kernels.colour
    ones = torch.ones(1, *energy.shape[1:])
    near = _smooth(ones, kernels.near).rsqrt()
    far = _bilateral(ones, colours, kernels.far).rsqrt()
    belief = torch.softmax(-energy, 0)
    for _ in range(iterations):
        agreement = kernels.near_weight * near * _smooth(near * belief, kernels.near)
        agreement = agreement + kernels.far_weight * far * _bilateral(far * belief, colours, kernels.far)
        belief = torch.softmax(agreement - energy, 0)
    foreground: NDArray[np.bool_] = (belief[1] > belief[0]).numpy()
    return foreground


def _smooth(values: Tensor, sigma: float) -> Tensor:
    """Sum over all neighbours of values (C, H, W), weighted by exp(-distance² / (2 sigma²)); zero outside."""
    reach = math.ceil(REACH * sigma)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    values = torch.nn.functional.conv2d(values[:, None], line.reshape(1, 1, -1, 1), padding=(reach, 0))
    return torch.nn.functional.conv2d(values, line.reshape(1, 1, 1, -1), padding=(0, reach))[:, 0]


def _bilateral(values: Tensor, colours: Tensor, sigma: float) -> Tensor:
    """As `_smooth`, times exp(-|colour difference|² / 2).

    Args:
        values: (C, H, W).
        colours: (3, H, W) in sigmas.
        sigma: in pixels.
    """
    reach = math.ceil(REACH * sigma)
    step = max(1, math.ceil((2 * reach + 1) / SAMPLES))
    height, width = values.shape[1:]
    # A pixel is its own neighbour; each pair of others is weighed once and told to both.
    total = values.clone()
    for down in range(0, min(reach, height - 1) + 1, step):
        for right in range(-(reach // step) * step, reach + 1, step):
            if abs(right) >= width or (down == 0 and right <= 0):
                continue
            here = (..., slice(0, height - down), slice(max(0, -right), width - max(0, right)))
            there = (..., slice(down, height), slice(max(0, right), width + min(0, right)))
            weight = (colours[here] - colours[there]).square_().sum(0).add_((down**2 + right**2) / sigma**2)
            # One sample stands for all the pixels round it.
            weight = weight.mul_(-0.5).exp_().mul_(step**2)
            total[here] += values[there] * weight
            total[there] += values[here] * weight
    return total
