"""Random views and random grey values for training on pictures. Every draw comes from the generator passed in.

What it imitates: other fields of view, patients and positions (crop, zoom, turn, stretch, smooth warp), other machines
and exports (tone curve, negative, edge enhancement, uneven exposure, blur, noise), and what lies in the way (shadows,
wires, collimation, markers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

SEEN = (0.72, 1.3)
"""Share of the picture's sides that a view shows; above 1 it looks past the edges."""
SHIFT = 0.1
"""Largest shift of a view's middle, as a share of the picture's sides."""
ROTATION_DEGREES = 7.0
"""Standard deviation of a view's rotation, cut at three of them."""
WARP = 0.03
"""Largest standard deviation of the smooth warp, as a share of the view's sides."""
FINER = 2
"""A view is sampled this many times finer than its pixels and averaged, so that small details do not alias."""


@dataclass(frozen=True, eq=False)
class View:
    """Where an output picture looks at its source.

    Args:
        height, width: of the output in pixels.
        grid: (1, FINER·height, FINER·width, 2) float32, (x, y) of the source with -1 and 1 at its outer edges.
    """

    height: int
    width: int
    grid: Tensor

    def of(self, planes: Tensor, how: str = "bilinear") -> Tensor:
        """Source planes (C, H, W) as the view shows them (C, height, width); zero outside the source."""
        sampled = F.grid_sample(planes[None], self.grid, mode=how, padding_mode="zeros", align_corners=False)
        return F.avg_pool2d(sampled, FINER)[0]


@dataclass(frozen=True)
class Focus:
    """Where a view looks: shares of the source's (width, height) from its middle, and the share of them it shows."""

    middle: tuple[float, float]
    seen: float


def random_focus(low: tuple[float, float], high: tuple[float, float], rng: Generator) -> Focus:
    """Brings an object close: it fills between 8 and 80 % of the view's longer side, anywhere in it.

    Args:
        low, high: two corners (x, y) of the object's box, as shares of the source's sides from its middle.
        rng: every draw.
    """
    corners = np.array([low, high])
    size = float((corners[1] - corners[0]).max())
    seen = min(SEEN[1], size * float(np.exp(rng.uniform(np.log(1 / 0.8), np.log(1 / 0.08)))))
    slack = np.maximum(0, seen - (corners[1] - corners[0])) / 2
    middle = corners.mean(0) + rng.uniform(-0.8, 0.8, size=2) * slack
    return Focus((float(middle[0]), float(middle[1])), seen)


def random_view(height_mm: float, width_mm: float, longest: int, rng: Generator, focus: Focus | None = None) -> View:
    """A field of view on a picture, in one case of seven the picture as it is, mirrored half the time.

    Args:
        height_mm, width_mm: size of the source; only their ratio counts.
        longest: longer side of the output in pixels.
        rng: every draw.
        focus: where to look instead of at most of the picture.
    """
    seen, aspect, stretch, turn, shear = 1.0, 1.0, 1.0, 0.0, 0.0
    middle, warp = np.zeros(2), 0.0
    if focus is not None or rng.random() < 6 / 7:
        seen = float(np.exp(rng.uniform(*np.log(SEEN))))
        aspect = float(np.exp(rng.uniform(-0.15, 0.15)))
        stretch = float(np.exp(np.clip(rng.normal(0, 0.08), -0.2, 0.2)))
        turn = np.deg2rad(ROTATION_DEGREES) * float(np.clip(rng.normal(), -3, 3))
        shear = float(np.clip(rng.normal(0, 0.04), -0.1, 0.1))
        middle = rng.uniform(-SHIFT, SHIFT, size=2)
        warp = WARP * rng.random() if rng.random() < 0.6 else 0.0
    if focus is not None:
        seen, middle = focus.seen, np.array(focus.middle)
    sides = np.array([width_mm / aspect, height_mm * aspect]) * seen
    shown = sides * np.array([1.0, stretch])
    width, height = (max(1, round(float(side))) for side in longest * shown / shown.max())

    rows, columns = (torch.linspace(-1 + 1 / (FINER * n), 1 - 1 / (FINER * n), FINER * n) for n in (height, width))
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    if rng.random() < 0.5:
        x = -x
    x, y = x * float(sides[0]) / 2, y * float(sides[1]) / 2
    if warp:
        field = smooth_field(FINER * height, FINER * width, int(rng.integers(3, 7)), rng, 2) * warp * float(sides.max())
        x, y = x + field[0], y + field[1]
    cosine, sine = float(np.cos(turn)), float(np.sin(turn))
    x, y = cosine * x - sine * y + shear * y, sine * x + cosine * y
    x, y = 2 * (x / width_mm + float(middle[0])), 2 * (y / height_mm + float(middle[1]))
    return View(height, width, torch.stack([x, y], dim=-1)[None].float())


def random_shades(picture: Tensor, seen: Tensor, rng: Generator) -> Tensor:
    """What another machine, exposure or export would have made of a picture.

    Args:
        picture: (C, h, w) in 0..1, C = 1 or 3.
        seen: (1, h, w), 1 where the source is and 0 past its edges.
        rng: every draw.

    Returns:
        (C, h, w) in 0..1, past the edges mostly black.
    """
    image = picture / seen.clamp(min=0.25)
    if rng.random() < 0.4:
        image = _shadows(image, rng)
    if rng.random() < 0.25:
        image = _wires(image, rng)
    if rng.random() < 0.8:
        image = _tone_curve(image, rng)
    if rng.random() < 0.1:
        image = 1 - image
    if rng.random() < 0.35:
        image = image + (image - _blur(image, rng.uniform(1.0, 12.0))) * rng.uniform(-0.4, 1.2)
    if rng.random() < 0.3:
        height, width = image.shape[1:]
        image = image * (1 + rng.uniform(0.05, 0.3) * smooth_field(height, width, int(rng.integers(2, 4)), rng))
    if rng.random() < 0.3:
        image = _blur(image, rng.uniform(0.3, 1.6))
    if rng.random() < 0.4:
        noise = rng.standard_normal(size=image.shape[1:]).astype(np.float32)
        image = image + torch.from_numpy(noise) * rng.uniform(0.01, 0.06)
    beyond = 0.0 if rng.random() < 0.7 else rng.random()
    image = image.clamp(0, 1) * (seen > 0.5) + beyond * (seen <= 0.5)
    if rng.random() < 0.2:
        image = _collimation(image, rng)
    if rng.random() < 0.3:
        image = _markers(image, rng)
    return image.clamp(0, 1)


def random_veil(picture: Tensor, mask: Tensor, rng: Generator) -> Tensor:
    """Disease that hides a part of an organ and its edge, as fluid at a lung's base does; the organ stays where it was.

    Args:
        picture: (C, h, w) in 0..1.
        mask: (h, w) bool, the organs; one connected part of them is veiled, or all.
        rng: every draw.
    """
    parts, count = ndimage.label(mask.numpy())
    sizes = np.bincount(parts.ravel(), minlength=count + 1)[1:]
    large = 1 + np.flatnonzero(sizes >= 0.1 * sizes.max())
    chosen = mask if rng.random() < 0.2 else torch.from_numpy(parts == rng.choice(large))
    rows, columns = torch.nonzero(chosen.any(1))[:, 0], torch.nonzero(chosen.any(0))[:, 0]
    top, bottom, middle = int(rows[0]), int(rows[-1]) + 1, float(columns.float().mean())
    height, width = mask.shape
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    kind = rng.choice(["base", "base", "apex", "patches", "patches", "all"])
    if kind == "patches":
        field = smooth_field(height, width, int(rng.integers(5, 12)), rng)[0]
        cover = ((field - rng.uniform(-0.2, 1.0)) * rng.uniform(0.8, 3.0)).clamp(0, 1)
    elif kind == "all":
        cover = torch.full((height, width), float(rng.uniform(0.3, 0.8)))
    else:
        depth = rng.uniform(0.08, 0.6 if kind == "base" else 0.35) * (bottom - top)
        level = bottom - depth if kind == "base" else top + depth
        slanted = y - level - rng.uniform(-0.4, 0.4) * (x - middle)
        cover = torch.sigmoid((slanted if kind == "base" else -slanted) / rng.uniform(0.5, 7.0))
    cover = cover * _blur(chosen[None].float(), rng.uniform(0.7, 4.0)) * rng.uniform(0.5, 1.0)
    shade = float(picture.quantile(float(rng.uniform(0.55, 0.97))))
    shades = shade + rng.uniform(0, 0.08) * smooth_field(height, width, int(rng.integers(4, 16)), rng)
    return (picture * (1 - cover) + shades * cover).clamp(0, 1)


def smooth_field(height: int, width: int, cells: int, rng: Generator, count: int = 1) -> Tensor:
    """(count, height, width) smooth random fields, about standard normal at `cells` by `cells` places."""
    coarse = torch.from_numpy(rng.standard_normal(size=(1, count, cells, cells)).astype(np.float32))
    return F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]


def _shadows(image: Tensor, rng: Generator) -> Tensor:
    """Soft-edged regions drawn towards one grey value: what hides an organ's edge without moving it."""
    height, width = image.shape[1:]
    field = smooth_field(height, width, int(rng.integers(3, 7)), rng)
    cover = ((field - rng.uniform(0.2, 1.2)) * rng.uniform(0.8, 3.0)).clamp(0, 1) * rng.uniform(0.2, 0.85)
    shade = float(image.quantile(float(rng.uniform(0.3, 0.95))))
    return image * (1 - cover) + shade * cover


def _wires(image: Tensor, rng: Generator) -> Tensor:
    """One to three bright or dark curves across the picture, two pixels wide or so."""
    height, width = image.shape[1:]
    drawn = torch.zeros(1, height, width)
    for _ in range(int(rng.integers(1, 4))):
        ends = rng.uniform(-0.2, 1.2, size=(3, 2))
        t = np.linspace(0, 1, 3 * max(height, width))[:, None]
        xy = (1 - t) ** 2 * ends[0] + 2 * t * (1 - t) * ends[1] + t**2 * ends[2]
        column, row = (xy * [width, height]).astype(np.int64).T
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        drawn[0, row[inside], column[inside]] = 1
    return image + _blur(drawn, rng.uniform(0.5, 1.2)) * rng.uniform(-0.3, 0.8)


def _tone_curve(image: Tensor, rng: Generator) -> Tensor:
    """A rising curve through five places, with black and white moved."""
    rises = np.exp(rng.normal(0, 0.45, size=4))
    low, high = rng.uniform(-0.15, 0.2), rng.uniform(0.75, 1.2)
    heights = low + (high - low) * np.concatenate([[0], np.cumsum(rises) / rises.sum()])
    table = np.interp(np.linspace(0, 1, 1024), np.linspace(0, 1, 5), heights).astype(np.float32)
    return torch.from_numpy(table)[(image.clamp(0, 1) * 1023).long()].clamp(0, 1)


def _collimation(image: Tensor, rng: Generator) -> Tensor:
    """Bands of one grey value, mostly black, along some sides."""
    height, width = image.shape[1:]
    shade = 0.0 if rng.random() < 0.8 else rng.random()
    top, bottom, left, right = (rng.uniform(0, 0.08, size=4) * (rng.random(size=4) < 0.5)).tolist()
    inside = torch.zeros(1, height, width)
    inside[:, int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)] = 1
    return image * inside + shade * (1 - inside)


def _markers(image: Tensor, rng: Generator) -> Tensor:
    """One to four small patches of one grey value, mostly white: side markers, name plates, burnt-in text."""
    height, width = image.shape[1:]
    image = image.clone()
    for _ in range(int(rng.integers(1, 5))):
        high, wide = (max(1, int(n * rng.uniform(0.01, 0.08))) for n in (height, width))
        top, left = int(rng.integers(0, height - high + 1)), int(rng.integers(0, width - wide + 1))
        shade = rng.uniform(0.8, 1) if rng.random() < 0.7 else rng.random()
        every = int(rng.integers(1, 4))
        image[:, top : top + high : every, left : left + wide] = shade
    return image


def _blur(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, h, w); the edge is continued."""
    reach = max(1, min(round(3 * sigma), image.shape[1] - 1, image.shape[2] - 1))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    stacked = F.pad(image[:, None], (reach, reach, reach, reach), mode="replicate")
    return F.conv2d(F.conv2d(stacked, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]
