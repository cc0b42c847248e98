"""From a picture to saliency maps of texts on the picture's own pixels.

BiomedCLIP sees a square. The published code fills it from the middle of the picture and stretches the map over all of
it, which displaces the map wherever the picture is not square (spec section 11); that is geometry "official".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from medseg_cli.models.clip import gradients, m2ib
from medseg_cli.models.clip.network import Tower
from medseg_cli.models.clip.windows import Place, cut, windows

Geometry = Literal["squash", "crop-aware", "official"]
Method = Literal["m2ib", "gscorecam", "gscorecam-official", "gradcam", "windows"]


@dataclass(frozen=True)
class How:
    """How maps are made.

    Args:
        method: "m2ib" (MedCLIP-SAMv2), "gscorecam" (v1, on a layer where patches have gradients), "gscorecam-official"
            (v1 as released), "gradcam", or "windows" (ours, see `windows`).
        layer: block, from 0, behind which the tokens are looked at.
        beta, steps, copies: of M2IB.
        top: channels that gScoreCAM scores.
        geometry: "squash" sees the whole picture, squeezed to a square; "crop-aware" the middle square, and nothing is
            known outside; "official" the middle square, stretched over the picture.
        crops: 1 is the whole picture; n looks besides at n by n windows that overlap by half, each as a picture of its
            own: small things are seen larger, at the cost of n² + 1 maps.
        windows: sides of the windows of "windows", as shares of the picture's.
    """

    method: Method = "m2ib"
    layer: int = 7
    beta: float = 0.1
    steps: int = 10
    copies: int = 10
    top: int = gradients.TOP
    geometry: Geometry = "squash"
    crops: int = 1
    windows: tuple[float, ...] = (0.2, 0.35)


def square(picture: NDArray[np.uint8], size: int, geometry: Geometry) -> Tensor:
    """A picture (H, W, 3) as the square (3, size, size) float32, 0 to 1, that the network sees of it."""
    image = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float()[None] / 255
    if geometry != "squash":
        top, left, edge = _middle(picture.shape[0], picture.shape[1])
        image = image[:, :, top : top + edge, left : left + edge]
    resized = F.interpolate(image, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return resized[0].clamp(0, 1)


def normalised(squares: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(B, 3, S, S) 0 to 1 → as the network takes them."""
    shape = (1, 3, 1, 1)
    return (squares - squares.new_tensor(mean).reshape(shape)) / squares.new_tensor(std).reshape(shape)


def onto_picture(grid: Tensor, height: int, width: int, geometry: Geometry) -> Tensor:
    """A map (rows, columns) of the square on the picture's pixels (H, W); 0 where the network did not look."""
    if geometry != "crop-aware":
        return _resized(grid, height, width)
    top, left, edge = _middle(height, width)
    whole = grid.new_zeros((height, width))
    whole[top : top + edge, left : left + edge] = _resized(grid, edge, edge)
    return whole


def unit(saliency: Tensor) -> Tensor:
    """The map from 0 to 1; a constant map is 0 everywhere."""
    low, high = saliency.min(), saliency.max()
    if not torch.isfinite(saliency).all() or high <= low:
        return torch.zeros_like(saliency)
    return (saliency - low) / (high - low)


def maps(
    tower: Tower,
    picture: NDArray[np.uint8],
    texts: Tensor,
    scale: float,
    how: How,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    negatives: Sequence[Tensor] = (),
) -> Tensor:
    """Maps of several texts in one picture, not normalised.

    Args:
        tower: of a network in eval mode without gradients of its own.
        picture: (H, W, 3).
        texts: (T, E) features.
        scale: what cosines are multiplied by.
        how: the method.
        mean, std: of the network's pictures.
        seed: of the noise. With the picture's content it decides all randomness, so that no other picture's or text's
            map changes this one.
        negatives: per text (N, E) features of what it is not, N may be 0; only "windows" looks at them. () = none.

    Returns:
        (T, H, W) float32: for "m2ib" nats per patch, for "windows" differences of scaled cosines, for the others in no
        unit.
    """
    height, width = picture.shape[:2]
    if how.method == "windows":
        others = negatives or [texts.new_zeros((0, texts.shape[1]))] * len(texts)

        def encode(places: list[Place]) -> Tensor:
            squares = torch.stack([square(cut(picture, place), edge(tower), how.geometry) for place in places])
            tokens = tower.tokens(normalised(squares.to(texts.device), mean, std))
            return tower.features(tower.run(tokens, 0, len(tower.blocks)))

        return windows(encode, height, width, how.windows, texts, others, scale)
    total = texts.new_zeros((len(texts), height, width))
    times = texts.new_zeros((height, width))
    for rows, columns in _windows(height, width, how.crops):
        part = picture[rows, columns]
        image = normalised(square(part, edge(tower), how.geometry)[None].to(texts.device), mean, std)
        for index, grid in enumerate(_grids(tower, image, texts, scale, how, _seed(part, seed))):
            shape = (part.shape[0], part.shape[1])
            total[index, rows, columns] += onto_picture(grid, *shape, how.geometry)
        times[rows, columns] += 1
    return total / times.clamp(min=1)


def _grids(tower: Tower, image: Tensor, texts: Tensor, scale: float, how: How, seed: int) -> Iterator[Tensor]:
    """(rows, columns) of each text."""
    search = m2ib.Bottleneck(how.layer, how.beta, how.steps, how.copies)
    tokens = m2ib.prefix(tower, image, how.layer) if how.method == "m2ib" else None
    for text in texts:
        if tokens is not None:
            yield m2ib.m2ib(tower, tokens, text, search, seed)[0]
        elif how.method == "gradcam":
            yield gradients.grad_cam(tower, image, text, how.layer)
        else:
            official = how.method == "gscorecam-official"
            yield gradients.gscore_cam(tower, image, text, scale, how.layer, how.top, official=official)


def edge(tower: Tower) -> int:
    """Pixels of the square."""
    visual = tower.model.visual
    size = visual.trunk.patch_embed.img_size if tower.timm else visual.image_size  # type: ignore[union-attr]
    return int(size[0])  # type: ignore[index,arg-type]


def _windows(height: int, width: int, count: int) -> Iterator[tuple[slice, slice]]:
    """The whole picture, and with a count above 1 so many windows along each axis."""
    yield slice(0, height), slice(0, width)
    if count > 1:
        for rows in _spans(height, count):
            for columns in _spans(width, count):
                yield rows, columns


def _spans(size: int, count: int) -> list[slice]:
    """`count` spans of equal length that overlap by half and cover 0 to size."""
    length = -(-2 * size // (count + 1))
    starts = [round(place * (size - length) / (count - 1)) for place in range(count)]
    return [slice(start, start + length) for start in starts]


def _middle(height: int, width: int) -> tuple[int, int, int]:
    """Top, left and edge of the largest square in the middle."""
    edge = min(height, width)
    return (height - edge) // 2, (width - edge) // 2, edge


def _resized(grid: Tensor, height: int, width: int) -> Tensor:
    return F.interpolate(grid[None, None], (height, width), mode="bilinear", align_corners=False)[0, 0]


def _seed(picture: NDArray[np.uint8], seed: int) -> int:
    """A seed of this picture's own."""
    digest = hashlib.sha256(np.ascontiguousarray(picture).tobytes() + str((picture.shape, seed)).encode()).digest()
    return int.from_bytes(digest[:6], "big")
